//! The Docker Engine API: which endpoint is answered by what.
//!
//! A route translates: parameters into a call of the engine, its result into the form that the
//! version asked for has, its error into a status ([`Failure`]'s `From`, the one place). Nothing is
//! decided here that the engine could decide.
//!
//! The engine blocks, though never for long, so it is called on other threads: [`quick`] for what
//! takes milliseconds, on a bounded pool; [`slow`], a thread of its own, for what may take as long
//! as a container's stop or a client's upload, so that no number of those keeps the others
//! waiting. What takes a client's time (waits, events) costs no thread at all; a followed log
//! costs one.
//!
//! Endpoints of later versions answer 501 with a sentence, those of a swarm 503 as on a node
//! outside one.

mod absent;
mod archive;
mod containers;
mod exec;
mod images;
mod logs;
mod networks;
mod registries;
mod stats;
mod system;
mod volumes;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hyper::{Method, StatusCode};

use crate::api::filters::Filters;
use crate::api::shape::Shape;
use crate::engine::{self, Engine, Kind};

use super::STACK;
use super::answer::{self, Answer, Failure};
use super::dispatch::{Dispatcher, Endpoints};
use super::request::Request;
use super::router::Table;

/// What all routes share.
#[derive(Clone)]
pub struct State {
    engine: Arc<Engine>,
}

type Reply = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>>;

/// What is behind an endpoint.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// A route.
    Route(fn(State, Request) -> Reply),
    /// A route that reads an archive from the body.
    Upload(fn(State, Request) -> Reply),
    /// Not in this version: the sentence says what.
    Absent(&'static str),
    /// Of a swarm's managers.
    Swarm,
}

/// The engine's API as one service.
pub struct Api(State);

impl Endpoints for Api {
    type Target = Target;

    fn reads_stream(&self, target: Target) -> bool {
        matches!(target, Target::Upload(_))
    }

    async fn call(&self, target: Target, request: Request) -> Result<Answer, Failure> {
        match target {
            Target::Route(route) | Target::Upload(route) => route(self.0.clone(), request).await,
            Target::Absent(what) => Err(absent::failure(what)),
            Target::Swarm => Err(absent::no_swarm()),
        }
    }
}

/// The service over an engine.
pub fn service(engine: Arc<Engine>) -> Dispatcher<Api> {
    let state = State { engine };
    Dispatcher::new(table(), Api(state), engine::system::SERVER_VERSION)
}

/// Makes a target of an async function.
macro_rules! route {
    ($route:path) => {
        Target::Route(|state, request| Box::pin($route(state, request)))
    };
}

