//! The one thread that is inside a network's namespace, and makes what has to be made there.
//!
//! A thread that entered cannot come back, so it stays, asleep, and is given jobs one at a time: a
//! fixed set, none of which makes it read what a container sends. It keeps `CAP_NET_ADMIN`
//! (transparent sockets, routes, rules) and `CAP_NET_BIND_SERVICE` (ports below 1024) there, and
//! nothing else. Sockets that it makes are used by the network's worker, which has no capability.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::egress::Link;
use crate::sys::netlink::link::{FORWARDING, LONGEST};
use crate::sys::netlink::routing::{Action, Kind, LOCAL, Route, Rule};
use crate::sys::netlink::{Block, Socket, or_exists, or_gone};
use crate::sys::{inet, netns};
use crate::types::port::Protocol;

/// The table of routes to clients whose address a socket of ours has.
const CLIENTS: u32 = 100;

/// Preference of the rules that lead to it.
const PREFERENCE: u32 = 50;

/// The table that leads out whatever it is asked for.
const WAY_OUT: u32 = 101;

/// Preference of the rules for what comes to the gateways' addresses and is for us.
const OURS: u32 = 6;
/// Preference of those for what is for the host by these addresses.
const HOST: u32 = 7;
/// Preference of the rule for our own addresses: as the kernel has it, and after those above.
const OWN_FIRST: u32 = 0;
const OWN_LATER: u32 = 8;

/// Preferences of the rules that what comes in by the way out does not leave by it again: one for what
/// is for members, and one for all else.
const IN_TO_MEMBERS: u32 = 51;
const IN_TO_NOBODY: u32 = 52;

/// Numbers of protocols.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The port of name servers.
const DNS: u16 = 53;

/// Index of the loopback interface.
const LOOPBACK: u32 = 1;

/// What the thread is asked for.
enum Job {
    /// A socket that listens there (TCP), or is bound (UDP).
    Bind(Protocol, SocketAddr),
    /// A socket for one conversation, bound to a client's address.
    Flow(Protocol, SocketAddr),
    /// Sockets for some conversations, which may be bound to clients' addresses.
    Flows(Protocol, bool, usize),
    /// The network's way out, from that bridge, with packets of at most this length.
    Link(String, u32),
    /// Have what members send to these gateways of a bridge go out by that way, or no more.
    Host {
        bridge: String,
        gateways: Vec<IpAddr>,
        reached: bool,
    },
    /// Have packets to this client come to sockets of ours, or no more.
    Client(IpAddr, bool),
    /// Look for such sockets for what a container sends from this port, or no more.
    Port {
        protocol: Protocol,
        bridge: String,
        container: IpAddr,
        port: u16,
        add: bool,
    },
}

/// What has come of it.
enum Made {
    Done,
    Socket(OwnedFd),
    Sockets(Vec<OwnedFd>),
    Link(Link),
}

type Answer = io::Result<Made>;

/// Gives the thread jobs. It ends when this is dropped.
#[derive(Debug)]
pub struct Helper {
    jobs: Sender<(Job, SyncSender<Answer>)>,
}

