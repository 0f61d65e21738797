//! A container's start, in two halves: up to its first process's last gate, then the rest.
//!
//! The first half may be done long before it is known whether the second is wanted. The thread that
//! starts waits for the answer itself; the monitor gets the connection when the container runs.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::Shim;
use super::monitor::Shared;
use super::{START, Shims};
use crate::container::protocol::{Attach, Failure, Reply, Request, Start, Started};
use crate::sys::fdpass;
use crate::userns::plan::ProcessIdentity;

/// A container that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    /// Its first process.
    pub started: Started,
    /// What each phase of the start took, in nanoseconds, in order.
    pub phases: Vec<(String, u64)>,
    /// What was left out or replaced because this host refuses it, one sentence each.
    pub notes: Vec<String>,
}

/// A container whose start is done up to its last step, in a shim of its own. Dropped, nothing is
/// left of it.
pub struct Prepared {
    shim: Option<Shim>,
    shared: Arc<Shared>,
    /// Number of the request to prepare, whose answer is not read yet.
    seq: u64,
}

/// Why a container was not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotStarted {
    /// What went wrong.
    pub failure: Failure,
    /// Nothing of the container's own has run.
    pub never_ran: bool,
}

impl NotStarted {
    fn never(failure: Failure) -> Self {
        let never_ran = true;
        Self { failure, never_ran }
    }

    fn perhaps(failure: Failure) -> Self {
        let never_ran = false;
        Self { failure, never_ran }
    }
}

impl Shims {
    /// Has `spawn` (the keeper) fork a shim with one end of a socket pair, and the shim take `start`
    /// up to its last step. Waits for nothing: what goes wrong in the shim, [`Shims::start`] tells.
    ///
    /// # Errors
    /// That the shim could not be made (code 125).
    pub fn prepare(
        &self,
        spawn: &dyn Fn(OwnedFd) -> io::Result<()>,
        start: Start,
    ) -> Result<Prepared, Failure> {
        let (ours, theirs) = fdpass::pair().map_err(|error| unmade(&error))?;
        let token = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let shim = Shim::new(start.id, token, ours);
        // Sent before the shim exists, so that it need not wait for it.
        let prepare = Request::Prepare(Box::new(start));
        let seq = shim
            .send(prepare, Vec::new(), Instant::now() + START)
            .map_err(|error| unmade(&error))?;
        spawn(theirs).map_err(|error| unmade(&error))?;
        Ok(Prepared {
            shim: Some(shim),
            shared: Arc::clone(&self.shared),
            seq,
        })
    }

    /// Has [`Lapsed`](crate::container::protocol::Message::Lapsed) told when the shim has waited
    /// long enough for its start, or is gone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch(&self, prepared: &Prepared) -> io::Result<()> {
        let Some(shim) = &prepared.shim else {
            return Ok(());
        };
        self.shared.table().waiting.insert(shim.token, shim.id);
        // An end alone is of interest, which is always told, and once.
        let (data, flags) = (EventData::new_u64(shim.token), EventFlags::ONESHOT);
        Ok(epoll::add(&self.shared.epoll, &shim.socket, data, flags)?)
    }

    /// Waits until a container is prepared, and says which process waits to be let go: its
    /// namespaces are there. To be asked once.
    ///
    /// # Errors
    /// What the stage says, or that the shim does not answer. The container does not run then.
    pub fn process_of(&self, prepared: &Prepared) -> Result<ProcessIdentity, NotStarted> {
        let deadline = Instant::now() + START;
        let gone = || NotStarted::never(Failure::own("the shim is gone"));
        let shim = prepared.shim.as_ref().ok_or_else(gone)?;
        match shim.wait_alone(prepared.seq, deadline) {
            Ok(Reply::Prepared(process)) => Ok(process),
            Ok(Reply::Failed(failure)) => Err(NotStarted::never(failure)),
            Ok(_) => Err(NotStarted::never(Failure::own(
                "the shim gave an answer to another question",
            ))),
            Err(error) => Err(NotStarted::never(unmade(&error))),
        }
    }

    /// Starts the container that is prepared, joined by `clients`.
    ///
    /// # Errors
    /// What the stage says, or that the shim does not answer (code 125). The container does not run
    /// then, and nothing is left of what was prepared.
    pub fn start(
        &self,
        mut prepared: Prepared,
        clients: &[(Attach, OwnedFd)],
    ) -> Result<Launched, NotStarted> {
        let gone = || NotStarted::never(Failure::own("the shim is gone"));
        let shim = prepared.take().ok_or_else(gone)?;
        let deadline = Instant::now() + START;
        let sent = shim.send_start(clients, deadline);
        let seq = sent.map_err(|error| NotStarted::never(unmade(&error)))?;
        match shim.wait_alone(seq, deadline) {
            Ok(Reply::Started {
                started,
                phases,
                notes,
            }) => {
                let added = self.shared.add(shim);
                added.map_err(|error| NotStarted::perhaps(unmade(&error)))?;
                Ok(Launched {
                    started,
                    phases,
                    notes,
                })
            }
            Ok(Reply::Failed(failure)) => Err(NotStarted::never(failure)),
            Ok(_) => Err(NotStarted::perhaps(Failure::own(
                "the shim gave an answer to another question",
            ))),
            Err(error) => {
                // Should it start the container after all, it is to end it at once.
                let kill = Request::Kill {
                    signal: libc::SIGKILL,
                };
                let _ = shim.send(kill, Vec::new(), Instant::now());
                let _ = shim.send(Request::Release, Vec::new(), Instant::now());
                let failure =
                    Failure::own(format!("the shim did not start the container: {error}"));
                // The kernel's word for an end with our request still unread.
                match error.kind() == io::ErrorKind::ConnectionReset {
                    true => Err(NotStarted::never(failure)),
                    false => Err(NotStarted::perhaps(failure)),
                }
            }
        }
    }
}

impl Prepared {
    /// Whether its shim has waited long enough, or is gone.
    pub fn has_lapsed(&self) -> bool {
        let Some(shim) = &self.shim else {
            return true;
        };
        let mut polled = [PollFd::new(&shim.socket, PollFlags::empty())];
        let now = Timespec::default();
        poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
    }

    /// Takes the shim out, which nobody waits for any more.
    fn take(&mut self) -> Option<Shim> {
        let shim = self.shim.take()?;
        if self.shared.table().waiting.remove(&shim.token).is_some() {
            let _ = epoll::delete(&self.shared.epoll, &shim.socket);
        }
        Some(shim)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Prepared").field(&self.shim).finish()
    }
}

fn unmade(error: &io::Error) -> Failure {
    Failure::own(format!("failed to start a shim: {error}"))
}
