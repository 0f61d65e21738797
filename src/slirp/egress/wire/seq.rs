//! TCP's sequence numbers (RFC 9293, 3.4): modulo 2^32, compared by their distance.

use std::ops::{Add, AddAssign, Sub};

/// A sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seq(pub u32);

impl Add<u32> for Seq {
    type Output = Seq;
    fn add(self, bytes: u32) -> Seq {
        Seq(self.0.wrapping_add(bytes))
    }
}

impl AddAssign<u32> for Seq {
    fn add_assign(&mut self, bytes: u32) {
        *self = *self + bytes;
    }
}

impl Sub<u32> for Seq {
    type Output = Seq;
    fn sub(self, bytes: u32) -> Seq {
        Seq(self.0.wrapping_sub(bytes))
    }
}

/// How far `self` is behind `other`, negative where it comes before it.
impl Sub for Seq {
    type Output = i32;
    fn sub(self, other: Seq) -> i32 {
        self.0.wrapping_sub(other.0).cast_signed()
    }
}

impl Seq {
    /// Whether this one comes before `other`.
    #[must_use]
    pub fn before(self, other: Seq) -> bool {
        self - other < 0
    }

    /// Bytes from `start` up to here; 0 where this one comes before it.
    #[must_use]
    pub fn since(self, start: Seq) -> u32 {
        u32::try_from(self - start).unwrap_or(0)
    }

    /// The later of the two.
    #[must_use]
    pub fn max(self, other: Seq) -> Seq {
        if self.before(other) { other } else { self }
    }
}
