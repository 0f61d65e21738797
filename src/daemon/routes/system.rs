//! The engine itself: ping, info, version, disk usage, events.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::{ACCEPT, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};

use super::{Request, State, filters, quick, shaped, slow};
use crate::api::shape::Shape;
use crate::api::system::{DiskUsage, Usage};
use crate::daemon::answer::{self, Answer, Failure};
use crate::types::timestamp::Timestamp;

/// How many events a client may be behind before it is given up: more than are kept, as all of
/// those may come at once.
const EVENTS_DEPTH: usize = 1024;

/// `GET` and `HEAD /_ping`.
pub async fn ping(_: State, request: Request) -> Result<Answer, Failure> {
    // Docker's HEAD tells a length of 0, not that of GET.
    let body = if request.method == Method::HEAD {
        ""
    } else {
        "OK"
    };
    let mut response = answer::bytes(StatusCode::OK, "text/plain; charset=utf-8", body);
    let fields = [
        ("builder-version", "1"),
        ("cache-control", "no-cache, no-store, must-revalidate"),
        ("pragma", "no-cache"),
        ("swarm", "inactive"),
    ];
    for (name, value) in fields {
        let (name, value) = (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
        response.headers_mut().insert(name, value);
    }
    Ok(response.into())
}

/// `GET /info`.
pub async fn info(state: State, request: Request) -> Result<Answer, Failure> {
    let info = quick(&state, |engine| Ok(engine.info())).await?;
    Ok(shaped(&request, &info))
}

/// `GET /version`.
pub async fn version(state: State, request: Request) -> Result<Answer, Failure> {
    let version = quick(&state, |engine| Ok(engine.version())).await?;
    Ok(shaped(&request, &version))
}

/// `GET /system/df`.
pub async fn disk_usage(state: State, request: Request) -> Result<Answer, Failure> {
    let kinds = match request.query.all("type") {
        kinds if request.since(42) && !kinds.is_empty() => kinds,
        _ => ["container", "image", "volume", "build-cache"]
            .map(str::to_owned)
            .to_vec(),
    };
    let known = ["container", "image", "volume", "build-cache"];
    if let Some(kind) = kinds.iter().find(|kind| !known.contains(&kind.as_str())) {
        return Err(Failure::bad_request(format!("unknown object type: {kind}")));
    }
    // A client that asks for the lists knows where they are since 1.52.
    let verbose = request.since(52) && request.query.flag("verbose");
    let mut usage = slow(&state, |engine| engine.disk_usage()).await?;
    let wanted = |kind: &str| kinds.iter().any(|wanted| wanted == kind);
    select(&mut usage, wanted, verbose);
    Ok(shaped(&request, &usage))
}

/// Leaves out what was not asked for. With `verbose`, lists are beside their totals only.
fn select(usage: &mut DiskUsage, wanted: impl Fn(&str) -> bool, verbose: bool) {
    fn one<T>(
        list: &mut Option<Vec<T>>,
        totals: &mut Option<Usage<T>>,
        wanted: bool,
        verbose: bool,
    ) {
        if !wanted {
            (*list, *totals) = (None, None);
            return;
        }
        if verbose {
            *list = None;
        }
    }
    let DiskUsage {
        layers_size,
        images,
        containers,
        volumes,
        build_cache,
        image_usage,
        container_usage,
        volume_usage,
        build_cache_usage,
    } = usage;
    if verbose || !wanted("image") {
        *layers_size = 0;
    }
    one(images, image_usage, wanted("image"), verbose);
    one(containers, container_usage, wanted("container"), verbose);
    one(volumes, volume_usage, wanted("volume"), verbose);
    one(
        build_cache,
        build_cache_usage,
        wanted("build-cache"),
        verbose,
    );
}

/// `GET /events`: the kept ones since `since`, then those to come until `until`.
pub async fn events(state: State, request: Request) -> Result<Answer, Failure> {
    let now = Timestamp::now();
    let since = time(&request, "since")?;
    let until = time(&request, "until")?;
    let text = |name| request.query.get(name).unwrap_or("");
    if let (Some(since), Some(until)) = (since, until)
        && until < since
    {
        return Err(Failure::bad_request(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            text("since"),
            text("until")
        )));
    }
    let filters = filters(&request)?;
    let live = until.is_none_or(|until| until > now);
    let format = Format::of(&request);
    let (feed, stream) = answer::stream(EVENTS_DEPTH);
    // Emptied to end the stream.
    let feed = Arc::new(Mutex::new(Some(feed)));
    let timer = until.filter(|_| live).map(|until| {
        let feed = Arc::clone(&feed);
        let wait = u64::try_from(until.nanos() - now.nanos()).unwrap_or(u64::MAX);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_nanos(wait)).await;
            feed.lock().unwrap_or_else(PoisonError::into_inner).take();
        })
    });
    let stream = stream.until(request.ended()?);
    let version = request.version;
    let subscription = quick(&state, move |engine| {
        let sink = Arc::clone(&feed);
        let subscription = engine.events_subscribe(
            since,
            until,
            filters,
            live,
            Box::new(move |event| {
                let feed = sink.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(feed) = &*feed else { return false };
                if !event.known_to(version) {
                    return true;
                }
                match answer::line(&event.to_json(version)) {
                    Ok(line) => feed.try_send(format.frame(line)).is_ok(),
                    Err(_) => true,
                }
            }),
        );
        if !live {
            feed.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        Ok(subscription)
    })
    .await?;
    let stream = stream.on_end(move || {
        drop(subscription);
        if let Some(timer) = timer {
            timer.abort();
        }
    });
    Ok(answer::streamed(format.content_type(), stream))
}

