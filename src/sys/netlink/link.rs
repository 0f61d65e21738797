//! Interfaces: bridges, pairs of virtual Ethernet interfaces, their addresses.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::message::{CREATE, EXCLUSIVE, Message, u32_at};
use super::{Block, Socket};

// linux/rtnetlink.h
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;

// linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// `IN6_ADDR_GEN_MODE_NONE`.
const NO_ADDRESS: u8 = 1;

// linux/ip.h: IPV4_DEVCONF_*
/// Packets are forwarded that came in here.
pub const FORWARDING: u16 = 1;
/// Addresses of 127.0.0.0/8 are routed like others.
pub const ROUTE_LOCALNET: u16 = 26;

// linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 2;

/// The longest IPv4 packet that crosses bridges and pairs whole, in bytes, of segments that fit the
/// MTU: three times what IPv4's own length can say, which Linux 6.3 takes and before it ignores.
/// More gains nothing.
pub const LONGEST: u32 = 192 << 10;

/// `IFF_UP`.
const UP: u32 = 1;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// A pair of interfaces to be made, each the other's far end.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// Name of the one in the socket's namespace.
    pub near: &'a str,
    /// Index of the bridge that it becomes a port of.
    pub bridge: u32,
    /// Name of the other.
    pub far: &'a str,
    /// The other's Ethernet address.
    pub far_mac: Mac,
    /// The network namespace that the other is made in.
    pub far_namespace: BorrowedFd<'a>,
    /// The largest packet, in bytes, of both.
    pub mtu: u32,
}

