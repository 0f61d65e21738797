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
mod index;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::api::exec::ExecConfig;
use crate::container::logs::Follow;
use crate::container::protocol::{Attach, Exit, Started};
use crate::container::record::{Record, RecordError, State};
use crate::engine::error::{Error, Result};
use crate::types::id::ContainerId;
use crate::userns::keeper::ShimIdentity;

pub(super) use ahead::{Ahead, Places};
pub use index::Index;

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

/// An exec session.
#[derive(Debug, Clone)]
pub struct Exec {
    /// What was asked for.
    pub config: ExecConfig,
    /// Whether its process runs.
    pub running: bool,
    /// Whether it was ever started.
    pub started: bool,
    /// Its start is under way: neither pid nor code is known yet.
    pub starting: bool,
    /// The client's stdin was wanted at start.
    pub attached: bool,
    /// Pid on the host, once started.
    pub pid: i32,
    /// Exit code, once ended.
    pub code: Option<i32>,
    /// When it was asked for.
    pub made: Instant,
    /// When it ended.
    pub ended: Option<Instant>,
}

impl Exec {
    /// A session of which nothing runs yet.
    pub fn new(config: ExecConfig) -> Self {
        Self {
            config,
            running: false,
            started: false,
            starting: false,
            attached: false,
            pid: 0,
            code: None,
            made: Instant::now(),
            ended: None,
        }
    }

    /// Its process has ended, or could not be started; a code that is known already stays.
    pub fn end(&mut self, code: i32) {
        self.running = false;
        self.code.get_or_insert(code);
        self.ended.get_or_insert_with(Instant::now);
    }
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
    pub(super) fn of(state: &State) -> Self {
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

/// A start that is under way. Dropped without an end, by a panic, it is over all the same.
pub struct Starting(Arc<Container>);

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
pub struct Ending(Arc<Container>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.data().ending = false;
        self.0.notify();
    }
}

/// A client on its way to be attached.
pub struct Arriving(Arc<Container>);

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.data().arriving -= 1;
        self.0.notify();
    }
}

/// Somebody waits; dropped, nobody does.
pub struct Waiting {
    container: Weak<Container>,
    number: u64,
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

/// Files in a container's directory, and which of the image's own they are bound over.
pub(super) const FILES: [(&str, &str); 3] = [
    ("resolv.conf", "/etc/resolv.conf"),
    ("hostname", "/etc/hostname"),
    ("hosts", "/etc/hosts"),
];

/// Where a container's things are.
pub struct Paths<'a>(pub &'a Path);

