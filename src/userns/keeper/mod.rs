//! The keeper: one process a user that holds the namespaces and forks shims.
//!
//! ```text
//! daemon ── setup ── keeper-to-be         setup: fresh, one thread, in the host's namespaces
//!    │        │  fork ──▶│ unshare(user, mount)
//!    │        │◀─────────┤ ready to be mapped
//!    │        ├ newuidmap, newgidmap
//!    │        ├─────────▶│ become 0, rslave, exec a sealed copy of the program: the keeper
//!    │        └ exit     │ listens on <exec-root>/keeper.sock
//!    ├─── connection, kept for the daemon's life ───▶│
//!    ├─── Spawn + descriptor ───────────────────────▶│ fork ──▶ shim
//!    └─── setns(keeper's pidfd)
//! ```
//!
//! **Re-execution.** A process may be joined by its owner from outside only if its memory belongs
//! to the inner user namespace, which exec decides: one that merely unshared is refused with
//! EPERM. So the keeper executes itself once more inside. It executes a sealed memfd
//! ([`sealed`](crate::sys::sealed)), never the user's file, so that nothing in a container can reach
//! that file through `/proc/PID/exe`.
//!
//! **Networks.** The keeper holds the namespaces of networks, which would otherwise go with the daemon
//! that made them, and runs slirp, which serves them, as long as there is one.
//!
//! **Dumpable.** Keeper and shims are not dumpable (`PR_SET_DUMPABLE` 0): a container that shares
//! the host's pid namespace runs as the same host user, and could otherwise trace them or open
//! their descriptors. Their owner, outside, holds every capability over the inner namespace and
//! may still join them.
//!
//! **Groups.** The keeper keeps the caller's supplementary groups: on clusters the data root is
//! often reached through one. The stage drops them for containers.
//!
//! **The daemon's death.** A daemon that ended unasked while containers run is started again
//! (`revival`).
//!
//! **Leaving.** Without a connection and without a shim for the grace period (30 s) it goes.
//!
//! **Death.** A keeper that was killed is made anew inside the same namespaces, by joining those
//! of the asking daemon, if it is inside, or of any shim (found by its socket, or by what it wrote
//! of itself). The orphaned shims are nobody's children then, and go on; their ends are seen on
//! their sockets. A daemon that serves notices at once, and has the new keeper hold the networks, which
//! thereby have a slirp again; ports are bound again, flows through them were reset.
//!
//! **Deleted.** A keeper whose socket went with the exec root is found by its identity in the data
//! root, and makes the socket anew at SIGHUP.
//!
//! **Memory.** What the keeper has touched is shared with every shim until either writes to it;
//! it keeps little and allocates little after the start.
//!
//! Kernel: 5.11 (`close_range`, setns by pidfd, unprivileged overlay).

mod client;
mod identity;
mod protocol;
mod revival;
mod server;
mod setup;
mod slirp;
mod starting;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub use client::{Keeper, Start};
pub use identity::{Identity, ShimIdentity};
pub use protocol::{Build, Status, VERSION};
pub use revival::Recipe;
pub use server::serve;
pub use setup::setup;

/// `argv[0]` of a keeper, by which `main` knows its role and `ps` names it.
pub const TITLE: &str = "moss: keeper";

/// The hidden verb of the process that sets a keeper up.
pub const SETUP: &str = "keeper";

/// How long a keeper stays with nothing to do.
pub const GRACE: std::time::Duration = std::time::Duration::from_secs(30);

/// What a forked shim runs, given by `main`: its connection to the daemon and its leash. The
/// result is its exit status.
pub type Shim = fn([OwnedFd; 2]) -> i32;

/// What the forked slirp runs, given by `main`: its link. The result is its exit status.
pub type Slirp = fn([OwnedFd; 1]) -> i32;

/// What the keeper's children run.
#[derive(Debug, Clone, Copy)]
pub struct Roles {
    /// A container's shim.
    pub shim: Shim,
    /// The networks' process.
    pub slirp: Slirp,
}

/// What can go wrong between a daemon and its keeper.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// The running program could not be opened.
    #[error("cannot open the running program")]
    Program(#[source] io::Error),
    /// The runtime directory is missing or not safe.
    #[error("cannot use the runtime directory {path}")]
    RuntimeDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The lock that orders starting keepers.
    #[error("cannot lock {path}")]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The setup process could not be started, or ended without a word.
    #[error("cannot start the keeper")]
    Start(#[source] io::Error),
    /// The setup process or the new keeper says why it could not go on.
    #[error("cannot start the keeper: {0}")]
    Setup(String),
    /// The socket is there but cannot be connected to.
    #[error("cannot connect to the keeper at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else listens on the keeper's socket.
    #[error("{path} belongs to user {uid}")]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// A keeper lives but does not answer.
    #[error("the keeper (pid {0}) does not answer; kill it and containers go on")]
    Silent(i32),
    /// The connection to the keeper failed.
    #[error("cannot talk to the keeper")]
    Talk(#[source] io::Error),
    /// The keeper's answer made no sense.
    #[error("the keeper answered {0:?}")]
    Answer(String),
    /// The keeper could not do what was asked.
    #[error("the keeper cannot {operation}: {message}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// Its words.
        message: String,
    },
    /// The keeper is of a newer moss than this program.
    #[error(
        "the keeper (pid {pid}, moss {build}) speaks version {theirs} of the keeper's protocol, \
         this program version {VERSION}: use that moss, or stop it with `moss system stop --containers`"
    )]
    Newer {
        /// The keeper.
        pid: i32,
        /// Its build.
        build: String,
        /// Its protocol's version.
        theirs: u32,
    },
    /// Only a process with one thread can change its user namespace.
    #[error("cannot join the keeper's namespaces with {0} threads running")]
    Threads(u64),
    /// The kernel refused to join.
    #[error("cannot join the namespaces of the keeper (pid {pid})")]
    Join {
        /// The keeper.
        pid: i32,
        /// Why.
        source: io::Error,
    },
}
