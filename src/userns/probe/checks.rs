//! The probes, one function each, in the order in which `doctor` prints them.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use super::super::idmap::{self, IdMap, Origin};
use super::super::mapped::Refused;
use super::child::{self, Outcome};
use super::{Finding, Places, RootfsTrial, State};
use crate::sys::{chroot, mount, pidfd, seccomp, tun};

/// Every probe.
pub(super) fn all(places: &Places, rootfs: RootfsTrial) -> Vec<Finding> {
    let (namespaces, maps) = namespaces();
    let usable = namespaces.state != State::Missing;
    let mut findings = vec![namespaces];
    if let (true, Some(maps)) = (usable, &maps) {
        findings.push(ids(maps));
        findings.push(nesting(maps));
        findings.push(mount_calls(maps));
        findings.push(root_filesystem(maps, &places.data_root, rootfs));
        findings.push(fuse(maps));
        findings.push(tun_device(maps));
    }
    findings.push(process_calls());
    findings.push(seccomp_filters());
    findings.push(cgroups());
    findings.push(session(&places.exec_root));
    findings.push(low_ports());
    findings.push(ping());
    findings.push(data_root(&places.data_root));
    findings
}

/// A user namespace with mounts in it, and the maps that it could have.
fn namespaces() -> (Finding, Option<IdMap>) {
    const NAME: &str = "user namespaces";
    let caller = match idmap::caller() {
        Ok(caller) => caller,
        Err(error) => {
            let detail = format!("/proc cannot be read: {error}");
            let remedy = "mount /proc";
            let cost = "containers altogether";
            let finding = Finding::lacking(NAME, State::Missing, detail, cost, remedy);
            return (finding.required(), None);
        }
    };
    let attempt = |maps: &IdMap| child::as_root(CloneFlags::CLONE_NEWNS, maps, mount_something);
    let mut maps = IdMap::of(&caller);
    let mut outcome = attempt(&maps);
    if let Err(Refused::Maps(reason)) = &outcome {
        maps = IdMap::single(caller.uid, caller.gid, reason.clone());
        outcome = attempt(&maps);
    }
    let finding = match outcome {
        Ok(Ok(detail)) => Finding::works(NAME, detail),
        Ok(Err(why)) => {
            let detail = format!("made, but not of use: {why}");
            let cost = "containers altogether";
            Finding::lacking(NAME, State::Missing, detail, cost, namespace_remedy())
        }
        Err(refused) => {
            let cost = "containers altogether";
            let detail = refused.to_string();
            Finding::lacking(NAME, State::Missing, detail, cost, namespace_remedy())
        }
    };
    (finding.required(), Some(maps))
}

fn mount_something() -> Outcome {
    let none = None::<&str>;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .and_then(|()| nix::mount::mount(none, "/tmp", Some("tmpfs"), MsFlags::empty(), none))
        .map(|()| "made, and filesystems can be mounted in them".into())
        .map_err(|error| format!("nothing can be mounted in them: {error}"))
}

/// The remedy for the first setting that forbids user namespaces.
fn namespace_remedy() -> String {
    let setting = |path: &str| std::fs::read_to_string(Path::new("/proc/sys").join(path)).ok();
    let is = |path: &str, value: &str| setting(path).is_some_and(|text| text.trim() == value);
    if chroot::is_chrooted() {
        "enter this root by pivot_root, as bwrap, systemd-nspawn and containers do, not by chroot"
            .into()
    } else if is("user/max_user_namespaces", "0") {
        "sysctl user.max_user_namespaces=15000".into()
    } else if is("kernel/unprivileged_userns_clone", "0") {
        "sysctl kernel.unprivileged_userns_clone=1".into()
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        let program = std::env::current_exe().unwrap_or_else(|_| "/usr/bin/moss".into());
        format!(
            "an AppArmor profile for this program: `abi <abi/4.0>, profile moss {} \
             flags=(unconfined) {{ userns, }}` in /etc/apparmor.d/moss, or sysctl \
             kernel.apparmor_restrict_unprivileged_userns=0",
            program.display()
        )
    } else {
        "inside a container, have the outer engine allow it (its seccomp profile and \
         `--security-opt apparmor=unconfined`); elsewhere a kernel with CONFIG_USER_NS"
            .into()
    }
}

