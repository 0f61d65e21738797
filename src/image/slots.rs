//! How many transfers there may be at once, whoever they belong to.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::Error;
use crate::registry::Cancel;

/// How long somebody who waits does not look at the [`Cancel`].
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// So many places.
pub(super) struct Slots {
    limit: usize,
    free: Mutex<usize>,
    freed: Condvar,
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
            limit,
            free: Mutex::new(limit),
            freed: Condvar::new(),
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes one; `waiting` is called if there is none at once.
    pub(super) fn take(&self, cancel: &Cancel, waiting: impl FnOnce()) -> Result<Slot<'_>, Error> {
        let mut free = lock(&self.free);
        if *free == 0 {
            drop(free);
            waiting();
            free = lock(&self.free);
        }
        while *free == 0 {
            cancel.check()?;
            let waited = self.freed.wait_timeout(free, LOOK);
            free = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= 1;
        Ok(Slot(self))
    }
}

/// Frees a place when dropped.
pub(super) struct Slot<'a>(&'a Slots);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
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
    }
}
