//! TCP connections of containers, ended here and carried on by a socket of the host.
//!
//! # States
//!
//! The container's side is a TCP of its own (RFC 9293) whose state mirrors the host's socket:
//!
//! ```text
//!  container            this flow                                  host's socket
//!  SYN           ─────▶ Connecting                                 connect()
//!                       │ refused: RST   unreachable: ICMP
//!  SYN, ACK      ◀───── Answered ◀──────────────────────────────── connected
//!  ACK           ─────▶ Open
//!  data          ─────▶ up: taken ───────────────────────────────▶ send(), what it takes
//!  ACK, window   ◀───── received; edge = taken + room ◀─────────── room in the send buffer
//!  data          ◀───── down: next ◀────────────────────────────── recv(MSG_PEEK)
//!  ACK           ─────▶ una ─────────────────────────────────────▶ recv(MSG_TRUNC)
//!  FIN           ─────▶ guest_fin, once taken reaches it ────────▶ shutdown(SHUT_WR)
//!  FIN           ◀───── ended ◀─────────────────────────────────── end of stream
//!  RST           ─────▶ closed ──────────────────────────────────▶ RST (SO_LINGER 0)
//!  RST           ◀───── closed ◀────────────────────────────────── error
//! ```
//!
//! A flow is gone when both FINs are through, or with either RST. There is no TIME-WAIT: a
//! straggler is answered by a reset, which can hurt nothing that is still alive.
//!
//! # Flow control
//!
//! *Up* (`up`): the window offered is the room of the host socket's send buffer, which the kernel
//! moves with the path's congestion window. What the estimate gets wrong, and what arrives out of
//! order (two cores forward in parallel: 0.2 % of segments), is held back within bounds (`held`).
//! In-order data is acknowledged once taken or held; the edge never moves back. When the room is
//! used up, epoll is asked to tell when there is some again.
//!
//! *Down* (`down`): nothing is kept here. What is in flight is still unread in the host's socket,
//! where a retransmission finds it, and so the host's own window closes when the container's does.
//!
//! # Loss
//!
//! The link loses only when a queue overflows. Three duplicate acknowledgements or a time-out
//! have the first burst sent again, and each partial acknowledgement the next (RFC 6582); while
//! that goes on nothing new is sent. There is no congestion control beyond it: the path is memory.
//! A closed window is probed with the same timer; so is, after two hours, a container that was
//! silent, because a killed one may leave nobody to say so.
//!
//! Acknowledgements are owed until the reactor finds nothing else to do, so that an answer that is
//! there already carries them; a burst pays at once.

mod down;
mod held;
mod open;
mod up;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::reactor::{Kind, Read, Shared};
use super::table::{Id, Table};
use super::timers::Deadline;
use super::wire::icmp::TooBig;
use super::wire::ip::{self, Pair};
use super::wire::seq::Seq;
use super::wire::tcp::{self, Options, Segment, Spoken, flags};
use held::Held;

pub(super) use held::Budget;

/// The shift of the windows that we offer: up to 16 MiB in steps of 256 bytes.
const SCALE: u8 = 8;

/// First wait for an acknowledgement: above any delayed one (Linux: 40 to 200 ms).
const RETRANSMIT: Duration = Duration::from_millis(300);

/// The longest.
const RETRANSMIT_MOST: Duration = Duration::from_secs(60);

/// Attempts until a container that acknowledges nothing is given up: about ten minutes.
const RETRIES: u8 = 15;

/// Attempts at a SYN's answer: about twenty seconds.
const ANSWERS: u8 = 6;

/// Busy turns for which an acknowledgement may be owed.
const PATIENCE: u32 = 8;

/// Silence until a container is asked whether it is there, and between two questions.
const SILENCE: Duration = Duration::from_secs(7200);
const SILENCE_AGAIN: Duration = Duration::from_secs(75);

/// Both ends of a connection as the container knows them; the pair is from it to the remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pair: Pair,
    guest: u16,
    remote: u16,
}

impl Key {
    fn remote(self) -> SocketAddr {
        SocketAddr::new(self.pair.destination(), self.remote)
    }
}

/// How far the handshake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The host's connect() is under way.
    Connecting,
    /// The container was answered.
    Answered,
    /// Both know.
    Open,
}

/// How a flow ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Both directions are through.
    Finished,
    /// The container is told by a reset.
    ResetGuest,
    /// The host's peer is.
    ResetHost,
    /// Both are.
    ResetBoth,
}

/// Whether a flow goes on.
type Verdict = Result<(), End>;

