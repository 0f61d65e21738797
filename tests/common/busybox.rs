//! A layer with busybox in it, and plans of processes there.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use moss::userns::plan::{
    CapabilitySets, Extent, IdMapping, Mount, MountFlags, MountSource, Namespace, Namespaces, Plan,
    Process,
};

/// Where the host has a static one.
pub const PROGRAM: &str = "/bin/busybox";

/// Why there is none.
pub fn missing() -> Option<&'static str> {
    let missing = !Path::new(PROGRAM).exists();
    missing.then_some("no /bin/busybox (package busybox-static)")
}

/// Makes a layer of busybox with all its applets, and the mount points that images have.
pub fn layer(at: &Path) {
    let bin = at.join("bin");
    for name in ["bin", "etc", "proc", "sys", "dev"] {
        std::fs::create_dir_all(at.join(name)).expect("mkdir");
    }
    std::fs::copy(PROGRAM, bin.join("busybox")).expect("copy");
    let list = Command::new(PROGRAM).arg("--list").output();
    let list = list.expect("busybox runs").stdout;
    for applet in String::from_utf8_lossy(&list).lines() {
        if applet != "busybox" {
            symlink("busybox", bin.join(applet)).expect("link");
        }
    }
}

/// A run of ids.
pub fn extent(inside: u32, outside: u32, count: u32) -> Extent {
    Extent {
        inside,
        outside,
        count,
    }
}

/// A process in namespaces of its own that are mapped so, with nothing mounted.
pub fn plan(ids: Vec<Extent>, process: Process) -> Plan {
    let new = Namespace::New;
    Plan {
        namespaces: Namespaces {
            user: new,
            pid: new,
            ipc: new,
            uts: new,
            net: new,
            cgroup: new,
        },
        id_map: IdMapping {
            deny_setgroups: ids.iter().map(|extent| extent.count).sum::<u32>() == 1,
            uids: ids.clone(),
            gids: ids,
        },
        hostname: None,
        domainname: None,
        root_readonly: false,
        mounts: Vec::new(),
        devices: Vec::new(),
        masked_paths: Vec::new(),
        readonly_paths: Vec::new(),
        sysctls: Vec::new(),
        init: false,
        process,
    }
}

/// Root without a capability.
pub fn process(args: &[&str]) -> Process {
    Process {
        args: strings(args),
        env: strings(&["PATH=/bin", "TERM=xterm"]),
        cwd: "/".to_owned(),
        user: String::new(),
        groups: Vec::new(),
        terminal: false,
        console_size: None,
        capabilities: CapabilitySets::default(),
        no_new_privileges: false,
        rlimits: Vec::new(),
        oom_score_adj: None,
        seccomp: None,
        umask: None,
    }
}

/// A mount of a new filesystem.
pub fn filesystem(target: &str, kind: &str, options: &str, flags: MountFlags) -> Mount {
    Mount {
        target: target.to_owned(),
        source: MountSource::Filesystem {
            kind: kind.to_owned(),
            options: options.to_owned(),
            copy_up: false,
        },
        flags,
    }
}

pub fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|&item| item.to_owned()).collect()
}
