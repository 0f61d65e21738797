//! The stage: from a plan to a running, confined process.
//!
//! Runs in the shim, which is single-threaded and already root in the keeper's user and mount
//! namespaces, so ordinary code between clone and execve is fine. The shim side is a chain of
//! consuming types; the child waits at two gates:
//!
//! ```text
//!  shim                                child (pid 1 of the container)
//!  ────                                ─────
//!  opens bind sources, clone3 ───────▶ waits
//!  writes uid_map, gid_map   ─mapped─▶ mounts, devices, masks, pivot_root, console, user lookup
//!  Spawned ── ready() ◀───────ready─── waits            (the network may use Spawned's pid from
//!  Ready                                                 here on: its namespaces exist)
//!       └──── exec() ──────────go────▶ sysctls, rlimits, user, capabilities, seccomp
//!  Running ◀──────────────confined,──  execve           (end of file on the channel: execve
//!                      end of file                       closed the child's end)
//! ```
//!
//! All namespaces are made in one clone3, so the new user namespace owns the others. Where one is
//! another container's, a short-lived process in between joins it first (see [`namespaces`]).
//! [`exec`] enters a running container the same way.
//!
//! While [`start`], [`spawn`] or [`exec`] runs, nothing else in the process may wait for arbitrary
//! children: the joiner, and a child that failed, are reaped here. Afterwards the process is the
//! shim's child, to be reaped by its pid; SIGCHLD tells of it.
//!
//! **What the container can reach of us.** The shim makes itself non-dumpable before the clone and
//! the child stays so until execve replaces its memory: nobody in a pid namespace that it joins can
//! open its `/proc/PID/exe`, `/mem` or `/fd` (CVE-2019-5736). Every descriptor is close-on-exec by
//! one close_range(2), the root and all mount targets are descriptors, the old root is detached, and
//! the working directory is checked to be inside (CVE-2024-21626). One way is left that no check here can
//! close: execve follows `/proc/self/exe` (as the program, in a `#!` line, as an ELF
//! interpreter) to the shim's own program file, which then runs in the container and can be opened
//! there. So that file must be worth nothing: the keeper, and with it every shim, runs from a sealed
//! copy in memory ([`crate::sys::sealed`]), never from the user's own file.
//!
//! **Error texts** are runc's, as Docker passes them on and clients match them; [`StageError`] holds
//! the part after "unable to start container process: ". When execve itself fails (no
//! interpreter, wrong format) the container has started as far as Docker is concerned: the text
//! goes to its stderr and it ends with 255, as under runc; with 126 where the program is of no format
//! that this machine runs, and then the text names what it is for.
//!
//! **Needs** Linux 5.12 (mount_setattr; unprivileged overlay came in 5.11). In a nested sandbox
//! sysfs is replaced by a bind of the outer one, cgroup2 by a bind or left out, mqueue left out; each
//! is told in [`Running::notes`].

mod channel;
mod child;
mod confine;
mod console;
mod copy_up;
mod dev;
mod enter;
mod namespaces;
mod program;
mod rootfs;
mod sources;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{DumpableBehavior, Signal, pidfd_send_signal, set_dumpable_behavior};
use serde::{Deserialize, Serialize};

use crate::sys::clone::reap;
use crate::sys::pidfd;
use crate::types::errno;
use crate::userns::plan::{Namespace, Plan, Process, ProcessIdentity};

use channel::{Channel, Order, Report};
pub use enter::exec;

/// How long each step of a start may take in the child: filling a tmpfs from a slow disk is the
/// longest. A little less than the daemon waits for the shim.
const START: Duration = Duration::from_secs(50);

/// How long all steps of an exec may take. The container's own processes can delay it at will, and
/// the shim does nothing else meanwhile.
const EXEC: Duration = Duration::from_secs(10);

/// The first process's standard streams.
#[derive(Debug)]
pub enum Stdio {
    /// Descriptors of the shim's pipes.
    Pipes {
        /// Standard input; /dev/null of the container when absent.
        stdin: Option<OwnedFd>,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal of the container's own devpts; its master comes back as the console.
    Terminal,
}

impl Stdio {
    /// A process must never be left with the shim's own streams.
    fn suits(&self, process: &Process) -> Result<(), StageError> {
        if matches!(self, Stdio::Terminal) == process.terminal {
            Ok(())
        } else {
            Err(StageError::new(
                "the plan and the streams disagree about a terminal",
            ))
        }
    }
}

/// Who words an error to the client, and so which prefix the engine puts before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// runc: the engine's "failed to create task …: unable to start container process: " goes first.
    Runtime,
    /// dockerd itself (users and groups): no prefix.
    Daemon,
}

