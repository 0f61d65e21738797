//! Images.

use std::io::{self, BufWriter, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::StatusCode;
use tokio::sync::oneshot;

use super::registries::{cancelled_by_leaving, proof};
use super::{Request, State, filters, quick, shaped, slow, spawn};
use crate::api::progress::JsonMessage;
use crate::api::shape::Shape;
use crate::daemon::answer::{self, Answer, Failure};
use crate::daemon::backlog::Backlog;
use crate::daemon::request::{BodyReader, DISCARD_LIMIT};
use crate::daemon::version;
use crate::engine;
use crate::engine::images::ImageListOptions;
use crate::engine::pull::PullRequest;
use crate::engine::push::PushRequest;
use crate::image::{Config, Import};
use crate::registry::Cancel;
use crate::types::platform::{Platform, PlatformError};
use crate::types::reference::{Reference, ReferenceError};

/// `GET /images/json`.
pub async fn list(state: State, request: Request) -> Result<Answer, Failure> {
    let mut filters = filters(&request)?;
    // The pattern of repositories had a parameter of its own once.
    if !request.since(25)
        && !filters.contains("reference")
        && let Some(pattern) = request.query.text("filter")
    {
        filters.add("reference", pattern);
    }
    if request.since(54) && request.query.flag("identity") && !request.query.flag("manifests") {
        return Err(Failure::bad_request(
            "conflicting options: identity requires manifests=1",
        ));
    }
    let options = ImageListOptions {
        filters,
        shared_size: request.since(42) && request.query.flag("shared-size"),
        all: request.query.flag("all"),
    };
    let found = quick(&state, move |engine| engine.image_list(&options)).await?;
    Ok(shaped(&request, &found))
}

/// `GET /images/{name}/json`.
pub async fn inspect(state: State, request: Request) -> Result<Answer, Failure> {
    let name = request.name.clone();
    let platform = wanted_platform(&request, 49)?;
    if platform.is_some() && request.query.flag("manifests") {
        return Err(Failure::bad_request(
            "conflicting options: manifests and platform options cannot both be set",
        ));
    }
    let found = quick(&state, move |engine| {
        engine.image_inspect(&name, platform.as_ref())
    })
    .await?;
    let agent = request.headers.get(hyper::header::USER_AGENT);
    let agent = agent.map_or(&b""[..], |agent| agent.as_bytes());
    let version = version::of_images(request.version, agent);
    Ok(answer::ok(&found.to_json(version)))
}

/// `GET /images/{name}/history`.
pub async fn history(state: State, request: Request) -> Result<Answer, Failure> {
    let name = request.name.clone();
    let platform = wanted_platform(&request, 48)?;
    let found = quick(&state, move |engine| {
        engine.image_history(&name, platform.as_ref())
    })
    .await?;
    Ok(shaped(&request, &found))
}

/// `POST /images/{name}/tag`.
pub async fn tag(state: State, request: Request) -> Result<Answer, Failure> {
    let text = |name| request.query.get(name).unwrap_or("").to_owned();
    let (repository, tag) = (text("repo"), text("tag"));
    let name = request.name;
    quick(&state, move |engine| {
        engine.image_tag(&name, &repository, &tag)
    })
    .await?;
    Ok(answer::empty(StatusCode::CREATED).into())
}

/// `DELETE /images/{name}`.
pub async fn remove(state: State, request: Request) -> Result<Answer, Failure> {
    if request.name.trim().is_empty() {
        return Err(Failure::bad_request("image name cannot be blank"));
    }
    let (force, parents) = (request.query.flag("force"), !request.query.flag("noprune"));
    let name = request.name.clone();
    let platforms = match request.since(50) {
        true => request.query.all("platforms"),
        false => Vec::new(),
    };
    let platforms = platforms.iter().map(|text| described_platform(text));
    let platforms = platforms.collect::<Result<Vec<_>, _>>()?;
    if platforms.len() > 1 {
        return Err(Failure::bad_request("multiple platforms are not supported"));
    }
    let removed = slow(&state, move |engine| {
        engine.image_remove(&name, force, parents, platforms.first())
    })
    .await?;
    Ok(shaped(&request, &removed))
}

/// `POST /images/prune`.
pub async fn prune(state: State, request: Request) -> Result<Answer, Failure> {
    let filters = filters(&request)?;
    let report = slow(&state, move |engine| engine.image_prune(&filters)).await?;
    Ok(shaped(&request, &report))
}

/// `POST /images/load`. As in Docker the answer is always 200, and errors are messages in it; it
/// begins with its first message, for skopeo stops sending when it has begun.
pub async fn load(state: State, mut request: Request) -> Result<Answer, Failure> {
    let quiet = request.query.flag_or("quiet", true);
    let platform = one_platform(&request)?;
    let mut archive = request.reader();
    let (feed, stream) = answer::stream(answer::STREAM_DEPTH);
    spawn("load", move || {
        let mut told = |message: JsonMessage| {
            let is_progress = !message.status.is_empty() || message.progress_detail.is_some();
            if !quiet || !is_progress {
                // A client that has left is noticed by the archive's end.
                let _ = feed.send(message.to_line());
            }
        };
        if let Err(error) = state
            .engine
            .image_load(&mut archive, platform.as_ref(), &mut told)
        {
            told(JsonMessage::error(error.message));
            drain(archive);
        }
    })?;
    Ok(answer::streamed("application/json", stream.begun().await))
}

/// Reads on after a failure: a client that is still sending would otherwise be cut off before it
/// reads why.
pub fn drain(archive: BodyReader) {
    if let Err(error) = io::copy(&mut archive.take(DISCARD_LIMIT), &mut io::sink()) {
        tracing::debug!(%error, "the client left its archive");
    }
}

/// `GET /images/get` and `GET /images/{name}/get`.
pub async fn save(state: State, request: Request) -> Result<Answer, Failure> {
    let names: Vec<String> = if request.name.is_empty() {
        request.query.all("names")
    } else {
        vec![request.name.clone()]
    };
    let platform = one_platform(&request)?;
    let checked = (names.clone(), platform.clone());
    slow(&state, move |engine| {
        engine.image_save_check(&checked.0, checked.1.as_ref())
    })
    .await?;
    let (feed, stream) = answer::stream(answer::STREAM_DEPTH);
    spawn("save", move || {
        let mut out = BufWriter::with_capacity(SAVE_PIECE, feed.clone());
        let saved = state.engine.image_save(&names, platform.as_ref(), &mut out);
        let flushed = out.flush();
        match (saved, flushed) {
            (Err(error), _) if !feed.is_gone() => {
                // The head is out: all that a client can still be shown is that this is no archive.
                tracing::error!(%error, ?names, "cannot save");
                feed.break_off(io::Error::other(error));
            }
            (Err(_), _) | (_, Err(_)) => {
                tracing::debug!(?names, "the client left while an image was saved");
            }
            _ => {}
        }
    })?;
    Ok(answer::streamed("application/x-tar", stream))
}

/// Bytes of an archive that go to the client at once.
const SAVE_PIECE: usize = 64 * 1024;

/// `POST /images/create`: a pull, or an import.
pub async fn create(state: State, mut request: Request) -> Result<Answer, Failure> {
    let query = &request.query;
    if let Some(name) = query.text("fromImage") {
        let pull = pull_request(&request, name)?;
        let engine = Arc::clone(&state.engine);
        return transfer("pull", &request, move |cancel, tell| {
            engine.image_pull(&pull, cancel, tell)
        })
        .await;
    }
    let source = query.text("fromSrc").unwrap_or("").to_owned();
    let import = import_request(&request, &source)?;
    if source != "-" {
        let engine = Arc::clone(&state.engine);
        return transfer("import", &request, move |cancel, tell| {
            engine.image_import_from(&source, &import, cancel, tell)
        })
        .await;
    }
    let mut archive = request.reader();
    let id = slow(&state, move |engine| {
        let imported = engine.image_import(&mut archive, &import);
        drain(archive);
        imported
    })
    .await?;
    let message = JsonMessage {
        status: id.to_string(),
        ..JsonMessage::default()
    };
    let body = message.to_line();
    Ok(answer::bytes(StatusCode::OK, "application/json", body).into())
}

/// What an import from `source` asks for.
fn import_request(request: &Request, source: &str) -> Result<Import, Failure> {
    let query = &request.query;
    let name = match query.text("repo") {
        None => None,
        Some(repository) => Some(
            name_of(repository, query.text("tag").unwrap_or(""))
                .map_err(|error| Failure::bad_request(error.to_string()))?,
        ),
    };
    let platform = match query.text("platform") {
        None => None,
        Some(text) => Some(
            text.parse::<Platform>()
                .map_err(|error| Failure::bad_request(error.to_string()))?,
        ),
    };
    if platform.as_ref().is_some_and(|wanted| wanted.os != "linux") {
        return Err(Failure::bad_request("operating system is not supported"));
    }
    let config = Config::default()
        .change(&query.all("changes"))
        .map_err(|error| Failure::bad_request(error.to_string()))?;
    let message = match query.text("message") {
        Some(message) => message.to_owned(),
        None => format!("Imported from {source}"),
    };
    Ok(Import {
        config,
        message,
        platform,
        name,
    })
}

/// What a pull asks for.
fn pull_request(request: &Request, name: &str) -> Result<PullRequest, Failure> {
    let invalid = |error: ReferenceError| Failure::bad_request(error.to_string());
    let query = &request.query;
    // Old clients ask for all tags with a colon at the end.
    let name = name.strip_suffix(':').unwrap_or(name);
    let mut reference = Reference::parse_named(name).map_err(invalid)?;
    if let Some(tag) = query.text("tag") {
        reference = match tag.parse() {
            Ok(digest) => reference.with_digest(digest),
            Err(_) => reference
                .with_tag(tag)
                .map_err(|_| Failure::bad_request("invalid tag format"))?,
        };
    }
    let platform = query.text("platform").filter(|_| request.since(32));
    Ok(PullRequest {
        reference,
        platform: platform
            .map(str::parse)
            .transpose()
            .map_err(|error: PlatformError| Failure::bad_request(error.to_string()))?,
        credentials: proof(request),
    })
}

/// `POST /images/{name}/push`; without a tag all of the repository's.
pub async fn push(state: State, request: Request) -> Result<Answer, Failure> {
    let invalid = |error: ReferenceError| Failure::bad_request(error.to_string());
    let query = &request.query;
    let mut reference = Reference::parse_named(&request.name).map_err(invalid)?;
    if let Some(tag) = query.text("tag") {
        if reference.digest().is_some() {
            return Err(Failure::bad_request("cannot import digest reference"));
        }
        reference = reference.with_tag(tag).map_err(invalid)?;
    }
    let platform = query.text("platform").filter(|_| request.since(46));
    let push = PushRequest {
        reference,
        platform: platform.map(described_platform).transpose()?,
        credentials: proof(&request),
    };
    let engine = Arc::clone(&state.engine);
    transfer("push", &request, move |cancel, tell| {
        engine.image_push(&push, cancel, tell)
    })
    .await
}

/// The platform that an image must be for, if one is said; since an API version.
fn wanted_platform(request: &Request, since: u16) -> Result<Option<Platform>, Failure> {
    let given = request.query.text("platform");
    let given = given.filter(|_| request.since(since));
    given.map(described_platform).transpose()
}

/// The platform that a load or a save is limited to.
fn one_platform(request: &Request) -> Result<Option<Platform>, Failure> {
    let given = request.query.all("platform");
    if !request.since(48) || given.is_empty() {
        return Ok(None);
    }
    if given.len() > 1 && !request.since(52) {
        return Err(Failure::bad_request(
            "multiple platform parameters are not supported in this API version; use API version \
             1.52 or later",
        ));
    }
    let platforms = given.iter().map(|text| described_platform(text));
    let platforms = platforms.collect::<Result<Vec<_>, _>>()?;
    if platforms.len() > 1 {
        return Err(Failure::bad_request(
            "multiple platforms not supported for this image store; use a multi-platform image \
             store such as containerd-snapshotter",
        ));
    }
    Ok(platforms.into_iter().next())
}

/// A platform as newer clients send it: an OCI platform's JSON.
fn described_platform(text: &str) -> Result<Platform, Failure> {
    let platform: Platform = serde_json::from_str(text)
        .map_err(|error| Failure::bad_request(format!("failed to parse platform: {error}")))?;
    let Platform {
        os,
        architecture,
        variant,
    } = &platform;
    if os.is_empty() && architecture.is_empty() && !variant.is_empty() {
        return Err(Failure::bad_request(
            "optional platform fields provided, but OS and Architecture are missing",
        ));
    }
    if os.is_empty() || architecture.is_empty() {
        return Err(Failure::bad_request(
            "both OS and Architecture must be provided",
        ));
    }
    Ok(Platform::new(os, architecture, variant))
}

/// Where a transfer's messages go.
type Tell<'a> = &'a (dyn Fn(JsonMessage) + Sync);

/// Pulls or pushes. What goes wrong before the first message is the answer, as in Docker; what
/// comes later is a message. A client that leaves ends the transfer.
async fn transfer(
    verb: &'static str,
    request: &Request,
    run: impl FnOnce(&Cancel, Tell<'_>) -> engine::Result<()> + Send + 'static,
) -> Result<Answer, Failure> {
    let (feed, stream) = answer::stream(answer::STREAM_DEPTH);
    let (begin, begun) = oneshot::channel::<Result<(), engine::Error>>();
    let (cancel, over) = cancelled_by_leaving(request)?;
    spawn(verb, move || {
        let begin = Mutex::new(Some(begin));
        let first = || begin.lock().unwrap_or_else(PoisonError::into_inner).take();
        let backlog = Backlog::new(feed);
        let tell = |message: JsonMessage| {
            if let Some(begin) = first() {
                // Where nobody waits for it the client is gone, which is noticed below.
                let _ = begin.send(Ok(()));
            }
            if backlog.tell(message).is_err() {
                cancel.cancel();
            }
        };
        let result = run(&cancel, &tell);
        match (result, first()) {
            (result, Some(begin)) => drop(begin.send(result)),
            (result, None) => {
                let error = result.err().map(|error| JsonMessage::error(error.message));
                // A client that has left is told nothing.
                let _ = backlog.finish(error);
            }
        }
        drop(over);
    })?;
    begun.await.map_err(|_| super::panicked())??;
    Ok(answer::streamed("application/json", stream))
}

/// The name that an imported image gets; `latest` where no tag is said.
pub fn name_of(repository: &str, tag: &str) -> Result<Reference, ReferenceError> {
    let reference = Reference::parse_named(repository)?;
    match tag {
        "" => Ok(reference.with_default_tag()),
        tag => reference.with_tag(tag),
    }
}