/// One connection.
#[derive(Debug)]
struct Flow {
    id: Id,
    key: Key,
    socket: OwnedFd,
    stage: Stage,
    deadline: Deadline,
    /// When what is in flight is sent again, or a closed window probed.
    resend_at: Option<Instant>,
    /// When the container was last heard.
    heard: Instant,
    retries: u8,
    /// The host socket's keep-alive is on, because the container asked for its own.
    keepalive: bool,
    /// Selective acknowledgements are understood.
    sack: bool,
    /// Segments and windows as the container's SYN said.
    mss: u16,
    guest_scale: u8,
    scale: u8,

    // Up.
    /// Before it the host's socket has everything.
    taken: Seq,
    /// Before it everything has arrived; what we acknowledge.
    received: Seq,
    /// Up to where the container may send.
    edge: Seq,
    /// The last acknowledgement that was sent.
    acknowledged: Seq,
    held: Held,
    /// Where the container's stream ends.
    guest_fin: Option<Seq>,
    /// Its FIN was received in order; counts in `received`.
    guest_done: bool,
    /// The host's socket was told.
    shut: bool,
    /// It is in the list of those that owe an acknowledgement.
    owes: bool,
    /// epoll was asked to tell of room.
    wants_room: bool,
    /// The room that was found last.
    offered: u32,

    // Down.
    /// The first byte that the container has not acknowledged.
    una: Seq,
    /// The next one to be sent.
    next: Seq,
    /// Acknowledged bytes that are still in the host's socket.
    stale: u32,
    /// What it may have in flight.
    window: u32,
    /// The widest that it ever was.
    widest: u32,
    /// Of the segment that told the window.
    window_seq: Seq,
    /// The host's socket can be peeked at with an offset.
    peeks: bool,
    /// The host's socket may have something.
    readable: bool,
    /// The host's peer has closed its side; what it sent may still be there.
    hung_up: bool,
    /// The stream's end was read and the FIN sent.
    ended: bool,
    duplicates: u8,
    /// While lost data is sent again: up to where.
    recovering: Option<Seq>,
}

/// All connections of a network.
#[derive(Debug)]
pub(super) struct Tcp {
    flows: Table<Key, Flow>,
    most: usize,
    /// How many of them each container has.
    held: HashMap<IpAddr, usize>,
    /// Flows with an acknowledgement to send.
    debts: Vec<Id>,
    /// Turns for which the oldest of them has waited.
    waited: u32,
}

