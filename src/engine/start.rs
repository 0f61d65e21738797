//! Starting a container, and what happens when it ends.
//!
//! ```text
//! prepare ─▶ files (/etc/hosts …) ─▶ spec ─▶ plan ─▶ shim: root, namespaces, mounts
//!                                                      │
//! start ───────────────────────────────────▶ go ═ Started ═▶ Running
//!                                                 ╚═ Exited ══▶ finish: Exited ─▶ waiters ─▶ --rm
//! ```
//!
//! A start is both halves, one after the other. Where one is likely to be asked for, the first half
//! is done ahead (`ahead`); where starting what was prepared fails all is made anew, so that what
//! is told is how things are at the start.
//!
//! A process may end before its start is recorded; its exit then waits in `early_exit` until the
//! start is. The exit is reported before the shim lets go of the root filesystem, since unmounting
//! an overlay syncs the filesystem beneath it.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::container::client::{Launched, NotStarted, Prepared};
use crate::container::protocol::{Attach, Exit, Failure, Message, Start};
use crate::container::record::{MountKind, MountPoint, Record, State};
use crate::container::spec::log;
use crate::engine::Engine;
use crate::engine::containers::{Container, Ended, Paths, Restarts, WaitCondition};
use crate::engine::error::{Error, Kind, Result};
use crate::engine::logging;
use crate::engine::networks::Joining;
use crate::overlay::Rootfs;
use crate::types::errno;
use crate::types::id::ContainerId;
use crate::userns::keeper::ShimIdentity;
use crate::userns::stage::Origin;

/// How long a start waits for clients that were told that they are attached. They take
/// microseconds; only one that left in between, or does not read what was logged, holds it up.
const ARRIVAL: Duration = Duration::from_secs(2);

impl Engine {
    /// Starts a container. 304 when it runs already. `checkpoint_dir` says that a directory for
    /// checkpoints was named, which dockerd refuses, but only where it could have started.
    pub fn container_start(&self, name: &str, checkpoint_dir: bool) -> Result<()> {
        let container = self.containers.find(name)?;
        let _operation = container.operate();
        if checkpoint_dir && !container.data().record.state.is_running() {
            return Err(Error::new(
                Kind::Forbidden,
                "custom checkpointdir is not supported",
            ));
        }
        self.start_locked(&container)
    }

    /// Starts a container, whose operation lock the caller holds, because the user wants it to run.
    pub(super) fn start_locked(&self, container: &Arc<Container>) -> Result<()> {
        {
            let mut data = container.data();
            if data.record.state.is_paused() {
                return Err(Error::conflict(
                    "cannot start a paused container, try unpause instead",
                ));
            }
            if data.record.state.is_live() {
                return Err(Error::new(Kind::NotModified, ""));
            }
            data.record.restart_count = 0;
            data.record.stopped_by_user = false;
            data.restarts = Restarts::default();
        }
        self.start_again(container)
    }

    /// Starts a container whose operation lock the caller holds.
    pub(super) fn start_again(&self, container: &Arc<Container>) -> Result<()> {
        // `docker run` starts the container as soon as it is told that it is attached.
        if !container.wait_until(Some(ARRIVAL), |data| data.arriving == 0) {
            tracing::warn!("an attach is still under way; starting without it");
        }
        let starting;
        let (record, prepared, clients) = {
            let mut data = container.told();
            data.restarting = false;
            if data.removing {
                return Err(Error::conflict(
                    "container is marked for removal and cannot be started",
                ));
            }
            if data.record.state.is_running() {
                return Err(Error::new(Kind::NotModified, ""));
            }
            data.early_exit = None;
            starting = container.starting(&mut data);
            data.execs.clear();
            let clients = std::mem::take(&mut data.pending);
            (data.record.clone(), data.ahead.take(), clients)
        };
        self.execs.retain(|owner| *owner != container.id);
        let launched = self.launch(container, &record, prepared, &clients);
        drop(clients);
        let outcome = match launched {
            Ok((launched, joined)) => {
                self.record_start(container, &launched, joined);
                Ok(())
            }
            Err((failure, error)) => {
                self.record_failed_start(container, &failure);
                Err(error)
            }
        };
        if let Some((exit, error)) = starting.end() {
            self.finish(container, exit, error);
        }
        outcome
    }

