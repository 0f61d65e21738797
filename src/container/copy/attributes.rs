//! Owner, attributes, mode and times of what is unpacked.
//!
//! An owner that is not mapped here is refused, as in Docker; where there is but one id, everything is
//! root's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown, fsetxattr,
    utimensat,
};
use rustix::io::Errno;

use super::extract::Manner;
use super::{Ids, Refusal};
use crate::tarball::Entry;

/// Attributes that overlays keep for themselves.
const RESERVED: [&[u8]; 4] = [
    b"user.overlay.",
    b"trusted.overlay.",
    b"user.fuseoverlayfs.",
    b"user.containers.",
];

/// Gives what was made without an entry to the container's root, who need not be this process.
pub(super) fn give_to_root(made: impl AsFd, ids: &Ids) -> Result<(), Errno> {
    match ids.owners.as_ref().and_then(|map| map.outside(0, 0)) {
        Some((uid, gid)) => fchown(made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))),
        None => Ok(()),
    }
}

/// Ids, as far as they can be given.
fn owner(entry: &Entry, manner: Manner<'_>) -> Option<(Uid, Gid)> {
    let (uid, gid) = match manner.owner {
        Some(owner) => owner,
        None => (
            u32::try_from(entry.uid).ok()?,
            u32::try_from(entry.gid).ok()?,
        ),
    };
    let (uid, gid) = match &manner.ids.owners {
        Some(map) => map.outside(uid, gid)?,
        None => (uid, gid),
    };
    // The last number means "as it is" to the kernel.
    (uid != u32::MAX && gid != u32::MAX).then(|| (Uid::from_raw(uid), Gid::from_raw(gid)))
}

/// Gives an entry its owner by `chown`.
fn own(
    entry: &Entry,
    manner: Manner<'_>,
    chown: impl FnOnce(Uid, Gid) -> Result<(), Errno>,
) -> Result<(), Failed> {
    let done = match owner(entry, manner) {
        Some((uid, gid)) => chown(uid, gid),
        None => Err(Errno::INVAL),
    };
    match done {
        Err(Errno::INVAL) if manner.ids.strict => Err(Failed::Owner),
        Err(Errno::INVAL | Errno::PERM) => Ok(()),
        other => Ok(other?),
    }
}

/// Why an entry is not what it should be.
pub(super) enum Failed {
    /// Its owner is none here.
    Owner,
    Other(Errno),
}

impl Failed {
    /// In Docker's words; `place` is where the archive goes.
    pub(super) fn told(self, entry: &Entry, name: &str, place: &str) -> Refusal {
        Refusal::Failed(match self {
            Failed::Other(error) => format!("{name}: {}", io::Error::from(error)),
            Failed::Owner => {
                let path = format!("{}/{name}", place.trim_end_matches('/'));
                format!(
                    "failed to Lchown {path:?} for UID {}, GID {} (try increasing the number of \
                     subordinate IDs in /etc/subuid and /etc/subgid): lchown {path}: invalid \
                     argument",
                    entry.uid, entry.gid
                )
            }
        })
    }
}

impl From<Errno> for Failed {
    fn from(error: Errno) -> Failed {
        Failed::Other(error)
    }
}

/// Owner, attributes, mode, in the order in which none undoes another.
pub(super) fn describe(file: &OwnedFd, entry: &Entry, manner: Manner<'_>) -> Result<(), Failed> {
    own(entry, manner, |uid, gid| fchown(file, Some(uid), Some(gid)))?;
    for (name, value) in &entry.xattrs {
        if RESERVED.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        match fsetxattr(file, &name[..], value, XattrFlags::empty()) {
            Err(Errno::NOTSUP | Errno::PERM) => {}
            other => other?,
        }
    }
    Ok(fchmod(file, Mode::from_raw_mode(entry.mode & 0o7777))?)
}

/// Owner and times of what cannot be opened.
pub(super) fn own_by_name(
    parent: &OwnedFd,
    base: &[u8],
    entry: &Entry,
    manner: Manner<'_>,
) -> Result<(), Failed> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    own(entry, manner, |uid, gid| {
        chownat(parent, base, Some(uid), Some(gid), flags)
    })?;
    Ok(utimensat(parent, base, &times(entry.mtime), flags)?)
}

/// Docker's bound: what is before the epoch is the epoch.
pub(super) fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = match seconds {
        0.. => Timespec {
            tv_sec: seconds,
            tv_nsec: nanos.into(),
        },
        _ => Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
