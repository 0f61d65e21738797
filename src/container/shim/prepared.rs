//! A start up to its last step: all of it that the world does not see.
//!
//! The root is mounted and the first process waits in its namespaces, for the daemon to say
//! `Start`. A daemon prepares a start as soon as a client has attached, and may then never start:
//! after [`PREPARED`] nobody is expected to come. What failed is kept for the answer to `Start`.

use std::time::{Duration, Instant};

use super::log::Opened;
use super::orphans;
use super::start::{Incomplete, Starter, ends};
use crate::container::protocol::{Failure, Reply, Start};
use crate::userns::plan::{Namespace, ProcessIdentity};

/// How long a shim waits to be told to start what it has prepared.
const PREPARED: Duration = Duration::from_secs(10);

/// What is left to do of a start, or why it cannot be done.
#[derive(Debug)]
pub(crate) struct Prepared<R> {
    outcome: Result<Staged<R>, Failure>,
    /// The process that waits.
    process: Option<ProcessIdentity>,
    until: Instant,
}

/// A container that only needs to be let go.
#[derive(Debug)]
pub(crate) struct Staged<R> {
    /// What was asked for.
    pub(crate) start: Start,
    /// The first process.
    pub(crate) ready: R,
    /// The shim's ends of its streams.
    pub(crate) ends: Incomplete,
    /// What is written of them.
    pub(crate) log: Option<Opened>,
}

impl<R> Prepared<R> {
    /// Takes a start up to its last step.
    pub(crate) fn new<S: Starter<Ready = R>>(starter: &mut S, start: Start) -> Self {
        let outcome = stage(starter, start);
        let process = outcome.as_ref().ok();
        Self {
            process: process.and_then(|staged| S::identity(&staged.ready)),
            outcome,
            until: Instant::now() + PREPARED,
        }
    }

    /// What the daemon is told of it.
    pub(crate) fn reply(&self) -> Reply {
        match &self.outcome {
            Ok(_) => self.process.map_or(Reply::Ok, Reply::Prepared),
            Err(failure) => Reply::Failed(failure.clone()),
        }
    }

    /// When nobody will want it any more.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// What came of it.
    pub(crate) fn outcome(self) -> Result<Staged<R>, Failure> {
        self.outcome
    }
}

fn stage<R>(starter: &mut impl Starter<Ready = R>, start: Start) -> Result<Staged<R>, Failure> {
    let log = Opened::of(&start)?;
    let (stdio, ends) = ends(start.plan.process.terminal, start.open_stdin)?;
    if start.plan.namespaces.pid != Namespace::New {
        orphans::adopt();
    }
    let ready = starter.prepare(&start, stdio)?;
    Ok(Staged {
        start,
        ready,
        ends,
        log,
    })
}