/// Subordinate ids and newuidmap.
fn ids(maps: &IdMap) -> Finding {
    const NAME: &str = "user and group ids";
    let count: u64 = maps
        .mapping
        .uids
        .iter()
        .map(|extent| u64::from(extent.count))
        .sum();
    match &maps.origin {
        Origin::Subordinate => Finding::works(NAME, format!("{count} of them, the first is you")),
        Origin::Identity => {
            let detail = format!("{count} of them, one to one");
            let cost = "protection of bind mounts: root in a container is root on them";
            let remedy = "a range for root in /etc/subuid and /etc/subgid, or an ordinary user";
            Finding {
                cost: cost.into(),
                remedy: remedy.into(),
                ..Finding::works(NAME, detail)
            }
        }
        Origin::Single { reason } => {
            let cost = "owners of files, and protection between the users inside one container";
            let remedy = if reason.contains("not installed") {
                "install newuidmap and newgidmap (Debian: uidmap, Fedora: shadow-utils)".to_owned()
            } else if reason.contains("grants") {
                let user = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535";
                format!("as root: {user} $USER")
            } else {
                "newuidmap and newgidmap setuid root, on a file system without nosuid, and no \
                 no_new_privs"
                    .to_owned()
            };
            Finding::lacking(NAME, State::Degraded, reason.clone(), cost, remedy)
        }
    }
}

/// A namespace in a namespace, as each container gets.
fn nesting(maps: &IdMap) -> Finding {
    const NAME: &str = "nested namespaces";
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWNET;
    let inner = IdMap {
        mapping: idmap::nested(maps),
        origin: Origin::Identity,
    };
    let outcome = child::as_root(CloneFlags::CLONE_NEWNS, maps, || {
        child::as_root(all, &inner, || Ok(String::new())).map_err(|error| error.to_string())?
    });
    match outcome
        .map_err(|error| error.to_string())
        .and_then(|outcome| outcome)
    {
        Ok(_) => Finding::works(NAME, "each container gets a set of its own").required(),
        Err(why) => {
            let cost = "containers altogether";
            let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces");
            let limit = limit.unwrap_or_default();
            let remedy = format!(
                "raise user.max_*_namespaces (user namespaces here: {}); at most 32 levels nest",
                limit.trim()
            );
            Finding::lacking(NAME, State::Missing, why, cost, remedy).required()
        }
    }
}

/// fsopen(2), fsmount(2), mount_setattr(2), open_tree(2).
fn mount_calls(maps: &IdMap) -> Finding {
    const NAME: &str = "mount system calls";
    let outcome = child::as_root(CloneFlags::CLONE_NEWNS, maps, || {
        mount::Context::open("tmpfs")
            .and_then(|context| context.mount(mount::NO_SUID))
            .map_err(|error| error.to_string())?;
        let tree = mount::clone_tree(Path::new("/dev"), true);
        tree.map(|_| String::new())
            .map_err(|error| format!("open_tree: {error}"))
    });
    match outcome
        .map_err(|error| error.to_string())
        .and_then(|outcome| outcome)
    {
        Ok(_) => Finding::works(NAME, "mounts are made detached").required(),
        Err(why) => {
            let remedy = "Linux 5.12 or newer, and a seccomp profile that allows them";
            let cost = "containers altogether";
            Finding::lacking(NAME, State::Missing, why, cost, remedy).required()
        }
    }
}

