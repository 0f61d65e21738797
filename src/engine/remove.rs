//! Removing containers.
//!
//! Removal is one rename into the trash, after which the container is gone for everybody; a thread
//! of its own (the janitor) deletes what is in the trash, since a container may leave a million
//! files behind. A daemon that dies in between finds the trash at its next start.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;

use crate::api::container::PruneResponse;
use crate::api::filters::Filters;
use crate::engine::Engine;
use crate::engine::containers::{Container, WaitCondition};
use crate::engine::error::{Error, Result};
use crate::types::timestamp::Timestamp;

/// Deletes directories on a thread of its own.
pub struct Janitor {
    queue: mpsc::Sender<Task>,
}

enum Task {
    Delete(PathBuf),
    /// Answer when everything before this is done.
    Fence(mpsc::Sender<()>),
}

impl Janitor {
    /// Starts the thread and gives it what the last daemon left in `trash`.
    ///
    /// # Errors
    /// When the trash cannot be read or the thread not started.
    pub fn start(trash: &std::path::Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(trash)?;
        let (queue, jobs) = mpsc::channel();
        for entry in std::fs::read_dir(trash)? {
            // The receiver lives: it is in this function.
            let _ = queue.send(Task::Delete(entry?.path()));
        }
        std::thread::Builder::new()
            .name("janitor".to_owned())
            .spawn(move || {
                for task in jobs {
                    match task {
                        Task::Delete(path) => {
                            if let Err(error) = delete(&path) {
                                tracing::warn!("cannot delete {}: {error}", path.display());
                            }
                        }
                        // Whoever asked may have stopped waiting.
                        Task::Fence(done) => drop(done.send(())),
                    }
                }
            })?;
        Ok(Self { queue })
    }

    /// Deletes `path`, soon.
    pub fn discard(&self, path: PathBuf) {
        // The thread ends only with the process.
        let _ = self.queue.send(Task::Delete(path));
    }

    /// Waits until everything discarded so far is deleted.
    fn settle(&self) {
        let (done, wait) = mpsc::channel();
        let _ = self.queue.send(Task::Fence(done));
        // An error is a thread that ended: then there is nothing to wait for.
        let _ = wait.recv();
    }
}

fn delete(path: &std::path::Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            std::fs::remove_file(path)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Engine {
    /// Waits until what was removed is deleted and what was added is on the disk, which may take
    /// long: called before this process ends. What is left is done by the next daemon.
    pub fn settle(&self) {
        self.janitor.settle();
        self.images.settle();
    }

    /// Removes a container; `force` kills it first, `volumes` takes its anonymous volumes along.
    pub fn container_remove(&self, name: &str, volumes: bool, force: bool) -> Result<()> {
        let container = self.containers.find(name)?;
        let running = {
            let mut data = container.data();
            if data.removing {
                return Err(Error::conflict(format!(
                    "removal of container {} is already in progress",
                    container.id
                )));
            }
            let running = data.record.state.is_running();
            if running && !force {
                return Err(Error::conflict(format!(
                    "cannot remove container \"/{}\": container is running: stop the container \
                     before removing or force remove",
                    data.record.name
                )));
            }
            data.removing = true;
            running
        };
        let _operation = container.operate();
        if (running || container.data().record.state.is_running())
            && let Err(error) = self.kill_and_wait(&container)
        {
            container.data().removing = false;
            return Err(error);
        }
        self.discard(&container, volumes);
        Ok(())
    }

    /// Removes the containers that do not run.
    pub fn container_prune(&self, filters: &Filters) -> Result<PruneResponse> {
        filters
            .validate(&["label", "label!", "until"])
            .map_err(|error| Error::invalid(error.to_string()))?;
        let until = match filters.values("until").next() {
            Some(text) => Some(
                Timestamp::parse(text, Timestamp::now())
                    .map_err(|error| Error::invalid(error.to_string()))?,
            ),
            None => None,
        };
        let mut removed = Vec::new();
        let mut reclaimed = 0;
        for container in self.containers.all() {
            let record = container.record();
            let labels = record.config.labels.clone().unwrap_or_default();
            if record.state.is_running()
                || until.is_some_and(|until| record.created > until)
                || !filters.matches_labels("label", &labels)
                || !filters.excludes_labels("label!", &labels)
            {
                continue;
            }
            let (own, _) = self.sizes(&container, &record);
            // One that was started or removed meanwhile is none of ours.
            if self
                .container_remove(record.id.as_str(), false, false)
                .is_ok()
            {
                removed.push(record.id.to_string());
                reclaimed += u64::try_from(own).unwrap_or(0);
            }
        }
        Ok(PruneResponse {
            containers_deleted: Some(removed),
            space_reclaimed: reclaimed,
        })
    }

    /// Takes away a container that does not run and that the caller has marked as `removing`.
    pub(super) fn discard(&self, container: &Arc<Container>, volumes: bool) {
        let record = container.record();
        let trashed = self
            .settings
            .data_root
            .join("trash")
            .join(format!("container-{}", container.id));
        if let Err(error) = std::fs::rename(&container.directory, &trashed) {
            tracing::error!(
                "cannot move {} to the trash: {error}",
                container.directory.display()
            );
        } else {
            self.janitor.discard(trashed);
        }
        // A socket and little else: gone at once, so that a daemon that ends now leaves none of it.
        let runtime = self.runtime_directory(&container.id);
        if let Err(error) = delete(&runtime) {
            tracing::warn!("cannot delete {}: {error}", runtime.display());
        }
        self.containers.remove(&container.id, &record.name);
        if volumes {
            for name in record
                .mounts
                .iter()
                .filter(|point| point.anonymous)
                .filter_map(|p| p.name.as_ref())
            {
                if self.volume_users(name).is_empty()
                    && let Ok(path) = self.volumes.remove(name)
                {
                    self.janitor.discard(path);
                    self.events.emit(
                        "volume",
                        "destroy",
                        name,
                        [("driver".to_owned(), "local".to_owned())],
                    );
                }
            }
        }
        self.container_event(&record, "destroy", []);
        container.data().pending.clear();
        container.notify();
        let code = record.state.exit_code();
        for waiter in container.take_waiters(|_: WaitCondition| true) {
            waiter(Ok(code));
        }
    }
}
