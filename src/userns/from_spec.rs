//! From an OCI runtime spec to a plan: what other runtimes do step by step while they start a
//! container, said beforehand as data.
//!
//! Pure. What the spec cannot say is in [`Context`], which the engine and the OCI runtime's face
//! fill each in their way, or in an annotation of ours:
//!
//! * a namespace to join is a path, `/proc/PID/ns/KIND`; a pid may be another process by the time
//!   it is joined, so the context names the identity (pid and start time) behind each pid;
//! * `process.user.username` is Docker's whole user string; without it the numbers count;
//! * groups by name and the small init of ours are annotations ([`ANNOTATION_GROUPS`],
//!   [`ANNOTATION_INIT`]);
//! * a device is either an entry of `linux.devices`, bound from the same path of the host, or a
//!   mount with the options `bind` and `dev`, which can give it another path.
//!
//! A namespace that the spec does not list is the host's; the user and mount namespaces are new in
//! any case, except that a user namespace may be joined. A bind of `/proc`, `/sys`, `/sys/fs/cgroup`
//! or `/dev/mqueue` onto itself is the view that goes with a shared namespace. A bind of
//! `/proc/PID/root/PATH` is of another container's mount, where the pid is a known identity's.
//!
//! Not carried, because the stage has no use for it: cgroup resources (the engine's), hooks,
//! access-time options, `linux.rootfsPropagation`, AppArmor and SELinux labels.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Linux, LinuxCapabilities, LinuxNamespaceType, LinuxSeccomp, Mount as OciMount,
    Process as OciProcess, Spec,
};

use super::caps;
use super::plan::{
    CapabilitySets, Device, FilterInstruction, IdMapping, Mount, MountFlags, MountSource,
    Namespace, Namespaces, Plan, Process, ProcessIdentity, Rlimit,
};
use super::seccomp;

/// More groups of the process, names or numbers, joined by commas.
pub const ANNOTATION_GROUPS: &str = "moss.process.groups";
/// `true`: run a small init of ours as pid 1.
pub const ANNOTATION_INIT: &str = "moss.process.init";

/// What a plan needs beside the spec.
pub struct Context<'a> {
    /// Id map of the new user namespace in terms of the keeper's.
    pub id_map: IdMapping,
    /// Who is behind each pid of a namespace path.
    pub identities: &'a [ProcessIdentity],
    /// Compiles a filter: [`seccomp::compile`], or the memory of [`seccomp::Filters`] before it.
    pub compile: &'a dyn Fn(&LinuxSeccomp) -> Result<Vec<FilterInstruction>, seccomp::Error>,
}

/// A spec that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// No process, or one without arguments.
    #[error("process.args must not be empty")]
    NoArguments,
    /// The working directory.
    #[error("Cwd must be an absolute path")]
    RelativeCwd,
    /// A namespace path that does not name a process.
    #[error("namespace path {} is not of the form /proc/PID/ns/KIND", .0.display())]
    NamespacePath(PathBuf),
    /// A namespace path whose process is not known.
    #[error("namespace path {} names a process that does not run", .0.display())]
    NamespaceProcess(PathBuf),
    /// A namespace that cannot be made or joined here.
    #[error("{0} namespaces are not supported")]
    NamespaceKind(LinuxNamespaceType),
    /// A bind mount without a source.
    #[error("bind mount at {0} has no source")]
    NoSource(String),
    /// The seccomp profile.
    #[error("unable to init seccomp")]
    Seccomp(#[source] seccomp::Error),
}

