//! One layer from a registry to the store: fetched, verified and unpacked in one pass, and once
//! only, however many pulls want it at the same time.
//!
//! ```text
//!            ┌─▶ in the store ─────────────────────────▶ done
//!  wanted ───┼─▶ nobody fetches it: lead ─▶ slot ─▶ Blob ─▶ hash, Pipeline ─▶ commit ─▶ done
//!            └─▶ somebody does: follow ─▶ (it ended) ─▶ wanted again
//! ```
//!
//! A layer in flight is known by its diff id, so that two compressions of one layer are one. Who
//! follows shows the leader's progress as its own, and takes over when the leader fails. A leader
//! whose pull is cancelled goes on with this layer as long as somebody follows, and ends with the
//! last of them; its pull's end waits for that, which matters to nobody but a client whose pull failed
//! for another reason. [`Downloads`] bounds how many layers of all pulls stream at once, and with them
//! memory: a buffer and a [`pipeline`](super::pipeline) each.
//!
//! A blob's digest is known at its end only, when it has been unpacked already: into a scratch
//! directory that is gone again if the digest, or the diff id, is wrong.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::compression::{Format, begin_with};
use super::error::{Error, store};
use super::layer::{self, Kept};
use super::origin;
use super::pipeline::{CHUNK, Finished, Pipeline};
use super::slots::{LOOK, Slots, lock};
use super::store::Store;
use crate::registry::{self, Cancel, Hold, Repository};
use crate::types::digest::{Digest, Hasher};

/// Most often that a layer's progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// Bytes of progress that are worth telling; a hundredth of a smaller layer.
const TELL_BYTES: u64 = 512 << 10;

/// How far a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerStep {
    /// The store has it.
    Exists,
    /// It will be fetched.
    Wanted,
    /// Others come first.
    Waiting,
    /// It comes.
    Downloading {
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The line broke; it is tried again in so many seconds.
    Retrying {
        /// How many.
        seconds: u64,
    },
    /// It is compared with its digest.
    Verifying,
    /// It is what it should be.
    Downloaded,
    /// The rest of it is unpacked.
    Extracting {
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// It is in the store.
    Complete,
}

/// The layers that are being fetched, and how many may be.
pub struct Downloads {
    slots: Slots,
    in_flight: Mutex<HashMap<Digest, Arc<Flight>>>,
}

/// A layer under way.
struct Flight {
    state: Mutex<State>,
    changed: Condvar,
    /// What ends the leader's pull.
    cancel: Cancel,
    followers: AtomicUsize,
}

#[derive(Default)]
struct State {
    step: Option<LayerStep>,
    has_ended: bool,
}

/// What a layer is and where it comes from.
pub(super) struct Source<'a> {
    pub(super) repository: &'a Repository,
    pub(super) cancel: &'a Cancel,
    /// The blob.
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// What it must unpack to.
    pub(super) diff_id: Digest,
    /// Whether the blob stays beside the layer.
    pub(super) keep: bool,
}

impl Downloads {
    /// Lets `limit` layers (at least one) be fetched at the same time.
    pub fn new(limit: usize) -> Self {
        Self {
            slots: Slots::new(limit),
            in_flight: Mutex::default(),
        }
    }

    /// How many layers may be fetched at the same time.
    pub fn limit(&self) -> usize {
        self.slots.limit()
    }

    /// Changes how many that are; those that are under way go on.
    pub fn set_limit(&self, limit: usize) {
        self.slots.set_limit(limit);
    }

    /// Whether the caller fetches this layer, or somebody else does already.
    fn join(&self, layer: Digest, cancel: &Cancel) -> Role<'_> {
        let mut in_flight = lock(&self.in_flight);
        if let Some(flight) = in_flight.get(&layer) {
            return Role::Follow(Follow::new(flight));
        }
        let flight = Arc::new(Flight {
            state: Mutex::default(),
            changed: Condvar::new(),
            cancel: cancel.clone(),
            followers: AtomicUsize::new(0),
        });
        in_flight.insert(layer, Arc::clone(&flight));
        Role::Lead(Lead {
            downloads: self,
            layer,
            flight,
        })
    }
}

enum Role<'a> {
    Lead(Lead<'a>),
    Follow(Follow),
}

/// Keeps the leader going, whatever becomes of its pull.
struct Follow {
    flight: Arc<Flight>,
    _hold: Hold,
}

