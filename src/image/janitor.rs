//! Work that nobody waits for: emptying the trash, keeping some room in reserve, and getting new
//! layers onto the disk.
//!
//! One thread, fed by a channel, that ends with its store. What it does not get to is found again
//! at the next `Store::open`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};

use super::error::{Error, store};
use super::slots::LOOK;
use super::{layer, reserve, scratch};

enum Task {
    Sweep,
    Sync(PathBuf),
    /// Answer when everything before this is done.
    Fence(Sender<()>),
}

/// A handle on the thread.
pub(super) struct Janitor {
    tasks: Option<Sender<Task>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Janitor {
    pub(super) fn start(root: &Path) -> Result<Self, Error> {
        let (tasks, queue) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (root_of_thread, stopped) = (root.to_owned(), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("image-janitor".to_owned())
            .spawn(move || run(&root_of_thread, &queue, &stopped))
            .map_err(store("start a thread for", root))?;
        Ok(Self {
            tasks: Some(tasks),
            stop,
            thread: Some(thread),
        })
    }

    /// Empties the trash.
    pub(super) fn sweep(&self) {
        self.send(Task::Sweep);
    }

    /// Syncs the layer at this path and takes its mark off.
    pub(super) fn sync(&self, layer: &Path) {
        self.send(Task::Sync(layer.to_owned()));
    }

    /// Waits until everything asked for so far is done. `is_wanted` is asked from time to time
    /// whether to wait on, and fails where not.
    pub(super) fn settle<E>(&self, is_wanted: impl Fn() -> Result<(), E>) -> Result<(), E> {
        let (done, wait) = channel();
        self.send(Task::Fence(done));
        // Another error is a thread that ended: then there is nothing to wait for.
        while wait.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            is_wanted()?;
        }
        Ok(())
    }

    fn send(&self, task: Task) {
        if let Some(tasks) = &self.tasks {
            let _ = tasks.send(task);
        }
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(root: &Path, queue: &Receiver<Task>, stop: &AtomicBool) {
    while let Ok(first) = queue.recv() {
        let (mut fences, mut layers, mut sweep) = (Vec::new(), Vec::new(), false);
        for task in std::iter::once(first).chain(queue.try_iter()) {
            match task {
                Task::Sweep => sweep = true,
                Task::Sync(layer) => layers.push(layer),
                Task::Fence(done) => fences.push(done),
            }
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if sweep {
            empty(&root.join("trash"), stop);
            reserve::make(root);
        }
        if !layers.is_empty() {
            match layer::sync_filesystem(root) {
                Ok(()) => layers.iter().for_each(|path| layer::mark_synced(path)),
                Err(error) => tracing::warn!(%error, "cannot sync new layers"),
            }
        }
        for done in fences {
            let _ = done.send(());
        }
    }
}

fn empty(trash: &Path, stop: &AtomicBool) {
    let entries = fs::read_dir(trash).into_iter().flatten().flatten();
    // All names first: what is removed meanwhile must not disturb the listing.
    let names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    for name in names {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = scratch::remove(trash, &name) {
            tracing::warn!(path = %trash.join(name).display(), %error, "cannot empty the trash");
        }
    }
}
