//! How many transfers there may be at once, whoever they belong to; which of them wait for another
//! that does the same; and the threads of one.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::error::{Error, store};
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
    pub(super) const fn new(limit: usize) -> Self {
        let limit = if limit == 0 { 1 } else { limit };
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

    /// Takes one; `waiting` is called if there is none at once. `is_wanted` is asked from time to
    /// time whether to wait on, and fails where not.
    pub(super) fn take<E>(
        &self,
        is_wanted: impl Fn() -> Result<(), E>,
        waiting: impl FnOnce(),
    ) -> Result<Slot<'_>, E> {
        let mut state = lock(&self.state);
        if state.taken >= state.limit {
            drop(state);
            waiting();
            state = lock(&self.state);
        }
        while state.taken >= state.limit {
            is_wanted()?;
            let waited = self.freed.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.taken += 1;
        Ok(Slot(self))
    }
}

/// Does something with each of `items`, in order, on as many threads as `workers`. The first failure
/// ends it, and what is under way with it, by `cancel`.
pub(super) fn for_each<T: Sync>(
    items: &[T],
    workers: usize,
    cancel: &Cancel,
    work: impl Fn(usize, &T) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<Error>> = Mutex::default();
    let fail = |error| {
        lock(&failure).get_or_insert(error);
        cancel.cancel();
    };
    let worker = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return };
            if let Err(error) = work(at, item) {
                return fail(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers.min(items.len()) {
            let thread = thread::Builder::new().name("layer".to_owned());
            if let Err(error) = thread.spawn_scoped(scope, worker) {
                fail(store("start a thread for", "the layer")(error));
            }
        }
    });
    let failure = lock(&failure).take();
    failure.map_or(Ok(()), Err)
}

/// Frees a place when dropped.
pub(super) struct Slot<'a>(&'a Slots);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).taken -= 1;
        self.0.freed.notify_one();
    }
}

/// What is under way, by what it is: who wants the same waits until it is done, or has failed.
pub(super) struct Turns<K: Eq + Hash> {
    taken: Mutex<HashSet<K>>,
    freed: Condvar,
}

impl<K: Eq + Hash> Default for Turns<K> {
    fn default() -> Self {
        Self {
            taken: Mutex::default(),
            freed: Condvar::new(),
        }
    }
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// Takes the turn for `key`; `waiting` is called if somebody else has it.
    pub(super) fn take(
        &self,
        key: K,
        cancel: &Cancel,
        waiting: impl FnOnce(),
    ) -> Result<Turn<'_, K>, Error> {
        let mut taken = lock(&self.taken);
        if taken.contains(&key) {
            drop(taken);
            waiting();
            taken = lock(&self.taken);
        }
        while !taken.insert(key.clone()) {
            cancel.check()?;
            let waited = self.freed.wait_timeout(taken, LOOK);
            taken = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(Turn { turns: self, key })
    }
}

/// Lets the next have the turn when dropped.
pub(super) struct Turn<'a, K: Eq + Hash> {
    turns: &'a Turns<K>,
    key: K,
}

impl<K: Eq + Hash> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        lock(&self.turns.taken).remove(&self.key);
        self.turns.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_done_by_one_at_a_time() {
        let turns = Turns::default();
        let cancel = Cancel::new();
        let turn = turns
            .take("a", &cancel, || panic!("nobody has it"))
            .unwrap();
        let _other = turns
            .take("b", &cancel, || panic!("it is another"))
            .unwrap();
        let waited = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let count = || {
                    waited.fetch_add(1, Ordering::Relaxed);
                };
                turns.take("a", &cancel, count).map(drop)
            });
            while waited.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            drop(turn);
            assert!(second.join().unwrap().is_ok());
        });
        let _turn = turns.take("a", &cancel, || ()).unwrap();
        cancel.cancel();
        assert!(turns.take("a", &cancel, || ()).is_err(), "cancelled");
    }

    #[test]
    fn the_first_failure_ends_the_rest() {
        let items: Vec<usize> = (0..100).collect();
        let seen = Mutex::new(Vec::new());
        let cancel = Cancel::new();
        let all = for_each(&items, 7, &cancel, |at, item| {
            assert_eq!(at, *item);
            lock(&seen).push(at);
            Ok(())
        });
        assert!(all.is_ok() && !cancel.is_cancelled());
        lock(&seen).sort_unstable();
        assert_eq!(*lock(&seen), items);
        let some = for_each(&items, 7, &cancel, |at, _| match at {
            3 => Err(Error::RootFsMismatch),
            4.. => loop {
                cancel.check()?;
                thread::yield_now();
            },
            _ => Ok(()),
        });
        assert!(matches!(some, Err(Error::RootFsMismatch)));
    }

    #[test]
    fn slots_are_bounded_and_come_back() {
        let slots = Slots::new(0);
        assert_eq!(slots.limit(), 1);
        let cancel = Cancel::new();
        let slot = slots
            .take(|| cancel.check(), || panic!("one is free"))
            .unwrap();
        let waited = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let count = || {
                    waited.fetch_add(1, Ordering::Relaxed);
                };
                slots.take(|| cancel.check(), count).map(drop)
            });
            while waited.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            drop(slot);
            assert!(second.join().unwrap().is_ok());
        });
        let _slot = slots.take(|| cancel.check(), || ()).unwrap();
        cancel.cancel();
        assert!(slots.take(|| cancel.check(), || ()).is_err(), "cancelled");
        slots.set_limit(2);
        assert!(
            slots
                .take(|| cancel.check(), || panic!("one is free"))
                .is_ok()
        );
    }
}
