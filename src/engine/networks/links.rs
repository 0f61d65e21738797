//! Links (`--link`) on the default network, whose members have no names there: a container finds
//! those that it is linked to in its /etc/hosts, by the alias, the host's name and the container's,
//! and what they expose in its environment. On networks of one's own links are names (`outside`).
//!
//! Links are by id, so that renaming changes nothing; one to a container that was removed is gone
//! (moby, daemon/links.go, daemon/container_operations_unix.go, daemon/links/links.go).

use std::net::IpAddr;

use super::endpoints;
use crate::api::container::{ContainerConfig, HostConfig};
use crate::container::files;
use crate::container::record::{Link, Record};
use crate::container::spec::NetworkMode;
use crate::engine::Engine;
use crate::engine::error::{Error, Kind, Result};
use crate::engine::files::read_file;
use crate::types::port::{Port, Protocol};

/// The network that this is about.
const DEFAULT: &str = "bridge";

/// A container that another is linked to, and what that calls it.
struct Linked {
    alias: String,
    record: Record,
}

/// `NAME[:ALIAS]`, or as inspect shows it: `/NAME:/PARENT/ALIAS`.
fn parse(text: &str) -> Result<(&str, &str)> {
    if text.is_empty() {
        return Err(Error::invalid("empty string specified for links"));
    }
    let (name, alias) = text.split_once(':').unwrap_or((text, text));
    if alias.contains(':') {
        return Err(Error::invalid(format!("bad format for links: {text}")));
    }
    match name.strip_prefix('/') {
        Some(name) => Ok((name, alias.rsplit('/').next().unwrap_or(alias))),
        None => Ok((name, alias)),
    }
}

impl Engine {
    /// The links that a new container asks for.
    pub(in crate::engine) fn settle_links(&self, host: &HostConfig) -> Result<Vec<Link>> {
        if matches!(
            NetworkMode::parse(&host.network_mode),
            NetworkMode::Named(_)
        ) {
            return Ok(Vec::new());
        }
        let asked = host.links.iter().flatten();
        asked.map(|text| self.settle_link(text)).collect()
    }

    fn settle_link(&self, text: &str) -> Result<Link> {
        let (name, alias) = parse(text)?;
        let mut name = name.to_owned();
        loop {
            let found = self.containers.find(&name).map_err(|error| {
                Error::invalid(format!("could not get container for {name}: {error}"))
            })?;
            let record = found.record();
            match NetworkMode::parse(&record.host_config.network_mode) {
                NetworkMode::Container(other) => name = other.to_owned(),
                NetworkMode::Host => {
                    return Err(Error::invalid(
                        "conflicting options: host type networking can't be used with links. This \
                         would result in undefined behavior",
                    ));
                }
                _ => {
                    return Ok(Link {
                        container: record.id,
                        alias: alias.to_owned(),
                    });
                }
            }
        }
    }

    /// Those that a container is linked to and that there are yet.
    fn linked(&self, record: &Record) -> Vec<Linked> {
        let linked = record.links.iter().filter_map(|link| {
            let container = self.containers.by_id(&link.container)?;
            Some(Linked {
                alias: link.alias.clone(),
                record: container.record(),
            })
        });
        linked.collect()
    }

    /// Links as inspect shows them.
    pub(in crate::engine) fn shown_links(&self, record: &Record) -> Option<Vec<String>> {
        let linked = self.linked(record);
        let shown = linked
            .iter()
            .map(|it| format!("/{}:/{}/{}", it.record.name, record.name, it.alias));
        (!linked.is_empty()).then(|| shown.collect())
    }

    /// Refuses a start where what a container is linked to is not there.
    pub(in crate::engine) fn check_links(&self, record: &Record) -> Result<()> {
        for linked in self.linked(record) {
            let child = &linked.record;
            if !endpoints::asked(child).contains_key(DEFAULT) {
                let text = format!(
                    "failed to set up container networking: Cannot link to /{}, as it does not \
                     belong to the default network",
                    child.name
                );
                return Err(Error::new(Kind::System, text));
            }
            if !child.state.is_running() {
                let text = format!(
                    "Cannot link to a non running container: /{} AS /{}/{}",
                    child.name, record.name, linked.alias
                );
                return Err(Error::new(Kind::System, text));
            }
        }
        Ok(())
    }

    /// What a container's /etc/hosts says of those that it is linked to, as `--add-host` would.
    pub(in crate::engine) fn linked_hosts(&self, record: &Record) -> Vec<String> {
        let mut entries = Vec::new();
        for linked in self.linked(record) {
            let (alias, child) = (&linked.alias, &linked.record);
            let mut names = format!("{alias} {}", child.config.hostname);
            if *alias != child.name {
                names.push_str(&format!(" {}", child.name));
            }
            let addresses = addresses(child).into_iter();
            entries.extend(addresses.map(|address| format!("{names}:{address}")));
        }
        entries
    }

    /// A container's configuration, with what its links add to its environment.
    pub(in crate::engine) fn linked_config(&self, record: &Record) -> ContainerConfig {
        let mut config = record.config.clone();
        let linked = self.linked(record);
        let all = linked.iter().flat_map(|it| environment(record, it));
        // The container's own come later, and win.
        let all: Vec<String> = all.chain(config.env.take().into_iter().flatten()).collect();
        config.env = Some(all);
        config
    }

