//! Published ports: what comes to the host's ports goes to containers, and looks there as if it came
//! from the client itself.
//!
//! ```text
//!  client ──▶ host's socket ═ this process ═ socket in the network's namespace ──▶ container
//!             0.0.0.0:8080                   bound to the client's address and port
//! ```
//!
//! **The client's address.** The second socket is transparent (`IP_TRANSPARENT`) and has the client's
//! address and port. What the container answers to that address would leave the network again; a rule
//! for what it sends *from the published port* looks first into a table with one route per client that
//! has a connection at present, which keeps it here. That table never holds more: a route for
//! everybody would swallow what the container itself sends from that port.
//!
//! Where the client's address cannot be had — it is on the host's loopback, or inside the network,
//! or of the other family than the container's, or it has come from that port by another published
//! one already — the container sees the gateway's, as with Docker.
//!
//! **Fragments** of what a container answers have no port by which that rule could know them. They
//! are put together on the way out ([`Answers`]); where the host has no device for one, long answers
//! are lost.
//!
//! **Limit.** A container that itself connects *from a published port* to a client that has a
//! connection just then reaches this process's namespace instead.
//!
//! **At the limit** of descriptors ([`Descriptors`]) new connections are reset and new datagrams lost,
//! until others have ended. Each port has a share of its own.
//!
//! Sockets are given by the daemon, which has bound them and told its user if it could not; after a
//! death of this process they are bound anew by what the state says, and again every
//! [`AGAIN`] where somebody else was faster. A port that moves to another network keeps its socket
//! ([`HostSockets`]).

mod tcp;
mod udp;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::sockopt;

use super::Answer;
use super::answers::Answers;
use super::descriptors::Descriptors;
use super::helper::Helper;
use super::reactor::{Reactor, Ready};
use super::sockets::HostSockets;
use super::state::{NetworkState, Publication};
use crate::sys::pktinfo;
use crate::types::port::Protocol;
use tcp::Flows;
use udp::Conversations;

/// How often a socket is tried again that could not be bound.
const AGAIN: Duration = Duration::from_millis(500);

/// Sockets that are made at once, ahead of the conversations that they are for: to have one made
/// means to wait for another thread.
const STOCK: usize = 32;

/// Bytes that are moved in one go.
const BUFFER: usize = 256 << 10;

/// The published ports of one network.
#[derive(Debug)]
pub struct Ports {
    listeners: HashMap<u64, Listener>,
    missing: Vec<(Publication, IpAddr)>,
    again: Option<Instant>,
    /// Listeners that are left alone until then, for want of descriptors.
    paused: Vec<(Instant, u64)>,
    descriptors: Descriptors,
    clients: Clients,
    stock: Stock,
    flows: Flows,
    conversations: Conversations,
    answers: Arc<Answers>,
    sockets: Arc<HostSockets>,
    state: Local,
    buffer: Vec<u8>,
}

/// What has to be known of the network for each connection.
#[derive(Debug, Default)]
struct Local {
    bridge: String,
    subnets: Vec<crate::types::prefix::Prefix>,
}

/// A socket of the host, and whom it stands for.
#[derive(Debug)]
struct Listener {
    publication: Publication,
    target: SocketAddr,
    socket: Arc<OwnedFd>,
}

/// Clients whose addresses are here, and how many connections have them.
#[derive(Debug, Default)]
struct Clients(HashMap<IpAddr, usize>);

impl Clients {
    /// Counts a connection of a client.
    fn enter(&mut self, client: IpAddr, helper: &Helper) -> io::Result<()> {
        let count = self.0.entry(client).or_default();
        if *count == 0 {
            helper.set_client(client, true)?;
        }
        *count += 1;
        Ok(())
    }

    /// Counts one less.
    fn leave(&mut self, client: IpAddr, helper: &Helper) {
        if let Some(count) = self.0.get_mut(&client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.0.remove(&client);
                if let Err(error) = helper.set_client(client, false) {
                    tracing::warn!("a client's route stays: {error}");
                }
            }
        }
    }
}

impl Local {
    /// Whether a container may see this address as its client's.
    fn shows(&self, client: SocketAddr, target: SocketAddr) -> bool {
        let address = client.ip();
        let link_local = match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        client.is_ipv4() == target.is_ipv4()
            && !address.is_loopback()
            && !address.is_unspecified()
            && !link_local
            && !self.subnets.iter().any(|subnet| subnet.contains(address))
    }
}

/// Sockets in the network's namespace that are for nobody yet, by protocol and family.
#[derive(Debug, Default)]
struct Stock(HashMap<(Protocol, bool), Vec<OwnedFd>>);

