//! Names: one server a network, at an address that its containers route to it.
//!
//! In a network that a user made it is 127.0.0.11, and the network's own names are answered there,
//! for whoever asks by the address that it has ([`names`]); where there is no IPv4, at the gateway's
//! address. In the default network it is the gateway's, too, and all but the host's name is passed
//! on. What is passed on goes to the name servers of the asker, or of the host ([`upstream`]), from
//! the host's namespace, by the protocol that it came by: from a socket of its own, so a port of
//! its own, under a random number; only the answer to the question counts, from the server that was
//! asked. One that does not answer, or fails, is followed by the next.
//!
//! Bounds: [`MOST_PENDING`] questions on their way a network, [`MOST_OF_ONE`] of one container,
//! [`MOST_STREAMS`] connections; beyond that, questions are refused.

pub mod names;
pub mod upstream;
pub mod wire;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::reactor::{Reactor, Ready};
use super::state::Book;
use crate::types::port::Protocol;
use names::Known;
use upstream::Upstreams;
use wire::Query;

/// Questions on their way.
const MOST_PENDING: usize = 512;
/// Those of one container.
const MOST_OF_ONE: usize = 128;
/// Connections of containers.
const MOST_STREAMS: usize = 64;
/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);
/// The longest message.
const LONGEST: usize = 65535;
/// Messages that are taken in one go, before others get their turn.
const BURST: usize = 64;

/// The server of one network.
#[derive(Debug)]
pub struct Dns {
    network: String,
    udp: (u64, OwnedFd),
    tcp: (u64, OwnedFd),
    /// Until when no connection is taken, for want of descriptors.
    pause: Option<Instant>,
    streams: HashMap<u64, Stream>,
    pending: HashMap<u64, Pending>,
    upstreams: Upstreams,
    buffer: Vec<u8>,
}

/// A container's connection; one question at a time.
#[derive(Debug)]
struct Stream {
    socket: OwnedFd,
    peer: IpAddr,
    received: Vec<u8>,
    unsent: Vec<u8>,
    waits: bool,
    until: Instant,
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    Datagram(SocketAddr),
    Stream(u64),
}

/// A question that was passed on.
#[derive(Debug)]
struct Pending {
    asker: Asker,
    source: IpAddr,
    query: Query,
    /// As it is sent, under our number.
    message: Vec<u8>,
    id: u16,
    servers: std::vec::IntoIter<SocketAddr>,
    socket: OwnedFd,
    /// Over TCP: what is to be sent yet, and what has come.
    transfer: Option<(Vec<u8>, Vec<u8>)>,
    until: Instant,
}

impl Dns {
    /// Serves on these sockets, which are bound.
    pub fn new(
        network: &str,
        [udp, tcp]: [OwnedFd; 2],
        resolv_conf: &Path,
        reactor: &mut Reactor,
    ) -> io::Result<Self> {
        let (udp, tcp) = ((reactor.token(), udp), (reactor.token(), tcp));
        for (token, socket) in [&udp, &tcp] {
            reactor.add(socket, *token, EventFlags::IN)?;
        }
        Ok(Self {
            network: network.to_owned(),
            udp,
            tcp,
            pause: None,
            streams: HashMap::new(),
            pending: HashMap::new(),
            upstreams: Upstreams::new(resolv_conf),
            buffer: vec![0; LONGEST],
        })
    }

