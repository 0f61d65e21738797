//! Registries: logging in, searching, looking up.

use tokio::sync::oneshot;

use super::{Request, State, filters, shaped, slow};
use crate::api::auth::AuthConfig;
use crate::api::json;
use crate::daemon::answer::{Answer, Failure};
use crate::registry::Cancel;

/// `POST /auth`.
pub async fn login(state: State, mut request: Request) -> Result<Answer, Failure> {
    let invalid =
        |reason: String| Failure::bad_request(format!("invalid X-Registry-Auth header: {reason}"));
    let body = request.bytes().await?;
    if body.trim_ascii().is_empty() {
        return Err(invalid("invalid JSON: EOF".to_owned()));
    }
    let sent: AuthConfig = json::from_slice(&body).map_err(|error| invalid(error.to_string()))?;
    let (cancel, _over) = cancelled_by_leaving(&request)?;
    let answer = slow(&state, move |engine| engine.login(&sent, &cancel)).await?;
    Ok(shaped(&request, &answer))
}

/// `GET /images/search`.
pub async fn search(state: State, request: Request) -> Result<Answer, Failure> {
    let invalid = |reason: &str| Failure::bad_request(format!("invalid limit specified{reason}"));
    let limit = match request.query.number("limit") {
        Ok(limit) => limit.unwrap_or(0),
        Err(failure) => return Err(invalid(&format!(": {}", failure.message))),
    };
    if limit < 0 {
        return Err(invalid(""));
    }
    let filters = filters(&request)?;
    let term = request.query.get("term").unwrap_or("").to_owned();
    let sent = proof(&request);
    let (cancel, _over) = cancelled_by_leaving(&request)?;
    let found = slow(&state, move |engine| {
        engine.search(&term, limit, &filters, &sent, &cancel)
    })
    .await?;
    Ok(shaped(&request, &found))
}

/// `GET /distribution/{name}/json`.
pub async fn inspect(state: State, request: Request) -> Result<Answer, Failure> {
    let sent = proof(&request);
    let name = request.name.clone();
    let (cancel, _over) = cancelled_by_leaving(&request)?;
    let found = slow(&state, move |engine| {
        engine.distribution_inspect(&name, &sent, &cancel)
    })
    .await?;
    Ok(shaped(&request, &found))
}

/// Who asks: `X-Registry-Auth`.
pub fn proof(request: &Request) -> AuthConfig {
    let header = request.headers.get("X-Registry-Auth");
    header
        .map(|value| AuthConfig::from_header(value.as_bytes()))
        .unwrap_or_default()
}

/// A handle that is used when the client leaves, for as long as what is returned beside it lives.
pub fn cancelled_by_leaving(request: &Request) -> Result<(Cancel, oneshot::Sender<()>), Failure> {
    let (over, is_over) = oneshot::channel();
    let cancel = Cancel::new();
    let ended = request.ended()?;
    let watched = cancel.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = ended => watched.cancel(),
            _ = is_over => {}
        }
    });
    Ok((cancel, over))
}