/// Every endpoint. The order is Docker's where two patterns can match one path.
fn table() -> Table<Target> {
    let mut entries = vec![
        (Method::HEAD, "/_ping", route!(system::ping)),
        (Method::GET, "/_ping", route!(system::ping)),
        (Method::GET, "/info", route!(system::info)),
        (Method::GET, "/version", route!(system::version)),
        (Method::GET, "/events", route!(system::events)),
        (Method::GET, "/system/df", route!(system::disk_usage)),
        (Method::POST, "/auth", route!(registries::login)),
        (Method::GET, "/images/search", route!(registries::search)),
        (
            Method::GET,
            "/distribution/{name:.*}/json",
            route!(registries::inspect),
        ),
        (Method::GET, "/containers/json", route!(containers::list)),
        (
            Method::POST,
            "/containers/create",
            route!(containers::create),
        ),
        (
            Method::GET,
            "/containers/{name:.*}/json",
            route!(containers::inspect),
        ),
        (
            Method::GET,
            "/containers/{name:.*}/top",
            route!(containers::top),
        ),
        (
            Method::GET,
            "/containers/{name:.*}/logs",
            route!(logs::logs),
        ),
        (
            Method::GET,
            "/containers/{name:.*}/stats",
            route!(stats::stats),
        ),
        (
            Method::HEAD,
            "/containers/{name:.*}/archive",
            route!(archive::stat),
        ),
        (
            Method::GET,
            "/containers/{name:.*}/archive",
            route!(archive::pack),
        ),
        (
            Method::PUT,
            "/containers/{name:.*}/archive",
            Target::Upload(|state, request| Box::pin(archive::unpack(state, request))),
        ),
        (
            Method::GET,
            "/containers/{name:.*}/export",
            route!(archive::export),
        ),
        (
            Method::GET,
            "/containers/{name:.*}/changes",
            route!(archive::changes),
        ),
        (Method::POST, "/commit", route!(archive::commit)),
        (
            Method::POST,
            "/containers/{name:.*}/start",
            route!(containers::start),
        ),
        (
            Method::POST,
            "/containers/{name:.*}/stop",
            route!(containers::stop),
        ),
        (
            Method::POST,
            "/containers/{name:.*}/restart",
            route!(containers::restart),
        ),
        (
            Method::POST,
            "/containers/{name:.*}/kill",
            route!(containers::kill),
        ),
        (
            Method::POST,
            "/containers/{name:.*}/pause",
            route!(containers::pause),
        ),
        (
            Method::POST,
            "/containers/{name:.*}/unpause",
            route!(containers::unpause),
        ),
        (
            Method::POST,
            "/containers/{name:.*}/update",
            route!(containers::update),
        ),
        (
            Method::POST,
            "/containers/{name:.*}/wait",
            route!(containers::wait),
        ),
        (
            Method::POST,
            "/containers/{name:.*}/rename",
            route!(containers::rename),
        ),
        (
            Method::POST,
            "/containers/{name:.*}/resize",
            route!(containers::resize),
        ),
        (
            Method::POST,
            "/containers/{name:.*}/attach",
            route!(containers::attach),
        ),
        (
            Method::GET,
            "/containers/{name:.*}/attach/ws",
            route!(containers::attach_by_websocket),
        ),
        (
            Method::POST,
            "/containers/{name:.*}/exec",
            route!(exec::create),
        ),
        (
            Method::DELETE,
            "/containers/{name:.*}",
            route!(containers::remove),
        ),
        (Method::POST, "/exec/{name:.*}/start", route!(exec::start)),
        (Method::POST, "/exec/{name:.*}/resize", route!(exec::resize)),
        (Method::GET, "/exec/{name:.*}/json", route!(exec::inspect)),
        (Method::GET, "/images/json", route!(images::list)),
        (
            Method::POST,
            "/images/load",
            Target::Upload(|state, request| Box::pin(images::load(state, request))),
        ),
        (
            Method::POST,
            "/images/create",
            Target::Upload(|state, request| Box::pin(images::create(state, request))),
        ),
        (Method::POST, "/images/prune", route!(images::prune)),
        (Method::POST, "/images/{name:.*}/push", route!(images::push)),
        (Method::GET, "/images/get", route!(images::save)),
        (Method::GET, "/images/{name:.*}/get", route!(images::save)),
        (Method::POST, "/containers/prune", route!(containers::prune)),
        (
            Method::GET,
            "/images/{name:.*}/json",
            route!(images::inspect),
        ),
        (
            Method::GET,
            "/images/{name:.*}/history",
            route!(images::history),
        ),
        (Method::POST, "/images/{name:.*}/tag", route!(images::tag)),
        (Method::DELETE, "/images/{name:.*}", route!(images::remove)),
        (Method::GET, "/volumes", route!(volumes::list)),
        (Method::POST, "/volumes/create", route!(volumes::create)),
        (Method::POST, "/volumes/prune", route!(volumes::prune)),
        (Method::GET, "/volumes/{name:.*}", route!(volumes::inspect)),
        (
            Method::DELETE,
            "/volumes/{name:.*}",
            route!(volumes::remove),
        ),
        (Method::GET, "/networks", route!(networks::list)),
        (Method::GET, "/networks/", route!(networks::list)),
        (Method::POST, "/networks/create", route!(networks::create)),
        (Method::POST, "/networks/prune", route!(networks::prune)),
        (
            Method::POST,
            "/networks/{name:.*}/connect",
            route!(networks::connect),
        ),
        (
            Method::POST,
            "/networks/{name:.*}/disconnect",
            route!(networks::disconnect),
        ),
        (
            Method::DELETE,
            "/networks/{name:.*}",
            route!(networks::remove),
        ),
        (Method::GET, "/plugins", route!(absent::plugins)),
        (
            Method::GET,
            "/plugins/{name:.*}/json",
            route!(absent::no_plugin),
        ),
        (
            Method::DELETE,
            "/plugins/{name:.*}",
            route!(absent::no_plugin),
        ),
        (Method::POST, "/build/prune", route!(absent::build_prune)),
        (Method::POST, "/swarm/leave", route!(absent::swarm_leave)),
        (Method::OPTIONS, "/{any:.*}", route!(absent::options)),
    ];
    entries.extend(absent::entries());
    // After `/images/get`, `/networks/create` and the like, which look like names.
    entries.push((
        Method::GET,
        "/networks/{name:.*}",
        route!(networks::inspect),
    ));
    Table::new(entries)
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Failure {
        let status = match error.kind {
            Kind::NotModified => StatusCode::NOT_MODIFIED,
            Kind::InvalidParameter => StatusCode::BAD_REQUEST,
            Kind::Unauthorized => StatusCode::UNAUTHORIZED,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Kind::System => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        Failure::new(status, error.message)
    }
}

/// Runs what only takes locks, which nobody holds for longer than a moment, where it is: on the pool
/// it would cost its client two switches of threads, some 0.1 ms.
fn at_once<T>(
    state: &State,
    call: impl FnOnce(&Engine) -> engine::Result<T>,
) -> Result<T, Failure> {
    Ok(call(&state.engine)?)
}

/// Runs what takes milliseconds on the pool.
async fn quick<T, F>(state: &State, call: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce(&Engine) -> engine::Result<T> + Send + 'static,
{
    let engine = Arc::clone(&state.engine);
    match tokio::task::spawn_blocking(move || call(&engine)).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(panicked()),
    }
}

/// Runs what may take long on a thread of its own.
async fn slow<T, F>(state: &State, call: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce(&Engine) -> engine::Result<T> + Send + 'static,
{
    slow_then(state, call, |_, ()| (), |_| ()).await
}

/// The same, and goes on with something of the result once that is on its way to the client.
async fn slow_then<T, U, F>(
    state: &State,
    call: F,
    go_on: impl FnOnce(&Engine, U) + Send + 'static,
    with: impl FnOnce(&T) -> U + Send + 'static,
) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce(&Engine) -> engine::Result<T> + Send + 'static,
{
    let engine = Arc::clone(&state.engine);
    let (sender, result) = tokio::sync::oneshot::channel();
    spawn("request", move || {
        let result = call(&engine);
        let rest = result.as_ref().ok().map(with);
        // Where the client has left there is nobody to tell.
        let _ = sender.send(result);
        if let Some(rest) = rest {
            go_on(&engine, rest);
        }
    })?;
    Ok(result.await.map_err(|_| panicked())??)
}

/// Starts a thread that answers a request.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    let spawned = builder.stack_size(STACK).spawn(run);
    spawned
        .map(drop)
        .map_err(|error| Failure::internal(format!("cannot start a thread: {error}")))
}

fn panicked() -> Failure {
    Failure::internal("the engine failed to answer this request; its log says where")
}

/// 200 with a value in the form that the request's version has.
fn shaped(request: &Request, value: &(impl Shape + ?Sized)) -> Answer {
    answer::ok(&value.to_json(request.version))
}

/// The `filters` parameter.
fn filters(request: &Request) -> Result<Filters, Failure> {
    let text = request.query.get("filters").unwrap_or("");
    Filters::parse(text).map_err(|error| Failure::bad_request(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_hide_no_other() {
        let table = table();
        for (method, path, name) in [
            (Method::GET, "/images/json", ""),
            (Method::GET, "/images/a/json", "a"),
            (Method::GET, "/images/get", ""),
            (Method::GET, "/images/get/get", "get"),
            (Method::GET, "/images/search", ""),
            (Method::POST, "/networks/create", ""),
            (Method::POST, "/networks/a/connect", "a"),
            (Method::GET, "/networks/a", "a"),
            (Method::GET, "/containers/a/attach/ws", "a"),
            (Method::DELETE, "/volumes/a", "a"),
            (Method::POST, "/v1.44/containers/prune", ""),
            (Method::GET, "/v1.44/nodes/x", "x"),
        ] {
            let found = table.find(&method, path).expect(path);
            assert_eq!(found.name, name, "{path}");
        }
        for path in ["/containers", "/images", "/swarms", "/nodes/a/b/c"] {
            assert!(table.find(&Method::GET, path).is_none(), "{path}");
        }
    }

    #[test]
    fn kinds_are_statuses() {
        let failure = Failure::from(engine::Error::not_found("No such container: x"));
        assert_eq!(failure.status, StatusCode::NOT_FOUND);
        assert_eq!(failure.message, "No such container: x");
    }
}
