//! Which host addresses a container's packets are for, and how they look from the container.
//!
//! The host's sockets are in the host's network namespace, so 127.0.0.1 would be the host's own
//! loopback: no address of a container ever means that, except the gateway's where the host allows
//! it. An IPv4 address in IPv6's clothes would slip by such a rule and is refused, and so is
//! whatever is no one host's address. Everything else goes where the host's routing sends it, the
//! host's own addresses included.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Settings;

/// The port that names are asked for at.
pub(super) const DNS: u16 = 53;

impl Settings {
    /// Where a packet to `remote` goes; none where it may not go anywhere.
    pub(super) fn destination(&self, remote: SocketAddr) -> Option<SocketAddr> {
        if let Some(resolver) = &self.resolver
            && remote.port() == DNS
            && remote.ip() == resolver.at
        {
            return Some(resolver.upstream);
        }
        let port = remote.port();
        match remote.ip() {
            IpAddr::V4(ip) if Some(ip) == self.gateway_v4 => self
                .host_loopback
                .then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            IpAddr::V6(ip) if Some(ip) == self.gateway_v6 => self
                .host_loopback
                .then(|| SocketAddr::from((Ipv6Addr::LOCALHOST, port))),
            IpAddr::V4(ip) => {
                let [first, ..] = ip.octets();
                // This network, loopback, multicast, reserved and broadcast.
                (first != 0 && first != 127 && first < 224).then_some(remote)
            }
            IpAddr::V6(ip) => {
                let local = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
                // fe80::/10 means nothing without an interface; ::/96 and ::ffff:0:0/96 are IPv4.
                let linked = ip.segments()[0] & 0xffc0 == 0xfe80;
                (!local && !linked && ip.to_ipv4().is_none()).then_some(remote)
            }
        }
    }

    /// As whom the container sees what came from `source`; none where it may not see it.
    pub(super) fn origin(&self, source: SocketAddr) -> Option<SocketAddr> {
        if let Some(resolver) = &self.resolver
            && source == resolver.upstream
        {
            return Some(SocketAddr::new(resolver.at, DNS));
        }
        if !source.ip().is_loopback() {
            return Some(source);
        }
        let gateway: IpAddr = match source.ip() {
            IpAddr::V4(_) => self.gateway_v4?.into(),
            IpAddr::V6(_) => self.gateway_v6?.into(),
        };
        self.host_loopback
            .then(|| SocketAddr::new(gateway, source.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Resolver;
    use super::*;

    fn settings(host_loopback: bool) -> Settings {
        Settings {
            gateway_v4: Some(Ipv4Addr::new(172, 20, 0, 1)),
            gateway_v6: "fd00::1".parse().ok(),
            host_loopback,
            resolver: Some(Resolver {
                at: IpAddr::from([172, 20, 0, 3]),
                upstream: SocketAddr::from(([127, 0, 0, 53], 53)),
            }),
            ..Settings::default()
        }
    }

    fn to(settings: &Settings, remote: &str) -> Option<String> {
        let found = settings.destination(remote.parse().unwrap())?;
        Some(found.to_string())
    }

    #[test]
    fn loopback_is_reached_by_the_gateway_alone_and_only_when_allowed() {
        for refused in [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "0.0.0.0:80",
            "255.255.255.255:80",
            "224.0.0.1:80",
            "[::1]:80",
            "[::]:80",
            "[::ffff:127.0.0.1]:80",
            "[::127.0.0.1]:80",
            "[ff02::1]:80",
            "[fe80::1]:80",
        ] {
            assert_eq!(to(&settings(true), refused), None, "{refused}");
        }
        let gateway = "172.20.0.1:80";
        assert_eq!(to(&settings(false), gateway), None);
        assert_eq!(to(&settings(true), gateway).unwrap(), "127.0.0.1:80");
        assert_eq!(to(&settings(true), "[fd00::1]:80").unwrap(), "[::1]:80");
        for open in ["192.0.2.1:80", "169.254.169.254:80", "[2001:db8::1]:80"] {
            assert_eq!(to(&settings(false), open).unwrap(), open);
        }
    }

    #[test]
    fn answers_come_from_where_the_question_went() {
        let from = |settings: Settings, source: &str| {
            settings
                .origin(source.parse().unwrap())
                .map(|seen| seen.to_string())
        };
        assert_eq!(
            to(&settings(false), "172.20.0.3:53").unwrap(),
            "127.0.0.53:53"
        );
        assert_eq!(
            from(settings(false), "127.0.0.53:53").unwrap(),
            "172.20.0.3:53"
        );
        assert_eq!(from(settings(false), "127.0.0.1:9"), None);
        assert_eq!(from(settings(true), "127.0.0.1:9").unwrap(), "172.20.0.1:9");
        assert_eq!(from(settings(true), "[::1]:9").unwrap(), "[fd00::1]:9");
        assert_eq!(from(settings(false), "192.0.2.1:9").unwrap(), "192.0.2.1:9");
    }
}
