//! What the engine knows of its host: found once at start, given to pure code as data.

use std::io;

use crate::container::spec::HostFacts;
use crate::userns::idmap::IdMap;
use crate::userns::plan::Device;
use crate::userns::seccomp::KernelVersion;

/// `f_type` of cgroup v2 (statfs(2)).
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;

/// Facts about host and daemon that do not change while the daemon lives.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// The host's name.
    pub hostname: String,
    /// Release of the kernel (`uname -r`).
    pub kernel: String,
    /// `PRETTY_NAME` of os-release.
    pub operating_system: String,
    /// `VERSION_ID` of os-release.
    pub os_version: String,
    /// Number of processors.
    pub cpus: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// Facts that decide how a container's spec looks.
    pub spec: HostFacts,
    /// Devices that a privileged container gets.
    pub devices: Vec<Device>,
    /// Names this engine (`docker info`).
    pub engine_id: String,
    /// Pairs that `docker info` shows of the storage driver.
    pub storage: Vec<(String, String)>,
    /// Id maps of the keeper's user namespace.
    pub id_map: IdMap,
    /// The user's id on the host.
    pub uid: u32,
    /// Whether /sys/fs/cgroup is cgroup v2 alone.
    pub unified_cgroups: bool,
    /// What this host lacks, one sentence each, for `docker info`.
    pub warnings: Vec<String>,
}

impl Facts {
    /// Reads the facts that files and system calls tell.
    ///
    /// # Errors
    /// When /proc is not readable.
    pub fn read(id_map: IdMap, uid: u32, warnings: Vec<String>) -> io::Result<Self> {
        let line = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned());
        let release = std::fs::read_to_string("/etc/os-release")
            .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        let field = |name: &str| {
            release
                .lines()
                .filter_map(|line| line.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.trim_matches('"').to_owned())
                .unwrap_or_default()
        };
        let memory = std::fs::read_to_string("/proc/meminfo")?
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
            .unwrap_or(0)
            * 1024;
        Ok(Self {
            boot_id: line("/proc/sys/kernel/random/boot_id")?,
            hostname: line("/proc/sys/kernel/hostname")?,
            kernel: line("/proc/sys/kernel/osrelease")?,
            operating_system: field("PRETTY_NAME"),
            os_version: field("VERSION_ID"),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory,
            spec: HostFacts {
                last_cap: line("/proc/sys/kernel/cap_last_cap")?.parse().unwrap_or(40),
                kernel: KernelVersion::parse(&line("/proc/sys/kernel/osrelease")?)
                    .ok_or_else(|| io::Error::other("the kernel's release is not a version"))?,
                last_gid: id_map
                    .mapping
                    .gids
                    .iter()
                    .map(|e| e.inside.saturating_add(e.count - 1))
                    .max()
                    .unwrap_or(0),
                has_mqueue: std::path::Path::new("/dev/mqueue").is_dir(),
                cpus: std::thread::available_parallelism()
                    .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
            },
            devices: super::devices::host_devices(),
            engine_id: String::new(),
            storage: Vec::new(),
            id_map,
            uid,
            unified_cgroups: rustix::fs::statfs("/sys/fs/cgroup")
                .is_ok_and(|found| found.f_type == CGROUP2_SUPER_MAGIC),
            warnings,
        })
    }
}
