//! Connections to published ports.
//!
//! A connection is two sockets; what is read from one is written to the other at once, through one
//! buffer that all share. Only what a socket does not take is kept, and nothing more is read for it
//! until it has taken it, so that the sender is slowed down by its own kernel. The end of one
//! direction is passed on by itself; an error of either socket resets both. A container that refuses
//! is told to the client by a reset.
//!
//! | side | watched for input | watched for output |
//! |---|---|---|
//! | host's | it has not ended, and the container's takes more | something is kept for it |
//! | container's | the same | the same, or it is being connected |
//!
//! A socket that has ended in both directions is not watched any more.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags, sockopt};

use super::{Around, Clients, Listener};
use crate::slirp::helper::Helper;
use crate::slirp::reactor::{Reactor, Ready};
use crate::types::port::Protocol;

/// Connections that are taken in one go, before others get their turn.
const BURST: usize = 64;

/// Times that a buffer is moved in one go.
const ROUNDS: usize = 4;

/// All connections of a network.
#[derive(Debug, Default)]
pub(super) struct Flows {
    flows: HashMap<u64, Flow>,
    /// How many each port has.
    held: HashMap<u64, usize>,
    /// Which flow and side a number is of.
    sides: HashMap<u64, (u64, usize)>,
}

/// One connection: the host's socket, and the container's.
#[derive(Debug)]
struct Flow {
    sides: [Side; 2],
    /// Of which port.
    listener: u64,
    /// The client whose address the container's socket has.
    client: Option<IpAddr>,
    connecting: bool,
}

#[derive(Debug)]
struct Side {
    socket: OwnedFd,
    token: u64,
    /// What it has yet to take.
    kept: VecDeque<u8>,
    /// It has sent its end.
    ended: bool,
    /// It was told the other's end.
    shut: bool,
    watched: Option<EventFlags>,
}

const HOST: usize = 0;
const CONTAINER: usize = 1;

/// Ends a connection so that its peer notices an error.
fn reset(socket: impl AsFd) {
    let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
}

impl Flows {
    /// Takes connections that wait at a port. Where it cannot, its port is watched no more until the
    /// time that is told.
    pub(super) fn accept(
        &mut self,
        token: u64,
        listener: &Listener,
        mut around: Around<'_>,
        reactor: &mut Reactor,
    ) -> Option<Instant> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        for _ in 0..BURST {
            let accepted = rustix::net::acceptfrom_with(&listener.socket, flags);
            let (socket, client) = match accepted {
                Ok((socket, Some(client))) => (socket, SocketAddr::try_from(client)),
                Ok((_, None)) | Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(Errno::AGAIN) => return None,
                Err(error) => return reactor.pause(&listener.socket, token, error),
            };
            let Ok(client) = client else { continue };
            let held = self.held.get(&token).copied().unwrap_or_default();
            if !around.descriptors.admit(&socket, held * 2) {
                reset(&socket);
                continue;
            }
            let _ = sockopt::set_tcp_nodelay(&socket, true);
            let target = listener.target;
            match around.connect(Protocol::Tcp, client, target) {
                Ok((inner, shown)) => self.add(token, [socket, inner], shown, reactor),
                Err(_) => reset(&socket),
            }
        }
        None
    }

    fn add(
        &mut self,
        listener: u64,
        sockets: [OwnedFd; 2],
        client: Option<IpAddr>,
        reactor: &mut Reactor,
    ) {
        let sides = sockets.map(|socket| Side {
            socket,
            token: reactor.token(),
            kept: VecDeque::new(),
            ended: false,
            shut: false,
            watched: None,
        });
        let number = reactor.token();
        for (place, side) in sides.iter().enumerate() {
            self.sides.insert(side.token, (number, place));
        }
        let mut flow = Flow {
            sides,
            listener,
            client,
            connecting: true,
        };
        flow.watch(reactor);
        self.flows.insert(number, flow);
        *self.held.entry(listener).or_default() += 1;
    }

    /// Deals with what became ready, if it is of a connection.
    pub(super) fn handle(
        &mut self,
        ready: Ready,
        clients: &mut Clients,
        helper: &Helper,
        reactor: &Reactor,
        buffer: &mut [u8],
    ) -> bool {
        let Some(&(number, place)) = self.sides.get(&ready.token) else {
            return false;
        };
        let Some(flow) = self.flows.get_mut(&number) else {
            return true;
        };
        let moved = flow.ready(place, ready.flags, buffer);
        match moved {
            Ok(()) if !flow.is_over() => flow.watch(reactor),
            outcome => {
                let broken = outcome.is_err();
                self.end(number, broken, clients, helper);
            }
        }
        true
    }

    fn end(&mut self, number: u64, broken: bool, clients: &mut Clients, helper: &Helper) {
        let Some(flow) = self.flows.remove(&number) else {
            return;
        };
        if let Some(held) = self.held.get_mut(&flow.listener) {
            *held = held.saturating_sub(1);
        }
        for side in &flow.sides {
            self.sides.remove(&side.token);
            if broken {
                reset(&side.socket);
            }
        }
        let client = flow.client;
        // Closed before the route goes, by which the container's last packets find their socket.
        drop(flow);
        if let Some(client) = client {
            clients.leave(client, helper);
        }
    }

    /// Resets all connections of a port.
    pub(super) fn reset(&mut self, listener: u64, clients: &mut Clients, helper: &Helper) {
        let of_it = self
            .flows
            .iter()
            .filter(|(_, flow)| flow.listener == listener);
        let numbers: Vec<u64> = of_it.map(|(number, _)| *number).collect();
        for number in numbers {
            self.end(number, true, clients, helper);
        }
        self.held.remove(&listener);
    }
}

