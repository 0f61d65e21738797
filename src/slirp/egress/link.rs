//! The TUN device: made and set up in a network's namespace, read and written in the host's.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socket_with};

use super::wire::header::Header;
use super::wire::icmp::{self, Reason};
use super::wire::ip::{Fragment, Pair};
use super::wire::{udp, vnet};
use crate::sys::tun;

/// The longest that is read at once: the kernel's header and the largest IP packet.
pub(super) const MOST: usize = vnet::LEN + 65_575;

/// The kernel's own limit (linux/netdevice.h).
const GSO_MAX_SIZE: u32 = 8 * 65_535;

/// Packets that wait in the device while we are busy. The kernel's 500 are one burst of a program
/// with many connections; what doesn't fit is lost and sent again.
const QUEUE: u32 = 4096;

/// One end of the link between a network's namespace and its sockets on the host: its packets are
/// read and written here, by whoever holds this.
#[derive(Debug)]
pub struct Link {
    device: OwnedFd,
    segments_udp: bool,
    /// Bytes of an IPv4 packet.
    longest: u32,
}

impl Link {
    /// Makes the device `name` in the calling thread's network namespace, with `mtu`, up, and the
    /// default routes of both families leading to it. Called once by a helper thread that has
    /// entered the namespace; everything else is done from the host's.
    ///
    /// # Errors
    /// `NotFound` or `PermissionDenied` where /dev/net/tun can't be opened, `EPERM` without
    /// CAP_NET_ADMIN over the namespace, `EBUSY` where the name is taken. No default route for a
    /// family that the kernel lacks is no error.
    pub fn open(name: &str, mtu: u32) -> io::Result<Self> {
        let (device, segments_udp) = tun::create_offloading(name)?;
        // Packets of the gateway's address, which is the namespace's own, come in here.
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/accept_local"), "1");
        // Neither router solicitations nor a link-local address are of use here.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode"), "1");
        let route = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE.
            None,
        )?;
        let any = socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let index = name_to_index(&any, name)?;
        ask(&route, &set_up(index, mtu))?;
        ask(&route, &default_route(libc::AF_INET as u8, index))?;
        match ask(&route, &default_route(libc::AF_INET6 as u8, index)) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Err(error),
            _ => {}
        }
        Ok(Self::over(device, segments_udp))
    }

    /// A link over a descriptor that gives and takes one packet a call, each after a
    /// `virtio_net_hdr`, and doesn't block: a device that was handed over, or a test's socket.
    /// `segments_udp` says whether it takes runs of UDP datagrams.
    #[must_use]
    pub fn over(device: OwnedFd, segments_udp: bool) -> Self {
        Self {
            device,
            segments_udp,
            longest: u16::MAX.into(),
        }
    }

    /// The same, of which the way to the containers is known to take IPv4 packets of so many bytes
    /// whole: Linux 6.3 takes more than IPv4 has numbers for ("BIG TCP").
    #[must_use]
    pub fn with_longest(mut self, bytes: u32) -> Self {
        self.longest = bytes.clamp(u16::MAX.into(), GSO_MAX_SIZE);
        self
    }

    /// The longest IPv4 packet, of however many segments, that is to be written.
    pub(super) fn longest(&self) -> u32 {
        self.longest
    }

    /// The descriptor, and whether runs of UDP datagrams cross it: what [`Link::over`] takes.
    #[must_use]
    pub fn into_parts(self) -> (OwnedFd, bool) {
        (self.device, self.segments_udp)
    }

    /// Whether runs of UDP datagrams cross it whole.
    pub(super) fn segments_udp(&self) -> bool {
        self.segments_udp
    }

    /// Reads one packet; none where none waits. What can't be read for another reason is no packet
    /// either: the device is gone with its namespace, and the thread is told to stop by others.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        rustix::io::read(&self.device, buffer)
            .ok()
            .filter(|&length| length > 0)
    }

    /// Writes one packet. Where it can't be (the kernel has no memory, the device is down), it is
    /// lost, as on any link.
    pub(super) fn write(&self, header: &Header, payload: &[u8]) {
        let parts = [IoSlice::new(header.bytes()), IoSlice::new(payload)];
        let _ = rustix::io::writev(&self.device, &parts);
    }

    /// As [`Link::write`], with the payload in pieces.
    pub(super) fn write_pieces(&self, parts: &[IoSlice<'_>]) {
        let _ = rustix::io::writev(&self.device, parts);
    }

    /// Writes a message of any protocol with its checksum in place, cut where the MTU asks for it.
    /// `id` tells the fragments of different messages apart.
    pub(super) fn write_message(
        &self,
        pair: Pair,
        protocol: u8,
        message: &[u8],
        mtu: u32,
        id: u32,
    ) {
        let room = (mtu as usize).saturating_sub(pair.header_len().into());
        if message.len() <= room {
            let mut header = Header::new(vnet::Offer::Whole);
            header.push_ip(pair, protocol, message.len(), None);
            self.write(&header, message);
            return;
        }
        // Every fragment but the last carries a multiple of eight; IPv6 has a header for it.
        let room = room.saturating_sub(if pair.is_v6() { 8 } else { 0 });
        let room = (room & !7).max(8);
        let mut offset = 0;
        for piece in message.chunks(room) {
            let part = Fragment {
                id,
                offset,
                more: offset + piece.len() < message.len(),
            };
            self.write(&udp::fragment(pair, protocol, piece.len(), part), piece);
            offset += piece.len();
        }
    }

    /// Tells the container that its packet, which began with `quoted`, did not arrive. `pair` is
    /// from who says so to who is told.
    pub(super) fn write_error(&self, pair: Pair, reason: Reason, quoted: &[u8]) {
        let mut room = [0; 1280];
        let length = icmp::error(pair, reason, quoted, &mut room);
        self.write(&icmp::build(pair, length), &room[..length]);
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// `RTM_NEWLINK` (rtnetlink(7)): up, with MTU and queue length.
fn set_up(index: u32, mtu: u32) -> Vec<u8> {
    let up = libc::IFF_UP as u32;
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(up.to_ne_bytes());
    body.extend(up.to_ne_bytes());
    attribute(&mut body, libc::IFLA_MTU, mtu);
    attribute(&mut body, libc::IFLA_TXQLEN, QUEUE);
    message(libc::RTM_NEWLINK, 0, &body)
}

/// `RTM_NEWROUTE`: everything of a family by that device.
fn default_route(family: u8, index: u32) -> Vec<u8> {
    let mut body = vec![
        family,
        0,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_STATIC,
        libc::RT_SCOPE_UNIVERSE,
        libc::RTN_UNICAST,
    ];
    body.extend([0; 4]);
    attribute(&mut body, libc::RTA_OIF, index);
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    message(libc::RTM_NEWROUTE, flags as u16, &body)
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: u32) {
    body.extend(8_u16.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value.to_ne_bytes());
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut bytes = Vec::with_capacity(16 + body.len());
    bytes.extend((16 + body.len() as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// Sends a request and waits for its `NLMSG_ERROR`, which also says that all went well.
fn ask(socket: &OwnedFd, request: &[u8]) -> io::Result<()> {
    rustix::net::send(socket, request, SendFlags::empty())?;
    let mut answer = [0_u8; 512];
    let (length, _) = rustix::net::recv(socket, &mut answer[..], RecvFlags::empty())?;
    let code = answer[..length]
        .get(16..20)
        .and_then(|code| code.try_into().ok())
        .map_or(-libc::EPROTO, i32::from_ne_bytes);
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(-code))
    }
}
