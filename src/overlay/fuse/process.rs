//! The server's process: a child of the shim, which has one thread, while the server has several.
//!
//! It holds nothing of the shim's but its memory's pages, all shared until written to: no
//! descriptor but the layers' and the device. It dies with the shim, by the kernel's hand; alone,
//! once the mount is gone.

use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::SigSet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::process::{
    Pid, Resource, Signal, WaitId, WaitIdOptions, getppid, getrlimit, pidfd_send_signal,
    set_parent_process_death_signal, waitid,
};
use serde::Serialize;

use super::tree::{Layers, Tree};
use super::{clear, server};
use crate::sys::{fork, pidfd, rlimit};
use crate::types::idmap::IdMapping;

/// Bounds of the number of threads: two a processor, since some wait for the disk.
const THREADS: (usize, usize) = (4, 16);
/// Descriptors that are kept for more than directories and files.
const SPARE: u64 = 256;
/// Most descriptors that are asked for.
const MOST: u64 = 1 << 20;
/// How many of them to hold that could be opened again. More would save little, and what holds them is
/// remembered until as many others have come.
const HOLDS: u64 = 4096;
/// How long a mount may take to be gone once it is let go of.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub struct Server {
    pid: i32,
    pidfd: OwnedFd,
}

impl Server {
    /// Forks it. For a process with one thread.
    pub(super) fn fork(layers: Layers, device: OwnedFd) -> io::Result<Server> {
        let Layers {
            lower,
            upper,
            work,
            volatile,
            owners,
        } = layers;
        let writable = upper.is_some();
        let mut keep = vec![device, work];
        keep.extend(upper);
        keep.extend(lower);
        let task = Task {
            parent: rustix::process::getpid().as_raw_nonzero().get(),
            volatile,
            writable,
            owners,
        };
        let child = fork::fork_holding(keep, task, run)?;
        let pid = child.as_raw();
        Ok(Server {
            pid,
            // A child of ours that nobody else reaps keeps its number.
            pidfd: pidfd::open(pid)?,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        !pidfd::is_alive(&self.pidfd).unwrap_or(false)
    }

    /// Waits for its end, which comes with the mount's: until then the kernel may have something
    /// to be written.
    pub fn finish(self) {
        let limit = Timespec::try_from(PATIENCE).ok();
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let _ = rustix::io::retry_on_intr(|| poll(&mut ended, limit.as_ref()));
    }
}

impl AsFd for Server {
    /// Readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = rustix::io::retry_on_intr(|| {
            waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)
        });
    }
}

/// What the child is told beside the descriptors.
#[derive(Debug, Serialize)]
struct Task {
    parent: i32,
    volatile: bool,
    /// There is an upper directory.
    writable: bool,
    owners: Option<IdMapping>,
}

fn run(held: Vec<OwnedFd>, task: Task) -> i32 {
    match serve(held, task) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("the FUSE server ended: {error}");
            1
        }
    }
}

fn serve(held: Vec<OwnedFd>, task: Task) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid().map(Pid::as_raw_nonzero).map(NonZero::get) != Some(task.parent) {
        return Ok(());
    }
    // Only SIGKILL ends it before its mount does.
    SigSet::all().thread_block()?;
    let _ = rustix::thread::set_name(c"moss-fuse");
    rustix::process::umask(Mode::empty());
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(MOST).min(MOST);
    // Refused, there are fewer.
    let most = match rlimit::set(libc::RLIMIT_NOFILE, most, most) {
        Ok(()) => most,
        Err(_) => limit.current.unwrap_or(MOST),
    };
    let holds = (most.saturating_sub(SPARE).max(SPARE) / 2).min(HOLDS);

    let mut held = held.into_iter();
    let mut next = || held.next().ok_or(io::ErrorKind::InvalidInput);
    let (device, work) = (next()?, next()?);
    let upper = if task.writable { Some(next()?) } else { None };
    if task.writable {
        clear(&work)?;
    }
    let layers = Layers {
        lower: held.collect(),
        upper,
        work,
        volatile: task.volatile,
        owners: task.owners,
    };
    let tree = Tree::new(layers, usize::try_from(holds).unwrap_or(usize::MAX))?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (processors * 2).clamp(THREADS.0, THREADS.1);
    server::serve(tree, device, threads)
}