impl Flow {
    fn ready(&mut self, place: usize, flags: EventFlags, buffer: &mut [u8]) -> Result<(), Errno> {
        if place == CONTAINER && self.connecting {
            sockopt::socket_error(&self.sides[CONTAINER].socket)??;
            if !flags.contains(EventFlags::OUT) {
                return Ok(());
            }
            self.connecting = false;
            return self.pump(HOST, buffer);
        }
        if flags.contains(EventFlags::ERR) {
            sockopt::socket_error(&self.sides[place].socket)??;
        }
        if flags.contains(EventFlags::OUT) && !self.sides[place].kept.is_empty() {
            self.flush(place)?;
            // It takes more: so the other may be read again.
            self.pump(1 - place, buffer)?;
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::RDHUP) {
            self.pump(place, buffer)?;
        }
        Ok(())
    }

    /// Moves what has come at one side to the other.
    fn pump(&mut self, from: usize, buffer: &mut [u8]) -> Result<(), Errno> {
        let to = 1 - from;
        for _ in 0..ROUNDS {
            let may = !self.sides[from].ended && self.sides[to].kept.is_empty() && !self.connecting;
            if !may {
                break;
            }
            match rustix::net::recv(
                &self.sides[from].socket,
                &mut buffer[..],
                RecvFlags::empty(),
            ) {
                Ok((_, 0)) => self.sides[from].ended = true,
                Ok((_, length)) => {
                    let all = buffer.get(..length).unwrap_or_default();
                    let sent = send(&self.sides[to].socket, all)?;
                    let rest = all.get(sent..).unwrap_or_default();
                    self.sides[to].kept.extend(rest);
                    if length < buffer.len() {
                        break;
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(error),
            }
        }
        self.pass_end_on(from);
        Ok(())
    }

    fn flush(&mut self, place: usize) -> Result<(), Errno> {
        let side = &mut self.sides[place];
        let sent = send(&side.socket, side.kept.as_slices().0)?;
        side.kept.drain(..sent);
        if side.kept.is_empty() {
            side.kept = VecDeque::new();
        }
        self.pass_end_on(1 - place);
        Ok(())
    }

    /// Tells the other side that this one has ended, once it has all that came before.
    fn pass_end_on(&mut self, from: usize) {
        let ended = self.sides[from].ended;
        let to = &mut self.sides[1 - from];
        if ended && to.kept.is_empty() && !to.shut {
            to.shut = true;
            // One that is gone is found out when it is read.
            let _ = rustix::net::shutdown(&to.socket, Shutdown::Write);
        }
    }

    fn is_over(&self) -> bool {
        self.sides.iter().all(|side| side.ended && side.shut)
    }

    fn watch(&mut self, reactor: &Reactor) {
        for place in [HOST, CONTAINER] {
            let (full, connecting) = (!self.sides[1 - place].kept.is_empty(), self.connecting);
            let side = &mut self.sides[place];
            let mut flags = EventFlags::empty();
            if !side.ended && !full && !connecting {
                flags |= EventFlags::IN;
            }
            if !side.kept.is_empty() || connecting {
                flags |= EventFlags::OUT;
            }
            // The kernel tells of its end whatever is asked for, again and again. Of the client's it
            // need not be known before there is somebody to tell.
            let over = (side.ended && side.shut) || (connecting && place == HOST);
            let wanted = (!over).then_some(flags);
            if wanted == side.watched {
                continue;
            }
            let done = match (side.watched, wanted) {
                (None, Some(flags)) => reactor.add(&side.socket, side.token, flags),
                (Some(_), Some(flags)) => reactor.modify(&side.socket, side.token, flags),
                (_, None) => {
                    reactor.remove(&side.socket);
                    Ok(())
                }
            };
            if let Err(error) = done {
                tracing::error!("a connection is not watched: {error}");
            }
            side.watched = wanted;
        }
    }
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(sent) => Ok(sent),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error),
    }
}
