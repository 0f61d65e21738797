//! The container's root as this process's own root.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::CloneFlags;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, open};
use rustix::process::{chroot, fchdir};

use super::{Refusal, ViewMount};
use crate::overlay::{self, Root, Rootfs};
use crate::sys::mount::{
    Attributes, READ_ONLY, attach, clone_tree, clone_tree_at, part_of, set_attributes,
};
use crate::sys::{resolve, tree};
use crate::types::chain::chain;
use crate::types::idmap::IdMapping;

/// Makes `root` the root and working directory, and opens it.
pub(super) fn enter(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    fchdir(root)?;
    chroot(".")?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open("/", flags, Mode::empty())?)
}

/// Mounts the root of a container that does not run, in a mount namespace of this process's own.
pub(super) fn mount(rootfs: &Rootfs, mounts: &[ViewMount]) -> Result<Root, Refusal> {
    own_mounts()?;
    let root = overlay::mount(rootfs).map_err(|error| Refusal::Failed(chain(&error)))?;
    // The upper directory surely exists, and the overlay has found it by now.
    let place = tree::open_dir(&rootfs.upper)?;
    attach(root.tree.as_fd(), place.as_fd())?;
    for point in mounts {
        volume(root.tree.as_fd(), point, rootfs.owners.as_ref()).map_err(|error| {
            let place = &point.destination;
            Refusal::Failed(format!(
                "cannot mount {} at {place}: {error}",
                point.source.join(&point.subpath).display()
            ))
        })?;
    }
    Ok(root)
}

/// What is mounted from here on is seen by nobody else.
fn own_mounts() -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    let slash = tree::open_dir("/".as_ref())?;
    let private = Attributes {
        set: 0,
        propagation: libc::MS_PRIVATE,
    };
    set_attributes(slash.as_fd(), true, private)
}

fn volume(root: BorrowedFd<'_>, point: &ViewMount, owners: Option<&IdMapping>) -> io::Result<()> {
    let tree = match point.layers.as_slice() {
        [] => bound(point)?,
        layers => image(layers, &point.subpath, owners)?,
    };
    let kind = match FileType::from_raw_mode(fstat(&tree)?.st_mode) {
        FileType::Directory => resolve::Kind::Directory,
        _ => resolve::Kind::File,
    };
    let target = made(root, &point.destination, kind, owners)?;
    if !point.writable {
        let read_only = Attributes {
            set: READ_ONLY,
            propagation: 0,
        };
        set_attributes(tree.as_fd(), !point.readonly_non_recursive, read_only)?;
    }
    attach(tree.as_fd(), target.as_fd())
}

/// A mount point. What is missing of it is made, and is the container's root's.
fn made(
    root: BorrowedFd<'_>,
    path: &str,
    kind: resolve::Kind,
    owners: Option<&IdMapping>,
) -> io::Result<OwnedFd> {
    if let Some((uid, gid)) = owners.and_then(|map| map.outside(0, 0)) {
        let ends = path.match_indices('/').map(|(end, _)| end).skip(1);
        for (part, kind) in ends
            .map(|end| (&path[..end], resolve::Kind::Directory))
            .chain([(path, kind)])
        {
            if let Err(error) = resolve::open(root, part, OFlags::PATH)
                && error.kind() == io::ErrorKind::NotFound
            {
                let made = resolve::make(root, part, kind)?;
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                chownat(&made, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
            }
        }
    }
    resolve::make(root, path, kind)
}

/// A file or directory of the host, or what is in it.
fn bound(point: &ViewMount) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let source = open(&point.source, flags, Mode::empty())?;
    let source = match point.subpath.as_str() {
        "" => source,
        subpath => resolve::open_beneath(source.as_fd(), subpath)?,
    };
    clone_tree_at(source.as_fd(), !point.non_recursive)
}

/// An image, or what is in it.
fn image(layers: &[PathBuf], subpath: &str, owners: Option<&IdMapping>) -> io::Result<OwnedFd> {
    let tree = match (layers, owners) {
        (layers, Some(owners)) => overlay::mount_owned(layers, owners)?,
        // A directory, which is attached.
        ([layer], None) => clone_tree(layer, false)?,
        (layers, None) => overlay::mount_readonly(layers)?,
    };
    match subpath {
        "" => Ok(tree),
        subpath => part_of(tree.as_fd(), subpath),
    }
}
