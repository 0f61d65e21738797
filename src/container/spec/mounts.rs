//! The mounts of a spec: the default ones, those of shared namespaces, tmpfs, binds, devices.
//!
//! Order matters: the default ones come first, in Docker's order, less those that the client
//! replaces; then the client's and the engine's by depth, so that a mount inside another one comes
//! after it.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::runtime::{Mount, MountBuilder};

use super::{DEFAULT_SHM_SIZE, Error, HostMount, INIT_PATH, SpecInput, modes, wants_init};
use crate::api::container::{DeviceMapping, TmpfsOptions};
use crate::userns::plan::{Device, Namespace};

/// Every mount, in the order in which they are made.
pub(super) fn all(
    input: &SpecInput<'_>,
    namespaces: &modes::Resolved,
) -> Result<Vec<Mount>, Error> {
    let mut asked = asked(input)?;
    // Stable, and by path among equals, as no two are at one place.
    asked.sort_by(|a, b| {
        let depth = |mount: &Mount| mount.destination().iter().count();
        (depth(a), a.destination()).cmp(&(depth(b), b.destination()))
    });
    let replaced = |path: &str| {
        let at = |path: &str| asked.iter().any(|m| m.destination().as_os_str() == path);
        at(path) || (path.starts_with("/dev/") && at("/dev"))
    };
    let mut mounts: Vec<Mount> = defaults(input, namespaces)
        .into_iter()
        .filter(|mount| !replaced(&mount.destination().to_string_lossy()))
        .collect();
    mounts.append(&mut asked);
    if let Some(program) = input.init
        && wants_init(input.host, input.defaults)
    {
        let options = ["bind", "ro"].map(str::to_owned).to_vec();
        mounts.push(owned(INIT_PATH, "bind", program, options));
    }
    mounts.extend(devices(input));
    Ok(mounts)
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(|&option| option.to_owned()).collect();
    owned(destination, kind, Path::new(source), options)
}

fn owned(destination: &str, kind: &str, source: &Path, options: Vec<String>) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(destination.into());
    mount.set_typ(Some(kind.to_owned()));
    mount.set_source(Some(source.into()));
    mount.set_options(Some(options));
    mount
}

/// Docker's default mounts. A filesystem of a namespace that is the host's is the host's own mount.
fn defaults(input: &SpecInput<'_>, namespaces: &modes::Resolved) -> Vec<Mount> {
    let privileged = input.host.privileged;
    let read_only = |options: &[&'static str]| {
        let mut options = options.to_vec();
        if !privileged {
            options.push("ro");
        }
        options
    };
    let strict = ["nosuid", "noexec", "nodev"];
    let bound = ["rbind", "rslave", "nosuid", "noexec", "nodev"];
    let mut mounts = Vec::new();

    mounts.push(match namespaces.pid {
        Namespace::Host => mount("/proc", "bind", "/proc", &bound),
        _ => mount("/proc", "proc", "proc", &strict),
    });
    let dev = ["nosuid", "strictatime", "mode=755", "size=65536k"];
    mounts.push(mount("/dev", "tmpfs", "tmpfs", &dev));
    let pts = [
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
        "gid=5",
    ];
    mounts.push(mount("/dev/pts", "devpts", "devpts", &pts));
    mounts.push(match namespaces.net {
        // Its submounts (debugfs, tracefs, …) become read-only with it.
        Namespace::Host if !privileged => {
            mount("/sys", "bind", "/sys", &[&bound[..], &["rro"]].concat())
        }
        Namespace::Host => mount("/sys", "bind", "/sys", &bound),
        _ => mount("/sys", "sysfs", "sysfs", &read_only(&strict)),
    });
    mounts.push(match namespaces.cgroup {
        Namespace::Host => {
            let path = "/sys/fs/cgroup";
            mount(path, "bind", path, &read_only(&bound))
        }
        _ => mount("/sys/fs/cgroup", "cgroup", "cgroup", &read_only(&strict)),
    });
    match namespaces.ipc {
        Namespace::Host if input.facts.has_mqueue => {
            mounts.push(mount("/dev/mqueue", "bind", "/dev/mqueue", &bound));
        }
        Namespace::Host => {}
        _ => mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &strict)),
    }
    if namespaces.ipc == Namespace::Host {
        mounts.push(mount("/dev/shm", "bind", "/dev/shm", &bound));
    } else if let Namespace::Join(of) = namespaces.ipc {
        let theirs = format!("/proc/{}/root/dev/shm", of.pid);
        let options = [&["bind"], &strict[..]].concat();
        mounts.push(mount("/dev/shm", "bind", &theirs, &options));
    } else if namespaces.shm {
        let size = match input.host.shm_size {
            0 => DEFAULT_SHM_SIZE,
            size => size,
        };
        let mut options: Vec<String> = strict.map(str::to_owned).to_vec();
        options.extend(["mode=1777".to_owned(), format!("size={size}")]);
        mounts.push(owned("/dev/shm", "tmpfs", Path::new("shm"), options));
    }
    mounts
}