impl Stock {
    fn take(&mut self, protocol: Protocol, ipv6: bool, helper: &Helper) -> io::Result<OwnedFd> {
        let there = self.0.entry((protocol, ipv6)).or_default();
        if there.is_empty() {
            *there = helper.flows(protocol, ipv6, STOCK)?;
        }
        there.pop().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// What there is for new conversations.
struct Around<'a> {
    local: &'a Local,
    clients: &'a mut Clients,
    stock: &'a mut Stock,
    descriptors: Descriptors,
    answers: &'a Answers,
    helper: &'a Helper,
}

impl Around<'_> {
    /// A socket in the network's namespace for one client, connected to the container or about to
    /// be; and the client, where its address is the socket's.
    fn connect(
        &mut self,
        protocol: Protocol,
        client: SocketAddr,
        target: SocketAddr,
    ) -> io::Result<(OwnedFd, Option<IpAddr>)> {
        if let Some(socket) = self.connect_as(protocol, client, target) {
            return Ok((socket, Some(client.ip())));
        }
        let socket = self.stock.take(protocol, target.is_ipv6(), self.helper)?;
        if protocol != Protocol::Tcp {
            // Else the kernel may choose a port that another one has, and datagrams go to either.
            sockopt::set_socket_reuseaddr(&socket, false)?;
        }
        match rustix::net::connect(&socket, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok((socket, None)),
            Err(error) => Err(error.into()),
        }
    }

    /// The same with the client's address and port, where they can be had: it may have come from
    /// there by another published port already.
    fn connect_as(
        &mut self,
        protocol: Protocol,
        client: SocketAddr,
        target: SocketAddr,
    ) -> Option<OwnedFd> {
        // The kernel would let two sockets have the same datagrams.
        let taken = protocol != Protocol::Tcp && self.answers.knows((target, client));
        if taken || !self.local.shows(client, target) {
            return None;
        }
        let socket = self.stock.take(protocol, target.is_ipv6(), self.helper);
        let socket = socket.ok()?;
        let bound = match rustix::net::bind(&socket, &client) {
            Ok(()) => socket,
            // A port of those that take a capability.
            Err(_) => self.helper.flow(protocol, client).ok()?,
        };
        self.clients.enter(client.ip(), self.helper).ok()?;
        match rustix::net::connect(&bound, &target) {
            Ok(()) | Err(Errno::INPROGRESS) => Some(bound),
            Err(_) => {
                self.clients.leave(client.ip(), self.helper);
                None
            }
        }
    }

    /// Counts one conversation of a client's less.
    fn leave(&mut self, client: Option<IpAddr>) {
        if let Some(client) = client {
            self.clients.leave(client, self.helper);
        }
    }
}

impl Ports {
    /// None yet; conversations are noted in `answers`.
    pub fn new(answers: Arc<Answers>, sockets: Arc<HostSockets>) -> Self {
        Self {
            listeners: HashMap::new(),
            missing: Vec::new(),
            again: None,
            paused: Vec::new(),
            descriptors: Descriptors::of_this_process(),
            clients: Clients::default(),
            stock: Stock::default(),
            flows: Flows::default(),
            conversations: Conversations::new(Arc::clone(&answers)),
            answers,
            sockets,
            state: Local::default(),
            buffer: vec![0; BUFFER],
        }
    }

    /// Listens at what is published now, with sockets that were bound already; tells what cannot be
    /// had, which is tried again and again.
    pub fn apply(
        &mut self,
        state: &NetworkState,
        mut given: Vec<(Publication, OwnedFd)>,
        helper: &Helper,
        reactor: &mut Reactor,
    ) -> Answer {
        self.state = Local {
            bridge: state.bridge.clone(),
            subnets: state.subnets.clone(),
        };
        let wanted = wanted(state);
        let gone = self.listeners.iter().filter(|(_, listener)| {
            let (publication, target) = (listener.publication, listener.target);
            !wanted.contains(&(publication, target.ip()))
        });
        let gone: Vec<u64> = gone.map(|(token, _)| *token).collect();
        for token in gone {
            self.close(token, helper, reactor);
        }
        self.missing.clear();
        let mut failed = Answer::new();
        for (publication, target) in wanted {
            let known = self
                .listeners
                .values()
                .any(|it| it.publication == publication);
            if known {
                continue;
            }
            let place = given.iter().position(|(given, _)| *given == publication);
            let socket = place.map(|place| given.swap_remove(place).1);
            if let Err(error) = self.open(publication, target, socket, helper, reactor) {
                failed.push((publication, error.raw_os_error().unwrap_or(libc::EIO)));
                self.missing.push((publication, target));
            }
        }
        self.again = (!self.missing.is_empty()).then(|| Instant::now() + AGAIN);
        failed
    }

