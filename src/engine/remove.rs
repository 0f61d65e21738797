//! Removing containers.
//!
//! Removal is one rename into the trash, after which the container is gone for everybody; a thread
//! of its own (the janitor) deletes what is in the trash, since a container may leave a million
//! files behind, and directories nested deeper than a stack or the limit of descriptors: it is done
//! by [`tree`]. A daemon that dies in between finds the trash at its next start.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use crate::api::container::PruneResponse;
use crate::api::filters::Filters;
use crate::container::record::State;
use crate::engine::Engine;
use crate::engine::containers::{Container, Ended, WaitCondition};
use crate::engine::error::{Error, Result};
use crate::engine::prune;
use crate::engine::spare;
use crate::sys::{trash, tree};

/// How long the janitor lets others go first: whoever waits for the answer, and the shim, which lets
/// go of the root filesystem. To delete what lies beneath an overlay while that is unmounted costs
/// milliseconds, in which the kernel only spins (fs/dcache.c, `shrink_dcache_parent`).
const PAUSE: Duration = Duration::from_millis(20);

/// Deletes directories, and makes spare ones, on a thread of its own.
pub struct Janitor {
    queue: mpsc::Sender<Task>,
}

enum Task {
    Delete(PathBuf),
    /// See to it that there is a spare directory for the next container.
    Provide,
    /// Answer when everything before this is done.
    Fence(mpsc::Sender<()>),
}

impl Task {
    fn perform(self, containers: &Path) {
        match self {
            Self::Delete(path) => {
                if let Err(error) = tree::remove_path(&path) {
                    tracing::warn!("cannot delete {}: {error}", path.display());
                }
            }
            Self::Provide => {
                if let Err(error) = spare::provide(containers) {
                    tracing::debug!("cannot make a spare directory: {error}");
                }
            }
            // Whoever asked may have stopped waiting.
            Self::Fence(done) => drop(done.send(())),
        }
    }
}

impl Janitor {
    /// Starts the thread and gives it what the last daemon left in the data root's trash.
    ///
    /// # Errors
    /// When the trash cannot be read or the thread not started.
    pub fn start(data_root: &std::path::Path) -> std::io::Result<Self> {
        let (trash, containers) = (data_root.join("trash"), data_root.join("containers"));
        std::fs::create_dir_all(&trash)?;
        let (queue, jobs) = mpsc::channel();
        for entry in std::fs::read_dir(trash)? {
            // The receiver lives: it is in this function.
            let _ = queue.send(Task::Delete(entry?.path()));
        }
        std::thread::Builder::new()
            .name("janitor".to_owned())
            .spawn(move || {
                while let Ok(task) = jobs.recv() {
                    std::thread::sleep(PAUSE);
                    let more = std::iter::from_fn(|| jobs.try_recv().ok());
                    for task in std::iter::once(task).chain(more) {
                        task.perform(&containers);
                    }
                }
            })?;
        Ok(Self { queue })
    }

    /// Deletes what was moved to this path, if anything was, soon.
    pub fn discard(&self, path: Option<PathBuf>) {
        if let Some(path) = path {
            // The thread ends only with the process.
            let _ = self.queue.send(Task::Delete(path));
        }
    }

    /// Has a spare directory made for the next container, soon.
    pub fn provide(&self) {
        let _ = self.queue.send(Task::Provide);
    }

    /// Waits until everything discarded so far is deleted.
    fn settle(&self) {
        let (done, wait) = mpsc::channel();
        let _ = self.queue.send(Task::Fence(done));
        // An error is a thread that ended: then there is nothing to wait for.
        let _ = wait.recv();
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
        {
            let mut data = container.data();
            if data.removing {
                return Err(Error::conflict(format!(
                    "removal of container {name} is already in progress"
                )));
            }
            if data.is_busy() && !force {
                let why = match data.record.state {
                    State::Running { paused: true, .. } => {
                        "container is paused and must be unpaused first".to_owned()
                    }
                    _ => {
                        let state = match data.record.state.is_restarting() {
                            true => "restarting",
                            false => "running",
                        };
                        format!(
                            "container is {state}: stop the container before removing or force \
                             remove"
                        )
                    }
                };
                return Err(Error::conflict(format!(
                    "cannot remove container {name:?}: {why}"
                )));
            }
            data.removing = true;
        }
        let _operation = container.operate();
        self.cancel_restart(&container);
        let run = container.data().record.state.started();
        if run.is_some()
            && let Err(error) = self.kill_and_wait(&container, run)
        {
            container.data().removing = false;
            return Err(error.during(format!(
                "cannot remove container {name:?}: could not kill container"
            )));
        }
        self.discard(&container, volumes);
        Ok(())
    }

