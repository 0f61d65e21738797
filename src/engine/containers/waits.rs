//! Waiting for a container's end or removal, by a function that is called then.

use std::sync::Weak;

use super::Container;
use crate::container::record::State;
use crate::engine::error::{Error, Result};

/// How what was waited for has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit code.
    pub code: i32,
    /// What went wrong beyond that; mostly empty.
    pub error: String,
}

impl Ended {
    /// What a wait is answered with that ended in this state.
    pub(in crate::engine) fn of(state: &State) -> Self {
        let error = match state {
            State::Created {
                failure: Some(failure),
            } => failure.message.clone(),
            State::Exited { error, .. } => error.clone(),
            _ => String::new(),
        };
        Self {
            code: state.exit_code(),
            error,
        }
    }
}

/// Called once, when what was waited for has come.
pub type Waiter = Box<dyn FnOnce(Ended) + Send>;

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// Not running, now or later.
    NotRunning,
    /// The next exit, even if it does not run now.
    NextExit,
    /// Its removal.
    Removed,
}

impl WaitCondition {
    /// Parses the `condition` of `POST /containers/{id}/wait`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "" | "not-running" => Ok(Self::NotRunning),
            "next-exit" => Ok(Self::NextExit),
            "removed" => Ok(Self::Removed),
            other => Err(Error::invalid(format!("invalid condition: \"{other}\""))),
        }
    }
}

/// Somebody waits; dropped, nobody does.
pub struct Waiting {
    pub(super) container: Weak<Container>,
    pub(super) number: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(container) = self.container.upgrade() {
            let waiter = container.data().waiters.remove(&self.number);
            // Not under the lock: a waiter is somebody else's.
            drop(waiter);
        }
    }
}
