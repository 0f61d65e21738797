//! The networks there are, on disk and in memory; who is in them, with which addresses.
//!
//! `networks/ID.json` in the data root is a network's record, replaced atomically and synced. All
//! else is in memory and made again at start. One lock guards all of it, held for moments and never
//! while the kernel is asked for anything but a file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::NetworkError;
use super::ipam::{self, IpamError, Pool};
use super::kernel::{Bridge, Shape};
use super::record::{
    OPTION_BRIDGE, OPTION_HOST_IP, OPTION_ICC, OPTION_MTU, Record, RequestError, Subnet, Wanted,
    check_ipv6,
};
use crate::api::network::{Ipam, IpamStatus, NetworkCreateRequest, NetworkStatus, SubnetStatus};
use crate::slirp::state::Publication;
use crate::sys::atomic::{self, Durability};
use crate::types::digest::Digest;
use crate::types::id::random_hex;
use crate::types::prefix::Prefix;
use crate::types::timestamp::Timestamp;

/// The networks that are there before any user comes: names and drivers.
const PREDEFINED: [(&str, &str); 3] = [("bridge", "bridge"), ("host", "host"), ("none", "null")];

/// A container's place in a network while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The endpoint's id.
    pub endpoint: String,
    /// The container's id.
    pub container: String,
    /// The container's name.
    pub name: String,
    /// Its IPv4 address.
    pub ipv4: Option<IpAddr>,
    /// Its IPv6 address.
    pub ipv6: Option<IpAddr>,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// The names that it is found by.
    pub names: Vec<String>,
    /// Names that it alone knows others by, and who those are.
    pub links: Vec<(String, String)>,
    /// Its own name servers.
    pub servers: Vec<IpAddr>,
    /// Its published ports, where it has its default route.
    pub ports: Vec<Publication>,
}

/// The networks.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// IPv6 addresses that this user's networks are given.
    own: Prefix,
    state: Mutex<BTreeMap<String, Live>>,
}

/// A network, and what is in use of it.
#[derive(Debug)]
struct Live {
    record: Record,
    pools: Vec<Pool>,
    members: BTreeMap<String, Member>,
    bridge: Option<Arc<Bridge>>,
}

impl Live {
    fn new(record: Record) -> Self {
        let pools = record.subnets.iter().map(pool_of).collect();
        Self {
            record,
            pools,
            members: BTreeMap::new(),
            bridge: None,
        }
    }

    fn pool(&mut self, ipv6: bool) -> Option<&mut Pool> {
        self.pools
            .iter_mut()
            .find(|pool| pool.subnet().is_ipv6() == ipv6)
    }
}

/// The addresses of a subnet that are free for members.
fn pool_of(subnet: &Subnet) -> Pool {
    let mut pool = Pool::new(subnet.prefix, subnet.range);
    // What is reserved twice is reserved.
    for address in [subnet.gateway].iter().chain(subnet.auxiliary.values()) {
        let _ = pool.take(Some(*address));
    }
    pool
}

/// The id of a predefined network: the same in every daemon.
fn predefined_id(name: &str) -> String {
    Digest::of(format!("moss network {name}").as_bytes()).hex()
}

