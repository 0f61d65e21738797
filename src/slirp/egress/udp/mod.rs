//! UDP of containers, carried on by one socket of the host for each of their addresses and ports.
//!
//! A *mapping* is such a socket (RFC 4787: endpoint-independent mapping and filtering, so what
//! WireGuard, STUN and the like build on works). It lives five minutes after its last datagram in
//! either direction, half a minute where it only ever asked for names; where a network has too many,
//! those go first that were idle the longest. Port preservation is not attempted: two containers may
//! have the same port.
//!
//! Throughput is a matter of system calls and of walks through the kernel. `up` gathers datagrams
//! of one size for one destination, as they come from the device, into one send with
//! `UDP_SEGMENT`; `down` takes up to 32 at a time, which the kernel may have put together
//! (`UDP_GRO`), and writes those of one sender and size as one packet, where the device takes
//! that. Nothing waits for others to come: a run ends when nothing more is there.

mod down;
mod up;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::address::DNS;
use super::errors;
use super::reactor::{Kind, Read, Shared};
use super::table::{Id, Table};
use super::timers::Deadline;
use super::wire::{ip, udp};
use crate::sys::inet;

/// How long a mapping is kept after its last datagram (RFC 4787 REQ-5 recommends five minutes).
const LINGER: Duration = Duration::from_secs(300);

/// The same where it only asked for names (REQ-5 b allows less for well-known ports).
const LINGER_NAMES: Duration = Duration::from_secs(30);

/// The hop limit of a container's packet that Linux sent with its default, one router later.
/// The host's own default then says the same, at no cost.
const USUAL_HOP_LIMIT: u8 = 63;

/// One mapping.
#[derive(Debug)]
struct Mapping {
    socket: OwnedFd,
    guest: SocketAddr,
    deadline: Deadline,
    /// It only ever asked for names.
    names_only: bool,
    /// As the socket has them.
    hop_limit: u8,
    dont_fragment: Option<bool>,
    /// Runs may be sent as one.
    segments: bool,
}

/// All mappings of a network.
#[derive(Debug)]
pub(super) struct Udp {
    mappings: Table<SocketAddr, Mapping>,
    run: Option<up::Run>,
    /// Where datagrams are received; there while there are mappings.
    slots: Box<[u8]>,
}

impl Udp {
    /// None yet, at most `most`.
    pub(super) fn new(most: usize) -> Self {
        Self {
            mappings: Table::new(most),
            run: None,
            slots: Box::default(),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.mappings.len()
    }

    /// Takes in what epoll says of a mapping's socket.
    pub(super) fn event(&mut self, shared: &mut Shared, id: Id, events: EventFlags, now: Instant) {
        let Some(mapping) = self.mappings.get(id) else {
            return;
        };
        if events.contains(EventFlags::ERR) {
            mapping.pass_errors_on(shared);
        }
        if events.contains(EventFlags::IN) {
            mapping.receive(shared, &mut self.slots);
            mapping.refresh(shared, now);
        }
    }

    /// Takes in that a mapping's deadline came up.
    pub(super) fn expired(&mut self, shared: &mut Shared, id: Id, now: Instant) {
        let over = |mapping: &mut Mapping| mapping.deadline.is_over(&mut shared.timers, now);
        if self.mappings.get(id).is_some_and(over) {
            self.mappings.remove(id);
        }
        if self.mappings.len() == 0 {
            self.slots = Box::default();
        }
    }

    /// The mapping of a container's address and port, made now if need be.
    fn mapping(&mut self, shared: &mut Shared, guest: SocketAddr, now: Instant) -> Option<Id> {
        if let Some(id) = self.mappings.find(&guest) {
            return Some(id);
        }
        if self.slots.is_empty() {
            self.slots = vec![0; down::SLOT * inet::BATCH].into();
        }
        if self.mappings.is_full() {
            let idle = |it: &Mapping| (it.guest.ip(), it.deadline.wanted());
            for mut mapping in self.mappings.make_room(idle) {
                mapping.deadline.cancel(&mut shared.timers);
            }
        }
        let made = self.mappings.insert(guest, |id| {
            let v6 = guest.is_ipv6();
            let family = if v6 {
                AddressFamily::INET6
            } else {
                AddressFamily::INET
            };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
            shared.admit(&socket)?;
            if v6 {
                // Never IPv4's traffic.
                sockopt::set_ipv6_v6only(&socket, true)?;
            }
            inet::set_receive_errors(&socket, v6)?;
            // Before Linux 5.0 they come one by one.
            let _ = inet::set_receive_coalesced(&socket);
            let token = Kind::Udp.token(id);
            shared.watch(&socket, token, EventFlags::IN)?;
            Ok::<_, std::io::Error>(Mapping {
                socket,
                guest,
                deadline: Deadline::new(&mut shared.timers, token, now + LINGER_NAMES),
                names_only: true,
                hop_limit: USUAL_HOP_LIMIT,
                dont_fragment: None,
                segments: true,
            })
        })?;
        made.ok()
    }
}

impl Mapping {
    fn refresh(&mut self, shared: &mut Shared, now: Instant) {
        let linger = if self.names_only {
            LINGER_NAMES
        } else {
            LINGER
        };
        self.deadline.set(&mut shared.timers, now + linger);
    }

    /// Tells the container of the errors that came; gives what [`errors::pass_on`] does.
    fn pass_errors_on(&self, shared: &mut Shared) -> Option<u32> {
        let guest = self.guest;
        errors::pass_on(
            shared,
            &self.socket,
            guest.ip(),
            ip::UDP,
            |remote, content| {
                let header = udp::header(guest.port(), remote.port(), content.len(), [0, 0]);
                (header, 0)
            },
        )
    }

    /// Has the socket send as the container's packet was sent.
    fn imitate(&mut self, read: &Read, to: SocketAddr) {
        self.names_only &= to.port() == DNS;
        let v6 = to.is_ipv6();
        if self.hop_limit != read.hop_limit {
            self.hop_limit = read.hop_limit;
            set_hop_limit(&self.socket, v6, read.hop_limit);
        }
        if self.dont_fragment != Some(read.dont_fragment) {
            self.dont_fragment = Some(read.dont_fragment);
            set_dont_fragment(&self.socket, v6, read.dont_fragment);
        }
    }
}

/// Has datagrams that don't fit the path fail, or be sent in fragments.
pub(super) fn set_dont_fragment(socket: &OwnedFd, v6: bool, dont: bool) {
    // A refusal leaves the default, which fragments when it must.
    let _ = match (v6, dont) {
        (false, true) => sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO),
        (false, false) => sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT),
        (true, true) => sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DO),
        (true, false) => sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DONT),
    };
}

/// Passes a packet's hop limit on, so that it dies where it would have.
pub(super) fn set_hop_limit(socket: &OwnedFd, v6: bool, hop_limit: u8) {
    // Zero, which no router lets by, is all that could be refused.
    let _ = if v6 {
        sockopt::set_ipv6_unicast_hops(socket, Some(hop_limit))
    } else {
        sockopt::set_ip_ttl(socket, hop_limit.into())
    };
}
