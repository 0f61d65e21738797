//! Tells those who follow logs that one has changed.
//!
//! A user may have 128 inotify instances on most hosts, and a thousand clients may follow logs. So
//! there is one instance a process, and one thread that reads it and wakes whom it concerns. Logs
//! lie in directories of their own; what is watched is the directory: writes to the log, and files
//! that take its name.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify;

use super::reader::Follow;

/// The process's instance, once somebody has followed a log.
static WATCHER: Mutex<Option<Arc<Watcher>>> = Mutex::new(None);

#[derive(Debug)]
struct Watcher {
    inotify: OwnedFd,
    /// Whom each watch concerns.
    followers: Mutex<BTreeMap<i32, Vec<Arc<Follow>>>>,
}

/// Wakes a [`Follow`] while it lives.
#[derive(Debug)]
pub(super) struct Watch {
    watcher: Arc<Watcher>,
    number: i32,
    follow: Arc<Follow>,
}

impl Watch {
    /// Wakes `follow` whenever the log at `path` changes from now on.
    ///
    /// # Errors
    /// When the directory cannot be watched.
    pub(super) fn new(path: &Path, follow: Arc<Follow>) -> io::Result<Self> {
        let watcher = Watcher::get()?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        let flags = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO;
        // A directory that is watched already has one number for all.
        let mut followers = watcher.followers();
        let number = inotify::add_watch(&watcher.inotify, directory, flags)?;
        followers
            .entry(number)
            .or_default()
            .push(Arc::clone(&follow));
        drop(followers);
        Ok(Self {
            watcher,
            number,
            follow,
        })
    }

    /// Whom it wakes.
    pub(super) fn follow(&self) -> &Follow {
        &self.follow
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut followers = self.watcher.followers();
        let Some(concerned) = followers.get_mut(&self.number) else {
            return;
        };
        let own = concerned
            .iter()
            .position(|other| Arc::ptr_eq(other, &self.follow));
        own.map(|place| concerned.swap_remove(place));
        if concerned.is_empty() {
            followers.remove(&self.number);
            // It is gone already where the directory is.
            let _ = inotify::remove_watch(&self.watcher.inotify, self.number);
        }
    }
}

impl Watcher {
    /// The process's only one, made if there is none.
    fn get() -> io::Result<Arc<Self>> {
        let mut only = WATCHER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = &*only {
            return Ok(Arc::clone(watcher));
        }
        let watcher = Arc::new(Self {
            inotify: inotify::init(inotify::CreateFlags::CLOEXEC)?,
            followers: Mutex::default(),
        });
        let thread = Arc::clone(&watcher);
        std::thread::Builder::new()
            .name("logs".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || thread.run())?;
        *only = Some(Arc::clone(&watcher));
        Ok(watcher)
    }

    fn followers(&self) -> MutexGuard<'_, BTreeMap<i32, Vec<Arc<Follow>>>> {
        self.followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on what happens, as long as the process lives.
    fn run(&self) {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut space);
        loop {
            match events.next() {
                Ok(event) if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) => {
                    self.followers().values().flatten().for_each(|it| it.wake());
                }
                Ok(event) => {
                    let followers = self.followers();
                    let concerned = followers.get(&event.wd());
                    concerned.into_iter().flatten().for_each(|it| it.wake());
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "logs are followed no more");
                    return;
                }
            }
        }
    }
}
