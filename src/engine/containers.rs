//! The containers of this engine in memory: one [`Container`] each, found by id, name or prefix.
//!
//! Who may change what. A container has two locks. `operation` is held by whoever starts, removes
//! or renames it, for as long as that takes (a restart waits for its stop, maybe for ever), so only
//! on a thread of its own; `data` is held for moments only, by everybody, and never while anything
//! is waited for. Events from shims take `data` alone, so an exit is recorded whatever an operation
//! is doing. The index has a lock of its own, taken before neither. Records are written by
//! [`Container::save`], which takes turns: what was changed last is on disk in the end.
//!
//! Whoever waits for something in here holds a [`Waiting`], and waits no more when it is dropped.

mod ahead;
mod exec;
mod guards;
mod index;
mod paths;
#[cfg(test)]
mod tests;
mod waits;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::container::logs::Follow;
use crate::container::protocol::{Attach, Exit, Started};
use crate::container::record::{Record, RecordError};
use crate::types::id::ContainerId;

pub(super) use ahead::{Ahead, Places};
pub use exec::Exec;
pub use guards::{Arriving, Ending, Starting};
pub use index::Index;
pub(super) use paths::FILES;
pub use paths::Paths;
pub use waits::{Ended, WaitCondition, Waiter, Waiting};

/// One container.
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its directory in the data root.
    pub directory: PathBuf,
    /// Held while the container is started, removed or renamed.
    pub operation: Mutex<()>,
    data: Mutex<Data>,
    changed: Condvar,
    /// Held while the record is written.
    saving: Mutex<()>,
}

/// What changes of a container.
pub struct Data {
    /// What is on disk of it.
    pub record: Record,
    /// Clients that attached before the start.
    pub pending: Vec<(Attach, OwnedFd)>,
    /// Its start up to the last step, where somebody is likely to ask for it.
    pub(super) ahead: Ahead,
    /// Clients on their way to be attached, whose connections are not here yet.
    pub arriving: usize,
    /// Who waits for what, by number.
    waiters: BTreeMap<u64, (WaitCondition, Waiter)>,
    next_waiter: u64,
    /// Who follows its log.
    pub followers: Vec<Weak<Follow>>,
    /// Its exec sessions, by id.
    pub execs: BTreeMap<String, Exec>,
    /// Somebody is removing it.
    pub removing: bool,
    /// It is removed, and whoever still has it must expect nothing more of it.
    pub removed: bool,
    /// It is being stopped in order to be started again.
    pub restarting: bool,
    /// A start is under way; an exit that comes meanwhile is kept in `early_exit`.
    pub starting: bool,
    /// The exit of a process that ended before its start was recorded, and what went wrong.
    pub early_exit: Option<(Exit, String)>,
    /// Its end is noted, and nobody was told of it yet.
    ending: bool,
    /// How its restart policy goes on.
    pub restarts: Restarts,
    /// Number of its present series of health checks.
    pub checks: u64,
}

/// How the next restart by policy goes (`restart`).
#[derive(Debug, Default)]
pub struct Restarts {
    /// The last back-off; zero before the first.
    pub(super) pause: Duration,
    /// The user has signalled the container, so that its end is wanted.
    pub cancelled: bool,
    /// Counts what makes a restart that is due no longer wanted.
    pub(super) serial: u64,
}

