//! The plan: everything the stage needs to know to start a process in a container.
//!
//! A plan is data. It is made in the daemon, from an OCI runtime spec, by a pure function; it
//! crosses a socket to the shim as JSON; the stage carries it out step by step in a forked child.
//! Nothing in it is looked up later except what only the container's own root filesystem can
//! answer: names of users and groups, the program on `$PATH`, whether the working directory
//! exists.
//!
//! Paths whose meaning is *inside the container* are kept as strings and resolved by the stage
//! with `openat2(RESOLVE_IN_ROOT)`; paths on the host are absolute and were checked by whoever
//! made the plan.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use crate::types::idmap::{Extent, IdMapping};

/// One container's isolation and first process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Which namespaces are new, the host's, or another container's.
    pub namespaces: Namespaces,
    /// Id map of the new user namespace, in terms of the keeper's; unused when one is joined.
    pub id_map: IdMapping,
    /// `sethostname(2)`, where the UTS namespace is new.
    pub hostname: Option<String>,
    /// `setdomainname(2)`, where the UTS namespace is new.
    pub domainname: Option<String>,
    /// Remount the root filesystem read-only once every mount point in it exists.
    pub root_readonly: bool,
    /// Mounts in the order in which they are made.
    pub mounts: Vec<Mount>,
    /// Device nodes of the host that are bind-mounted into the container's /dev.
    pub devices: Vec<Device>,
    /// Paths hidden behind /dev/null (files) or an empty read-only tmpfs (directories).
    pub masked_paths: Vec<String>,
    /// Paths bind-mounted onto themselves read-only.
    pub readonly_paths: Vec<String>,
    /// Sysctls as `/proc/sys` names with dots (`net.ipv4.ip_forward`) and values.
    pub sysctls: Vec<(String, String)>,
    /// Run a small init of ours as pid 1 that forwards signals and reaps (`--init`).
    pub init: bool,
    /// The first process.
    pub process: Process,
}

/// Where a namespace comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// Made together with the container's user namespace, and so owned by it.
    New,
    /// The one that the keeper (for net: the host) is in.
    Host,
    /// The one of another container's first process.
    Join(ProcessIdentity),
}

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id in the host's pid namespace.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat: start time in clock ticks after boot.
    pub start_time: u64,
}

/// The namespaces of one container. The mount namespace is always new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// User namespace: `New`, or joined where any other namespace is joined.
    pub user: Namespace,
    /// Pid namespace.
    pub pid: Namespace,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace,
    /// Host and domain name.
    pub uts: Namespace,
    /// Network namespace.
    pub net: Namespace,
    /// Cgroup namespace (never joined).
    pub cgroup: Namespace,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, in the container; made if it does not exist (a file for the bind of a file).
    pub target: String,
    /// What.
    pub source: MountSource,
    /// Read-only, nosuid, nodev, noexec …
    pub flags: MountFlags,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// A new instance of a filesystem.
    Filesystem {
        /// `proc`, `sysfs`, `tmpfs`, `devpts`, `mqueue`, `cgroup2`.
        kind: String,
        /// Options as mount(2) takes them, joined by commas.
        options: String,
        /// Copy what the image has at the target into the new (tmpfs) filesystem first.
        copy_up: bool,
    },
    /// A file or directory of the host (volumes, `-v`, /etc/hosts).
    Bind {
        /// Absolute path on the host.
        path: PathBuf,
        /// With submounts (`rbind`); needed for any tree that has some.
        recursive: bool,
        /// `private`, `rprivate`, `slave`, `rslave`, `shared`, `rshared`.
        propagation: String,
        /// A path below it, which leads nowhere else: that alone is mounted. All where empty.
        #[serde(default)]
        subpath: String,
    },
    /// An image's layers as one tree, which the stage is given ready-made: what makes one is
    /// beside it.
    Layers {
        /// Directories on the host, the topmost first.
        layers: Vec<PathBuf>,
        /// As of `Bind`.
        subpath: String,
    },
    /// The same path of the namespace that is shared with the host or another container
    /// (`/proc` with `--pid host`, `/sys` with `--network host`, `/dev/mqueue` with `--ipc host`).
    FromHost {
        /// Absolute path on the host.
        path: PathBuf,
    },
    /// What another container has at a path, without submounts (`/dev/shm` with
    /// `--ipc container:X`).
    FromContainer {
        /// A process of it.
        of: ProcessIdentity,
        /// Absolute path in it.
        path: PathBuf,
    },
}

/// Per-mount flags (mount_setattr(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountFlags {
    /// Read-only.
    pub readonly: bool,
    /// Read-only for every submount too.
    pub readonly_recursive: bool,
    /// Ignore setuid bits and file capabilities.
    pub nosuid: bool,
    /// Ignore device nodes.
    pub nodev: bool,
    /// Refuse to execute.
    pub noexec: bool,
}

/// A device of the host, bind-mounted (mknod(2) is refused in a user namespace).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path on the host, a character or block device.
    pub host: PathBuf,
    /// Path in the container.
    pub container: String,
    /// Without this permission the bind is read-only.
    pub write: bool,
    /// Standard devices that the host lacks are left out in silence; asked-for ones are an error.
    pub required: bool,
}

/// A process to run: the container's first one, or one of an exec session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// `NAME=value` strings. `HOME` is added from passwd when absent, as Docker does.
    pub env: Vec<String>,
    /// Working directory, absolute; made when it does not exist.
    pub cwd: String,
    /// Docker's user specification (`""`, `name`, `uid`, `user:group`), resolved by the stage in
    /// the container's own /etc/passwd and /etc/group.
    pub user: String,
    /// More groups, names or numbers (`--group-add`).
    pub groups: Vec<String>,
    /// Give it a controlling terminal.
    pub terminal: bool,
    /// Rows and columns of the terminal at start; `None` leaves the kernel's 0×0.
    pub console_size: Option<(u16, u16)>,
    /// Capability sets, bit N is capability N of capabilities(7).
    pub capabilities: CapabilitySets,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// `/proc/self/oom_score_adj`; values below the present one are skipped where refused.
    pub oom_score_adj: Option<i32>,
    /// Compiled seccomp filter, or `None` for an unconfined process.
    pub seccomp: Option<Vec<FilterInstruction>>,
    /// File mode creation mask.
    pub umask: Option<u32>,
}

/// Capability sets of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySets {
    /// Upper bound for every later execve.
    pub bounding: u64,
    /// In force; dropped by the kernel when the user is not root and `ambient` lacks them.
    pub effective: u64,
    /// May be raised.
    pub permitted: u64,
    /// Kept across execve of files that have them inheritable.
    pub inheritable: u64,
    /// Kept across execve for users other than root.
    pub ambient: u64,
}

/// One resource limit (setrlimit(2)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Name as in OCI: `RLIMIT_NOFILE`.
    pub name: String,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// One classic BPF instruction (`struct sock_filter`): code, jt, jf, k.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterInstruction(pub u16, pub u8, pub u8, pub u32);
