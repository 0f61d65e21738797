//! From what a client asked for to an OCI runtime spec. Pure.
//!
//! Four steps, which the engine takes at different times:
//!
//! ```text
//! create:  merge      the image's configuration under the client's; the command must not be empty
//!          validate   everything that can be refused without looking at the host (400)
//!          hostname   what the host name is where none was asked for
//! start:   build      configuration + mounts resolved to host paths + facts of the host → Spec
//! ```
//!
//! The rules, their order and their wording are moby's (`daemon/oci_linux.go`,
//! `daemon/daemon_unix.go`, `daemon/pkg/oci/defaults.go`, `runconfig/hostconfig_unix.go`); where
//! runc is the one who refuses, [`Error::is_runtime`] says so and the engine puts its prefix before
//! the text.
//!
//! **Where a rootless container differs.** Every container has a user namespace, nested in the
//! keeper's, that owns its other namespaces (`--userns host` has no further effect). A filesystem
//! that shows a namespace can only be mounted by the namespace's owner, so with `host` the host's
//! own mount is bound instead: /proc, /sys, /sys/fs/cgroup, /dev/mqueue, /dev/shm. Devices cannot
//! be made, so they are bound (mount options `bind,dev`; see
//! [`from_spec`](crate::userns::from_spec)). With `--ipc container:X` System V objects and message
//! queues are shared, and /dev/shm is X's own mount, which the stage gets a copy of.

pub mod log;
mod merge;
mod modes;
mod mounts;
mod ports;
mod resources;
mod security;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Box as ConsoleSize, BoxBuilder, Linux, LinuxCapabilitiesBuilder, LinuxNamespace,
    LinuxNamespaceType, PosixRlimit, PosixRlimitBuilder, Process, Root, Spec, User,
};

use crate::api::container::{ContainerConfig, HostConfig, Ulimit};
use crate::userns::from_spec::{ANNOTATION_GROUPS, ANNOTATION_INIT, capabilities};
use crate::userns::plan::{Device, Namespace};
use crate::userns::seccomp::KernelVersion;
use crate::userns::{caps, seccomp};

pub use merge::{environment, hostname, merge};
pub use modes::{Mode, NetworkMode};
pub use ports::normalise as normalise_ports;
pub use security::{SeccompProfile, SecurityOptions};
pub use validate::validate;

/// `PATH` where neither image nor client set one.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Size of /dev/shm in bytes where none is asked for.
pub const DEFAULT_SHM_SIZE: i64 = 64 << 20;

/// Where a host's init is bound for a container that wants one.
pub const INIT_PATH: &str = "/sbin/docker-init";

/// Docker's masked paths, `HostConfig.MaskedPaths` where null.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Docker's read-only paths, `HostConfig.ReadonlyPaths` where null.
pub const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Everything that [`build`] looks at.
#[derive(Debug, Clone, Copy)]
pub struct SpecInput<'a> {
    /// The container's configuration, the image's merged in and the host name settled.
    pub config: &'a ContainerConfig,
    /// Its host configuration.
    pub host: &'a HostConfig,
    /// Binds and volumes, resolved to paths of the host. Mounts of tmpfs are read from `host`.
    pub mounts: &'a [HostMount],
    /// Files that the engine writes: /etc/hosts, /etc/hostname, /etc/resolv.conf. A mount of the
    /// client's at the same place goes before.
    pub files: &'a [EngineFile],
    /// Whose namespaces are joined.
    pub joined: Joined,
    /// For privileged containers: the devices of the host that the user may open.
    pub host_devices: &'a [Device],
    /// What the host is like.
    pub facts: HostFacts,
    /// What holds where the container does not say.
    pub defaults: &'a Defaults,
    /// For a container that wants an init: a program of the host's in place of our own.
    pub init: Option<&'a Path>,
}