impl Follow {
    fn new(flight: &Arc<Flight>) -> Self {
        flight.followers.fetch_add(1, Ordering::AcqRel);
        Self {
            flight: Arc::clone(flight),
            _hold: flight.cancel.hold(),
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.flight.followers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Ends a flight when dropped.
struct Lead<'a> {
    downloads: &'a Downloads,
    layer: Digest,
    flight: Arc<Flight>,
}

impl Lead<'_> {
    /// Fails once nobody wants the layer: the pull's handle may be held for another of its layers.
    fn check(&self) -> Result<(), Error> {
        match self.flight.followers.load(Ordering::Acquire) {
            0 => check(&self.flight.cancel),
            _ => Ok(()),
        }
    }

    fn at(&self, step: LayerStep) {
        lock(&self.flight.state).step = Some(step);
        self.flight.changed.notify_all();
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        lock(&self.downloads.in_flight).remove(&self.layer);
        lock(&self.flight.state).has_ended = true;
        self.flight.changed.notify_all();
    }
}

/// Fails once a pull is to begin nothing more.
fn check(cancel: &Cancel) -> Result<(), Error> {
    match cancel.is_used() {
        true => Err(registry::Error::Cancelled.into()),
        false => Ok(()),
    }
}

impl Flight {
    /// Waits for its end, telling of its progress.
    fn follow(&self, cancel: &Cancel, tell: &dyn Fn(LayerStep)) -> Result<(), Error> {
        let mut told = None;
        let mut state = lock(&self.state);
        loop {
            if state.has_ended {
                return Ok(());
            }
            if state.step != told {
                told = state.step;
                drop(state);
                if let Some(step) = told {
                    tell(step);
                }
                state = lock(&self.state);
                continue;
            }
            check(cancel)?;
            let waited = self.changed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Store {
    /// Sees to it that the store has a layer, which the caller has pinned.
    pub(super) fn fetch_layer(
        &self,
        downloads: &Downloads,
        source: &Source<'_>,
        tell: &dyn Fn(LayerStep),
    ) -> Result<(), Error> {
        let mut arrived = LayerStep::Exists;
        loop {
            check(source.cancel)?;
            let role = downloads.join(source.diff_id, source.cancel);
            // Asked after joining: from here on nobody but the leader puts it in place.
            if self.has_layer(&source.diff_id) {
                tell(arrived);
                return Ok(());
            }
            match role {
                Role::Follow(follow) => {
                    follow.flight.follow(source.cancel, tell)?;
                    arrived = LayerStep::Complete;
                }
                Role::Lead(lead) => {
                    return self.download(&lead, source, &|step| {
                        lead.at(step);
                        tell(step);
                    });
                }
            }
        }
    }

    fn download(
        &self,
        lead: &Lead<'_>,
        source: &Source<'_>,
        tell: &dyn Fn(LayerStep),
    ) -> Result<(), Error> {
        let slot = lead
            .downloads
            .slots
            .take(|| source.cancel.check(), || tell(LayerStep::Waiting))?;
        let layer = self.stream(lead, source, tell)?;
        drop(slot);
        if layer.diff_id != source.diff_id {
            return Err(Error::RootFsMismatch);
        }
        self.commit_layer(&layer)?;
        tell(LayerStep::Complete);
        Ok(())
    }

    fn stream(
        &self,
        lead: &Lead<'_>,
        source: &Source<'_>,
        tell: &dyn Fn(LayerStep),
    ) -> Result<Finished, Error> {
        let retrying = &mut |left: Duration| {
            let seconds = seconds_left(left);
            tell(LayerStep::Retrying { seconds });
        };
        let size = Some(source.size);
        let mut blob = (source.repository).blob_patiently(source.digest, size, retrying)?;
        let scratch = self.scratch("layer")?;
        let mut copy = match source.keep {
            true => Some(layer::create_blob(scratch.path())?),
            false => None,
        };
        let cancel = source.cancel;
        let mut pipeline = Pipeline::start(scratch, &self.owners, self.limits, cancel)?;
        let mut hash = source.digest.algorithm().hasher();
        let mut pace = Pace::new(source.size);
        let (mut current, mut start) = (0, Vec::new());
        let mut buffer = vec![0; CHUNK];
        loop {
            let amount = blob.read_patiently(&mut buffer, retrying)?;
            lead.check()?;
            if amount == 0 {
                break;
            }
            hash.update(&buffer[..amount]);
            pipeline.write(&buffer[..amount]);
            if let Some(copy) = &mut copy
                && let Err(error) = copy.write_all(&buffer[..amount])
            {
                return Err(store("write", layer::BLOB)(error));
            }
            begin_with(&mut start, &buffer[..amount]);
            current += amount as u64;
            if pace.is_due(current, Instant::now()) {
                let total = source.size;
                tell(LayerStep::Downloading { current, total });
            }
            if pipeline.has_failed() {
                let error = pipeline.finish().err().unwrap_or(Error::Interrupted);
                return Err(explained(error, blob, hash, source.digest));
            }
        }
        tell(LayerStep::Verifying);
        if hash.finish() != source.digest {
            return Err(registry::Error::BlobDigest(source.digest).into());
        }
        tell(LayerStep::Downloaded);
        let (current, total) = (source.size, source.size);
        tell(LayerStep::Extracting { current, total });
        let mut layer = pipeline.finish()?;
        let (digest, size) = (source.digest, source.size);
        layer.kept = copy.map(|_| Kept { digest, size });
        if let Some(format) = Format::detect(&start) {
            let blob = origin::Blob {
                digest,
                size,
                format,
                made: false,
                places: vec![source.repository.reference().bare()],
            };
            origin::write_first(layer.scratch.path(), &blob)?;
        }
        Ok(layer)
    }
}

/// Whole seconds, the last begun one included.
pub(super) fn seconds_left(left: Duration) -> u64 {
    left.as_secs() + u64::from(left.subsec_nanos() > 0)
}

fn from_blob(error: std::io::Error) -> Error {
    registry::Error::from_io(error).map_or_else(Error::Source, Error::Registry)
}

/// Why a layer cannot be unpacked: where its content is to blame, the blob may be another than was
/// promised, which the rest of it tells.
fn explained(error: Error, mut blob: impl Read, mut hash: Hasher, expected: Digest) -> Error {
    let by_content = matches!(
        error,
        Error::Tar(_) | Error::Entry { .. } | Error::Decompress(_)
    );
    if !by_content {
        return error;
    }
    let mut buffer = vec![0; CHUNK];
    loop {
        match blob.read(&mut buffer) {
            Ok(0) => break,
            Ok(amount) => hash.update(&buffer[..amount]),
            Err(broken) => return from_blob(broken),
        }
    }
    if hash.finish() == expected {
        error
    } else {
        registry::Error::BlobDigest(expected).into()
    }
}

/// How often progress is told: Docker's rule, by bytes and by time, and always at the end.
pub(super) struct Pace {
    total: u64,
    every: u64,
    told: u64,
    at: Option<Instant>,
}

impl Pace {
    pub(super) fn new(total: u64) -> Self {
        Self {
            total,
            every: TELL_BYTES.min(total / 100),
            told: 0,
            at: None,
        }
    }

    pub(super) fn is_due(&mut self, current: u64, now: Instant) -> bool {
        let soon = self.at.is_some_and(|at| now < at + TELL_EVERY);
        let due = current == self.total || (current - self.told > self.every && !soon);
        if due {
            self.told = current;
            self.at = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_at_dockers_pace() {
        let begin = Instant::now();
        let mut pace = Pace::new(10 << 20);
        let at = |millis| begin + Duration::from_millis(millis);
        assert!(!pace.is_due(100, at(0)), "less than a hundredth");
        assert!(pace.is_due(200 << 10, at(0)));
        assert!(!pace.is_due(1 << 20, at(50)), "too soon");
        assert!(pace.is_due(1 << 20, at(100)));
        assert!(!pace.is_due((1 << 20) + 1, at(1000)), "too little");
        assert!(pace.is_due(10 << 20, at(1001)), "the end");
        assert!(Pace::new(0).is_due(0, begin));
    }

    #[test]
    fn one_leads_and_others_follow() {
        let downloads = Downloads::new(3);
        let layer = Digest::of(b"layer");
        let cancel = Cancel::new();
        let Role::Lead(lead) = downloads.join(layer, &cancel) else {
            panic!("nobody else is there");
        };
        let Role::Follow(follow) = downloads.join(layer, &cancel) else {
            panic!("somebody leads");
        };
        lead.at(LayerStep::Verifying);
        let told = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let follower = scope
                .spawn(|| (follow.flight).follow(&Cancel::new(), &|step| lock(&told).push(step)));
            while lock(&told).is_empty() {
                std::thread::yield_now();
            }
            drop(lead);
            assert!(follower.join().unwrap().is_ok());
        });
        assert_eq!(*lock(&told), [LayerStep::Verifying]);
        assert!(matches!(downloads.join(layer, &cancel), Role::Lead(_)));
    }

    #[test]
    fn who_follows_keeps_a_leader_whose_pull_is_cancelled() {
        let downloads = Downloads::new(3);
        let (first, second) = (Cancel::new(), Cancel::new());
        let (shared, own) = (Digest::of(b"shared"), Digest::of(b"own"));
        let lead = |layer| match downloads.join(layer, &first) {
            Role::Lead(lead) => lead,
            Role::Follow(_) => panic!("nobody else is there"),
        };
        let (shared, own) = (lead(shared), lead(own));
        let Role::Follow(follow) = downloads.join(shared.layer, &second) else {
            panic!("somebody leads");
        };
        first.cancel();
        assert!(first.check().is_ok() && shared.check().is_ok());
        assert!(own.check().is_err(), "nobody else wants that one");
        second.cancel();
        assert!(follow.flight.follow(&second, &|_| ()).is_err());
        drop(follow);
        assert!(first.check().is_err() && shared.check().is_err());
    }
}
