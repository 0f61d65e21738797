//! Finding again what runs: what a daemon does first.
//!
//! Containers do not notice that their daemon died. Each record that says "running" is held
//! against its shim: one that answers is adopted, with whatever it has to tell; one that left has
//! written the exit; one that did neither was killed (137), or the host was restarted (255).
//!
//! The exec root may have been deleted under running containers (logind does that at logout). A shim
//! that has no socket any more, but lives according to what it wrote of itself in the data root,
//! is told to make it anew. One that lives and is still not to be spoken with (it hangs, it speaks
//! another version of the protocol) runs on: its container stays "running" and out of reach until
//! the shim ends, or answers after all: it is asked now and then ([`keep_trying`]).
//!
//! A daemon may die between a start and its record, too. So a record that does not say "running"
//! is held against what a shim leaves outside it: its socket, its identity, and the exit of a later
//! run than the record knows.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::api::exec::ExecConfig;
use crate::container::protocol::{Exit, SOCKET, ShimState, Started};
use crate::container::record::{RECORD_FILE, Record, RecordError, State};
use crate::engine::Engine;
use crate::engine::containers::{Container, Exec, Paths};
use crate::engine::error::Error;
use crate::engine::spare;
use crate::sys::pidfd;
use crate::sys::spread::spread;
use crate::types::id::ContainerId;
use crate::types::timestamp::Timestamp;
use crate::userns::keeper::ShimIdentity;

/// How long all shims may take together to answer, those that have lost their sockets and make them
/// anew included.
const REVIVAL: Duration = Duration::from_secs(10);

/// How long each of them, or one that says nothing, gets of that at least.
const HEARD: Duration = Duration::from_secs(1);

/// How often one of them is told so.
const AGAIN: Duration = Duration::from_secs(1);

/// The first pause before a shim that could not be reached is tried again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What became of a container's shim.
enum Shim {
    /// It is connected, and this is what it knows.
    Connected(ShimState),
    /// It lives, but is not to be spoken with.
    Unreachable(io::Error, Option<OwnedFd>),
    /// It has ended, or is about to and has written the exit.
    Gone,
}

impl Engine {
    /// Reads all records and joins what runs. Half-made containers go to the trash. Returns the
    /// containers whose shims it makes sense to try again.
    ///
    /// # Errors
    /// When the directory of containers cannot be read; a damaged record is logged and left alone.
    pub(super) fn restore(&self) -> std::io::Result<Vec<Arc<Container>>> {
        let root = self.settings.data_root.join("containers");
        std::fs::create_dir_all(&root)?;
        spread(&root);
        let mut containers = Vec::new();
        for entry in std::fs::read_dir(&root)? {
            let entry = entry?;
            let directory = entry.path();
            // A create that had not come to its end: not in its place, and never answered.
            if entry.file_name().as_bytes().starts_with(b".") {
                if !spare::is_spare(&entry.file_name()) {
                    tracing::info!("removing a half-made container: {}", directory.display());
                }
                self.trash("half-container", &directory);
                continue;
            }
            let mut record = match Record::read(&directory) {
                Ok(record) => record,
                // The records of containers that remove themselves are not synced.
                Err(error)
                    if (matches!(error, RecordError::Empty { .. })
                        || !directory.join(RECORD_FILE).exists())
                        && !has_lived(&directory) =>
                {
                    tracing::info!("removing a half-made container: {error}");
                    self.trash("half-container", &directory);
                    continue;
                }
                Err(error) => {
                    tracing::error!("{}", Error::system(&error));
                    continue;
                }
            };
            // Layers that are missing are found so when the container is started.
            self.images.hold(&record.held_layers());
            if self.containers.reserve(&record.name, &record.id).is_err() {
                let id = record.id.to_string();
                tracing::error!("two containers are named {}: one is {id} now", record.name);
                record.name = id;
                // Nobody else can have it but on purpose; then it is found by its id alone.
                let _ = self.containers.reserve(&record.name, &record.id);
            }
            let container = Container::new(record, directory);
            self.containers.insert(container.clone());
            self.wake(&container);
            containers.push(container);
        }
        let deadline = Instant::now() + REVIVAL;
        let mut running = Vec::new();
        let mut unreachable = Vec::new();
        for container in containers {
            if container.data().record.state.is_running()
                || self.ran_unrecorded(&container, deadline)
            {
                running.push(container);
            } else if container.data().record.host_config.auto_remove
                && matches!(
                    container.data().record.state,
                    State::Exited { .. } | State::Created { .. }
                )
            {
                container.data().removing = true;
                self.discard(&container, true);
            }
        }
        for container in &running {
            self.rejoin_networks(&container.record());
        }
        let records: Vec<Record> = running.iter().map(|it| it.record()).collect();
        self.adopt_mounts(records.iter());
        for container in running {
            let shim = self.reach(&container, deadline);
            if let Shim::Unreachable(error, process) = shim {
                let again = error.kind() != ErrorKind::Unsupported;
                self.leave_alone(&container, &error, process);
                unreachable.extend(again.then_some(container));
            } else {
                self.adopt(&container, shim);
            }
        }
        self.repair_networks();
        self.sweep_runtime()?;
        Ok(unreachable)
    }

