//! From a record to a plan: the pure steps of `container::spec` and `userns`, given this host's
//! facts.

use std::borrow::Cow;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use oci_spec::runtime::LinuxSeccomp;

use crate::api::container::{ContainerConfig, HostConfig};
use crate::api::exec::ExecConfig;
use crate::container::files::{self, DnsSettings, Resolution};
use crate::container::record::{MountKind, Record};
use crate::container::spec::{self, EngineFile, HostMount, Joined, NetworkMode, SpecInput};
use crate::engine::containers::FILES;
use crate::engine::error::{Error, Kind, Result};
use crate::engine::networks::{Resolver, Surroundings};
use crate::engine::{Engine, devices};
use crate::network::kernel::RESOLVER;
use crate::userns::caps;
use crate::userns::from_spec::Context;
use crate::userns::plan::{
    CapabilitySets, FilterInstruction, Namespace, Plan, Process, ProcessIdentity,
};
use crate::userns::{seccomp, spec_to_plan};

/// Compiled filters of the profiles seen: nearly always one.
#[derive(Default)]
pub(super) struct FilterCache(Mutex<Vec<(LinuxSeccomp, Vec<FilterInstruction>)>>);

/// What stands for the host's address in `--add-host`.
const HOST_GATEWAY: &str = "host-gateway";

/// More profiles than this are not kept.
const KEPT_FILTERS: usize = 16;

impl FilterCache {
    fn compile(
        &self,
        profile: &LinuxSeccomp,
    ) -> std::result::Result<Vec<FilterInstruction>, seccomp::Error> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, filter)) = known.iter().find(|(candidate, _)| candidate == profile) {
            return Ok(filter.clone());
        }
        let filter = seccomp::compile(profile)?;
        if known.len() < KEPT_FILTERS {
            known.push((profile.clone(), filter.clone()));
        }
        Ok(filter)
    }
}

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

/// Where dockerd looks for its init before `$PATH`.
const LIBEXEC: [&str; 4] = [
    "/usr/local/libexec/docker",
    "/usr/libexec/docker",
    "/usr/local/lib/docker",
    "/usr/lib/docker",
];

/// The same, for programs that are plainly Docker's by their names.
const LIBEXEC_OF_DOCKER: [&str; 2] = ["/usr/local/libexec", "/usr/libexec"];

/// The init that the daemon was told of (moby, `daemon/config`, `lookupBinPath`).
fn find_init(name: &str) -> Result<PathBuf> {
    if name.starts_with('/') {
        return Ok(name.into());
    }
    let executable = |path: &PathBuf| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let docker = name.starts_with("docker-");
    let more: &[&str] = if docker { &LIBEXEC_OF_DOCKER } else { &[] };
    let libexec = LIBEXEC.iter().chain(more).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A name with a slash is no name to look for.
    let path: Vec<PathBuf> = match name.contains('/') {
        true => Vec::new(),
        false => std::env::split_paths(&path).collect(),
    };
    let mut candidates = libexec.chain(path).map(|directory| directory.join(name));
    candidates.find(executable).ok_or_else(|| {
        let message = format!("exec: {name:?}: executable file not found in $PATH");
        Error::new(Kind::System, message)
    })
}

/// Devices are asked for by what they can do (`--gpus`): there is no driver that has any, which
/// dockerd says at the start in these words.
fn refuse_devices(host: &HostConfig) -> Result<()> {
    let Some(request) = host.device_requests.iter().flatten().next() else {
        return Ok(());
    };
    let sets = request.capabilities.iter().flatten();
    let sets: Vec<_> = sets.map(|set| format!("[{}]", set.join(" "))).collect();
    let message = format!(
        "could not select device driver {:?} with capabilities: [{}]",
        request.driver,
        sets.join(" ")
    );
    Err(Error::new(Kind::System, message))
}

impl Engine {
    /// Refuses what can be refused without starting, as Docker's create does.
    pub(super) fn validate(&self, config: &ContainerConfig, host: &HostConfig) -> Result<()> {
        spec::validate(config, host, self.facts.spec)
            .map_err(|error| Error::invalid(error.to_string()))
    }

    /// A host's program that is the container's init, where it wants one and the daemon was told.
    pub(super) fn init_of(&self, record: &Record) -> Result<Option<PathBuf>> {
        let path = self.settings.containers.init_path.as_deref();
        let wanted = spec::wants_init(&record.host_config, &self.settings.defaults);
        path.filter(|_| wanted).map(find_init).transpose()
    }