/// Makes the plan.
pub fn spec_to_plan(spec: &Spec, context: Context<'_>) -> Result<Plan, SpecError> {
    let process = spec.process().as_ref().ok_or(SpecError::NoArguments)?;
    let linux = spec.linux().clone().unwrap_or_default();
    let namespaces = namespaces(&linux, context.identities)?;
    let own_uts = namespaces.uts == Namespace::New;
    let name = |name: &Option<String>| name.clone().filter(|name| own_uts && !name.is_empty());
    let annotation = |key: &str| spec.annotations().as_ref().and_then(|all| all.get(key));

    let mut mounts = Vec::new();
    let mut devices = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        match convert_mount(mount, context.identities)? {
            Converted::Mount(mount) => mounts.push(mount),
            Converted::Device(device) => devices.push(device),
        }
    }
    devices.extend(linux.devices().iter().flatten().map(|device| Device {
        host: device.path().clone(),
        container: device.path().to_string_lossy().into_owned(),
        write: true,
        required: true,
    }));
    let mut sysctls: Vec<(String, String)> = linux
        .sysctl()
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    sysctls.sort();

    let mut process = convert_process(process, linux.seccomp().as_ref(), context.compile)?;
    if let Some(groups) = annotation(ANNOTATION_GROUPS) {
        let groups = groups.split(',').filter(|group| !group.is_empty());
        process.groups.extend(groups.map(str::to_owned));
    }
    Ok(Plan {
        namespaces,
        id_map: context.id_map,
        hostname: name(spec.hostname()),
        domainname: name(spec.domainname()),
        root_readonly: spec
            .root()
            .as_ref()
            .and_then(|root| root.readonly())
            .unwrap_or(false),
        mounts,
        devices,
        masked_paths: linux.masked_paths().clone().unwrap_or_default(),
        readonly_paths: linux.readonly_paths().clone().unwrap_or_default(),
        sysctls,
        init: annotation(ANNOTATION_INIT).is_some_and(|value| value == "true"),
        process,
    })
}

fn namespaces(linux: &Linux, identities: &[ProcessIdentity]) -> Result<Namespaces, SpecError> {
    let mut namespaces = Namespaces {
        user: Namespace::New,
        pid: Namespace::Host,
        ipc: Namespace::Host,
        uts: Namespace::Host,
        net: Namespace::Host,
        cgroup: Namespace::Host,
    };
    for entry in linux.namespaces().iter().flatten() {
        let kind = entry.typ();
        let path = entry
            .path()
            .as_deref()
            .filter(|p| !p.as_os_str().is_empty());
        let namespace = match path {
            None => Namespace::New,
            Some(path) => Namespace::Join(identity(path, identities)?),
        };
        let slot = match kind {
            LinuxNamespaceType::User => &mut namespaces.user,
            LinuxNamespaceType::Pid => &mut namespaces.pid,
            LinuxNamespaceType::Ipc => &mut namespaces.ipc,
            LinuxNamespaceType::Uts => &mut namespaces.uts,
            LinuxNamespaceType::Network => &mut namespaces.net,
            LinuxNamespaceType::Cgroup if path.is_none() => &mut namespaces.cgroup,
            LinuxNamespaceType::Mount if path.is_none() => continue,
            _ => return Err(SpecError::NamespaceKind(kind)),
        };
        *slot = namespace;
    }
    Ok(namespaces)
}

/// Finds the process of `/proc/PID/ns/KIND`.
fn identity(path: &Path, known: &[ProcessIdentity]) -> Result<ProcessIdentity, SpecError> {
    let pid = path
        .strip_prefix("/proc")
        .ok()
        .and_then(|rest| rest.iter().next()?.to_str()?.parse::<i32>().ok())
        .ok_or_else(|| SpecError::NamespacePath(path.to_owned()))?;
    known
        .iter()
        .find(|identity| identity.pid == pid)
        .copied()
        .ok_or_else(|| SpecError::NamespaceProcess(path.to_owned()))
}

/// Takes `/proc/PID/root/PATH` of a known process apart.
fn in_container(path: &Path, known: &[ProcessIdentity]) -> Option<(ProcessIdentity, PathBuf)> {
    let of = identity(path, known).ok()?;
    let root = format!("/proc/{}/root", of.pid);
    Some((of, Path::new("/").join(path.strip_prefix(root).ok()?)))
}

enum Converted {
    Mount(Mount),
    Device(Device),
}

/// A mount's options, sorted by what they are.
#[derive(Default)]
struct Options<'a> {
    flags: MountFlags,
    bind: bool,
    recursive: bool,
    device: bool,
    copy_up: bool,
    propagation: &'a str,
    data: Vec<&'a str>,
}

