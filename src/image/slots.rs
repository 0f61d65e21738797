//! How many transfers there may be at once, whoever they belong to.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::Error;
use crate::registry::Cancel;

/// How long somebody who waits does not look at the [`Cancel`].
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// So many places.
pub(super) struct Slots {
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    limit: usize,
    taken: usize,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is guarded by this can be left half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slots {
    /// So many, and at least one.
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        Self {
            state: Mutex::new(State { limit, taken: 0 }),
            freed: Condvar::new(),
        }
    }

    pub(super) fn limit(&self) -> usize {
        lock(&self.state).limit
    }

    /// Changes how many there are; those that are taken stay so.
    pub(super) fn set_limit(&self, limit: usize) {
        lock(&self.state).limit = limit.max(1);
        self.freed.notify_all();
    }

    /// Takes one; `waiting` is called if there is none at once.
    pub(super) fn take(&self, cancel: &Cancel, waiting: impl FnOnce()) -> Result<Slot<'_>, Error> {
        let mut state = lock(&self.state);
        if state.taken >= state.limit {
            drop(state);
            waiting();
            state = lock(&self.state);
        }
        while state.taken >= state.limit {
            cancel.check()?;
            let waited = self.freed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.taken += 1;
        Ok(Slot(self))
    }
}

/// Frees a place when dropped.
pub(super) struct Slot<'a>(&'a Slots);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).taken -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn slots_are_bounded_and_come_back() {
        let slots = Slots::new(0);
        assert_eq!(slots.limit(), 1);
        let cancel = Cancel::new();
        let slot = slots.take(&cancel, || panic!("one is free")).unwrap();
        let waited = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let count = || {
                    waited.fetch_add(1, Ordering::Relaxed);
                };
                slots.take(&cancel, count).map(drop)
            });
            while waited.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            drop(slot);
            assert!(second.join().unwrap().is_ok());
        });
        let _slot = slots.take(&cancel, || ()).unwrap();
        cancel.cancel();
        assert!(slots.take(&cancel, || ()).is_err(), "cancelled");
        slots.set_limit(2);
        assert!(slots.take(&cancel, || panic!("one is free")).is_ok());
    }
}