/// The drivers of the root filesystem, where the layers will be.
fn root_filesystem(maps: &IdMap, data_root: &Path, trial: RootfsTrial) -> Finding {
    const NAME: &str = "root filesystems";
    let existing = nearest(data_root);
    let place = existing.display();
    let outcome = child::as_root(CloneFlags::CLONE_NEWNS, maps, || match trial(&existing) {
        (Some(driver), reason) => Ok(format!("{driver}: {reason}")),
        (None, reason) => Err(reason),
    });
    match outcome
        .map_err(|error| error.to_string())
        .and_then(|outcome| outcome)
    {
        Ok(detail) => Finding::works(NAME, format!("{detail} ({place})")),
        Err(why) => {
            let cost = "containers altogether";
            let remedy = "a data root that can be written to (`--data-root`)";
            let detail = format!("no driver works in {place}: {why}");
            Finding::lacking(NAME, State::Missing, detail, cost, remedy).required()
        }
    }
}

fn fuse(maps: &IdMap) -> Finding {
    const NAME: &str = "FUSE";
    let outcome = child::as_root(CloneFlags::CLONE_NEWNS, maps, || {
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let device = device.map_err(|error| format!("/dev/fuse: {error}"))?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&device);
        let options = format!("fd={number},rootmode=40000,user_id=0,group_id=0");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        nix::mount::mount(Some("moss"), "/tmp", Some("fuse"), flags, Some(&*options))
            .map(|()| "its filesystems can be mounted".to_owned())
            .map_err(|error| format!("mount: {error}"))
    });
    match outcome
        .map_err(|error| error.to_string())
        .and_then(|outcome| outcome)
    {
        Ok(detail) => Finding::works(NAME, detail),
        Err(why) => {
            let cost = "true owners with one id, and the way out where overlayfs is refused";
            let remedy = "modprobe fuse; in a container: --device /dev/fuse";
            Finding::lacking(NAME, State::Missing, why, cost, remedy)
        }
    }
}

fn tun_device(maps: &IdMap) -> Finding {
    const NAME: &str = "TUN";
    let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    let outcome = child::as_root(flags, maps, || {
        let made = tun::create("moss0").map_err(|error| format!("/dev/net/tun: {error}"))?;
        drop(made);
        Ok("devices can be made in a network namespace".to_owned())
    });
    match outcome
        .map_err(|error| error.to_string())
        .and_then(|outcome| outcome)
    {
        Ok(detail) => Finding::works(NAME, detail),
        Err(why) => {
            let cost = "the way out of containers' networks (`--network host` has one)";
            let remedy = "modprobe tun; in a container: --device /dev/net/tun";
            Finding::lacking(NAME, State::Missing, why, cost, remedy)
        }
    }
}

/// pidfds, clone3 by way of the children above, openat2.
fn process_calls() -> Finding {
    const NAME: &str = "process and file system calls";
    let own = pidfd::open(std::process::id().cast_signed());
    let opened = own
        .map_err(|error| format!("pidfd_open: {error}"))
        .and_then(|_| {
            rustix::fs::openat2(
                rustix::fs::CWD,
                "/",
                rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
                rustix::fs::ResolveFlags::IN_ROOT | rustix::fs::ResolveFlags::NO_MAGICLINKS,
            )
            .map_err(|error| format!("openat2: {error}"))
        });
    let cloned = opened.and_then(|_| {
        crate::sys::clone::clone(0, || 0)
            .map(|child| crate::sys::clone::reap(child.pid))
            .map_err(|error| format!("clone3: {error}"))
    });
    match cloned {
        Ok(_) => Finding::works(NAME, "pidfd_open, openat2, clone3").required(),
        Err(why) => {
            let remedy = "Linux 5.11 or newer, and a seccomp profile that allows them";
            let cost = "containers altogether";
            Finding::lacking(NAME, State::Missing, why, cost, remedy).required()
        }
    }
}

