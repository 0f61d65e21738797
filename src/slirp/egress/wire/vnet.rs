//! `virtio_net_hdr` (linux/virtio_net.h, 10 bytes, the machine's byte order): what the kernel left
//! open in a packet that it gives us, and what we leave open in one that we give to it.

/// The header's length: what a TUN device uses unless told otherwise.
pub const LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// May be added to either TCP kind.
const GSO_ECN: u8 = 0x80;

/// What stands in the header of a packet from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    /// The transport checksum is not there yet, or was checked: either way the packet never left
    /// the machine, and there is nothing to verify.
    pub trusted: bool,
    /// The packet stands for several, each with so many bytes of payload but the last.
    pub segment: Option<u16>,
}

/// Splits what was read into the kernel's header and the packet.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<(Offload, &[u8])> {
    let (header, packet) = bytes.split_at_checked(LEN)?;
    let kind = header[1] & !GSO_ECN;
    let size = u16::from_ne_bytes([header[4], header[5]]);
    let segment = match kind {
        GSO_NONE => None,
        GSO_TCPV4 | GSO_TCPV6 | GSO_UDP_L4 if size > 0 => Some(size),
        // Nothing else was asked for.
        _ => return None,
    };
    let offload = Offload {
        trusted: header[0] & (NEEDS_CSUM | DATA_VALID) != 0,
        segment,
    };
    Some((offload, packet))
}

/// What a packet to the kernel leaves for it to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Nothing: every checksum is in place.
    Whole,
    /// The transport checksum, where it begins and where in it the two bytes are.
    Checksum {
        /// Length of the headers before.
        start: u16,
        /// Place of the checksum in the transport header.
        offset: u16,
    },
    /// That, and to cut a TCP segment.
    Tcp {
        /// As above.
        start: u16,
        /// Of the whole headers.
        headers: u16,
        /// Payload of each segment.
        size: u16,
        /// Whether the segments are IPv6.
        v6: bool,
    },
    /// That, and to cut a run of UDP datagrams.
    Udp {
        /// As above.
        start: u16,
        /// Payload of each datagram.
        size: u16,
    },
}

/// The header's bytes.
#[must_use]
pub fn build(offer: Offer) -> [u8; LEN] {
    let (flags, kind, headers, size, start, offset) = match offer {
        Offer::Whole => (0, GSO_NONE, 0, 0, 0, 0),
        Offer::Checksum { start, offset } => (NEEDS_CSUM, GSO_NONE, 0, 0, start, offset),
        Offer::Tcp {
            start,
            headers,
            size,
            v6,
        } => {
            let kind = if v6 { GSO_TCPV6 } else { GSO_TCPV4 };
            (NEEDS_CSUM, kind, headers, size, start, 16)
        }
        Offer::Udp { start, size } => (NEEDS_CSUM, GSO_UDP_L4, start + 8, size, start, 6),
    };
    let mut bytes = [0; LEN];
    bytes[0] = flags;
    bytes[1] = kind;
    for (at, field) in [headers, size, start, offset].into_iter().enumerate() {
        bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(&u16::to_ne_bytes(field));
    }
    bytes
}
