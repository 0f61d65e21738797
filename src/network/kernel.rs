//! The kernel's side of networks: namespaces, bridges, pairs of interfaces.
//!
//! ```text
//!  network's namespace (owned by the keeper's user namespace)     container's (by its own nested one)
//!  ┌───────────────────────────────────────────────┐              ┌───────────────────────────────┐
//!  │ bridge  GATEWAY ── veth0123456 ═══════════════╪══════════════╪═ eth0  ADDRESS                │
//!  │         └──────── veth89abcde ════ …          │              │   default via GATEWAY          │
//!  │ 127.0.0.11: names, by slirp                   │              │   127.0.0.11 via GATEWAY       │
//!  └───────────────────────────────────────────────┘              └───────────────────────────────┘
//! ```
//!
//! Two networks are two namespaces with nothing between them, so no firewall has to keep them apart.
//! Everything is said to the kernel by netlink, from threads of the daemon; a netlink socket that was
//! opened in a network's namespace stays with it ([`crate::sys::netlink`]), so only what concerns a
//! container's own namespace needs a thread that enters it.
//!
//! **Names.** Images know 127.0.0.11, and a socket there inside the container would be in the way of
//! every name server that binds port 53. So the container routes that one address to the gateway, in
//! the table of local addresses, where the longer prefix wins over 127.0.0.0/8. `route_localnet` makes
//! the kernel do so, and would let neighbours reach the container's own loopback services: a rule
//! before that table drops whatever comes in for 127.0.0.0/8, which needs the table's own rule to
//! move from preference 0 to 1. The rules are there before the interface is up.
//!
//! **Without members' traffic** (`enable_icc=false`) ports of the bridge are isolated, and what would
//! go the other way round, by the gateway, is refused by a rule.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::sys::netlink::link::{FORWARDING, Mac, Pair, ROUTE_LOCALNET};
use crate::sys::netlink::routing::{Action, Kind, LOCAL, MAIN, Route, Rule};
use crate::sys::netlink::{Block, Socket, or_exists, or_gone};
use crate::sys::netns;
use crate::types::prefix::Prefix;

/// Where names are answered.
pub const RESOLVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 11));

/// Addresses of the loopback network.
const LOOPBACK: Block = (IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 0)), 8);

/// Index of the loopback interface in every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// How many interfaces a container may have.
const MOST_INTERFACES: u32 = 64;

/// Preference of the rule that keeps members apart.
const APART: u32 = 10;

/// What a network's namespace is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Name of the bridge.
    pub bridge: String,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// The bridge's addresses, each with its subnet's length.
    pub gateways: Vec<Prefix>,
    /// Members reach each other.
    pub icc: bool,
}

/// A network's namespace and its bridge. Dropped, the namespace stays as long as somebody else holds
/// it.
#[derive(Debug)]
pub struct Bridge {
    namespace: OwnedFd,
    socket: Socket,
    index: u32,
    icc: bool,
    mtu: u32,
}

/// One container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// Name of the interface on the network's side.
    pub near: String,
    /// Its Ethernet address in the container.
    pub mac: Mac,
    /// Its addresses, each with its subnet's length.
    pub addresses: Vec<Prefix>,
    /// It is asked for names of 127.0.0.11.
    pub names: bool,
    /// What it is to be called in the container.
    pub name: InterfaceName,
    /// Settings of the kernel's for it, `net.ipv4.conf.IFNAME.forwarding`, and their values.
    pub sysctls: Vec<(String, String)>,
}

/// What an interface is to be called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum InterfaceName {
    /// So, and not otherwise.
    Exactly(String),
    /// So, with the first number that is free.
    Numbered(String),
}

/// Where a container's packets go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// By family: the gateway, and the interface it is reached by.
    pub gateways: Vec<(IpAddr, String)>,
    /// Who answers names: the gateway, the interface, the container's address there.
    pub resolver: Option<(IpAddr, String, IpAddr)>,
}

fn block(prefix: Prefix) -> Block {
    (prefix.address(), prefix.length())
}

impl Bridge {
    /// Makes a network's namespace.
    pub fn make(shape: &Shape) -> io::Result<Self> {
        let (namespace, (socket, index)) = netns::make(|| build(shape))?;
        Ok(Self::with(namespace, socket, index, shape))
    }

