//! Descendants of a container that has no pid namespace of its own (`--pid host`).
//!
//! Where the container has one, the kernel kills and reaps everything in it with its first
//! process. Otherwise the shim is the *subreaper*: what loses its parent becomes the shim's child,
//! is reaped, and is killed when the container's first process ends. (`--pid container:X` needs
//! none of this, its orphans are adopted by X's first process.)

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long [`end`] goes on. A killed process ends at once unless it hangs in the kernel.
const PATIENCE: Duration = Duration::from_secs(1);

/// Makes this process the parent of its descendants' orphans.
pub(crate) fn adopt() {
    // Cannot fail on any kernel with user namespaces.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Reaps every orphan that has ended; `tasks` are left to their pidfds.
pub(crate) fn reap(tasks: &[i32]) {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) =
        waitid(Id::All, peek)
    {
        let Some(pid) = status.pid() else { return };
        // A task's zombie hides others behind it; they have their turn when it is gone.
        if tasks.contains(&pid.as_raw()) {
            return;
        }
        let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
    }
}

/// Kills all orphans, and those whom their deaths orphan.
pub(crate) fn end(tasks: &[i32]) {
    let until = Instant::now() + PATIENCE;
    loop {
        let orphans: Vec<i32> = children()
            .into_iter()
            .filter(|pid| !tasks.contains(pid))
            .collect();
        if orphans.is_empty() || Instant::now() > until {
            return;
        }
        for pid in orphans {
            // A child that nobody reaps meanwhile keeps its number.
            let Some(pid) = Pid::from_raw(pid) else {
                continue;
            };
            if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
                let _ = pidfd_send_signal(pidfd.as_fd(), Signal::KILL);
            }
            let raw = nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get());
            let _ = waitid(Id::Pid(raw), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// This process's children; none where the kernel does not list them (CONFIG_PROC_CHILDREN).
fn children() -> Vec<i32> {
    let list = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    list.split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}
