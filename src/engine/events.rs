//! Events: what happened, told to whoever listens, and the last of it to whoever asks later.
//!
//! The newest 256 events are kept, as Docker keeps them. A listener is a function called under
//! the lock, in the order in which things happened; it must not block, and says `false` when it
//! wants no more. Whoever listens holds a [`Subscription`], as a client may leave while nothing
//! happens that it asked for. Nothing here is on disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::api::event::{Actor, Event};
use crate::api::filters::Filters;
use crate::types::reference::Reference;
use crate::types::timestamp::Timestamp;

/// How many events are kept for `events --since` (moby's `eventsLimit`).
const KEPT: usize = 256;

/// A listener: returns whether it wants more.
pub type Sink = Box<dyn Fn(&Event) -> bool + Send + Sync>;

/// The events of this daemon's life.
#[derive(Default)]
pub struct Events {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    kept: VecDeque<Event>,
    sinks: BTreeMap<u64, (Filters, Sink)>,
    next: u64,
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A listener; dropped, it gets nothing any more.
pub struct Subscription {
    inner: Weak<Mutex<Inner>>,
    number: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            let sink = lock(&inner).sinks.remove(&self.number);
            // Not under the lock: a sink is somebody else's.
            drop(sink);
        }
    }
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
        let mut inner = lock(&self.inner);
        inner
            .sinks
            .retain(|_, (filters, sink)| !matches(filters, &event) || sink(&event));
        if inner.kept.len() == KEPT {
            inner.kept.pop_front();
        }
        inner.kept.push_back(event);
    }

    /// How many listen.
    pub fn listeners(&self) -> usize {
        lock(&self.inner).sinks.len()
    }

    /// Calls `sink` for the kept events from `since` to `until`, if one of these is given, then, if
    /// `live`, for each one to come until what is returned is dropped. Nothing is lost or doubled
    /// in between.
    pub fn subscribe(
        &self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        filters: Filters,
        live: bool,
        sink: Sink,
    ) -> Option<Subscription> {
        let mut inner = lock(&self.inner);
        if since.is_some() || until.is_some() {
            for event in &inner.kept {
                let at = Timestamp::from_nanos(i128::from(event.time_nano));
                if since.is_none_or(|since| at >= since)
                    && until.is_none_or(|until| at <= until)
                    && matches(&filters, event)
                    && !sink(event)
                {
                    return None;
                }
            }
        }
        live.then(|| {
            let number = inner.next;
            inner.next += 1;
            inner.sinks.insert(number, (filters, sink));
            Subscription {
                inner: Arc::downgrade(&self.inner),
                number,
            }
        })
    }
}

/// Filters that mean an object by its id, its name, or the beginning of either.
const NAMED: [&str; 9] = [
    "daemon",
    "container",
    "plugin",
    "volume",
    "network",
    "node",
    "service",
    "secret",
    "config",
];

/// Actions with a colon and more behind them, known by what is before it.
const NAMED_ACTIONS: [&str; 3] = ["health_status", "exec_create", "exec_start"];

/// An image's name as people write it, without tag and digest.
fn untagged(name: &str) -> String {
    Reference::parse_named(name).map_or_else(|_| name.to_owned(), |name| name.familiar_name())
}

/// Whether an event passes the filters of `GET /events`. Unknown filters filter nothing, as in
/// Docker.
fn matches(filters: &Filters, event: &Event) -> bool {
    let actor = &event.actor;
    let attribute = |key: &str| actor.attributes.get(key).map_or("", String::as_str);
    // A daemon looks at id and name whatever the event is of.
    let named = |key: &&str| {
        filters.matches_prefix(key, &actor.id) || filters.matches_prefix(key, attribute("name"))
    };
    let action = event.action.split(':').next().unwrap_or_default();
    let image = attribute(if event.kind == "image" {
        "name"
    } else {
        "image"
    });
    filters.matches_exactly("type", &event.kind)
        && filters.matches_exactly("scope", &event.scope)
        && (filters.matches_exactly("event", &event.action)
            || (NAMED_ACTIONS.contains(&action) && filters.matches_exactly("event", action)))
        && NAMED.iter().all(named)
        && (!filters.contains("image")
            || [&actor.id, image, &untagged(&actor.id), &untagged(image)]
                .into_iter()
                .any(|candidate| filters.matches_exactly("image", candidate)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, action: &str, id: &str, attributes: &[(&str, &str)]) -> Event {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Event {
            kind: kind.to_owned(),
            action: action.to_owned(),
            actor: Actor {
                id: id.to_owned(),
                attributes: attributes.iter().map(own).collect(),
            },
            scope: "local".to_owned(),
            ..Event::default()
        }
    }

    #[test]
    fn who_has_left_is_forgotten_though_nothing_happens() {
        let events = Events::default();
        let filters = Filters::parse(r#"{"container":["nosuch"]}"#).unwrap();
        let listen = |live| events.subscribe(None, None, filters.clone(), live, Box::new(|_| true));
        let subscription = listen(true);
        assert!(listen(false).is_none());
        assert_eq!(events.listeners(), 1);
        drop(subscription);
        assert_eq!(events.listeners(), 0);
    }

    #[test]
    fn filters_are_dockers() {
        let of_container = event(
            "container",
            "exec_create: ls ",
            "abcdef",
            &[("image", "busybox:1"), ("name", "web"), ("a", "b")],
        );
        let of_image = event("image", "tag", "sha256:77", &[("name", "debian:12")]);
        for (filter, container, image) in [
            (r#"{}"#, true, true),
            (r#"{"type":["container"]}"#, true, false),
            (r#"{"container":["abc"]}"#, true, false),
            (r#"{"container":["we"]}"#, true, false),
            (r#"{"container":["b"]}"#, false, false),
            (r#"{"image":["busybox"]}"#, true, false),
            (r#"{"image":["busybox:1"]}"#, true, false),
            (r#"{"image":["busy"]}"#, false, false),
            (r#"{"image":["debian"]}"#, false, true),
            (r#"{"image":["sha256:77"]}"#, false, true),
            (r#"{"event":["exec_create"]}"#, true, false),
            (r#"{"event":["tag","start"]}"#, false, true),
            (r#"{"label":["a=b"]}"#, true, false),
            (r#"{"scope":["swarm"]}"#, false, false),
            (r#"{"nosuch":["x"]}"#, true, true),
        ] {
            let filters = Filters::parse(filter).unwrap();
            assert_eq!(matches(&filters, &of_container), container, "{filter}");
            assert_eq!(matches(&filters, &of_image), image, "{filter}");
        }
    }
}
