//! Which places of the host a container's ports are published at.
//!
//! The host's sockets are bound here, before the container starts, so that its user is told at once
//! what cannot be had, in dockerd's words; then they are given to slirp. Of a range, or where any
//! port will do, the first that is free at all addresses is taken; without an address those are all
//! of IPv4 and of IPv6, under one number.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::api::container::{PortBinding, PortMap};
use crate::container::record::Record;
use crate::engine::Engine;
use crate::slirp;
use crate::slirp::state::Publication;
use crate::types::errno;
use crate::types::port::{Port, Protocol};

/// Ports of which any may be taken, where the host does not say.
const EPHEMERAL: (u16, u16) = (32768, 60999);

/// How long slirp may take to let go of a port that was published until just now.
const LETTING_GO: Duration = Duration::from_secs(3);

/// A port to be published, at one or several addresses under one number.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    port: Port,
    addresses: Vec<IpAddr>,
    /// Any where there is none.
    range: Option<(u16, u16)>,
}

/// What is remembered between containers.
#[derive(Debug, Default)]
pub(in crate::engine) struct Memory {
    /// Where the search for any port goes on.
    next: Mutex<u16>,
    /// What was let go of, and when.
    freed: Mutex<Vec<(Publication, Instant)>>,
}

impl Memory {
    /// Notes that these are published no more.
    pub(super) fn free(&self, ports: &[Publication]) {
        let mut freed = self.freed.lock().unwrap_or_else(PoisonError::into_inner);
        freed.retain(|(_, when)| when.elapsed() < LETTING_GO);
        freed.extend(ports.iter().map(|port| (*port, Instant::now())));
    }

    /// Whether a port was ours until just now.
    fn was_freed(&self, protocol: Protocol, port: u16) -> bool {
        let freed = self.freed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut freed = freed.iter().filter(|(_, when)| when.elapsed() < LETTING_GO);
        freed.any(|(known, _)| known.protocol == protocol && known.host_port == port)
    }
}

/// Reads what a record wants published; `default` is the network's address for it.
fn wanted(record: &Record, default: Option<IpAddr>) -> Vec<Wanted> {
    let all = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Ipv6Addr::UNSPECIFIED.into(),
    ];
    let anywhere = || default.map_or_else(|| all.to_vec(), |address| vec![address]);
    let host = &record.host_config;
    let mut wanted = Vec::new();
    for (name, places) in host.port_bindings.iter().flatten() {
        let Ok(port) = name.parse::<Port>() else {
            continue;
        };
        for place in places.iter().flatten() {
            let range = place.host_port.split('/').next().unwrap_or_default();
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let range = first.parse().ok().zip(last.parse().ok());
            wanted.push(Wanted {
                port,
                addresses: place
                    .host_ip
                    .parse()
                    .map_or_else(|_| anywhere(), |it| vec![it]),
                range: range.filter(|(first, _): &(u16, u16)| *first != 0),
            });
        }
    }
    if host.publish_all_ports {
        for name in record
            .config
            .exposed_ports
            .iter()
            .flat_map(|map| map.keys())
        {
            let bound = host.port_bindings.iter().flatten();
            let mut bound =
                bound.filter(|(_, places)| places.as_ref().is_some_and(|it| !it.is_empty()));
            if let Ok(port) = name.parse::<Port>()
                && !bound.any(|(known, _)| known == name)
            {
                wanted.push(Wanted {
                    port,
                    addresses: anywhere(),
                    range: None,
                });
            }
        }
    }
    wanted
}

/// The host's range of ports for those who ask for none.
fn ephemeral() -> (u16, u16) {
    let text =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|text| text.parse().ok());
    let range = numbers.next().zip(numbers.next());
    range
        .filter(|(first, last)| first <= last)
        .unwrap_or(EPHEMERAL)
}

impl Engine {
    /// Binds the host's sockets for all that a record wants published.
    ///
    /// # Errors
    /// dockerd's sentence, without what comes before it. Nothing is bound then.
    pub(super) fn bind_ports(
        &self,
        record: &Record,
        default: Option<IpAddr>,
    ) -> Result<Vec<(Publication, OwnedFd)>, String> {
        let mut bound: Vec<(Publication, OwnedFd)> = Vec::new();
        for wanted in wanted(record, default) {
            let of_this = |(known, _): &(Publication, OwnedFd)| *known;
            let own: Vec<Publication> = bound.iter().map(of_this).collect();
            bound.extend(self.bind_port(&wanted, &own)?);
        }
        Ok(bound)
    }

