//! Which proxy a request goes through: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` as Go reads them.
//!
//! Pure: the environment and daemon.json's `proxies` are the caller's business, and daemon.json
//! wins there as it does in dockerd. A loopback address is never reached through a proxy.
//! `NO_PROXY` is a list of `*`, addresses, networks (`10.0.0.0/8`), names (`example.com` covers its
//! subdomains, `.example.com` and `*.example.com` only them), each with or without a port.
//!
//! TLS goes through a tunnel (`CONNECT`), plain HTTP is asked for by its whole URL: see `forward`.

use std::net::IpAddr;

use super::net::Network;
use super::url::{Scheme, Url, split_port};

/// Proxies by scheme. Empty strings mean none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http` registries.
    pub http: String,
    /// For `https` registries.
    pub https: String,
    /// Exceptions.
    pub no_proxy: String,
}

impl Proxies {
    /// Reads them as programs find them in their environment; upper case goes first.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |upper: &str, lower: &str| {
            [upper, lower]
                .into_iter()
                .filter_map(&variable)
                .find(|value| !value.is_empty())
                .unwrap_or_default()
        };
        Self {
            http: either("HTTP_PROXY", "http_proxy"),
            https: either("HTTPS_PROXY", "https_proxy"),
            no_proxy: either("NO_PROXY", "no_proxy"),
        }
    }

    /// These, with what `other` has where these have nothing.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        let either =
            |this: String, that: &String| if this.is_empty() { that.clone() } else { this };
        Self {
            http: either(self.http, &other.http),
            https: either(self.https, &other.https),
            no_proxy: either(self.no_proxy, &other.no_proxy),
        }
    }

    /// These as they are shown: without anybody's password.
    #[must_use]
    pub fn shown(&self) -> Self {
        Self {
            http: masked(&self.http),
            https: masked(&self.https),
            no_proxy: self.no_proxy.clone(),
        }
    }

    /// The proxy for a URL, as a URL.
    pub(super) fn of(&self, url: &Url) -> Option<String> {
        let proxy = match url.scheme {
            Scheme::Http => &self.http,
            Scheme::Https => &self.https,
        };
        if proxy.is_empty() {
            return None;
        }
        let (host, port) = url.host_and_port()?;
        if host == "localhost" || self.is_exempt(host, port) {
            return None;
        }
        Some(if proxy.contains("://") {
            proxy.clone()
        } else {
            format!("http://{proxy}")
        })
    }

    fn is_exempt(&self, host: &str, port: u16) -> bool {
        let address: Option<IpAddr> = host.parse().ok();
        if address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        self.no_proxy
            .split(',')
            .map(|entry| entry.trim().to_ascii_lowercase())
            .filter(|entry| !entry.is_empty())
            .any(|entry| {
                if entry == "*" {
                    return true;
                }
                if let Some(network) = entry.contains('/').then(|| Network::parse(&entry)) {
                    return network
                        .zip(address)
                        .is_some_and(|(network, address)| network.contains(address));
                }
                if let Ok(exempt) = entry.parse::<IpAddr>() {
                    return address == Some(exempt);
                }
                let Some((name, only_port)) = split_port(&entry) else {
                    return false;
                };
                if only_port.is_some_and(|only| only != port) {
                    return false;
                }
                if let Ok(exempt) = name.parse::<IpAddr>() {
                    return address == Some(exempt);
                }
                let suffix = name.strip_prefix('*').unwrap_or(name);
                if suffix.starts_with('.') {
                    host.ends_with(suffix)
                } else {
                    host == suffix || host.ends_with(&format!(".{suffix}"))
                }
            })
    }
}

/// A URL with Docker's crosses for user and password.
fn masked(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((_, host)) => format!("{scheme}xxxxx:xxxxx@{host}{}", &rest[end..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (url, shown) in [
            ("http://u:p@a@h:1/x", "http://xxxxx:xxxxx@h:1/x"),
            ("u@h:1", "xxxxx:xxxxx@h:1"),
            ("http://h:1/a@b", "http://h:1/a@b"),
            ("", ""),
        ] {
            assert_eq!(masked(url), shown);
        }
    }

    #[test]
    fn go_rules() {
        let proxies = Proxies {
            http: String::new(),
            https: "proxy:3128".into(),
            no_proxy: "a.example, .b.example,10.0.0.0/8,c.example:5000,192.0.2.7,*.d.example"
                .into(),
        };
        let of = |url: &str| proxies.of(&Url::parse(url).expect("absolute")).is_some();
        assert_eq!(
            proxies
                .of(&Url::root(Scheme::Https, "x.example"))
                .as_deref(),
            Some("http://proxy:3128")
        );
        for through in [
            "https://b.example/",
            "https://nota.example/",
            "https://c.example/",
            "https://192.0.2.8/",
            "https://d.example/",
        ] {
            assert!(of(through), "{through}");
        }
        for direct in [
            "http://x.example/",
            "https://a.example/",
            "https://s.a.example:5000/",
            "https://s.b.example/",
            "https://c.example:5000/",
            "https://10.1.2.3/",
            "https://192.0.2.7:5000/",
            "https://127.0.0.2:5000/",
            "https://[::1]:5000/",
            "https://localhost:5000/",
            "https://e.d.example/",
        ] {
            assert!(!of(direct), "{direct}");
        }
    }

    #[test]
    fn daemon_json_wins() {
        let environment = Proxies::from_environment(|name| match name {
            "HTTP_PROXY" => Some(String::new()),
            "http_proxy" => Some("http://low".into()),
            "https_proxy" => Some("http://secure".into()),
            _ => None,
        });
        let own = Proxies {
            https: "http://own".into(),
            ..Proxies::default()
        };
        let both = own.or(&environment);
        assert_eq!(
            (both.http.as_str(), both.https.as_str()),
            ("http://low", "http://own")
        );
    }
}