fn options(mount: &OciMount) -> Options<'_> {
    let mut sorted = Options::default();
    for option in mount.options().iter().flatten() {
        match option.as_str() {
            "ro" => sorted.flags.readonly = true,
            "rw" => {
                sorted.flags.readonly = false;
                sorted.flags.readonly_recursive = false;
            }
            "rro" => {
                sorted.flags.readonly = true;
                sorted.flags.readonly_recursive = true;
            }
            "nosuid" => sorted.flags.nosuid = true,
            "suid" => sorted.flags.nosuid = false,
            "nodev" => sorted.flags.nodev = true,
            "dev" => {
                sorted.flags.nodev = false;
                sorted.device = true;
            }
            "noexec" => sorted.flags.noexec = true,
            "exec" => sorted.flags.noexec = false,
            "bind" => sorted.bind = true,
            "rbind" => {
                sorted.bind = true;
                sorted.recursive = true;
            }
            "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" => {
                sorted.propagation = option;
            }
            "tmpcopyup" => sorted.copy_up = true,
            // Every devpts mount is an instance of its own (since 4.7); access times are the
            // kernel's default.
            "newinstance" | "defaults" | "atime" | "noatime" | "diratime" | "nodiratime"
            | "relatime" | "norelatime" | "strictatime" | "nostrictatime" | "async" | "sync"
            | "" => {}
            data => sorted.data.push(data),
        }
    }
    sorted
}

fn convert_mount(mount: &OciMount, known: &[ProcessIdentity]) -> Result<Converted, SpecError> {
    let target = mount.destination().to_string_lossy().into_owned();
    let options = options(mount);
    let kind = mount.typ().as_deref().unwrap_or_default();
    if kind == "overlay" {
        return Ok(Converted::Mount(layers(target, &options)));
    }
    if kind != "bind" && !options.bind {
        return Ok(Converted::Mount(Mount {
            target,
            source: MountSource::Filesystem {
                // runc calls the one hierarchy of cgroup v2 so, too.
                kind: if kind == "cgroup" { "cgroup2" } else { kind }.to_owned(),
                options: options.data.join(","),
                copy_up: options.copy_up,
            },
            flags: options.flags,
        }));
    }
    let Some(path) = mount.source().clone() else {
        return Err(SpecError::NoSource(target));
    };
    if options.device && !options.recursive {
        return Ok(Converted::Device(Device {
            host: path,
            container: target,
            write: !options.flags.readonly,
            required: true,
        }));
    }
    let shared = matches!(
        target.as_str(),
        "/proc" | "/sys" | "/sys/fs/cgroup" | "/dev/mqueue"
    );
    let source = if shared && path == mount.destination().as_path() {
        MountSource::FromHost { path }
    } else if let Some((of, path)) = in_container(&path, known) {
        MountSource::FromContainer { of, path }
    } else {
        MountSource::Bind {
            path,
            recursive: options.recursive,
            propagation: options.propagation.to_owned(),
            subpath: subpath(&options),
        }
    };
    Ok(Converted::Mount(Mount {
        target,
        source,
        flags: options.flags,
    }))
}

/// The layers of an overlay to be read only, one `lowerdir+` each (as fsconfig(2) takes them): a path
/// may hold what separates them where they are one string.
fn layers(target: String, options: &Options<'_>) -> Mount {
    let data = options.data.iter();
    Mount {
        target,
        source: MountSource::Layers {
            layers: data
                .filter_map(|option| option.strip_prefix("lowerdir+="))
                .map(PathBuf::from)
                .collect(),
            subpath: subpath(options),
        },
        flags: options.flags,
    }
}

/// What of a source is mounted: no option of runc's, which mounts what dockerd has looked up. Here the
/// shim does that, right when it mounts.
fn subpath(options: &Options<'_>) -> String {
    let found = options.data.iter();
    let mut found = found.filter_map(|option| option.strip_prefix("subpath="));
    found.next().unwrap_or_default().to_owned()
}

