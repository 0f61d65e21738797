//! Ids of containers, exec sessions and networks: 64 lowercase hexadecimal digits.
//!
//! A container's id is kept as its digits, inline and `Copy`: it is printed and compared far more
//! often than it is made. The first twelve digits are the id that people see and the container's
//! default hostname; a purely numeric hostname confuses programs, so such ids are not given out.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::digest::to_hex;

/// Number of digits in the short form.
pub const SHORT: usize = 12;

/// A container's id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId([u8; 64]);

/// A string that is not 64 lowercase hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid container id: {0:?}")]
pub struct IdError(String);

impl ContainerId {
    /// Makes a new id.
    pub fn random() -> Self {
        let digits = random_hex();
        let mut bytes = [b'0'; 64];
        bytes.copy_from_slice(digits.as_bytes());
        Self(bytes)
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        // Only ASCII digits get in, so the empty string is never seen.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The first twelve digits.
    pub fn short(&self) -> &str {
        self.as_str().get(..SHORT).unwrap_or_default()
    }
}

/// Makes 64 random hexadecimal digits, the id of anything; never with a numeric short form.
pub fn random_hex() -> String {
    loop {
        let mut bytes = [0; 32];
        if getrandom::fill(&mut bytes).is_err() {
            // getrandom(2) cannot fail after boot with a buffer this small; should it, the hash
            // of the time and the stack's address is still unique on this machine.
            let here = std::ptr::from_ref(&bytes).addr();
            let now = super::timestamp::Timestamp::now();
            bytes = Sha256::digest(format!("{now}{here}")).into();
        }
        let digits = to_hex(&bytes);
        if digits.bytes().take(SHORT).any(|digit| digit > b'9') {
            return digits;
        }
    }
}

impl FromStr for ContainerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.as_bytes().try_into() {
            Ok(bytes) if text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) => {
                Ok(Self(bytes))
            }
            _ => Err(IdError(text.to_owned())),
        }
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl AsRef<str> for ContainerId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

super::serde_as_string!(ContainerId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_read_back_and_differ() {
        let id = ContainerId::random();
        assert_eq!(id.as_str().parse(), Ok(id));
        assert_eq!(id.short().len(), SHORT);
        assert!(id.short().parse::<u64>().is_err());
        assert_ne!(id, ContainerId::random());
    }

    #[test]
    fn refuses() {
        for text in ["", "abc", &"A".repeat(64), &"0".repeat(65), &"é".repeat(32)] {
            assert!(text.parse::<ContainerId>().is_err(), "{text}");
        }
    }
}
