//! Pausing a container by signals, as there may be no cgroup to freeze.
//!
//! Every process gets SIGSTOP, which none can block or catch, not even the first of a pid namespace
//! when it comes from outside. A process that has the signal pending makes no other any more, but it
//! may have made one just before: so all are listed again until a list holds none that was not told,
//! and all are at rest. Nothing is left running then that could continue them.
//!
//! Parents are stopped before their children and go on after them, so that a shell inside does not
//! see its job stop. What was stopped by somebody inside goes on with the others.
//!
//! Signals go to a pidfd of the process that was listed, never to a number that another may have by
//! now.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::processes::{self, Process};
use crate::sys::pidfd;

/// How long a container may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks at processes that do not rest yet.
const PACE: Duration = Duration::from_millis(1);

/// Stops every process of the container; see [`processes::of`] for the parameters.
///
/// # Errors
/// When it does not come to rest, or has ended; it then goes on.
pub fn pause(first: i32, shim: Option<i32>) -> io::Result<()> {
    let stopped = stop(first, shim);
    if stopped.is_err() {
        // A container that has ended needs nothing more.
        let _ = resume(first, shim);
    }
    stopped
}

fn stop(first: i32, shim: Option<i32>) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut told = BTreeSet::new();
    loop {
        let mut is_still = true;
        for process in processes::of(first, shim)? {
            // A leader that has ended is at rest while its threads run on, so each is told once.
            let is_new = told.insert((process.pid, process.start_time));
            if is_new || !is_at_rest(&process) {
                is_still = false;
                signal(&process, Signal::STOP)?;
            }
        }
        if is_still {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "its processes do not come to rest",
            ));
        }
        std::thread::sleep(PACE);
    }
}

/// Lets every process of the container go on. What one does then may be to end, and the container
/// with it.
///
/// # Errors
/// When it had ended before, or a signal was refused.
pub fn resume(first: i32, shim: Option<i32>) -> io::Result<()> {
    let mut told = BTreeSet::new();
    loop {
        let mut is_done = true;
        let listed = match processes::of(first, shim) {
            Err(error) if is_gone(&error) && !told.is_empty() => return Ok(()),
            listed => listed?,
        };
        for process in listed.iter().rev() {
            if told.insert((process.pid, process.start_time)) {
                is_done = false;
                signal(process, Signal::CONT)?;
            }
        }
        if is_done {
            return Ok(());
        }
    }
}

/// Stopped, traced, ended, or waiting in the kernel, from where it comes back to the signal.
fn is_at_rest(process: &Process) -> bool {
    matches!(process.state, b'T' | b't' | b'Z' | b'X' | b'D')
}

/// One that has ended meanwhile has no need of it.
fn signal(process: &Process, signal: Signal) -> io::Result<()> {
    let opened = pidfd::open_identity(process.pid, process.start_time);
    match opened.and_then(|opened| pidfd::kill(opened, signal)) {
        Err(error) if is_gone(&error) => Ok(()),
        other => other,
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_tree_stops_and_goes_on() {
        // A shell that makes children as fast as it can.
        let mut shell = Command::new("sh")
            .args(["-c", "echo up; while :; do sleep 0.01; done"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = shell.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let pid = shell.id().cast_signed();
        pause(pid, None).unwrap();
        let resting = processes::of(pid, None).unwrap();
        assert!(!resting.is_empty());
        assert!(resting.iter().all(is_at_rest));
        assert_eq!(processes::of(pid, None).unwrap(), resting);
        resume(pid, None).unwrap();
        let first = || processes::of(pid, None).unwrap()[0];
        while is_at_rest(&first()) {
            std::thread::yield_now();
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert!(pause(pid, None).is_err());
        assert!(resume(pid, None).is_err());
    }
}
