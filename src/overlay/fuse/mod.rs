//! Our own overlay over FUSE: for hosts where the kernel's is not to be had.
//!
//! ```text
//! container ─▶ kernel: caches, permissions, locks ─/dev/fuse─▶ server ─▶ layers, upper, work
//! ```
//!
//! [`mount`] makes a detached mount and forks its server ([`process`]), a child of the container's
//! shim. The mount belongs to the caller's user namespace, so neither needs any privilege outside
//! of it, nor fusermount. Killed, the server takes the connection with it: whatever is asked of
//! the mount then fails with ENOTCONN, and nothing hangs.
//!
//! The upper directory means the same to this and to the kernel's overlayfs with `userxattr`, and
//! to all who read layers without a mount. See the modules for the parts: [`wire`], [`device`]
//! and [`server`] speak the protocol; [`node`] and [`table`] are the inode table; [`dir`] real
//! directories and whiteouts; [`tree`] lookup and merging; [`owners`] the ids that are shown;
//! [`pages`] and [`seek`] answers of other threads and ways; [`listing`], [`copy_up`], [`links`], [`entries`], [`rename`], [`xattr`] and
//! [`data`] do what their names say.
//!
//! Permissions are the kernel's matter (`default_permissions`, with ACLs): the server does what
//! it is asked, as root of its user namespace. Names in requests are single components, and every
//! call on a layer is relative to a held directory and follows no link, so no image can lead it
//! elsewhere.
//!
//! The requests are parsed here and not by a crate: fuse-backend-rs dispatches neither O_TMPFILE
//! (which has no fallback), copy_file_range nor statx, which would have needed a parser beside it,
//! and brings twenty crates, old versions of ours among them.
//!
//! pjdfstest (238 files) finds the same with this and with the kernel's overlayfs in a user namespace:
//! that devices cannot be made there. Of the unionmount suite's 60 cases the kernel's fails four, renames
//! of directories; this fails the one that demands EXDEV of them.
//!
//! # Differences from a directory of the host's
//!
//! - ENOSPC and EIO of buffered writes are reported by close and fsync: the kernel collects writes.
//! - Reads change no access times: the kernel, which caches, tells of few.
//! - syncfs(2) does not reach a server without privilege; fsync does.
//! - A layer's file with several names counts those that were removed, until it is copied up.
//! - A directory of a layer is renamed at the cost of a copy (the kernel's answers EXDEV).
//! - Where a file was replaced, its inode number may be the layer's after the next mount.
//! - inotify tells of what is done through the mount, which is all that is done.
//! - ioctls on files (chattr, fiemap) answer ENOTTY.

mod abi;
mod copy_up;
mod data;
mod device;
mod dir;
mod entries;
mod links;
mod listing;
mod node;
mod owners;
mod pages;
mod process;
mod rename;
mod seek;
mod server;
mod table;
mod tree;
mod wire;
mod xattr;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{Dir, Mode, OFlags};

use super::{Error, Rootfs};
use crate::sys::mount::{Context, FilesystemError};
use crate::sys::tree as remove;
use crate::types::idmap::IdMapping;
pub use process::Server;
use tree::{Layers, Tree};

/// Descriptors that are held in a process with other things to do: most may have 1024.
const COPY_HOLDS: usize = 256;

/// Makes the mount, attached nowhere, and its server.
///
/// # Errors
///
/// A layer that cannot be opened; /dev/fuse missing or refused; the kernel's refusal to mount; a
/// caller with several threads.
pub(super) fn mount(rootfs: &Rootfs) -> Result<(OwnedFd, Server), Error> {
    let layers = open(rootfs)?;
    let (tree, device) = connect(rootfs)?;
    let server = Server::fork(layers, device)
        .map_err(|error| Error::step(rootfs, "starting the FUSE server", error))?;
    Ok((tree, server))
}

/// Opens the directories.
fn open(rootfs: &Rootfs) -> Result<Layers, Error> {
    if rootfs.lower.is_empty() {
        return Err(Error::NoLayers);
    }
    let open = |path: &PathBuf| {
        remove::open_dir(path)
            .map_err(|error| Error::step(rootfs, &format!("opening \"{}\"", path.display()), error))
    };
    Ok(Layers {
        lower: rootfs.lower.iter().map(open).collect::<Result<_, _>>()?,
        upper: Some(open(&rootfs.upper)?),
        work: open(&rootfs.work)?,
        volatile: rootfs.volatile,
        owners: rootfs.owners.clone(),
    })
}

