//! Packets as they cross the TUN device: parsing and building, pure.
//!
//! Parsing is total: any bytes give a packet or `None`, never a panic, and what a view returns
//! lies inside what was given. Building knows only what the way out sends. The layers are those of
//! the wire: [`vnet`] (the kernel's header that says what is left to be done), [`ip`], and above
//! it [`tcp`], [`udp`] and [`icmp`]; [`checksum`] serves all, [`seq`] is TCP's arithmetic.

pub mod checksum;
pub mod header;
pub mod icmp;
pub mod ip;
pub mod seq;
pub mod tcp;
pub mod udp;
pub mod vnet;

#[cfg(test)]
mod tests;

/// Two bytes at `at`, in network order.
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(two.try_into().ok()?))
}

/// Four bytes at `at`, in network order.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}