    /// When something has to be done though nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        let pending = self.pending.values().map(|pending| pending.until);
        let streams = self.streams.values().map(|stream| stream.until);
        pending.chain(streams).chain(self.pause).min()
    }

    /// Does what has to be done by now.
    pub fn expire(&mut self, now: Instant, reactor: &mut Reactor) {
        if self.pause.is_some_and(|until| until <= now) {
            self.pause = None;
            let _ = reactor.modify(&self.tcp.1, self.tcp.0, EventFlags::IN);
        }
        self.streams
            .retain(|_, stream| stream.waits || stream.until > now);
        let late = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.until <= now);
        let late: Vec<u64> = late.map(|(token, _)| *token).collect();
        for token in late {
            if let Some(pending) = self.pending.remove(&token) {
                self.ask_next(pending, reactor);
            }
        }
    }

    /// Deals with what became ready, if it is of this server.
    pub fn handle(&mut self, ready: Ready, book: &Book, reactor: &mut Reactor) -> bool {
        if ready.token == self.udp.0 {
            self.datagrams(book, reactor);
        } else if ready.token == self.tcp.0 {
            self.accept(reactor);
        } else if self.streams.contains_key(&ready.token) {
            self.stream(ready.token, book, reactor);
        } else if let Some(pending) = self.pending.remove(&ready.token) {
            self.upstream(ready.token, pending, reactor);
        } else {
            return false;
        }
        true
    }

    fn datagrams(&mut self, book: &Book, reactor: &mut Reactor) {
        for _ in 0..BURST {
            let received =
                rustix::net::recvfrom(&self.udp.1, &mut self.buffer[..], RecvFlags::empty());
            let Ok((_, length, Some(from))) = received else {
                return;
            };
            let Ok(from) = SocketAddr::try_from(from) else {
                continue;
            };
            let message = self.buffer.get(..length).unwrap_or_default().to_vec();
            self.question(Asker::Datagram(from), from.ip(), message, book, reactor);
        }
    }

    /// Answers a question, or passes it on.
    fn question(
        &mut self,
        asker: Asker,
        source: IpAddr,
        message: Vec<u8>,
        book: &Book,
        reactor: &mut Reactor,
    ) {
        let Some(query) = Query::parse(&message) else {
            match (wire::refusal(&message), asker) {
                (Some(answer), _) => self.answer(asker, &answer, reactor),
                // What is no question gets no answer; a connection that asks none ends.
                (None, Asker::Stream(token)) => drop(self.streams.remove(&token)),
                (None, Asker::Datagram(_)) => {}
            }
            return;
        };
        let state = book.get(&self.network);
        let Some(member) = state.member_at(source) else {
            return self.answer(asker, &query.fail(wire::REFUSED), reactor);
        };
        let networks = book.of(&member.container);
        let limit = match asker {
            Asker::Datagram(_) => query.size,
            Asker::Stream(_) => LONGEST,
        };
        let known = match query.class {
            wire::IN => names::look_up(&networks, &member.container, &query.name, query.kind),
            _ => None,
        };
        match known {
            Some(Known::Addresses(mut addresses)) => {
                shuffle(&mut addresses);
                let answer = query.addresses(&addresses, limit);
                self.answer(asker, &answer, reactor);
            }
            Some(Known::Name(name)) => {
                let answer = query.pointer(&name, limit);
                self.answer(asker, &answer, reactor);
            }
            None if networks.iter().all(|network| network.internal) => {
                self.answer(asker, &query.fail(wire::SERVER_FAILURE), reactor);
            }
            None => {
                let servers = match member.servers.is_empty() {
                    true => self.upstreams.servers().to_vec(),
                    false => upstream::named(&member.servers),
                };
                self.pass_on(asker, source, query, message, servers, reactor);
            }
        }
    }

    fn pass_on(
        &mut self,
        asker: Asker,
        source: IpAddr,
        query: Query,
        mut message: Vec<u8>,
        servers: Vec<SocketAddr>,
        reactor: &mut Reactor,
    ) {
        let of_one = self
            .pending
            .values()
            .filter(|it| it.source == source)
            .count();
        if self.pending.len() >= MOST_PENDING || of_one >= MOST_OF_ONE {
            return self.answer(asker, &query.fail(wire::REFUSED), reactor);
        }
        let id = random_number();
        wire::renumber(&mut message, id);
        let mut servers = servers.into_iter();
        let first = match asker {
            Asker::Datagram(_) => connect_next(&mut servers, Protocol::Udp),
            Asker::Stream(_) => connect_next(&mut servers, Protocol::Tcp),
        };
        let Some(socket) = first else {
            return self.answer(asker, &query.fail(wire::SERVER_FAILURE), reactor);
        };
        let pending = Pending {
            asker,
            source,
            query,
            message,
            id,
            servers,
            socket,
            transfer: None,
            until: Instant::now() + PATIENCE,
        };
        self.send(pending, reactor);
    }

    /// Sends a question to the server that its socket is connected to.
    fn send(&mut self, mut pending: Pending, reactor: &mut Reactor) {
        let token = reactor.token();
        let flags = match pending.asker {
            Asker::Datagram(_) => {
                // One that cannot be reached answers with an error, or not at all.
                let _ = rustix::net::send(&pending.socket, &pending.message, SendFlags::empty());
                EventFlags::IN
            }
            Asker::Stream(_) => {
                pending.transfer = Some((framed(&pending.message), Vec::new()));
                EventFlags::IN | EventFlags::OUT
            }
        };
        if reactor.add(&pending.socket, token, flags).is_ok() {
            self.pending.insert(token, pending);
        } else {
            self.answer(
                pending.asker,
                &pending.query.fail(wire::SERVER_FAILURE),
                reactor,
            );
        }
    }

    /// Asks the server after the one that did not know.
    fn ask_next(&mut self, mut pending: Pending, reactor: &mut Reactor) {
        let protocol = match pending.asker {
            Asker::Datagram(_) => Protocol::Udp,
            Asker::Stream(_) => Protocol::Tcp,
        };
        match connect_next(&mut pending.servers, protocol) {
            Some(socket) => {
                pending.id = random_number();
                wire::renumber(&mut pending.message, pending.id);
                pending.socket = socket;
                pending.until = Instant::now() + PATIENCE;
                self.send(pending, reactor);
            }
            None => {
                let failure = pending.query.fail(wire::SERVER_FAILURE);
                self.answer(pending.asker, &failure, reactor);
            }
        }
    }

    /// A server's socket is ready.
    fn upstream(&mut self, token: u64, mut pending: Pending, reactor: &mut Reactor) {
        let received = match &mut pending.transfer {
            None => {
                match rustix::net::recv(&pending.socket, &mut self.buffer[..], RecvFlags::empty()) {
                    Ok((_, length)) => Ok(self.buffer.get(..length).map(<[u8]>::to_vec)),
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
                    Err(error) => Err(error),
                }
            }
            Some((unsent, received)) => {
                let sent = send_some(&pending.socket, unsent);
                if sent.is_ok() && unsent.is_empty() {
                    let _ = reactor.modify(&pending.socket, token, EventFlags::IN);
                }
                sent.and_then(|()| read_frame(&pending.socket, received, &mut self.buffer))
            }
        };
        match received {
            Err(_) => self.ask_next(pending, reactor),
            Ok(Some(mut message))
                if wire::is_answer(&message, pending.id, &pending.query.question) =>
            {
                if matches!(wire::code(&message), wire::SERVER_FAILURE | wire::REFUSED) {
                    return self.ask_next(pending, reactor);
                }
                wire::renumber(&mut message, pending.query.id);
                self.answer(pending.asker, &message, reactor);
            }
            // Nothing yet, or nothing that was asked for.
            Ok(_) => drop(self.pending.insert(token, pending)),
        }
    }

    fn answer(&mut self, asker: Asker, message: &[u8], reactor: &Reactor) {
        match asker {
            Asker::Datagram(to) => {
                let _ = rustix::net::sendto(&self.udp.1, message, SendFlags::empty(), &to);
            }
            Asker::Stream(token) => {
                if let Some(stream) = self.streams.get_mut(&token) {
                    stream.waits = false;
                    stream.until = Instant::now() + IDLE;
                    stream.unsent = framed(message);
                    let sent = send_some(&stream.socket, &mut stream.unsent);
                    let flags = match stream.unsent.is_empty() {
                        true => EventFlags::IN,
                        false => EventFlags::OUT,
                    };
                    let watched = reactor.modify(&stream.socket, token, flags);
                    if sent.is_err() || watched.is_err() {
                        self.streams.remove(&token);
                    }
                }
            }
        }
    }

    fn accept(&mut self, reactor: &mut Reactor) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            let (socket, from) = match rustix::net::acceptfrom_with(&self.tcp.1, flags) {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.pause = reactor.pause(&self.tcp.1, self.tcp.0, error);
                    return;
                }
            };
            let peer = from.and_then(|from| SocketAddr::try_from(from).ok());
            let Some(peer) = peer.filter(|_| self.streams.len() < MOST_STREAMS) else {
                continue;
            };
            let token = reactor.token();
            if reactor.add(&socket, token, EventFlags::IN).is_ok() {
                let stream = Stream {
                    socket,
                    peer: peer.ip(),
                    received: Vec::new(),
                    unsent: Vec::new(),
                    waits: false,
                    until: Instant::now() + IDLE,
                };
                self.streams.insert(token, stream);
            }
        }
    }

    fn stream(&mut self, token: u64, book: &Book, reactor: &mut Reactor) {
        let Some(stream) = self.streams.get_mut(&token) else {
            return;
        };
        if !stream.unsent.is_empty() {
            let sent = send_some(&stream.socket, &mut stream.unsent);
            let more = match stream.unsent.is_empty() {
                true => reactor.modify(&stream.socket, token, EventFlags::IN),
                false => Ok(()),
            };
            if sent.is_err() || more.is_err() {
                self.streams.remove(&token);
            }
            return;
        }
        match read_frame(&stream.socket, &mut stream.received, &mut self.buffer) {
            Ok(None) => {}
            Ok(Some(message)) => {
                stream.waits = true;
                let peer = stream.peer;
                // What it says meanwhile stays in the kernel.
                let _ = reactor.modify(&stream.socket, token, EventFlags::empty());
                self.question(Asker::Stream(token), peer, message, book, reactor);
            }
            Err(_) => drop(self.streams.remove(&token)),
        }
    }
}

