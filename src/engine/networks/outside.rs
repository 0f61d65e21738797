//! What slirp is told: the networks' files, and that they have changed.
//!
//! A file is written before slirp is told, and before anything runs that may ask for a name in it.
//! Both are done under one lock, so that an older state never replaces a newer one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::PoisonError;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::endpoints;
use crate::container::record::Record;
use crate::engine::Engine;
use crate::engine::error::{Error, Result};
use crate::network;
use crate::network::store::Member;
use crate::slirp::state::{DIRECTORY, MemberState, NetworkState, Publication};
use crate::slirp::{Answer, MOST_SOCKETS, Order};
use crate::sys::atomic::{self, Durability};
use crate::sys::fdpass;

/// Sockets that are bound, and what for.
pub(super) type Bound = Vec<(Publication, OwnedFd)>;

/// How long slirp may take to do as it is told.
const PATIENCE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// The longest answer, in bytes.
const LONGEST: usize = 64 << 10;

impl Engine {
    /// Writes a network's file, and tells slirp of it.
    pub(super) fn tell_outside(&self, network: &network::Record) {
        self.tell(network, &Bound::new(), None);
    }

    /// The same with sockets that are bound already, and waits until all is published so. What cannot
    /// be is told; where slirp dies over it, the next one sees to it.
    pub(super) fn publish_outside(
        &self,
        network: &network::Record,
        bound: &Bound,
    ) -> Vec<(Publication, io::Error)> {
        let Ok((ears, mouth)) = fdpass::pair() else {
            self.tell(network, bound, None);
            return Vec::new();
        };
        self.tell(network, bound, Some(mouth.as_fd()));
        drop(mouth);
        let failed = hear(&ears).unwrap_or_else(|error| {
            tracing::warn!("slirp does not say what it publishes: {error}");
            Vec::new()
        });
        let failed = failed.into_iter();
        failed
            .map(|(publication, number)| (publication, io::Error::from_raw_os_error(number)))
            .collect()
    }

