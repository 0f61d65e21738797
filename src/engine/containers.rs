//! The containers of this engine in memory: one [`Container`] each, found by id, name or prefix.
//!
//! Who may change what. A container has two locks. `operation` is held by whoever starts, removes
//! or renames it, for as long as that takes; `data` is held for moments only, by everybody, and
//! never while anything is waited for. Events from shims take `data` alone, so an exit is recorded
//! whatever an operation is doing. The index has a lock of its own, taken before neither.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use crate::api::exec::ExecConfig;
use crate::container::logs::Follow;
use crate::container::protocol::{Attach, Exit};
use crate::container::record::Record;
use crate::engine::error::{Error, Kind, Result};
use crate::types::id::ContainerId;

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
}

/// What changes of a container.
pub struct Data {
    /// What is on disk of it.
    pub record: Record,
    /// Clients that attached before the start.
    pub pending: Vec<(Attach, OwnedFd)>,
    /// Who waits for what.
    pub waiters: Vec<(WaitCondition, Waiter)>,
    /// Who follows its log.
    pub followers: Vec<Weak<Follow>>,
    /// Its exec sessions, by id.
    pub execs: BTreeMap<String, Exec>,
    /// Somebody is removing it.
    pub removing: bool,
    /// A start is under way; an exit that comes meanwhile is kept in `early_exit`.
    pub starting: bool,
    /// The exit of a process that ended before its start was recorded.
    pub early_exit: Option<Exit>,
    /// The user stopped or killed it.
    pub stopped_by_user: bool,
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
}

/// How what was waited for has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit code.
    pub code: i32,
    /// What went wrong beyond that; mostly empty.
    pub error: String,
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
            data: Mutex::new(Data {
                record,
                pending: Vec::new(),
                waiters: Vec::new(),
                followers: Vec::new(),
                execs: BTreeMap::new(),
                removing: false,
                starting: false,
                early_exit: None,
                stopped_by_user: false,
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

    /// Its record as it is now.
    pub fn record(&self) -> Record {
        self.data().record.clone()
    }

    /// Wakes whoever is in [`Container::wait_until`].
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits until `done` says so or `timeout` has passed; says whether it did.
    pub fn wait_until(
        &self,
        timeout: Option<std::time::Duration>,
        done: impl Fn(&Data) -> bool,
    ) -> bool {
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
        let mut data = self.data();
        let (fire, keep) = std::mem::take(&mut data.waiters)
            .into_iter()
            .partition(|(condition, _)| satisfied(*condition));
        data.waiters = keep;
        let fire: Vec<(WaitCondition, Waiter)> = fire;
        fire.into_iter().map(|(_, waiter)| waiter).collect()
    }
}

/// All containers.
#[derive(Default)]
pub struct Index {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    by_id: BTreeMap<ContainerId, Arc<Container>>,
    /// Names, those of containers still being made included.
    names: HashMap<String, ContainerId>,
}

impl Index {
    /// Takes `name` for `id`, or says who has it.
    pub fn reserve(&self, name: &str, id: &ContainerId) -> Result<()> {
        let mut inner = self.write();
        if let Some(owner) = inner.names.get(name) {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \
                 \"{owner}\". You have to remove (or rename) that container to be able to reuse \
                 that name."
            )));
        }
        inner.names.insert(name.to_owned(), *id);
        Ok(())
    }

    /// Gives a reserved name back.
    pub fn release(&self, name: &str) {
        self.write().names.remove(name);
    }

    /// Adds a container whose name is reserved.
    pub fn insert(&self, container: Arc<Container>) {
        self.write().by_id.insert(container.id, container);
    }

    /// Takes a container and its name out.
    pub fn remove(&self, id: &ContainerId, name: &str) {
        let mut inner = self.write();
        inner.by_id.remove(id);
        inner.names.remove(name);
    }

    /// The container of exactly this id.
    pub fn by_id(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.read().by_id.get(id).cloned()
    }

    /// The container that `name` means: full id, name (with or without a slash), then unique
    /// prefix of an id, in this order as in Docker.
    pub fn find(&self, name: &str) -> Result<Arc<Container>> {
        if name.is_empty() {
            return Err(Error::invalid("invalid name or ID supplied: \"\""));
        }
        let inner = self.read();
        if let Ok(id) = name.parse::<ContainerId>()
            && let Some(container) = inner.by_id.get(&id)
        {
            return Ok(container.clone());
        }
        let bare = name.strip_prefix('/').unwrap_or(name);
        if let Some(container) = inner.names.get(bare).and_then(|id| inner.by_id.get(id)) {
            return Ok(container.clone());
        }
        let mut found = inner
            .by_id
            .values()
            .filter(|container| container.id.as_str().starts_with(name));
        match (found.next(), found.next()) {
            (Some(container), None) => Ok(container.clone()),
            (Some(_), Some(_)) => Err(Error::new(
                Kind::InvalidParameter,
                format!("multiple IDs found with provided prefix: {name}"),
            )),
            _ => Err(Error::no_such_container(name)),
        }
    }

    /// All of them, newest first.
    pub fn all(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = self.read().by_id.values().cloned().collect();
        all.sort_by_cached_key(|container| std::cmp::Reverse(container.data().record.created));
        all
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

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

    /// How the last run ended, as the shim wrote it.
    pub fn exit(&self) -> PathBuf {
        self.0.join("exit.json")
    }
}
