//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, and errors that quote what they are about.

use super::header::Header;
use super::ip::{ICMP, ICMPV6, Pair};
use super::vnet::Offer;
use super::{checksum, u16_at, u32_at};

/// An echo request as received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EchoRequest<'a> {
    /// The asking program's number.
    pub id: u16,
    /// The whole message.
    pub message: &'a [u8],
}

/// A router's word that a packet to the container was too big.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooBig<'a> {
    /// What would have fitted, in bytes of IP packet.
    pub mtu: u32,
    /// The beginning of the packet.
    pub quoted: &'a [u8],
}

/// What of ICMP matters to the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A ping.
    Echo(EchoRequest<'a>),
    /// A smaller path.
    TooBig(TooBig<'a>),
}

/// Reads a message; none where it is damaged or of no matter.
#[must_use]
pub fn parse(pair: Pair, bytes: &[u8]) -> Option<Message<'_>> {
    let sum = if pair.is_v6() {
        pair.pseudo_sum(ICMPV6, bytes.len())
    } else {
        0
    };
    if !checksum::holds(checksum::add(sum, bytes)) {
        return None;
    }
    let quoted = bytes.get(8..)?;
    match (pair.is_v6(), bytes[0], bytes[1]) {
        (false, 8, 0) | (true, 128, 0) => Some(Message::Echo(EchoRequest {
            id: u16_at(bytes, 4)?,
            message: bytes,
        })),
        (false, 3, 4) => Some(Message::TooBig(TooBig {
            mtu: u16_at(bytes, 6)?.into(),
            quoted,
        })),
        (true, 2, 0) => Some(Message::TooBig(TooBig {
            mtu: u32_at(bytes, 4)?,
            quoted,
        })),
        _ => None,
    }
}

/// Puts another id into an echo message, and its checksum right.
pub fn set_id(pair: Pair, message: &mut [u8], id: u16) {
    if message.len() < 8 {
        return;
    }
    message[4..6].copy_from_slice(&id.to_be_bytes());
    finish(pair, message);
}

fn finish(pair: Pair, message: &mut [u8]) {
    message[2..4].fill(0);
    let sum = if pair.is_v6() {
        pair.pseudo_sum(ICMPV6, message.len())
    } else {
        0
    };
    let sum = checksum::finish(checksum::add(sum, message));
    message[2..4].copy_from_slice(&sum);
}

/// ICMP's number among IP's protocols.
#[must_use]
pub fn protocol(pair: Pair) -> u8 {
    if pair.is_v6() { ICMPV6 } else { ICMP }
}

/// Builds the IP header of a message.
#[must_use]
pub fn build(pair: Pair, length: usize) -> Header {
    let mut built = Header::new(Offer::Whole);
    built.push_ip(pair, protocol(pair), length, None);
    built
}

/// Why a packet did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No route.
    Network,
    /// A route, and nobody there.
    Host,
    /// Nobody listens.
    Port,
    /// It is not allowed.
    Prohibited,
    /// It is larger than so many bytes.
    TooBig(u32),
    /// As another router or host said it, in its family's own numbers: type, code, and the four
    /// bytes after the checksum.
    Told(u8, u8, u32),
}

/// Most of a quoted packet that an error carries: with its own headers it stays below what every
/// link takes (RFC 1812 4.3.2.3: 576 bytes; RFC 4443 2.4: 1280).
pub fn most_quoted(pair: Pair) -> usize {
    if pair.is_v6() { 1232 } else { 548 }
}

/// Builds the message of an error about a packet that began with `quoted`, into `room`; gives how
/// long it is.
pub fn error(pair: Pair, reason: Reason, quoted: &[u8], room: &mut [u8; 1280]) -> usize {
    let v6 = pair.is_v6();
    let (kind, code, info) = match reason {
        Reason::Network => (if v6 { 1 } else { 3 }, 0, 0),
        Reason::Host => (if v6 { 1 } else { 3 }, if v6 { 3 } else { 1 }, 0),
        Reason::Port => (if v6 { 1 } else { 3 }, if v6 { 4 } else { 3 }, 0),
        Reason::Prohibited => (if v6 { 1 } else { 3 }, if v6 { 1 } else { 13 }, 0),
        Reason::TooBig(mtu) => (if v6 { 2 } else { 3 }, if v6 { 0 } else { 4 }, mtu),
        Reason::Told(kind, code, info) => (kind, code, info),
    };
    let quoted = &quoted[..quoted.len().min(most_quoted(pair))];
    let length = 8 + quoted.len();
    let message = &mut room[..length];
    message[..4].copy_from_slice(&[kind, code, 0, 0]);
    message[4..8].copy_from_slice(&info.to_be_bytes());
    message[8..].copy_from_slice(quoted);
    finish(pair, message);
    length
}
