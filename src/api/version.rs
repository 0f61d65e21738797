//! Versions of the API: `1.41`.
//!
//! A client names one in the path (`/v1.41/…`); without one the newest is meant.

use std::fmt;
use std::str::FromStr;

/// A version of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Always 1 so far.
    pub major: u16,
    /// The number after the point.
    pub minor: u16,
}

/// A text that is no version, `N.N`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid API version: {0}")]
pub struct VersionError(String);

impl ApiVersion {
    /// The oldest version that is spoken.
    pub const MIN: Self = Self::new(1, 22);
    /// The newest, and the one meant by paths without a version.
    pub const MAX: Self = Self::new(1, 55);

    /// Makes a version.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// Whether this is version 1.`minor` or newer.
    pub fn at_least(self, minor: u16) -> bool {
        self >= Self::new(1, minor)
    }

    /// Whether this is older than version 1.`minor`.
    pub fn before(self, minor: u16) -> bool {
        !self.at_least(minor)
    }
}

impl Default for ApiVersion {
    fn default() -> Self {
        Self::MAX
    }
}

impl FromStr for ApiVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let number = |digits: &str| {
            (!digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()))
                .then(|| digits.parse().ok())
                .flatten()
        };
        text.split_once('.')
            .and_then(|(major, minor)| Some(Self::new(number(major)?, number(minor)?)))
            .ok_or_else(|| VersionError(text.to_owned()))
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

crate::types::serde_as_string!(ApiVersion);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_two_numbers() {
        assert_eq!("1.41".parse(), Ok(ApiVersion::new(1, 41)));
        for text in ["1", "1.+2", "1.", ".1", "1.2.3", ""] {
            assert_eq!(
                text.parse::<ApiVersion>(),
                Err(VersionError(text.to_owned()))
            );
        }
        // Numbers compare as numbers, not as text.
        assert!(ApiVersion::new(1, 9) < ApiVersion::MIN);
        assert!(ApiVersion::MAX.at_least(55) && ApiVersion::MAX.before(56));
    }
}