/// A process could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct StageError {
    /// One sentence in runc's or Docker's words.
    pub message: String,
    /// 125, 126 (not executable) or 127 (not found), by Docker's own rule from the text.
    pub code: i32,
    /// Whose words they are.
    pub origin: Origin,
}

impl StageError {
    /// An error in runc's words.
    fn new(message: impl Into<String>) -> StageError {
        let message = message.into();
        let code = exit_code(&message);
        StageError {
            message,
            code,
            origin: Origin::Runtime,
        }
    }

    /// An error of dockerd's own.
    fn daemon(message: impl Into<String>) -> StageError {
        StageError {
            message: message.into(),
            code: 125,
            origin: Origin::Daemon,
        }
    }

    /// `what: errno's text`.
    fn io(what: impl std::fmt::Display, error: &io::Error) -> StageError {
        StageError::new(format!("{what}: {}", errno::text(error)))
    }

    /// As runc words what went wrong in the container's first process.
    fn during_init(mut self) -> StageError {
        if self.origin == Origin::Runtime {
            self.message = format!("error during container init: {}", self.message);
        }
        self
    }
}

/// dockerd's rule (moby daemon/errors.go, `setExitCodeFromError`): the code is read off the text.
fn exit_code(message: &str) -> i32 {
    let has = |text: &str| message.contains(text);
    if has("permission denied") || has("is a directory") {
        126
    } else if has("not a directory")
        || has("executable file not found")
        || has("no such file or directory")
    {
        127
    } else {
        125
    }
}

/// How long each part of a start took, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// Opening bind sources and clone3.
    pub clone: u64,
    /// Writing the id maps, until the child is awake.
    pub map: u64,
    /// Mounts, devices, masks, read-only paths.
    pub mounts: u64,
    /// pivot_root, working directory, console, host name, user lookup.
    pub pivot: u64,
    /// Sysctls, limits, user, capabilities and, without no_new_privs, seccomp.
    pub confine: u64,
    /// With no_new_privs seccomp; execve, until the shim knows.
    pub exec: u64,
}

/// The process exists, with its namespaces and id maps. Dropped, it is killed and reaped.
#[derive(Debug)]
pub struct Spawned {
    process: Handle,
    channel: Channel,
    started: Instant,
    phases: Phases,
    prefix: bool,
}

/// The root filesystem is in place; only the last steps and execve are left.
#[derive(Debug)]
pub struct Ready {
    process: Handle,
    channel: Channel,
    started: Instant,
    phases: Phases,
    console: Option<OwnedFd>,
    notes: Vec<String>,
    prefix: bool,
}

/// execve has succeeded: the process runs the container's program.
#[derive(Debug)]
pub struct Running {
    /// Process id in the shim's pid namespace; the process is the shim's child.
    pub pid: i32,
    /// Pidfd of the process.
    pub pidfd: OwnedFd,
    /// Field 22 of /proc/PID/stat.
    pub start_time: u64,
    /// Master side of the terminal, when there is one.
    pub console: Option<OwnedFd>,
    /// Where the time went.
    pub phases: Phases,
    /// What was left out or replaced because this host refuses it, one sentence each.
    pub notes: Vec<String>,
}

/// A process that is killed and reaped unless it is let go.
#[derive(Debug)]
struct Handle {
    pid: i32,
    pidfd: Option<OwnedFd>,
    start_time: u64,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            // It may have ended by itself already; reaping it is what matters.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            reap(self.pid);
        }
    }
}

/// Starts a container's first process and returns once execve has succeeded.
///
/// # Errors
///
/// A [`StageError`] in runc's words; nothing of the container is left then.
pub fn start(plan: &Plan, root: OwnedFd, stdio: Stdio) -> Result<Running, StageError> {
    spawn(plan, root, Vec::new(), stdio)?.ready()?.exec()
}

