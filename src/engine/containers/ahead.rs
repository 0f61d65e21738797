//! What is prepared of containers' starts, and how many may be: see [`ahead`](crate::engine::ahead).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::container::client::Prepared;

/// Most starts that are prepared and not asked for at a time.
const MOST: usize = 16;

/// The places for starts that are prepared.
#[derive(Debug, Default)]
pub(in crate::engine) struct Places(Arc<AtomicUsize>);

/// One of them; free again when dropped.
#[derive(Debug)]
pub(in crate::engine) struct Place(Arc<AtomicUsize>);

impl Places {
    /// Takes one, if there is one.
    pub(in crate::engine) fn take(&self) -> Option<Place> {
        let more = |taken| (taken < MOST).then_some(taken + 1);
        let taken = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        taken.ok().map(|_| Place(Arc::clone(&self.0)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What is prepared of a container's start.
#[derive(Debug, Default)]
pub(in crate::engine) struct Ahead {
    pub(in crate::engine) prepared: Option<(Prepared, Place)>,
    /// How often what a start is made from was changed.
    pub(in crate::engine) changes: u64,
}

impl Ahead {
    /// Takes what is prepared, in order to start it.
    pub(in crate::engine) fn take(&mut self) -> Option<Prepared> {
        self.prepared.take().map(|(prepared, _)| prepared)
    }

    /// Drops what is prepared, and what is being prepared, once it is.
    pub(in crate::engine) fn discard(&mut self) {
        self.changes += 1;
        self.prepared = None;
    }

    /// Drops what is prepared if it is no more.
    pub(in crate::engine) fn forget_lapsed(&mut self) {
        self.prepared.take_if(|(prepared, _)| prepared.has_lapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let places = Places::default();
        let mut taken: Vec<_> = (0..MOST).map(|_| places.take().expect("a place")).collect();
        assert!(places.take().is_none());
        taken.pop();
        assert!(places.take().is_some());
    }
}