    /// Removes the containers that do not run.
    pub fn container_prune(&self, filters: &Filters) -> Result<PruneResponse> {
        filters
            .validate(&["label", "label!", "until"])
            .map_err(|error| Error::invalid(error.to_string()))?;
        let until = prune::bound(filters)?;
        let mut removed = Vec::new();
        let mut reclaimed = 0;
        for container in self.containers.all() {
            let record = container.record();
            let labels = record.config.labels.clone().unwrap_or_default();
            if container.data().is_busy()
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
        self.prune_event("container", reclaimed);
        Ok(PruneResponse {
            containers_deleted: (!removed.is_empty()).then_some(removed),
            space_reclaimed: reclaimed,
        })
    }

    /// Tells of a prune: of nothing in particular, only how much it freed.
    pub(super) fn prune_event(&self, kind: &str, reclaimed: u64) {
        let attributes = [("reclaimed".to_owned(), reclaimed.to_string())];
        self.events.emit(kind, "prune", "", attributes);
    }

    /// Takes a container's directory, or what there is of it, away.
    pub(super) fn trash(&self, purpose: &str, directory: &Path) {
        let trash = self.settings.data_root.join("trash");
        match trash::discard(&trash, purpose, directory) {
            Ok(discarded) => self.janitor.discard(discarded),
            Err(error) => tracing::error!("cannot remove {}: {error}", directory.display()),
        }
    }

    /// Takes away a container that does not run and that the caller has marked as `removing`.
    pub(super) fn discard(&self, container: &Arc<Container>, volumes: bool) {
        let record = container.record();
        container.data().discard_prepared();
        self.trash("container", &container.directory);
        self.janitor.provide();
        // A socket and little else: gone at once, so that a daemon that ends now leaves none of it.
        let runtime = self.runtime_directory(&container.id);
        if let Err(error) = tree::remove_path(&runtime) {
            tracing::warn!("cannot delete {}: {error}", runtime.display());
        }
        self.containers.remove(&container.id);
        self.release_layers(&record.held_layers());
        self.execs.retain(|owner| *owner != container.id);
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
                    self.discard_volume(name, path);
                }
            }
        }
        self.container_event(&record, "destroy", []);
        {
            let mut data = container.data();
            data.removed = true;
            data.pending.clear();
        }
        container.notify();
        for waiter in container.take_waiters(|_: WaitCondition| true) {
            // What went wrong in its life is forgotten with it.
            waiter(Ended {
                code: record.state.exit_code(),
                error: String::new(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::Mode;

    use super::*;

    #[test]
    fn a_tree_of_any_depth_is_deleted() {
        let root = tempfile::tempdir().unwrap();
        let top = root.path().join("trash/container-1");
        std::fs::create_dir_all(&top).unwrap();
        let mut directory = tree::open_dir(&top).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&directory, "d", Mode::RWXU).unwrap();
            directory = tree::open_child_dir(directory.as_fd(), "d".as_ref()).unwrap();
        }
        // Less than the janitor has, and too little for a frame a level.
        let janitor = std::thread::Builder::new().stack_size(512 * 1024);
        let containers = root.path().join("containers");
        let task = Task::Delete(top);
        let deleting = janitor.spawn(move || task.perform(&containers)).unwrap();
        deleting.join().unwrap();
        let left = std::fs::read_dir(root.path().join("trash")).unwrap();
        assert_eq!(left.count(), 0);
    }
}