fn seccomp_filters() -> Finding {
    const NAME: &str = "seccomp";
    // BPF_RET | BPF_K, SECCOMP_RET_ALLOW.
    let allow_all = [(0x06, 0, 0, 0x7fff_0000)];
    let filtered = child::plain(|| {
        rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string())?;
        seccomp::load(&allow_all)
            .map(|()| String::new())
            .map_err(|error| error.to_string())
    });
    if let Err(why) = filtered {
        let remedy = "a kernel with CONFIG_SECCOMP_FILTER, and an outer sandbox that allows it";
        let cost = "containers, which never run without their filter unless told to";
        return Finding::lacking(NAME, State::Missing, why, cost, remedy).required();
    }
    let notified = child::plain(|| {
        rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string())?;
        seccomp::try_notification()
            .map(|_| String::new())
            .map_err(|error| error.to_string())
    });
    match notified {
        Ok(_) => Finding::works(NAME, "filters and user notification").required(),
        Err(why) => {
            let detail = format!("filters, but no user notification: {why}");
            let cost = "showing true owners with one id";
            let remedy = "Linux 5.0 or newer; in a container, an engine that does not supervise it";
            Finding::lacking(NAME, State::Degraded, detail, cost, remedy).required()
        }
    }
}

/// A cgroup that is this user's to divide, and the controllers that reach into it.
fn cgroups() -> Finding {
    const NAME: &str = "cgroup v2 delegation";
    const COST: &str = "hard limits (memory, cpu, pids); they are warned about";
    let remedy = "log in through systemd, or start the daemon with `systemd-run --user --scope -p \
                  Delegate=yes`";
    let root = Path::new("/sys/fs/cgroup");
    if !root.join("cgroup.controllers").exists() {
        let detail = "/sys/fs/cgroup is not cgroup v2";
        let remedy = "boot with systemd.unified_cgroup_hierarchy=1";
        return Finding::lacking(NAME, State::Missing, detail, COST, remedy);
    }
    let Some(directory) = own_cgroups(root)
        .into_iter()
        .find(|directory| can_divide(directory))
    else {
        let detail = "no cgroup is this user's to divide";
        return Finding::lacking(NAME, State::Missing, detail, COST, remedy);
    };
    let all = std::fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    let usable: Vec<_> = all
        .split_ascii_whitespace()
        .filter(|name| can_pass_on(&directory, name))
        .collect();
    let wanted = ["memory", "cpu", "pids", "io"];
    let missing: Vec<_> = wanted
        .iter()
        .filter(|name| !usable.contains(name))
        .copied()
        .collect();
    let place = directory.display();
    if missing.is_empty() {
        return Finding::works(NAME, format!("{} in {place}", usable.join(" ")));
    }
    let detail = format!("{place} lacks {}", missing.join(" "));
    let remedy = "Delegate=cpu cpuset io memory pids for user@.service (systemctl edit)";
    Finding::lacking(NAME, State::Degraded, detail, COST, remedy)
}

/// This process's own cgroup, and the user's systemd service's, which delegates.
fn own_cgroups(root: &Path) -> Vec<PathBuf> {
    let membership = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = membership
        .lines()
        .find_map(|line| line.strip_prefix("0::/"));
    let uid = rustix::process::geteuid().as_raw();
    let service = root.join(format!("user.slice/user-{uid}.slice/user@{uid}.service"));
    own.map(|own| root.join(own))
        .into_iter()
        .chain([service])
        .collect()
}

fn can_divide(directory: &Path) -> bool {
    let child = directory.join(format!("moss-probe-{}", std::process::id()));
    let made = std::fs::create_dir(&child).is_ok();
    made && std::fs::remove_dir(child).is_ok()
}

