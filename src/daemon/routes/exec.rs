//! Exec sessions.

use std::os::fd::AsFd;
use std::sync::Arc;

use hyper::StatusCode;

use super::{Request, State, quick, shaped, slow};
use crate::api::IdResponse;
use crate::api::exec::{ExecConfig, ExecStart};
use crate::daemon::answer::{self, Answer, Failure};
use crate::daemon::hijack;
use crate::engine::attach::HEAD_PATIENCE;
use crate::sys::unread::wait_until_read;

/// `POST /containers/{name}/exec`.
pub async fn create(state: State, mut request: Request) -> Result<Answer, Failure> {
    let mut config: ExecConfig = request.json().await?.unwrap_or_default();
    if !request.since(42) {
        config.console_size = None;
    }
    let name = request.name.clone();
    let id = quick(&state, move |engine| engine.exec_create(&name, config)).await?;
    Ok(answer::json(StatusCode::CREATED, &IdResponse { id }).into())
}

/// `POST /exec/{name}/start`.
pub async fn start(state: State, mut request: Request) -> Result<Answer, Failure> {
    let mut options: ExecStart = request.json().await?.unwrap_or_default();
    if !request.since(42) || !options.tty {
        options.console_size = None;
    }
    let detach = options.detach;
    let name = request.name.clone();
    let ticket = quick(&state, move |engine| engine.exec_start(&name, &options)).await?;
    if detach {
        // A container can keep its execs waiting.
        slow(&state, move |engine| ticket.detached(engine)).await?;
        return Ok(answer::empty(StatusCode::OK).into());
    }
    let engine = Arc::clone(&state.engine);
    let multiplexed = !ticket.is_raw();
    Ok(hijack::answer(
        &request,
        multiplexed,
        move |connection, early| {
            // Output may follow at once.
            wait_until_read(connection.as_fd(), HEAD_PATIENCE);
            ticket.connect(&engine, connection, early);
        },
    ))
}

/// `GET /exec/{name}/json`.
pub async fn inspect(state: State, request: Request) -> Result<Answer, Failure> {
    let name = request.name.clone();
    let found = quick(&state, move |engine| engine.exec_inspect(&name)).await?;
    Ok(shaped(&request, &found))
}

/// `POST /exec/{name}/resize`.
pub async fn resize(state: State, request: Request) -> Result<Answer, Failure> {
    let rows = request.query.side("h", "height")?;
    let columns = request.query.side("w", "width")?;
    let name = request.name;
    quick(&state, move |engine| {
        engine.exec_resize(&name, rows, columns)
    })
    .await?;
    Ok(answer::empty(StatusCode::OK).into())
}
