//! From a container's SYN to a connection, or to the reason why there is none.

use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::super::errors;
use super::super::reactor::{Kind, Shared};
use super::super::table::Id;
use super::super::timers::Deadline;
use super::super::udp::set_hop_limit;
use super::super::wire::header::Header;
use super::super::wire::icmp::Reason;
use super::super::wire::ip::Pair;
use super::super::wire::seq::Seq;
use super::super::wire::tcp::{self, DEFAULT_MSS, Options, Segment, Spoken};
use super::held::Held;
use super::{Flow, Key, SCALE, SILENCE, Stage, Tcp, most_mss, refuse};
use crate::sys::inet;

/// SYNs of no higher hop limit look for the routers on their way: traceroute's own limit.
const TRACED: u8 = 30;

/// How many times as many as are free one container may have.
const SHARE: usize = 2;

/// What every flow's socket is watched for, once and edge-triggered.
pub(super) const EVENTS: EventFlags = EventFlags::IN
    .union(EventFlags::OUT)
    .union(EventFlags::PRI)
    .union(EventFlags::RDHUP)
    .union(EventFlags::ET);

impl Tcp {
    /// Begins to connect where the container wants to.
    pub(super) fn open(
        &mut self,
        shared: &mut Shared,
        key: Key,
        segment: &Segment<'_>,
        hop_limit: u8,
        now: Instant,
    ) {
        let options = segment.options();
        let Some(destination) = shared.settings.destination(key.remote()) else {
            refuse(shared, key, segment);
            return;
        };
        let guest = key.pair.source();
        if !self.admits(guest) {
            refuse(shared, key, segment);
            return;
        }
        let family = if key.pair.is_v6() {
            AddressFamily::INET6
        } else {
            AddressFamily::INET
        };
        let mut at_once = false;
        let made = self.flows.insert(key, |id| {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(family, SocketType::STREAM, flags, None)?;
            shared.admit(&socket)?;
            sockopt::set_tcp_nodelay(&socket, true)?;
            if hop_limit <= TRACED {
                set_hop_limit(&socket, key.pair.is_v6(), hop_limit);
                // The router that it ends at is known by its error alone.
                let _ = inet::set_receive_errors(&socket, key.pair.is_v6());
            }
            let connected = match connect(&socket, &destination) {
                Ok(()) => true,
                Err(Errno::INPROGRESS) => false,
                Err(error) => return Err(error),
            };
            let token = Kind::Tcp.token(id);
            shared.watch(&socket, token, EVENTS)?;
            let deadline = Deadline::new(&mut shared.timers, token, now + SILENCE);
            let mut flow = Flow::new(id, key, socket, deadline, segment, options, now);
            flow.mss = flow.mss.min(most_mss(shared.settings.mtu, key.pair)).max(1);
            at_once = connected;
            Ok(flow)
        });
        if let Some(Ok(_)) = made {
            *self.held.entry(guest).or_default() += 1;
        }
        match made {
            Some(Ok(id)) if at_once => self.connected(shared, id, now),
            Some(Ok(_)) => {}
            Some(Err(error)) => tell(shared, key, segment.seq, error),
            // At the limit.
            None => refuse(shared, key, segment),
        }
    }

    /// Takes in that connect() is through.
    pub(super) fn connected(&mut self, shared: &mut Shared, id: Id, now: Instant) {
        let Some(flow) = self.flows.get(id) else {
            return;
        };
        let outcome = sockopt::socket_error(&flow.socket);
        let error = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) | Err(error) => Some(error),
        };
        if let Some(error) = error {
            let (key, seq) = (flow.key, flow.received - 1);
            match on_the_way(shared, flow) {
                Some((from, reason)) => tell_from(shared, key, seq, from, reason),
                None => tell(shared, key, seq, error),
            }
            self.remove(shared, id);
            return;
        }
        flow.stage = Stage::Answered;
        flow.peeks = shared.peeking && inet::set_peek_offset(&flow.socket, 0).is_ok();
        flow.offer(shared);
        flow.next = flow.una + 1;
        flow.answer(shared);
        flow.settle(shared, now, true);
    }
}