/// How a stream of JSON values is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// A line each, called JSON as before 1.52.
    Json,
    /// A line each, called JSON lines.
    Lines,
    /// The same by its other name.
    Newlines,
    /// RFC 7464: each after a record separator.
    Sequence,
}

impl Format {
    /// The first that the client names; otherwise what its version of the API has.
    fn of(request: &Request) -> Format {
        let accepted = request.headers.get_all(ACCEPT).iter();
        for text in accepted.filter_map(|value| value.to_str().ok()) {
            for kind in text.split(',') {
                match kind.split(';').next().unwrap_or("").trim() {
                    "application/jsonl" => return Format::Lines,
                    "application/x-ndjson" => return Format::Newlines,
                    "application/json-seq" => return Format::Sequence,
                    _ => {}
                }
            }
        }
        if request.since(52) {
            Format::Lines
        } else {
            Format::Json
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Lines => "application/jsonl",
            Format::Newlines => "application/x-ndjson",
            Format::Sequence => "application/json-seq",
        }
    }

    fn frame(self, mut line: Vec<u8>) -> Vec<u8> {
        if self == Format::Sequence {
            line.insert(0, 0x1e);
        }
        line
    }
}

/// A point in time among the parameters.
fn time(request: &Request, name: &str) -> Result<Option<Timestamp>, Failure> {
    let text = request.query.text(name);
    text.map(Timestamp::parse_unix)
        .transpose()
        .map_err(|error| Failure::bad_request(format!("invalid value for '{name}': {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> DiskUsage {
        let totals = Usage {
            total_count: 1,
            items: vec![crate::api::image::Summary::default()],
            ..Usage::default()
        };
        DiskUsage {
            layers_size: 5,
            images: Some(vec![crate::api::image::Summary::default()]),
            image_usage: Some(totals),
            containers: Some(Vec::new()),
            container_usage: Some(Usage::default()),
            ..DiskUsage::default()
        }
    }

    #[test]
    fn disk_usage_holds_what_was_asked_for() {
        let mut old = usage();
        select(&mut old, |kind| kind == "image", false);
        assert_eq!((old.layers_size, old.images.is_some()), (5, true));
        assert_eq!((old.containers, old.container_usage), (None, None));

        let mut both = usage();
        select(&mut both, |_| true, false);
        assert_eq!((both.layers_size, both.images.is_some()), (5, true));
        assert!(
            both.image_usage
                .is_some_and(|totals| totals.items.len() == 1)
        );

        let mut verbose = usage();
        select(&mut verbose, |_| true, true);
        assert_eq!(verbose.images, None);
        assert!(
            verbose
                .image_usage
                .is_some_and(|totals| totals.items.len() == 1)
        );
    }
}
