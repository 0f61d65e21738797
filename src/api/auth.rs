//! Credentials for registries: the body of `POST /auth` and what `X-Registry-Auth` holds: the
//! same as JSON in base64 of the alphabet for URLs.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};

/// Credentials. `Debug` does not show the secrets, so that no log ever does.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", default)]
pub struct AuthConfig {
    /// User.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Password.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password: String,
    /// `user:password` in base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth: String,
    /// The registry.
    #[serde(rename = "serveraddress", skip_serializing_if = "String::is_empty")]
    pub server_address: String,
    /// A token that stands for user and password.
    #[serde(rename = "identitytoken", skip_serializing_if = "String::is_empty")]
    pub identity_token: String,
    /// A bearer token to send as it is.
    #[serde(rename = "registrytoken", skip_serializing_if = "String::is_empty")]
    pub registry_token: String,
}

/// `X-Registry-Auth`'s base64; some clients leave the padding out.
const HEADER: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl AuthConfig {
    /// Reads `X-Registry-Auth`. What cannot be read is no credentials, as in Docker.
    pub fn from_header(value: &[u8]) -> Self {
        let json = HEADER.decode(value).unwrap_or_default();
        serde_json::from_slice(&json).unwrap_or_default()
    }

    /// The value of `X-Registry-Auth`.
    pub fn to_header(&self) -> String {
        // A struct of strings always serialises.
        HEADER.encode(serde_json::to_vec(self).unwrap_or_default())
    }
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// Answer to `POST /auth`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AuthResponse {
    /// A token to keep in the password's place.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identity_token: String,
    /// `Login Succeeded`.
    pub status: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_far_as_they_can_be() {
        // {"username":"a","password":">>>???"}
        let read = AuthConfig::from_header(b"eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6Ij4-Pj8_PyJ9");
        assert_eq!((&*read.username, &*read.password), ("a", ">>>???"));
        assert_eq!(AuthConfig::from_header(b"e30="), AuthConfig::default());
        assert_eq!(AuthConfig::from_header(b"e30"), AuthConfig::default());
        let sent = AuthConfig {
            username: "a".into(),
            password: ">>>???".into(),
            ..AuthConfig::default()
        };
        assert_eq!(AuthConfig::from_header(sent.to_header().as_bytes()), sent);
        assert_eq!(AuthConfig::default().to_header(), "e30=");
        for nothing in [&b""[..], b"!", b"AAAA", b"\xff"] {
            assert_eq!(AuthConfig::from_header(nothing), AuthConfig::default());
        }
    }
}
