//! Endpoints that have little or nothing behind them: a swarm's, plugins', and those of later
//! versions of moss, each with a sentence that says so.

use hyper::{Method, StatusCode};
use serde_json::json;

use super::{Request, State, Target};
use crate::daemon::answer::{self, Answer, Failure};

/// What is asked of managers on a node outside a swarm; Docker's words.
const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \
    \"docker swarm join\" to connect this node to swarm and try again.";

/// Endpoints that answer with a sentence.
pub fn entries() -> Vec<(Method, &'static str, Target)> {
    use Target::{Absent, Swarm};
    let (get, post, put) = (Method::GET, Method::POST, Method::PUT);
    let delete = Method::DELETE;
    let mut entries = vec![
        (post.clone(), "/build", Absent("building images")),
        (post.clone(), "/build/cancel", Absent("building images")),
        (post.clone(), "/session", Absent("building images")),
        (post.clone(), "/grpc", Absent("building images")),
        (
            get.clone(),
            "/images/{name:.*}/attestations",
            Absent("telling an image's attestations"),
        ),
        (
            get.clone(),
            "/plugins/privileges",
            Absent("running plugins"),
        ),
        (
            post.clone(),
            "/plugins/{name:.*}",
            Absent("running plugins"),
        ),
        // Cluster volumes are what can be updated.
        (put.clone(), "/volumes/{name:.*}", Swarm),
        (post.clone(), "/swarm/init", Absent("joining a swarm")),
        (post.clone(), "/swarm/join", Absent("joining a swarm")),
        (get.clone(), "/swarm", Swarm),
        (get.clone(), "/swarm/unlockkey", Swarm),
        (post.clone(), "/swarm/update", Swarm),
        (post.clone(), "/swarm/unlock", Swarm),
        (get.clone(), "/services/{id}/logs", Swarm),
        (get.clone(), "/tasks", Swarm),
        (get.clone(), "/tasks/{id}", Swarm),
        (get.clone(), "/tasks/{id}/logs", Swarm),
    ];
    let objects = [
        ("/nodes", "/nodes/{id}", "/nodes/{id}/update"),
        ("/services", "/services/{id}", "/services/{id}/update"),
        ("/secrets", "/secrets/{id}", "/secrets/{id}/update"),
        ("/configs", "/configs/{id}", "/configs/{id}/update"),
    ];
    for (all, one, update) in objects {
        entries.push((get.clone(), all, Swarm));
        entries.push((get.clone(), one, Swarm));
        entries.push((delete.clone(), one, Swarm));
        entries.push((post.clone(), update, Swarm));
    }
    for create in ["/services/create", "/secrets/create", "/configs/create"] {
        entries.push((post.clone(), create, Swarm));
    }
    entries
}

/// 501.
pub fn failure(what: &str) -> Failure {
    Failure::not_implemented(format!("this version of moss does not support {what}"))
}

/// 503.
pub fn no_swarm() -> Failure {
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, NO_SWARM)
}

/// `POST /swarm/leave`.
pub async fn swarm_leave(_: State, _: Request) -> Result<Answer, Failure> {
    Err(Failure::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "This node is not part of a swarm",
    ))
}

/// `GET /plugins`: there are none.
pub async fn plugins(_: State, _: Request) -> Result<Answer, Failure> {
    Ok(answer::ok(&json!([])))
}

/// What names a plugin names one that is not there.
pub async fn no_plugin(_: State, request: Request) -> Result<Answer, Failure> {
    Err(Failure::new(
        StatusCode::NOT_FOUND,
        format!("plugin {:?} not found", request.name),
    ))
}

/// `POST /build/prune`: without a builder there is no cache to free, as `docker system prune` is
/// to be told.
pub async fn build_prune(_: State, _: Request) -> Result<Answer, Failure> {
    Ok(answer::ok(
        &json!({"CachesDeleted": null, "SpaceReclaimed": 0}),
    ))
}

/// `OPTIONS` of anything.
pub async fn options(_: State, _: Request) -> Result<Answer, Failure> {
    Ok(answer::empty(StatusCode::OK).into())
}