fn convert_process(
    process: &OciProcess,
    filter: Option<&LinuxSeccomp>,
    compile: &dyn Fn(&LinuxSeccomp) -> Result<Vec<FilterInstruction>, seccomp::Error>,
) -> Result<Process, SpecError> {
    let args = process.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(SpecError::NoArguments);
    }
    if !process.cwd().is_absolute() {
        return Err(SpecError::RelativeCwd);
    }
    let user = process.user();
    Ok(Process {
        args,
        env: process.env().clone().unwrap_or_default(),
        cwd: process.cwd().to_string_lossy().into_owned(),
        user: user
            .username()
            .clone()
            .unwrap_or_else(|| format!("{}:{}", user.uid(), user.gid())),
        groups: user
            .additional_gids()
            .iter()
            .flatten()
            .map(u32::to_string)
            .collect(),
        terminal: process.terminal().unwrap_or(false),
        console_size: process.console_size().and_then(|size| {
            let rows = u16::try_from(size.height()).ok()?;
            let columns = u16::try_from(size.width()).ok()?;
            ((rows, columns) != (0, 0)).then_some((rows, columns))
        }),
        capabilities: process
            .capabilities()
            .as_ref()
            .map(capability_sets)
            .unwrap_or_default(),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: process
            .rlimits()
            .iter()
            .flatten()
            .map(|limit| Rlimit {
                name: limit.typ().to_string(),
                soft: limit.soft(),
                hard: limit.hard(),
            })
            .collect(),
        oom_score_adj: process.oom_score_adj(),
        seccomp: filter
            .map(compile)
            .transpose()
            .map_err(SpecError::Seccomp)?,
        umask: user.umask(),
    })
}

fn capability_sets(sets: &LinuxCapabilities) -> CapabilitySets {
    CapabilitySets {
        bounding: bits(sets.bounding().as_ref()),
        effective: bits(sets.effective().as_ref()),
        permitted: bits(sets.permitted().as_ref()),
        inheritable: bits(sets.inheritable().as_ref()),
        ambient: bits(sets.ambient().as_ref()),
    }
}

fn bits(set: Option<&Capabilities>) -> u64 {
    set.into_iter()
        .flatten()
        .filter_map(|capability| caps::number(&format!("CAP_{capability}")))
        .fold(0, |bits, number| bits | 1 << number)
}