    /// A container has started, with other addresses than before perhaps: tells those that are linked
    /// to it.
    pub(in crate::engine) fn tell_linking(&self, child: &Record) {
        if !child.endpoints.contains_key(DEFAULT) {
            return;
        }
        for parent in self.containers.all() {
            let record = {
                let data = parent.data();
                let links = data.record.links.iter();
                let linked = links.filter(|link| link.container == child.id);
                if !data.record.state.is_running() || linked.count() == 0 {
                    continue;
                }
                data.record.clone()
            };
            let file = parent.directory.join("hosts");
            let aliases = record.links.iter();
            let aliases = aliases.filter(|link| link.container == child.id);
            let changed = read_file(&file).and_then(|text| {
                let text = aliases.fold(text, |text, link| {
                    files::replace_linked(&text, &link.alias, &addresses(child))
                });
                std::fs::write(&file, text)
            });
            if let Err(error) = changed {
                tracing::warn!(
                    id = record.id.short(),
                    "cannot change its /etc/hosts: {error}"
                );
            }
        }
    }
}

/// A container's addresses in the default network.
fn addresses(record: &Record) -> Vec<IpAddr> {
    let settings = record.endpoints.get(DEFAULT).map(|it| &it.settings);
    let texts = settings
        .into_iter()
        .flat_map(|it| [&it.ip_address, &it.global_ipv6_address]);
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// Variables that tell a container of another: where its ports are, and its own variables.
fn environment(parent: &Record, linked: &Linked) -> Vec<String> {
    let (alias, child) = (&linked.alias, &linked.record);
    let address = addresses(child).first().map(IpAddr::to_string);
    let exposed = child.config.exposed_ports.iter().flatten();
    let mut ports: Vec<Port> = exposed.filter_map(|(port, _)| port.parse().ok()).collect();
    let rank = |port: &Port| (port.protocol != Protocol::Tcp, port.protocol.to_string());
    ports.sort_by_key(|port| (rank(port), port.number));
    let name = alias.to_uppercase().replace('-', "_");
    let own = child.config.env.iter().flatten();
    let own = own.filter_map(|variable| variable.split_once('='));
    let mut all = port_variables(&name, &address.unwrap_or_default(), &ports);
    all.push(format!("{name}_NAME=/{}/{alias}", parent.name));
    all.extend(
        own.filter(|(key, _)| !matches!(*key, "HOME" | "PATH"))
            .map(|(key, value)| format!("{name}_ENV_{key}={value}")),
    );
    all
}

/// The variables of ports, which are sorted; those in a row are told as a range, too.
fn port_variables(name: &str, address: &str, ports: &[Port]) -> Vec<String> {
    let mut all = Vec::new();
    let place = |port: &Port| format!("{}://{address}:{}", port.protocol, port.number);
    let prefix = |port: &Port| {
        let protocol = port.protocol.to_string().to_uppercase();
        format!("{name}_PORT_{}_{protocol}", port.number)
    };
    if let Some(first) = ports.first() {
        all.push(format!("{name}_PORT={}", place(first)));
    }
    let in_a_row =
        |a: &Port, b: &Port| a.protocol == b.protocol && a.number.checked_add(1) == Some(b.number);
    for row in ports.chunk_by(in_a_row) {
        for port in row {
            let prefix = prefix(port);
            all.push(format!("{prefix}={}", place(port)));
            all.push(format!("{prefix}_ADDR={address}"));
            all.push(format!("{prefix}_PORT={}", port.number));
            all.push(format!("{prefix}_PROTO={}", port.protocol));
        }
        if let [first, .., last] = row {
            let prefix = prefix(first);
            all.push(format!("{prefix}_START={}", place(first)));
            all.push(format!("{prefix}_PORT_START={}", first.number));
            all.push(format!("{prefix}_END={}", place(last)));
            all.push(format!("{prefix}_PORT_END={}", last.number));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_typed_and_as_shown() {
        assert_eq!(parse("db").unwrap(), ("db", "db"));
        assert_eq!(parse("db:store").unwrap(), ("db", "store"));
        assert_eq!(parse("/db:/web/store").unwrap(), ("db", "store"));
        assert_eq!(
            parse("a:b:c").unwrap_err().message,
            "bad format for links: a:b:c"
        );
        assert!(parse("").is_err());
    }

    #[test]
    fn ports_are_told_one_by_one_and_as_ranges() {
        let ports: Vec<Port> = ["80/tcp", "81/tcp", "443/tcp", "53/udp"]
            .map(|text| text.parse().unwrap())
            .into();
        let all = port_variables("DB", "172.17.0.2", &ports);
        assert_eq!(all[0], "DB_PORT=tcp://172.17.0.2:80");
        assert_eq!(
            all[1..5],
            [
                "DB_PORT_80_TCP=tcp://172.17.0.2:80",
                "DB_PORT_80_TCP_ADDR=172.17.0.2",
                "DB_PORT_80_TCP_PORT=80",
                "DB_PORT_80_TCP_PROTO=tcp"
            ]
        );
        assert_eq!(all[9], "DB_PORT_80_TCP_START=tcp://172.17.0.2:80");
        assert_eq!(all[12], "DB_PORT_80_TCP_PORT_END=81");
        assert_eq!(all.len(), 1 + 4 * 4 + 4);
        assert_eq!(all[17], "DB_PORT_53_UDP=udp://172.17.0.2:53");
    }
}