/// Whether children of the cgroup get the controller, or could.
fn can_pass_on(directory: &Path, controller: &str) -> bool {
    let file = directory.join("cgroup.subtree_control");
    let enabled = std::fs::read_to_string(&file).unwrap_or_default();
    if enabled
        .split_ascii_whitespace()
        .any(|name| name == controller)
    {
        return true;
    }
    match std::fs::write(&file, format!("+{controller}")) {
        Ok(()) => {
            let _ = std::fs::write(&file, format!("-{controller}"));
            true
        }
        // Only because processes are in the cgroup itself, which the daemon can move below it.
        Err(error) => error.kind() == io::ErrorKind::ResourceBusy,
    }
}

fn session(exec_root: &Path) -> Finding {
    const NAME: &str = "systemd user session";
    let runtime = exec_root.parent().unwrap_or(exec_root);
    let outcome = UnixStream::connect(runtime.join("systemd/private"))
        .and_then(|_| UnixStream::connect(runtime.join("bus")));
    match outcome {
        Ok(_) => Finding::works(NAME, "reachable"),
        Err(error) => Finding::lacking(
            NAME,
            State::Missing,
            format!("none in {}: {error}", runtime.display()),
            "transient scopes for containers, and a daemon started at boot",
            "log in through systemd with dbus-user-session installed; `loginctl enable-linger` for \
             the time after logout",
        ),
    }
}

/// Binds the lowest port that people publish.
fn low_ports() -> Finding {
    const NAME: &str = "published ports below 1024";
    match TcpListener::bind("127.0.0.1:80") {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let path = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
            let first = std::fs::read_to_string(path).unwrap_or_default();
            Finding::lacking(
                NAME,
                State::Degraded,
                format!("unprivileged ports start at {}", first.trim()),
                "`-p 80:…` on the host's side",
                "sysctl net.ipv4.ip_unprivileged_port_start=0",
            )
        }
        // In use is as good: the port itself was allowed.
        _ => Finding::works(NAME, "can be bound"),
    }
}

fn ping() -> Finding {
    const NAME: &str = "ICMP echo";
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        Some(rustix::net::ipproto::ICMP),
    );
    match socket {
        Ok(_) => Finding::works(NAME, "containers can ping out"),
        Err(error) => Finding::lacking(
            NAME,
            State::Degraded,
            format!("no socket: {error}"),
            "ping from containers to the outside",
            "sysctl net.ipv4.ping_group_range='0 2147483647'",
        ),
    }
}

/// Magic numbers of file systems (statfs(2)) that several hosts may share.
const SHARED: &[(u64, &str)] = &[
    (0x6969, "NFS"),
    (0xff53_4d42, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x6573_5546, "FUSE"),
];

fn data_root(data_root: &Path) -> Finding {
    const NAME: &str = "data root";
    let existing = nearest(data_root);
    let (place, local) = (
        data_root.display(),
        "`--data-root` on a local disk (`data-root` in \
                          daemon.json)",
    );
    let cost = "all images and containers";
    let kind = match rustix::fs::statfs(&existing) {
        Ok(status) => u64::try_from(status.f_type).unwrap_or(0) & 0xffff_ffff,
        Err(error) => {
            let detail = format!("{}: {error}", existing.display());
            return Finding::lacking(NAME, State::Missing, detail, cost, local).required();
        }
    };
    let writable = rustix::fs::access(&existing, rustix::fs::Access::WRITE_OK);
    if let Err(error) = writable {
        let detail = format!("{} cannot be written: {error}", existing.display());
        return Finding::lacking(NAME, State::Missing, detail, cost, local).required();
    }
    match SHARED.iter().find(|(magic, _)| *magic == kind) {
        Some((_, name)) => Finding::lacking(
            NAME,
            State::Degraded,
            format!("{place} is on {name}"),
            "speed, the native overlay, and use by one host at a time",
            local,
        ),
        None => Finding::works(NAME, format!("{place} is on a local file system")).required(),
    }
}

/// The directory itself, or the nearest above it that exists.
fn nearest(path: &Path) -> PathBuf {
    let exists = path.ancestors().find(|ancestor| ancestor.is_dir());
    exists.unwrap_or(Path::new("/")).to_owned()
}
