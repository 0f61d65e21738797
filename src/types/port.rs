//! Ports as images expose them and people publish them: `80`, `80/tcp`, `53/udp`.

use std::fmt;
use std::str::FromStr;

/// Transport protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// `tcp`, where none is named.
    #[default]
    Tcp,
    /// `udp`.
    Udp,
    /// `sctp`.
    Sctp,
}

/// A port of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// The port's number.
    pub number: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// Why a string is no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The number is none, or beyond 65535.
    #[error("invalid containerPort: {0}")]
    Number(String),
    /// The protocol is unknown.
    #[error("invalid proto: {0}")]
    Protocol(String),
    /// A range runs backwards or is none.
    #[error("invalid range format for containerPort: {0}")]
    Range(String),
}

impl Port {
    /// Parses `N[/proto]` or `N-M[/proto]` into the ports it stands for.
    pub fn parse_range(text: &str) -> Result<Vec<Self>, PortError> {
        let (numbers, protocol) = split(text)?;
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let (first, last) = (number(first, text)?, number(last, text)?);
        if last < first {
            return Err(PortError::Range(text.to_owned()));
        }
        Ok((first..=last)
            .map(|number| Self { number, protocol })
            .collect())
    }
}

fn split(text: &str) -> Result<(&str, Protocol), PortError> {
    match text.split_once('/') {
        Some((numbers, protocol)) => Ok((numbers, protocol.parse()?)),
        None => Ok((text, Protocol::Tcp)),
    }
}

fn number(digits: &str, whole: &str) -> Result<u16, PortError> {
    // `u16::from_str` takes a sign, Go's ParseUint does not.
    Some(digits)
        .filter(|digits| digits.bytes().all(|c| c.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| PortError::Number(whole.to_owned()))
}

impl FromStr for Port {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let (digits, protocol) = split(text)?;
        Ok(Self {
            number: number(digits, text)?,
            protocol,
        })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl FromStr for Protocol {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        match text.to_ascii_lowercase().as_str() {
            // Docker reads `80/` as `80/tcp`.
            "" | "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(PortError::Protocol(text.to_owned())),
        }
    }
}

impl Protocol {
    /// The protocol's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

super::serde_as_string!(Port);
super::serde_as_string!(Protocol);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        for (text, printed) in [
            ("80", "80/tcp"),
            ("80/", "80/tcp"),
            ("80/TCP", "80/tcp"),
            ("53/udp", "53/udp"),
            ("0/sctp", "0/sctp"),
            ("65535", "65535/tcp"),
        ] {
            assert_eq!(
                text.parse::<Port>().map(|p| p.to_string()),
                Ok(printed.into())
            );
        }
        for text in ["", "/tcp", "x", "+80", "-1", "65536", "80/icmp", "80-81"] {
            assert!(text.parse::<Port>().is_err(), "{text}");
        }
    }

    #[test]
    fn ranges() {
        assert_eq!(Port::parse_range("80-82/udp").map(|r| r.len()), Ok(3));
        assert_eq!(Port::parse_range("80").map(|r| r.len()), Ok(1));
        assert!(matches!(Port::parse_range("9-8"), Err(PortError::Range(_))));
        assert!(Port::parse_range("1-").is_err());
    }
}
