//! Networks.

use hyper::StatusCode;

use super::{Request, State, filters, quick, shaped};
use crate::api::network::{NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest};
use crate::api::shape::Shape;
use crate::daemon::answer::{self, Answer, Failure};

/// `GET /networks`.
pub async fn list(state: State, request: Request) -> Result<Answer, Failure> {
    let filters = filters(&request)?;
    let found = quick(&state, move |engine| engine.network_list(&filters)).await?;
    Ok(shaped(&request, &found))
}

/// `POST /networks/create`.
pub async fn create(state: State, mut request: Request) -> Result<Answer, Failure> {
    let mut options: NetworkCreateRequest = request.json().await?.unwrap_or_default();
    if !request.since(48) {
        options.enable_ipv4 = None;
    }
    let made = quick(&state, move |engine| engine.network_create(options)).await?;
    Ok(answer::json(StatusCode::CREATED, &made.to_json(request.version)).into())
}

/// `GET /networks/{name}`.
pub async fn inspect(state: State, request: Request) -> Result<Answer, Failure> {
    let name = request.name.clone();
    let scope = request.query.get("scope").unwrap_or_default().to_owned();
    let found = quick(&state, move |engine| engine.network_inspect(&name, &scope)).await?;
    Ok(shaped(&request, &found))
}

/// `DELETE /networks/{name}`.
pub async fn remove(state: State, request: Request) -> Result<Answer, Failure> {
    let name = request.name;
    quick(&state, move |engine| engine.network_remove(&name)).await?;
    Ok(answer::no_content())
}

/// `POST /networks/{name}/connect`.
pub async fn connect(state: State, mut request: Request) -> Result<Answer, Failure> {
    let mut wanted: NetworkConnectRequest = request.json().await?.unwrap_or_default();
    if let Some(endpoint) = &mut wanted.endpoint_config
        && !request.since(54)
    {
        endpoint.mac_address.clear();
    }
    let name = request.name;
    quick(&state, move |engine| engine.network_connect(&name, wanted)).await?;
    Ok(answer::empty(StatusCode::OK).into())
}

/// `POST /networks/{name}/disconnect`.
pub async fn disconnect(state: State, mut request: Request) -> Result<Answer, Failure> {
    let wanted: NetworkDisconnectRequest = request.json().await?.unwrap_or_default();
    let name = request.name;
    quick(&state, move |engine| {
        engine.network_disconnect(&name, &wanted)
    })
    .await?;
    Ok(answer::empty(StatusCode::OK).into())
}

/// `POST /networks/prune`.
pub async fn prune(state: State, request: Request) -> Result<Answer, Failure> {
    let filters = filters(&request)?;
    let report = quick(&state, move |engine| engine.network_prune(&filters)).await?;
    Ok(shaped(&request, &report))
}
