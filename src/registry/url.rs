//! Addresses of registries: absolute `http` and `https` URLs, and what a `Location` makes of them.
//!
//! Only what the protocol needs. A URL is taken apart once; no user information is accepted, so
//! that a `Location` cannot smuggle any in, and characters that would break the request line are
//! refused.

use std::fmt;

use ureq::http::Uri;

/// An absolute URL without user information and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: Scheme,
    /// `host` or `host:port`, an IPv6 address in brackets; in lower case.
    pub(super) authority: String,
    /// Path and query, beginning with a slash.
    pub(super) target: String,
}

/// How a registry is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

impl Url {
    /// The root of a host.
    pub(super) fn root(scheme: Scheme, authority: &str) -> Self {
        Self {
            scheme,
            authority: authority.to_ascii_lowercase(),
            target: "/".to_owned(),
        }
    }

    /// Parses an absolute URL.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = if scheme.eq_ignore_ascii_case("https") {
            Scheme::Https
        } else if scheme.eq_ignore_ascii_case("http") {
            Scheme::Http
        } else {
            return None;
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let target = if target.starts_with('/') {
            target.to_owned()
        } else {
            format!("/{target}")
        };
        let url = Self {
            scheme,
            authority: authority.to_ascii_lowercase(),
            target,
        };
        url.is_sound().then_some(url)
    }

    fn is_sound(&self) -> bool {
        let printable = |text: &str| text.bytes().all(|c| c.is_ascii_graphic());
        !self.authority.is_empty()
            && !self.authority.contains('@')
            && printable(&self.authority)
            && printable(&self.target)
            && self.host_and_port().is_some()
            && self.uri().is_some()
    }

    /// What `location` means in an answer from here (RFC 3986 §5.2, without `..`, which registries
    /// do not send and servers resolve themselves).
    pub(super) fn join(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next().unwrap_or_default();
        let before_path = location.split(['/', '?']).next().unwrap_or_default();
        if before_path.contains(':') {
            return Self::parse(location);
        }
        if location.starts_with("//") {
            return Self::parse(&format!("{}:{location}", self.scheme));
        }
        let path = self.target.split('?').next().unwrap_or_default();
        let target = if location.starts_with('/') {
            location.to_owned()
        } else if location.is_empty() || location.starts_with('?') {
            format!("{path}{location}")
        } else {
            let directory = path.rfind('/').map_or("/", |at| &path[..=at]);
            format!("{directory}{location}")
        };
        let url = Self {
            target,
            ..self.clone()
        };
        url.is_sound().then_some(url)
    }

    /// The same host with another path and query.
    pub(super) fn at(&self, target: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            ..self.clone()
        }
    }

    /// With another parameter in the query; the value is encoded.
    pub(super) fn with_query(&self, name: &str, value: &str) -> Self {
        let separator = if self.target.contains('?') { '&' } else { '?' };
        self.at(format!(
            "{}{separator}{name}={}",
            self.target,
            encoded(value)
        ))
    }

    /// Host without brackets, and port.
    pub(super) fn host_and_port(&self) -> Option<(&str, u16)> {
        let default = match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        };
        split_port(&self.authority).map(|(host, port)| (host, port.unwrap_or(default)))
    }

    /// Whether credentials for one may be sent to the other.
    pub(super) fn same_origin(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.host_and_port() == other.host_and_port()
    }

    /// For the HTTP library.
    pub(super) fn uri(&self) -> Option<Uri> {
        self.to_string().parse().ok()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.target)
    }
}

/// Splits `host`, `host:port` or `[address]:port`; the host comes without brackets.
pub(super) fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        (host, port)
    } else {
        match authority.find(':') {
            Some(at) => authority.split_at(at),
            None => (authority, ""),
        }
    };
    if host.is_empty() {
        return None;
    }
    match port.strip_prefix(':') {
        None => port.is_empty().then_some((host, None)),
        Some(digits) if digits.bytes().all(|c| c.is_ascii_digit()) => {
            Some((host, Some(digits.parse().ok()?)))
        }
        Some(_) => None,
    }
}

/// Encodes a value for a query or a form: a space is a plus, as Go's encoder writes it.
pub(super) fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(char::from(byte));
            }
            b' ' => text.push('+'),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn joins() {
        let base = Url::parse("https://r.example:5000/v2/a/blobs/uploads/?x=1").expect("absolute");
        for (location, expected) in [
            ("/v2/u/1?s=2", "https://r.example:5000/v2/u/1?s=2"),
            ("u1", "https://r.example:5000/v2/a/blobs/uploads/u1"),
            ("?s=2", "https://r.example:5000/v2/a/blobs/uploads/?s=2"),
            ("//cdn.example/b", "https://cdn.example/b"),
            ("http://Other.example", "http://other.example/"),
            ("https://o.example?q#f", "https://o.example/?q"),
        ] {
            let joined = base.join(location).map(|url| url.to_string());
            assert_eq!(joined.as_deref(), Some(expected), "{location}");
        }
        for location in [
            "ftp://x/",
            "https://",
            "https://user@host/",
            "/a b",
            "/a\r\nX: y",
            "https://h:99999/",
            "javascript:x",
        ] {
            assert_eq!(base.join(location), None, "{location}");
        }
    }

    #[test]
    fn origins() {
        let url = |text| Url::parse(text).expect("absolute");
        assert!(url("https://h/a").same_origin(&url("https://H:443/b")));
        assert!(!url("https://h/").same_origin(&url("http://h:443/")));
        assert!(!url("https://h/").same_origin(&url("https://h.evil/")));
        assert_eq!(url("http://[::1]:5/").host_and_port(), Some(("::1", 5)));
    }

    #[test]
    fn encodes() {
        let url = Url::root(Scheme::Https, "h").at("/t");
        assert_eq!(
            url.with_query("scope", "repository:a/b:pull,push")
                .with_query("x", "é +")
                .to_string(),
            "https://h/t?scope=repository%3Aa%2Fb%3Apull%2Cpush&x=%C3%A9+%2B"
        );
    }

    proptest! {
        #[test]
        fn what_is_joined_can_be_requested(location in "\\PC*|[a-z:/?#@.\\[\\]0-9]{0,40}") {
            let base = Url::root(Scheme::Http, "localhost:5000");
            if let Some(url) = base.join(&location) {
                prop_assert!(url.uri().is_some());
                prop_assert_eq!(Url::parse(&url.to_string()), Some(url));
            }
        }
    }
}