    /// Both halves of a start, or the second of one that is prepared.
    fn launch(
        &self,
        container: &Container,
        record: &Record,
        prepared: Option<Prepared>,
        clients: &[(Attach, OwnedFd)],
    ) -> std::result::Result<(Launched, Joining<'_>), (Failure, Error)> {
        let own = |error: Error| {
            let failure = Failure {
                code: 128,
                ..Failure::own(error.message.clone())
            };
            (failure, error)
        };
        let refused = |NotStarted { failure, .. }| start_error(&failure);
        let in_networks = |error: Error| own(error.during("failed to set up container networking"));
        let was_prepared = prepared.is_some();
        if let Some(prepared) = prepared {
            self.use_volumes(record).map_err(own)?;
            self.forget_last_run(container).map_err(own)?;
            let mut joining = self.join_networks(record).map_err(in_networks)?;
            let around = joining.surroundings();
            let written = match joining.has_interfaces() {
                true => self.write_files(record, &container.directory, &around),
                // The host may have joined another network since.
                false => self.write_resolv_conf(record, &container.directory, &around),
            };
            written.map_err(own)?;
            match self.let_go(prepared, &mut joining, clients) {
                Err(NotStarted {
                    never_ran: true,
                    failure,
                }) => tracing::debug!(id = container.id.short(), "to be made anew: {failure}"),
                other => return other.map(|launched| (launched, joining)).map_err(refused),
            }
        }
        let start = self.prepare(container, record).map_err(own)?;
        if !was_prepared {
            self.use_volumes(record).map_err(own)?;
        }
        self.forget_last_run(container).map_err(own)?;
        let prepared = self.shim(start).map_err(|failure| start_error(&failure))?;
        // Beside the shim, which has bound the files, and lets nobody read them yet.
        let mut joining = self.join_networks(record).map_err(in_networks)?;
        self.write_files(record, &container.directory, &joining.surroundings())
            .map_err(own)?;
        let launched = self
            .let_go(prepared, &mut joining, clients)
            .map_err(refused)?;
        Ok((launched, joining))
    }

    /// Plugs a container in that is prepared, and lets its first process go.
    fn let_go(
        &self,
        prepared: Prepared,
        joining: &mut Joining<'_>,
        clients: &[(Attach, OwnedFd)],
    ) -> std::result::Result<Launched, NotStarted> {
        if joining.has_interfaces() {
            let process = self.shims.process_of(&prepared)?;
            joining.attach(process).map_err(|error| NotStarted {
                failure: Failure::own(error.message),
                never_ran: true,
            })?;
        }
        self.shims.start(prepared, clients)
    }

    /// Has a shim forked that takes a start up to its last step.
    pub(super) fn shim(&self, start: Start) -> std::result::Result<Prepared, Failure> {
        let fork = |connection| {
            let spawned = self.keeper.spawn_shim(&connection);
            spawned.map(drop).map_err(std::io::Error::other)
        };
        self.shims.prepare(&fork, start)
    }

    fn record_start(&self, container: &Arc<Container>, launched: &Launched, joined: Joining<'_>) {
        tracing::debug!(id = container.id.short(), phases = ?launched.phases, "started");
        for note in &launched.notes {
            tracing::warn!(id = container.id.short(), "{note}");
        }
        let record = {
            let mut data = container.data();
            data.record.state = State::Running {
                started: launched.started,
                paused: false,
            };
            data.record.boot_id.clone_from(&self.facts.boot_id);
            joined.keep(&mut data.record);
            data.record.clone()
        };
        if let Err(error) = container.save(false) {
            tracing::error!("{}", Error::system(&error));
        }
        self.tell_linking(&record);
        self.container_event(&record, "start", []);
        self.begin_checking(container);
        self.janitor.provide();
    }

