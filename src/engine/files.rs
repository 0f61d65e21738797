//! The files of the engine's that are bound over an image's own: /etc/hosts, /etc/hostname and
//! /etc/resolv.conf. They lie in a container's directory, and the container may write to them.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::api::container::HostConfig;
use crate::container::files::{self, DnsSettings, Resolution};
use crate::container::record::Record;
use crate::container::spec::NetworkMode;
use crate::engine::Engine;
use crate::engine::containers::FILES;
use crate::engine::error::{Error, Result};
use crate::engine::networks::{Resolver, Surroundings};
use crate::network::kernel::RESOLVER;

/// What stands for the host's address in `--add-host`.
const HOST_GATEWAY: &str = "host-gateway";

/// Bytes of such a file that are read: the container says how large it is.
const LIMIT: u64 = 1 << 20;

/// What `--add-host` asks for. What stands for the host is what the daemon was told; else the host is
/// at the gateway's address, and in its own network at the loopback address; where there is no gateway
/// it is nowhere.
fn extra_hosts(host: &HostConfig, told: &[IpAddr], gateway: Option<IpAddr>) -> Vec<String> {
    let here = (host.network_mode == "host").then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let found: Vec<IpAddr> = here.or(gateway).into_iter().collect();
    let gateways = if told.is_empty() { &found } else { told };
    let entries = host.extra_hosts.iter().flatten();
    let resolved = entries.flat_map(|entry| match entry.strip_suffix(HOST_GATEWAY) {
        None => vec![entry.clone()],
        Some(name) => gateways.iter().map(|ip| format!("{name}{ip}")).collect(),
    });
    resolved.collect()
}

impl Engine {
    /// Sees to it that the files exist which are bound over the image's own, and are root's inside.
    pub(super) fn make_files(&self, record: &Record, directory: &Path) -> Result<()> {
        let owners = self.owners(record)?;
        let root = owners.and_then(|map| map.outside(0, 0));
        for path in FILES.iter().map(|(file, _)| directory.join(file)) {
            std::fs::File::options()
                .append(true)
                .create(true)
                .open(&path)
                .and_then(|file| match root {
                    Some((uid, gid)) => fchown(file, Some(uid), Some(gid)),
                    None => Ok(()),
                })
                .map_err(|error| Error::io(format!("cannot make {}", path.display()), &error))?;
        }
        Ok(())
    }

    /// Writes /etc/resolv.conf of a container by the host's as it is now: that changes with the
    /// networks that the host joins.
    pub(super) fn write_resolv_conf(
        &self,
        record: &Record,
        directory: &Path,
        surroundings: &Surroundings,
    ) -> Result<()> {
        let content = self.resolv_conf(record, surroundings);
        write_file(&directory.join(FILES[0].0), content.as_bytes())
    }

    /// Writes /etc/hosts, /etc/hostname and /etc/resolv.conf of a container.
    pub(super) fn write_files(
        &self,
        record: &Record,
        directory: &Path,
        surroundings: &Surroundings,
    ) -> Result<()> {
        self.write_resolv_conf(record, directory, surroundings)?;
        let name = &record.config.hostname;
        let (told, gateway) = (
            &self.settings.containers.host_gateways,
            surroundings.gateway.or_else(|| self.default_gateway()),
        );
        let mut extra = extra_hosts(&record.host_config, told, gateway);
        extra.extend(self.linked_hosts(record));
        let generic = || {
            let domain = &record.config.domainname;
            files::hosts(name, domain, &surroundings.addresses, &extra, true).into_bytes()
        };
        // In the host's network the host's names are known, unless more are asked for (moby,
        // libnetwork/sandbox_dns_unix.go, `buildHostsFile`).
        let hosts = match NetworkMode::parse(&record.host_config.network_mode) {
            NetworkMode::Host if extra.is_empty() => {
                std::fs::read("/etc/hosts").unwrap_or_else(|_| generic())
            }
            _ => generic(),
        };
        let contents = [files::hostname(name).into_bytes(), hosts];
        for ((file, _), content) in FILES[1..].iter().zip(contents) {
            write_file(&directory.join(file), &content)?;
        }
        Ok(())
    }

