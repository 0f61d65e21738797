//! Mounts as descriptors (Linux 5.2: fsopen, fsmount, open_tree, move_mount; 5.12: mount_setattr).
//!
//! rustix wraps the first four; this module adds mount_setattr(2) and a filesystem context whose
//! errors carry the sentence that the kernel logs in the context, which is often the only hint at
//! what it disliked.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree, unmount,
};
use rustix::process::{chdir, fchdir};

use super::resolve;

/// What mount_setattr(2) changes (`struct mount_attr`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` bits to set.
    pub set: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or 0 to leave propagation alone.
    pub propagation: u64,
}

/// `MOUNT_ATTR_RDONLY`.
pub const READ_ONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`.
pub const NO_SUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`.
pub const NO_DEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`.
pub const NO_EXEC: u64 = 0x8;

/// Changes a mount's attributes, or those of the whole tree at once.
///
/// # Errors
///
/// EPERM when a flag is locked by a more privileged mount namespace, EINVAL for what is not the
/// root of a mount, ENOSYS before Linux 5.12.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    recursive: bool,
    attributes: Attributes,
) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: 0,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant C string, `attr` is a whole `mount_attr` of the size given
    // and outlives the call, which only reads it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags as libc::c_uint,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes a detached copy of the mount at `path` (with `recursive`, of all mounts below it too).
///
/// # Errors
///
/// ENOENT; EINVAL when a part of the tree is locked and `recursive` is not asked for.
pub fn clone_tree(path: &std::path::Path, recursive: bool) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, tree_flags(recursive))?)
}

/// [`clone_tree`] of what an open descriptor stands for.
///
/// # Errors
///
/// As [`clone_tree`].
pub fn clone_tree_at(of: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    Ok(open_tree(
        of,
        "",
        tree_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH,
    )?)
}

fn tree_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags | OpenTreeFlags::AT_RECURSIVE
    } else {
        flags
    }
}

/// Attaches a detached mount on top of what `target` stands for.
///
/// # Errors
///
/// ENOTDIR when one is a directory and the other is not.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_mount(
        tree,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )?)
}

/// What is at `path` below the root of a detached mount, as a detached mount of its own. Only parts of
/// what is attached can be copied (before Linux 6.15), so the whole is for a moment, on top of `/`:
/// for a mount namespace that nobody else sees. The working directory is `/` afterwards.
///
/// # Errors
///
/// As [`resolve::open_beneath`].
pub fn part_of(tree: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let part = resolve::open_beneath(tree, path)?;
    let slash = openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    attach(tree, slash.as_fd())?;
    let copy = clone_tree_at(part.as_fd(), false);
    // "." finds the topmost mount, which it is.
    fchdir(tree)?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    copy
}

/// A filesystem could not be made.
#[derive(Debug)]
pub struct FilesystemError {
    /// The step or option that failed.
    pub step: String,
    /// The kernel's error.
    pub error: io::Error,
    /// What the kernel logged in the context, if anything.
    pub log: String,
}

impl fmt::Display for FilesystemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.step)?;
        if self.log.is_empty() {
            Ok(())
        } else {
            write!(f, " ({})", self.log)
        }
    }
}

impl std::error::Error for FilesystemError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// A filesystem being configured (fsopen(2)).
#[derive(Debug)]
pub struct Context {
    fd: OwnedFd,
}

impl Context {
    /// Opens a context for a filesystem type.
    ///
    /// # Errors
    ///
    /// ENODEV for an unknown type, EPERM where it may not be mounted, ENOSYS before Linux 5.2.
    pub fn open(kind: &str) -> Result<Context, FilesystemError> {
        match fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(fd) => Ok(Context { fd }),
            Err(error) => Err(FilesystemError {
                step: format!("fsopen {kind}"),
                error: error.into(),
                log: String::new(),
            }),
        }
    }

    /// Sets `key=value`, or the bare flag `key`. The kernel takes at most 255 bytes of value.
    ///
    /// # Errors
    ///
    /// EINVAL for what the filesystem does not know.
    pub fn set(&self, key: &str, value: Option<&[u8]>) -> Result<(), FilesystemError> {
        let done = match value {
            Some(value) => fsconfig_set_string(self.fd.as_fd(), key, value),
            None => fsconfig_set_flag(self.fd.as_fd(), key),
        };
        done.map_err(|error| self.failed(key, error.into()))
    }

    /// Makes the superblock and a detached mount of it.
    ///
    /// # Errors
    ///
    /// What the filesystem refuses to be made with; EPERM where a fuller instance is not already
    /// visible (proc and sysfs in a user namespace).
    pub fn mount(self, attributes: u64) -> Result<OwnedFd, FilesystemError> {
        fsconfig_create(self.fd.as_fd()).map_err(|error| self.failed("create", error.into()))?;
        let flags = MountAttrFlags::from_bits_retain(attributes as u32);
        fsmount(self.fd.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
            .map_err(|error| self.failed("fsmount", error.into()))
    }

    fn failed(&self, step: &str, error: io::Error) -> FilesystemError {
        // Each read gives one message: "e " (error), "w " (warning) or "i ", then text.
        let mut text = [0_u8; 512];
        let log = match rustix::io::read(&self.fd, &mut text) {
            Ok(n) => {
                let line = String::from_utf8_lossy(&text[..n]);
                let line = line.trim();
                line.get(2..).unwrap_or(line).to_owned()
            }
            Err(_) => String::new(),
        };
        FilesystemError {
            step: step.to_owned(),
            error,
            log,
        }
    }
}
