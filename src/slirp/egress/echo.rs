//! Pings of containers, sent on by the host's ping sockets (icmp(7)), which need no privilege where
//! the host's `net.ipv4.ping_group_range` allows them. Where it doesn't, the container is told
//! that it is prohibited.
//!
//! One socket for each address and id of a container, kept a minute after its last message
//! (RFC 5508 REQ-2); where a network has too many, those go first that were idle the longest.
//! The host's kernel gives messages an id of its own; answers get the container's back. Errors come
//! as for UDP, which is what traceroute lives on.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, socket_with};

use super::errors;
use super::link;
use super::reactor::{Kind, Read, Shared};
use super::table::{Id, Table};
use super::timers::Deadline;
use super::udp::{set_dont_fragment, set_hop_limit};
use super::wire::header::Header;
use super::wire::icmp::{self, EchoRequest, Reason};
use super::wire::ip::Pair;
use super::wire::vnet::Offer;
use crate::sys::inet;

/// How long a conversation is kept after its last message.
const LINGER: Duration = Duration::from_secs(60);

/// Messages of one conversation before others have their turn.
const MOST: usize = 32;

/// Where the data of an echo message begins.
const HEADER: usize = 8;

#[derive(Debug)]
struct Conversation {
    socket: OwnedFd,
    guest: IpAddr,
    id: u16,
    /// As the socket has them.
    hop_limit: u8,
    dont_fragment: Option<bool>,
    deadline: Deadline,
}

/// All echo conversations of a network.
#[derive(Debug)]
pub(super) struct Echo {
    conversations: Table<(IpAddr, u16), Conversation>,
}

impl Echo {
    /// None yet, at most `most`.
    pub(super) fn new(most: usize) -> Self {
        Self {
            conversations: Table::new(most),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.conversations.len()
    }

    /// Sends a container's request on.
    pub(super) fn request(
        &mut self,
        shared: &mut Shared,
        read: &Read,
        request: &EchoRequest<'_>,
        now: Instant,
    ) {
        let pair = read.pair;
        let guest = pair.source();
        let remote = SocketAddr::new(pair.destination(), 0);
        let Some(to) = shared.settings.destination(remote) else {
            refuse(shared, pair, Reason::Host, request.message);
            return;
        };
        let id = match self.conversations.find(&(guest, request.id)) {
            Some(id) => id,
            None => match self.begin(shared, guest, request.id, now) {
                Ok(id) => id,
                Err(_) => {
                    refuse(shared, pair, Reason::Prohibited, request.message);
                    return;
                }
            },
        };
        let Some(conversation) = self.conversations.get(id) else {
            return;
        };
        if conversation.hop_limit != read.hop_limit {
            conversation.hop_limit = read.hop_limit;
            set_hop_limit(&conversation.socket, pair.is_v6(), read.hop_limit);
        }
        if conversation.dont_fragment != Some(read.dont_fragment) {
            conversation.dont_fragment = Some(read.dont_fragment);
            set_dont_fragment(&conversation.socket, pair.is_v6(), read.dont_fragment);
        }
        conversation.deadline.set(&mut shared.timers, now + LINGER);
        let send = || {
            rustix::net::sendto(
                &conversation.socket,
                request.message,
                SendFlags::DONTWAIT,
                &to,
            )
        };
        // The first may fail for an error that an earlier request left behind.
        let reason = match send().or_else(|_| send()) {
            Ok(_) => None,
            Err(Errno::MSGSIZE) => conversation.pass_errors_on(shared).map(Reason::TooBig),
            Err(error) => errors::reason(error),
        };
        if let Some(reason) = reason {
            refuse(shared, pair, reason, request.message);
        }
    }

    fn begin(
        &mut self,
        shared: &mut Shared,
        guest: IpAddr,
        number: u16,
        now: Instant,
    ) -> Result<Id, Errno> {
        if self.conversations.is_full() {
            let idle = |it: &Conversation| (it.guest, it.deadline.wanted());
            for mut conversation in self.conversations.make_room(idle) {
                conversation.deadline.cancel(&mut shared.timers);
            }
        }
        let made = self.conversations.insert((guest, number), |id| {
            let (family, protocol) = match guest {
                IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
                IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
            };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(family, SocketType::DGRAM, flags, Some(protocol))?;
            shared.admit(&socket)?;
            inet::set_receive_errors(&socket, guest.is_ipv6())
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            let token = Kind::Echo.token(id);
            shared.watch(&socket, token, EventFlags::IN)?;
            Ok(Conversation {
                socket,
                guest,
                id: number,
                // The first request sets its own.
                hop_limit: 0,
                dont_fragment: None,
                deadline: Deadline::new(&mut shared.timers, token, now + LINGER),
            })
        });
        made.unwrap_or(Err(Errno::MFILE))
    }

    /// Takes in what epoll says of a conversation's socket.
    pub(super) fn event(&mut self, shared: &mut Shared, id: Id, events: EventFlags, now: Instant) {
        let Some(conversation) = self.conversations.get(id) else {
            return;
        };
        if events.contains(EventFlags::ERR) {
            conversation.pass_errors_on(shared);
        }
        if !events.contains(EventFlags::IN) {
            return;
        }
        conversation.deadline.set(&mut shared.timers, now + LINGER);
        let mut buffer = std::mem::take(&mut shared.buffer);
        for _ in 0..MOST {
            let mut came = None;
            let got = inet::receive_datagrams(
                &conversation.socket,
                &mut buffer[..link::MOST],
                link::MOST,
                |_, received| came = Some(received),
            );
            if got.is_err() {
                break;
            }
            let Some(received) = came else { continue };
            let pair = shared
                .settings
                .origin(received.source)
                .and_then(|seen| Pair::new(seen.ip(), conversation.guest));
            if let Some(pair) = pair {
                let message = &mut buffer[..received.length];
                icmp::set_id(pair, message, conversation.id);
                shared.write_message(pair, icmp::protocol(pair), message);
            }
        }
        shared.buffer = buffer;
    }

    /// Takes in that a conversation's deadline came up.
    pub(super) fn expired(&mut self, shared: &mut Shared, id: Id, now: Instant) {
        let over = |found: &mut Conversation| found.deadline.is_over(&mut shared.timers, now);
        if self.conversations.get(id).is_some_and(over) {
            self.conversations.remove(id);
        }
    }
}

impl Conversation {
    /// Tells the container of the errors that came; gives what [`errors::pass_on`] does.
    fn pass_errors_on(&self, shared: &mut Shared) -> Option<u32> {
        let protocol = errors::icmp_of(self.guest.is_ipv6());
        errors::pass_on(shared, &self.socket, self.guest, protocol, |_, content| {
            // What comes back is the request from its first byte, with the host's id.
            let mut start = [0; HEADER];
            let length = content.len().min(HEADER);
            start[..length].copy_from_slice(&content[..length]);
            start[4..6].copy_from_slice(&self.id.to_be_bytes());
            (start, length)
        })
    }
}

/// Tells the container that its request went nowhere.
fn refuse(shared: &Shared, pair: Pair, reason: Reason, message: &[u8]) {
    let mut header = Header::new(Offer::Whole);
    header.push_ip(pair, icmp::protocol(pair), message.len(), None);
    let mut quoted = header.packet().to_vec();
    quoted.extend(&message[..message.len().min(512)]);
    shared.link.write_error(pair.reversed(), reason, &quoted);
}
