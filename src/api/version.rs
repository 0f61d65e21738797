//! Versions of the API: `1.41`.
//!
//! A client names one in the path (`/v1.41/…`); without one the newest is meant. What is too new or
//! too old is refused with 400 and the sentences that docker's own clients know.

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

/// Why a version is not spoken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Older than [`ApiVersion::MIN`].
    #[error(
        "client version {0} is too old. Minimum supported API version is {min}, please upgrade your \
         client to a newer version",
        min = ApiVersion::MIN
    )]
    TooOld(ApiVersion),
    /// Newer than [`ApiVersion::MAX`].
    #[error("client version {0} is too new. Maximum supported API version is {max}", max = ApiVersion::MAX)]
    TooNew(ApiVersion),
    /// Not `N.N`.
    #[error("invalid API version: {0}")]
    Invalid(String),
}

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

    /// Parses a version and checks that it is spoken.
    pub fn accept(text: &str) -> Result<Self, VersionError> {
        let version: Self = text.parse()?;
        if version < Self::MIN {
            Err(VersionError::TooOld(version))
        } else if version > Self::MAX {
            Err(VersionError::TooNew(version))
        } else {
            Ok(version)
        }
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
            .ok_or_else(|| VersionError::Invalid(text.to_owned()))
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
    fn accepts_and_refuses() {
        assert_eq!(ApiVersion::accept("1.41"), Ok(ApiVersion::new(1, 41)));
        for (text, message) in [
            (
                "1.21",
                "client version 1.21 is too old. Minimum supported API version is 1.22, please \
                 upgrade your client to a newer version",
            ),
            (
                "1.56",
                "client version 1.56 is too new. Maximum supported API version is 1.55",
            ),
            ("1", "invalid API version: 1"),
            ("1.+2", "invalid API version: 1.+2"),
        ] {
            let error = ApiVersion::accept(text).map_err(|e| e.to_string());
            assert_eq!(error, Err(message.to_owned()));
        }
        // Numbers compare as numbers, not as text.
        assert!(ApiVersion::new(1, 9) < ApiVersion::MIN);
        assert!(ApiVersion::MAX.at_least(55) && ApiVersion::MAX.before(56));
    }
}
