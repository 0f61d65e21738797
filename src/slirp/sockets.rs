//! The host's sockets of published ports, by place.
//!
//! Where a port moves from one network to another, both networks' threads have its socket for a
//! moment: it is never closed in between, so no connection is refused, and nobody else can take the
//! place.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::helper;
use super::state::Publication;
use crate::types::port::Protocol;

type Place = (Protocol, SocketAddr);

/// The sockets of all networks.
#[derive(Debug, Default)]
pub struct HostSockets(Mutex<HashMap<Place, Held>>);

#[derive(Debug)]
struct Held {
    socket: Arc<OwnedFd>,
    /// How many have it. Others than these, who answer by it, may have it for a moment longer.
    users: usize,
}

fn place(publication: &Publication) -> Place {
    let address = SocketAddr::new(publication.host, publication.host_port);
    (publication.protocol, address)
}

impl HostSockets {
    /// The socket of a place: the one that somebody has, or the one that is given, or a new one.
    ///
    /// # Errors
    /// As [`helper::listen_here`].
    pub fn take(
        &self,
        publication: &Publication,
        given: Option<OwnedFd>,
    ) -> io::Result<Arc<OwnedFd>> {
        let place = place(publication);
        let mut all = self.lock();
        if let Some(held) = all.get_mut(&place) {
            held.users += 1;
            return Ok(Arc::clone(&held.socket));
        }
        let socket = match given {
            Some(socket) => socket,
            None => helper::listen_here(place.0, place.1)?,
        };
        let socket = Arc::new(socket);
        let held = Held {
            socket: Arc::clone(&socket),
            users: 1,
        };
        all.insert(place, held);
        Ok(socket)
    }

    /// Takes back what [`HostSockets::take`] gave; the last one's is closed before anybody can ask
    /// for the place again.
    pub fn give_back(&self, publication: &Publication, socket: Arc<OwnedFd>) {
        let place = place(publication);
        let mut all = self.lock();
        drop(socket);
        if let Some(held) = all.get_mut(&place) {
            held.users = held.users.saturating_sub(1);
            if held.users == 0 {
                all.remove(&place);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_open_until_the_last_has_left() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let publication = Publication {
            protocol: Protocol::Tcp,
            host: address.ip(),
            host_port: address.port(),
            port: 80,
        };
        let all = HostSockets::default();
        let first = all.take(&publication, None).unwrap();
        let second = all.take(&publication, None).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        all.give_back(&publication, first);
        let client = std::net::TcpStream::connect(address);
        assert!(client.is_ok());
        all.give_back(&publication, second);
        assert!(std::net::TcpStream::connect(address).is_err());
        // And at once again, however often.
        let given = helper::listen_here(Protocol::Tcp, address).unwrap();
        let third = all.take(&publication, Some(given)).unwrap();
        assert!(std::net::TcpStream::connect(address).is_ok());
        all.give_back(&publication, third);
    }
}