    fn open(
        &mut self,
        publication: Publication,
        target: IpAddr,
        socket: Option<OwnedFd>,
        helper: &Helper,
        reactor: &mut Reactor,
    ) -> io::Result<()> {
        let socket = self.sockets.take(&publication, socket)?;
        let (protocol, port) = (publication.protocol, publication.port);
        // Several places of the host may stand for one port of the container.
        if let Err(error) = helper.set_port(protocol, &self.state.bridge, target, port, true) {
            tracing::warn!("clients of port {port} will not be seen: {error}");
        }
        let token = reactor.token();
        if let Err(error) = reactor.add(&socket, token, EventFlags::IN) {
            self.sockets.give_back(&publication, socket);
            return Err(error);
        }
        if protocol == Protocol::Udp
            && publication.host.is_unspecified()
            && let Err(error) = pktinfo::tell_local(&socket, publication.host.is_ipv6())
        {
            tracing::warn!("port {port} may be answered from another address: {error}");
        }
        let target = SocketAddr::new(target, port);
        self.listeners.insert(
            token,
            Listener {
                publication,
                target,
                socket,
            },
        );
        Ok(())
    }

    fn close(&mut self, token: u64, helper: &Helper, reactor: &Reactor) {
        let Some(listener) = self.listeners.remove(&token) else {
            return;
        };
        // Another network may have it, too.
        reactor.remove(&listener.socket);
        self.flows.reset(token, &mut self.clients, helper);
        self.conversations.end(token, &mut self.clients, helper);
        let (protocol, target) = (listener.publication.protocol, listener.target);
        self.sockets
            .give_back(&listener.publication, listener.socket);
        let mut others = self.listeners.values();
        let same =
            |other: &Listener| other.publication.protocol == protocol && other.target == target;
        if !others.any(same) {
            let (address, port) = (target.ip(), target.port());
            let removed = helper.set_port(protocol, &self.state.bridge, address, port, false);
            if let Err(error) = removed {
                tracing::warn!("the rule of port {port} stays: {error}");
            }
        }
    }

    /// When something has to be done though nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.again
            .into_iter()
            .chain(self.conversations.deadline())
            .chain(self.paused.iter().map(|(until, _)| *until))
            .min()
    }

    /// Does what has to be done by now.
    pub fn expire(&mut self, now: Instant, helper: &Helper, reactor: &mut Reactor) {
        self.conversations.expire(now, &mut self.clients, helper);
        self.paused.retain(|(until, token)| {
            let over = *until <= now;
            if let Some(listener) = self.listeners.get(token).filter(|_| over) {
                // One that cannot be watched is found out at the next change.
                let _ = reactor.modify(&listener.socket, *token, EventFlags::IN);
            }
            !over
        });
        if self.again.is_some_and(|again| again <= now) {
            let mut missing = std::mem::take(&mut self.missing);
            missing.retain(|(publication, target)| {
                let opened = self.open(*publication, *target, None, helper, reactor);
                opened.is_err()
            });
            self.missing = missing;
            self.again = (!self.missing.is_empty()).then(|| now + AGAIN);
        }
    }

    /// Deals with what became ready, if it is of a published port.
    pub fn handle(&mut self, ready: Ready, helper: &Helper, reactor: &mut Reactor) -> bool {
        if let Some(listener) = self.listeners.get(&ready.token) {
            let around = Around {
                local: &self.state,
                clients: &mut self.clients,
                stock: &mut self.stock,
                descriptors: self.descriptors,
                answers: &self.answers,
                helper,
            };
            match listener.publication.protocol {
                Protocol::Tcp => {
                    let lacking = self.flows.accept(ready.token, listener, around, reactor);
                    self.paused
                        .extend(lacking.map(|until| (until, ready.token)));
                }
                Protocol::Udp | Protocol::Sctp => {
                    let buffer = &mut self.buffer;
                    self.conversations
                        .take_in(ready.token, listener, around, reactor, buffer);
                }
            }
            return true;
        }
        let (clients, buffer) = (&mut self.clients, &mut self.buffer);
        if self.flows.handle(ready, clients, helper, reactor, buffer) {
            return true;
        }
        self.conversations.handle(ready, buffer)
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        for (_, listener) in self.listeners.drain() {
            self.sockets
                .give_back(&listener.publication, listener.socket);
        }
    }
}

/// What is published, and to which address of the container: of the host's family, or IPv4.
fn wanted(state: &NetworkState) -> Vec<(Publication, IpAddr)> {
    let all = state.members.iter().flat_map(|member| {
        member.ports.iter().filter_map(|publication| {
            let same = |address: &&IpAddr| address.is_ipv6() == publication.host.is_ipv6();
            let target = member.addresses.iter().find(same);
            let target = target.or_else(|| member.addresses.iter().find(|it| it.is_ipv4()));
            Some((*publication, *target?))
        })
    });
    all.collect()
}
