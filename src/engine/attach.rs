//! Joining clients to containers, and their logs.
//!
//! An attach has two halves, since HTTP has: everything that can fail with a status comes before
//! the connection is taken over ([`Engine::container_attach`]), and the connection comes after
//! ([`AttachTicket::connect`]). A client that attaches before the start waits here, with whatever
//! it sends still in its socket; and since it is likely to start the container next, the start is
//! prepared meanwhile (`ahead`).
//!
//! `docker run` attaches, is told so, and starts the container at once, on another connection.
//! Nothing of the first output may be lost between the telling and the connection's getting here,
//! so a start waits for the tickets that are out. A start under way has taken its clients already:
//! a connection that comes then waits for the start's end and is joined afterwards.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::container::logs::{Follow, Query, Reader, Record};
use crate::container::protocol::Attach;
use crate::container::record::State;
use crate::engine::Engine;
use crate::engine::containers::{Arriving, Container, Data};
use crate::engine::error::{Error, Result};
use crate::engine::logging;
use crate::sys::unread::wait_until_read;

/// How long a client that asked for the log may leave it unread.
const REPLAY_PATIENCE: Duration = Duration::from_secs(10);

/// How long a client may leave its answer's head unread before output follows.
pub const HEAD_PATIENCE: Duration = Duration::from_millis(200);

/// What a client wants to be joined to.
#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    /// Its input goes to the container.
    pub stdin: bool,
    /// It gets stdout.
    pub stdout: bool,
    /// It gets stderr.
    pub stderr: bool,
    /// It gets what was logged so far, first.
    pub logs: bool,
    /// It gets what comes.
    pub stream: bool,
    /// Its output is not framed, whatever the container has.
    pub raw: bool,
    /// Its detach keys as typed (`ctrl-p,ctrl-q`); empty for Docker's default.
    pub detach_keys: String,
}

/// A client that may be joined.
pub struct AttachTicket {
    container: Arc<Container>,
    attach: Attach,
    stream: bool,
    logs: bool,
    arriving: Arriving,
}

impl AttachTicket {
    /// Whether the container has a terminal: its output is then raw.
    pub fn terminal(&self) -> bool {
        !self.attach.multiplexed
    }

