//! IPv4 (RFC 791) and IPv6 with its extension headers (RFC 8200).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::header::Header;
use super::{checksum, u16_at, u32_at};

/// Protocol numbers (IANA).
pub const ICMP: u8 = 1;
/// Transmission Control Protocol.
pub const TCP: u8 = 6;
/// User Datagram Protocol.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// More extension headers than any honest packet has.
const MOST_EXTENSIONS: usize = 8;

/// The hop limit of what we send: it has two routers to cross at most.
pub const HOP_LIMIT: u8 = 64;

/// Source and destination of a packet, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pair {
    /// IPv4.
    V4(Ipv4Addr, Ipv4Addr),
    /// IPv6.
    V6(Ipv6Addr, Ipv6Addr),
}

impl Pair {
    /// A pair of two addresses; none where their families differ.
    #[must_use]
    pub fn new(source: IpAddr, destination: IpAddr) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Self::V4(source, destination)),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Self::V6(source, destination)),
            _ => None,
        }
    }

    /// Who sends.
    #[must_use]
    pub fn source(self) -> IpAddr {
        match self {
            Self::V4(source, _) => source.into(),
            Self::V6(source, _) => source.into(),
        }
    }

    /// Who receives.
    #[must_use]
    pub fn destination(self) -> IpAddr {
        match self {
            Self::V4(_, destination) => destination.into(),
            Self::V6(_, destination) => destination.into(),
        }
    }

    /// The pair of what is sent back.
    #[must_use]
    pub fn reversed(self) -> Self {
        match self {
            Self::V4(source, destination) => Self::V4(destination, source),
            Self::V6(source, destination) => Self::V6(destination, source),
        }
    }

    /// Whether it is IPv6.
    #[must_use]
    pub fn is_v6(self) -> bool {
        matches!(self, Self::V6(..))
    }

    /// Length of the plain IP header.
    #[must_use]
    pub fn header_len(self) -> u16 {
        if self.is_v6() { 40 } else { 20 }
    }

    /// The sum of the pseudo-header (RFC 9293 3.1, RFC 8200 8.1).
    #[must_use]
    pub fn pseudo_sum(self, protocol: u8, length: usize) -> u64 {
        let sum = match self {
            Self::V4(source, destination) => {
                checksum::add(checksum::add(0, &source.octets()), &destination.octets())
            }
            Self::V6(source, destination) => {
                checksum::add(checksum::add(0, &source.octets()), &destination.octets())
            }
        };
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        checksum::add(checksum::add(sum, &length), &[0, protocol])
    }

    /// Whether a transport message with its checksum in place is undamaged.
    #[must_use]
    pub fn verifies(self, protocol: u8, message: &[u8]) -> bool {
        checksum::holds(checksum::add(
            self.pseudo_sum(protocol, message.len()),
            message,
        ))
    }
}

/// A packet's place in the datagram that it is a fragment of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// What all fragments of one datagram share.
    pub id: u32,
    /// Where in the datagram's payload it belongs.
    pub offset: usize,
    /// Whether others follow.
    pub more: bool,
}

/// An IP packet of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// From whom to whom.
    pub pair: Pair,
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    /// IPv4's flag; always true for IPv6, whose routers never fragment.
    pub dont_fragment: bool,
    /// Where it is only a part of a datagram.
    pub fragment: Option<Fragment>,
    /// Protocol of the payload.
    pub protocol: u8,
    /// What follows the IP headers.
    pub payload: &'a [u8],
}

/// Reads a packet; bytes after its stated length are left off, as link layers may pad.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Packet<'_>> {
    match bytes.first()? >> 4 {
        4 => parse_v4(bytes),
        6 => parse_v6(bytes),
        _ => None,
    }
}

/// As [`parse`], for the beginning of a packet that an ICMP error quotes: it may be cut short.
#[must_use]
pub fn parse_quoted(bytes: &[u8]) -> Option<(Pair, u8, &[u8])> {
    if bytes.first()? >> 4 == 4 {
        let header = usize::from(bytes.first()? & 15) * 4;
        let pair = Pair::V4(v4_at(bytes, 12)?, v4_at(bytes, 16)?);
        return Some((pair, *bytes.get(9)?, bytes.get(header.max(20)..)?));
    }
    let pair = Pair::V6(v6_at(bytes, 8)?, v6_at(bytes, 24)?);
    Some((pair, *bytes.get(6)?, bytes.get(40..)?))
}

fn v4_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    u32_at(bytes, at).map(Ipv4Addr::from)
}

fn v6_at(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(octets.into())
}

