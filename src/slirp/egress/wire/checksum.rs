//! The Internet checksum (RFC 1071): the ones' complement of the ones' complement sum of 16-bit
//! words, which comes out right in either byte order as long as one is kept to.

/// Adds `bytes` to a running sum; an odd last byte is padded with zero, so only the last part of
/// a message may be odd.
#[must_use]
pub fn add(mut sum: u64, bytes: &[u8]) -> u64 {
    // Four bytes at a time into 64 bits: 2^32 of them fit, and no packet has so many.
    let mut fours = bytes.chunks_exact(4);
    for four in &mut fours {
        if let Ok(four) = four.try_into() {
            sum += u64::from(u32::from_ne_bytes(four));
        }
    }
    let mut twos = fours.remainder().chunks_exact(2);
    for two in &mut twos {
        if let Ok(two) = two.try_into() {
            sum += u64::from(u16::from_ne_bytes(two));
        }
    }
    if let [last] = twos.remainder() {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

/// The sum folded to its two bytes as they stand on the wire, not complemented.
#[must_use]
pub fn fold(mut sum: u64) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (sum as u16).to_ne_bytes()
}

/// The checksum of what was summed.
#[must_use]
pub fn finish(sum: u64) -> [u8; 2] {
    let [a, b] = fold(sum);
    [!a, !b]
}

/// Whether a sum that took in the checksum too is that of an undamaged message.
#[must_use]
pub fn holds(sum: u64) -> bool {
    fold(sum) == [0xff, 0xff]
}
