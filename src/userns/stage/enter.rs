//! One more process in a running container (`docker exec`).
//!
//! A joiner enters all of the container's namespaces by its init's pidfd in one setns(2), then
//! clones the process as the shim's own child (CLONE_PARENT): the shim reaps it by its pid and gets
//! its real exit status, and nothing lingers between them. The process is in the container's pid
//! namespace from its first instruction, and not dumpable until execve.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use super::channel::{Channel, Order, Report};
use super::program::Program;
use super::{
    EXEC, Handle, Phases, Running, Spawned, StageError, Stdio, child, confine, console, elapsed,
    forbid_inspection, namespaces,
};
use crate::sys::{keyring, signal};
use crate::userns::plan::{Process, ProcessIdentity};
use crate::userns::users::Files;

/// Runs a process in the container whose first process is `init`, and returns once execve has
/// succeeded. `pidfd` is that process's.
///
/// # Errors
///
/// A [`StageError`] in the words of `runc exec`.
pub fn exec(
    process: &Process,
    init: ProcessIdentity,
    pidfd: BorrowedFd<'_>,
    stdio: Stdio,
) -> Result<Running, StageError> {
    let started = Instant::now();
    stdio.suits(process)?;
    forbid_inspection()?;
    if crate::sys::pidfd::start_time(init.pid).ok() != Some(init.start_time) {
        return Err(StageError::new("cannot exec in a stopped container"));
    }
    let (channel, theirs) =
        Channel::pair_within(EXEC).map_err(|error| StageError::io("creating init pipe", &error))?;
    let made = namespaces::by_way_of_joiner(
        || {
            // While the host's proc is still at /proc.
            confine::set_oom_score(process.oom_score_adj)
                .map_err(|error| std::io::Error::other(error.message))?;
            namespaces::enter_all(pidfd, init.pid)
        },
        0,
        || {
            channel.close_inherited();
            run(process, stdio, &theirs, started)
        },
    )?;
    drop(theirs);
    let spawned = Spawned {
        process: Handle::new(made)?,
        channel,
        started,
        phases: Phases {
            clone: elapsed(started),
            ..Phases::default()
        },
        prefix: false,
    };
    spawned.ready()?.exec()
}

fn run(process: &Process, stdio: Stdio, channel: &Channel, started: Instant) -> i32 {
    match stage(process, stdio, channel, started) {
        Ok(program) => {
            signal::reset_all();
            program.execute()
        }
        Err(error) => child::fail(channel, error),
    }
}

fn stage(
    process: &Process,
    stdio: Stdio,
    channel: &Channel,
    started: Instant,
) -> Result<Program, StageError> {
    confine::protect()?;
    let awake = elapsed(started);
    namespaces::become_root()?;
    confine::protect()?;
    let _ = rustix::process::setsid();
    let root = slash()?;
    let master = if process.terminal {
        let pty = console::open(None, process.console_size)?;
        child::use_terminal(&pty)?;
        Some(pty.master)
    } else {
        child::use_pipes(root.as_fd(), stdio)?;
        None
    };
    let files = Files::read(root.as_fd());
    let user = confine::look_up(process, &files)?;
    let ready = Report::Ready {
        awake,
        mounts: awake,
        pivot: elapsed(started),
        notes: Vec::new(),
    };
    channel
        .send_report(&ready, master.as_ref())
        .map_err(|error| StageError::io("sync ready", &error))?;
    drop(master);
    child::wait(channel, Order::Go)?;
    keyring::new_session();
    child::set_umask(process);
    confine::confine(process, &user, || {
        channel.send_report(
            &Report::Confined {
                at: elapsed(started),
            },
            None,
        )
    })
}

/// The container's root, which setns(2) made this process's own.
fn slash() -> Result<OwnedFd, StageError> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| StageError::io("open /", &error.into()))
}
