//! What went wrong on the host, told to the container as the network would.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::reactor::Shared;
use super::wire::header::Header;
use super::wire::icmp::Reason;
use super::wire::ip::{ICMP, ICMPV6, Pair};
use super::wire::vnet::Offer;
use crate::sys::inet::{self, SocketError};

/// The word of ICMP for an error of connect() or send(); none where ICMP has none.
pub(super) fn reason(error: Errno) -> Option<Reason> {
    match error {
        Errno::CONNREFUSED => Some(Reason::Port),
        Errno::NETUNREACH | Errno::NETDOWN | Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT => {
            Some(Reason::Network)
        }
        Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::TIMEDOUT => Some(Reason::Host),
        Errno::ACCESS | Errno::PERM => Some(Reason::Prohibited),
        _ => None,
    }
}

/// Errors taken from one socket at a time.
const MOST: usize = 16;

/// Takes the errors that came for a socket's datagrams and tells `guest` of each, quoting what
/// `quote` makes of the datagram's destination and beginning. Gives what this host said would have
/// fitted, in bytes of IP packet, where a datagram was too large to be sent at all: the queue has
/// nothing of it to quote.
pub(super) fn pass_on(
    shared: &mut Shared,
    socket: &OwnedFd,
    guest: std::net::IpAddr,
    protocol: u8,
    mut quote: impl FnMut(SocketAddr, &mut [u8]) -> ([u8; 8], usize),
) -> Option<u32> {
    let mut fits = None;
    for _ in 0..MOST {
        let mut bytes = [0; 512];
        let Ok(found) = inet::next_error(socket, &mut bytes) else {
            break;
        };
        let Some(found) = found else { continue };
        if found.icmp.is_none() && found.number == libc::EMSGSIZE {
            fits = Some(found.info);
            continue;
        }
        let Some(remote) = shared.settings.origin(found.destination) else {
            continue;
        };
        let Some(reason) = told(&found) else { continue };
        // The offender as the container may see it; this host has no address of its own there.
        let from = found
            .offender
            .and_then(|offender| shared.settings.origin(SocketAddr::new(offender, 0)))
            .map_or(remote.ip(), |seen| seen.ip());
        let length = found.length.min(bytes.len());
        let (start, skip) = quote(remote, &mut bytes[..length]);
        let content = &bytes[skip.min(length)..length];
        let (Some(pair), Some(tells)) = (Pair::new(guest, remote.ip()), Pair::new(from, guest))
        else {
            continue;
        };
        let mut header = Header::new(Offer::Whole);
        header.push_ip(pair, protocol, start.len() + content.len(), None);
        let mut quoted = header.packet().to_vec();
        quoted.extend(start);
        quoted.extend(content);
        shared.link.write_error(tells, reason, &quoted);
    }
    fits
}

/// An error of the queue in ICMP's words.
pub(super) fn told(found: &SocketError) -> Option<Reason> {
    match found.icmp {
        Some((kind, code)) => {
            let too_big = if found.destination.is_ipv6() {
                kind == 2
            } else {
                (kind, code) == (3, 4)
            };
            let info = if too_big { found.info } else { 0 };
            Some(Reason::Told(kind, code, info))
        }
        None => reason(Errno::from_raw_os_error(found.number)),
    }
}

/// ICMP's number among the protocols of that pair's family.
pub(super) fn icmp_of(v6: bool) -> u8 {
    if v6 { ICMPV6 } else { ICMP }
}
