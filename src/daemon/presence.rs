//! Staying where clients look: a socket whose path was deleted is made anew.
//!
//! logind deletes the runtime directory when a user's last session ends, and people delete things
//! in /tmp, while containers run. The daemon watches its sockets and their directories by inotify, so
//! it need not wake up to look, and makes what is lost anew, its exec root too. Where that
//! cannot be done (the directory above is root's until the user logs in again) it tries again,
//! less and less often, then only when something changes on the way to the path; SIGHUP makes it
//! look at once, which is how `moss` verbs call a daemon that has no socket.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use super::listen::Socket;
use crate::sys::paths;
use crate::types::chain::chain;

/// How long after the first failure it is tried again; doubled each time, …
const RETRY: Duration = Duration::from_millis(50);

/// … until so often has failed. After that, about 50 s, only a change is a reason to try.
const RETRIES: u32 = 10;

/// Serves a socket on a task of its own.
pub type Serve<'a> = &'a (dyn Fn(&Socket) -> io::Result<AbortHandle> + Sync);

/// The sockets of a daemon while it serves.
pub struct Presence<'a> {
    exec_root: &'a Path,
    serve: Serve<'a>,
    /// The sockets, and who accepts on them.
    served: Vec<(Socket, AbortHandle)>,
}

impl<'a> Presence<'a> {
    /// Serves `sockets`.
    ///
    /// # Errors
    /// When one of them cannot be served.
    pub fn new(sockets: Vec<Socket>, exec_root: &'a Path, serve: Serve<'a>) -> io::Result<Self> {
        let served = sockets.into_iter().map(|socket| {
            let task = serve(&socket)?;
            Ok((socket, task))
        });
        Ok(Self {
            exec_root,
            serve,
            served: served.collect::<io::Result<_>>()?,
        })
    }

    /// Makes anew what is lost, for as long as it is polled; begun again, it looks at once.
    pub async fn keep(&mut self) -> Infallible {
        let mut failures = 0;
        loop {
            // Before looking: what happens afterwards is noticed.
            let sockets = self.served.iter().filter_map(|(it, _)| it.path.as_deref());
            let watch = Watch::new(sockets.chain([self.exec_root]));
            let delay = match self.restore() {
                Ok(()) => {
                    failures = 0;
                    None
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::error!("{error}");
                    }
                    failures += 1;
                    (failures <= RETRIES).then(|| RETRY * 2_u32.pow(failures - 1))
                }
            };
            let changed = async {
                match &watch {
                    Ok(watch) => watch.changed().await,
                    Err(_) => std::future::pending().await,
                }
            };
            if let Err(error) = &watch {
                tracing::warn!("a deleted socket will not be noticed before SIGHUP: {error}");
            }
            match delay {
                Some(delay) => {
                    // Whichever comes first.
                    let _ = tokio::time::timeout(delay, changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// Makes what is lost anew; the first error, where something could not be.
    fn restore(&mut self) -> Result<(), String> {
        // First, so that whoever can connect finds it.
        let made = paths::private_dir(self.exec_root);
        let mut result =
            made.map_err(|error| format!("cannot make {} anew: {error}", self.exec_root.display()));
        for (socket, task) in &mut self.served {
            if !socket.is_lost() {
                continue;
            }
            let path = socket.path.clone().unwrap_or_default();
            let again = socket.anew().map_err(|error| chain(&error));
            let again = again.and_then(|again| {
                let task = (self.serve)(&again).map_err(|error| chain(&error))?;
                Ok((again, task))
            });
            match again {
                Ok((again, accepting)) => {
                    tracing::warn!("{} was deleted and is made anew", path.display());
                    task.abort();
                    (*socket, *task) = (again, accepting);
                }
                Err(error) if result.is_ok() => {
                    result = Err(format!(
                        "{} was deleted and cannot be made anew: {error}",
                        path.display()
                    ));
                }
                Err(_) => {}
            }
        }
        result
    }

    /// Removes the sockets that were made. Connections are accepted until the daemon ends.
    pub fn end(&self) {
        self.served.iter().for_each(|(socket, _)| socket.remove());
    }
}

/// Something that may have been deleted, or be made again.
struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    fn new<'a>(paths: impl Iterator<Item = &'a Path>) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // A socket's inode lives on as long as it is listened on: its deletion is a change of its
        // count of links.
        let gone = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ATTRIB;
        let made = WatchFlags::CREATE | WatchFlags::MOVED_TO;
        for path in paths {
            for (place, flags) in watched(path) {
                let flags = match flags {
                    Change::Gone => gone,
                    Change::Made => gone | made,
                };
                // What has just been deleted is found lost after this.
                let _ = inotify::add_watch(&watch, &place, flags | WatchFlags::MASK_ADD);
            }
        }
        #[expect(
            deprecated,
            reason = "an owned descriptor stays open and the same, which is all the successor asks"
        )]
        Ok(Self(AsyncFd::with_interest(watch, Interest::READABLE)?))
    }

    /// Resolves once something changed; an error of the watch counts as that.
    async fn changed(&self) {
        let _ = self.0.readable().await;
    }
}

/// What is waited for at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Its deletion, or that it becomes another's.
    Gone,
    /// Also what is made in it.
    Made,
}

/// Where a change means that a path may be there no more, or again: itself and its directory, or
/// the nearest directory there is.
fn watched(path: &Path) -> Vec<(PathBuf, Change)> {
    let there = path.ancestors().find(|place| place.exists());
    let Some(there) = there.map(Path::to_owned) else {
        return Vec::new();
    };
    if there != path {
        return vec![(there, Change::Made)];
    }
    let parent = path
        .parent()
        .map(|parent| (parent.to_owned(), Change::Gone));
    [(there, Change::Gone)].into_iter().chain(parent).collect()
}