/// `struct ifinfomsg`.
fn info(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

fn make(flags: u32) -> Message {
    Message::new(NEW_LINK, CREATE | EXCLUSIVE, &info(0, flags, flags))
}

fn set(index: u32) -> Message {
    Message::new(SET_LINK, 0, &info(index, 0, 0))
}

impl Socket {
    /// Makes a bridge.
    pub fn add_bridge(&self, name: &str, mac: Mac, mtu: u32) -> io::Result<()> {
        self.request(
            make(0)
                .text(IFLA_IFNAME, name)
                .bytes(IFLA_ADDRESS, &mac)
                .u32(IFLA_MTU, mtu)
                .nest(IFLA_LINKINFO, |it| it.text(IFLA_INFO_KIND, "bridge")),
        )
    }

    /// Makes a pair of interfaces; the near one is up and a port of the bridge at once.
    pub fn add_pair(&self, pair: Pair<'_>) -> io::Result<()> {
        let namespace = u32::try_from(pair.far_namespace.as_raw_fd());
        let namespace = namespace.map_err(|_| io::ErrorKind::InvalidInput)?;
        let far = |it: Message| {
            it.raw(&info(0, 0, 0))
                .text(IFLA_IFNAME, pair.far)
                .bytes(IFLA_ADDRESS, &pair.far_mac)
                .u32(IFLA_MTU, pair.mtu)
                .u32(IFLA_NET_NS_FD, namespace)
        };
        self.request(
            make(UP)
                .text(IFLA_IFNAME, pair.near)
                .u32(IFLA_MTU, pair.mtu)
                .u32(IFLA_MASTER, pair.bridge)
                .u32(IFLA_GSO_IPV4_MAX_SIZE, LONGEST)
                .nest(IFLA_LINKINFO, |it| {
                    it.text(IFLA_INFO_KIND, "veth")
                        .nest(IFLA_INFO_DATA, |it| it.nest(VETH_INFO_PEER, far))
                }),
        )
    }

    /// Removes an interface.
    pub fn delete_link(&self, name: &str) -> io::Result<()> {
        self.request(Message::new(DELETE_LINK, 0, &info(0, 0, 0)).text(IFLA_IFNAME, name))
    }

    /// Index of the interface of this name.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        let mut index = None;
        let message = Message::new(GET_LINK, 0, &info(0, 0, 0)).text(IFLA_IFNAME, name);
        self.get(message, |head, _| index = u32_at(head, 4))?;
        index.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// All interfaces: name, index, Ethernet address (empty where there is none).
    pub fn links(&self) -> io::Result<Vec<(String, u32, Vec<u8>)>> {
        let mut found = Vec::new();
        self.dump(
            Message::new(GET_LINK, 0, &info(0, 0, 0)),
            |head, attributes| {
                let name = attributes.text(IFLA_IFNAME);
                if let Some((name, index)) = name.zip(u32_at(head, 4)) {
                    let mac = attributes.get(IFLA_ADDRESS).unwrap_or_default();
                    found.push((name.to_owned(), index, mac.to_owned()));
                }
            },
        )?;
        Ok(found)
    }

    /// The longest IPv4 packet that an interface takes whole; none where the kernel does not know of
    /// any over 64 KiB.
    pub fn longest_ipv4(&self, name: &str) -> io::Result<Option<u32>> {
        let mut longest = None;
        let message = Message::new(GET_LINK, 0, &info(0, 0, 0)).text(IFLA_IFNAME, name);
        self.get(message, |_, attributes| {
            longest = attributes.u32(IFLA_GSO_IPV4_MAX_SIZE);
        })?;
        Ok(longest)
    }

    /// Has a bridge take IPv4 packets of [`LONGEST`] whole; one that never had a port refuses.
    pub fn lengthen(&self, index: u32) -> io::Result<()> {
        self.request(set(index).u32(IFLA_GSO_IPV4_MAX_SIZE, LONGEST))
    }

    /// Brings an interface up.
    pub fn set_up(&self, index: u32) -> io::Result<()> {
        self.request(Message::new(SET_LINK, 0, &info(index, UP, UP)))
    }

    /// Sets an IPv4 switch of an interface, as in /proc/sys/net/ipv4/conf, which may be read-only.
    pub fn set_ipv4(&self, index: u32, switches: &[(u16, u32)]) -> io::Result<()> {
        let family = u16::try_from(libc::AF_INET).unwrap_or_default();
        let all = |it| {
            switches
                .iter()
                .fold(it, |it: Message, (kind, value)| it.u32(*kind, *value))
        };
        let of_family = |it: Message| it.nest(IFLA_INET_CONF, all);
        self.request(set(index).nest(IFLA_AF_SPEC, |it| it.nest(family, of_family)))
    }

    /// Keeps an interface from giving itself an IPv6 address; to be said before it is up.
    pub fn set_no_ipv6_address(&self, index: u32) -> io::Result<()> {
        let family = u16::try_from(libc::AF_INET6).unwrap_or_default();
        let of_family = |it: Message| it.u8(IFLA_INET6_ADDR_GEN_MODE, NO_ADDRESS);
        self.request(set(index).nest(IFLA_AF_SPEC, |it| it.nest(family, of_family)))
    }

    /// Keeps a port of a bridge from reaching other ports that are kept so.
    pub fn isolate_port(&self, index: u32) -> io::Result<()> {
        let mut fixed = info(index, 0, 0);
        fixed[0] = u8::try_from(libc::AF_BRIDGE).unwrap_or_default();
        let message = Message::new(SET_LINK, 0, &fixed);
        self.request(message.nest(IFLA_PROTINFO, |it| it.u8(IFLA_BRPORT_ISOLATED, 1)))
    }

    /// Gives an interface an address; the length is that of the network around it.
    pub fn add_address(&self, index: u32, (ip, length): Block) -> io::Result<()> {
        let family = if ip.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        let mut fixed = [0; 8];
        fixed[0] = u8::try_from(family).unwrap_or_default();
        fixed[1] = length;
        // Its uniqueness is ours to know: detection would keep it from use for a second.
        fixed[2] = if ip.is_ipv6() { IFA_F_NODAD } else { 0 };
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        let message = Message::new(NEW_ADDRESS, CREATE | EXCLUSIVE, &fixed)
            .address(IFA_LOCAL, ip)
            .address(IFA_ADDRESS, ip);
        self.request(match ip {
            IpAddr::V4(ip) if length < 31 => {
                let last = u32::from(ip) | (u32::MAX >> length);
                message.bytes(IFA_BROADCAST, &last.to_be_bytes())
            }
            _ => message,
        })
    }
}