    /// Takes over a namespace that was made before.
    pub fn take_over(namespace: OwnedFd, shape: &Shape) -> io::Result<Self> {
        let (socket, index) = netns::enter(namespace.as_fd(), || {
            let socket = Socket::open()?;
            let index = socket.index(&shape.bridge)?;
            Ok((socket, index))
        })?;
        Ok(Self::with(namespace, socket, index, shape))
    }

    fn with(namespace: OwnedFd, socket: Socket, index: u32, shape: &Shape) -> Self {
        Self {
            namespace,
            socket,
            index,
            icc: shape.icc,
            mtu: shape.mtu,
        }
    }

    /// The namespace.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Makes a pair of interfaces between the bridge and a container's namespace, and says what the
    /// container's is called: where that has a number, the first that is free from `first` on.
    pub fn plug(&self, wire: &Wire, first: u32, container: BorrowedFd<'_>) -> io::Result<String> {
        let mut last = io::Error::from_raw_os_error(libc::EEXIST);
        let names = match &wire.name {
            InterfaceName::Exactly(name) => vec![name.clone()],
            InterfaceName::Numbered(prefix) => {
                let numbers = first..MOST_INTERFACES;
                numbers.map(|number| format!("{prefix}{number}")).collect()
            }
        };
        for name in names {
            let made = self.socket.add_pair(Pair {
                near: &wire.near,
                bridge: self.index,
                far: &name,
                far_mac: wire.mac,
                far_namespace: container,
                mtu: self.mtu,
            });
            match made {
                Ok(()) => {
                    // Without it they come in pieces, and slower.
                    let _ = self.socket.lengthen(self.index);
                    if !self.icc {
                        let index = self.socket.index(&wire.near)?;
                        self.socket.isolate_port(index)?;
                    }
                    return Ok(name);
                }
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Removes a pair of interfaces that an attempt before this one may have left.
    pub fn unplug_if_known(&self, near: &str, known: bool) -> io::Result<()> {
        if known { self.unplug(near) } else { Ok(()) }
    }

    /// Removes a pair of interfaces, if it is there yet.
    pub fn unplug(&self, near: &str) -> io::Result<()> {
        or_gone(self.socket.delete_link(near))
    }

    /// Removes the pairs of interfaces that are not among these.
    pub fn sweep(&self, keep: impl Fn(&str) -> bool) -> io::Result<()> {
        for (name, ..) in self.socket.links()? {
            if name.starts_with(NEAR) && !keep(&name) {
                self.unplug(&name)?;
            }
        }
        Ok(())
    }

    /// Whether there is such a pair.
    pub fn has(&self, near: &str) -> bool {
        self.socket.index(near).is_ok()
    }
}

/// How the near interfaces' names begin.
const NEAR: &str = "veth";

/// Name of the near interface of an endpoint; an id is hexadecimal digits.
pub fn near(endpoint: &str) -> String {
    format!("{NEAR}{}", endpoint.get(..9).unwrap_or(endpoint))
}

/// An address of Ethernet made from one of IP, as Docker has long done: a container that gets
/// another's address is not taken for it by caches that are keyed by it.
pub fn mac_of(address: IpAddr) -> Mac {
    let [a, b, c, d] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            [a, b, c, d]
        }
    };
    [0x02, 0x42, a, b, c, d]
}

/// Runs on a thread in the new namespace.
fn build(shape: &Shape) -> io::Result<(Socket, u32)> {
    let socket = Socket::open()?;
    socket.set_up(LOOPBACK_INDEX)?;
    let first = shape.gateways.first().map(Prefix::address);
    let mac = mac_of(first.unwrap_or(RESOLVER));
    socket.add_bridge(&shape.bridge, mac, shape.mtu)?;
    // Where the host has its firewall see bridges, it would see these, for whom it has no rules.
    for family in ["ip", "ip6", "arp"] {
        let _ = std::fs::write(
            format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables"),
            "0",
        );
    }
    let index = socket.index(&shape.bridge)?;
    let ipv6 = shape.gateways.iter().any(Prefix::is_ipv6);
    if ipv6 {
        // No attribute of an interface says this; where /proc/sys is read-only, there is no way out
        // by IPv6.
        let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
    } else {
        without_ipv6(socket.set_no_ipv6_address(index))?;
    }
    for gateway in &shape.gateways {
        socket.add_address(index, block(*gateway))?;
        if !shape.icc {
            let subnet = gateway.masked();
            socket.add_rule(&Rule {
                preference: APART,
                ipv6: subnet.is_ipv6(),
                interface: Some(&shape.bridge),
                to: Some(block(subnet)),
                action: Action::Prohibit,
                ..Rule::default()
            })?;
        }
    }
    socket.set_ipv4(index, &[(FORWARDING, 1), (ROUTE_LOCALNET, 1)])?;
    socket.set_up(index)?;
    Ok((socket, index))
}

/// Lets a kernel without IPv6 do without.
fn without_ipv6(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(()),
        other => other,
    }
}

