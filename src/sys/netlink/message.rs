//! The form of rtnetlink messages: a header, a fixed part, attributes (netlink(7)).

use std::net::IpAddr;

/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`.
const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const DUMP: u16 = 0x300;

/// `NLM_F_REPLACE`, `NLM_F_EXCL`, `NLM_F_CREATE`.
pub const REPLACE: u16 = 0x100;
/// Refuse where it is there already.
pub const EXCLUSIVE: u16 = 0x200;
/// Make it where it is not there.
pub const CREATE: u16 = 0x400;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Marks an attribute that holds attributes.
const NESTED: u16 = 1 << 15;

/// A request being put together.
#[derive(Debug)]
pub struct Message {
    bytes: Vec<u8>,
    kind: u16,
    flags: u16,
    fixed: usize,
}

impl Message {
    /// A request of this kind with its fixed part.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(fixed);
        pad(&mut bytes);
        let fixed = bytes.len() - HEADER;
        Self {
            bytes,
            kind,
            flags,
            fixed,
        }
    }

    /// Length of the fixed part, which the answer's elements have too.
    pub(super) fn fixed(&self) -> usize {
        self.fixed
    }

    /// Adds an attribute.
    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(&mut self.bytes);
        self
    }

    /// Adds a number of 32 bits.
    #[must_use]
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds a number of 8 bits.
    #[must_use]
    pub fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    /// Adds a text with its terminating zero.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Adds an address.
    #[must_use]
    pub fn address(self, kind: u16, value: IpAddr) -> Self {
        match value {
            IpAddr::V4(address) => self.bytes(kind, &address.octets()),
            IpAddr::V6(address) => self.bytes(kind, &address.octets()),
        }
    }

    /// Adds what `fill` adds, inside an attribute.
    #[must_use]
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let mut filled = fill(self);
        let length = u16::try_from(filled.bytes.len() - start).unwrap_or(u16::MAX);
        filled.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled.bytes[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        filled
    }

    /// Adds bytes that are no attribute (the fixed part of a nested message).
    #[must_use]
    pub fn raw(mut self, value: &[u8]) -> Self {
        self.bytes.extend_from_slice(value);
        pad(&mut self.bytes);
        self
    }

    pub(super) fn finish(mut self, sequence: u32, flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[4..6].copy_from_slice(&self.kind.to_ne_bytes());
        let flags = REQUEST | flags | self.flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// What counts of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u16,
    pub(super) sequence: u32,
}

/// The messages in a datagram; one that is cut short ends them.
pub(super) fn parse(mut bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let message = bytes.get(..length)?;
        let payload = message.get(HEADER..)?;
        let header = Header {
            kind: u16_at(message, 4)?,
            sequence: u32_at(message, 8)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((header, payload))
    })
}

/// Attributes one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The first one of this kind.
    pub fn get(self, wanted: u16) -> Option<&'a [u8]> {
        let mut rest = self.0;
        loop {
            let length = usize::from(u16_at(rest, 0)?);
            let kind = u16_at(rest, 2)? & !NESTED;
            let value = rest.get(4..length)?;
            if kind == wanted {
                return Some(value);
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
    }

    /// An address.
    pub fn address(self, wanted: u16) -> Option<IpAddr> {
        let value = self.get(wanted)?;
        let four = <[u8; 4]>::try_from(value).ok().map(IpAddr::from);
        four.or_else(|| <[u8; 16]>::try_from(value).ok().map(IpAddr::from))
    }

    /// A number of 32 bits.
    pub fn u32(self, wanted: u16) -> Option<u32> {
        u32_at(self.get(wanted)?, 0)
    }

    /// A text, up to its zero.
    pub fn text(self, wanted: u16) -> Option<&'a str> {
        let value = self.get(wanted)?;
        let end = value.iter().position(|byte| *byte == 0);
        std::str::from_utf8(value.get(..end.unwrap_or(value.len()))?).ok()
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_ne_bytes)
}

/// The number of 32 bits at this place.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_ne_bytes)
}

pub(super) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    array(bytes, at).map(i32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let message = Message::new(20, CREATE, &[1, 2, 3])
            .u8(1, 7)
            .text(3, "eth0")
            .nest(5, |it| {
                it.u32(9, 0xdead_beef)
                    .address(2, "10.0.0.1".parse().unwrap())
            });
        let fixed = message.fixed();
        let bytes = message.finish(77, ACK);
        assert_eq!(bytes.len() % 4, 0);
        let messages: Vec<_> = parse(&bytes).collect();
        let (header, payload) = messages[0];
        assert_eq!((header.kind, header.sequence, messages.len()), (20, 77, 1));
        let attributes = Attributes(&payload[fixed..]);
        assert_eq!(attributes.get(1), Some(&[7][..]));
        assert_eq!(attributes.text(3), Some("eth0"));
        let inner = Attributes(attributes.get(5).unwrap());
        assert_eq!(inner.u32(9), Some(0xdead_beef));
        assert_eq!(inner.address(2).unwrap().to_string(), "10.0.0.1");
        assert_eq!(inner.get(99), None);
    }

    #[test]
    fn what_is_cut_short_ends_there() {
        let bytes = Message::new(20, 0, &[0; 4]).text(3, "name").finish(1, 0);
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end]).count(), 0);
        }
        for end in 0..bytes.len() - 20 {
            let _ = Attributes(&bytes[20..20 + end]).get(3);
        }
        // Lengths of nothing do not turn in circles.
        assert_eq!(parse(&[0; 64]).count(), 0);
        assert_eq!(Attributes(&[0; 64]).get(3), None);
    }
}
