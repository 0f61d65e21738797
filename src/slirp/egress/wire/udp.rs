//! UDP datagrams (RFC 768).

use super::header::Header;
use super::ip::{Fragment, Pair, UDP};
use super::vnet::Offer;
use super::{checksum, u16_at};

/// Length of the header.
pub const LEN: usize = 8;

/// A datagram as received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Sender's port.
    pub source: u16,
    /// Receiver's port.
    pub destination: u16,
    /// Whether the sender left the checksum out, which only IPv4 allows.
    pub unchecked: bool,
    /// The data.
    pub payload: &'a [u8],
}

/// Reads a datagram; its checksum is the caller's matter.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Datagram<'_>> {
    let length = usize::from(u16_at(bytes, 4)?);
    Some(Datagram {
        source: u16_at(bytes, 0)?,
        destination: u16_at(bytes, 2)?,
        unchecked: u16_at(bytes, 6)? == 0,
        payload: bytes.get(LEN..length)?,
    })
}

/// The header alone, with `sum` as checksum.
#[must_use]
pub fn header(source: u16, destination: u16, length: usize, sum: [u8; 2]) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[0..2].copy_from_slice(&source.to_be_bytes());
    bytes[2..4].copy_from_slice(&destination.to_be_bytes());
    let total = u16::try_from(length + LEN).unwrap_or(u16::MAX);
    bytes[4..6].copy_from_slice(&total.to_be_bytes());
    bytes[6..8].copy_from_slice(&sum);
    bytes
}

/// Builds the headers of a datagram, or with `segment` of a run of datagrams of that size.
#[must_use]
pub fn build(
    pair: Pair,
    source: u16,
    destination: u16,
    length: usize,
    segment: Option<u16>,
) -> Header {
    let start = pair.header_len();
    let offer = match segment {
        Some(size) => Offer::Udp { start, size },
        None => Offer::Checksum { start, offset: 6 },
    };
    let mut built = Header::new(offer);
    built.push_ip(pair, UDP, LEN + length, None);
    let sum = checksum::fold(pair.pseudo_sum(UDP, LEN + length));
    built.push(&header(source, destination, length, sum));
    built
}

/// The checksum of a datagram that is to be sent whole.
#[must_use]
pub fn sum(pair: Pair, source: u16, destination: u16, payload: &[u8]) -> [u8; 2] {
    let start = header(source, destination, payload.len(), [0, 0]);
    let sum = pair.pseudo_sum(UDP, LEN + payload.len());
    match checksum::finish(checksum::add(checksum::add(sum, &start), payload)) {
        // Zero would say that there is none.
        [0, 0] => [0xff, 0xff],
        sum => sum,
    }
}

/// Builds the IP header of one fragment.
#[must_use]
pub fn fragment(pair: Pair, protocol: u8, length: usize, part: Fragment) -> Header {
    let mut built = Header::new(Offer::Whole);
    built.push_ip(pair, protocol, length, Some(part));
    built
}
