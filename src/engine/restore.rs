//! Finding again what runs: what a daemon does first.
//!
//! Containers do not notice that their daemon died. Each record that says "running" is held
//! against its shim: one that answers is adopted, with whatever it has to tell; one that left has
//! written the exit; one that did neither was killed (137), or the host was restarted (255). One
//! that speaks another version of the protocol runs on: its container stays "running" and out of
//! reach until a daemon of its version comes back, or the next start finds its exit.
//!
//! A daemon may die between a start and its record, too. So a record that does not say "running"
//! is held against what a shim leaves outside it: its socket, and the exit of a later run than the
//! record knows.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::api::exec::ExecConfig;
use crate::container::protocol::{Exit, SOCKET, ShimState, Started};
use crate::container::record::{Record, State};
use crate::engine::Engine;
use crate::engine::containers::{Container, Exec, Paths};
use crate::engine::error::Error;
use crate::types::id::ContainerId;
use crate::types::timestamp::Timestamp;

impl Engine {
    /// Reads all records and joins what runs. Half-made containers go to the trash.
    ///
    /// # Errors
    /// When the directory of containers cannot be read; a damaged record is logged and left alone.
    pub(super) fn restore(&self) -> std::io::Result<()> {
        let root = self.settings.data_root.join("containers");
        std::fs::create_dir_all(&root)?;
        let mut running = Vec::new();
        for entry in std::fs::read_dir(&root)? {
            let entry = entry?;
            let directory = entry.path();
            // A create that had not come to its end: not in its place, and never answered.
            if entry.file_name().as_bytes().starts_with(b".") {
                tracing::info!("removing a half-made container: {}", directory.display());
                self.trash("half-container", &directory);
                continue;
            }
            let record = match Record::read(&directory) {
                Ok(record) => record,
                Err(error)
                    if !directory
                        .join(crate::container::record::RECORD_FILE)
                        .exists() =>
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
            self.images.hold(&record.layers);
            if self.containers.reserve(&record.name, &record.id).is_err() {
                tracing::error!("two containers are named {}", record.name);
                continue;
            }
            let container = Container::new(record, directory);
            self.containers.insert(container.clone());
            if container.data().record.state.is_running() || self.ran_unrecorded(&container) {
                running.push(container);
            } else if container.data().record.host_config.auto_remove
                && matches!(container.data().record.state, State::Exited { .. })
            {
                container.data().removing = true;
                self.discard(&container, true);
            }
        }
        for container in running {
            self.adopt(&container);
        }
        self.sweep_runtime()
    }

    /// Deletes the runtime directories of containers that there are not.
    fn sweep_runtime(&self) -> std::io::Result<()> {
        let entries = match std::fs::read_dir(self.settings.exec_root.join("c")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let known = name
                .to_str()
                .and_then(|name| name.parse::<ContainerId>().ok())
                .is_some_and(|id| self.containers.by_id(&id).is_some());
            if !known {
                self.janitor.discard(Some(entry.path()));
            }
        }
        Ok(())
    }

    /// Whether the container was started without its record saying so; afterwards it does.
    fn ran_unrecorded(&self, container: &Container) -> bool {
        let directory = self.runtime_directory(&container.id);
        let known = container.data().record.finished.map(|exit| exit.at);
        let shim = match directory.join(SOCKET).exists() {
            true => self.shims.adopt(container.id, &directory).ok(),
            false => None,
        };
        let started = match shim {
            Some(ShimState {
                running: Some(started),
                exit,
                ..
            }) if exit.is_none_or(|exit| Some(exit.at) != known) => started,
            Some(_) => {
                // The shim of the run that is recorded, about to leave.
                self.shims.release(&container.id);
                return false;
            }
            None => match written_exit(container) {
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
            data.record.state = State::Running { started };
            data.record.boot_id.clone_from(&self.facts.boot_id);
        }
        if let Err(error) = container.save(false) {
            tracing::error!("{}", Error::system(&error));
        }
        true
    }

    fn adopt(&self, container: &Arc<Container>) {
        let directory = self.runtime_directory(&container.id);
        match self.shims.adopt(container.id, &directory) {
            Ok(ShimState {
                running: Some(_),
                exit: None,
                execs,
                ..
            }) => {
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
            Ok(ShimState {
                exit: Some(exit), ..
            }) => self.finish(container, exit, String::new()),
            // It runs, and nobody but a moss of its version can do anything about that.
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => tracing::error!(
                id = container.id.short(),
                "the container runs and is left alone: {error}"
            ),
            _ => self.finish_unseen(container),
        }
    }

    /// The exit of a container whose shim is gone.
    fn finish_unseen(&self, container: &Arc<Container>) {
        let written = written_exit(container);
        let rebooted = container.data().record.boot_id != self.facts.boot_id;
        let (exit, error) = match written {
            Some(exit) => (exit, String::new()),
            None if rebooted => (lost(255), "the host was restarted".to_owned()),
            None => (lost(137), "the container's shim was killed".to_owned()),
        };
        self.finish(container, exit, error);
    }
}

/// How the last run ended, as its shim wrote it.
fn written_exit(container: &Container) -> Option<Exit> {
    let bytes = std::fs::read(Paths(&container.directory).exit()).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn lost(code: i32) -> Exit {
    Exit {
        code,
        oom_killed: false,
        at: Timestamp::now().nanos(),
    }
}
