//! Contents of the three files that an engine writes for each container: /etc/hostname, /etc/hosts
//! and /etc/resolv.conf.
//!
//! Line for line what Docker (libnetwork's etchosts and resolvconf) writes, since programs and
//! people compare. Pure: the host's resolv.conf comes in as text. Which container gets which, and
//! that one joining another's network shares its files, is the engine's affair.

use std::fmt::Write as _;
use std::net::IpAddr;

/// What users may set of name resolution (`--dns`, `--dns-search`, `--dns-option`).
#[derive(Debug, Clone, Copy, Default)]
pub struct DnsSettings<'a> {
    /// Name servers in place of the host's.
    pub servers: &'a [String],
    /// Search domains in place of the host's; a single `.` means none.
    pub search: &'a [String],
    /// Resolver options in place of the host's.
    pub options: &'a [String],
}

/// Where a container's names are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// By the host's resolvers from the host's network namespace: its file as it is.
    Host,
    /// By the host's resolvers from a network of its own, where the host's loopback is out of
    /// reach: loopback resolvers are left out, public ones are put where none is left.
    Isolated,
    /// By this resolver of ours, which knows containers and asks the others.
    Internal(IpAddr),
    /// By this one of ours, which only asks others, unless name servers are given.
    Forwarder(IpAddr),
}

/// Docker's choice where the host names no reachable server.
const PUBLIC_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// Returns the contents of /etc/hostname.
pub fn hostname(name: &str) -> String {
    format!("{name}\n")
}

/// Returns the contents of /etc/hosts: the loopback names, then what `--add-host` asks for
/// (`name:address` or `name=address`), then the container's own names with each of its addresses.
pub fn hosts(
    hostname: &str,
    domainname: &str,
    addresses: &[IpAddr],
    extra: &[String],
    ipv6: bool,
) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n");
    if ipv6 {
        text.push_str(concat!(
            "::1\tlocalhost ip6-localhost ip6-loopback\n",
            "fe00::\tip6-localnet\n",
            "ff00::\tip6-mcastprefix\n",
            "ff02::1\tip6-allnodes\n",
            "ff02::2\tip6-allrouters\n",
        ));
    }
    for entry in extra {
        // An address may hold colons, a name none; so the first separator counts.
        if let Some((name, address)) = entry.split_once([':', '=']) {
            let address = address.trim_start_matches('[').trim_end_matches(']');
            line(&mut text, address, name);
        }
    }
    let names = if domainname.is_empty() {
        hostname.to_owned()
    } else {
        format!("{hostname}.{domainname} {hostname}")
    };
    for address in addresses {
        line(&mut text, &address.to_string(), &names);
    }
    text
}

/// Returns an /etc/hosts, which may have been changed since it was made, with a container's new
/// addresses in place of the old.
pub fn replace_addresses(
    text: &str,
    hostname: &str,
    domainname: &str,
    old: &[IpAddr],
    new: &[IpAddr],
) -> String {
    let own = hosts(hostname, domainname, old, &[], false);
    let own: Vec<&str> = own.lines().skip(1).collect();
    let kept = text.lines().filter(|line| !own.contains(line));
    let mut changed: String = kept.flat_map(|line| [line, "\n"]).collect();
    let added = hosts(hostname, domainname, new, &[], false);
    for line in added.lines().skip(1) {
        changed.push_str(line);
        changed.push('\n');
    }
    changed
}

/// Returns an /etc/hosts with a linked container's new addresses: of each line whose first name is
/// its alias, by family.
pub fn replace_linked(text: &str, alias: &str, addresses: &[IpAddr]) -> String {
    let mut changed = String::with_capacity(text.len());
    for line in text.lines() {
        let parts = line.split_once('\t');
        let old = parts.filter(|(_, names)| names.split([' ', '.']).next() == Some(alias));
        let old = old.and_then(|(address, names)| Some((address.parse::<IpAddr>().ok()?, names)));
        let new = old.and_then(|(old, names)| {
            let mut same = addresses.iter().filter(|it| it.is_ipv6() == old.is_ipv6());
            Some((same.next()?, names))
        });
        match new {
            // Writing to a string does not fail.
            Some((address, names)) => drop(writeln!(changed, "{address}\t{names}")),
            None => drop(writeln!(changed, "{line}")),
        }
    }
    changed
}

fn line(text: &mut String, address: &str, names: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{address}\t{names}");
}

