//! The wire between shim and staged child: a `SOCK_SEQPACKET` pair, close-on-exec.
//!
//! Shim to child: one byte an [`Order`]. Child to shim: JSON [`Report`]s, the console's descriptor
//! beside one of them. The shim waits for each report of a start only so long. For all of an exec's
//! together it waits only so long: the processes of a container may stop one that joins them
//! (SIGSTOP) before it has executed anything, again and again, and must not stop the shim with it.
//! End of file towards the shim is the news that execve happened; end of file towards the child
//! means that the shim is gone, and the child ends.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};

use super::StageError;
use crate::sys::fdpass;

/// Longest report; an error's text may quote paths, of 4 KiB each at most.
const MAX_REPORT: usize = 64 << 10;

/// What the shim tells the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The id maps are written.
    Mapped,
    /// Execute the program.
    Go,
}

/// What the child tells the shim. Times are nanoseconds since the start.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The root filesystem is in place.
    Ready {
        awake: u64,
        mounts: u64,
        pivot: u64,
        notes: Vec<String>,
    },
    /// All that is left is execve (and seccomp with no_new_privs).
    Confined { at: u64 },
    /// It cannot go on.
    Failed(StageError),
}

/// One end.
#[derive(Debug)]
pub(super) struct Channel {
    fd: OwnedFd,
    /// How long a report may take.
    patience: Duration,
    /// When the last report must have come, whatever each took.
    until: Option<Instant>,
}

impl Channel {
    /// Both ends; each report may take `patience`.
    pub(super) fn pair(patience: Duration) -> io::Result<(Channel, Channel)> {
        let end = |fd| Channel {
            fd,
            patience,
            until: None,
        };
        let (a, b) = fdpass::pair()?;
        Ok((end(a), end(b)))
    }

    /// Both ends; all reports together may take `patience` from now on.
    pub(super) fn pair_within(patience: Duration) -> io::Result<(Channel, Channel)> {
        let (mut ours, theirs) = Channel::pair(patience)?;
        ours.until = Some(Instant::now() + patience);
        Ok((ours, theirs))
    }

    /// In the child: closes its copy of the shim's end, which a frame that will never run again
    /// still owns. Without it the child would hold its own channel open.
    pub(super) fn close_inherited(&self) {
        let _ = nix::unistd::close(self.fd.as_raw_fd());
    }

    pub(super) fn send_order(&self, order: Order) -> io::Result<()> {
        self.send(&[order as u8], None)
    }

    /// Waits for an order; anything else, also the shim's end, is an error.
    pub(super) fn wait_for(&self, order: Order) -> io::Result<()> {
        let mut byte = [0_u8; 1];
        match self.receive(&mut byte)? {
            (1, _) if byte[0] == order as u8 => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    pub(super) fn send_report(&self, report: &Report, console: Option<&OwnedFd>) -> io::Result<()> {
        let mut text = serde_json::to_vec(report)?;
        if text.len() > MAX_REPORT {
            text = serde_json::to_vec(&Report::Failed(StageError::new("error text too long")))?;
        }
        self.send(&text, console)
    }

    /// Waits for the next report; a failure or the child's end is an error.
    pub(super) fn receive_report(
        &self,
        prefix: bool,
    ) -> Result<(Report, Option<OwnedFd>), StageError> {
        self.next(prefix)?
            .ok_or_else(|| StageError::new("init process ended before it was ready"))
    }

    /// Waits for the channel to end: execve closed the other side.
    pub(super) fn receive_end(&self, prefix: bool) -> Result<(), StageError> {
        match self.next(prefix)? {
            None => Ok(()),
            Some(_) => Err(StageError::new("unexpected message from init process")),
        }
    }

    fn next(&self, prefix: bool) -> Result<Option<(Report, Option<OwnedFd>)>, StageError> {
        if !self.is_readable()? {
            return Err(StageError::new(format!(
                "the process did not get ready within {} seconds",
                self.patience.as_secs()
            )));
        }
        let mut bytes = vec![0_u8; MAX_REPORT];
        let (n, console) = match self.receive(&mut bytes) {
            Ok(got) => got,
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => (0, None),
            Err(error) => return Err(StageError::io("reading from init process", &error)),
        };
        if n == 0 {
            return Ok(None);
        }
        match serde_json::from_slice(&bytes[..n]) {
            Ok(Report::Failed(error)) if prefix => Err(error.during_init()),
            Ok(Report::Failed(error)) => Err(error),
            Ok(report) => Ok(Some((report, console))),
            Err(error) => Err(StageError::new(format!(
                "reading from init process: {error}"
            ))),
        }
    }

    /// Waits for a report or the end; `false` where neither comes in time.
    fn is_readable(&self) -> Result<bool, StageError> {
        let failed = |error: io::Error| StageError::io("reading from init process", &error);
        let left = self.until.map_or(self.patience, |until| {
            until.saturating_duration_since(Instant::now())
        });
        let limit =
            Timespec::try_from(left).map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        let mut polled = [PollFd::new(&self.fd, PollFlags::IN)];
        // Every signal is blocked in a shim, so the wait is not begun anew over and over.
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&limit)))
            .map(|ready| ready > 0)
            .map_err(|error| failed(error.into()))
    }

    pub(super) fn send(&self, bytes: &[u8], fd: Option<&OwnedFd>) -> io::Result<()> {
        let descriptors: Vec<_> = fd.map(AsFd::as_fd).into_iter().collect();
        fdpass::send(&self.fd, bytes, &descriptors)
    }

    pub(super) fn receive(&self, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        let (length, mut descriptors) = fdpass::receive(&self.fd, bytes)?;
        Ok((length, descriptors.pop()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn one_that_dawdles_at_every_step_is_not_waited_for() {
        let (ours, theirs) = Channel::pair_within(Duration::from_millis(300)).unwrap();
        let given_up = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Each report comes in time by itself.
                for _ in 0..600 {
                    if given_up.load(Ordering::SeqCst) {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                    let _ = theirs.send_report(&Report::Confined { at: 0 }, None);
                }
                theirs.send_report(&Report::Failed(StageError::new("never given up")), None)
            });
            let error = loop {
                if let Err(error) = ours.receive_report(false) {
                    break error;
                }
            };
            given_up.store(true, Ordering::SeqCst);
            let told = "the process did not get ready within 0 seconds";
            assert_eq!(error.message, told);
        });
    }
}
