//! The loop: waits for the device, the sockets and the next deadline, and hands each to whose it is.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::echo::Echo;
use super::fragments::{Fragments, Whole};
use super::link::{self, Link};
use super::table::Id;
use super::tcp::{Budget, Tcp};
use super::timers::Timers;
use super::udp::Udp;
use super::wire::icmp::Message;
use super::wire::ip::{self, Pair};
use super::wire::{icmp, tcp, udp, vnet};
use super::{Limits, Settings};
use crate::slirp::answers::Answers;

/// Packets read from the device before sockets have their turn.
const PACKETS: usize = 64;

/// How long it looks for more before it sleeps: an answer that is on its way takes less, and being
/// woken is a good part of its way.
const LINGER: Duration = Duration::from_micros(50);

/// Room for packets that wait to be sent on together.
const ARENA: usize = 4 * link::MOST;

/// What a number in an event or timer is of, in its upper four bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Link,
    Stop,
    Tcp,
    Udp,
    Echo,
}

impl Kind {
    /// The number of a flow of this kind.
    pub(super) fn token(self, id: Id) -> u64 {
        (self as u64) << 60 | id.pack()
    }

    fn of(token: u64) -> Option<Self> {
        [Self::Link, Self::Stop, Self::Tcp, Self::Udp, Self::Echo]
            .into_iter()
            .find(|&kind| kind as u64 == token >> 60)
    }
}

/// What all protocols share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) link: Link,
    pub(super) epoll: OwnedFd,
    pub(super) timers: Timers,
    pub(super) settings: Settings,
    pub(super) budget: Budget,
    /// Where data from the host's sockets passes through.
    pub(super) buffer: Box<[u8]>,
    /// Flows of all kinds, of which some may have ended in this turn.
    flows: usize,
    /// Whether peeking with an offset is to be tried.
    pub(super) peeking: bool,
    fragment_id: u32,
}

impl Shared {
    /// Adds a flow's socket to the epoll set.
    pub(super) fn watch(
        &self,
        socket: &OwnedFd,
        token: u64,
        flags: EventFlags,
    ) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, socket, EventData::new_u64(token), flags)
    }

    /// Refuses the socket of a new flow where its network has all that it may have.
    pub(super) fn admit(&mut self, socket: &OwnedFd) -> rustix::io::Result<()> {
        if !self
            .settings
            .limits
            .descriptors
            .admit_out(socket, self.flows)
        {
            return Err(rustix::io::Errno::MFILE);
        }
        self.flows += 1;
        Ok(())
    }

    /// Asks again about a socket that is in the set: what it is ready for now comes as an event.
    pub(super) fn watch_anew(&self, socket: &OwnedFd, token: u64, flags: EventFlags) {
        // It is in the set, so nothing but memory could be missing, and then the timers help.
        let _ = epoll::modify(&self.epoll, socket, EventData::new_u64(token), flags);
    }

    /// Sends a message with its checksum in place to the container, in fragments if need be.
    pub(super) fn write_message(&mut self, pair: Pair, protocol: u8, message: &[u8]) {
        self.fragment_id = self.fragment_id.wrapping_add(1);
        let (mtu, id) = (self.settings.mtu, self.fragment_id);
        self.link.write_message(pair, protocol, message, mtu, id);
    }
}

/// One network's way out.
#[derive(Debug)]
pub struct Egress {
    shared: Shared,
    tcp: Tcp,
    udp: Udp,
    echo: Echo,
    fragments: Fragments,
    answers: Arc<Answers>,
    arena: Box<[u8]>,
}

impl Egress {
    /// A way out over `link`. Opens its epoll set; everything else comes with the packets.
    ///
    /// # Errors
    /// As epoll_create(2).
    pub fn new(link: Link, settings: &Settings) -> io::Result<Self> {
        let mut settings = *settings;
        // IPv6's smallest; below it neither family's headers would leave room.
        settings.mtu = settings.mtu.clamp(1280, 65_535);
        let room = (2 * link::MOST).max(link.longest() as usize);
        let Limits {
            tcp,
            udp,
            echo,
            held,
            ..
        } = settings.limits;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let token = (Kind::Link as u64) << 60;
        epoll::add(&epoll, &link, EventData::new_u64(token), EventFlags::IN)?;
        Ok(Self {
            tcp: Tcp::new(tcp),
            udp: Udp::new(udp),
            echo: Echo::new(echo),
            fragments: Fragments::default(),
            answers: Arc::default(),
            arena: vec![0; ARENA].into(),
            shared: Shared {
                link,
                epoll,
                timers: Timers::default(),
                settings,
                budget: Budget::new(held),
                buffer: vec![0; room].into(),
                flows: 0,
                peeking: true,
                fragment_id: 0,
            },
        })
    }