impl Tcp {
    /// None yet, at most `most`.
    pub(super) fn new(most: usize) -> Self {
        Self {
            flows: Table::new(most),
            most,
            held: HashMap::new(),
            debts: Vec::new(),
            waited: 0,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether an acknowledgement waits to be sent.
    pub(super) fn owes(&self) -> bool {
        !self.debts.is_empty()
    }

    /// Takes in a segment from a container.
    pub(super) fn segment(
        &mut self,
        shared: &mut Shared,
        read: &Read,
        segment: &Segment<'_>,
        now: Instant,
    ) {
        let key = Key {
            pair: read.pair,
            guest: segment.source,
            remote: segment.destination,
        };
        let Some(id) = self.flows.find(&key) else {
            if segment.flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN) == flags::SYN {
                self.open(shared, key, segment, read.hop_limit, now);
            } else {
                refuse(shared, key, segment);
            }
            return;
        };
        self.with(shared, id, |flow, shared| {
            flow.segment(shared, segment, now)
        });
    }

    /// Takes in what epoll says of a flow's socket.
    pub(super) fn event(&mut self, shared: &mut Shared, id: Id, events: EventFlags, now: Instant) {
        let connecting = self
            .flows
            .get(id)
            .is_some_and(|flow| flow.stage == Stage::Connecting);
        if connecting {
            self.connected(shared, id, now);
        }
        self.with(shared, id, |flow, shared| flow.event(shared, events, now));
    }

    /// Takes in that a deadline of a flow came up.
    pub(super) fn expired(&mut self, shared: &mut Shared, id: Id, now: Instant) {
        let over = |flow: &mut Flow| flow.deadline.is_over(&mut shared.timers, now);
        if self.flows.get(id).is_some_and(over) {
            self.with(shared, id, |flow, shared| flow.expired(shared, now));
        }
    }

    /// A router between here and the container takes less than we thought.
    pub(super) fn too_big(&mut self, shared: &mut Shared, told: &TooBig<'_>, now: Instant) {
        let Some((pair, ip::TCP, quoted)) = ip::parse_quoted(told.quoted) else {
            return;
        };
        let port = |at: usize| Some(u16::from_be_bytes(quoted.get(at..at + 2)?.try_into().ok()?));
        let (Some(remote), Some(guest)) = (port(0), port(2)) else {
            return;
        };
        let key = Key {
            pair: pair.reversed(),
            guest,
            remote,
        };
        if let Some(id) = self.flows.find(&key) {
            self.with(shared, id, |flow, shared| {
                flow.shrink(shared, told.mtu);
                flow.settle(shared, now, false);
                Ok(())
            });
        }
    }

    /// Sends the acknowledgements that are owed, when there is nothing else to do or others have
    /// kept us busy for some turns.
    pub(super) fn settle_debts(&mut self, shared: &mut Shared, quiet: bool) {
        self.waited += 1;
        if !quiet && self.waited < PATIENCE {
            return;
        }
        self.waited = 0;
        let mut debts = std::mem::take(&mut self.debts);
        for id in debts.drain(..) {
            if let Some(flow) = self.flows.get(id)
                && flow.owes
            {
                flow.acknowledge(shared);
            }
        }
        // Keeps its room.
        self.debts = debts;
    }

    /// Has a flow do something, notes what it owes, and ends it if that was the last.
    fn with(
        &mut self,
        shared: &mut Shared,
        id: Id,
        act: impl FnOnce(&mut Flow, &mut Shared) -> Verdict,
    ) {
        let Some(flow) = self.flows.get(id) else {
            return;
        };
        let owed = flow.owes;
        match act(flow, shared) {
            Ok(()) => {
                if flow.owes && !owed {
                    self.debts.push(id);
                }
            }
            Err(end) => self.end(shared, id, end),
        }
    }

    fn end(&mut self, shared: &mut Shared, id: Id, end: End) {
        let Some(mut flow) = self.remove(shared, id) else {
            return;
        };
        flow.held.clear(&mut shared.budget);
        if matches!(end, End::ResetGuest | End::ResetBoth) {
            flow.speak(shared, flags::RST | flags::ACK, flow.next, &[]);
        }
        if matches!(end, End::ResetHost | End::ResetBoth) {
            // Closed this way, it sends a reset (socket(7)).
            let _ = rustix::net::sockopt::set_socket_linger(&flow.socket, Some(Duration::ZERO));
        }
    }
}

impl Flow {
    /// Takes in a segment once the handshake is under way.
    fn segment(&mut self, shared: &mut Shared, segment: &Segment<'_>, now: Instant) -> Verdict {
        if self.stage == Stage::Connecting {
            // A repeated SYN changes nothing; a reset says that nobody waits any more.
            return if segment.has(flags::RST) {
                Err(End::ResetHost)
            } else {
                Ok(())
            };
        }
        if segment.has(flags::RST) {
            // Of what lies outside the window, anybody could have thought (RFC 9293 3.10.7.4).
            let inside = !segment.seq.before(self.received) && !self.edge.before(segment.seq);
            return if inside { Err(End::ResetHost) } else { Ok(()) };
        }
        if segment.has(flags::SYN) {
            match self.stage {
                Stage::Answered => self.answer(shared),
                // A successor on the same port learns that we have another connection in mind.
                _ => self.acknowledge(shared),
            }
            return Ok(());
        }
        if !segment.has(flags::ACK) {
            return Ok(());
        }
        if segment.ack - self.next > 0 {
            self.acknowledge(shared);
            return Ok(());
        }
        if self.stage == Stage::Answered {
            if segment.ack != self.next {
                return Ok(());
            }
            self.stage = Stage::Open;
            self.una = self.next;
            self.retries = 0;
            self.resend_at = None;
        }
        self.note_keepalive(segment, now);
        self.heard = now;
        let progress = self.acknowledgement(shared, segment)?;
        self.data(shared, segment)?;
        self.release()?;
        self.pump(shared)?;
        self.settle(shared, now, progress);
        self.finished()
    }

    fn event(&mut self, shared: &mut Shared, events: EventFlags, now: Instant) -> Verdict {
        if events.intersects(EventFlags::RDHUP | EventFlags::HUP) {
            self.hung_up = true;
        }
        if events.contains(EventFlags::PRI) {
            // An urgent byte stays in the stream, where it would otherwise stop a peek short.
            let _ = rustix::net::sockopt::set_socket_oobinline(&self.socket, true);
            self.readable = true;
        }
        if events.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR)
        {
            self.readable = true;
            if events.contains(EventFlags::ERR) && self.ended {
                return Err(End::ResetGuest);
            }
        }
        if events.contains(EventFlags::OUT) {
            self.room_again(shared)?;
        }
        self.pump(shared)?;
        self.settle(shared, now, false);
        self.finished()
    }

    fn expired(&mut self, shared: &mut Shared, now: Instant) -> Verdict {
        self.retries += 1;
        let most = if self.stage == Stage::Answered {
            ANSWERS
        } else {
            RETRIES
        };
        if self.retries > most {
            return Err(End::ResetBoth);
        }
        if self.resend_at.is_none() {
            self.probe(shared);
            self.deadline.set(&mut shared.timers, now + SILENCE_AGAIN);
            return Ok(());
        }
        match self.stage {
            Stage::Connecting => {}
            Stage::Answered => self.answer(shared),
            Stage::Open if self.next == self.una || self.window == 0 => self.probe(shared),
            Stage::Open => {
                self.recovering = Some(self.next);
                self.resend(shared)?;
            }
        }
        self.settle(shared, now, true);
        Ok(())
    }

