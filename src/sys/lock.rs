//! The lock on a data root, and who holds it.
//!
//! One engine works on one data root. It holds an flock(2) on `<data root>/lock` for its life, so
//! the lock ends with its holder however that ends, and nothing stale can block. What the file
//! says is for others to read: which socket the holder serves, its pid, its boot and host. A
//! client whose environment differs finds the engine by it, and a second engine names the first.
//!
//! On a network file system several hosts may meet here. flock(2) is then a byte-range lock that
//! the server knows of; where there are no locks at all (`ENOLCK`) nothing could keep two hosts
//! apart, so that counts as held.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

/// The file's name in the data root.
pub const NAME: &str = "lock";

/// The largest file that is read, in bytes; ours are a few hundred.
const LIMIT: u64 = 64 * 1024;

/// How often locking is tried, a millisecond apart, while others only look.
const ATTEMPTS: u32 = 1000;

/// How long a process that was killed may take to let go of its files.
const DYING: Duration = Duration::from_millis(500);

/// Who holds a data root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holder {
    /// The socket that it serves, once it does.
    pub socket: Option<PathBuf>,
    /// Its pid, on its host.
    pub pid: u32,
    /// The boot that it runs in.
    pub boot_id: String,
    /// Its host's name.
    pub host: String,
    /// A verb started it; it leaves when it has nothing to do.
    pub on_demand: bool,
}

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Why a data root could not be locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Someone else holds it.
    #[error("{}", held(path, holder.as_deref(), here))]
    Held {
        /// The data root.
        path: PathBuf,
        /// Who, where the file tells.
        holder: Option<Box<Holder>>,
        /// The name of this host.
        here: String,
    },
    /// The file system has no locks.
    #[error(
        "the file system of {path} has no locks, so another host could use it at the same time; \
         choose another place with --data-root"
    )]
    NoLocks {
        /// The data root.
        path: PathBuf,
    },
    /// The lock file could not be used.
    #[error("cannot use the lock {path}")]
    File {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The sentence that names the holder.
fn held(path: &Path, holder: Option<&Holder>, here: &str) -> String {
    let path = path.display();
    let Some(holder) = holder else {
        return format!("another moss daemon uses the data root {path}");
    };
    let mut text = format!(
        "another moss daemon (pid {}) uses the data root {path}",
        holder.pid
    );
    if holder.host != here {
        text.push_str(&format!(" on the host {}", holder.host));
    }
    if let Some(socket) = &holder.socket {
        text.push_str(&format!(" and serves unix://{}", socket.display()));
    }
    if holder.on_demand {
        text.push_str(
            "; a moss command started it, and a client is connected to it: try again, or end it \
             with `moss system stop`",
        );
    }
    text
}

impl Lock {
    /// Locks a data root, which must exist, in the name of `holder`.
    ///
    /// # Errors
    /// [`LockError::Held`] where another process has it.
    pub fn take(data_root: &Path, holder: &Holder) -> Result<Lock, LockError> {
        let path = data_root.join(NAME);
        let failed = |source| LockError::File {
            path: path.clone(),
            source,
        };
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(failed)?;
        match patiently(&file) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LockError::Held {
                    path: data_root.to_owned(),
                    holder: read_from(file).ok().map(Box::new),
                    here: holder.host.clone(),
                });
            }
            Err(rustix::io::Errno::NOLCK) => {
                return Err(LockError::NoLocks {
                    path: data_root.to_owned(),
                });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let mut lock = Lock { file };
        lock.name(holder).map_err(failed)?;
        Ok(lock)
    }

    /// Changes what the file says of the holder. It is the locked file itself that must be
    /// written, in one step, since a reader that caught it half-written would know no holder: what
    /// was there is blotted out by spaces after the text rather than cut off.
    pub fn name(&mut self, holder: &Holder) -> io::Result<()> {
        let mut text = serde_json::to_vec(holder)?;
        let before = self.file.metadata()?.len().min(LIMIT);
        text.resize(text.len().max(usize::try_from(before).unwrap_or(0)), b' ');
        self.file.rewind()?;
        self.file.write_all(&text)
    }
}

