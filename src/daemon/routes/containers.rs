//! Containers: their lives, streams and logs.

use std::sync::Arc;

use hyper::StatusCode;

use super::{Request, State, at_once, filters, quick, shaped, slow, slow_then};
use crate::api::container::{
    ContainerConfig, CreateRequest, HostConfig, WaitExitError, WaitResponse,
};
use crate::api::shape;
use crate::daemon::answer::{self, Answer, Failure};
use crate::daemon::{hijack, websocket};
use crate::engine::Engine;
use crate::engine::attach::AttachOptions;
use crate::engine::containers::{Ended, WaitCondition};
use crate::engine::list::ListOptions;
use crate::types::name;

/// `GET /containers/json`.
pub async fn list(state: State, request: Request) -> Result<Answer, Failure> {
    let limit = request.query.number("limit")?;
    let options = ListOptions {
        all: request.query.flag("all"),
        // Docker takes 0 and less for no limit.
        limit: limit
            .and_then(|limit| usize::try_from(limit).ok())
            .filter(|&limit| limit > 0),
        size: request.query.flag("size"),
        filters: filters(&request)?,
    };
    let found = if options.size {
        slow(&state, move |engine| engine.container_list(&options)).await?
    } else {
        quick(&state, move |engine| engine.container_list(&options)).await?
    };
    Ok(shaped(&request, &found))
}

/// `POST /containers/prune`.
pub async fn prune(state: State, request: Request) -> Result<Answer, Failure> {
    let filters = filters(&request)?;
    let report = slow(&state, move |engine| engine.container_prune(&filters)).await?;
    Ok(shaped(&request, &report))
}

/// `POST /containers/create`.
pub async fn create(state: State, mut request: Request) -> Result<Answer, Failure> {
    let mut body: CreateRequest = request.required_json().await?;
    if body.config == ContainerConfig::default() {
        return Err(Failure::bad_request(
            "config cannot be empty in order to create a container",
        ));
    }
    let defaults = shape::request::create(&mut body, request.version)
        .map_err(|error| Failure::bad_request(error.to_string()))?;
    // Clients this old remove containers themselves.
    if !request.since(25) {
        body.host_config.auto_remove = false;
    }
    let name = request.query.text("name").map(str::to_owned);
    let platform = request.query.text("platform").map(str::to_owned);
    let platform = platform.filter(|_| request.since(41));
    let warnings = defaults.warnings;
    // New volumes are filled with what the image has there.
    let create = move |engine: &Engine| {
        engine.container_create(
            name.as_deref(),
            platform.as_deref(),
            body,
            defaults.read_only_non_recursive,
        )
    };
    // Whoever creates it is likely to start it.
    let prepare = |engine: &Engine, id: String| engine.container_prepare(&id);
    let mut made = slow_then(&state, create, prepare, |made| made.id.clone()).await?;
    made.warnings.extend(warnings);
    Ok(answer::json(StatusCode::CREATED, &made).into())
}

/// `GET /containers/{name}/json`.
pub async fn inspect(state: State, request: Request) -> Result<Answer, Failure> {
    let (name, size) = (request.name.clone(), request.query.flag("size"));
    let found = if size {
        slow(&state, move |engine| engine.container_inspect(&name, true)).await?
    } else {
        quick(&state, move |engine| engine.container_inspect(&name, false)).await?
    };
    Ok(shaped(&request, &found))
}

/// `GET /containers/{name}/top`.
pub async fn top(state: State, request: Request) -> Result<Answer, Failure> {
    let arguments = request.query.get("ps_args").unwrap_or("").to_owned();
    let name = request.name.clone();
    let found = quick(&state, move |engine| {
        engine.container_top(&name, &arguments)
    })
    .await?;
    Ok(shaped(&request, &found))
}

