//! The headers of a packet that we send, built in place; the payload is written after them without
//! being copied.

use super::vnet::{self, Offer};

/// Room for the kernel's header, IPv6 with a fragment header, and TCP with its options.
const ROOM: usize = vnet::LEN + 48 + 60;

/// The headers of one packet, from the kernel's own to the transport's.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    bytes: [u8; ROOM],
    len: usize,
}

impl Header {
    /// Headers that so far leave `offer` to the kernel.
    #[must_use]
    pub fn new(offer: Offer) -> Self {
        let mut header = Self {
            bytes: [0; ROOM],
            len: 0,
        };
        header.push(&vnet::build(offer));
        header
    }

    /// Appends a header. What has no room is left off; nothing that is built here comes near.
    pub fn push(&mut self, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    /// All of it, to be written before the payload.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// What follows the kernel's header: the packet's own.
    #[must_use]
    pub fn packet(&self) -> &[u8] {
        &self.bytes[vnet::LEN.min(self.len)..self.len]
    }
}