    /// A running container has come into a network, or out of one: puts its new addresses in place of
    /// the old in its /etc/hosts, which may have been changed otherwise, and makes its
    /// /etc/resolv.conf anew unless that was.
    pub(super) fn update_files(
        &self,
        record: &Record,
        directory: &Path,
        [old, new]: [&Surroundings; 2],
    ) -> std::io::Result<()> {
        let hosts = directory.join("hosts");
        let text = read_file(&hosts)?;
        let (name, domain) = (&record.config.hostname, &record.config.domainname);
        let changed = files::replace_addresses(&text, name, domain, &old.addresses, &new.addresses);
        std::fs::write(&hosts, changed)?;
        let resolv = directory.join("resolv.conf");
        match read_file(&resolv)? == self.resolv_conf(record, old) {
            true => std::fs::write(&resolv, self.resolv_conf(record, new)),
            false => Ok(()),
        }
    }

    /// The /etc/resolv.conf of a container, by the host's as it is now.
    fn resolv_conf(&self, record: &Record, surroundings: &Surroundings) -> String {
        let host = &record.host_config;
        let daemons = &self.settings.containers;
        let settings = DnsSettings {
            servers: own_or(host.dns.as_ref(), &daemons.dns),
            search: own_or(host.dns_search.as_ref(), &daemons.dns_search),
            options: own_or(host.dns_options.as_ref(), &daemons.dns_options),
        };
        let mode = NetworkMode::parse(&host.network_mode);
        let resolution = match (mode, surroundings.resolver) {
            (NetworkMode::Host, _) => Resolution::Host,
            (_, Some(Resolver::Names)) => Resolution::Internal(RESOLVER),
            (_, Some(Resolver::Forwarder(address))) => Resolution::Forwarder(address),
            (_, None) => Resolution::Isolated,
        };
        // A host without one has no name servers.
        let hosts = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        files::resolv_conf(&hosts, settings, resolution)
    }

    /// Where the files lie that are bound over an image's own: one that joins another's network has
    /// the other's.
    pub(super) fn directory_of_files(&self, record: &Record, own: &Path) -> PathBuf {
        let other = record.host_config.network_mode.strip_prefix("container:");
        let other = other.and_then(|name| self.containers.find(name).ok());
        other.map_or_else(|| own.to_owned(), |other| other.directory.clone())
    }
}

/// What one of [`FILES`] holds.
///
/// # Errors
/// `FileTooLarge` where the container has made it more than [`LIMIT`]; otherwise reading's.
pub(super) fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    match file.take(LIMIT + 1).read_to_string(&mut text)? as u64 {
        0..=LIMIT => Ok(text),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

/// Gives a file, which may be mounted in a container, this content. It is never emptied first, and left
/// alone where it has the content already: closing a file that was emptied waits for the disk on ext4.
fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    let settle = || {
        let mut options = std::fs::File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path)?;
        let is = file.metadata()?;
        if is.permissions().mode() & 0o7777 != 0o644 {
            file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
        }
        if is.len() == content.len() as u64 {
            let mut old = Vec::new();
            file.read_to_end(&mut old)?;
            if old == content {
                return Ok(());
            }
        }
        file.write_all_at(content, 0)?;
        if is.len() > content.len() as u64 {
            file.set_len(content.len() as u64)?;
        }
        Ok(())
    };
    settle().map_err(|error| Error::io(format!("cannot write {}", path.display()), &error))
}

/// What a container says, or what the daemon says where it says nothing.
fn own_or<'a>(own: Option<&'a Vec<String>>, daemons: &'a [String]) -> &'a [String] {
    own.filter(|own| !own.is_empty())
        .map_or(daemons, Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_cannot_make_its_files_too_large_to_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(LIMIT).unwrap();
        assert_eq!(read_file(&path).unwrap().len() as u64, LIMIT);
        file.set_len(1 << 40).unwrap();
        let refused = read_file(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_file_gets_its_content_in_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        for content in ["first", "same!", "same!", "short", "longer than that", ""] {
            write_file(&path, content.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        let inode = std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        write_file(&path, b"x").unwrap();
        let is = path.metadata().unwrap();
        assert_eq!(is.permissions().mode() & 0o7777, 0o644);
        assert_eq!(std::os::unix::fs::MetadataExt::ino(&is), inode);
    }
}