/// `POST /containers/{name}/start`.
pub async fn start(state: State, request: Request) -> Result<Answer, Failure> {
    // Before 1.24 the body could hold a host configuration; `{}` and `null` are no configuration.
    if request.since(24) && request.length().is_none_or(|length| length > 7) {
        return Err(Failure::bad_request(
            "starting container with non-empty request body was deprecated since API v1.22 and \
             removed in v1.24",
        ));
    }
    if let Some(id) = request.query.text("checkpoint") {
        if !name::restricted(id) {
            return Err(Failure::bad_request(format!(
                "invalid checkpoint ID {id:?}, only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        return Err(Failure::bad_request(
            "checkpoint is only supported in experimental mode",
        ));
    }
    let custom = request.query.text("checkpoint-dir").is_some();
    let name = request.name;
    // It may have to wait for a restart.
    slow(&state, move |engine| engine.container_start(&name, custom)).await?;
    Ok(answer::no_content())
}

/// The signal and the patience of a stop.
fn stop_options(request: &Request) -> Result<(Option<String>, Option<i64>), Failure> {
    let signal = request.query.text("signal").filter(|_| request.since(42));
    Ok((signal.map(str::to_owned), request.query.number("t")?))
}

/// `POST /containers/{name}/stop`.
pub async fn stop(state: State, request: Request) -> Result<Answer, Failure> {
    let (signal, timeout) = stop_options(&request)?;
    let name = request.name;
    slow(&state, move |engine| {
        engine.container_stop(&name, signal.as_deref(), timeout)
    })
    .await?;
    Ok(answer::no_content())
}

/// `POST /containers/{name}/restart`.
pub async fn restart(state: State, request: Request) -> Result<Answer, Failure> {
    // dockerd forgets here whose mistake it is.
    let (signal, timeout) =
        stop_options(&request).map_err(|failure| Failure::internal(failure.message))?;
    let name = request.name;
    slow(&state, move |engine| {
        engine.container_restart(&name, signal.as_deref(), timeout)
    })
    .await?;
    Ok(answer::no_content())
}

/// `POST /containers/{name}/kill`.
pub async fn kill(state: State, request: Request) -> Result<Answer, Failure> {
    let signal = request.query.get("signal").unwrap_or("").to_owned();
    let name = request.name;
    // A SIGKILL waits for the end.
    slow(&state, move |engine| engine.container_kill(&name, &signal)).await?;
    Ok(answer::no_content())
}

/// `POST /containers/{name}/pause`.
pub async fn pause(state: State, request: Request) -> Result<Answer, Failure> {
    let name = request.name;
    slow(&state, move |engine| engine.container_pause(&name)).await?;
    Ok(answer::no_content())
}

/// `POST /containers/{name}/unpause`.
pub async fn unpause(state: State, request: Request) -> Result<Answer, Failure> {
    let name = request.name;
    slow(&state, move |engine| engine.container_unpause(&name)).await?;
    Ok(answer::no_content())
}

/// `POST /containers/{name}/update`.
pub async fn update(state: State, mut request: Request) -> Result<Answer, Failure> {
    let body: HostConfig = request.json().await?.unwrap_or_default();
    let limit = body.pids_limit.filter(|_| request.since(40));
    // Of a whole host configuration only this counts; what is not above 0 is without a limit.
    let asked = HostConfig {
        cpu_shares: body.cpu_shares,
        memory: body.memory,
        nano_cpus: body.nano_cpus,
        blkio_weight: body.blkio_weight,
        cpu_period: body.cpu_period,
        cpu_quota: body.cpu_quota,
        cpu_realtime_period: body.cpu_realtime_period,
        cpu_realtime_runtime: body.cpu_realtime_runtime,
        cpuset_cpus: body.cpuset_cpus,
        cpuset_mems: body.cpuset_mems,
        memory_reservation: body.memory_reservation,
        memory_swap: body.memory_swap,
        pids_limit: limit.map(|limit| limit.max(0)),
        restart_policy: body.restart_policy,
        ..HostConfig::default()
    };
    let name = request.name.clone();
    let updated = slow(&state, move |engine| engine.container_update(&name, &asked)).await?;
    Ok(shaped(&request, &updated))
}

/// `POST /containers/{name}/rename`.
pub async fn rename(state: State, request: Request) -> Result<Answer, Failure> {
    let new = request.query.get("name").unwrap_or("").to_owned();
    let name = request.name;
    // It may have to wait for a restart.
    slow(&state, move |engine| engine.container_rename(&name, &new)).await?;
    Ok(answer::no_content())
}

/// `POST /containers/{name}/resize`.
pub async fn resize(state: State, request: Request) -> Result<Answer, Failure> {
    let rows = request.query.side("h", "height")?;
    let columns = request.query.side("w", "width")?;
    let name = request.name;
    quick(&state, move |engine| {
        engine.container_resize(&name, rows, columns)
    })
    .await?;
    Ok(answer::empty(StatusCode::OK).into())
}

/// `DELETE /containers/{name}`.
pub async fn remove(state: State, request: Request) -> Result<Answer, Failure> {
    let (volumes, force) = (request.query.flag("v"), request.query.flag("force"));
    if request.query.flag("link") {
        return Err(super::absent::failure("links between containers"));
    }
    let name = request.name;
    slow(&state, move |engine| {
        engine.container_remove(&name, volumes, force)
    })
    .await?;
    Ok(answer::no_content())
}

/// `POST /containers/{name}/wait`. The head goes out at once: by it `docker run` knows that it
/// may start the container without missing its end. Before 1.30 there was only the whole answer.
pub async fn wait(state: State, request: Request) -> Result<Answer, Failure> {
    let condition = match request.query.get("condition") {
        Some(text) if request.since(30) => WaitCondition::parse(text)?,
        _ => WaitCondition::NotRunning,
    };
    let (feed, stream) = answer::stream(1);
    let waiter = Box::new(move |ended: Ended| {
        let response = WaitResponse {
            status_code: ended.code.into(),
            error: (!ended.error.is_empty()).then_some(WaitExitError {
                message: ended.error,
            }),
        };
        if let Ok(line) = answer::line(&response) {
            // There is room for it; where the client has left there is nobody to tell.
            let _ = feed.try_send(line);
        }
    });
    let name = request.name.clone();
    let waiting = at_once(&state, |engine| {
        engine.container_wait(&name, condition, waiter)
    })?;
    let stream = stream.until(request.ended()?);
    let mut stream = stream.on_end(move || drop(waiting));
    if !request.since(30) {
        let body = stream.next().await.unwrap_or_default();
        return Ok(answer::bytes(StatusCode::OK, "application/json", body).into());
    }
    Ok(answer::streamed("application/json", stream))
}

/// `POST /containers/{name}/attach`.
pub async fn attach(state: State, request: Request) -> Result<Answer, Failure> {
    let options = attach_options(&request);
    let name = request.name.clone();
    let ticket = at_once(&state, |engine| engine.container_attach(&name, &options))?;
    let engine = Arc::clone(&state.engine);
    let multiplexed = !ticket.terminal();
    Ok(hijack::answer(
        &request,
        multiplexed,
        move |connection, early| ticket.connect(&engine, connection, early),
    ))
}

fn attach_options(request: &Request) -> AttachOptions {
    let query = &request.query;
    AttachOptions {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        logs: query.flag("logs"),
        stream: query.flag("stream"),
        raw: false,
        detach_keys: query.get("detachKeys").unwrap_or("").to_owned(),
    }
}

/// `GET /containers/{name}/attach/ws`. Output is never framed by streams: the frames are the
/// protocol's.
pub async fn attach_by_websocket(state: State, request: Request) -> Result<Answer, Failure> {
    let mut options = attach_options(&request);
    options.raw = true;
    // Old clients could not choose.
    if !request.since(42) {
        (options.stdin, options.stdout, options.stderr) = (true, true, true);
    }
    let name = request.name.clone();
    let ticket = at_once(&state, |engine| engine.container_attach(&name, &options))?;
    let engine = Arc::clone(&state.engine);
    websocket::answer(&request, move |end| {
        ticket.connect(&engine, end, Vec::new());
    })
}
