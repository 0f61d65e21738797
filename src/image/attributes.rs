//! Owner, mode, extended attributes and times of what a layer holds.
//!
//! What this process cannot give is kept beside the file or left out ([`super::owner`]): an image
//! never fails because of whose its files are.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::error::Error;
use super::owner::{Given, OVERRIDE, Owners};
use crate::tarball::{Entry, Kind};

/// Prefixes of attributes that an image may not set.
pub(crate) const RESERVED_XATTRS: &[&[u8]] = &[
    b"user.overlay.",
    b"trusted.overlay.",
    b"user.fuseoverlayfs.",
    b"trusted.fuseoverlayfs.",
    b"user.containers.",
];

/// What can be given to files, and what is left where the filesystem refuses chown.
#[derive(Debug, Clone)]
pub(super) struct Givers {
    pub(super) full: Owners,
    pub(super) single: Owners,
}

impl Givers {
    pub(super) fn new(owners: &Owners) -> Self {
        Self {
            full: owners.clone(),
            single: owners.single(),
        }
    }
}

/// Owner, attributes, mode and times, in the order in which none undoes another: chown takes
/// setuid bits and file capabilities away, a closed mode forbids setting attributes.
pub(super) fn set_all(owners: &Givers, file: &OwnedFd, entry: &Entry) -> Result<(), Error> {
    let fail = |error| failed("set the attributes of", &entry.name)(error);
    let given = owners.full.give(entry.uid, entry.gid, entry.mode, 0o600);
    let given = match chown(file, &given).map_err(fail)? {
        true => given,
        false => owners.single.give(entry.uid, entry.gid, entry.mode, 0o600),
    };
    if let Some(value) = &given.override_stat {
        set_override(file, value).map_err(fail)?;
    }
    set_xattrs(file, entry)?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(given.mode)).map_err(fail)?;
    set_times(file, entry.mtime).map_err(fail)
}

/// The same for what cannot be opened: links and fifos.
pub(super) fn set_by_name(
    owners: &Givers,
    dir: &OwnedFd,
    name: &[u8],
    entry: &Entry,
) -> Result<(), Error> {
    let fail = |error| failed("set the attributes of", &entry.name)(error);
    let given = owners.full.give(entry.uid, entry.gid, entry.mode, 0);
    if let Some((uid, gid)) = given.owner {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::chownat(dir, name, Some(uid), Some(gid), flags) {
            Err(Errno::PERM | Errno::INVAL) => {}
            result => result.map_err(fail)?,
        }
    }
    if entry.kind == Kind::Fifo {
        let mode = Mode::from_raw_mode(given.mode);
        rustix::fs::chmodat(dir, name, mode, AtFlags::empty()).map_err(fail)?;
    }
    let times = times(entry.mtime);
    rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)
}

pub(super) fn failed(what: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Error {
    let path = String::from_utf8_lossy(path).into_owned();
    move |error| Error::Unpack {
        what,
        path,
        source: error.into(),
    }
}

/// Gives the owner; `false` where the filesystem refuses (NFS, some FUSE).
pub(super) fn chown(file: &OwnedFd, given: &Given) -> rustix::io::Result<bool> {
    let Some((uid, gid)) = given.owner else {
        return Ok(true);
    };
    match rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
        Err(Errno::PERM | Errno::INVAL) => Ok(false),
        result => result.map(|()| true),
    }
}

/// A filesystem without user attributes forgets the true owner; that is no reason to fail.
pub(super) fn set_override(file: &OwnedFd, value: &str) -> rustix::io::Result<()> {
    match rustix::fs::fsetxattr(file, OVERRIDE, value.as_bytes(), XattrFlags::empty()) {
        Err(Errno::NOTSUP) => Ok(()),
        result => result,
    }
}

pub(super) fn set_xattrs(file: &OwnedFd, entry: &Entry) -> Result<(), Error> {
    for (name, value) in &entry.xattrs {
        if RESERVED_XATTRS
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            continue;
        }
        match rustix::fs::fsetxattr(file, &name[..], value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(failed("set an attribute of", &entry.name)(error)),
        }
    }
    Ok(())
}

/// Docker's bound: what is before the epoch is the epoch. The access time is left alone.
fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let (seconds, nanos) = if seconds < 0 {
        (0, 0)
    } else {
        (seconds, nanos)
    };
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanos.into(),
        },
    }
}

pub(super) fn set_times(file: &OwnedFd, mtime: (i64, u32)) -> rustix::io::Result<()> {
    rustix::fs::futimens(file, &times(mtime))
}

/// This process' umask: it cannot be asked for without changing it, except here.
pub(super) fn umask() -> u32 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        .unwrap_or(0o777)
}