impl Paths<'_> {
    /// Upper directory of the overlay.
    pub fn upper(&self) -> PathBuf {
        self.0.join("upper")
    }

    /// Work directory of the overlay.
    pub fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    /// The log of the json-file driver.
    pub fn log(&self, id: &ContainerId) -> PathBuf {
        self.0.join(format!("{id}-json.log"))
    }

    /// The log of the driver `local`, in a directory of its own.
    pub fn local_log(&self) -> PathBuf {
        self.0.join("local-logs/container.log")
    }

    /// The copy of a log that goes elsewhere.
    pub fn log_cache(&self) -> PathBuf {
        self.0.join("container-cached.log")
    }

    /// How the last run ended, as the shim wrote it.
    pub fn exit(&self) -> PathBuf {
        self.0.join("exit.json")
    }

    /// Which process the last run's shim is, as it wrote it.
    pub fn shim(&self) -> PathBuf {
        self.0.join(ShimIdentity::FILE)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::container::protocol::Started;
    use crate::overlay::Driver;
    use crate::types::digest::Digest;
    use crate::types::timestamp::Timestamp;

    fn container(directory: &Path) -> Arc<Container> {
        let record = Record {
            id: ContainerId::random(),
            name: "old".to_owned(),
            created: Timestamp::ZERO,
            image: Digest::of(b""),
            image_name: String::new(),
            os: String::new(),
            layers: Vec::new(),
            driver: Driver::Overlay2,
            config: Default::default(),
            host_config: Default::default(),
            networking: Default::default(),
            mounts: Vec::new(),
            state: State::Created { failure: None },
            links: Vec::new(),
            endpoints: BTreeMap::new(),
            ports: BTreeMap::new(),
            finished: None,
            restart_count: 0,
            stopped_by_user: false,
            health: None,
            boot_id: String::new(),
        };
        Container::new(record, directory.to_owned())
    }

    #[test]
    fn a_start_that_panics_is_over() {
        let container = container(Path::new("/nonexistent"));
        let starting = container.starting(&mut container.data());
        assert!(container.data().is_busy());
        let panicked = std::thread::spawn(move || {
            let _starting = starting;
            panic!("a defect");
        });
        assert!(panicked.join().is_err());
        assert!(!container.settled().is_busy());
    }

    #[test]
    fn who_waits_no_more_is_forgotten() {
        let container = container(Path::new("/nonexistent"));
        let called = Arc::new(AtomicUsize::new(0));
        let wait = |condition| {
            let called = Arc::clone(&called);
            let waiter = Box::new(move |_| {
                called.fetch_add(1, Ordering::SeqCst);
            });
            container.data().wait(&container, condition, waiter)
        };
        let (kept, left) = (wait(WaitCondition::NextExit), wait(WaitCondition::NextExit));
        let removal = wait(WaitCondition::Removed);
        drop(left);
        for waiter in container.take_waiters(|condition| condition == WaitCondition::NextExit) {
            waiter(Ended {
                code: 0,
                error: String::new(),
            });
        }
        assert_eq!(called.load(Ordering::SeqCst), 1);
        assert_eq!(container.data().waiters.len(), 1);
        drop((kept, removal));
        assert!(container.data().waiters.is_empty());
    }

    #[test]
    fn an_end_is_told_before_the_next_start() {
        let container = container(Path::new("/nonexistent"));
        let told = Arc::new(AtomicUsize::new(0));
        let ending = container.ending(&mut container.data());
        let (starting, seen) = (Arc::clone(&container), Arc::clone(&told));
        let start = std::thread::spawn(move || {
            let _data = starting.told();
            seen.load(Ordering::SeqCst)
        });
        std::thread::sleep(Duration::from_millis(10));
        told.store(1, Ordering::SeqCst);
        drop(ending);
        assert_eq!(start.join().unwrap(), 1);
    }

    #[test]
    fn a_start_waits_for_the_clients_on_their_way() {
        let container = container(Path::new("/nonexistent"));
        let client = container.arriving();
        let here = |data: &Data| data.arriving == 0;
        assert!(!container.wait_until(Some(Duration::from_millis(10)), here));
        let waiting = Arc::clone(&container);
        let start = std::thread::spawn(move || waiting.wait_until(None, here));
        drop(client);
        assert!(start.join().unwrap());
    }

    #[test]
    fn one_run_is_not_another() {
        let container = container(Path::new("/nonexistent"));
        let run = |pid| Started {
            pid,
            start_time: 1,
            at: 1,
        };
        let mut data = container.data();
        data.record.state = State::Running {
            started: run(7),
            paused: false,
        };
        assert!(!data.is_over(Some(run(7))));
        assert!(data.is_over(Some(run(6))));
        assert!(data.is_over(None));
    }

    #[test]
    fn what_was_changed_last_is_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let container = container(directory.path());
        let threads = (0..8).map(|number| {
            let container = Arc::clone(&container);
            std::thread::spawn(move || {
                container.data().record.restart_count += 1;
                container.data().record.name = number.to_string();
                container.save(false).unwrap();
            })
        });
        for thread in threads.collect::<Vec<_>>() {
            thread.join().unwrap();
        }
        let read = Record::read(directory.path()).unwrap();
        assert_eq!(read.name, container.record().name);
        assert_eq!(read.restart_count, 8);
    }
}