    /// Tries a container's shim once more; whether that was of use, or nobody need try again.
    fn try_again(&self, container: &Arc<Container>) -> bool {
        // Its end is waited for.
        if ShimIdentity::living(&container.directory).is_none() {
            return true;
        }
        self.wake(container);
        let shim = self.reach(container, Instant::now());
        match &shim {
            Shim::Unreachable(error, _) => error.kind() == ErrorKind::Unsupported,
            Shim::Gone => true,
            Shim::Connected(_) => {
                tracing::info!(id = container.id.short(), "the container is in reach again");
                self.adopt(container, shim);
                true
            }
        }
    }

    /// Deletes the runtime directories of containers that there are not. One whose record is damaged
    /// may run.
    fn sweep_runtime(&self) -> std::io::Result<()> {
        let containers = self.settings.data_root.join("containers");
        let entries = match std::fs::read_dir(self.settings.exec_root.join("c")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let id = name.to_str().map(str::parse::<ContainerId>);
            let known = matches!(id, Some(Ok(_))) && containers.join(&name).exists();
            if !known {
                self.janitor.discard(Some(entry.path()));
            }
        }
        Ok(())
    }

    /// Whether the container was started without its record saying so; afterwards it does.
    fn ran_unrecorded(&self, container: &Container, deadline: Instant) -> bool {
        let directory = self.runtime_directory(&container.id);
        let known = container.data().record.finished.map(|exit| exit.at);
        let left = directory.join(SOCKET).exists() || Paths(&container.directory).shim().exists();
        let shim = match left {
            true => self.reach(container, deadline),
            false => Shim::Gone,
        };
        let started = match shim {
            Shim::Connected(ShimState {
                running: Some(started),
                exit,
                ..
            }) if exit.is_none_or(|exit| Some(exit.at) != known) => started,
            Shim::Connected(_) => {
                // The shim of the run that is recorded, about to leave.
                self.shims.release(&container.id);
                return false;
            }
            // Whether anything runs is not known; a start of the container is refused.
            Shim::Unreachable(error, _) => {
                tracing::error!(
                    id = container.id.short(),
                    "the container has a shim that cannot be reached: {error}"
                );
                return false;
            }
            Shim::Gone => match self.written_exit(container) {
                Some(exit) if Some(exit.at) != known => Started {
                    pid: 0,
                    start_time: 0,
                    at: exit.at,
                },
                _ => return false,
            },
        };
        tracing::info!(id = container.id.short(), "was started and not recorded");
        {
            let mut data = container.data();
            data.record.state = State::Running {
                started,
                paused: false,
            };
            data.record.boot_id.clone_from(&self.facts.boot_id);
        }
        if let Err(error) = container.save(false) {
            tracing::error!("{}", Error::system(&error));
        }
        true
    }

    /// Has a container's shim make its socket anew where it lives and that is gone.
    fn wake(&self, container: &Container) {
        if !self.runtime_directory(&container.id).join(SOCKET).exists()
            && let Some((_, process)) = ShimIdentity::living(&container.directory)
        {
            // One that has ended meanwhile has nothing to tell any more.
            let _ = pidfd::kill(&process, Signal::USR1);
        }
    }