    /// The plan of a container whose files lie in `directory`.
    pub(super) fn plan(
        &self,
        record: &Record,
        directory: &Path,
        joined: &Identities,
        init: Option<&Path>,
    ) -> Result<Plan> {
        refuse_devices(&record.host_config)?;
        let mounts: Vec<HostMount> = record
            .mounts
            .iter()
            .filter(|point| point.kind != MountKind::Tmpfs)
            .map(|point| {
                let (source, writable) = self.source_of(point);
                HostMount {
                    source,
                    layers: self.layers_of(point),
                    subpath: point.subpath.clone(),
                    destination: point.destination.clone(),
                    readonly: !writable,
                    propagation: point.propagation.clone(),
                    non_recursive: point.non_recursive,
                    readonly_non_recursive: point.readonly_non_recursive,
                }
            })
            .collect();
        let covered =
            |destination: &str| mounts.iter().any(|mount| mount.destination == destination);
        let directory = self.directory_of_files(record, directory);
        let files: Vec<EngineFile> = FILES
            .iter()
            .filter(|(_, destination)| !covered(destination))
            .map(|(name, destination)| EngineFile {
                source: directory.join(name),
                destination: (*destination).to_owned(),
            })
            .collect();
        let mut host = Cow::Borrowed(&record.host_config);
        if let Some(asked) = record
            .host_config
            .devices
            .as_ref()
            .filter(|it| !it.is_empty())
        {
            host.to_mut().devices = Some(devices::expand(asked)?);
        }
        let mut config = self.linked_config(record);
        config.user = self.user_of(record);
        let input = SpecInput {
            config: &config,
            host: &host,
            mounts: &mounts,
            files: &files,
            joined: joined.namespaces(),
            host_devices: &self.facts.devices,
            facts: self.facts.spec,
            defaults: &self.settings.defaults,
            init,
        };
        let spec = spec::build(&input).map_err(|error| spec_error(&error))?;
        let context = Context {
            id_map: self.map_of(&record.host_config.userns_mode)?,
            identities: &joined.all(),
            compile: &|profile| self.filters.compile(profile),
        };
        spec_to_plan(&spec, context).map_err(|error| Error::system(&error))
    }

    /// The process of an exec session: the container's own, with what the session asked for.
    pub(super) fn exec_process(
        &self,
        record: &Record,
        directory: &Path,
        exec: &ExecConfig,
        console_size: Option<(u16, u16)>,
    ) -> Result<Process> {
        let joined = self.joined(record).unwrap_or_default();
        let mut process = self.plan(record, directory, &joined, None)?.process;
        process.args = exec.cmd.clone().unwrap_or_default();
        process.env = spec::environment(
            &self.linked_config(record),
            exec.tty,
            exec.env.as_deref().unwrap_or_default(),
        );
        if !exec.working_dir.is_empty() {
            process.cwd.clone_from(&exec.working_dir);
        }
        if !exec.user.is_empty() {
            process.user.clone_from(&exec.user);
            process.groups.clear();
        }
        process.terminal = exec.tty;
        process.console_size = console_size;
        if exec.privileged {
            let all = caps::all(self.facts.spec.last_cap);
            process.capabilities = CapabilitySets {
                bounding: all,
                effective: all,
                permitted: all,
                inheritable: 0,
                ambient: 0,
            };
        }
        Ok(process)
    }

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
        write_file(&directory.join(FILES[0].0), &content)
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
            surroundings.gateway,
        );
        let mut extra = extra_hosts(&record.host_config, told, gateway);
        extra.extend(self.linked_hosts(record));
        let contents = [
            files::hostname(name),
            files::hosts(
                name,
                &record.config.domainname,
                &surroundings.addresses,
                &extra,
                true,
            ),
        ];
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
        let text = std::fs::read_to_string(&hosts)?;
        let (name, domain) = (&record.config.hostname, &record.config.domainname);
        let changed = files::replace_addresses(&text, name, domain, &old.addresses, &new.addresses);
        std::fs::write(&hosts, changed)?;
        let resolv = directory.join("resolv.conf");
        match std::fs::read_to_string(&resolv)? == self.resolv_conf(record, old) {
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
    fn directory_of_files(&self, record: &Record, own: &Path) -> PathBuf {
        let other = record.host_config.network_mode.strip_prefix("container:");
        let other = other.and_then(|name| self.containers.find(name).ok());
        other.map_or_else(|| own.to_owned(), |other| other.directory.clone())
    }

    /// The processes whose namespaces the container joins; they must run, which Docker finds out at
    /// the start.
    pub(super) fn joined(&self, record: &Record) -> Result<Identities> {
        // In dockerd's order: of several that cannot be joined the first is told of.
        let (net, ipc, pid) = (
            self.joined_network(record)?,
            self.joined_ipc(record)
                .map_err(|error| error.during("failed to join IPC namespace"))?,
            // Found out while the spec is made, where whatever goes wrong is the host's failure.
            self.joined_pid(record)
                .map_err(|error| error.during("failed to join PID namespace").hidden())?,
        );
        Ok(Identities { net, pid, ipc })
    }

    fn joined_network(&self, record: &Record) -> Result<Option<ProcessIdentity>> {
        let Some(name) = record.host_config.network_mode.strip_prefix("container:") else {
            return Ok(None);
        };
        let other = self.containers.find(name).map_err(|error| {
            error
                .during("joining network namespace of container")
                .hidden()
        })?;
        if other.id == record.id {
            return Err(Error::new(
                Kind::System,
                "cannot join own network namespace",
            ));
        }
        let other = other.record();
        let process = identity(&other).ok_or_else(|| {
            Error::conflict(format!(
                "cannot join network namespace of a non running container: container {} is {}",
                other.name,
                other.state.as_str()
            ))
        })?;
        self.check_same_map(record, &other)?;
        Ok(Some(process))
    }

    fn joined_ipc(&self, record: &Record) -> Result<Option<ProcessIdentity>> {
        let Some(name) = record.host_config.ipc_mode.strip_prefix("container:") else {
            return Ok(None);
        };
        let other = self
            .containers
            .find(name)
            .map_err(|error| Error::invalid(error.message))?
            .record();
        let process = identity(&other).ok_or_else(|| Error::not_running(name))?;
        if other.host_config.ipc_mode != "shareable" {
            return Err(Error::invalid(format!(
                "container {name}: non-shareable IPC (hint: use IpcMode:shareable for the donor \
                 container)"
            )));
        }
        self.check_same_map(record, &other)?;
        Ok(Some(process))
    }

    fn joined_pid(&self, record: &Record) -> Result<Option<ProcessIdentity>> {
        let Some(name) = record.host_config.pid_mode.strip_prefix("container:") else {
            return Ok(None);
        };
        let other = self.containers.find(name)?.record();
        let process = identity(&other).ok_or_else(|| Error::not_running(name))?;
        self.check_same_map(record, &other)?;
        Ok(Some(process))
    }
}