/// [`exclusive`], where a holder that was just killed has a moment to be gone.
fn patiently(file: &File) -> rustix::io::Result<()> {
    let begun = Instant::now();
    loop {
        match exclusive(file) {
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < DYING => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

/// Locks for good, or answers `WOULDBLOCK` where someone else has. Whoever asks for the [`holder`]
/// holds a shared lock for an instant, which is no reason to give up.
fn exclusive(file: &File) -> rustix::io::Result<()> {
    for _ in 0..ATTEMPTS {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            other => return other,
        }
        // To be had only where nobody has locked for good.
        rustix::fs::flock(file, FlockOperation::NonBlockingLockShared)?;
        rustix::fs::flock(file, FlockOperation::Unlock)?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(rustix::io::Errno::WOULDBLOCK)
}

/// Who holds the data root now: `None` where nobody does, or it is not told.
pub fn holder(data_root: &Path) -> Option<Holder> {
    let file = File::open(data_root.join(NAME)).ok()?;
    // A shared lock is only to be had where nobody has the exclusive one; it ends with `file`.
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(rustix::io::Errno::WOULDBLOCK) => read_from(file).ok(),
        _ => None,
    }
}

/// Whether the engine that had this pid has said that it leaves: what it was not asked before then
/// it has not begun. One that was killed has said nothing.
pub fn has_left(data_root: &Path, pid: u32) -> bool {
    let said = File::open(data_root.join(NAME)).and_then(read_from);
    said.is_ok_and(|holder| holder.pid == pid && holder.socket.is_none())
}

/// Whether the engine that had this pid holds the data root no more; one that is being killed has a
/// moment for that.
pub fn is_gone(data_root: &Path, pid: u32) -> bool {
    let asked = Instant::now();
    while holder(data_root).is_some_and(|holder| holder.pid == pid) {
        if asked.elapsed() > DYING {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

fn read_from(file: File) -> io::Result<Holder> {
    let mut text = Vec::new();
    file.take(LIMIT).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Holder {
        Holder {
            socket: Some("/run/user/7/moss.sock".into()),
            pid: 7,
            boot_id: "boot".into(),
            host: "here".into(),
            on_demand: false,
        }
    }

    #[test]
    fn a_second_engine_names_the_first() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(holder(root.path()), None);
        let mut lock = Lock::take(root.path(), &Holder::default()).unwrap();
        lock.name(&me()).unwrap();
        assert_eq!(holder(root.path()), Some(me()));
        let mut shorter = me();
        shorter.socket = None;
        lock.name(&shorter).unwrap();
        assert_eq!(holder(root.path()), Some(shorter));
        assert!(has_left(root.path(), 7));
        assert!(!is_gone(root.path(), 7) && is_gone(root.path(), 8));
        lock.name(&me()).unwrap();
        let path = root.path().display();
        let mut second = Holder {
            host: "here".into(),
            ..Holder::default()
        };
        assert_eq!(
            Lock::take(root.path(), &second).unwrap_err().to_string(),
            format!(
                "another moss daemon (pid 7) uses the data root {path} and serves \
                 unix:///run/user/7/moss.sock"
            )
        );
        second.host = "there".into();
        let message = Lock::take(root.path(), &second).unwrap_err().to_string();
        assert!(message.contains(" on the host here "), "{message}");
        assert!(!has_left(root.path(), 7) && !has_left(root.path(), 8));
        drop(lock);
        // What is left behind blocks nobody and names nobody; it tells who was killed from who left.
        assert!(!has_left(root.path(), 7));
        assert_eq!(holder(root.path()), None);
        Lock::take(root.path(), &second).unwrap();
    }

    #[test]
    fn who_only_asks_keeps_nobody_out() {
        let root = tempfile::tempdir().unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        holder(root.path());
                    }
                });
            }
            let taken = (0..300).find_map(|_| Lock::take(root.path(), &me()).err());
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(taken.is_none(), "{taken:?}");
        });
    }

    #[test]
    fn a_half_written_file_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join(NAME), "{\"pid\":").unwrap();
        let lock = Lock::take(root.path(), &me()).unwrap();
        std::fs::write(root.path().join(NAME), "{\"pid\":").unwrap();
        assert_eq!(holder(root.path()), None);
        let message = Lock::take(root.path(), &me()).unwrap_err().to_string();
        assert!(message.starts_with("another moss daemon uses"), "{message}");
        drop(lock);
    }
}