    fn record_failed_start(&self, container: &Arc<Container>, failure: &Failure) {
        let (record, remove, waiters) = {
            let mut data = container.data();
            // Whoever waits for the next exit goes on waiting, as with dockerd, unless this was to be one
            // more of a container that had run. One that does not run is what the others wait for.
            let restarts = matches!(data.record.state, State::Restarting { .. });
            data.record.state = match &data.record.state {
                State::Exited {
                    started_at, exit, ..
                }
                | State::Restarting { started_at, exit } => State::Exited {
                    started_at: *started_at,
                    exit: Exit {
                        code: failure.code,
                        ..*exit
                    },
                    error: failure.message.clone(),
                },
                _ => State::Created {
                    failure: Some(failure.clone()),
                },
            };
            let remove = data.record.host_config.auto_remove && !data.removing;
            data.removing |= remove;
            let woken = |condition| match condition {
                WaitCondition::NotRunning => true,
                WaitCondition::NextExit => restarts,
                WaitCondition::Removed => false,
            };
            (data.record.clone(), remove, data.take_waiters(woken))
        };
        if let Err(error) = container.save(false) {
            tracing::error!("{}", Error::system(&error));
        }
        // As dockerd does whatever failed (moby, daemon/start.go, `Cleanup`).
        self.tell_unmounted(&record);
        for waiter in waiters {
            waiter(Ended::of(&record.state));
        }
        if remove {
            self.discard(container, true);
        }
    }