/// A detached mount, and the device that it is served by.
fn connect(rootfs: &Rootfs) -> Result<(OwnedFd, OwnedFd), Error> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/fuse", flags, Mode::empty())
        .map_err(|error| Error::step(rootfs, "opening /dev/fuse", error.into()))?;
    let tree = attachable(&device, 0).map_err(|error| Error::mount(rootfs, error))?;
    Ok((tree, device))
}

/// The layers alone, to be read only, by a thread of the caller's that ends with the mount.
pub(super) fn mount_layers(layers: &[PathBuf], owners: Option<&IdMapping>) -> io::Result<OwnedFd> {
    let (mount, device) = connect_readonly()?;
    let tree = Tree::new(read_only(layers, owners)?, COPY_HOLDS)?;
    std::thread::Builder::new()
        .name("fuse".to_owned())
        .spawn(move || server::serve(tree, device, 1))?;
    Ok(mount)
}

/// The same by a server of its own.
pub(super) fn serve_layers(
    layers: &[PathBuf],
    owners: Option<&IdMapping>,
) -> io::Result<(OwnedFd, Server)> {
    let (mount, device) = connect_readonly()?;
    let server = Server::fork(read_only(layers, owners)?, device)?;
    Ok((mount, server))
}

fn connect_readonly() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/fuse", flags, Mode::empty())?;
    let mount = attachable(&device, libc::MOUNT_ATTR_RDONLY).map_err(|error| error.error)?;
    Ok((mount, device))
}

/// Layers with nothing to write to.
fn read_only(layers: &[PathBuf], owners: Option<&IdMapping>) -> io::Result<Layers> {
    let lower = layers.iter().map(|path| remove::open_dir(path));
    let lower: Vec<OwnedFd> = lower.collect::<Result<_, _>>()?;
    let first = lower.first().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(Layers {
        work: first.try_clone()?,
        lower,
        upper: None,
        volatile: true,
        owners: owners.cloned(),
    })
}

/// Tries what [`mount`] does, but for the server: that the mount is made, and that the layers'
/// filesystem has what the overlay writes to it. The directories are made here.
pub(super) fn try_at(rootfs: &Rootfs) -> Result<(), Error> {
    let failed = |error: io::Error| Error::step(rootfs, "preparing a trial", error);
    for directory in [&rootfs.lower[0], &rootfs.upper, &rootfs.work] {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let layers = open(rootfs)?;
    connect(rootfs)?;
    let marked = layers.upper.as_ref().map_or(Ok(()), copy_up::set_opaque);
    marked.map_err(|error| Error::step(rootfs, "setting an attribute", error.into()))?;
    let tree = Tree::new(layers, 1).map_err(|error| failed(error.into()))?;
    tree.whiteout(&tree.work, c"#trial")
        .map_err(|error| Error::step(rootfs, "making a whiteout", error.into()))
}

/// Copies all layers into the upper directory, unless that was done before: then it is what the
/// layers together look like. An interrupted copy is gone on with by the next.
///
/// # Errors
///
/// The filesystem's.
pub(super) fn copy_whole(rootfs: &Rootfs) -> Result<(), Error> {
    let failed = |error: io::Error| Error::step(rootfs, "copying the layers", error);
    let layers = Layers {
        // One sync in the end is worth thousands.
        volatile: true,
        // They are the layers' own in the copy.
        owners: None,
        ..open(rootfs)?
    };
    clear(&layers.work).map_err(failed)?;
    let work = layers.work.try_clone().map_err(failed)?;
    let sync = || {
        if rootfs.volatile {
            Ok(())
        } else {
            rustix::fs::syncfs(&work)
        }
    };
    let mut tree = Tree::new(layers, COPY_HOLDS).map_err(|error| failed(error.into()))?;
    tree.firsts = Some(tree::Firsts::default());
    let root = tree.table.get(table::ROOT);
    root.and_then(|root| tree.copy_tree(&root, sync))
        .map_err(|error| failed(error.into()))
}

fn attachable(device: &OwnedFd, attributes: u64) -> Result<OwnedFd, FilesystemError> {
    let context = Context::open("fuse")?;
    context.set("source", Some(b"moss"))?;
    context.set("fd", Some(device.as_raw_fd().to_string().as_bytes()))?;
    context.set("rootmode", Some(b"40000"))?;
    context.set("user_id", Some(b"0"))?;
    context.set("group_id", Some(b"0"))?;
    context.set("allow_other", None)?;
    context.set("default_permissions", None)?;
    context.mount(attributes)
}

/// Removes what a server that was killed left half-made.
fn clear(work: &OwnedFd) -> io::Result<()> {
    for entry in Dir::read_from(work)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name.starts_with(b"#") {
            remove::remove_all(work.as_fd(), std::ffi::OsStr::from_bytes(name))?;
        }
    }
    Ok(())
}
