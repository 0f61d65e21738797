//! Which registry is spoken to where and how: a pure function of the configuration.
//!
//! Docker's rules. A reference's domain is the registry's host, except that `docker.io` is
//! `registry-1.docker.io`, preceded by the `registry-mirrors` when something is pulled. HTTPS comes
//! first; HTTP follows only for a registry that `insecure-registries` names or whose address is in
//! a network that it names, and for loopback addresses, and not once HTTPS has been seen to answer.
//!
//! Stricter than Docker in two ways. Where an *address* made a registry insecure, only addresses in
//! those networks are connected to afterwards, so that a lying name server gains nothing by
//! answering `127.0.0.1` once. And a mirror is not sent the credentials of the registry it mirrors.

use std::net::IpAddr;
use std::path::PathBuf;

use super::error::Error;
use super::net::Network;
use super::proxy::Proxies;
use super::url::{Scheme, Url, split_port};

/// The registry that a reference without a registry means.
pub(super) const HUB: &str = "docker.io";
/// Where it is.
const HUB_HOST: &str = "registry-1.docker.io";
/// Where accounts and searches of it are.
pub(super) const HUB_INDEX: &str = "index.docker.io";
/// The key of its credentials.
pub const HUB_SERVER: &str = "https://index.docker.io/v1/";

/// Attempts where the configuration does not say how many; Docker's number.
const ATTEMPTS: u32 = 5;

/// Networks that are insecure without being named.
const LOOPBACK: &[&str] = &["::1/128", "127.0.0.0/8"];

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// daemon.json's `insecure-registries`: hosts, with or without a port, and networks.
    pub insecure_registries: Vec<String>,
    /// daemon.json's `registry-mirrors`: URLs.
    pub mirrors: Vec<String>,
    /// Directories like `/etc/docker/certs.d`: each holds a directory per registry. All are read.
    pub certificates: Vec<PathBuf>,
    /// Proxies.
    pub proxies: Proxies,
    /// daemon.json's `max-download-attempts`: how often a blob is tried without getting further.
    pub download_attempts: Option<u32>,
    /// `User-Agent`.
    pub user_agent: String,
}

impl Config {
    /// How often a blob is tried without getting further.
    pub fn attempts(&self) -> u32 {
        self.download_attempts.unwrap_or(ATTEMPTS)
    }
}

/// What a configuration comes to, as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Networks whose registries are insecure, those that always are included.
    pub insecure_networks: Vec<String>,
    /// Hosts that are insecure.
    pub insecure_hosts: Vec<String>,
    /// Mirrors, as URLs that end with a slash.
    pub mirrors: Vec<String>,
}

/// What may be done about a server's certificate, and over plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trust {
    /// It is verified; HTTP is out of the question.
    Verified,
    /// It is not verified.
    Insecure,
    /// It is not verified, but only addresses in these networks are connected to.
    InsecureAddress(Vec<Network>),
}

/// One address of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Its root; the path ends with a slash.
    pub(super) url: Url,
    /// Whether it only mirrors the registry that was asked for.
    pub(super) mirror: bool,
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    hosts: Vec<String>,
    networks: Vec<Network>,
    mirrors: Vec<Url>,
}

