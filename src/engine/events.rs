//! Events: what happened, told to whoever listens, and the last of it to whoever asks later.
//!
//! The newest 256 events are kept, as Docker keeps them. A listener is a function called under
//! the lock, in the order in which things happened; it must not block, and says `false` when it
//! wants no more. Nothing here is on disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::api::event::{Actor, Event};
use crate::api::filters::Filters;
use crate::types::timestamp::Timestamp;

/// How many events are kept for `events --since` (moby's `eventsLimit`).
const KEPT: usize = 256;

/// A listener: returns whether it wants more.
pub type Sink = Box<dyn Fn(&Event) -> bool + Send + Sync>;

/// The events of this daemon's life.
#[derive(Default)]
pub struct Events {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    kept: VecDeque<Event>,
    sinks: Vec<(Filters, Sink)>,
}

impl Events {
    /// Records an event and tells the listeners.
    pub fn emit(
        &self,
        kind: &str,
        action: &str,
        id: &str,
        attributes: impl IntoIterator<Item = (String, String)>,
    ) {
        let now = Timestamp::now();
        let attributes: BTreeMap<String, String> = attributes.into_iter().collect();
        let event = Event {
            kind: kind.to_owned(),
            action: action.to_owned(),
            actor: Actor {
                id: id.to_owned(),
                attributes,
            },
            scope: "local".to_owned(),
            time: now.seconds(),
            time_nano: i64::try_from(now.nanos()).unwrap_or(i64::MAX),
        };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .sinks
            .retain(|(filters, sink)| !matches(filters, &event) || sink(&event));
        if inner.kept.len() == KEPT {
            inner.kept.pop_front();
        }
        inner.kept.push_back(event);
    }

    /// How many listen.
    pub fn listeners(&self) -> usize {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sinks
            .len()
    }

    /// Calls `sink` for the kept events since `since` (all of them that match when it is given),
    /// then, if `live`, for each one to come. Nothing is lost or doubled in between.
    pub fn subscribe(
        &self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        filters: Filters,
        live: bool,
        sink: Sink,
    ) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = since {
            for event in &inner.kept {
                let at = Timestamp::from_nanos(i128::from(event.time_nano));
                if at >= since
                    && until.is_none_or(|until| at <= until)
                    && matches(&filters, event)
                    && !sink(event)
                {
                    return;
                }
            }
        }
        if live {
            inner.sinks.push((filters, sink));
        }
    }
}

/// Whether an event passes the filters of `GET /events`.
fn matches(filters: &Filters, event: &Event) -> bool {
    let actor = &event.actor;
    let attribute = |key: &str| actor.attributes.get(key).map_or("", String::as_str);
    let named = |key: &str, kind: &str| {
        !filters.contains(key)
            || (event.kind == kind
                && filters.values(key).any(|wanted| {
                    wanted == actor.id
                        || wanted == attribute("name")
                        || actor.id.starts_with(wanted)
                }))
    };
    let action = event.action.split(':').next().unwrap_or_default();
    (!filters.contains("type") || filters.values("type").any(|wanted| wanted == event.kind))
        && (!filters.contains("event")
            || filters
                .values("event")
                .any(|wanted| wanted == event.action || wanted == action))
        && named("container", "container")
        && named("volume", "volume")
        && named("network", "network")
        && (!filters.contains("image")
            || filters.values("image").any(|wanted| {
                let id = if event.kind == "image" {
                    actor.id.as_str()
                } else {
                    ""
                };
                wanted == id || wanted == attribute("image") || wanted == attribute("name")
            }))
        && (!filters.contains("label")
            || filters
                .values("label")
                .all(|wanted| match wanted.split_once('=') {
                    Some((key, value)) => {
                        actor.attributes.get(key).is_some_and(|have| have == value)
                    }
                    None => actor.attributes.contains_key(wanted),
                }))
}
