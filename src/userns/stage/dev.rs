//! The container's /dev: devices bound from the host, and the links that programs expect.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, openat, symlinkat, unlinkat};

use super::StageError;
use crate::sys::mount::attach;
use crate::sys::resolve;
use crate::userns::plan::{MountSource, Plan};

/// Links in /dev, as every engine makes them.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Whether /dev is ours to fill: not when the user bound a directory of the host's there.
pub(super) fn wanted(plan: &Plan) -> bool {
    !plan.mounts.iter().any(|mount| {
        mount.target.trim_end_matches('/') == "/dev"
            && !matches!(mount.source, MountSource::Filesystem { .. })
    })
}

pub(super) fn populate(
    root: BorrowedFd<'_>,
    devices: Vec<(String, OwnedFd)>,
) -> Result<(), StageError> {
    for (path, tree) in devices {
        bind(root, &path, &tree).map_err(|error| {
            StageError::io(format_args!("error creating device nodes: {path}"), &error)
        })?;
    }
    let failed = |error: io::Error| StageError::io("error setting up /dev symlinks", &error);
    let core = std::fs::exists("/proc/kcore").unwrap_or(false);
    let core = core.then_some(("/proc/kcore", "/dev/core"));
    for (target, path) in LINKS.into_iter().chain(core) {
        let (parent, name) = resolve::make_parent(root, path).map_err(failed)?;
        match symlinkat(target, &parent, &name) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
    ptmx(root).map_err(|error| StageError::io("error setting up ptmx", &error))
}

/// /dev/ptmx must be the one of this container's devpts instance.
fn ptmx(root: BorrowedFd<'_>) -> io::Result<()> {
    let (parent, name) = resolve::make_parent(root, "/dev/ptmx")?;
    match unlinkat(&parent, &name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(symlinkat("pts/ptmx", &parent, &name)?)
}

/// Attaches a device (or the console) at `path`, on a file that is made if there is none.
pub(super) fn bind(root: BorrowedFd<'_>, path: &str, tree: &OwnedFd) -> io::Result<()> {
    let (parent, name) = resolve::make_parent(root, path)?;
    // Never opened for real: what lies there may be a device or a pipe of the image's.
    let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = match openat(&parent, &name, look, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => {
            let create =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(&parent, &name, create, Mode::from_raw_mode(0o666))?
        }
        other => other?,
    };
    attach(tree.as_fd(), target.as_fd())
}