    /// Everything the shim needs to know; makes what it will mount.
    pub(super) fn prepare(&self, container: &Container, record: &Record) -> Result<Start> {
        let paths = Paths(&container.directory);
        // A run that this daemon does not know of, by a shim that it could not reach.
        if self.written_exit(container).is_none()
            && let Some((pid, _)) = ShimIdentity::living(&container.directory)
        {
            return Err(Error::new(
                Kind::System,
                format!("the container's shim (pid {pid}) runs, and cannot be reached"),
            ));
        }
        let joined = self.joined(record)?;
        self.check_links(record)?;
        for point in record
            .mounts
            .iter()
            .filter(|point| point.kind == MountKind::Bind && !self.binds_socket(&point.source))
        {
            if point.create_source {
                make_source(&point.source)?;
            } else if let Err(error) = std::fs::symlink_metadata(&point.source)
                && error.kind() == std::io::ErrorKind::NotFound
            {
                return Err(Error::invalid(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    point.source.display()
                )));
            }
        }
        let mut points = record.mounts.iter();
        points.try_for_each(|point| self.check_subpath(point))?;
        self.make_files(record, &container.directory)?;
        let init = self.init_of(record)?;
        let plan = self.plan(record, &container.directory, &joined, init.as_deref())?;
        let unlogged = |why| {
            let message =
                "failed to create task for container: failed to initialize logging driver";
            Error::new(Kind::System, format!("{message}: {why}"))
        };
        log::check_values(&record.host_config.log_config).map_err(unlogged)?;
        let file = self.log_file(record);
        if let Some((path, _)) = &file {
            logging::make_directory(path).map_err(|error| {
                let why = errno::text(&error);
                unlogged(format!("error creating local logs dir: {why}"))
            })?;
        }
        let log = logging::of(record, file, &self.facts.hostname).map_err(unlogged)?;
        reopen(&paths.work())?;
        let config = &record.config;
        Ok(Start {
            id: record.id,
            rootfs: Rootfs {
                driver: record.driver,
                lower: self.layers(record),
                upper: paths.upper(),
                work: paths.work(),
                volatile: record.host_config.auto_remove,
                owners: self.owners(record)?,
            },
            plan,
            open_stdin: config.open_stdin,
            stdin_once: config.stdin_once,
            log: log.target,
            delivery: log.delivery,
            runtime_dir: self.runtime_directory(&record.id),
            exit_file: paths.exit(),
            identity_file: paths.shim(),
        })
    }

    /// Sees to it that the container's volumes are there, and tells of it.
    fn use_volumes(&self, record: &Record) -> Result<()> {
        for point in volumes_of(record) {
            let name = point.name.as_deref().unwrap_or_default();
            let volume = self.volumes.get(name);
            let volume = volume.map_err(|error| Error::not_found(error.to_string()))?;
            self.mount_volume(&volume, &record.id)?;
        }
        for point in volumes_of(record) {
            let more = [
                ("destination", point.destination.clone()),
                ("propagation", point.propagation.clone()),
                ("read/write", point.writable.to_string()),
            ];
            self.volume_event("mount", point, &record.id, more);
        }
        Ok(())
    }

    /// Tells that a container's volumes are mounted no more.
    fn tell_unmounted(&self, record: &Record) {
        for point in volumes_of(record) {
            self.volume_event("unmount", point, &record.id, []);
            self.unmount_volume(
                point.name.as_deref().unwrap_or_default(),
                record.id.as_str(),
            );
        }
    }

    /// Tells that a container mounts or unmounts a volume.
    fn volume_event(
        &self,
        action: &str,
        point: &MountPoint,
        container: &ContainerId,
        more: impl IntoIterator<Item = (&'static str, String)>,
    ) {
        let attributes = [
            ("container", container.to_string()),
            ("driver", "local".to_owned()),
        ];
        let attributes = attributes.into_iter().chain(more);
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value));
        let name = point.name.as_deref().unwrap_or_default();
        self.events.emit("volume", action, name, attributes);
    }

    /// What a shim tells; called on the thread that reads all shims' sockets.
    pub(super) fn on_message(&self, id: &ContainerId, message: Message) {
        let Some(container) = self.containers.by_id(id) else {
            return;
        };
        match message {
            Message::Exited(exit) => self.on_exit(&container, exit, String::new()),
            Message::Lost => {
                let (exit, error) = self.unseen_end(&container);
                self.on_exit(&container, exit, error);
            }
            Message::ExecExited { id: exec, code } => self.on_exec_exit(&container, &exec, code),
            Message::Detached { exec: None } => {
                self.container_event(&container.record(), "detach", []);
            }
            Message::Detached { exec: Some(id) } => self.container_event(
                &container.record(),
                "exec_detach",
                [("execID".to_owned(), id)],
            ),
            Message::LogFailed { reason } => tracing::error!(
                id = container.id.short(),
                "cannot write the container's log, which misses output from now on: {reason}"
            ),
            Message::Lapsed => container.data().ahead.forget_lapsed(),
            Message::Reply { .. } => {}
        }
    }

    fn on_exit(&self, container: &Arc<Container>, exit: Exit, error: String) {
        {
            let mut data = container.data();
            if data.starting {
                data.early_exit = Some((exit, error));
                return;
            }
        }
        self.finish(container, exit, error);
    }

    /// Records an exit, tells who waits for it, and removes a container that wants to be.
    pub(super) fn finish(&self, container: &Arc<Container>, exit: Exit, error: String) {
        let error = match exit.lost_server {
            Some(pid) if error.is_empty() => format!(
                "the FUSE server of the container's root filesystem (process {pid}) has ended"
            ),
            _ => error,
        };
        let (record, left, remove, gone, lasted, restart, waiters, ending) = {
            let mut data = container.data();
            let left = data.record.clone();
            let State::Running { started, .. } = data.record.state else {
                return;
            };
            let ran = u64::try_from(exit.at - started.at).unwrap_or(0);
            let ran = Duration::from_nanos(ran);
            data.checks += 1;
            data.record.state = State::Exited {
                started_at: started.at,
                exit,
                error,
            };
            data.record.finished = Some(exit);
            data.record.endpoints.clear();
            data.record.ports.clear();
            let ending = container.ending(&mut data);
            // Whoever comes from now on waits for another end.
            let waiters = data.take_waiters(|condition| condition != WaitCondition::Removed);
            // Their clients may ask for the exit code yet; the next start forgets them.
            data.execs.retain(|_, exec| exec.started);
            data.execs.values_mut().for_each(|exec| exec.end(137));
            for follower in data
                .followers
                .drain(..)
                .filter_map(|follower| follower.upgrade())
            {
                follower.end();
            }
            let gone = data.removing;
            let restart = data.restart(ran);
            let remove = data.record.host_config.auto_remove && !gone && !data.restarting;
            data.removing |= remove;
            (
                data.record.clone(),
                left,
                remove,
                gone,
                ran.as_secs(),
                restart,
                waiters,
                ending,
            )
        };
        // A container being removed needs no record, and may have no directory any more.
        if !remove
            && !gone
            && let Err(error) = container.save(true)
        {
            tracing::error!("{}", Error::system(&error));
        }
        // Before anybody is told: its ports are free for whoever was waiting for that.
        self.leave_networks(&left);
        self.tell_unmounted(&record);
        self.container_event(
            &record,
            "die",
            [
                ("exitCode".to_owned(), exit.code.to_string()),
                ("execDuration".to_owned(), lasted.to_string()),
            ],
        );
        drop(ending);
        for waiter in waiters {
            waiter(Ended::of(&record.state));
        }
        if remove {
            self.discard(container, true);
        }
        if let Some(pause) = restart {
            self.restart_after(container, pause);
        }
        // Last: letting go of all that the container had keeps a processor busy, which whoever has
        // waited for this can use.
        self.shims.release(&container.id);
    }
}