/// A socket connected, or about to be, to the next server that there is a way to.
fn connect_next(
    servers: &mut impl Iterator<Item = SocketAddr>,
    protocol: Protocol,
) -> Option<OwnedFd> {
    servers.find_map(|server| {
        let family = match server {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let kind = match protocol {
            Protocol::Tcp => SocketType::STREAM,
            Protocol::Udp | Protocol::Sctp => SocketType::DGRAM,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, kind, flags, None).ok()?;
        match rustix::net::connect(&socket, &server) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Some(socket),
            Err(_) => None,
        }
    })
}

/// A message with its length before it.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or_default();
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message.get(..usize::from(length)).unwrap_or_default());
    framed
}

fn send_some(socket: &OwnedFd, unsent: &mut Vec<u8>) -> rustix::io::Result<()> {
    while !unsent.is_empty() {
        match rustix::net::send(socket, unsent, SendFlags::NOSIGNAL) {
            Ok(length) => drop(unsent.drain(..length)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOTCONN) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The next whole message, if it has come.
fn read_frame(
    socket: &OwnedFd,
    received: &mut Vec<u8>,
    buffer: &mut [u8],
) -> rustix::io::Result<Option<Vec<u8>>> {
    loop {
        if let Some((length, rest)) = received.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            if let Some(message) = rest.get(..length) {
                let message = message.to_vec();
                received.drain(..2 + length);
                return Ok(Some(message));
            }
        }
        match rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((_, 0)) => return Err(rustix::io::Errno::CONNRESET),
            Ok((_, length)) => received.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(rustix::io::Errno::NOTCONN) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// A number that nobody can guess.
fn random_number() -> u16 {
    let mut bytes = [0; 2];
    // The kernel has numbers once it has booted; without, an answer is still matched to its question,
    // server and port.
    let _ = getrandom::fill(&mut bytes);
    u16::from_ne_bytes(bytes)
}

/// Puts addresses into an order of chance: whoever takes the first shares the load.
fn shuffle(addresses: &mut [IpAddr]) {
    for last in (1..addresses.len()).rev() {
        addresses.swap(last, usize::from(random_number()) % (last + 1));
    }
}
