//! Files of a container: in and out as archives, and what it has changed.
//!
//! All of it is done by a process of its own, this same program executed anew under [`TITLE`]: what
//! a container mounts (a FUSE server that never answers, a disk that hangs) stops that process and
//! nothing else, and it is killed when the client leaves. It has one thread, the keeper's
//! namespaces, and sees the container's root as its own root:
//!
//! | container | root |
//! |---|---|
//! | running | the root of its first process, with all that is mounted in there |
//! | not running | its overlay with volumes and binds, in a mount namespace that ends with the process |
//! | for `export`, `diff`, `commit` | none: upper directory and layers are read beside each other ([`layers`]) |
//!
//! ```text
//! daemon ── Task, descriptors ──▶ copier          one SOCK_SEQPACKET, its standard input
//!        ◀── Reply ─────────────
//!        ══ archive, one way ═══                  a pipe
//! ```
//!
//! Nothing in the tree is trusted, and a container that runs changes it meanwhile. The one path that
//! the client names is resolved by the kernel inside the root (`openat2`, `RESOLVE_IN_ROOT`); from
//! there on everything is done by a directory's descriptor and one name that is never followed.
//! Entries of an archive stay below the place that it is unpacked to (`RESOLVE_BENEATH`). The root is
//! changed besides, so that a mistake would end in the container, too.

mod attributes;
mod changes;
mod child;
mod extract;
mod layers;
pub mod local;
mod pack;
mod view;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::packet::{self, Packet};
use crate::api::container::FilesystemChange;
use crate::overlay::Rootfs;
use crate::sys::{fdpass, pidfd};
use crate::types::errno;
use crate::types::idmap::IdMapping;

pub use child::serve;

/// The title by which `main` knows the process.
pub const TITLE: &str = "moss: copy";

/// Bytes that the pipe holds where the user's limits allow it.
const PIPE: usize = 1 << 20;

/// How long the process may take for its first word; a mount waits for the disk.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// What a copier sees.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The root of a running container, whose descriptor comes with the task.
    Running,
    /// The root of one that does not run.
    Mounted {
        /// Its root filesystem.
        rootfs: Rootfs,
        /// What is mounted into it.
        mounts: Vec<ViewMount>,
    },
    /// Its upper directory above its layers.
    Layers {
        /// The upper directory.
        upper: PathBuf,
        /// The layers, the topmost first.
        lower: Vec<PathBuf>,
    },
}

/// A volume or bind in a copier's view.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ViewMount {
    /// File or directory on the host.
    pub source: PathBuf,
    /// In its place: layers of an image, the topmost first.
    pub layers: Vec<PathBuf>,
    /// A path in it, which alone is mounted; all where empty.
    pub subpath: String,
    /// Path in the container.
    pub destination: String,
    /// It may be written to.
    pub writable: bool,
    /// What is mounted below it stays out.
    pub non_recursive: bool,
    /// What is mounted below it stays writable.
    pub readonly_non_recursive: bool,
}

/// What a copier is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Look at a path. Answered with [`Reply::Stat`].
    Stat {
        /// The path.
        path: String,
    },
    /// Archive what is at a path. Answered with [`Reply::Stat`], then [`Reply::Done`].
    Pack {
        /// The path.
        path: String,
    },
    /// Unpack an archive into a directory.
    Unpack {
        /// The directory.
        path: String,
        /// A directory and what is none may replace each other.
        overwrite: bool,
        /// Everything is to belong to this user of the container; empty for root.
        user: Option<String>,
        /// The root filesystem is not to be written to.
        readonly_rootfs: bool,
    },
    /// Archive the whole root filesystem.
    Export,
    /// List what the container has changed. Answered with [`Reply::Changes`].
    Changes,
    /// Archive what the container has changed, as an image's layer.
    Layer,
}

#[derive(Debug, Serialize, Deserialize)]
struct Task {
    place: Place,
    work: Work,
    ids: Ids,
}

/// How the ids in archives are those of files.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ids {
    /// Those in archives are inside of this map, those of files outside; the same where `None`.
    pub owners: Option<IdMapping>,
    /// An owner that a file cannot have is an error; else the file is root's.
    pub strict: bool,
}

/// What is known of a path in a container (`X-Docker-Container-Path-Stat`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathStat {
    /// Its last component.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Type and permissions in Go's bits.
    pub mode: u32,
    /// When it was last changed, RFC 3339.
    pub mtime: String,
    /// What a link leads to in the end, as far as there is something.
    pub link_target: String,
}

/// What a copier says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// What is at the path.
    Stat(PathStat),
    /// What was changed, sorted by path.
    Changes(Vec<FilesystemChange>),
    /// All is done; an archive is complete.
    Done,
    /// It could not be done.
    Failed(Refusal),
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// There is nothing at the path.
    #[error("no such file or directory")]
    NotFound,
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Failed(errno::text(&error))
    }
}

impl From<rustix::io::Errno> for Refusal {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}

/// A copier that works. Dropped, it is killed.
#[derive(Debug)]
pub struct Copier {
    process: Child,
    control: OwnedFd,
    data: Option<File>,
}

impl Copier {
    /// Starts one; `root` is the root of a running container.
    ///
    /// # Errors
    /// When there is no process or descriptor to be had.
    pub fn start(place: Place, work: Work, ids: Ids, root: Option<OwnedFd>) -> io::Result<Self> {
        let (control, theirs) = fdpass::pair()?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        // Refused beyond a limit of the user's: it is only slower then.
        let _ = fcntl_setpipe_size(&writer, PIPE);
        let (ours, their_end) = match work {
            Work::Unpack { .. } => (writer, reader),
            _ => (reader, writer),
        };
        let task = Task { place, work, ids };
        let descriptors = std::iter::once(their_end).chain(root).collect();
        Packet::new(&task, descriptors)?.send(control.as_fd())?;
        let process = Command::new("/proc/self/exe")
            .arg0(TITLE)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()?;
        Ok(Self {
            process,
            control,
            data: Some(ours.into()),
        })
    }

    /// A handle on the process, to kill it by.
    pub fn handle(&self) -> io::Result<OwnedFd> {
        // Nobody has reaped it, so the number is its own.
        pidfd::open(self.process.id().cast_signed())
    }

    /// This side's end of the archive; dropped, it is at its end.
    pub fn data(&mut self) -> Option<File> {
        self.data.take()
    }

    /// Waits for the next word.
    pub fn reply(&self) -> Result<Reply, Refusal> {
        let said = packet::receive_until(self.control.as_fd(), Instant::now() + PATIENCE);
        match said {
            Ok(Some((Reply::Failed(refusal), _))) => Err(refusal),
            Ok(Some((reply, _))) => Ok(reply),
            Ok(None) => Err(Refusal::Failed("the copying process was ended".to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for its end, with which its mounts are gone.
    pub fn finish(mut self) {
        self.data = None;
        // A failure would be that somebody else has reaped it.
        let _ = self.process.wait();
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// Ends a copier from elsewhere.
pub fn kill(handle: &OwnedFd) {
    // One that has ended is what is wanted.
    let _ = pidfd::kill(handle, Signal::KILL);
}
