//! The host's name servers: which they are.
//!
//! /etc/resolv.conf is looked at for every question that is passed on, and read again where it has
//! changed: a laptop that moves to another network needs nothing done.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The port of name servers.
const PORT: u16 = 53;

/// As many are asked.
const MOST: usize = 3;

/// The host's resolv.conf.
#[derive(Debug)]
pub struct Upstreams {
    path: PathBuf,
    stamp: Option<(u64, i64, i64, u64)>,
    servers: Vec<SocketAddr>,
}

impl Upstreams {
    /// Those that this file names.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            stamp: None,
            servers: Vec::new(),
        }
    }

    /// Who is asked, in this order.
    pub fn servers(&mut self) -> &[SocketAddr] {
        let stamp = fs::metadata(&self.path).ok().map(|file| {
            let size = file.len();
            (file.ino(), file.mtime(), file.mtime_nsec(), size)
        });
        if stamp != self.stamp || stamp.is_none() {
            let text = fs::read(&self.path).unwrap_or_default();
            self.servers = parse(&String::from_utf8_lossy(&text));
            self.stamp = stamp;
        }
        &self.servers
    }
}

/// The name servers of a resolv.conf; this host where there is none (resolv.conf(5)).
fn parse(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let line = line.split(['#', ';']).next()?;
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        // A scope, which only link-local addresses have, is not understood here.
        words.next()?.parse::<IpAddr>().ok()
    });
    let mut servers: Vec<_> = lines
        .take(MOST)
        .map(|address| SocketAddr::new(address, PORT))
        .collect();
    if servers.is_empty() {
        servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
    }
    servers
}

/// Name servers that a container names itself.
pub fn named(servers: &[IpAddr]) -> Vec<SocketAddr> {
    servers
        .iter()
        .map(|address| SocketAddr::new(*address, PORT))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_the_files_and_follow_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let mut upstreams = Upstreams::new(&path);
        assert_eq!(upstreams.servers()[0].to_string(), "127.0.0.1:53");
        fs::write(
            &path,
            "# x\nnameserver 127.0.0.53 # local\nsearch a\nnameserver ::1\n",
        )
        .unwrap();
        let found: Vec<_> = upstreams
            .servers()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, ["127.0.0.53:53", "[::1]:53"]);
        fs::write(&path, "nameserver 10.0.0.1\nnameserver fe80::1%eth0\n").unwrap();
        assert_eq!(upstreams.servers().len(), 1);
    }
}
