//! One connection to a shim: what is asked on it, and who waits for the answers.
//!
//! Requests are numbered; an answer names its request's number. Once the monitor knows the
//! connection it alone reads from it; until then the thread that has made it waits by itself.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::container::packet::{MOST_DESCRIPTORS, Packet, receive_until};
use crate::container::protocol::{Attach, Envelope, Message, Reply, Request};
use crate::types::id::ContainerId;

/// One connection.
#[derive(Debug)]
pub(super) struct Shim {
    pub(super) id: ContainerId,
    pub(super) token: u64,
    pub(super) socket: OwnedFd,
    pub(super) seq: AtomicU64,
    pub(super) waiting: Mutex<HashMap<u64, SyncSender<Reply>>>,
    /// Its container has ended or never began, so its own end is no news.
    pub(super) exited: AtomicBool,
}

impl Shim {
    pub(super) fn new(id: ContainerId, token: u64, socket: OwnedFd) -> Self {
        let waiting = Mutex::default();
        Self {
            id,
            token,
            socket,
            seq: AtomicU64::new(0),
            waiting,
            exited: false.into(),
        }
    }

    pub(super) fn waiting(&self) -> MutexGuard<'_, HashMap<u64, SyncSender<Reply>>> {
        // Held only for single operations on the map, which a panic cannot leave half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn packet(&self, request: Request, fds: Vec<OwnedFd>) -> io::Result<(u64, Packet)> {
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        Ok((seq, Packet::new(&Envelope { seq, request }, fds)?))
    }

    pub(super) fn send(
        &self,
        request: Request,
        fds: Vec<OwnedFd>,
        deadline: Instant,
    ) -> io::Result<u64> {
        let (seq, packet) = self.packet(request, fds)?;
        packet.send_until(self.socket.as_fd(), deadline)?;
        Ok(seq)
    }

    /// Tells a shim to start what it has prepared. A message carries a limited number of
    /// descriptors; more clients go ahead, one by one.
    pub(super) fn send_start(
        &self,
        clients: &[(Attach, OwnedFd)],
        deadline: Instant,
    ) -> io::Result<u64> {
        let (clients, rest) = clients.split_at(clients.len().min(MOST_DESCRIPTORS));
        for (attach, connection) in rest {
            let connection = connection.try_clone()?;
            self.send(Request::Attach(attach.clone()), vec![connection], deadline)?;
        }
        let attach = clients.iter().map(|(attach, _)| attach.clone()).collect();
        let connections = clients.iter().map(|(_, connection)| connection.try_clone());
        let connections = connections.collect::<io::Result<_>>()?;
        self.send(Request::Start { attach }, connections, deadline)
    }

    /// Waits for a reply while the monitor does not know this connection yet.
    pub(super) fn wait_alone(&self, wanted: u64, deadline: Instant) -> io::Result<Reply> {
        loop {
            match receive_until(self.socket.as_fd(), deadline)? {
                Some((Message::Reply { seq, reply }, _)) if seq == wanted => return Ok(reply),
                // Answers to what went ahead of a start.
                Some(_) => {}
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is gone")),
            }
        }
    }
}
