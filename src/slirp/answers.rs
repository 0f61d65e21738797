//! Where containers' answers by UDP go, for those that come by the way out.
//!
//! What a container answers from a published port finds its conversation's socket by a rule for that
//! port ([`super::ports`]). A datagram that is longer than the link takes comes in fragments, of which
//! the kernel's rules see no port, not even the first's; so they go the way of everything else,
//! out. There they are put together, and what is then found to be an answer of a conversation that
//! is known here is sent as one. What a container sends to the same client from another port, or of
//! its own accord, is nobody's business here.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::SendFlags;

use crate::sys::pktinfo::{self, Local};

/// How a client is answered.
#[derive(Debug)]
pub struct Way {
    socket: Arc<OwnedFd>,
    client: SocketAddr,
    /// The address of the host that the client sent to, where there are several.
    place: Option<Local>,
    /// Something was said by it that its conversation does not know of.
    used: AtomicBool,
}

/// Where a container's port is, and who its client is to it.
pub type Ends = (SocketAddr, SocketAddr);

/// A network's conversations.
#[derive(Debug, Default)]
pub struct Answers(Mutex<HashMap<Ends, Arc<Way>>>);

impl Way {
    /// From this socket, to this client.
    pub fn new(socket: Arc<OwnedFd>, client: SocketAddr, place: Option<Local>) -> Self {
        Self {
            socket,
            client,
            place,
            used: AtomicBool::new(false),
        }
    }

    /// Who is answered, and from where.
    pub fn client(&self) -> (SocketAddr, Option<Local>) {
        (self.client, self.place)
    }

    /// Answers. What cannot be sent is lost, as datagrams may be.
    pub fn send(&self, bytes: &[u8]) {
        let (socket, to) = (&self.socket, self.client);
        let _ = match self.place {
            Some(place) => pktinfo::send(socket, bytes, to, place).map(drop),
            None => rustix::net::sendto(socket, bytes, SendFlags::empty(), &to)
                .map(drop)
                .map_err(std::io::Error::from),
        };
    }

    /// Whether something was said by it since this was asked last.
    pub fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}

/// Without what an address of IPv6 may have beside: a packet says nothing of it.
fn plain((container, client): Ends) -> Ends {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip(), address.port());
    (plain(container), plain(client))
}

impl Answers {
    /// Notes a conversation.
    pub fn begin(&self, ends: Ends, way: Arc<Way>) {
        self.lock().insert(plain(ends), way);
    }

    /// Whether there is one between these.
    pub fn knows(&self, ends: Ends) -> bool {
        self.lock().contains_key(&plain(ends))
    }

    /// Forgets one.
    pub fn end(&self, ends: Ends) {
        self.lock().remove(&plain(ends));
    }

    /// Sends what a container has said if it is an answer, and tells whether it is.
    pub fn answer(&self, ends: Ends, bytes: &[u8]) -> bool {
        let way = self.lock().get(&plain(ends)).cloned();
        let Some(way) = way else {
            return false;
        };
        way.used.store(true, Ordering::Relaxed);
        way.send(bytes);
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ends, Arc<Way>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