impl Rules {
    /// Checks the configuration; the errors are dockerd's.
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        let mut rules = Self {
            hosts: Vec::new(),
            networks: Vec::new(),
            mirrors: Vec::new(),
        };
        let configured = config.insecure_registries.iter().map(String::as_str);
        for entry in configured.chain(LOOPBACK.iter().copied()) {
            rules.add_insecure(entry)?;
        }
        for mirror in &config.mirrors {
            let url = mirror_url(mirror)?;
            if !rules.mirrors.contains(&url) {
                rules.mirrors.push(url);
            }
        }
        Ok(rules)
    }

    /// The checked configuration as it is shown.
    pub(super) fn shown(&self) -> Shown {
        Shown {
            insecure_networks: self.networks.iter().map(Network::to_string).collect(),
            insecure_hosts: self.hosts.clone(),
            mirrors: self.mirrors.iter().map(Url::to_string).collect(),
        }
    }

    fn add_insecure(&mut self, entry: &str) -> Result<(), Error> {
        if entry.starts_with('-') || entry.ends_with('-') {
            return Err(Error::Invalid(format!(
                "invalid index name ({entry}). Cannot begin or end with a hyphen"
            )));
        }
        let lower = entry.to_ascii_lowercase();
        let bare = ["http://", "https://"]
            .iter()
            .find_map(|scheme| lower.strip_prefix(scheme))
            .unwrap_or(&lower);
        if bare.contains("://") {
            return Err(Error::Invalid(format!(
                "insecure registry {entry} should not contain '://'"
            )));
        }
        if let Some(network) = Network::parse(bare) {
            if !self.networks.contains(&network) {
                self.networks.push(network);
            }
            return Ok(());
        }
        // A bare IPv6 address is a host too.
        let sound = bare.parse::<IpAddr>().is_ok()
            || Url::parse(&format!("http://{bare}"))
                .is_some_and(|url| url.target == "/" && !bare.ends_with('/'));
        if !sound {
            let host = split_port(bare).map_or(bare, |(host, _)| host);
            return Err(Error::Invalid(format!(
                "insecure registry {entry} is not valid: invalid host \"{host}\""
            )));
        }
        self.hosts.push(bare.to_owned());
        Ok(())
    }

    /// How far the registry at `authority` is trusted. `lookup` finds the addresses of a name.
    pub(super) fn trust(&self, authority: &str, lookup: impl FnOnce(&str) -> Vec<IpAddr>) -> Trust {
        let authority = authority.to_ascii_lowercase();
        if authority == HUB || authority == HUB_HOST || authority == HUB_INDEX {
            return Trust::Verified;
        }
        if self.hosts.contains(&authority) {
            return Trust::Insecure;
        }
        let host = split_port(&authority).map_or(authority.as_str(), |(host, _)| host);
        let addresses = match host.parse() {
            Ok(address) => vec![address],
            Err(_) => lookup(host),
        };
        let within = |address: &IpAddr| self.networks.iter().any(|net| net.contains(*address));
        if addresses.iter().any(within) {
            Trust::InsecureAddress(self.networks.clone())
        } else {
            Trust::Verified
        }
    }

    /// Where a registry is, in the order in which to try.
    pub(super) fn endpoints(&self, domain: &str, mirrors: bool, insecure: bool) -> Vec<Endpoint> {
        let direct = |scheme, authority: &str| Endpoint {
            url: Url::root(scheme, authority),
            mirror: false,
        };
        if domain == HUB || domain == HUB_INDEX {
            let mirrors = self.mirrors.iter().filter(|_| mirrors).map(|url| Endpoint {
                url: url.clone(),
                mirror: true,
            });
            return mirrors.chain([direct(Scheme::Https, HUB_HOST)]).collect();
        }
        let mut endpoints = vec![direct(Scheme::Https, domain)];
        if insecure {
            endpoints.push(direct(Scheme::Http, domain));
        }
        endpoints
    }
}

