//! Networks: those that every engine has. Networks of a user's own come with a later version.

use hyper::StatusCode;

use super::{Request, State, filters, quick, shaped};
use crate::daemon::answer::{Answer, Failure};

/// `GET /networks`.
pub async fn list(state: State, request: Request) -> Result<Answer, Failure> {
    let filters = filters(&request)?;
    let found = quick(&state, move |engine| engine.network_list(&filters)).await?;
    Ok(shaped(&request, &found))
}

/// `GET /networks/{name}`.
pub async fn inspect(state: State, request: Request) -> Result<Answer, Failure> {
    let name = request.name.clone();
    let found = quick(&state, move |engine| engine.network_inspect(&name)).await?;
    Ok(shaped(&request, &found))
}

/// `DELETE /networks/{name}`: all that there are cannot be removed.
pub async fn remove(state: State, request: Request) -> Result<Answer, Failure> {
    let name = request.name;
    let found = quick(&state, move |engine| engine.network_inspect(&name)).await?;
    Err(Failure::new(
        StatusCode::FORBIDDEN,
        format!(
            "{} is a pre-defined network and cannot be removed",
            found.name
        ),
    ))
}

/// `POST /networks/prune`.
pub async fn prune(state: State, request: Request) -> Result<Answer, Failure> {
    let filters = filters(&request)?;
    let report = quick(&state, move |engine| engine.network_prune(&filters)).await?;
    Ok(shaped(&request, &report))
}
