//! Conversations by UDP: who sends to a published port is answered from it, for as long as either
//! side has something to say.
//!
//! Each client has a socket of its own in the network's namespace, bound to the client's address and
//! port and connected to the container's. A conversation ends [`QUIET`] after its last datagram, as
//! Docker's proxy has it. There are at most [`MOST`] of them a network; one more replaces the one
//! that has been quiet for longest.
//!
//! A client is answered from the address of the host that it sent to, whichever the host's routing
//! would choose.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, SendFlags};

use super::{Around, Clients, Listener};
use crate::slirp::answers::{Answers, Ends, Way};
use crate::slirp::helper::Helper;
use crate::slirp::reactor::{Reactor, Ready};
use crate::sys::pktinfo::{self, Local as Place};
use crate::types::port::Protocol;

/// How long nothing may be said.
const QUIET: Duration = Duration::from_secs(90);

/// Conversations of a network.
const MOST: usize = 4096;

/// Datagrams that are moved in one go, before others get their turn.
const BURST: usize = 64;

/// All conversations of a network.
#[derive(Debug)]
pub(super) struct Conversations {
    answers: Arc<Answers>,
    all: HashMap<u64, Conversation>,
    /// By port, client, and where it sent to.
    known: HashMap<(u64, SocketAddr, Option<Place>), u64>,
}

#[derive(Debug)]
struct Conversation {
    listener: u64,
    way: Arc<Way>,
    /// The container's address and its client's, as the container sees it.
    ends: Ends,
    /// The client's address is the socket's.
    shown: Option<IpAddr>,
    socket: OwnedFd,
    last: Instant,
}

impl Conversations {
    /// None yet.
    pub(super) fn new(answers: Arc<Answers>) -> Self {
        Self {
            answers,
            all: HashMap::new(),
            known: HashMap::new(),
        }
    }

    /// Takes what clients have sent to a port.
    pub(super) fn take_in(
        &mut self,
        token: u64,
        listener: &Listener,
        mut around: Around<'_>,
        reactor: &mut Reactor,
        buffer: &mut [u8],
    ) {
        for _ in 0..BURST {
            let Ok((length, client, place)) = pktinfo::receive(&listener.socket, buffer) else {
                return;
            };
            let Some(client) = client else {
                continue;
            };
            let known = self.known.get(&(token, client, place)).copied();
            let number = match known {
                Some(number) => number,
                None => match self.begin(token, listener, (client, place), &mut around, reactor) {
                    Some(number) => number,
                    None => continue,
                },
            };
            if let Some(conversation) = self.all.get_mut(&number) {
                conversation.last = Instant::now();
                // What cannot be sent is lost, as datagrams may be.
                let bytes = buffer.get(..length).unwrap_or_default();
                let _ = rustix::net::send(&conversation.socket, bytes, SendFlags::empty());
            }
        }
    }

    fn begin(
        &mut self,
        token: u64,
        listener: &Listener,
        (client, place): (SocketAddr, Option<Place>),
        around: &mut Around<'_>,
        reactor: &mut Reactor,
    ) -> Option<u64> {
        if self.all.len() >= MOST {
            let quietest = self.all.iter().min_by_key(|(_, it)| it.last);
            let quietest = quietest.map(|(number, _)| *number)?;
            self.finish(quietest, around.clients, around.helper);
        }
        let made = around.connect(Protocol::Udp, client, listener.target);
        let (socket, shown) = made.ok()?;
        if !around.descriptors.admit(&socket, self.all.len()) {
            around.leave(shown);
            return None;
        }
        let number = reactor.token();
        let seen = rustix::net::getsockname(&socket).ok();
        let seen = seen.and_then(|seen| SocketAddr::try_from(seen).ok());
        let watched = reactor.add(&socket, number, EventFlags::IN);
        let (Some(seen), Ok(())) = (seen, watched) else {
            around.leave(shown);
            return None;
        };
        self.known.insert((token, client, place), number);
        let way = Arc::new(Way::new(Arc::clone(&listener.socket), client, place));
        let ends = (listener.target, seen);
        self.answers.begin(ends, Arc::clone(&way));
        let conversation = Conversation {
            listener: token,
            way,
            ends,
            shown,
            socket,
            last: Instant::now(),
        };
        self.all.insert(number, conversation);
        Some(number)
    }

    /// Takes what a container has answered, if what became ready is a conversation.
    pub(super) fn handle(&mut self, ready: Ready, buffer: &mut [u8]) -> bool {
        let Some(conversation) = self.all.get_mut(&ready.token) else {
            return false;
        };
        for _ in 0..BURST {
            match rustix::net::recv(&conversation.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, length)) => {
                    conversation.last = Instant::now();
                    let bytes = buffer.get(..length).unwrap_or_default();
                    conversation.way.send(bytes);
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => break,
                // Nobody listens there yet, or any more; the next datagram may find somebody.
                Err(_) => break,
            }
        }
        true
    }

    fn finish(&mut self, number: u64, clients: &mut Clients, helper: &Helper) {
        let Some(conversation) = self.all.remove(&number) else {
            return;
        };
        let (client, place) = conversation.way.client();
        self.known.remove(&(conversation.listener, client, place));
        self.answers.end(conversation.ends);
        let shown = conversation.shown;
        drop(conversation);
        if let Some(shown) = shown {
            clients.leave(shown, helper);
        }
    }

    /// Ends all conversations of a port.
    pub(super) fn end(&mut self, listener: u64, clients: &mut Clients, helper: &Helper) {
        let of_it = self.all.iter().filter(|(_, it)| it.listener == listener);
        let numbers: Vec<u64> = of_it.map(|(number, _)| *number).collect();
        for number in numbers {
            self.finish(number, clients, helper);
        }
    }

    /// When the next one has been quiet for long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.all.values().map(|it| it.last + QUIET).min()
    }

    /// Ends those that have been quiet for long enough.
    pub(super) fn expire(&mut self, now: Instant, clients: &mut Clients, helper: &Helper) {
        let mut numbers = Vec::new();
        for (number, conversation) in &mut self.all {
            let quiet = conversation.last + QUIET <= now;
            match quiet && conversation.way.was_used() {
                true => conversation.last = now,
                false => numbers.extend(quiet.then_some(*number)),
            }
        }
        for number in numbers {
            self.finish(number, clients, helper);
        }
    }
}