    /// Connects to a container's shim, which may just have been woken.
    fn reach(&self, container: &Container, deadline: Instant) -> Shim {
        let directory = self.runtime_directory(&container.id);
        let adopt = || {
            let left = deadline.saturating_duration_since(Instant::now());
            self.shims.adopt(container.id, &directory, left.max(HEARD))
        };
        let mut error = match adopt() {
            Ok(state) => return Shim::Connected(state),
            Err(error) => error,
        };
        let living = ShimIdentity::living(&container.directory).map(|(_, process)| process);
        let Some(process) = living else {
            return match error.kind() {
                ErrorKind::Unsupported => Shim::Unreachable(error, None),
                _ => Shim::Gone,
            };
        };
        // It no longer listens because it is leaving.
        if self.written_exit(container).is_some() {
            return Shim::Gone;
        }
        let mut told = Instant::now();
        while !is_final(&error) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
            // It may have failed to make its socket.
            if told.elapsed() > AGAIN {
                told = Instant::now();
                self.wake(container);
            }
            // Before the attempt: what a shim did last is done once it has ended.
            let alive = pidfd::is_alive(&process).unwrap_or(true);
            error = match adopt() {
                Ok(state) => return Shim::Connected(state),
                Err(_) if !alive => return Shim::Gone,
                Err(error) => error,
            };
        }
        Shim::Unreachable(error, Some(process))
    }

    /// Takes over what a shim tells, or what it has left.
    fn adopt(&self, container: &Arc<Container>, shim: Shim) {
        match shim {
            Shim::Connected(ShimState {
                running: Some(_),
                exit: None,
                execs,
                ..
            }) => {
                self.go_on_checking(container);
                for (id, pid) in execs {
                    self.execs.insert(id.clone(), container.id);
                    container.data().execs.insert(
                        id,
                        Exec {
                            running: true,
                            started: true,
                            attached: true,
                            pid,
                            ..Exec::new(ExecConfig::default())
                        },
                    );
                }
            }
            Shim::Connected(ShimState {
                exit: Some(exit), ..
            }) => self.finish(container, exit, String::new()),
            // Nothing is known of it.
            Shim::Unreachable(..) => {}
            // A connected one runs nothing and never did.
            Shim::Connected(_) | Shim::Gone => {
                let (exit, error) = self.unseen_end(container);
                self.finish(container, exit, error);
            }
        }
    }

    /// Has the end of a shim noticed that cannot be reached.
    fn leave_alone(&self, container: &Container, error: &io::Error, process: Option<OwnedFd>) {
        tracing::error!(
            id = container.id.short(),
            "the container runs and is left alone: {error}"
        );
        let watched = process.map(|process| self.shims.await_end(container.id, process));
        if let Some(Err(error)) = watched {
            tracing::error!(
                id = container.id.short(),
                "the container's end will not be noticed: {error}"
            );
        }
    }

    /// How a container ended whose shim is gone, and what went wrong.
    pub(super) fn unseen_end(&self, container: &Container) -> (Exit, String) {
        let written = self.written_exit(container);
        let rebooted = container.data().record.boot_id != self.facts.boot_id;
        match written {
            Some(exit) => (exit, String::new()),
            None if rebooted => (lost(255), "the host was restarted".to_owned()),
            None => {
                let mut exit = lost(137);
                exit.at = ShimIdentity::noted_end(&container.directory).unwrap_or(exit.at);
                (exit, "the container's shim was killed".to_owned())
            }
        }
    }
}

/// Tries shims that could not be reached again, on a thread of its own, until each was or has ended.
pub(super) fn keep_trying(engine: &Arc<Engine>, mut containers: Vec<Arc<Container>>) {
    if containers.is_empty() {
        return;
    }
    let engine = Arc::downgrade(engine);
    let spawned = std::thread::Builder::new()
        .name("restore".into())
        .spawn(move || {
            let mut pause = FIRST_PAUSE;
            while !containers.is_empty() {
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
                let Some(engine) = engine.upgrade() else {
                    return;
                };
                containers.retain(|container| !engine.try_again(container));
            }
        });
    if let Err(error) = spawned {
        tracing::error!("containers out of reach will not be tried again: {error}");
    }
}

/// Whether there is more in a container's directory than a create puts there: then it is somebody's,
/// whatever became of its record.
fn has_lived(directory: &Path) -> bool {
    let paths = Paths(directory);
    let holds_files = |directory: &Path| match directory.read_dir() {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != ErrorKind::NotFound,
    };
    paths.exit().exists()
        || directory.join(ShimIdentity::FILE).exists()
        || holds_files(&paths.upper())
}

/// Whether it is of no use to ask a shim again: it says that it speaks another version, or nothing
/// at all.
fn is_final(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unsupported | ErrorKind::TimedOut | ErrorKind::WouldBlock
    )
}

fn lost(code: i32) -> Exit {
    Exit {
        code,
        oom_killed: false,
        lost_server: None,
        at: Timestamp::now().nanos(),
    }
}
