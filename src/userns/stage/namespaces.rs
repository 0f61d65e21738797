//! Making the child with its namespaces, new ones and joined ones, and its id maps.
//!
//! With nothing to join, one clone3 makes the child and all its namespaces, the user namespace
//! first, so that it owns the rest. With something to join a *joiner* comes in between: it enters
//! the other containers' namespaces, then clones the child as the shim's own (CLONE_PARENT), hands
//! over the pidfd and ends. Order matters in it: entering a namespace needs CAP_SYS_ADMIN in the
//! user namespace that owns it. As root in the keeper's namespace the joiner has that over every
//! container; once it has entered one container's user namespace only over that one. So the user
//! namespace comes last. (The shim itself can enter none: there is no way back to the outer one.)

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::channel::Channel;
use super::{START, StageError};
use crate::sys::clone::{self, Child};
use crate::sys::mount::clone_tree_at;
use crate::sys::{pidfd, resolve};
use crate::userns::idmap;
use crate::userns::plan::{IdMapping, Namespace, Namespaces, ProcessIdentity};

/// The namespaces by their names under /proc/PID/ns, in the plan's order.
fn table(namespaces: &Namespaces) -> [(&'static str, Namespace, u64, CloneFlags); 6] {
    [
        (
            "user",
            namespaces.user,
            clone::NEW_USER,
            CloneFlags::CLONE_NEWUSER,
        ),
        (
            "pid",
            namespaces.pid,
            clone::NEW_PID,
            CloneFlags::CLONE_NEWPID,
        ),
        (
            "ipc",
            namespaces.ipc,
            clone::NEW_IPC,
            CloneFlags::CLONE_NEWIPC,
        ),
        (
            "uts",
            namespaces.uts,
            clone::NEW_UTS,
            CloneFlags::CLONE_NEWUTS,
        ),
        (
            "net",
            namespaces.net,
            clone::NEW_NET,
            CloneFlags::CLONE_NEWNET,
        ),
        (
            "cgroup",
            namespaces.cgroup,
            clone::NEW_CGROUP,
            CloneFlags::CLONE_NEWCGROUP,
        ),
    ]
}

/// Clones the child that runs `main`.
pub(super) fn launch(
    namespaces: &Namespaces,
    main: impl FnOnce() -> i32,
) -> Result<Child, StageError> {
    let mut new = clone::NEW_MOUNT;
    let mut joined: BTreeMap<(i32, u64), CloneFlags> = BTreeMap::new();
    let mut user = None;
    for (name, from, clone_flag, setns_flag) in table(namespaces) {
        match from {
            Namespace::New => new |= clone_flag,
            Namespace::Host => {}
            // Entering the namespace that one is in fails (user) or needs rights over it.
            Namespace::Join(of) if !differs(of.pid, name)? => {}
            Namespace::Join(of) if name == "user" => user = Some(of),
            Namespace::Join(of) => {
                *joined
                    .entry((of.pid, of.start_time))
                    .or_insert(CloneFlags::empty()) |= setns_flag;
            }
        }
    }
    if joined.is_empty() && user.is_none() {
        return clone::clone(new, main)
            .map_err(|error| StageError::io("creating namespaces", &error));
    }
    let mut steps = Vec::new();
    for ((pid, start_time), flags) in joined {
        steps.push((identify(ProcessIdentity { pid, start_time })?, flags));
    }
    if let Some(of) = user {
        steps.push((identify(of)?, CloneFlags::CLONE_NEWUSER));
    }
    by_way_of_joiner(
        || {
            for (pidfd, flags) in &steps {
                setns(pidfd, *flags)?;
            }
            Ok(())
        },
        new,
        main,
    )
}

/// Clones `main` with `flags` as the caller's child, out of a process that first did `join`.
pub(super) fn by_way_of_joiner(
    join: impl FnOnce() -> io::Result<()>,
    flags: u64,
    main: impl FnOnce() -> i32,
) -> Result<Child, StageError> {
    let (ours, theirs) =
        Channel::pair(START).map_err(|error| StageError::io("creating init pipe", &error))?;
    let joiner = clone::clone(0, || {
        ours.close_inherited();
        let joined = join().map_err(|error| (error, "joining namespaces"));
        let cloned = joined.and_then(|()| {
            clone::clone(flags | clone::SIBLING, || {
                // The joiner's channel would tell the shim nothing while this child has it open.
                theirs.close_inherited();
                main()
            })
            .map_err(|error| (error, "creating namespaces"))
        });
        let sent = match cloned {
            Ok(child) => theirs.send(&child.pid.to_ne_bytes(), Some(&child.pidfd)),
            Err((error, what)) => {
                theirs.send(StageError::io(what, &error).message.as_bytes(), None)
            }
        };
        i32::from(sent.is_err())
    })
    .map_err(|error| StageError::io("creating init process", &error))?;
    drop(theirs);
    let mut bytes = [0_u8; 512];
    let received = ours.receive(&mut bytes);
    clone::reap(joiner.pid);
    match received {
        Ok((n, Some(pidfd))) => {
            let pid = bytes[..n]
                .try_into()
                .map_err(|_| StageError::new("init process did not tell its pid"))?;
            Ok(Child {
                pid: i32::from_ne_bytes(pid),
                pidfd,
            })
        }
        Ok((0, None)) => Err(StageError::new("joining namespaces: unexpected end")),
        Ok((n, None)) => Err(StageError::new(String::from_utf8_lossy(&bytes[..n]))),
        Err(error) => Err(StageError::io("reading from init process", &error)),
    }
}

/// A detached copy of what another container has mounted on the directory `path`.
///
/// The kernel copies mounts of the caller's own mount namespace only, so a process enters the
/// container's and sends the copy back: attached or not, a mount without a place belongs to
/// nobody, and may be given one anywhere.
pub(super) fn copy_mount(of: ProcessIdentity, path: &Path) -> Result<OwnedFd, StageError> {
    let failed = |error: &io::Error| {
        StageError::io(
            format_args!("error mounting another container's \"{}\"", path.display()),
            error,
        )
    };
    let pidfd = identify(of)?;
    let (ours, theirs) = Channel::pair(START).map_err(|error| failed(&error))?;
    let helper = clone::clone(0, || {
        ours.close_inherited();
        let copied = setns(&pidfd, CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
            .map_err(io::Error::from)
            // By its own root, whatever links it made there.
            .and_then(|()| {
                Ok(openat(
                    CWD,
                    "/",
                    OFlags::PATH | OFlags::CLOEXEC,
                    Mode::empty(),
                )?)
            })
            .and_then(|root| {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                resolve::open(root.as_fd(), &path.to_string_lossy(), flags)
            })
            .and_then(|directory| clone_tree_at(directory.as_fd(), false));
        let sent = match copied {
            Ok(tree) => theirs.send(&[0; 4], Some(&tree)),
            Err(error) => theirs.send(&error.raw_os_error().unwrap_or(0).to_ne_bytes(), None),
        };
        i32::from(sent.is_err())
    })
    .map_err(|error| failed(&error))?;
    drop(theirs);
    let mut number = [0_u8; 4];
    let received = ours.receive(&mut number);
    clone::reap(helper.pid);
    match received {
        Ok((_, Some(tree))) => Ok(tree),
        Ok((4, None)) => Err(failed(&io::Error::from_raw_os_error(i32::from_ne_bytes(
            number,
        )))),
        Ok((_, None)) => Err(failed(&io::ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(failed(&error)),
    }
}

/// Enters every namespace of a process that differs from the caller's, all at once.
pub(super) fn enter_all(pidfd: BorrowedFd<'_>, pid: i32) -> io::Result<()> {
    let mut flags = CloneFlags::empty();
    for (name, flag) in [
        ("user", CloneFlags::CLONE_NEWUSER),
        ("mnt", CloneFlags::CLONE_NEWNS),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ] {
        if namespace_inode("self", name)? != namespace_inode(&pid.to_string(), name)? {
            flags |= flag;
        }
    }
    Ok(setns(pidfd, flags)?)
}

fn differs(pid: i32, name: &str) -> Result<bool, StageError> {
    let inodes = namespace_inode("self", name)
        .and_then(|ours| Ok((ours, namespace_inode(&pid.to_string(), name)?)));
    match inodes {
        Ok((ours, theirs)) => Ok(ours != theirs),
        Err(error) => Err(StageError::io(
            format_args!("looking at the {name} namespace of process {pid}"),
            &error,
        )),
    }
}

fn namespace_inode(process: &str, name: &str) -> io::Result<(u64, u64)> {
    let meta = std::fs::metadata(format!("/proc/{process}/ns/{name}"))?;
    Ok((meta.dev(), meta.ino()))
}

/// Opens a pidfd and makes sure that it is the process meant and not a later one of its number.
fn identify(of: ProcessIdentity) -> Result<OwnedFd, StageError> {
    let gone = || StageError::new("cannot join network namespace of a non running container");
    let pidfd = pidfd::open(of.pid).map_err(|_| gone())?;
    match pidfd::start_time(of.pid) {
        Ok(time) if time == of.start_time => Ok(pidfd),
        _ => Err(gone()),
    }
}

/// Writes the child's id maps, each in the single write that the kernel allows.
pub(super) fn write_maps(pid: i32, map: &IdMapping) -> Result<(), StageError> {
    let write = |file: &str, text: &str| {
        std::fs::write(format!("/proc/{pid}/{file}"), text)
            .map_err(|error| StageError::io(format_args!("write to {file} failed"), &error))
    };
    if map.deny_setgroups {
        write("setgroups", "deny")?;
    }
    write("uid_map", &idmap::format(&map.uids))?;
    write("gid_map", &idmap::format(&map.gids))
}

/// For the child: root of its user namespace, in no other group.
pub(super) fn become_root() -> Result<(), StageError> {
    use rustix::process::{Gid, Uid};
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let failed = |what: &str, error: rustix::io::Errno| StageError::io(what, &error.into());
    match set_thread_groups(&[]) {
        // Denied for the whole user namespace where one id is mapped: known from trying.
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(failed("setgroups", error)),
    }
    let gid = Gid::from_raw(0);
    set_thread_res_gid(gid, gid, gid).map_err(|error| failed("setresgid", error))?;
    let uid = Uid::from_raw(0);
    set_thread_res_uid(uid, uid, uid).map_err(|error| failed("setresuid", error))
}
