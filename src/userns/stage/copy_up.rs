//! Filling a new tmpfs with what the image has at its mount point (`tmpcopyup`).
//!
//! Directories, regular files, links and fifos with their owner, mode and times; hard links become
//! separate files; devices and sockets are left out (a user namespace can make no devices). By
//! descriptors throughout: neither tree is trusted.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, mkdirat, mknodat, openat,
    readlinkat, statat, symlinkat, utimensat,
};

use crate::sys::copy;

/// Deepest directory copied; each level holds two descriptors.
const MAX_DEPTH: usize = 128;

/// Copies the contents of the directory `from` (may be `O_PATH`) into the directory `to`.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    copy_dir(from.as_fd(), to.as_fd(), 0)
}

fn copy_dir(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    }
    let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let here = openat(from, ".", open, Mode::empty())?;
    for entry in Dir::read_from(&here)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = statat(&here, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let child = openat(&here, name, open, Mode::empty())?;
                mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                let made = openat(to, name, open, Mode::empty())?;
                copy_dir(child.as_fd(), made.as_fd(), depth + 1)?;
            }
            FileType::RegularFile => {
                let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let source = openat(&here, name, read, Mode::empty())?;
                let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let made = openat(to, name, write, Mode::from_raw_mode(0o600))?;
                copy::data(source.as_fd(), made.as_fd())?;
            }
            FileType::Symlink => {
                symlinkat(readlinkat(&here, name, Vec::new())?, to, name)?;
            }
            FileType::Fifo => {
                mknodat(to, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
            }
            _ => continue,
        }
        take_over(to, name, &stat)?;
    }
    let stat = fstat(&here)?;
    // By name: a mount's descriptor is O_PATH.
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    Ok(rustix::fs::chmodat(to, ".", mode, AtFlags::empty())?)
}

fn take_over(to: BorrowedFd<'_>, name: &std::ffi::CStr, stat: &rustix::fs::Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        // An owner that is not mapped here shows as the overflow id, which nobody may give.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        // After chown, which clears setuid bits.
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
    }
    let times = copy::times(stat);
    Ok(utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