/// What an administrator says (daemon.json) of containers that do not say themselves, as far as
/// it takes hold when they start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// `no-new-privileges`.
    pub no_new_privileges: bool,
    /// `seccomp-profile`.
    pub seccomp: SeccompProfile,
    /// `default-ulimits`.
    pub ulimits: Vec<Ulimit>,
    /// `init`.
    pub init: bool,
}

/// Returns whether a container has an init for its first process. Where its processes are another's
/// or the host's there is one already.
pub fn wants_init(host: &HostConfig, defaults: &Defaults) -> bool {
    host.pid_mode.is_empty() && host.init.unwrap_or(defaults.init)
}

/// A path of the host in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostMount {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// In place of a source: layers of an image, the topmost first.
    pub layers: Vec<PathBuf>,
    /// What of it is mounted, a path in it; all where empty.
    pub subpath: String,
    /// Absolute path in the container.
    pub destination: String,
    /// Read-only.
    pub readonly: bool,
    /// `rprivate` where empty.
    pub propagation: String,
    /// Without the mounts below the source.
    pub non_recursive: bool,
    /// Read-only without the mounts below the source (`--mount …,bind-recursive=writable`).
    pub readonly_non_recursive: bool,
}

/// A file that the engine writes for the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineFile {
    /// Path on the host.
    pub source: PathBuf,
    /// Path in the container.
    pub destination: String,
}

/// Resolved `container:X` modes: the namespace that X is in, which is the host's where X has the
/// host's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Joined {
    /// For `--pid`.
    pub pid: Option<Namespace>,
    /// For `--ipc`.
    pub ipc: Option<Namespace>,
    /// For `--network`.
    pub net: Option<Namespace>,
}

/// What the host is like, as far as a spec depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFacts {
    /// `/proc/sys/kernel/cap_last_cap`.
    pub last_cap: u8,
    /// The kernel's version.
    pub kernel: KernelVersion,
    /// Largest gid of the container's map, when 0 up to it are mapped without a hole.
    pub last_gid: u32,
    /// /dev/mqueue is mounted on the host.
    pub has_mqueue: bool,
    /// How many processors it has.
    pub cpus: u32,
}