    fn bind_port(
        &self,
        wanted: &Wanted,
        own: &[Publication],
    ) -> Result<Vec<(Publication, OwnedFd)>, String> {
        let Port { number, protocol } = wanted.port;
        if protocol == Protocol::Sctp {
            return Err("sctp ports cannot be published without root".to_owned());
        }
        let taken = self.networks.published();
        let mut failure = String::new();
        for candidate in self.candidates(wanted) {
            let mut sockets = Vec::new();
            let mut failed = false;
            for host in &wanted.addresses {
                let publication = Publication {
                    protocol,
                    host: *host,
                    host_port: candidate,
                    port: number,
                };
                let mut known = taken.iter().chain(own);
                if known.any(|other| conflicts(other, &publication)) {
                    let shown = SocketAddr::new(*host, candidate);
                    failure = format!("Bind for {shown} failed: port is already allocated");
                    failed = true;
                    break;
                }
                match self.bind_one(publication) {
                    Ok(socket) => sockets.push((publication, socket)),
                    // A host without IPv6, or where the other family's socket has both.
                    Err(error)
                        if wanted.addresses.len() > 1
                            && host.is_ipv6()
                            && matches!(
                                error.raw_os_error(),
                                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                            ) => {}
                    Err(error) => {
                        failure = bind_failure(publication, &error);
                        failed = true;
                        break;
                    }
                }
            }
            if !failed {
                return Ok(sockets);
            }
        }
        Err(failure)
    }

    /// Binds a socket, waiting for slirp to let go of one that it had until just now.
    fn bind_one(&self, publication: Publication) -> io::Result<OwnedFd> {
        let (protocol, port) = (publication.protocol, publication.host_port);
        let address = SocketAddr::new(publication.host, port);
        loop {
            match slirp::listen_here(protocol, address) {
                Err(error)
                    if error.raw_os_error() == Some(libc::EADDRINUSE)
                        && self.ports.was_freed(protocol, port) =>
                {
                    std::thread::sleep(Duration::from_millis(2));
                }
                other => return other,
            }
        }
    }

    /// The numbers to be tried, in order.
    fn candidates(&self, wanted: &Wanted) -> Vec<u16> {
        if let Some((first, last)) = wanted.range {
            return (first..=last).collect();
        }
        let (first, last) = ephemeral();
        let mut next = self
            .ports
            .next
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let start = (*next).clamp(first, last);
        *next = if start == last { first } else { start + 1 };
        (start..=last).chain(first..start).collect()
    }
}

/// Whether two cannot be published at once.
fn conflicts(one: &Publication, other: &Publication) -> bool {
    one.protocol == other.protocol
        && one.host_port == other.host_port
        && one.host.is_ipv6() == other.host.is_ipv6()
        && (one.host == other.host || one.host.is_unspecified() || other.host.is_unspecified())
}

/// dockerd's words for a place that cannot be had, and what to do about it.
pub(super) fn bind_failure(publication: Publication, error: &io::Error) -> String {
    let place = SocketAddr::new(publication.host, publication.host_port);
    let protocol = publication.protocol;
    let why = errno::text(error);
    let mut text = format!("failed to bind host port {place}/{protocol}: {why}");
    if error.kind() == io::ErrorKind::PermissionDenied {
        let port = publication.host_port;
        text.push_str(&format!(
            ": this host keeps low ports for root (set sysctl net.ipv4.ip_unprivileged_port_start={port}, \
             or publish at a higher port)"
        ));
    }
    text
}

/// What was bound, as the API shows it.
pub(super) fn map(ports: &[Publication]) -> PortMap {
    let mut map = PortMap::new();
    for publication in ports {
        let port = Port {
            number: publication.port,
            protocol: publication.protocol,
        };
        let binding = PortBinding {
            host_ip: publication.host.to_string(),
            host_port: publication.host_port.to_string(),
        };
        let places = map.entry(port.to_string()).or_default();
        places.get_or_insert_default().push(binding);
    }
    map
}

/// The same, read back from a record.
pub(super) fn unmap(map: &PortMap) -> Vec<Publication> {
    let all = map.iter().flat_map(|(name, places)| {
        let port = name.parse::<Port>().ok();
        let places = places.iter().flatten();
        places.filter_map(move |place| {
            let port = port?;
            Some(Publication {
                protocol: port.protocol,
                host: place.host_ip.parse().ok()?,
                host_port: place.host_port.parse().ok()?,
                port: port.number,
            })
        })
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(host: &str, host_port: u16) -> Publication {
        Publication {
            protocol: Protocol::Tcp,
            host: host.parse().unwrap(),
            host_port,
            port: 80,
        }
    }

    #[test]
    fn what_is_bound_is_read_back_as_it_was_shown() {
        let all = [publication("0.0.0.0", 8080), publication("::", 8080)];
        assert_eq!(unmap(&map(&all)), all);
    }

    #[test]
    fn two_cannot_have_one_place() {
        let any = publication("0.0.0.0", 80);
        assert!(conflicts(&any, &publication("127.0.0.1", 80)));
        assert!(conflicts(&publication("127.0.0.1", 80), &any));
        assert!(!conflicts(&any, &publication("::", 80)));
        assert!(!conflicts(
            &publication("127.0.0.1", 80),
            &publication("127.0.0.2", 80)
        ));
        assert!(!conflicts(&any, &publication("0.0.0.0", 81)));
    }

    #[test]
    fn what_root_alone_may_have_is_said_with_what_to_do() {
        let error = io::Error::from_raw_os_error(libc::EACCES);
        let text = bind_failure(publication("0.0.0.0", 80), &error);
        assert!(
            text.starts_with("failed to bind host port 0.0.0.0:80/tcp: permission denied: "),
            "{text}"
        );
        assert!(text.contains("ip_unprivileged_port_start=80"), "{text}");
    }
}