impl Container {
    /// A container with this record, in this directory.
    pub fn new(record: Record, directory: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            id: record.id,
            directory,
            operation: Mutex::new(()),
            changed: Condvar::new(),
            saving: Mutex::new(()),
            data: Mutex::new(Data {
                record,
                pending: Vec::new(),
                ahead: Ahead::default(),
                arriving: 0,
                waiters: BTreeMap::new(),
                next_waiter: 0,
                followers: Vec::new(),
                execs: BTreeMap::new(),
                removing: false,
                removed: false,
                restarting: false,
                starting: false,
                early_exit: None,
                ending: false,
                restarts: Restarts::default(),
                checks: 0,
            }),
        })
    }

    /// Its changing part.
    pub fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds off every other start, removal and rename.
    pub fn operate(&self) -> MutexGuard<'_, ()> {
        self.operation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Its changing part, once no start is under way: a program that has begun to run may have told
    /// of itself before the engine has written down that it runs.
    pub fn settled(&self) -> MutexGuard<'_, Data> {
        self.changed
            .wait_while(self.data(), |data| data.starting)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Its changing part, once everybody was told of its last end: what a start tells comes after.
    pub fn told(&self) -> MutexGuard<'_, Data> {
        self.changed
            .wait_while(self.data(), |data| data.ending)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the record as it is now. `durable` asks that it outlives a power cut.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, durable: bool) -> std::result::Result<(), RecordError> {
        let _turn = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        self.record().write(&self.directory, durable)
    }

    /// Its record as it is now.
    pub fn record(&self) -> Record {
        self.data().record.clone()
    }

    /// Wakes whoever is in [`Container::wait_until`].
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits until `done` says so or `timeout` has passed; says whether it did.
    pub fn wait_until(&self, timeout: Option<Duration>, done: impl Fn(&Data) -> bool) -> bool {
        let guard = self.data();
        match timeout {
            None => {
                drop(
                    self.changed
                        .wait_while(guard, |data| !done(data))
                        .unwrap_or_else(PoisonError::into_inner),
                );
                true
            }
            Some(timeout) => {
                let (_guard, result) = self
                    .changed
                    .wait_timeout_while(guard, timeout, |data| !done(data))
                    .unwrap_or_else(PoisonError::into_inner);
                !result.timed_out()
            }
        }
    }

    /// Takes out the waiters that `condition` satisfies.
    pub fn take_waiters(&self, satisfied: impl Fn(WaitCondition) -> bool) -> Vec<Waiter> {
        self.data().take_waiters(satisfied)
    }

    /// Says that its end is noted, in its `data`, and yet to be told, until what is returned is
    /// dropped.
    pub fn ending(self: &Arc<Self>, data: &mut Data) -> Ending {
        data.ending = true;
        Ending(Arc::clone(self))
    }

    /// Says that a start is under way, in its `data`, until what is returned ends.
    pub fn starting(self: &Arc<Self>, data: &mut Data) -> Starting {
        data.starting = true;
        Starting(Arc::clone(self))
    }

    /// Counts a client that is on its way.
    pub fn arriving(self: &Arc<Self>) -> Arriving {
        self.data().arriving += 1;
        Arriving(Arc::clone(self))
    }
}

impl Data {
    /// Whether a process of it runs, or is about to.
    pub fn is_busy(&self) -> bool {
        self.record.state.is_live() || self.starting || self.restarting
    }

    /// Forgets what is prepared of its start, or is being prepared; the start will make it anew.
    /// To be called by whoever changes what a start is made from, beside the change: the record but
    /// for its name, networks, what lies in its directory or in its root filesystem.
    pub fn discard_prepared(&mut self) {
        self.ahead.discard();
    }

    /// Whether this run of it is over; another may have begun since.
    pub fn is_over(&self, run: Option<Started>) -> bool {
        run.is_none() || self.record.state.started() != run
    }

    /// The same, and its end was told of: what comes of it may be told next.
    pub fn is_told_over(&self, run: Option<Started>) -> bool {
        self.is_over(run) && !self.ending
    }

    /// Takes out the waiters that `condition` satisfies.
    pub fn take_waiters(&mut self, satisfied: impl Fn(WaitCondition) -> bool) -> Vec<Waiter> {
        let (fired, kept) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(_, (condition, _))| satisfied(*condition));
        self.waiters = kept;
        fired.into_values().map(|(_, waiter)| waiter).collect()
    }

    /// Notes a waiter, of the container that this is of.
    pub fn wait(
        &mut self,
        of: &Arc<Container>,
        condition: WaitCondition,
        waiter: Waiter,
    ) -> Waiting {
        let number = self.next_waiter;
        self.next_waiter += 1;
        self.waiters.insert(number, (condition, waiter));
        Waiting {
            container: Arc::downgrade(of),
            number,
        }
    }
}