    fn tell(&self, network: &network::Record, bound: &Bound, answer: Option<BorrowedFd<'_>>) {
        if network.driver != "bridge" {
            return;
        }
        let mut keeper = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_state(network);
        // One message at least, with as many sockets as it takes.
        let mut rest = bound.as_slice();
        loop {
            let (some, more) = rest.split_at(rest.len().min(MOST_SOCKETS));
            let answer = answer.filter(|_| more.is_empty());
            let order = Order::Changed {
                network: network.id.clone(),
                sockets: some.iter().map(|(publication, _)| *publication).collect(),
                answer: answer.is_some(),
            };
            let sockets = some.iter().map(|(_, socket)| socket.as_fd());
            let sockets: Vec<_> = sockets.chain(answer).collect();
            let told =
                serde_json::to_value(&order).map(|order| self.keeper.tell_slirp(order, &sockets));
            if let Ok(Err(error)) = told {
                tracing::error!("slirp cannot be told of network {}: {error}", network.name);
            }
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        self.pin_again(&mut keeper);
    }

    /// Writes the file of a network that slirp is about to be given, which serves it from the first.
    pub(super) fn foretell(&self, network: &network::Record) {
        let _turn = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_state(network);
    }

    fn write_state(&self, network: &network::Record) {
        let mut state = state(network, &self.networks.members(&network.id));
        state.host_loopback = self.settings.host_loopback && !network.internal;
        let root = &self.settings.exec_root;
        let written = serde_json::to_vec(&state)
            .map_err(std::io::Error::from)
            .and_then(|bytes| {
                std::fs::create_dir_all(root.join(DIRECTORY))?;
                atomic::write(
                    &NetworkState::path(root, &network.id),
                    &bytes,
                    Durability::Lazy,
                )
            });
        if let Err(error) = written {
            tracing::error!(
                "what is in network {} cannot be written: {error}",
                network.name
            );
        }
    }

    /// Replaces a keeper that has ended, with all that it held.
    ///
    /// # Errors
    /// Where none can be made.
    pub fn replace_keeper(&self) -> Result<()> {
        let mut known = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        // Whatever is asked of it: one that is gone is made anew first.
        let asked = self.keeper.status();
        asked.map_err(|error| Error::system(&error))?;
        self.pin_again(&mut known);
        Ok(())
    }

    /// Has a keeper that was made anew hold what the one before held; its slirp reads the rest.
    fn pin_again(&self, known: &mut i32) {
        let keeper = self.keeper.pid();
        if std::mem::replace(known, keeper) == keeper {
            return;
        }
        for network in self.networks.list() {
            if let Some(bridge) = self.networks.bridge(&network.id)
                && let Err(error) = self.keeper.pin(&network.id, bridge.namespace())
            {
                tracing::error!("the network {} is not served: {error}", network.name);
            }
        }
    }

    /// Removes a network's file.
    pub(super) fn forget_outside(&self, network: &str) {
        let _turn = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = std::fs::remove_file(NetworkState::path(&self.settings.exec_root, network));
    }

    /// Removes the files of networks that there are not.
    pub(super) fn forget_unknown(&self) {
        let root = &self.settings.exec_root;
        for entry in std::fs::read_dir(root.join(DIRECTORY))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
            if id.is_none_or(|id| self.networks.find(id).is_err()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Tells the networks of a running container that it is called otherwise.
    pub(in crate::engine) fn rename_in_networks(&self, record: &Record, old: &str) {
        self.networks.rename(record.id.as_str(), old, &record.name);
        for endpoint in record.endpoints.values() {
            if let Ok(network) = self.networks.find(&endpoint.settings.network_id) {
                self.tell_outside(&network);
            }
        }
    }
}

/// Waits for what slirp answers; nothing where it is gone.
fn hear(ears: &OwnedFd) -> io::Result<Answer> {
    let mut ready = [PollFd::new(ears, PollFlags::IN)];
    let answered = rustix::io::retry_on_intr(|| rustix::event::poll(&mut ready, Some(&PATIENCE)))?;
    if answered == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut buffer = vec![0; LONGEST];
    match fdpass::receive(ears, &mut buffer)? {
        (0, _) => Ok(Answer::new()),
        (length, _) => Ok(serde_json::from_slice(
            buffer.get(..length).unwrap_or_default(),
        )?),
    }
}

/// A network as slirp is to see it.
fn state(network: &network::Record, members: &[Member]) -> NetworkState {
    let members = members.iter().map(|member| MemberState {
        container: member.container.clone(),
        names: member.names.clone(),
        links: member.links.clone(),
        addresses: member.ipv4.into_iter().chain(member.ipv6).collect(),
        servers: member.servers.clone(),
        ports: member.ports.clone(),
    });
    NetworkState {
        id: network.id.clone(),
        name: network.name.clone(),
        bridge: network.bridge(),
        subnets: network.subnets.iter().map(|subnet| subnet.prefix).collect(),
        gateways: network
            .subnets
            .iter()
            .map(|subnet| subnet.gateway)
            .collect(),
        internal: network.internal,
        mtu: network.mtu(),
        names: !network.is_default(),
        host_loopback: false,
        members: members.collect(),
    }
}

/// Names that a container alone knows others by: `container:name`.
pub(super) fn links(settings: &crate::api::network::EndpointSettings) -> Vec<(String, String)> {
    let links = settings.links.iter().flatten().map(|link| {
        let (container, name) = link.split_once(':').unwrap_or((link, link));
        (name.to_owned(), container.to_owned())
    });
    links.collect()
}

/// Name servers that a container asks for, or the daemon was told of.
pub(super) fn servers(record: &Record, daemons: &[String]) -> Vec<std::net::IpAddr> {
    let own = record.host_config.dns.iter().flatten();
    let own: Vec<_> = own
        .filter_map(|server| endpoints::address(server))
        .collect();
    match own.is_empty() {
        true => daemons
            .iter()
            .filter_map(|server| endpoints::address(server))
            .collect(),
        false => own,
    }
}
