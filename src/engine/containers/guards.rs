//! What holds of a container for as long as somebody is at it, a panic included.

use std::sync::Arc;

use super::Container;
use crate::container::protocol::Exit;

/// A start that is under way. Dropped without an end, by a panic, it is over all the same.
pub struct Starting(pub(super) Arc<Container>);

impl Starting {
    /// Says that it is over; the exit that came meanwhile, if one did.
    pub fn end(&self) -> Option<(Exit, String)> {
        let early = {
            let mut data = self.0.data();
            data.starting = false;
            data.early_exit.take()
        };
        self.0.notify();
        early
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        // Only what panicked has left anything.
        drop(self.end());
    }
}

/// An end that is being told of; told, by a panic too, when dropped.
pub struct Ending(pub(super) Arc<Container>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.data().ending = false;
        self.0.notify();
    }
}

/// A client on its way to be attached.
pub struct Arriving(pub(super) Arc<Container>);

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.data().arriving -= 1;
        self.0.notify();
    }
}