fn mirror_url(mirror: &str) -> Result<Url, Error> {
    let invalid = |text: String| Error::Invalid(format!("invalid mirror: {text}"));
    let (scheme, rest) = mirror.split_once("://").unwrap_or(("", mirror));
    if scheme != "http" && scheme != "https" {
        return Err(invalid(format!(
            "unsupported scheme {scheme:?} in {mirror:?}"
        )));
    }
    if rest.contains(['?', '#']) {
        return Err(invalid(format!(
            "query or fragment at end of the URI {mirror:?}"
        )));
    }
    if rest
        .split('/')
        .next()
        .is_some_and(|host| host.contains('@'))
    {
        // Without the password: this text ends up in logs.
        let host = rest.rsplit('@').next().unwrap_or_default();
        return Err(invalid(format!(
            "username/password not allowed in URI \"{scheme}://xxxxx@{host}\""
        )));
    }
    Url::parse(&format!("{}/", mirror.trim_end_matches('/')))
        .ok_or_else(|| invalid(format!("{mirror:?} is not a valid URI")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(insecure: &[&str], mirrors: &[&str]) -> Result<Rules, String> {
        Rules::new(&Config {
            insecure_registries: insecure.iter().map(|&text| text.to_owned()).collect(),
            mirrors: mirrors.iter().map(|&text| text.to_owned()).collect(),
            ..Config::default()
        })
        .map_err(|error| error.to_string())
    }

    fn nowhere(_: &str) -> Vec<IpAddr> {
        Vec::new()
    }

    #[test]
    fn endpoints_in_order() {
        let rules = rules(
            &["r.example:5000"],
            &["https://m.example/hub/", "http://n.example"],
        )
        .expect("a sound configuration");
        let urls = |domain: &str, mirrors, insecure| -> Vec<String> {
            rules
                .endpoints(domain, mirrors, insecure)
                .iter()
                .map(|endpoint| endpoint.url.to_string())
                .collect()
        };
        assert_eq!(
            urls("docker.io", true, false),
            [
                "https://m.example/hub/",
                "http://n.example/",
                "https://registry-1.docker.io/"
            ]
        );
        assert_eq!(
            urls("docker.io", false, true),
            ["https://registry-1.docker.io/"]
        );
        assert_eq!(
            urls("r.example:5000", true, true),
            ["https://r.example:5000/", "http://r.example:5000/"]
        );
        assert_eq!(urls("q.example", true, false), ["https://q.example/"]);
    }

    #[test]
    fn trust() {
        let rules = rules(
            &["R.example:5000", "10.0.0.0/8", "http://bare.example", "::2"],
            &[],
        )
        .expect("a sound configuration");
        assert_eq!(rules.trust("r.example:5000", nowhere), Trust::Insecure);
        assert_eq!(rules.trust("bare.example", nowhere), Trust::Insecure);
        assert_eq!(rules.trust("r.example", nowhere), Trust::Verified);
        assert_eq!(rules.trust("192.0.2.1:5000", nowhere), Trust::Verified);
        assert!(matches!(
            rules.trust("127.0.0.1:5000", nowhere),
            Trust::InsecureAddress(_)
        ));
        assert!(matches!(
            rules.trust("[::1]:5000", nowhere),
            Trust::InsecureAddress(_)
        ));
        assert!(matches!(
            rules.trust("inner.example", |_| vec![[10, 1, 1, 1].into()]),
            Trust::InsecureAddress(_)
        ));
        assert_eq!(
            rules.trust("docker.io", |_| vec![[127, 0, 0, 1].into()]),
            Trust::Verified
        );
    }

    #[test]
    fn refuses() {
        for (insecure, mirror, message) in [
            (
                "-x",
                "",
                "invalid index name (-x). Cannot begin or end with a hyphen",
            ),
            (
                "ftp://x",
                "",
                "insecure registry ftp://x should not contain '://'",
            ),
            (
                "a b",
                "",
                "insecure registry a b is not valid: invalid host \"a b\"",
            ),
            (
                "a/b",
                "",
                "insecure registry a/b is not valid: invalid host \"a/b\"",
            ),
            (
                "",
                "m.example",
                "invalid mirror: unsupported scheme \"\" in \"m.example\"",
            ),
            (
                "",
                "https://m.example?a",
                "invalid mirror: query or fragment at end of the URI \"https://m.example?a\"",
            ),
            (
                "",
                "https://u:secret@m.example",
                "invalid mirror: username/password not allowed in URI \"https://xxxxx@m.example\"",
            ),
            (
                "",
                "https://",
                "invalid mirror: \"https://\" is not a valid URI",
            ),
        ] {
            let insecure: &[&str] = if insecure.is_empty() {
                &[]
            } else {
                &[insecure]
            };
            let mirrors: &[&str] = if mirror.is_empty() { &[] } else { &[mirror] };
            assert_eq!(rules(insecure, mirrors).err().as_deref(), Some(message));
        }
    }
}
