//! Files of containers: cp, export, diff, commit.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use tokio::sync::oneshot;

use super::images::{drain, name_of};
use super::{Request, State, panicked, slow, spawn};
use crate::api::container::ContainerConfig;
use crate::container::copy::PathStat;
use crate::daemon::answer::{self, Answer, Failure, Feed, Stream};
use crate::engine::copy::{CommitOptions, Stop, Unpacking};

/// What a path is, in base64 of JSON.
const STAT: &str = "X-Docker-Container-Path-Stat";

/// Container and path.
fn place(request: &Request) -> Result<(String, String), Failure> {
    let path = request.query.get("path").unwrap_or("");
    for (value, what) in [(&*request.name, "name"), (path, "path")] {
        if value.is_empty() {
            return Err(Failure::bad_request(format!(
                "bad parameter: {what} cannot be empty"
            )));
        }
    }
    Ok((request.name.clone(), path.to_owned()))
}

/// A handle that is used when the client leaves, for as long as what is returned beside it lives.
fn stopped_by_leaving(request: &Request) -> Result<(Stop, oneshot::Sender<()>), Failure> {
    let (over, is_over) = oneshot::channel();
    let stop = Stop::default();
    let ended = request.ended()?;
    let watched = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = ended => watched.stop(),
            _ = is_over => {}
        }
    });
    Ok((stop, over))
}

/// An answer in the making, and a handle that is used when the client leaves it.
fn stopping_stream(request: &Request) -> Result<(Feed, Stream, Stop), Failure> {
    let (feed, stream) = answer::stream(answer::STREAM_DEPTH);
    let stop = Stop::default();
    let leaving = stop.clone();
    let stream = stream.until(request.ended()?);
    Ok((feed, stream.on_end(move || leaving.stop()), stop))
}

fn with_stat(mut answer: Answer, stat: &PathStat) -> Result<Answer, Failure> {
    let internal = |error: &dyn std::fmt::Display| Failure::internal(error.to_string());
    let text = serde_json::to_vec(stat).map_err(|error| internal(&error))?;
    let value = HeaderValue::from_str(&STANDARD.encode(text)).map_err(|error| internal(&error))?;
    if let Answer::Http(response) = &mut answer {
        response.headers_mut().insert(STAT, value);
    }
    Ok(answer)
}

/// `HEAD /containers/{name}/archive`.
pub async fn stat(state: State, request: Request) -> Result<Answer, Failure> {
    let (name, path) = place(&request)?;
    let (stop, _over) = stopped_by_leaving(&request)?;
    let stat = slow(&state, move |engine| {
        engine.container_stat_path(&name, &path, &stop)
    })
    .await?;
    with_stat(answer::empty(StatusCode::OK).into(), &stat)
}

/// `GET /containers/{name}/archive`.
pub async fn pack(state: State, request: Request) -> Result<Answer, Failure> {
    let (name, path) = place(&request)?;
    let (feed, stream, stop) = stopping_stream(&request)?;
    let (begin, begun) = oneshot::channel();
    spawn("archive", move || {
        let out = &mut |piece: Vec<u8>| feed.send(piece).is_ok();
        // Where nobody waits for it the client is gone, and so is the copy.
        let begin = |stat| drop(begin.send(stat));
        let packed = state.engine.container_pack(&name, &path, &stop, begin, out);
        if let Err(error) = packed {
            feed.break_off(std::io::Error::other(error));
        }
    })?;
    let stat = begun.await.map_err(|_| panicked())??;
    with_stat(answer::streamed("application/x-tar", stream), &stat)
}

/// `PUT /containers/{name}/archive`.
pub async fn unpack(state: State, mut request: Request) -> Result<Answer, Failure> {
    let (name, path) = place(&request)?;
    let unpacking = Unpacking {
        path,
        overwrite: !request.query.flag("noOverwriteDirNonDir"),
        as_user: request.query.flag("copyUIDGID"),
    };
    let (stop, over) = stopped_by_leaving(&request)?;
    let mut archive = request.reader();
    let (tell, told) = oneshot::channel();
    spawn("archive", move || {
        let mut tell = Some(tell);
        let mut failed = None;
        state
            .engine
            .container_unpack(&name, &unpacking, &mut archive, &stop, |done| match done {
                Ok(()) => drop(tell.take().map(|tell| tell.send(Ok(())))),
                Err(error) => failed = Some(error),
            });
        // A client that is still sending would be cut off before it reads why.
        drain(archive);
        if let (Some(tell), Some(error)) = (tell, failed) {
            let _ = tell.send(Err(error));
        }
        drop(over);
    })?;
    told.await.map_err(|_| panicked())??;
    Ok(answer::empty(StatusCode::OK).into())
}

/// `GET /containers/{name}/export`.
pub async fn export(state: State, request: Request) -> Result<Answer, Failure> {
    let (feed, stream, stop) = stopping_stream(&request)?;
    let (begin, begun) = oneshot::channel();
    let name = request.name;
    spawn("export", move || {
        let out = &mut |piece: Vec<u8>| feed.send(piece).is_ok();
        let begin = |begun| drop(begin.send(begun));
        if let Err(error) = state.engine.container_export(&name, &stop, begin, out) {
            feed.break_off(std::io::Error::other(error));
        }
    })?;
    begun.await.map_err(|_| panicked())??;
    Ok(answer::streamed("application/octet-stream", stream))
}

/// `GET /containers/{name}/changes`; `null` where there are none, as in Docker.
pub async fn changes(state: State, request: Request) -> Result<Answer, Failure> {
    let (stop, _over) = stopped_by_leaving(&request)?;
    let name = request.name.clone();
    let changes = slow(&state, move |engine| engine.container_changes(&name, &stop)).await?;
    Ok(answer::ok(&(!changes.is_empty()).then_some(changes)))
}

/// `POST /commit`.
pub async fn commit(state: State, mut request: Request) -> Result<Answer, Failure> {
    let config: Option<ContainerConfig> = request.json().await?;
    let query = &request.query;
    let text = |name| query.get(name).unwrap_or("").to_owned();
    let name = match query.text("repo") {
        None => None,
        Some(repository) => Some(
            name_of(repository, query.text("tag").unwrap_or(""))
                .map_err(|error| Failure::bad_request(error.to_string()))?,
        ),
    };
    let options = CommitOptions {
        config,
        changes: query.all("changes"),
        author: text("author"),
        comment: text("comment"),
        pause: query.flag_or("pause", true),
        name,
    };
    let container = text("container");
    let (stop, _over) = stopped_by_leaving(&request)?;
    let id = slow(&state, move |engine| {
        engine.container_commit(&container, &options, &stop)
    })
    .await?;
    let id = serde_json::json!({"Id": id.to_string()});
    Ok(answer::json(StatusCode::CREATED, &id).into())
}