/// Sets up, in a container's namespace, interfaces that were plugged in, and its routes.
pub fn configure(
    container: BorrowedFd<'_>,
    plugged: &[(String, &Wire)],
    routes: &Routes,
) -> io::Result<()> {
    netns::enter(container, || {
        let socket = Socket::open()?;
        for (name, wire) in plugged {
            set_up(&socket, name, wire)?;
        }
        set_routes(&socket, routes)
    })
}

fn set_up(socket: &Socket, name: &str, wire: &Wire) -> io::Result<()> {
    let index = socket.index(name)?;
    if !wire.addresses.iter().any(Prefix::is_ipv6) {
        without_ipv6(socket.set_no_ipv6_address(index))?;
    }
    if wire.names {
        close_loopback(socket, name)?;
        socket.set_ipv4(index, &[(ROUTE_LOCALNET, 1)])?;
    }
    for address in &wire.addresses {
        socket.add_address(index, block(*address))?;
    }
    socket.set_up(index)?;
    let mut sysctls = wire.sysctls.iter();
    sysctls.try_for_each(|(setting, value)| set_sysctl(name, setting, value))
}

/// Makes one setting of an interface in the calling thread's namespace.
fn set_sysctl(interface: &str, setting: &str, value: &str) -> io::Result<()> {
    let parts = setting.split('.').map(|part| match part {
        "IFNAME" | "ifname" => interface,
        other => other,
    });
    let path = Path::new("/proc/sys").join(parts.collect::<PathBuf>());
    let failed = |error: io::Error| {
        let text = format!("unable to write to '{}': {error}", path.display());
        io::Error::new(error.kind(), text)
    };
    if !path.is_file() {
        let text = format!("{} is not a sysctl file", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    std::fs::write(&path, value).map_err(failed)
}

/// Drops what comes in by this interface for 127.0.0.0/8.
fn close_loopback(socket: &Socket, interface: &str) -> io::Result<()> {
    let local = |preference| Rule {
        preference,
        action: Action::Table(LOCAL),
        ..Rule::default()
    };
    or_exists(socket.add_rule(&local(1)))?;
    or_exists(socket.add_rule(&Rule {
        preference: 0,
        interface: Some(interface),
        to: Some(LOOPBACK),
        action: Action::Blackhole,
        ..Rule::default()
    }))?;
    or_gone(socket.delete_rule(&local(0)))
}

fn set_routes(socket: &Socket, routes: &Routes) -> io::Result<()> {
    let unspecified = |like: IpAddr| match like {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    };
    for (gateway, interface) in &routes.gateways {
        socket.replace_route(&Route {
            to: (unspecified(*gateway), 0),
            kind: Kind::Unicast,
            via: Some(*gateway),
            interface: Some(socket.index(interface)?),
            source: None,
            table: MAIN,
        })?;
    }
    if let Some((gateway, interface, own)) = &routes.resolver {
        socket.replace_route(&Route {
            to: (RESOLVER, 32),
            kind: Kind::Unicast,
            via: Some(*gateway),
            interface: Some(socket.index(interface)?),
            source: Some(*own),
            table: LOCAL,
        })?;
    }
    Ok(())
}

/// What the caller's own network namespace reaches, but for its default route: subnets that no
/// network is given unasked.
pub fn reached() -> Vec<Prefix> {
    let found = Socket::open().and_then(|socket| {
        let mut found = socket.destinations(false)?;
        found.extend(socket.destinations(true).unwrap_or_default());
        Ok(found)
    });
    let found = found.unwrap_or_default().into_iter();
    found
        .filter_map(|(address, length)| Prefix::new(address, length))
        .collect()
}