impl Helper {
    /// Starts the thread in the namespace.
    pub fn start(namespace: OwnedFd) -> io::Result<Self> {
        let (jobs, queue) = channel();
        let (ready, started) = sync_channel(1);
        std::thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || {
                let entered = enter(namespace);
                match entered {
                    Ok(socket) => {
                        let _ = ready.send(Ok(()));
                        serve(&socket, &queue);
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            })?;
        started.recv().map_err(|_| io::ErrorKind::BrokenPipe)??;
        Ok(Self { jobs })
    }

    fn ask(&self, job: Job) -> Answer {
        let (sender, answer) = sync_channel(1);
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.jobs
            .send((job, sender))
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        answer.recv().map_err(gone)?
    }

    fn socket(&self, job: Job) -> io::Result<OwnedFd> {
        match self.ask(job)? {
            Made::Socket(socket) => Ok(socket),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The network's way out, from that bridge, with packets of at most this length. Made once.
    pub fn link(&self, bridge: &str, mtu: u32) -> io::Result<Link> {
        match self.ask(Job::Link(bridge.to_owned(), mtu))? {
            Made::Link(link) => Ok(link),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Has what members of a bridge send to its own addresses by TCP and UDP go out by the way that
    /// leads there, or no more.
    pub fn set_host(&self, bridge: &str, gateways: &[IpAddr], reached: bool) -> io::Result<()> {
        let job = Job::Host {
            bridge: bridge.to_owned(),
            gateways: gateways.to_vec(),
            reached,
        };
        self.ask(job).map(|_| ())
    }

    /// A socket that listens at this address, or is bound to it.
    pub fn bind(&self, protocol: Protocol, address: SocketAddr) -> io::Result<OwnedFd> {
        self.socket(Job::Bind(protocol, address))
    }

    /// A socket to be connected to a container, bound to a client's address, as if the client were
    /// here.
    pub fn flow(&self, protocol: Protocol, client: SocketAddr) -> io::Result<OwnedFd> {
        self.socket(Job::Flow(protocol, client))
    }

    /// So many sockets to be connected to containers. They may be bound to any address; to a port
    /// below 1024 only by this thread.
    pub fn flows(&self, protocol: Protocol, ipv6: bool, count: usize) -> io::Result<Vec<OwnedFd>> {
        match self.ask(Job::Flows(protocol, ipv6, count))? {
            Made::Sockets(sockets) => Ok(sockets),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Has packets to this client come to sockets of ours, or no more.
    pub fn set_client(&self, client: IpAddr, here: bool) -> io::Result<()> {
        self.ask(Job::Client(client, here)).map(|_| ())
    }

    /// Has what a container sends from this port find those sockets, or no more.
    pub fn set_port(
        &self,
        protocol: Protocol,
        bridge: &str,
        container: IpAddr,
        port: u16,
        add: bool,
    ) -> io::Result<()> {
        let bridge = bridge.to_owned();
        self.ask(Job::Port {
            protocol,
            bridge,
            container,
            port,
            add,
        })
        .map(|_| ())
    }
}

/// Enters the namespace, and lets go of all that is not needed there.
fn enter(namespace: OwnedFd) -> io::Result<Socket> {
    netns::enter_for_good(namespace)?;
    let kept = CapabilitySet::NET_ADMIN | CapabilitySet::NET_BIND_SERVICE;
    set_capabilities(kept)?;
    Socket::open()
}

/// Leaves the calling thread with these capabilities alone.
pub fn set_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

fn serve(netlink: &Socket, queue: &Receiver<(Job, SyncSender<Answer>)>) {
    for (job, answer) in queue {
        let done = match job {
            Job::Bind(protocol, address) => bind(protocol, address).map(Made::Socket),
            Job::Flow(protocol, client) => flow(protocol, client).map(Made::Socket),
            Job::Flows(protocol, ipv6, count) => (0..count)
                .map(|_| transparent(protocol, ipv6))
                .collect::<io::Result<_>>()
                .map(Made::Sockets),
            Job::Link(bridge, mtu) => link(netlink, &bridge, mtu).map(Made::Link),
            Job::Host {
                bridge,
                gateways,
                reached,
            } => set_host(netlink, &bridge, &gateways, reached).map(|()| Made::Done),
            Job::Client(client, here) => set_client(netlink, client, here).map(|()| Made::Done),
            Job::Port {
                protocol,
                bridge,
                container,
                port,
                add,
            } => {
                let number = match protocol {
                    Protocol::Tcp => TCP,
                    Protocol::Udp | Protocol::Sctp => UDP,
                };
                let to_clients = Rule {
                    preference: PREFERENCE,
                    ipv6: container.is_ipv6(),
                    interface: Some(&bridge),
                    from: Some(alone(container)),
                    protocol: Some(number),
                    source_port: Some(port),
                    action: Action::Table(CLIENTS),
                    ..Rule::default()
                };
                // Where a client has the gateway's address, that is not the host that it stands for.
                let to_gateway = Rule {
                    preference: OURS,
                    action: Action::Table(LOCAL),
                    ..to_clients
                };
                let all = [to_clients, to_gateway];
                let mut all = all.iter();
                all.try_for_each(|rule| set_rule(netlink, rule, add))
                    .map(|()| Made::Done)
            }
        };
        // Whoever asked may have gone.
        let _ = answer.send(done);
    }
}

/// Name of the device that leads out.
const DEVICE: &str = "out";

/// The whole of an address.
fn alone(address: IpAddr) -> Block {
    (address, if address.is_ipv6() { 128 } else { 32 })
}

fn set_rule(netlink: &Socket, rule: &Rule<'_>, there: bool) -> io::Result<()> {
    match there {
        true => or_exists(netlink.add_rule(rule)),
        false => or_gone(netlink.delete_rule(rule)),
    }
}

/// Has the gateways' addresses, which are this namespace's own, stand for the host: but for names,
/// which are answered here, and for what answers connections of ours.
fn set_host(netlink: &Socket, bridge: &str, gateways: &[IpAddr], reached: bool) -> io::Result<()> {
    if reached {
        // What comes back has a source that is our own, by an interface that does not lead there.
        // What cannot be written is so already, or is told by the first connection that fails.
        for (interface, name, value) in [
            (DEVICE, "accept_local", "1"),
            (DEVICE, "rp_filter", "0"),
            ("all", "rp_filter", "0"),
        ] {
            let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/{name}"), value);
        }
    }
    for ipv6 in [false, true] {
        let of_family = || gateways.iter().filter(|gateway| gateway.is_ipv6() == ipv6);
        if of_family().next().is_none() {
            continue;
        }
        let own = |preference| Rule {
            preference,
            ipv6,
            action: Action::Table(LOCAL),
            ..Rule::default()
        };
        set_rule(netlink, &own(OWN_LATER), true)?;
        for (gateway, protocol) in of_family().flat_map(|it| [(*it, TCP), (*it, UDP)]) {
            let to_host = Rule {
                preference: HOST,
                ipv6,
                interface: Some(bridge),
                to: Some(alone(gateway)),
                protocol: Some(protocol),
                action: Action::Table(WAY_OUT),
                ..Rule::default()
            };
            let names = Rule {
                preference: OURS,
                destination_port: Some(DNS),
                action: Action::Table(LOCAL),
                ..to_host
            };
            set_rule(netlink, &names, reached)?;
            set_rule(netlink, &to_host, reached)?;
        }
        if reached {
            netlink.replace_route(&Route {
                to: (unspecified(ipv6), 0),
                kind: Kind::Unicast,
                via: None,
                interface: Some(netlink.index(DEVICE)?),
                source: None,
                table: WAY_OUT,
            })?;
        }
        set_rule(netlink, &own(OWN_FIRST), !reached)?;
        if !reached {
            set_rule(netlink, &own(OWN_LATER), false)?;
        }
    }
    Ok(())
}

fn unspecified(ipv6: bool) -> IpAddr {
    match ipv6 {
        false => std::net::Ipv4Addr::UNSPECIFIED.into(),
        true => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Makes the device that leads out; what comes back by it is passed on to the bridge.
fn link(netlink: &Socket, bridge: &str, mtu: u32) -> io::Result<Link> {
    let link = Link::open(DEVICE, mtu)?;
    // An answer to a member that gave itself another's address would go out again, as a question of its
    // own, and so on.
    for ipv6 in [false, true] {
        let to_members = Rule {
            preference: IN_TO_MEMBERS,
            ipv6,
            interface: Some(DEVICE),
            no_default: true,
            ..Rule::default()
        };
        let to_nobody = Rule {
            preference: IN_TO_NOBODY,
            no_default: false,
            action: Action::Blackhole,
            ..to_members
        };
        for rule in [to_members, to_nobody] {
            match set_rule(netlink, &rule, true) {
                // A kernel without IPv6 has nothing to send round.
                Err(error) if ipv6 && error.kind() != io::ErrorKind::PermissionDenied => {}
                set => set?,
            }
        }
    }
    netlink.set_ipv4(netlink.index(DEVICE)?, &[(FORWARDING, 1)])?;
    // A bridge without members says less than it takes once it has some.
    let known = netlink.longest_ipv4(bridge)?.is_some();
    Ok(link.with_longest(if known { LONGEST } else { 0 }))
}

/// A socket of this namespace.
fn socket(protocol: Protocol, ipv6: bool) -> io::Result<OwnedFd> {
    let family = if ipv6 {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp | Protocol::Sctp => (SocketType::DGRAM, ipproto::UDP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, kind, flags, Some(number))?)
}

fn bind(protocol: Protocol, address: SocketAddr) -> io::Result<OwnedFd> {
    listen(&socket(protocol, address.is_ipv6())?, protocol, address)
}

/// Binds a socket and has it listen.
fn listen(socket: &OwnedFd, protocol: Protocol, address: SocketAddr) -> io::Result<OwnedFd> {
    if protocol == Protocol::Tcp {
        sockopt::set_socket_reuseaddr(socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(socket, true)?;
    }
    rustix::net::bind(socket, &address)?;
    if protocol == Protocol::Tcp {
        rustix::net::listen(socket, BACKLOG)?;
    }
    socket.try_clone()
}

/// As many connections as the kernel lets wait.
const BACKLOG: i32 = 4096;

/// A socket of the caller's namespace that listens at this address, or is bound to it.
///
/// # Errors
/// EADDRINUSE where something is there; EACCES below the host's first port for everybody;
/// EADDRNOTAVAIL where the address is none of the host's.
pub fn listen_here(protocol: Protocol, address: SocketAddr) -> io::Result<OwnedFd> {
    bind(protocol, address)
}

/// A socket that may be bound to an address of somebody else's.
fn transparent(protocol: Protocol, ipv6: bool) -> io::Result<OwnedFd> {
    let socket = socket(protocol, ipv6)?;
    if protocol == Protocol::Tcp {
        sockopt::set_tcp_nodelay(&socket, true)?;
    }
    inet::set_transparent(&socket, ipv6)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(socket)
}

fn flow(protocol: Protocol, client: SocketAddr) -> io::Result<OwnedFd> {
    let socket = transparent(protocol, client.is_ipv6())?;
    rustix::net::bind(&socket, &client)?;
    Ok(socket)
}

fn set_client(netlink: &Socket, client: IpAddr, here: bool) -> io::Result<()> {
    let route = Route {
        to: alone(client),
        kind: Kind::Local,
        via: None,
        interface: Some(LOOPBACK),
        source: None,
        table: CLIENTS,
    };
    match here {
        true => or_exists(netlink.add_route(&route)),
        false => or_gone(netlink.delete_route(&route)),
    }
}