/// A configuration that makes no container, in Docker's words.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither entry point nor command.
    #[error("no command specified")]
    NoCommand,
    /// Refused by a check of [`mod@validate`]; the text is complete.
    #[error("{0}")]
    Invalid(String),
    /// `--cap-add`, `--cap-drop`.
    #[error(transparent)]
    Capability(#[from] caps::Error),
    /// `--security-opt` without a value.
    #[error("invalid --security-opt 1: {0:?}")]
    SecurityOptionForm(String),
    /// `--security-opt` of an unknown name or value.
    #[error("invalid --security-opt 2: {0:?}")]
    SecurityOption(String),
    /// `--security-opt writable-cgroups`.
    #[error("option WritableCgroups conflicts with user namespaces and rootless mode")]
    WritableCgroups,
    /// The seccomp profile.
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    /// `--tmpfs`.
    #[error("invalid tmpfs option {0:?}")]
    TmpfsOption(String),
    /// A namespace mode.
    #[error("invalid {what} mode: {value}")]
    Mode {
        /// `IPC`, `PID`, `UTS`, `user namespace`, `cgroup namespace`.
        what: &'static str,
        /// As given.
        value: String,
    },
    /// A sysctl of a namespace that the container does not have.
    #[error("sysctl {name:?} {why}")]
    Sysctl {
        /// Its name.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// `--ulimit`.
    #[error("invalid ulimit type: {0}")]
    UlimitType(String),
    /// `--ulimit`.
    #[error("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")]
    UlimitOrder {
        /// The soft limit.
        soft: i64,
        /// The hard limit.
        hard: i64,
    },
    /// A `container:X` mode that the engine did not resolve.
    #[error("the container whose {0} namespace is to be joined is not known")]
    NotJoined(LinuxNamespaceType),
}

impl Error {
    /// Returns whether the text is runc's, which Docker only meets when it starts the container.
    pub fn is_runtime(&self) -> bool {
        matches!(self, Error::Sysctl { .. })
    }
}

/// Makes the spec.
pub fn build(input: &SpecInput<'_>) -> Result<Spec, Error> {
    let SpecInput {
        config,
        host,
        defaults,
        ..
    } = *input;
    let options = host.security_opt.as_deref().unwrap_or_default();
    let security = SecurityOptions::parse(options, defaults.no_new_privileges)?;
    if security.writable_cgroups.is_some() {
        return Err(Error::WritableCgroups);
    }
    let capability_set = caps::tweak(
        host.cap_add.as_deref().unwrap_or_default(),
        host.cap_drop.as_deref().unwrap_or_default(),
        host.privileged,
        input.facts.last_cap,
    )?;
    let namespaces = modes::resolve(host, config, &input.joined)?;

    let mut linux = Linux::default();
    linux.set_resources(None);
    linux.set_namespaces(Some(namespaces.to_oci()));
    let paths = |asked: &Option<Vec<String>>, default: &[&str]| {
        let default = || default.iter().map(|&path| path.to_owned()).collect();
        (!host.privileged).then(|| asked.clone().unwrap_or_else(default))
    };
    linux.set_masked_paths(paths(&host.masked_paths, &MASKED_PATHS));
    linux.set_readonly_paths(paths(&host.readonly_paths, &READONLY_PATHS));
    linux.set_seccomp(security.filter(
        host.privileged,
        &defaults.seccomp,
        capability_set,
        input.facts.kernel,
    )?);
    linux.set_sysctl(Some(sysctls(input, &namespaces)?));

    let mut root = Root::default();
    root.set_readonly(Some(host.readonly_rootfs));
    let mut annotations: HashMap<String, String> = host
        .annotations
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if let Some(groups) = host.group_add.as_ref().filter(|groups| !groups.is_empty()) {
        annotations.insert(ANNOTATION_GROUPS.to_owned(), groups.join(","));
    }
    if wants_init(host, defaults) && input.init.is_none() {
        annotations.insert(ANNOTATION_INIT.to_owned(), "true".to_owned());
    }

    let mut spec = Spec::default();
    spec.set_version("1.2.0".to_owned());
    spec.set_root(Some(root));
    let full_name = if config.domainname.is_empty() {
        config.hostname.clone()
    } else {
        format!("{}.{}", config.hostname, config.domainname)
    };
    let own_uts = namespaces.uts == Namespace::New;
    spec.set_hostname(own_uts.then_some(full_name));
    let domain = Some(config.domainname.clone());
    spec.set_domainname(domain.filter(|name| own_uts && !name.is_empty()));
    spec.set_mounts(Some(mounts::all(input, &namespaces)?));
    spec.set_process(Some(process(
        input,
        capability_set,
        security.no_new_privileges,
    )?));
    spec.set_annotations(Some(annotations));
    spec.set_linux(Some(linux));
    Ok(spec)
}

fn process(
    input: &SpecInput<'_>,
    capability_set: u64,
    no_new_privileges: bool,
) -> Result<Process, Error> {
    let SpecInput {
        config,
        host,
        defaults,
        ..
    } = *input;
    let mut args = merge::arguments(config);
    if args.is_empty() {
        return Err(Error::NoCommand);
    }
    if input.init.is_some() && wants_init(host, defaults) {
        args.splice(..0, [INIT_PATH, "--"].map(str::to_owned));
    }
    let mut user = User::default();
    user.set_username(Some(config.user.clone()));
    // Docker gives no inheritable and no ambient capabilities: a user other than root gets none
    // but those of a file's own.
    let set = capabilities(capability_set);
    let sets = LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(capabilities(0))
        .ambient(capabilities(0))
        .build()
        .ok();
    let asked = host.ulimits.as_deref().unwrap_or_default();
    let unasked = |limit: &&Ulimit| !asked.iter().any(|own| own.name == limit.name);
    let rlimits: Vec<PosixRlimit> = asked
        .iter()
        .chain(defaults.ulimits.iter().filter(unasked))
        .map(rlimit)
        .collect::<Result<_, _>>()?;

    let mut process = Process::default();
    process.set_args(Some(args));
    process.set_env(Some(environment(config, config.tty, &[])));
    let cwd = if config.working_dir.is_empty() {
        "/"
    } else {
        &config.working_dir
    };
    process.set_cwd(PathBuf::from(cwd));
    process.set_user(user);
    process.set_terminal(Some(config.tty));
    process.set_console_size(console_size(host.console_size).filter(|_| config.tty));
    process.set_capabilities(sets);
    process.set_no_new_privileges(Some(no_new_privileges));
    process.set_rlimits(Some(rlimits));
    // 0 is the default, and what an ordinary process may not lower itself to anyway.
    process.set_oom_score_adj(
        i32::try_from(host.oom_score_adj)
            .ok()
            .filter(|adj| *adj != 0),
    );
    Ok(process)
}

fn console_size([height, width]: [u64; 2]) -> Option<ConsoleSize> {
    if (height, width) == (0, 0) {
        return None;
    }
    BoxBuilder::default()
        .height(height)
        .width(width)
        .build()
        .ok()
}

/// Reads a resource limit; -1 is without.
fn rlimit(limit: &Ulimit) -> Result<PosixRlimit, Error> {
    let name = format!("RLIMIT_{}", limit.name.to_uppercase());
    let unknown = || Error::UlimitType(limit.name.clone());
    let kind: oci_spec::runtime::PosixRlimitType = name.parse().map_err(|_| unknown())?;
    if limit.hard != -1 && (limit.soft == -1 || limit.soft > limit.hard) {
        return Err(Error::UlimitOrder {
            soft: limit.soft,
            hard: limit.hard,
        });
    }
    let value = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
    PosixRlimitBuilder::default()
        .typ(kind)
        .soft(value(limit.soft))
        .hard(value(limit.hard))
        .build()
        .map_err(|_| unknown())
}

/// Docker's defaults for a network of its own, then what is asked for.
fn sysctls(
    input: &SpecInput<'_>,
    namespaces: &modes::Resolved,
) -> Result<HashMap<String, String>, Error> {
    let mut sysctls = HashMap::new();
    let network = NetworkMode::parse(&input.host.network_mode);
    if namespaces.net == Namespace::New && network != NetworkMode::None {
        // Ports below 1024 and ping need no capability. The range must be of mapped groups.
        let ping = format!("0 {}", input.facts.last_gid);
        sysctls.insert("net.ipv4.ping_group_range".to_owned(), ping);
        let start = "net.ipv4.ip_unprivileged_port_start";
        sysctls.insert(start.to_owned(), "0".to_owned());
    }
    for (name, value) in input.host.sysctls.iter().flatten() {
        modes::check_sysctl(name, namespaces)?;
        sysctls.insert(name.clone(), value.clone());
    }
    Ok(sysctls)
}

/// Writes a namespace as OCI has it; the host's is none.
fn namespace(kind: LinuxNamespaceType, namespace: Namespace) -> Option<LinuxNamespace> {
    let mut entry = LinuxNamespace::default();
    entry.set_typ(kind);
    match namespace {
        Namespace::Host => return None,
        Namespace::New => {}
        Namespace::Join(identity) => {
            let file = match kind {
                LinuxNamespaceType::Network => "net",
                LinuxNamespaceType::Pid => "pid",
                LinuxNamespaceType::Ipc => "ipc",
                LinuxNamespaceType::Uts => "uts",
                LinuxNamespaceType::User => "user",
                LinuxNamespaceType::Cgroup => "cgroup",
                LinuxNamespaceType::Mount => "mnt",
                LinuxNamespaceType::Time => "time",
            };
            entry.set_path(Some(format!("/proc/{}/ns/{file}", identity.pid).into()));
        }
    }
    Some(entry)
}
