//! Volumes.

use hyper::StatusCode;

use super::{Request, State, filters, quick, shaped, slow};
use crate::api::shape::Shape;
use crate::api::volume::CreateRequest;
use crate::daemon::answer::{self, Answer, Failure};

/// `GET /volumes`.
pub async fn list(state: State, request: Request) -> Result<Answer, Failure> {
    let filters = filters(&request).map_err(|failure| {
        Failure::bad_request(format!("error reading volume filters: {}", failure.message))
    })?;
    let found = quick(&state, move |engine| engine.volume_list(&filters)).await?;
    Ok(shaped(&request, &found))
}

/// `POST /volumes/create`.
pub async fn create(state: State, mut request: Request) -> Result<Answer, Failure> {
    let options: CreateRequest = request.json().await?.unwrap_or_default();
    let made = quick(&state, move |engine| engine.volume_create(options)).await?;
    Ok(answer::json(StatusCode::CREATED, &made.to_json(request.version)).into())
}

/// `GET /volumes/{name}`.
pub async fn inspect(state: State, request: Request) -> Result<Answer, Failure> {
    let name = request.name.clone();
    let found = quick(&state, move |engine| engine.volume_inspect(&name)).await?;
    Ok(shaped(&request, &found))
}

/// `DELETE /volumes/{name}`.
pub async fn remove(state: State, request: Request) -> Result<Answer, Failure> {
    let force = request.query.flag("force");
    let name = request.name;
    quick(&state, move |engine| engine.volume_remove(&name, force)).await?;
    Ok(answer::no_content())
}

/// `POST /volumes/prune`.
pub async fn prune(state: State, request: Request) -> Result<Answer, Failure> {
    let mut filters = filters(&request)?;
    // Since 1.42 only anonymous volumes are pruned unless all are asked for.
    if !request.since(42) && !filters.contains("all") {
        filters.add("all", "true");
    }
    let report = slow(&state, move |engine| engine.volume_prune(&filters)).await?;
    Ok(shaped(&request, &report))
}