fn parse_v4(bytes: &[u8]) -> Option<Packet<'_>> {
    let header = usize::from(bytes.first()? & 15) * 4;
    let total = usize::from(u16_at(bytes, 2)?);
    if header < 20 || !checksum::holds(checksum::add(0, bytes.get(..header)?)) {
        return None;
    }
    let payload = bytes.get(header..total)?;
    let flags = u16_at(bytes, 6)?;
    let more = flags & 0x2000 != 0;
    let offset = usize::from(flags & 0x1fff) * 8;
    Some(Packet {
        pair: Pair::V4(v4_at(bytes, 12)?, v4_at(bytes, 16)?),
        hop_limit: *bytes.get(8)?,
        dont_fragment: flags & 0x4000 != 0,
        fragment: (more || offset > 0).then_some(Fragment {
            id: u16_at(bytes, 4)?.into(),
            offset,
            more,
        }),
        protocol: *bytes.get(9)?,
        payload,
    })
}

fn parse_v6(bytes: &[u8]) -> Option<Packet<'_>> {
    let mut payload = bytes.get(40..)?;
    payload = payload.get(..usize::from(u16_at(bytes, 4)?))?;
    let mut protocol = *bytes.get(6)?;
    let mut fragment = None;
    for _ in 0..MOST_EXTENSIONS {
        match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let length = (usize::from(*payload.get(1)?) + 1) * 8;
                protocol = *payload.first()?;
                payload = payload.get(length..)?;
            }
            FRAGMENT => {
                let place = u16_at(payload, 2)?;
                let (offset, more) = (usize::from(place & !7), place & 1 != 0);
                let id = u32_at(payload, 4)?;
                protocol = *payload.first()?;
                payload = payload.get(8..)?;
                // An atomic fragment is a whole datagram (RFC 6946).
                if more || offset > 0 {
                    fragment = Some(Fragment { id, offset, more });
                    break;
                }
            }
            _ => break,
        }
    }
    Some(Packet {
        pair: Pair::V6(v6_at(bytes, 8)?, v6_at(bytes, 24)?),
        hop_limit: *bytes.get(7)?,
        dont_fragment: true,
        fragment,
        protocol,
        payload,
    })
}

impl Header {
    /// Appends the IP header of a packet with so many bytes behind it. It may be cut on its way
    /// only where it says which fragment it is.
    pub fn push_ip(&mut self, pair: Pair, protocol: u8, length: usize, fragment: Option<Fragment>) {
        match pair {
            Pair::V4(source, destination) => {
                let mut bytes = [0; 20];
                bytes[0] = 0x45;
                // Zero says that the kernel knows better, for it has the whole packet (Linux 6.3).
                let total = u16::try_from(length + 20).unwrap_or(0);
                bytes[2..4].copy_from_slice(&total.to_be_bytes());
                // An id is needed by fragments alone (RFC 6864).
                let (id, place) = match fragment {
                    Some(part) => (
                        part.id as u16,
                        (part.offset / 8) as u16 | if part.more { 0x2000 } else { 0 },
                    ),
                    None => (0, 0x4000),
                };
                bytes[4..6].copy_from_slice(&id.to_be_bytes());
                bytes[6..8].copy_from_slice(&place.to_be_bytes());
                bytes[8] = HOP_LIMIT;
                bytes[9] = protocol;
                bytes[12..16].copy_from_slice(&source.octets());
                bytes[16..20].copy_from_slice(&destination.octets());
                let sum = checksum::finish(checksum::add(0, &bytes));
                bytes[10..12].copy_from_slice(&sum);
                self.push(&bytes);
            }
            Pair::V6(source, destination) => {
                let extension = if fragment.is_some() { 8 } else { 0 };
                let mut bytes = [0; 40];
                bytes[0] = 0x60;
                let total = u16::try_from(length + extension).unwrap_or(u16::MAX);
                bytes[4..6].copy_from_slice(&total.to_be_bytes());
                bytes[6] = if fragment.is_some() {
                    FRAGMENT
                } else {
                    protocol
                };
                bytes[7] = HOP_LIMIT;
                bytes[8..24].copy_from_slice(&source.octets());
                bytes[24..40].copy_from_slice(&destination.octets());
                self.push(&bytes);
                if let Some(part) = fragment {
                    let mut bytes = [0; 8];
                    bytes[0] = protocol;
                    let place = part.offset as u16 & !7 | u16::from(part.more);
                    bytes[2..4].copy_from_slice(&place.to_be_bytes());
                    bytes[4..8].copy_from_slice(&part.id.to_be_bytes());
                    self.push(&bytes);
                }
            }
        }
    }
}
