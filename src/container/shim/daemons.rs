//! The daemons that a shim talks to: the one that started it, and any that connects to
//! `shim.sock` later.
//!
//! Nothing here waits for a daemon: what its socket does not take is queued (a stopped daemon
//! costs memory, a few hundred bytes for each exec session that ends meanwhile).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::epoll::EventFlags;
use rustix::net::SocketFlags;

use super::reactor::{Epoll, Token, Watch};
use crate::container::packet::{Packet, receive};
use crate::container::protocol::{Envelope, Message, SOCKET};
use crate::sys::fdpass;

/// All connected daemons, and the socket where more may connect.
#[derive(Debug, Default)]
pub(crate) struct Daemons {
    connected: BTreeMap<u32, Daemon>,
    next: u32,
    listener: Option<(OwnedFd, Watch)>,
}

#[derive(Debug)]
struct Daemon {
    fd: OwnedFd,
    watch: Watch,
    queue: VecDeque<Packet>,
}

impl Daemons {
    /// Adds a connection.
    pub(crate) fn add(&mut self, epoll: &Epoll, fd: OwnedFd) {
        let number = self.next;
        self.next += 1;
        let mut watch = Watch::new(Token::Daemon(number));
        watch.set(epoll, fd.as_fd(), Some(EventFlags::IN));
        self.connected.insert(
            number,
            Daemon {
                fd,
                watch,
                queue: VecDeque::new(),
            },
        );
    }

    /// Whether any is connected.
    pub(crate) fn is_empty(&self) -> bool {
        self.connected.is_empty()
    }

    /// Listens on `shim.sock` in `dir`, which is made if it is gone; an older socket is replaced.
    pub(crate) fn listen(&mut self, epoll: &Epoll, dir: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        let socket = fdpass::listen(&dir.join(SOCKET))?;
        let mut watch = Watch::new(Token::Listener);
        watch.set(epoll, socket.as_fd(), Some(EventFlags::IN));
        self.listener = Some((socket, watch));
        Ok(())
    }

    /// Lets no more daemons connect.
    pub(crate) fn stop_listening(&mut self) {
        self.listener = None;
    }

    /// Takes one new connection; one of another user is dropped.
    pub(crate) fn accept(&mut self, epoll: &Epoll) {
        let Some((listener, _)) = &self.listener else {
            return;
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(fd) = rustix::net::accept_with(listener, flags) else {
            return;
        };
        let peer = rustix::net::sockopt::socket_peercred(&fd);
        if peer.is_ok_and(|peer| peer.uid == rustix::process::geteuid()) {
            self.add(epoll, fd);
        }
    }

    /// Handles an event of a connection; returns the next request, if there is one.
    pub(crate) fn ready(
        &mut self,
        epoll: &Epoll,
        number: u32,
        flags: EventFlags,
    ) -> Option<(Envelope, Vec<OwnedFd>)> {
        let daemon = self.connected.get_mut(&number)?;
        if flags.contains(EventFlags::OUT) {
            daemon.flush(epoll);
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return None;
        }
        match receive(daemon.fd.as_fd()) {
            Ok(Some(request)) => return Some(request),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
            // The end, or nonsense: a daemon of another version is told its version by the
            // answer to its first message, so what cannot be read at all is not one's.
            Ok(None) | Err(_) => {}
        }
        self.connected.remove(&number);
        None
    }

    /// Sends to one daemon.
    pub(crate) fn send(&mut self, epoll: &Epoll, number: u32, message: &Message) {
        if let Some(daemon) = self.connected.get_mut(&number) {
            daemon.send(epoll, message);
        }
    }

    /// Sends to all.
    pub(crate) fn send_all(&mut self, epoll: &Epoll, message: &Message) {
        for daemon in self.connected.values_mut() {
            daemon.send(epoll, message);
        }
    }
}

impl Daemon {
    fn send(&mut self, epoll: &Epoll, message: &Message) {
        // Messages of ours always encode, and a memfd for a long one is had or the daemon finds
        // out by its time-out.
        let Ok(packet) = Packet::new(message, Vec::new()) else {
            return;
        };
        self.queue.push_back(packet);
        self.flush(epoll);
    }

    fn flush(&mut self, epoll: &Epoll) {
        while let Some(packet) = self.queue.front() {
            match packet.send(self.fd.as_fd()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // A broken connection is noticed, and dropped, by its hang-up.
                Ok(()) | Err(_) => self.queue.pop_front(),
            };
        }
        let mut flags = EventFlags::IN;
        flags.set(EventFlags::OUT, !self.queue.is_empty());
        self.watch.set(epoll, self.fd.as_fd(), Some(flags));
    }
}