impl Tcp {
    /// Whether a container may have another one: its neighbours are to find some.
    fn admits(&self, guest: IpAddr) -> bool {
        let held = self.held.get(&guest).copied().unwrap_or_default();
        held / SHARE <= self.most.saturating_sub(self.len())
    }

    /// Takes out a flow that is over.
    pub(super) fn remove(&mut self, shared: &mut Shared, id: Id) -> Option<Flow> {
        let mut flow = self.flows.remove(id)?;
        flow.deadline.cancel(&mut shared.timers);
        if let Entry::Occupied(mut held) = self.held.entry(flow.key.pair.source()) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
        Some(flow)
    }
}

impl Flow {
    fn new(
        id: Id,
        key: Key,
        socket: std::os::fd::OwnedFd,
        deadline: Deadline,
        segment: &Segment<'_>,
        options: Options,
        now: Instant,
    ) -> Self {
        // The container's sequence numbers are hard to guess, and stay between it and us: ours may
        // be a turn of them.
        let start = Seq(segment.seq.0.rotate_left(16) ^ 0x5bd1_e995);
        let first = segment.seq + 1;
        Self {
            id,
            key,
            socket,
            stage: Stage::Connecting,
            deadline,
            resend_at: None,
            heard: now,
            retries: 0,
            keepalive: false,
            sack: options.sack,
            mss: options.mss.unwrap_or(DEFAULT_MSS),
            guest_scale: options.scale.unwrap_or(0),
            scale: if options.scale.is_some() { SCALE } else { 0 },
            taken: first,
            received: first,
            edge: first,
            acknowledged: first,
            held: Held::default(),
            guest_fin: None,
            guest_done: false,
            shut: false,
            owes: false,
            wants_room: false,
            offered: 0,
            una: start,
            next: start,
            stale: 0,
            window: segment.window.into(),
            widest: segment.window.into(),
            window_seq: segment.seq,
            peeks: false,
            readable: false,
            hung_up: false,
            ended: false,
            duplicates: 0,
            recovering: None,
        }
    }
}

/// The router that a SYN ended at, as the container may see it, and what that said.
fn on_the_way(shared: &Shared, flow: &Flow) -> Option<(IpAddr, Reason)> {
    let found = inet::next_error(&flow.socket, &mut [0; 64]).ok()??;
    let offender = found.offender.filter(|_| found.icmp.is_some())?;
    let seen = shared.settings.origin(SocketAddr::new(offender, 0))?;
    Some((seen.ip(), errors::told(&found)?))
}

/// Passes on what a router said of the container's SYN.
fn tell_from(shared: &Shared, key: Key, seq: Seq, from: IpAddr, reason: Reason) {
    if let Some(pair) = Pair::new(from, key.pair.source()) {
        shared
            .link
            .write_error(pair, reason, syn(key, seq).packet());
    }
}

/// Tells the container why there is no connection; `seq` is its SYN's.
fn tell(shared: &Shared, key: Key, seq: Seq, error: Errno) {
    let reason = errors::reason(error).filter(|&reason| reason != Reason::Port);
    let header = syn(key, seq);
    match reason {
        // The remote's address says so: one that the container can't mistake, and can't be local.
        Some(reason) => shared
            .link
            .write_error(key.pair.reversed(), reason, header.packet()),
        None => {
            // Refused, or nothing to connect with: either way not here and not now.
            if let Some(segment) = tcp::parse(&header.packet()[key.pair.header_len().into()..]) {
                refuse(shared, key, &segment);
            }
        }
    }
}

/// The container's SYN, as far as it is quoted.
fn syn(key: Key, seq: Seq) -> Header {
    let spoken = Spoken {
        source: key.guest,
        destination: key.remote,
        seq,
        ack: Seq(0),
        flags: tcp::flags::SYN,
        window: 0,
        options: Options::default(),
        sack: &[],
    };
    tcp::build(key.pair, &spoken, 0, u16::MAX)
}
