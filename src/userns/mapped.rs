//! A forked child in a new user namespace whose id maps its parent wrote.
//!
//! The parent stays outside: newuidmap and newgidmap refuse to be called from inside, and a map of
//! more than the caller's own id may be written only from the parent namespace. A map can be
//! written once; where it is refused the child leaves, and another is made with a smaller one.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Pid, Uid};

use super::idmap::{self, IdMap, Origin};
use super::plan::Extent;
use crate::sys::{chroot, fdpass, fork};

/// Why there is no such child; each holds one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// The namespaces could not be made.
    #[error("{0}")]
    Namespace(String),
    /// The maps could not be had.
    #[error("{0}")]
    Maps(String),
}

/// Forks a child that makes namespaces (a user namespace among them, which owns the rest), gets
/// `maps`, becomes root and runs `body`; its result is the exit status. 1 where it could not get
/// so far after its maps were written.
pub(super) fn fork_mapped(
    others: CloneFlags,
    maps: &IdMap,
    body: impl FnOnce() -> i32,
) -> Result<Pid, Refused> {
    let lost = |what: &str, error: io::Error| Refused::Namespace(step(what, &error));
    let (ours, theirs) = fdpass::pair().map_err(|error| lost("make a socket pair", error))?;
    let mut ends = Some((ours, theirs));
    let child = fork::fork(|| {
        // Each side closes the other's end, so as to see its death.
        let Some((ours, theirs)) = ends.take() else {
            return 1;
        };
        drop(ours);
        let entered = enter(others, &theirs);
        drop(theirs);
        if entered { body() } else { 1 }
    });
    let child = child.map_err(|error| lost("fork", error))?;
    let Some((ours, theirs)) = ends.take() else {
        return Err(Refused::Namespace("the socket pair is lost".into()));
    };
    drop(theirs);
    let mut word = [0; 1024];
    let heard = fdpass::receive(&ours, &mut word);
    let outcome = match heard {
        Ok((length @ 1.., _)) if &word[..length] == ASKING => {
            write_maps(child, maps).map_err(Refused::Maps)
        }
        Ok((0, _)) => Err(Refused::Namespace("the new process died".into())),
        Ok((length, _)) => {
            let message = String::from_utf8_lossy(&word[..length]).into_owned();
            Err(Refused::Namespace(message))
        }
        Err(error) => Err(lost("hear from the new process", error)),
    };
    let outcome = outcome.and_then(|()| {
        fdpass::send(&ours, MAPPED, &[]).map_err(|error| lost("wake the new process", error))
    });
    if let Err(refused) = outcome {
        // It sees the end of its socket and leaves.
        drop(ours);
        let _ = nix::sys::wait::waitpid(child, None);
        return Err(refused);
    }
    Ok(child)
}

/// Why the kernel refuses, where it is for this.
const CHROOTED: &str = "; the process's root is not the root of its mount namespace (chroot): \
                        use pivot_root or a container instead";

/// The child waits for its maps.
const ASKING: &[u8] = b"mapped?";

/// The child may go on.
const MAPPED: &[u8] = b"mapped";

/// In the child, up to being root inside; `false` where that came to nothing.
fn enter(others: CloneFlags, parent: &OwnedFd) -> bool {
    if let Err(error) = nix::sched::unshare(CloneFlags::CLONE_NEWUSER | others) {
        let mut message = step("make a user namespace", &error);
        if error == Errno::EPERM && chroot::is_chrooted() {
            message.push_str(CHROOTED);
        }
        let _ = fdpass::send(parent, message.as_bytes(), &[]);
        return false;
    }
    let mut word = [0; 16];
    let asked = fdpass::send(parent, ASKING, &[]);
    let told = asked.and_then(|()| fdpass::receive(parent, &mut word));
    matches!(told, Ok((length, _)) if &word[..length] == MAPPED) && become_root().is_ok()
}

/// Takes id 0 of the namespace that this process is in. Supplementary groups stay.
pub(super) fn become_root() -> io::Result<()> {
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setresgid(group, group, group)?;
    nix::unistd::setresuid(user, user, user)?;
    Ok(())
}

/// Writes the id maps of `child`; the error says why they cannot be had.
fn write_maps(child: Pid, maps: &IdMap) -> Result<(), String> {
    let mapping = &maps.mapping;
    let file = |name: &str| format!("/proc/{child}/{name}");
    if mapping.deny_setgroups {
        std::fs::write(file("setgroups"), "deny")
            .map_err(|error| step("deny setgroups", &error))?;
    }
    // Root, or root's capabilities, may write any map, where newuidmap is missing too.
    match std::fs::write(file("uid_map"), idmap::format(&mapping.uids)) {
        Ok(()) => std::fs::write(file("gid_map"), idmap::format(&mapping.gids))
            .map_err(|error| step("write the map of groups", &error)),
        Err(error) if maps.origin != Origin::Subordinate => {
            Err(step("write the map of users", &error))
        }
        Err(_) => {
            new_map("newuidmap", child, &mapping.uids)?;
            new_map("newgidmap", child, &mapping.gids)
        }
    }
}

fn new_map(program: &str, child: Pid, extents: &[Extent]) -> Result<(), String> {
    let mut command = Command::new(find(program));
    command.arg(child.to_string()).stdin(Stdio::null());
    for Extent {
        inside,
        outside,
        count,
    } in extents
    {
        command.args([inside, outside, count].map(u32::to_string));
    }
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("{program} is not installed"),
        _ => format!("{program} cannot be run: {error}"),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().lines().next().unwrap_or_default();
    Err(format!("{program} failed ({}): {said}", output.status))
}

/// The program on `$PATH`, else where distributions put it: a daemon's PATH may be short.
fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| program.into())
}

/// One sentence for a step that failed, with its cause: it crosses to another process as text.
pub(super) fn step(what: &str, error: &dyn std::error::Error) -> String {
    format!("cannot {what}: {error}")
}
