//! TCP segments (RFC 9293), with the options that are used: maximum segment size, window scale
//! (RFC 7323) and selective acknowledgement (RFC 2018). Urgent data is ordinary data here.

use super::header::Header;
use super::ip::{Pair, TCP};
use super::seq::Seq;
use super::vnet::Offer;
use super::{checksum, u16_at, u32_at};

/// The header's flags.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// Hand over to the reader.
    pub const PSH: u8 = 8;
    /// The acknowledgement counts.
    pub const ACK: u8 = 16;
}

/// The segment size of a peer that states none (RFC 9293, 3.7.1); its IPv6 twin is 1220, and
/// nothing below makes sense on a link whose MTU is 1280 or more.
pub const DEFAULT_MSS: u16 = 536;

/// The largest shift (RFC 7323, 2.3).
const MOST_SCALE: u8 = 14;

/// Options of a SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Shift of the sender's windows.
    pub scale: Option<u8>,
    /// Whether selective acknowledgements are welcome.
    pub sack: bool,
}

/// A segment as received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Sender's port.
    pub source: u16,
    /// Receiver's port.
    pub destination: u16,
    /// Of the first byte.
    pub seq: Seq,
    /// What the sender expects next; counts with [`flags::ACK`].
    pub ack: Seq,
    /// [`flags`].
    pub flags: u8,
    /// Unscaled.
    pub window: u16,
    /// The option bytes.
    options: &'a [u8],
    /// The data.
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// Whether a flag is set.
    #[must_use]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Sequence numbers that it takes up.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.payload.len() as u32
            + u32::from(self.has(flags::SYN))
            + u32::from(self.has(flags::FIN))
    }

    /// Whether it takes up none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The options; unknown and broken ones are passed over.
    #[must_use]
    pub fn options(&self) -> Options {
        let mut found = Options::default();
        let mut rest = self.options;
        while let [kind, tail @ ..] = rest {
            match kind {
                0 => break,
                1 => {
                    rest = tail;
                    continue;
                }
                _ => {}
            }
            let Some(length) = tail.first().map(|&length| usize::from(length)) else {
                break;
            };
            let Some(value) = rest.get(2..length) else {
                break;
            };
            match (kind, value) {
                (2, &[a, b]) => found.mss = Some(u16::from_be_bytes([a, b])),
                (3, &[shift]) => found.scale = Some(shift.min(MOST_SCALE)),
                (4, []) => found.sack = true,
                _ => {}
            }
            rest = &rest[length..];
        }
        found
    }
}

/// Reads a segment; its checksum is the caller's matter.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Segment<'_>> {
    let header = usize::from(*bytes.get(12)? >> 4) * 4;
    Some(Segment {
        source: u16_at(bytes, 0)?,
        destination: u16_at(bytes, 2)?,
        seq: Seq(u32_at(bytes, 4)?),
        ack: Seq(u32_at(bytes, 8)?),
        flags: *bytes.get(13)?,
        window: u16_at(bytes, 14)?,
        options: bytes.get(20..header)?,
        payload: bytes.get(header..)?,
    })
}

/// What a segment of ours says.
#[derive(Debug, Clone, Copy)]
pub struct Spoken<'a> {
    /// Sender's port.
    pub source: u16,
    /// Receiver's port.
    pub destination: u16,
    /// Of the first byte.
    pub seq: Seq,
    /// What we expect next.
    pub ack: Seq,
    /// [`flags`].
    pub flags: u8,
    /// Unscaled.
    pub window: u16,
    /// In a SYN.
    pub options: Options,
    /// What arrived out of order: first and past the last, four at most.
    pub sack: &'a [(Seq, Seq)],
}

/// Builds the headers of a segment with so many bytes behind it, which the kernel is to cut to
/// segments of `mss` bytes where they are more.
#[must_use]
pub fn build(pair: Pair, spoken: &Spoken<'_>, length: usize, mss: u16) -> Header {
    let mut options = [0_u8; 40];
    let mut end = 0;
    let mut option = |bytes: &[u8]| {
        options[end..end + bytes.len()].copy_from_slice(bytes);
        end += bytes.len();
    };
    if let Some(mss) = spoken.options.mss {
        let [a, b] = mss.to_be_bytes();
        option(&[2, 4, a, b]);
    }
    if let Some(shift) = spoken.options.scale {
        option(&[1, 3, 3, shift]);
    }
    if spoken.options.sack {
        option(&[1, 1, 4, 2]);
    }
    let blocks = &spoken.sack[..spoken.sack.len().min(4)];
    if !blocks.is_empty() {
        option(&[1, 1, 5, 2 + 8 * blocks.len() as u8]);
        for (start, past) in blocks {
            option(&start.0.to_be_bytes());
            option(&past.0.to_be_bytes());
        }
    }
    let start = pair.header_len();
    let headers = start + 20 + end as u16;
    let message = 20 + end + length;
    let offer = if length > usize::from(mss) {
        Offer::Tcp {
            start,
            headers,
            size: mss,
            v6: pair.is_v6(),
        }
    } else {
        Offer::Checksum { start, offset: 16 }
    };
    let mut header = Header::new(offer);
    header.push_ip(pair, TCP, message, None);
    let mut bytes = [0; 20];
    bytes[0..2].copy_from_slice(&spoken.source.to_be_bytes());
    bytes[2..4].copy_from_slice(&spoken.destination.to_be_bytes());
    bytes[4..8].copy_from_slice(&spoken.seq.0.to_be_bytes());
    bytes[8..12].copy_from_slice(&spoken.ack.0.to_be_bytes());
    bytes[12] = (((20 + end) / 4) << 4) as u8;
    bytes[13] = spoken.flags;
    bytes[14..16].copy_from_slice(&spoken.window.to_be_bytes());
    bytes[16..18].copy_from_slice(&checksum::fold(pair.pseudo_sum(TCP, message)));
    header.push(&bytes);
    header.push(&options[..end]);
    header
}