/// The volumes that a container has mounted.
fn volumes_of(record: &Record) -> impl Iterator<Item = &MountPoint> {
    let is_volume = |point: &&MountPoint| point.kind == MountKind::Volume && point.name.is_some();
    record.mounts.iter().filter(is_volume)
}

/// Lets a volatile overlay be mounted once more: what the kernel leaves in its work directory says
/// that files may be lacking, but the host has run on since, as the container was restarted, or was
/// only looked at.
pub(super) fn reopen(work: &Path) -> Result<()> {
    match std::fs::remove_dir_all(work.join("work/incompat")) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(
            "cannot make the container's root filesystem ready again",
            &error,
        )),
        _ => Ok(()),
    }
}

/// Makes what is missing of a bind's source, as directories. That something on the way is a file
/// shows when it is mounted.
pub(super) fn make_source(source: &Path) -> Result<()> {
    let missing = |path: &&Path| !path.try_exists().unwrap_or(false);
    let missing: Vec<&Path> = source.ancestors().take_while(missing).collect();
    for path in missing.into_iter().rev() {
        match std::fs::DirBuilder::new().mode(0o755).create(path) {
            Err(error) if error.kind() == ErrorKind::NotADirectory => return Ok(()),
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(Error::new(
                    Kind::System,
                    format!(
                        "error while creating mount source path '{}': mkdir {}: {}",
                        source.display(),
                        path.display(),
                        errno::text(&error)
                    ),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Docker's words around what the runtime says, and its statuses: what the image or the request
/// got wrong is 400, the rest 500 (moby, daemon/errors.go, `setExitCodeFromError`).
fn start_error(failure: &Failure) -> (Failure, Error) {
    let mut message = match failure.origin {
        Origin::Daemon => failure.message.clone(),
        Origin::Runtime => format!(
            "failed to create task for container: failed to create shim task: OCI runtime create \
         failed: runc create failed: unable to start container process: {}: unknown",
            failure.message
        ),
    };
    if failure.origin == Origin::Runtime && failure.message.contains("not a directory") {
        message.push_str(
            ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the \
             specified host path exists and is the expected type",
        );
    }
    let kind = match failure.code {
        126 | 127 => Kind::InvalidParameter,
        _ => Kind::System,
    };
    let code = if failure.code == 125 {
        128
    } else {
        failure.code
    };
    let recorded = Failure {
        message: message.clone(),
        code,
        origin: failure.origin,
    };
    (recorded, Error::new(kind, message))
}