/// Writes one of [`FILES`], which the container may be reading.
/// Gives a file, which may be mounted in a container, this content. It is never emptied first, and left
/// alone where it has the content already: closing a file that was emptied waits for the disk on ext4.
fn write_file(path: &Path, content: &str) -> Result<()> {
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
            if old == content.as_bytes() {
                return Ok(());
            }
        }
        file.write_all_at(content.as_bytes(), 0)?;
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

/// The first process of a container, if it runs.
fn identity(record: &Record) -> Option<ProcessIdentity> {
    record.state.started().map(|started| ProcessIdentity {
        pid: started.pid,
        start_time: started.start_time,
    })
}

/// First processes of the containers whose namespaces are joined.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Identities {
    net: Option<ProcessIdentity>,
    pid: Option<ProcessIdentity>,
    ipc: Option<ProcessIdentity>,
}

impl Identities {
    fn namespaces(&self) -> Joined {
        Joined {
            pid: self.pid.map(Namespace::Join),
            ipc: self.ipc.map(Namespace::Join),
            net: self.net.map(Namespace::Join),
        }
    }

    fn all(&self) -> Vec<ProcessIdentity> {
        [self.net, self.pid, self.ipc]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// 500 at a start, whoever is to blame, as Docker has it; runc's prefix where runc would have
/// refused.
fn spec_error(error: &spec::Error) -> Error {
    let text = if error.is_runtime() {
        format!(
            "failed to create task for container: failed to create shim task: OCI runtime create \
             failed: {error}: unknown"
        )
    } else {
        error.to_string()
    };
    Error::new(Kind::System, text)
}

/// Devices of the host that a privileged container gets: those that the user may open.
pub(super) fn host_devices() -> Vec<crate::userns::plan::Device> {
    let mut devices = Vec::new();
    for name in [
        "fuse",
        "net/tun",
        "kvm",
        "dri/renderD128",
        "vhost-net",
        "vhost-vsock",
    ] {
        let host = PathBuf::from("/dev").join(name);
        if std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&host)
            .is_ok()
        {
            let container = host.display().to_string();
            devices.push(crate::userns::plan::Device {
                host,
                container,
                write: true,
                required: false,
            });
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_its_content_in_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        for content in ["first", "same!", "same!", "short", "longer than that", ""] {
            write_file(&path, content).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        let inode = std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        write_file(&path, "x").unwrap();
        let is = path.metadata().unwrap();
        assert_eq!(is.permissions().mode() & 0o7777, 0o644);
        assert_eq!(std::os::unix::fs::MetadataExt::ino(&is), inode);
    }
}