/// What the client asks for, and the engine's files where the client asks for nothing.
fn asked(input: &SpecInput<'_>) -> Result<Vec<Mount>, Error> {
    let mut mounts: Vec<Mount> = input.mounts.iter().map(bind).collect();
    for (destination, options) in input.host.tmpfs.iter().flatten() {
        mounts.push(tmpfs(destination, options.split(',').map(str::to_owned))?);
    }
    for request in input.host.mounts.iter().flatten() {
        if request.kind == "tmpfs" {
            let options = long_options(request.tmpfs_options.as_ref(), request.read_only);
            mounts.push(tmpfs(&request.target, options.into_iter())?);
        }
    }
    for file in input.files {
        let taken = mounts
            .iter()
            .any(|mount| mount.destination().as_os_str() == file.destination.as_str());
        if !taken {
            mounts.push(bind(&HostMount {
                source: file.source.clone(),
                destination: file.destination.clone(),
                readonly: input.host.readonly_rootfs,
                ..HostMount::default()
            }));
        }
    }
    Ok(mounts)
}

/// A bind mount or an image's layers. What is bound is, by default, with what is mounted below,
/// private, and (since Docker 25) read-only all the way down.
fn bind(mount: &HostMount) -> Mount {
    let subpath = (!mount.subpath.is_empty()).then(|| format!("subpath={}", mount.subpath));
    if !mount.layers.is_empty() {
        let layers = mount.layers.iter();
        let layers = layers.map(|layer| format!("lowerdir+={}", layer.display()));
        let options = std::iter::once("ro".to_owned()).chain(layers);
        let options = options.chain(subpath).collect();
        return owned(&mount.destination, "overlay", Path::new("overlay"), options);
    }
    let mut options = vec![if mount.non_recursive { "bind" } else { "rbind" }];
    if mount.readonly {
        let top_only = mount.non_recursive || mount.readonly_non_recursive;
        options.push(if top_only { "ro" } else { "rro" });
    }
    options.push(match mount.propagation.as_str() {
        "" => "rprivate",
        propagation => propagation,
    });
    let options = options.into_iter().map(str::to_owned);
    let options = options.chain(subpath).collect();
    owned(&mount.destination, "bind", &mount.source, options)
}

/// The options of a `--mount type=tmpfs`, as `--tmpfs` would have them.
fn long_options(options: Option<&TmpfsOptions>, read_only: bool) -> Vec<String> {
    let mut words = Vec::new();
    if read_only {
        words.push("ro".to_owned());
    }
    let Some(options) = options else {
        return words;
    };
    if options.mode != 0 {
        words.push(format!("mode={:o}", options.mode));
    }
    if options.size_bytes != 0 {
        words.push(format!("size={}", options.size_bytes));
    }
    for option in options.options.iter().flatten() {
        words.push(option.join("="));
    }
    words
}

/// A tmpfs: nothing in it can be executed, own a setuid bit or be a device, unless the options say
/// otherwise. The last of several contradicting options counts.
fn tmpfs(destination: &str, options: impl Iterator<Item = String>) -> Result<Mount, Error> {
    let defaults = ["noexec", "nosuid", "nodev", "rprivate"].map(str::to_owned);
    let mut merged: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let options = defaults.into_iter().chain(options);
    for (place, option) in options.enumerate().filter(|(_, option)| !option.is_empty()) {
        let topic = topic(&option).ok_or_else(|| Error::TmpfsOption(option.clone()))?;
        merged.insert(topic, (place, option));
    }
    let mut options: Vec<(usize, String)> = merged.into_values().collect();
    options.sort();
    let options = options.into_iter().map(|(_, option)| option).collect();
    Ok(owned(destination, "tmpfs", Path::new("tmpfs"), options))
}

/// What an option is about, so that `exec` replaces `noexec`; `None` for what tmpfs does not have.
fn topic(option: &str) -> Option<String> {
    let topic = match option {
        "ro" | "rw" => "ro",
        "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" | "unbindable"
        | "runbindable" => "propagation",
        "relatime" | "norelatime" => "relatime",
        "strictatime" | "nostrictatime" => "strictatime",
        "suid" | "dev" | "exec" | "atime" | "diratime" => option,
        "nosuid" | "nodev" | "noexec" | "noatime" | "nodiratime" => &option[2..],
        "sync" | "async" => "sync",
        "defaults" | "tmpcopyup" => option,
        _ => {
            let (key, _) = option.split_once('=')?;
            let known = [
                "size",
                "mode",
                "uid",
                "gid",
                "nr_inodes",
                "nr_blocks",
                "mpol",
            ];
            return known.contains(&key).then(|| key.to_owned());
        }
    };
    Some(topic.to_owned())
}

/// Devices of the host: all that the user may open for a privileged container, and those asked for.
fn devices(input: &SpecInput<'_>) -> Vec<Mount> {
    let asked: Vec<Device> = input.host.devices.iter().flatten().map(device).collect();
    let all = input.host_devices.iter().filter(|device| {
        input.host.privileged && !asked.iter().any(|a| a.container == device.container)
    });
    all.chain(&asked)
        .filter_map(|device| {
            let mut options = vec!["bind".to_owned(), "dev".to_owned()];
            options.extend(["nosuid".to_owned(), "noexec".to_owned()]);
            if !device.write {
                options.push("ro".to_owned());
            }
            MountBuilder::default()
                .destination(&device.container)
                .typ("bind")
                .source(&device.host)
                .options(options)
                .build()
                .ok()
        })
        .collect()
}

fn device(mapping: &DeviceMapping) -> Device {
    let inside = match mapping.path_in_container.as_str() {
        "" => &mapping.path_on_host,
        inside => inside,
    };
    let permissions = mapping.cgroup_permissions.as_str();
    Device {
        host: mapping.path_on_host.clone().into(),
        container: inside.to_owned(),
        write: permissions.is_empty() || permissions.contains('w'),
        required: true,
    }
}
