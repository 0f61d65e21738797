//! The way out: what containers send to the world, turned into ordinary sockets of the host.
//!
//! # Theory of operation
//!
//! ```text
//!   a network's namespace                          the host's namespace
//!   container ─ veth ─ bridge ─ routing ─ TUN ═══▶ Egress ◀═══▶ TCP, UDP, ping sockets ─▶ world
//! ```
//!
//! The namespace of a Docker network routes whatever is not its own into a TUN device, layer 3, so
//! there is no ARP, NDP or DHCP here, and no address of ours. One thread per network, in the
//! host's network namespace, reads its packets, keeps one flow for each conversation and one host
//! socket for each flow, and writes the packets that come back. To the world everything looks like
//! a program of the user's; the source address is what the host's routing chooses, and a change of
//! the host's network needs nothing done here.
//!
//! *Offloads.* The device has a `virtio_net_hdr`: a TCP segment of 64 KiB crosses it as one packet
//! whatever the MTU, with its checksum left open, and so does a run of UDP datagrams (Linux 6.2).
//! That is where the speed comes from: a system call on either side per 64 KiB. Towards containers an
//! IPv4 segment may be longer yet, where the kernel and the interfaces on the way take that
//! ([`Link::with_longest`]).
//!
//! *The reactor* ([`Egress::turn`]) is one epoll set with the device, every flow's socket and the
//! descriptor that says stop. Host sockets of TCP are edge-triggered and registered once; the
//! state of readiness is the flow's. Timers are lazy (`timers`), so an idle network wakes nobody.
//! After something was to do it looks for more for some microseconds before it sleeps, giving way
//! to whoever needs the processor: an answer that comes meanwhile need not wake it.
//!
//! *TCP* ends here (`tcp`): the state of the container's side mirrors the host socket's, with no
//! buffer between. Data for the container stays in the host's socket, peeked at, until the
//! container acknowledges it; data from the container is acknowledged when the host's socket has
//! it, and the window offered is that socket's free room. *UDP* (`udp`) and *echo* (`echo`) have
//! one socket per container's address and port or id, whomever it talks to (RFC 4787's
//! endpoint-independent mapping), and bring the errors of ICMP back.
//!
//! *Limits.* A network has its own thread, table of flows, room for out-of-order data and number
//! of descriptors ([`Limits`]), so it can take nothing from another, and a share of those that the process
//! has ([`Descriptors`]). At a limit new flows are refused, TCP by a reset.
//!
//! *Safety.* All parsing is in [`wire`]: total, pure, fuzzed. The thread needs no capability, no
//! file and few system calls, and gives up everything else first ([`confine()`]). Loopback of the
//! host is out of reach unless allowed (`address`). TTL and "don't fragment" of the container's
//! packets are passed on, so traceroute and path MTU discovery see the host's path; what the host
//! itself finds too large for that is told as a router would.
//!
//! *The gateway's address* is the namespace's own, so its packets come here only by a rule before
//! the local table, for TCP and UDP alone, since ARP asks the same tables: `iif BRIDGE ipproto tcp
//! to GATEWAY lookup T`, and in T a default route to the device.
//!
//! *Not done*: multicast, broadcast, protocols other than these three; ECN and DSCP marks end here.
//!
//! Kernel: 4.12 for `SO_MEMINFO`; 5.0 for UDP's segments; 6.2 for those on the device; 6.9 for
//! `SO_PEEK_OFF` on TCP, without which at most 64 KiB are in flight to a container
//! before more is read.

mod address;
mod confine;
mod echo;
mod errors;
mod fragments;
mod link;
mod reactor;
mod table;
mod tcp;
#[cfg(test)]
mod tests;
mod timers;
mod udp;
pub mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use super::descriptors::Descriptors;
pub use confine::{SYSTEM_CALLS, confine};
pub use link::Link;
pub use reactor::Egress;

/// What a network may take up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// TCP connections; each has a descriptor.
    pub tcp: usize,
    /// UDP mappings; each has a descriptor.
    pub udp: usize,
    /// Echo conversations; each has a descriptor.
    pub echo: usize,
    /// Bytes of TCP data that arrived out of order, or before the host's sockets took them.
    pub held: usize,
    /// What all networks share.
    pub descriptors: Descriptors,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tcp: 16_384,
            udp: 4096,
            echo: 256,
            held: 32 << 20,
            descriptors: Descriptors::default(),
        }
    }
}

/// An address of the network at which the host's resolver answers.
#[derive(Debug, Clone, Copy)]
pub struct Resolver {
    /// As containers know it; only its port 53 is meant.
    pub at: IpAddr,
    /// Where their questions go.
    pub upstream: SocketAddr,
}

/// How a network's way out behaves.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The network's gateway, by which the host's loopback may be reached.
    pub gateway_v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub gateway_v6: Option<Ipv6Addr>,
    /// Whether the gateway's addresses stand for the host's 127.0.0.1 and ::1.
    pub host_loopback: bool,
    /// Where names are answered by the host's resolver.
    pub resolver: Option<Resolver>,
    /// The largest IP packet of the link, at least 1280.
    pub mtu: u32,
    /// What it may take up.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            gateway_v4: None,
            gateway_v6: None,
            host_loopback: false,
            resolver: None,
            mtu: 1500,
            limits: Limits::default(),
        }
    }
}

/// Serves a network until `stop` is readable. Runs in a thread of its own that is in the host's
/// network namespace; returns at the stop, its flows closed, or when epoll itself fails.
///
/// # Errors
/// As epoll_create(2) and epoll_wait(2): no descriptors or memory.
pub fn serve(link: Link, settings: &Settings, stop: BorrowedFd<'_>) -> io::Result<()> {
    let mut egress = Egress::new(link, settings)?;
    egress.stop_at(stop)?;
    egress.serve()
}