/// Returns the contents of /etc/resolv.conf.
pub fn resolv_conf(host: &str, settings: DnsSettings<'_>, resolution: Resolution) -> String {
    let overridden = [
        (!settings.servers.is_empty(), "nameservers"),
        (!settings.search.is_empty(), "search"),
        (!settings.options.is_empty(), "options"),
    ];
    if resolution == Resolution::Host && overridden.iter().all(|(yes, _)| !yes) {
        return host.to_owned();
    }
    let parsed = Parsed::of(host);
    let chosen = |mine: &[String], theirs: &[&str]| -> Vec<String> {
        if mine.is_empty() {
            theirs.iter().map(|&word| word.to_owned()).collect()
        } else {
            mine.to_vec()
        }
    };
    let mut servers = chosen(settings.servers, &parsed.servers);
    let mut search = chosen(settings.search, &parsed.search);
    let mut options = chosen(settings.options, &parsed.options);
    if search.len() == 1 && search[0] == "." {
        search.clear();
    }
    let mut kind = "legacy";
    match resolution {
        Resolution::Host => {}
        Resolution::Isolated => {
            if settings.servers.is_empty() {
                servers.retain(|server| !is_loopback(server));
                if servers.is_empty() {
                    servers.extend(PUBLIC_SERVERS.map(str::to_owned));
                }
            }
        }
        Resolution::Forwarder(address) => {
            if settings.servers.is_empty() {
                servers = vec![address.to_string()];
            }
        }
        Resolution::Internal(address) => {
            kind = "internal resolver";
            servers = vec![address.to_string()];
            // The resolver knows containers by single words.
            if !options.iter().any(|option| option.starts_with("ndots:")) {
                options.push("ndots:0".to_owned());
            }
        }
    }

    let mut text = String::from(
        "# Generated by moss.\n\
         # This file can be edited; moss will not make further changes once it\n\
         # has been modified.\n\n",
    );
    for server in &servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    for (keyword, words) in [("search", &search), ("options", &options)] {
        if !words.is_empty() {
            let _ = writeln!(text, "{keyword} {}", words.join(" "));
        }
    }
    let names: Vec<&str> = overridden
        .iter()
        .filter(|(yes, _)| *yes)
        .map(|(_, name)| *name)
        .collect();
    let _ = write!(
        text,
        "\n# Based on host file: '/etc/resolv.conf' ({kind})\n# Overrides: [{}]\n",
        names.join(" ")
    );
    text
}

fn is_loopback(server: &str) -> bool {
    // A scope (`fe80::1%eth0`) is no part of the address.
    let address = server.split('%').next().unwrap_or_default();
    address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What resolv.conf(5) says, as far as it is kept; the last `search` or `domain` line counts.
#[derive(Default)]
struct Parsed<'a> {
    servers: Vec<&'a str>,
    search: Vec<&'a str>,
    options: Vec<&'a str>,
}

impl<'a> Parsed<'a> {
    fn of(text: &'a str) -> Parsed<'a> {
        let mut parsed = Parsed::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => parsed.servers.extend(words.next()),
                Some("search" | "domain") => parsed.search = words.collect(),
                Some("options") => parsed.options.extend(words),
                _ => {}
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|&word| word.to_owned()).collect()
    }

    fn body(text: &str) -> Vec<&str> {
        text.lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect()
    }

    #[test]
    fn hosts_are_dockers() {
        let extra = strings(&["db:10.0.0.1", "six:2001:db8::1", "eq=[::2]"]);
        let text = hosts(
            "box",
            "example.org",
            &["172.17.0.2".parse().unwrap()],
            &extra,
            true,
        );
        assert_eq!(
            text,
            "127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::\tip6-localnet\n\
             ff00::\tip6-mcastprefix\n\
             ff02::1\tip6-allnodes\n\
             ff02::2\tip6-allrouters\n\
             10.0.0.1\tdb\n\
             2001:db8::1\tsix\n\
             ::2\teq\n\
             172.17.0.2\tbox.example.org box\n"
        );
        assert_eq!(hosts("box", "", &[], &[], false), "127.0.0.1\tlocalhost\n");
        assert_eq!(hostname("box"), "box\n");
    }

    #[test]
    fn linked_containers_move() {
        let text = "172.17.0.2\tdb box\n172.17.0.3\tdbs\nfd00::2\tdb box\n# db\n";
        assert_eq!(
            replace_linked(text, "db", &["172.17.0.9".parse().unwrap()]),
            "172.17.0.9\tdb box\n172.17.0.3\tdbs\nfd00::2\tdb box\n# db\n"
        );
    }

    #[test]
    fn addresses_change_and_what_else_is_in_hosts_stays() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (old, new) = (
            [address("10.0.0.2")],
            [address("10.0.0.2"), address("10.1.0.2")],
        );
        let text = hosts("box", "", &old, &[], false) + "10.9.9.9\tmine\n";
        let changed = replace_addresses(&text, "box", "", &old, &new);
        assert_eq!(
            changed,
            "127.0.0.1\tlocalhost\n10.9.9.9\tmine\n10.0.0.2\tbox\n10.1.0.2\tbox\n"
        );
        assert_eq!(
            replace_addresses(&changed, "box", "", &new, &[]),
            "127.0.0.1\tlocalhost\n10.9.9.9\tmine\n"
        );
    }

    #[test]
    fn resolvers_are_chosen_as_docker_does() {
        let host =
            "nameserver 127.0.0.53\nnameserver 10.0.0.1 # office\nsearch a b\noptions edns0\n";
        let none = DnsSettings::default();
        assert_eq!(resolv_conf(host, none, Resolution::Host), host);
        assert_eq!(
            body(&resolv_conf(host, none, Resolution::Isolated)),
            ["nameserver 10.0.0.1", "search a b", "options edns0"]
        );
        assert_eq!(
            body(&resolv_conf("nameserver ::1\n", none, Resolution::Isolated)),
            ["nameserver 8.8.8.8", "nameserver 8.8.4.4"]
        );
        let internal = Resolution::Internal("127.0.0.11".parse().unwrap());
        assert_eq!(
            body(&resolv_conf(host, none, internal)),
            [
                "nameserver 127.0.0.11",
                "search a b",
                "options edns0 ndots:0"
            ]
        );
        let (servers, search) = (strings(&["127.0.0.1"]), strings(&["."]));
        let settings = DnsSettings {
            servers: &servers,
            search: &search,
            options: &[],
        };
        let text = resolv_conf(host, settings, Resolution::Isolated);
        assert_eq!(body(&text), ["nameserver 127.0.0.1", "options edns0"]);
        assert!(
            text.ends_with("(legacy)\n# Overrides: [nameservers search]\n"),
            "{text}"
        );
    }
}