    /// Writes what was logged so far to the client, framed as its stream will be.
    fn replay(&self, engine: &Engine, connection: &OwnedFd) -> std::io::Result<()> {
        let Some((path, format)) = engine.log_file(&self.container.record()) else {
            return Ok(());
        };
        let query = Query {
            stdout: self.attach.stdout,
            stderr: self.attach.stderr,
            ..Query::default()
        };
        let mut reader = Reader::open(&path, format, query, None)?;
        let mut client = UnixStream::from(connection.try_clone()?);
        client.set_nonblocking(false)?;
        client.set_write_timeout(Some(REPLAY_PATIENCE))?;
        let mut record = Record::default();
        let mut frame = Vec::new();
        while reader.read(&mut record)? {
            frame.clear();
            if self.attach.multiplexed {
                let length = u32::try_from(record.line.len()).unwrap_or(u32::MAX);
                frame.extend([record.stream as u8, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
            }
            frame.extend(&record.line);
            client.write_all(&frame)?;
        }
        Ok(())
    }

    /// Joins the connection; `early` is what the client has sent already.
    pub fn connect(self, engine: &Engine, connection: OwnedFd, early: Vec<u8>) {
        // Before the start there is nothing that could follow at once.
        if self.logs || self.container.data().record.state.is_running() {
            wait_until_read(connection.as_fd(), HEAD_PATIENCE);
        }
        if self.logs
            && let Err(error) = self.replay(engine, &connection)
        {
            // Maybe in the middle of a frame, which nothing can follow.
            tracing::debug!(
                id = self.container.id.short(),
                "cannot replay the log: {error}"
            );
            return;
        }
        if !self.stream {
            return;
        }
        let attach = Attach {
            early,
            ..self.attach
        };
        let mut data = self.container.settled();
        if !data.record.state.is_running() {
            data.pending.retain(|(_, client)| !has_left(client));
            if data.removed {
                return;
            }
            data.pending.push((attach, connection));
            drop(data);
            engine.prepare_ahead(&self.container);
            return;
        }
        drop(data);
        if let Err(error) = engine.shims.attach(&self.container.id, attach, connection) {
            tracing::warn!(id = self.container.id.short(), "cannot attach: {error}");
        }
        drop(self.arriving);
    }
}

impl Data {
    /// Whether a client is attached that waits for the start.
    pub(super) fn is_awaited(&self) -> bool {
        self.pending.iter().any(|(_, client)| !has_left(client))
    }
}

/// Whether a client has closed its connection; one that has only sent all it will send has not.
fn has_left(client: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(client, PollFlags::empty())];
    let now = Timespec::default();
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
}

/// A container's log, opened.
pub struct OpenLog {
    /// Gives the records.
    pub reader: Reader,
    /// Ends the reading when the client has gone.
    pub follow: Option<Arc<Follow>>,
    /// Whether the container has a terminal: the log is then shown raw.
    pub terminal: bool,
}

impl Engine {
    /// Checks that a client may attach.
    pub fn container_attach(&self, name: &str, options: &AttachOptions) -> Result<AttachTicket> {
        let keys = crate::types::detach_keys::parse(&options.detach_keys).map_err(|_| {
            Error::invalid(format!(
                "Invalid detach keys ({}) provided",
                options.detach_keys
            ))
        })?;
        let container = self.containers.find(name)?;
        let record = container.record();
        let state = match record.state {
            State::Running { paused: true, .. } => {
                Some("paused, unpause the container before attach")
            }
            State::Restarting { .. } => Some("restarting, wait until the container is running"),
            _ => None,
        };
        if let Some(state) = state {
            return Err(Error::conflict(format!("container {name} is {state}")));
        }
        if container.data().removing {
            return Err(Error::conflict(format!(
                "container {} is marked for removal",
                container.id
            )));
        }
        self.container_event(&record, "attach", []);
        Ok(AttachTicket {
            arriving: container.arriving(),
            container,
            stream: options.stream,
            logs: options.logs,
            attach: Attach {
                stdin: options.stdin && record.config.open_stdin,
                stdout: options.stdout,
                stderr: options.stderr,
                multiplexed: !record.config.tty && !options.raw,
                detach_keys: keys,
                early: Vec::new(),
            },
        })
    }

    /// Opens a container's log. The reader is to be used on a thread of its own: with `follow` it
    /// blocks until the container ends or the caller cancels.
    pub fn container_logs(&self, name: &str, query: Query, follow: bool) -> Result<OpenLog> {
        let container = self.containers.find(name)?;
        if container.data().removing {
            return Err(Error::conflict(
                "can not get logs from container which is dead or marked for removal",
            ));
        }
        let record = container.record();
        let (path, format) = self.log_file(&record).ok_or_else(|| {
            Error::not_implemented("configured logging driver does not support reading")
        })?;
        let opening = |error: std::io::Error| Error::io("cannot open the container's log", &error);
        logging::make_directory(&path).map_err(opening)?;
        let follow = match follow {
            false => None,
            true => {
                let follow = Follow::new().map_err(opening)?;
                let mut data = container.data();
                if data.record.state.is_running() || data.starting {
                    data.followers
                        .retain(|follower| follower.strong_count() > 0);
                    data.followers.push(Arc::downgrade(&follow));
                } else {
                    follow.end();
                }
                Some(follow)
            }
        };
        let reader = Reader::open(&path, format, query, follow.clone()).map_err(opening)?;
        Ok(OpenLog {
            reader,
            follow,
            terminal: record.config.tty,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_waiting_until_it_has_left() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let client = OwnedFd::from(theirs);
        assert!(!has_left(&client));
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!has_left(&client), "it has sent all it will send");
        drop(ours);
        assert!(has_left(&client));
    }
}