/// Returns a set in oci-spec's form; what that crate does not know is left out.
pub fn capabilities(set: u64) -> Capabilities {
    caps::names(set)
        .iter()
        .filter_map(|name| name.strip_prefix("CAP_")?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: serde_json::Value) -> Result<Plan, SpecError> {
        let spec: Spec = serde_json::from_value(json).unwrap();
        let identity = ProcessIdentity {
            pid: 42,
            start_time: 7,
        };
        spec_to_plan(
            &spec,
            Context {
                id_map: IdMapping::default(),
                identities: &[identity],
                compile: &seccomp::compile,
            },
        )
    }

    fn spec() -> serde_json::Value {
        serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "args": ["sh"], "cwd": "/", "user": {"uid": 5, "gid": 6, "additionalGids": [7]},
            },
            "root": {"path": "rootfs", "readonly": true},
            "hostname": "box",
            "linux": {"namespaces": [{"type": "uts"}, {"type": "pid"}]},
        })
    }

    #[test]
    fn what_is_not_listed_is_the_hosts() {
        let plan = plan(spec()).unwrap();
        assert_eq!(plan.namespaces.user, Namespace::New);
        assert_eq!(plan.namespaces.pid, Namespace::New);
        assert_eq!(plan.namespaces.net, Namespace::Host);
        assert_eq!(plan.hostname.as_deref(), Some("box"));
        assert!(plan.root_readonly);
        assert_eq!(plan.process.user, "5:6");
        assert_eq!(plan.process.groups, ["7"]);
        assert!(plan.process.seccomp.is_none());
        assert!(!plan.init);
    }

    #[test]
    fn namespaces_are_joined_by_identity() {
        let mut json = spec();
        json["linux"]["namespaces"] = serde_json::json!([
            {"type": "user", "path": "/proc/42/ns/user"},
            {"type": "network", "path": "/proc/42/ns/net"},
        ]);
        let joined = plan(json.clone()).unwrap();
        let identity = ProcessIdentity {
            pid: 42,
            start_time: 7,
        };
        assert_eq!(joined.namespaces.net, Namespace::Join(identity));
        assert_eq!(joined.namespaces.user, Namespace::Join(identity));
        // A host's UTS namespace keeps its name.
        assert_eq!(joined.hostname, None);
        for (path, expected) in [
            (
                "/run/netns/x",
                "namespace path /run/netns/x is not of the form /proc/PID/ns/KIND",
            ),
            (
                "/proc/43/ns/net",
                "namespace path /proc/43/ns/net names a process that does not run",
            ),
        ] {
            json["linux"]["namespaces"][1]["path"] = path.into();
            assert_eq!(plan(json.clone()).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn mounts_become_filesystems_binds_and_devices() {
        let mut json = spec();
        json["mounts"] = serde_json::json!([
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "nodev", "noexec"]},
            {"destination": "/dev/pts", "type": "devpts", "options": ["newinstance", "ptmxmode=0666", "gid=5"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]},
            {"destination": "/data", "type": "bind", "source": "/home/u", "options": ["rbind", "rro", "rslave"]},
            {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]},
            {"destination": "/dev/x", "type": "bind", "source": "/dev/fuse", "options": ["bind", "dev", "ro"]},
            {"destination": "/tmp", "type": "tmpfs", "options": ["tmpcopyup", "size=1m", "mode=1777"]},
        ]);
        let plan = plan(json).unwrap();
        let filesystem = |kind: &str, options: &str, copy_up| MountSource::Filesystem {
            kind: kind.to_owned(),
            options: options.to_owned(),
            copy_up,
        };
        let sources: Vec<_> = plan
            .mounts
            .iter()
            .map(|mount| mount.source.clone())
            .collect();
        let bind = MountSource::Bind {
            path: "/home/u".into(),
            recursive: true,
            propagation: "rslave".to_owned(),
            subpath: String::new(),
        };
        let sys = MountSource::FromHost {
            path: "/sys".into(),
        };
        assert_eq!(
            sources,
            [
                filesystem("proc", "", false),
                filesystem("devpts", "ptmxmode=0666,gid=5", false),
                filesystem("cgroup2", "", false),
                bind,
                sys,
                filesystem("tmpfs", "size=1m,mode=1777", true),
            ]
        );
        assert!(plan.mounts[0].flags.nodev && !plan.mounts[0].flags.readonly);
        assert!(plan.mounts[3].flags.readonly_recursive && plan.mounts[3].flags.readonly);
        let device = Device {
            host: "/dev/fuse".into(),
            container: "/dev/x".to_owned(),
            write: false,
            required: true,
        };
        assert_eq!(plan.devices, [device]);
    }

    #[test]
    fn the_process_keeps_everything() {
        let mut json = spec();
        json["process"]["user"]["username"] = "app:www".into();
        json["process"]["rlimits"] =
            serde_json::json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]);
        json["process"]["capabilities"] = serde_json::json!({"bounding": ["CAP_CHOWN", "CAP_BPF"]});
        json["process"]["terminal"] = true.into();
        json["process"]["consoleSize"] = serde_json::json!({"height": 24, "width": 80});
        json["annotations"] = serde_json::json!({
            ANNOTATION_GROUPS: "audio,100", ANNOTATION_INIT: "true",
        });
        let plan = plan(json).unwrap();
        assert!(plan.init);
        let process = plan.process;
        assert_eq!(process.user, "app:www");
        assert_eq!(process.groups, ["7", "audio", "100"]);
        assert_eq!(process.rlimits[0].name, "RLIMIT_NOFILE");
        assert_eq!(process.capabilities.bounding, 1 | 1 << 39);
        assert_eq!(process.console_size, Some((24, 80)));
    }

    #[test]
    fn capabilities_go_there_and_back() {
        let all = caps::all(40);
        assert_eq!(capabilities(all).len(), 41);
        assert_eq!(bits(Some(&capabilities(all))), all);
    }

    #[test]
    fn refuses_what_cannot_run() {
        let mut json = spec();
        json["process"]["args"] = serde_json::json!([]);
        assert!(matches!(plan(json), Err(SpecError::NoArguments)));
        let mut json = spec();
        json["process"]["cwd"] = "tmp".into();
        assert!(matches!(plan(json), Err(SpecError::RelativeCwd)));
        let mut json = spec();
        json["linux"]["namespaces"] = serde_json::json!([{"type": "time"}]);
        assert!(matches!(plan(json), Err(SpecError::NamespaceKind(_))));
    }
}