    /// Has [`Egress::turn`] say that it is over once `stop` is readable.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub fn stop_at(&mut self, stop: BorrowedFd<'_>) -> io::Result<()> {
        let token = EventData::new_u64((Kind::Stop as u64) << 60);
        Ok(epoll::add(&self.shared.epoll, stop, token, EventFlags::IN)?)
    }

    /// Has fragmented datagrams that answer what came by published ports sent there.
    pub fn set_answers(&mut self, answers: Arc<Answers>) {
        self.answers = answers;
    }

    /// Has sockets made from now on serve as before Linux 6.9.
    #[cfg(test)]
    pub(super) fn peek_without_offset(&mut self) {
        self.shared.peeking = false;
    }

    /// How many flows there are.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.tcp.len() + self.udp.len() + self.echo.len()
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// As epoll_wait(2).
    pub fn serve(&mut self) -> io::Result<()> {
        // When something was last to be done, while more is looked for.
        let mut last = None;
        loop {
            match self.step(None, last.is_some(), &mut Instant::now)? {
                Step::Stopped => return Ok(()),
                Step::Busy => last = Some(Instant::now()),
                Step::Quiet if last.is_some_and(|at| at.elapsed() < LINGER) => {}
                Step::Quiet => last = None,
            }
            if last.is_some() {
                // Whoever is to answer may need this processor.
                std::thread::yield_now();
            }
        }
    }

    /// Waits for something to do, at most for `patience`, and does it. `clock` tells the time, so
    /// that tests can. False once told to stop.
    ///
    /// # Errors
    /// As epoll_wait(2).
    pub fn turn(
        &mut self,
        patience: Option<Duration>,
        clock: &mut dyn FnMut() -> Instant,
    ) -> io::Result<bool> {
        Ok(self.step(patience, false, clock)? != Step::Stopped)
    }

    /// As [`Egress::turn`]. While it lingers it does not wait, and what is owed stays so.
    fn step(
        &mut self,
        patience: Option<Duration>,
        lingers: bool,
        clock: &mut dyn FnMut() -> Instant,
    ) -> io::Result<Step> {
        let mut wait = patience;
        if lingers || self.tcp.owes() {
            // What is owed goes along with an answer that is there already, or by itself.
            wait = Some(Duration::ZERO);
        } else if let Some(next) = self.shared.timers.next() {
            let left = next.saturating_duration_since(clock());
            wait = Some(wait.map_or(left, |wait| wait.min(left)));
        }
        let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
        let mut space = [MaybeUninit::<Event>::uninit(); 64];
        let events = match epoll::wait(&self.shared.epoll, &mut space[..], wait.as_ref()) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => &mut [],
            Err(error) => return Err(error.into()),
        };
        let now = clock();
        self.shared.flows = self.flows();
        let quiet = events.is_empty();
        for event in events.iter() {
            let token = event.data.u64();
            let (id, flags) = (Id::unpack(token), event.flags);
            match Kind::of(token) {
                Some(Kind::Link) => self.read_link(now),
                Some(Kind::Stop) => return Ok(Step::Stopped),
                Some(Kind::Tcp) => self.tcp.event(&mut self.shared, id, flags, now),
                Some(Kind::Udp) => self.udp.event(&mut self.shared, id, flags, now),
                Some(Kind::Echo) => self.echo.event(&mut self.shared, id, flags, now),
                None => {}
            }
        }
        if self.tcp.owes() && !(quiet && lingers) {
            self.tcp.settle_debts(&mut self.shared, quiet);
        }
        while let Some(token) = self.shared.timers.due(now) {
            let id = Id::unpack(token);
            match Kind::of(token) {
                Some(Kind::Tcp) => self.tcp.expired(&mut self.shared, id, now),
                Some(Kind::Udp) => self.udp.expired(&mut self.shared, id, now),
                Some(Kind::Echo) => self.echo.expired(&mut self.shared, id, now),
                _ => {}
            }
        }
        Ok(if quiet { Step::Quiet } else { Step::Busy })
    }

    /// Reads packets until none waits, or sockets must have their turn.
    fn read_link(&mut self, now: Instant) {
        // Out of `self`, so that a packet in it can be handed to the rest.
        let mut arena = std::mem::take(&mut self.arena);
        let mut at = 0;
        for _ in 0..PACKETS {
            if arena.len() - at < link::MOST {
                self.udp.flush(&mut self.shared, &arena, now);
                at = 0;
            }
            let Some(length) = self.shared.link.read(&mut arena[at..at + link::MOST]) else {
                break;
            };
            // A datagram stays in the arena until its run is sent; everything else is done with.
            if self.packet(&arena, at, length, now) {
                at += length;
            }
        }
        self.udp.flush(&mut self.shared, &arena, now);
        self.arena = arena;
    }

    /// Takes in the packet at `at` in the arena; whether it is to stay there.
    fn packet(&mut self, arena: &[u8], at: usize, length: usize, now: Instant) -> bool {
        let bytes = &arena[at..at + length];
        let Some((offload, packet)) = vnet::parse(bytes) else {
            return false;
        };
        let Some(packet) = ip::parse(packet) else {
            return false;
        };
        if let Some(part) = packet.fragment {
            let Some(whole) = self.fragments.add(&packet, part, now) else {
                return false;
            };
            if self.is_answer(&whole) {
                return false;
            }
            let mut read = Read {
                pair: whole.pair,
                protocol: whole.protocol,
                hop_limit: whole.hop_limit,
                dont_fragment: false,
                trusted: false,
                segment: None,
            };
            // The others go first, and this one before others: it has no place in the arena.
            self.udp.flush(&mut self.shared, arena, now);
            self.message(&mut read, &whole.payload, 0, now);
            self.udp.flush(&mut self.shared, &whole.payload, now);
            return false;
        }
        // The payload lies inside the arena, so its place there is a matter of addresses.
        let start = packet.payload.as_ptr().addr() - arena.as_ptr().addr();
        let mut read = Read {
            pair: packet.pair,
            protocol: packet.protocol,
            hop_limit: packet.hop_limit,
            dont_fragment: packet.dont_fragment,
            trusted: offload.trusted,
            segment: offload.segment,
        };
        let next = self.message(&mut read, packet.payload, start, now);
        if next == Next::FlushAndRetry {
            self.udp.flush(&mut self.shared, arena, now);
            return self.message(&mut read, packet.payload, start, now) == Next::Keep;
        }
        next == Next::Keep
    }

    /// Whether this answers what came by a published port. It has gone there then.
    fn is_answer(&self, whole: &Whole) -> bool {
        let (pair, bytes) = (whole.pair, &whole.payload);
        let datagram = udp::parse(bytes).filter(|_| whole.protocol == ip::UDP);
        datagram.is_some_and(|datagram| {
            let container = SocketAddr::new(pair.source(), datagram.source);
            let client = SocketAddr::new(pair.destination(), datagram.destination);
            let unchecked = datagram.unchecked && !pair.is_v6();
            (unchecked || pair.verifies(ip::UDP, bytes))
                && self.answers.answer((container, client), datagram.payload)
        })
    }

    /// Takes in a transport message, which stands at `start` in whatever is flushed later.
    fn message(&mut self, read: &mut Read, bytes: &[u8], start: usize, now: Instant) -> Next {
        let pair = read.pair;
        match read.protocol {
            ip::TCP if read.trusted || pair.verifies(ip::TCP, bytes) => {
                if let Some(segment) = tcp::parse(bytes) {
                    self.tcp.segment(&mut self.shared, read, &segment, now);
                }
            }
            ip::UDP => {
                let Some(datagram) = udp::parse(bytes) else {
                    return Next::Done;
                };
                let unchecked = datagram.unchecked && !pair.is_v6();
                if read.trusted || unchecked || pair.verifies(ip::UDP, bytes) {
                    return self
                        .udp
                        .datagram(&mut self.shared, read, &datagram, start, now);
                }
            }
            ip::ICMP | ip::ICMPV6 if read.protocol == icmp::protocol(pair) => {
                match icmp::parse(pair, bytes) {
                    Some(Message::Echo(request)) => {
                        self.echo.request(&mut self.shared, read, &request, now);
                    }
                    Some(Message::TooBig(told)) => self.tcp.too_big(&mut self.shared, &told, now),
                    None => {}
                }
            }
            _ => {}
        }
        Next::Done
    }
}

/// What a turn was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There was something to do.
    Busy,
    /// Nothing but timers, or what was owed.
    Quiet,
    /// The end was told.
    Stopped,
}

/// What of a packet's headers matters to the protocols above.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    pub(super) pair: Pair,
    pub(super) protocol: u8,
    pub(super) hop_limit: u8,
    pub(super) dont_fragment: bool,
    pub(super) trusted: bool,
    pub(super) segment: Option<u16>,
}

/// What is to be done about a packet in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing more.
    Done,
    /// It is part of a run that is yet to be sent.
    Keep,
    /// The run that is there must be sent before it can be taken.
    FlushAndRetry,
}

impl AsFd for Egress {
    /// The epoll set, which is readable when there is something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.epoll.as_fd()
    }
}