impl Store {
    /// Opens the networks under `data_root`; `reserved` are subnets that the host reaches, and `host`
    /// is what tells this host and user from others.
    ///
    /// # Errors
    /// When the directory cannot be made or read; damaged records are logged and left alone.
    pub fn open(data_root: &Path, reserved: &[Prefix], host: &str) -> io::Result<Self> {
        let root = data_root.join("networks");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)?;
        let mut state = BTreeMap::new();
        for entry in fs::read_dir(&root)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                // A record that was being written when its writer was killed.
                let _ = fs::remove_file(&path);
                continue;
            }
            match fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<Record>(&bytes)?)) {
                Ok(record) => drop(state.insert(record.id.clone(), Live::new(record))),
                Err(error) => tracing::error!("{} cannot be read: {error}", path.display()),
            }
        }
        let store = Self {
            root,
            own: unique_local(host),
            state: Mutex::new(state),
        };
        for (name, driver) in PREDEFINED {
            if !store.lock().contains_key(&predefined_id(name))
                && let Err(error) = store.add_predefined(name, driver, reserved)
            {
                tracing::error!("the network {name} cannot be made: {error}");
            }
        }
        Ok(store)
    }

    fn add_predefined(
        &self,
        name: &str,
        driver: &str,
        reserved: &[Prefix],
    ) -> Result<(), NetworkError> {
        let is_bridge = driver == "bridge";
        let options = [
            ("com.docker.network.bridge.default_bridge", "true"),
            (OPTION_ICC, "true"),
            ("com.docker.network.bridge.enable_ip_masquerade", "true"),
            (OPTION_HOST_IP, "0.0.0.0"),
            (OPTION_BRIDGE, "docker0"),
            (OPTION_MTU, "1500"),
        ];
        let options = options.iter().filter(|_| is_bridge);
        let record = Record {
            id: predefined_id(name),
            name: name.to_owned(),
            created: Timestamp::now(),
            driver: driver.to_owned(),
            ipv4: true,
            ipv6: false,
            internal: false,
            attachable: false,
            config_only: false,
            config_from: String::new(),
            options: options
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            labels: BTreeMap::new(),
            asked: Ipam {
                driver: "default".to_owned(),
                ..Ipam::default()
            },
            subnets: Vec::new(),
        };
        let any = Wanted {
            prefix: None,
            range: None,
            gateway: None,
            auxiliary: BTreeMap::new(),
        };
        let wanted = if is_bridge { vec![any] } else { Vec::new() };
        self.add(record, wanted, reserved).map(drop)
    }

    /// Makes a network.
    pub fn create(
        &self,
        request: NetworkCreateRequest,
        reserved: &[Prefix],
    ) -> Result<Record, NetworkError> {
        let (mut record, wanted) = Record::of(request, random_hex())?;
        let wanted = match &*record.config_from {
            _ if record.config_only => Vec::new(),
            "" => wanted,
            name => {
                let from = self.find(name).ok().filter(|from| from.config_only);
                let from = from.ok_or_else(|| {
                    let text = format!("configuration network {name:?} does not exist");
                    RequestError::NotFound(text)
                })?;
                let request = NetworkCreateRequest {
                    name: record.name.clone(),
                    enable_ipv4: Some(from.ipv4),
                    enable_ipv6: Some(from.ipv6),
                    ipam: Some(from.asked.clone()),
                    ..NetworkCreateRequest::default()
                };
                let (merged, wanted) = Record::of(request, record.id.clone())?;
                record = Record {
                    ipv4: merged.ipv4,
                    ipv6: merged.ipv6,
                    asked: merged.asked,
                    options: from.options,
                    ..record
                };
                wanted
            }
        };
        if record.config_only {
            "null".clone_into(&mut record.driver);
        }
        self.add(record, wanted, reserved)
    }

    fn add(
        &self,
        mut record: Record,
        wanted: Vec<Wanted>,
        reserved: &[Prefix],
    ) -> Result<Record, NetworkError> {
        let mut state = self.lock();
        if state.values().any(|other| other.record.name == record.name) {
            return Err(NetworkError::NameTaken(record.name));
        }
        let same = |other: &&Live| {
            other.record.driver == "bridge" && other.record.bridge() == record.bridge()
        };
        if record.driver == "bridge"
            && let Some(other) = state.values().find(same)
        {
            return Err(NetworkError::SameBridge {
                bridge: record.bridge(),
                other: other.record.id.clone(),
                id: record.id,
            });
        }
        let subnets = state.values().flat_map(|other| &other.record.subnets);
        let taken: Vec<Prefix> = subnets.map(|subnet| subnet.prefix).collect();
        // What was chosen for this network's other family overlaps nothing of this one.
        for wanted in wanted {
            let ipv6 =
                (record.ipv6 && (!record.ipv4 || !record.subnets.is_empty())).then_some(self.own);
            let prefix = match wanted.prefix {
                Some(prefix) => {
                    // dockerd does not look where a range is asked for.
                    let overlaps = taken.iter().any(|other| other.overlaps(&prefix));
                    if overlaps && (wanted.range.is_none() || taken.contains(&prefix)) {
                        return Err(IpamError::Overlap.into());
                    }
                    prefix
                }
                None => ipam::choose(ipv6, &taken, reserved)?,
            };
            let mut pool = Pool::new(prefix, wanted.range);
            let gateway = pool
                .take(wanted.gateway)
                .map_err(|source| NetworkError::Gateway {
                    gateway: wanted.gateway.map(|it| it.to_string()).unwrap_or_default(),
                    source,
                })?;
            if let Some(gateway) = Prefix::new(gateway, prefix.length()) {
                check_ipv6(gateway)?;
            }
            record.subnets.push(Subnet {
                prefix,
                range: wanted.range,
                gateway,
                auxiliary: wanted.auxiliary,
            });
        }
        let failed = |source| NetworkError::Io {
            doing: "create",
            name: record.name.clone(),
            source,
        };
        let bytes = serde_json::to_vec(&record).map_err(|error| failed(error.into()))?;
        atomic::write(&self.path(&record.id), &bytes, Durability::Synced).map_err(failed)?;
        state.insert(record.id.clone(), Live::new(record.clone()));
        Ok(record)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.root.join(format!("{id}.json"))
    }

    /// All networks, by name.
    pub fn list(&self) -> Vec<Record> {
        let mut all: Vec<Record> = self
            .lock()
            .values()
            .map(|live| live.record.clone())
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The network of this id, name or beginning of an id.
    pub fn find(&self, term: &str) -> Result<Record, NetworkError> {
        let state = self.lock();
        if let Some(live) = state.get(term) {
            return Ok(live.record.clone());
        }
        if let Some(live) = state.values().find(|live| live.record.name == term) {
            return Ok(live.record.clone());
        }
        let mut found = state
            .values()
            .filter(|live| !term.is_empty() && live.record.id.starts_with(term));
        let first = found
            .next()
            .ok_or_else(|| NetworkError::NotFound(term.to_owned()))?;
        match found.count() {
            0 => Ok(first.record.clone()),
            more => Err(NetworkError::Ambiguous {
                term: term.to_owned(),
                count: more + 1,
            }),
        }
    }

    /// Removes a network that nobody is in, and gives its bridge.
    pub fn remove(&self, id: &str) -> Result<Option<Arc<Bridge>>, NetworkError> {
        let mut state = self.lock();
        let live = state
            .get(id)
            .ok_or_else(|| NetworkError::NotFound(id.to_owned()))?;
        if live.record.is_predefined() {
            return Err(NetworkError::Predefined(live.record.name.clone()));
        }
        let dependent = |other: &&Live| other.record.config_from == live.record.name;
        if live.record.config_only && state.values().any(|other| dependent(&other)) {
            let text = format!("configuration network {:?} is in use", live.record.name);
            return Err(RequestError::Forbidden(text).into());
        }
        if !live.members.is_empty() {
            let members = live.members.values();
            let members =
                members.map(|it| format!("name:{:?} id:{:?}", it.name, short(&it.endpoint)));
            return Err(NetworkError::InUse {
                name: live.record.name.clone(),
                members: members.collect::<Vec<_>>().join(", "),
            });
        }
        match fs::remove_file(self.path(id)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(NetworkError::Io {
                doing: "remove",
                name: live.record.name.clone(),
                source,
            }),
            _ => Ok(state.remove(id).and_then(|live| live.bridge)),
        }
    }

    /// Who is in a network.
    pub fn members(&self, id: &str) -> Vec<Member> {
        let state = self.lock();
        let members = state
            .get(id)
            .into_iter()
            .flat_map(|live| live.members.values());
        members.cloned().collect()
    }

    /// How much of a network's addresses is in use.
    pub fn status(&self, id: &str) -> NetworkStatus {
        let state = self.lock();
        let pools = state.get(id).into_iter().flat_map(|live| &live.pools);
        let subnets = pools.map(|pool| {
            let (ips_in_use, dynamic_ips_available) = pool.counts();
            let status = SubnetStatus {
                ips_in_use,
                dynamic_ips_available,
            };
            (pool.subnet().to_string(), status)
        });
        NetworkStatus {
            ipam: IpamStatus {
                subnets: subnets.collect(),
            },
        }
    }

    /// Puts a container into a network, with the addresses that it wants or any.
    pub fn join(
        &self,
        id: &str,
        mut member: Member,
        mac: Option<[u8; 6]>,
    ) -> Result<Member, NetworkError> {
        let mut state = self.lock();
        let live = state
            .get_mut(id)
            .ok_or_else(|| NetworkError::NotFound(id.to_owned()))?;
        if live.record.config_only {
            let text = "cannot create endpoint on configuration-only network".to_owned();
            return Err(RequestError::Forbidden(text).into());
        }
        if live.members.values().any(|other| other.name == member.name) {
            return Err(RequestError::Forbidden(format!(
                "endpoint with name {} already exists in network {}",
                member.name, live.record.name
            ))
            .into());
        }
        let (ipv4, ipv6) = (live.record.ipv4, live.record.ipv6);
        if live.record.driver == "bridge" {
            member.ipv4 = match live.pool(false).filter(|_| ipv4) {
                Some(pool) => Some(pool.take(member.ipv4)?),
                None => None,
            };
            let six = live
                .pool(true)
                .filter(|_| ipv6)
                .map(|pool| pool.take(member.ipv6));
            member.ipv6 = match six {
                Some(Ok(address)) => Some(address),
                Some(Err(error)) => {
                    if let Some((pool, address)) = live.pool(false).zip(member.ipv4) {
                        pool.give_back(address);
                    }
                    return Err(error.into());
                }
                None => None,
            };
            if let Some(address) = member.ipv4.or(member.ipv6) {
                member.mac = mac.unwrap_or_else(|| super::kernel::mac_of(address));
            }
        }
        live.members.insert(member.endpoint.clone(), member.clone());
        Ok(member)
    }

    /// Takes a container out of a network. Its addresses are nobody's until [`Store::free`].
    pub fn leave(&self, id: &str, endpoint: &str) -> Option<Member> {
        self.lock().get_mut(id)?.members.remove(endpoint)
    }

    /// Lets others have the addresses of one that has left.
    pub fn free(&self, id: &str, member: &Member) {
        let mut state = self.lock();
        let Some(live) = state.get_mut(id) else {
            return;
        };
        for address in [member.ipv4, member.ipv6].into_iter().flatten() {
            if let Some(pool) = live.pool(address.is_ipv6()) {
                pool.give_back(address);
            }
        }
    }

    /// Calls a container by another name in all its networks.
    pub fn rename(&self, container: &str, old: &str, name: &str) {
        let mut state = self.lock();
        let members = state
            .values_mut()
            .flat_map(|live| live.members.values_mut());
        for member in members.filter(|member| member.container == container) {
            name.clone_into(&mut member.name);
            for known in member.names.iter_mut().filter(|known| *known == old) {
                name.clone_into(known);
            }
        }
    }

    /// Notes where a member's ports are published, and gives where they were.
    pub fn set_ports(&self, id: &str, endpoint: &str, ports: Vec<Publication>) -> Vec<Publication> {
        let mut state = self.lock();
        let member = state
            .get_mut(id)
            .and_then(|live| live.members.get_mut(endpoint));
        member.map_or_else(Vec::new, |member| {
            std::mem::replace(&mut member.ports, ports)
        })
    }

    /// All places of the host that ports are published at.
    pub fn published(&self) -> Vec<Publication> {
        let state = self.lock();
        let members = state.values().flat_map(|live| live.members.values());
        members
            .flat_map(|member| member.ports.iter().copied())
            .collect()
    }

    /// The kernel's side of a network, if it is made.
    pub fn bridge(&self, id: &str) -> Option<Arc<Bridge>> {
        self.lock().get(id)?.bridge.clone()
    }

    /// Notes the kernel's side of a network.
    pub fn set_bridge(&self, id: &str, bridge: Option<Arc<Bridge>>) {
        if let Some(live) = self.lock().get_mut(id) {
            live.bridge = bridge;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Live>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// What the kernel's side is made from.
    pub fn shape(&self) -> Shape {
        let gateways = self.subnets.iter();
        Shape {
            bridge: self.bridge(),
            mtu: self.mtu(),
            gateways: gateways
                .filter_map(|subnet| Prefix::new(subnet.gateway, subnet.prefix.length()))
                .collect(),
            icc: self.icc(),
        }
    }
}

/// As much of an id as people are shown.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// A block of unique local addresses (RFC 4193) that is this host's and user's alone, as far as can
/// be had without asking anyone.
fn unique_local(host: &str) -> Prefix {
    let digest = Digest::of(host.as_bytes()).hex();
    let bits = u128::from_str_radix(digest.get(..10).unwrap_or_default(), 16).unwrap_or_default();
    let address = Ipv6Addr::from((0xfd << 120) | (bits << 80));
    Prefix::new(address.into(), 48).unwrap_or_else(|| Prefix::single(address.into()))
}

#[cfg(test)]
mod tests;