    /// Sets the deadline: to send again what is in flight, counted from when it began to be or was
    /// last acknowledged in part; to probe a closed window; or far away.
    fn settle(&mut self, shared: &mut Shared, now: Instant, progress: bool) {
        let waits = self.next != self.una || (self.readable && !self.ended && self.window == 0);
        if !waits {
            self.resend_at = None;
        } else if progress || self.resend_at.is_none() {
            let wait = RETRANSMIT * (1_u32 << self.retries.min(8));
            self.resend_at = Some(now + wait.min(RETRANSMIT_MOST));
        }
        let at = self.resend_at.unwrap_or(now + SILENCE);
        self.deadline.set(&mut shared.timers, at);
    }

    /// Whether both directions are through.
    fn finished(&self) -> Verdict {
        if self.ended && self.shut && self.una == self.next {
            return Err(End::Finished);
        }
        Ok(())
    }

    /// A probe of the container's keep-alive: the path beyond gets its own, at the same pace.
    fn note_keepalive(&mut self, segment: &Segment<'_>, now: Instant) {
        if self.keepalive || segment.seq + 1 != self.received || segment.payload.len() > 1 {
            return;
        }
        let pace = now.saturating_duration_since(self.heard);
        let pace = pace.clamp(Duration::from_secs(1), SILENCE);
        self.keepalive = rustix::net::sockopt::set_socket_keepalive(&self.socket, true)
            .and_then(|()| rustix::net::sockopt::set_tcp_keepidle(&self.socket, pace))
            .is_ok();
    }

    /// Sends a segment that acknowledges everything received.
    fn speak(&mut self, shared: &Shared, flags: u8, seq: Seq, payload: &[u8]) {
        let room = self.edge.since(self.received);
        let window = if flags & tcp::flags::SYN == 0 {
            room >> self.scale
        } else {
            room
        };
        let options = if flags & tcp::flags::SYN == 0 {
            Options::default()
        } else {
            Options {
                mss: Some(most_mss(shared.settings.mtu, self.key.pair)),
                scale: (self.scale > 0).then_some(self.scale),
                sack: self.sack,
            }
        };
        let (islands, count) = if self.sack && !self.held.is_empty() {
            self.held.islands(self.received)
        } else {
            ([(seq, seq); 4], 0)
        };
        let spoken = Spoken {
            source: self.key.remote,
            destination: self.key.guest,
            seq,
            ack: self.received,
            flags,
            window: u16::try_from(window).unwrap_or(u16::MAX),
            options,
            sack: &islands[..count],
        };
        let pair = self.key.pair.reversed();
        let header = tcp::build(pair, &spoken, payload.len(), self.mss);
        shared.link.write(&header, payload);
        self.acknowledged = self.received;
        self.owes = false;
    }

    /// Acknowledges.
    fn acknowledge(&mut self, shared: &mut Shared) {
        self.offer(shared);
        self.speak(shared, flags::ACK, self.next, &[]);
    }

    /// Answers the SYN.
    fn answer(&mut self, shared: &Shared) {
        self.speak(shared, flags::SYN | flags::ACK, self.una, &[]);
    }

    /// Asks the container to say what it has and takes: an old sequence number (RFC 9293 3.8.4).
    fn probe(&mut self, shared: &Shared) {
        self.speak(shared, flags::ACK, self.una - 1, &[]);
    }

    /// How epoll names it.
    fn token(&self) -> u64 {
        Kind::Tcp.token(self.id)
    }
}

/// The largest payload of a segment on the link.
fn most_mss(mtu: u32, pair: Pair) -> u16 {
    u16::try_from(mtu)
        .unwrap_or(u16::MAX)
        .saturating_sub(pair.header_len() + 20)
}

/// Answers a segment that belongs to nothing with a reset (RFC 9293 3.10.7.1).
fn refuse(shared: &Shared, key: Key, segment: &Segment<'_>) {
    if segment.has(flags::RST) {
        return;
    }
    let (seq, ack, flags) = if segment.has(flags::ACK) {
        (segment.ack, Seq(0), flags::RST)
    } else {
        (Seq(0), segment.seq + segment.len(), flags::RST | flags::ACK)
    };
    let spoken = Spoken {
        source: key.remote,
        destination: key.guest,
        seq,
        ack,
        flags,
        window: 0,
        options: Options::default(),
        sack: &[],
    };
    let header = tcp::build(key.pair.reversed(), &spoken, 0, u16::MAX);
    shared.link.write(&header, &[]);
}
