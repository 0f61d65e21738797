//! A handle that ends a transfer from another thread.
//!
//! Whoever waits for the network waits in slices and asks the handle between them, so that a pull
//! whose client is gone ends within [`SLICE`] and not with the next time-out: in a connect, in the
//! middle of a body, in a lookup of a name, or in the pause before another attempt.
//!
//! What somebody else wants too goes on: as long as a [`Hold`] of the handle lives, its use has no
//! effect on what is under way. Who used it can tell ([`Cancel::is_used`]), and begins nothing more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::error::Error;

/// Longest time between two looks at the handle.
pub(super) const SLICE: Duration = Duration::from_millis(200);

/// Ends the transfers that were given a clone of it; it cannot be taken back.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<State>);

#[derive(Debug, Default)]
struct State {
    used: AtomicBool,
    holders: AtomicUsize,
}

/// Keeps transfers going whose [`Cancel`] is used, until it is dropped.
#[derive(Debug)]
pub struct Hold(Cancel);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.0.holders.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Cancel {
    /// A handle that nobody has used yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the transfers, as soon as nobody holds them.
    pub fn cancel(&self) {
        self.0.used.store(true, Ordering::Release);
    }

    /// Whether it was used, held or not.
    pub fn is_used(&self) -> bool {
        self.0.used.load(Ordering::Acquire)
    }

    /// Whether the transfers are to end.
    pub fn is_cancelled(&self) -> bool {
        self.is_used() && self.0.holders.load(Ordering::Acquire) == 0
    }

    /// Keeps the transfers going, even if it is used.
    pub fn hold(&self) -> Hold {
        self.0.holders.fetch_add(1, Ordering::AcqRel);
        Hold(self.clone())
    }

    /// Fails once the transfers are to end.
    pub fn check(&self) -> Result<(), Error> {
        if self.is_cancelled() {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Waits, unless the transfers are to end.
    pub(super) fn sleep(&self, duration: Duration) -> Result<(), Error> {
        let end = Instant::now() + duration;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(SLICE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_wakes() {
        let cancel = Cancel::new();
        assert!(cancel.sleep(Duration::from_millis(1)).is_ok());
        let other = cancel.clone();
        let begun = Instant::now();
        std::thread::spawn(move || other.cancel());
        assert!(cancel.sleep(Duration::from_secs(60)).is_err());
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn what_is_held_goes_on() {
        let cancel = Cancel::new();
        let (first, second) = (cancel.hold(), cancel.hold());
        cancel.cancel();
        assert!(cancel.is_used() && cancel.check().is_ok());
        drop(first);
        assert!(cancel.check().is_ok());
        drop(second);
        assert!(cancel.check().is_err());
    }
}
