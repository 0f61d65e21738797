//! Throw-away children: an operation is tried in one, and what it changed goes with it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sched::CloneFlags;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::super::idmap::IdMap;
use super::super::mapped::{Refused, fork_mapped};
use crate::sys::{fdpass, fork, pidfd};

/// How long one operation may take: a dead file server must not hang `doctor`.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer.
const LONGEST: usize = 4096;

/// What an operation came to: what it found, or why it failed.
pub(super) type Outcome = Result<String, String>;

/// Tries `operation` in a child that is as this process is.
pub(super) fn plain(operation: impl FnOnce() -> Outcome) -> Outcome {
    let (ours, theirs) = fdpass::pair().map_err(|error| error.to_string())?;
    let child = fork::fork(|| tell(&theirs, operation())).map_err(|error| error.to_string())?;
    drop(theirs);
    hear(&ours, child)
}

/// Tries `operation` as root of a new user namespace with `maps` and the other new namespaces.
pub(super) fn as_root(
    others: CloneFlags,
    maps: &IdMap,
    operation: impl FnOnce() -> Outcome,
) -> Result<Outcome, Refused> {
    let pair = fdpass::pair().map_err(|error| Refused::Namespace(error.to_string()));
    let (ours, theirs) = pair?;
    let child = fork_mapped(others, maps, || tell(&theirs, operation()))?;
    drop(theirs);
    Ok(hear(&ours, child))
}

/// In the child: passes the outcome on, its first byte telling which.
fn tell(parent: &OwnedFd, outcome: Outcome) -> i32 {
    let (mark, mut text) = match outcome {
        Ok(text) => ('+', text),
        Err(text) => ('-', text),
    };
    text.insert(0, mark);
    let length = text.len().min(LONGEST);
    i32::from(fdpass::send(parent, &text.as_bytes()[..length], &[]).is_err())
}

fn hear(child_end: &OwnedFd, child: Pid) -> Outcome {
    let outcome = match wait_readable(child_end) {
        Ok(true) => {
            let mut buffer = vec![0; LONGEST];
            match fdpass::receive(child_end, &mut buffer) {
                Ok((0, _)) => Err("the trial's process died".to_owned()),
                Ok((length, _)) => {
                    let text = String::from_utf8_lossy(&buffer[1..length]).into_owned();
                    if buffer[0] == b'+' {
                        Ok(text)
                    } else {
                        Err(text)
                    }
                }
                Err(error) => Err(error.to_string()),
            }
        }
        Ok(false) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        Err(error) => Err(error.to_string()),
    };
    if let Ok(process) = pidfd::open(child.as_raw()) {
        let _ = pidfd::kill(process, rustix::process::Signal::KILL);
    }
    // One that hangs in the kernel cannot be waited for; it is init's then.
    let _ = nix::sys::wait::waitpid(child, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
    outcome
}

fn wait_readable(socket: impl AsFd) -> io::Result<bool> {
    let patience = Timespec::try_from(PATIENCE).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut polled = [PollFd::new(&socket, PollFlags::IN)];
    Ok(rustix::event::poll(&mut polled, Some(&patience))? > 0)
}
