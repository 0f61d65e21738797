//! The modes `--network --pid --ipc --uts --userns --cgroupns`, and the namespaces that they mean.

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use super::{Error, Joined, namespace};
use crate::api::container::{ContainerConfig, HostConfig};
use crate::types::keep_id::{KeepId, KeepIdError};
use crate::types::sysctl::{self, Owner};
use crate::userns::plan::Namespace;

/// A namespace mode other than the network's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode<'a> {
    /// One of the container's own.
    Private,
    /// `--ipc none`: of its own, with no /dev/shm.
    None,
    /// The host's.
    Host,
    /// That of the container of this name or id.
    Container(&'a str),
}

impl<'a> Mode<'a> {
    /// Reads `--ipc`.
    pub fn ipc(mode: &'a str) -> Result<Mode<'a>, Error> {
        match mode {
            "" | "private" | "shareable" => Ok(Mode::Private),
            "none" => Ok(Mode::None),
            mode => host_or_container(mode).ok_or_else(|| invalid("IPC", mode)),
        }
    }

    /// Reads `--pid`.
    pub fn pid(mode: &'a str) -> Result<Mode<'a>, Error> {
        match mode {
            "" => Ok(Mode::Private),
            mode => host_or_container(mode).ok_or_else(|| invalid("PID", mode)),
        }
    }

    /// Reads `--uts`.
    pub fn uts(mode: &'a str) -> Result<Mode<'a>, Error> {
        own_or_host("UTS", mode)
    }

    /// Reads `--userns`: how ids are mapped in the namespace, of which there is one in any case.
    pub fn user(mode: &str) -> Result<Option<KeepId>, Error> {
        KeepId::of_mode(mode).map_err(|error| match error {
            KeepIdError::Unknown => invalid("user namespace", mode),
            error => invalid("user namespace", &format!("{mode}: {error}")),
        })
    }

    /// Reads `--cgroupns`.
    pub fn cgroup(mode: &'a str) -> Result<Mode<'a>, Error> {
        match mode {
            "private" => Ok(Mode::Private),
            mode => own_or_host("cgroup namespace", mode),
        }
    }
}

fn own_or_host<'a>(what: &'static str, mode: &'a str) -> Result<Mode<'a>, Error> {
    match mode {
        "" => Ok(Mode::Private),
        "host" => Ok(Mode::Host),
        mode => Err(invalid(what, mode)),
    }
}

fn host_or_container(mode: &str) -> Option<Mode<'_>> {
    if mode == "host" {
        return Some(Mode::Host);
    }
    let name = mode.strip_prefix("container:")?;
    (!name.is_empty()).then_some(Mode::Container(name))
}

fn invalid(what: &'static str, value: &str) -> Error {
    Error::Mode {
        what,
        value: value.to_owned(),
    }
}

/// `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkMode<'a> {
    /// Docker's default network.
    Default,
    /// A namespace with a loopback device alone.
    None,
    /// The host's.
    Host,
    /// That of the container of this name or id; empty where the name is missing.
    Container(&'a str),
    /// A network that a user made.
    Named(&'a str),
}

impl NetworkMode<'_> {
    /// Reads a mode; any word that is no mode is the name of a network.
    pub fn parse(mode: &str) -> NetworkMode<'_> {
        match mode {
            "" | "default" | "bridge" => NetworkMode::Default,
            "none" => NetworkMode::None,
            "host" => NetworkMode::Host,
            "container" => NetworkMode::Container(""),
            name => match name.strip_prefix("container:") {
                Some(name) => NetworkMode::Container(name),
                None => NetworkMode::Named(name),
            },
        }
    }
}

/// Where each namespace of a container comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resolved {
    pub user: Namespace,
    pub pid: Namespace,
    pub ipc: Namespace,
    /// Whether there is a /dev/shm of its own.
    pub shm: bool,
    pub uts: Namespace,
    pub net: Namespace,
    pub cgroup: Namespace,
}

pub(super) fn resolve(
    host: &HostConfig,
    config: &ContainerConfig,
    joined: &Joined,
) -> Result<Resolved, Error> {
    let pick = |mode, kind, target: Option<Namespace>| match mode {
        Mode::Private | Mode::None => Ok(Namespace::New),
        Mode::Host => Ok(Namespace::Host),
        Mode::Container(_) => target.ok_or(Error::NotJoined(kind)),
    };
    let ipc_mode = Mode::ipc(&host.ipc_mode)?;
    let net_mode = match NetworkMode::parse(&host.network_mode) {
        NetworkMode::Host => Mode::Host,
        NetworkMode::Container(name) => Mode::Container(name),
        _ => Mode::Private,
    };
    let net_mode = if config.network_disabled {
        Mode::Private
    } else {
        net_mode
    };
    let pid = Mode::pid(&host.pid_mode)?;
    let pid = pick(pid, LinuxNamespaceType::Pid, joined.pid)?;
    let ipc = pick(ipc_mode, LinuxNamespaceType::Ipc, joined.ipc)?;
    let net = pick(net_mode, LinuxNamespaceType::Network, joined.net)?;
    let uts = pick(Mode::uts(&host.uts_mode)?, LinuxNamespaceType::Uts, None)?;
    let cgroup = pick(
        Mode::cgroup(&host.cgroupns_mode)?,
        LinuxNamespaceType::Cgroup,
        None,
    )?;
    // What is joined is owned by a user namespace, and only inside that one are there rights over
    // it.
    let owner = [net, pid, ipc]
        .into_iter()
        .find(|namespace| matches!(namespace, Namespace::Join(_)));
    Ok(Resolved {
        user: owner.unwrap_or(Namespace::New),
        pid,
        ipc,
        shm: ipc_mode != Mode::None,
        uts,
        net,
        cgroup,
    })
}

impl Resolved {
    pub(super) fn to_oci(self) -> Vec<LinuxNamespace> {
        [
            (LinuxNamespaceType::Mount, Namespace::New),
            (LinuxNamespaceType::User, self.user),
            (LinuxNamespaceType::Network, self.net),
            (LinuxNamespaceType::Uts, self.uts),
            (LinuxNamespaceType::Pid, self.pid),
            (LinuxNamespaceType::Ipc, self.ipc),
            (LinuxNamespaceType::Cgroup, self.cgroup),
        ]
        .into_iter()
        .filter_map(|(kind, from)| namespace(kind, from))
        .collect()
    }
}

/// Refuses a sysctl that is not of a namespace of the container's, as runc does.
pub(super) fn check_sysctl(name: &str, namespaces: &Resolved) -> Result<(), Error> {
    let refused = |why| {
        Err(Error::Sysctl {
            name: name.to_owned(),
            why,
        })
    };
    // sysctl(8) takes both separators; the first one tells which.
    let dotted = match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name.replace('/', "."),
        _ => name.to_owned(),
    };
    match sysctl::owner(&dotted) {
        Some(Owner::Ipc) if namespaces.ipc == Namespace::Host => {
            return refused("is not allowed in the hosts ipc namespace");
        }
        Some(Owner::Network) if namespaces.net == Namespace::Host => {
            return refused("not allowed in host network namespace");
        }
        Some(_) => return Ok(()),
        None => {}
    }
    match dotted.as_str() {
        "kernel.domainname" if namespaces.uts != Namespace::Host => Ok(()),
        "kernel.hostname" if namespaces.uts != Namespace::Host => {
            refused("is not allowed as it conflicts with the OCI \"hostname\" field")
        }
        _ => refused("is not in a separate kernel namespace"),
    }
}