/// Makes the process and its namespaces. `root` is the detached mount of the root filesystem, `trees`
/// are those of the plan's [`MountSource::Layers`](crate::userns::plan::MountSource), in its order.
///
/// # Errors
///
/// A missing bind source, a namespace that cannot be made or joined, an id map that is refused.
pub fn spawn(
    plan: &Plan,
    root: OwnedFd,
    trees: Vec<OwnedFd>,
    stdio: Stdio,
) -> Result<Spawned, StageError> {
    let started = Instant::now();
    stdio.suits(&plan.process)?;
    forbid_inspection()?;
    let sources = sources::open(plan, trees).map_err(StageError::during_init)?;
    let (channel, theirs) =
        Channel::pair(START).map_err(|error| StageError::io("creating init pipe", &error))?;
    let child = namespaces::launch(&plan.namespaces, || {
        channel.close_inherited();
        child::run(plan, root, sources, stdio, &theirs, started)
    })?;
    drop(theirs);
    let mut spawned = Spawned {
        process: Handle::new(child)?,
        channel,
        started,
        phases: Phases {
            clone: elapsed(started),
            ..Phases::default()
        },
        prefix: true,
    };
    if plan.namespaces.user == Namespace::New {
        namespaces::write_maps(spawned.process.pid, &plan.id_map)?;
    }
    spawned.tell(Order::Mapped)?;
    Ok(spawned)
}

impl Spawned {
    /// The process's pid in the shim's pid namespace.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Waits until the root filesystem is in place.
    ///
    /// # Errors
    ///
    /// What went wrong in the child.
    pub fn ready(mut self) -> Result<Ready, StageError> {
        let (report, console) = self.channel.receive_report(self.prefix)?;
        let Report::Ready {
            awake,
            mounts,
            pivot,
            notes,
        } = report
        else {
            return Err(StageError::new("unexpected message from init process"));
        };
        self.phases.map = awake.saturating_sub(self.phases.clone);
        self.phases.mounts = mounts.saturating_sub(awake);
        self.phases.pivot = pivot.saturating_sub(mounts);
        Ok(Ready {
            process: self.process,
            channel: self.channel,
            started: self.started,
            phases: self.phases,
            console,
            notes,
            prefix: self.prefix,
        })
    }

    fn tell(&mut self, order: Order) -> Result<(), StageError> {
        match self.channel.send_order(order) {
            Ok(()) => Ok(()),
            // The child is gone; what it said before it went is the better error.
            Err(error) => Err(match self.channel.receive_report(self.prefix) {
                Err(said) => said,
                Ok(_) => StageError::io("writing to init process", &error),
            }),
        }
    }
}

impl Ready {
    /// The process's pid in the shim's pid namespace.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// The process.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.process.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// The process, as others may find it.
    pub fn identity(&self) -> ProcessIdentity {
        ProcessIdentity {
            pid: self.process.pid,
            start_time: self.process.start_time,
        }
    }

    /// Confines the process and lets it execute its program.
    ///
    /// # Errors
    ///
    /// What went wrong in the child: the program is not found, the user is not mapped …
    pub fn exec(mut self) -> Result<Running, StageError> {
        let go = elapsed(self.started);
        if let Err(error) = self.channel.send_order(Order::Go) {
            return Err(match self.channel.receive_report(self.prefix) {
                Err(said) => said,
                Ok(_) => StageError::io("writing to init process", &error),
            });
        }
        let (report, _) = self.channel.receive_report(self.prefix)?;
        let Report::Confined { at } = report else {
            return Err(StageError::new("unexpected message from init process"));
        };
        self.channel.receive_end(self.prefix)?;
        self.phases.confine = at.saturating_sub(go);
        self.phases.exec = elapsed(self.started).saturating_sub(at);
        let pid = self.process.pid;
        let start_time = self.process.start_time;
        let pidfd = self
            .process
            .pidfd
            .take()
            .ok_or_else(|| StageError::new("init process has no pidfd"))?;
        Ok(Running {
            pid,
            pidfd,
            start_time,
            console: self.console.take(),
            phases: self.phases,
            notes: std::mem::take(&mut self.notes),
        })
    }
}

impl Handle {
    fn new(child: crate::sys::clone::Child) -> Result<Handle, StageError> {
        let mut handle = Handle {
            pid: child.pid,
            pidfd: Some(child.pidfd),
            start_time: 0,
        };
        handle.start_time = pidfd::start_time(child.pid)
            .map_err(|error| StageError::io("reading init process's start time", &error))?;
        Ok(handle)
    }
}

/// Closes this process's memory, program and descriptors to others, and to the children that it
/// clones until they execute something.
fn forbid_inspection() -> Result<(), StageError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| StageError::io("prctl(SET_DUMPABLE)", &error.into()))
}

fn elapsed(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
