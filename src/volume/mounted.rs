//! Volumes that are filesystems of their own: the options `type`, `device` and `o` of the driver
//! `local`.
//!
//! `type=none,o=bind` means a directory of the host, which takes no mount ([`super::bound`]).
//! Anything else is what mount(2) makes of it: a tmpfs, mostly; what wants a privilege (NFS, disks)
//! the kernel refuses in a user namespace, at the first container's start, as under dockerd.
//!
//! The mount lies over the volume's directory in the keeper's mount namespace, so that all containers
//! which have the volume at one time see the same files, and with the last of them it is gone, and
//! so are a tmpfs's files. Who uses it is kept in memory; a new daemon learns it from the containers
//! that run ([`Mounted::keep`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

/// Options of a driver, as given.
type Options = BTreeMap<String, String>;

/// Whether the volume is a filesystem to be mounted.
pub fn is_wanted(options: &Options) -> bool {
    let given = |name| options.get(name).is_some_and(|value| !value.is_empty());
    (given("type") || given("device")) && super::bound(options).is_none()
}

/// A volume that could not be mounted, in the words of moby's `mount` package.
#[derive(Debug, thiserror::Error)]
#[error("failed to mount local volume: {0}")]
pub struct MountError(String);

/// Who uses which of these volumes.
#[derive(Debug, Default)]
pub struct Mounted(Mutex<BTreeMap<String, BTreeSet<String>>>);

impl Mounted {
    /// Notes that the container `user` has the volume `name`, whose directory is `at`, and mounts it
    /// if nobody had it yet.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn mount(
        &self,
        name: &str,
        options: &Options,
        at: &Path,
        user: &str,
    ) -> Result<(), MountError> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_mounted(at) {
            make(options, at)?;
        }
        let of_this = users.entry(name.to_owned()).or_default();
        of_this.insert(user.to_owned());
        Ok(())
    }

    /// Notes who has a volume, after a start of the daemon.
    pub fn keep(&self, name: &str, user: &str) {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_this = users.entry(name.to_owned()).or_default();
        of_this.insert(user.to_owned());
    }

    /// Notes that a container has it no more; with the last one it is unmounted. A `user` that is
    /// none only looks whether it has any.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unmount(&self, name: &str, at: &Path, user: &str) -> io::Result<()> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_this) = users.get_mut(name) {
            of_this.remove(user);
            if !of_this.is_empty() {
                return Ok(());
            }
            users.remove(name);
        }
        if is_mounted(at) {
            umount2(at, MntFlags::MNT_DETACH)?;
        }
        Ok(())
    }
}

/// Whether something is mounted at this very path (Linux 5.8).
fn is_mounted(at: &Path) -> bool {
    let found = statx(CWD, at, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn make(options: &Options, at: &Path) -> Result<(), MountError> {
    let text = |name| options.get(name).map_or("", String::as_str);
    let (device, kind) = (text("device"), text("type"));
    if device.is_empty() {
        return Err(MountError("missing device in volume options".to_owned()));
    }
    let (flags, data) = parse(text("o"));
    mount(
        Some(device),
        at,
        Some(kind),
        flags,
        (!data.is_empty()).then_some(data.as_str()),
    )
    .map_err(|error| {
        let mut what = format!("mount {device}:{}", at.display());
        if !flags.is_empty() {
            what += &format!(", flags: 0x{:x}", flags.bits());
        }
        if !data.is_empty() {
            what += &format!(", data: {data}");
        }
        let error = io::Error::from(error).to_string().to_lowercase();
        let error = error.split(" (os error").next().unwrap_or_default();
        MountError(format!("{what}: {error}"))
    })
}

/// Takes options apart into flags and what the filesystem is told (moby/sys, `mount`).
fn parse(text: &str) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in text.split(',').filter(|option| !option.is_empty()) {
        let (set, flag) = match option {
            "defaults" => (true, MsFlags::empty()),
            "ro" => (true, MsFlags::MS_RDONLY),
            "rw" => (false, MsFlags::MS_RDONLY),
            "nosuid" => (true, MsFlags::MS_NOSUID),
            "suid" => (false, MsFlags::MS_NOSUID),
            "nodev" => (true, MsFlags::MS_NODEV),
            "dev" => (false, MsFlags::MS_NODEV),
            "noexec" => (true, MsFlags::MS_NOEXEC),
            "exec" => (false, MsFlags::MS_NOEXEC),
            "sync" => (true, MsFlags::MS_SYNCHRONOUS),
            "async" => (false, MsFlags::MS_SYNCHRONOUS),
            "dirsync" => (true, MsFlags::MS_DIRSYNC),
            "noatime" => (true, MsFlags::MS_NOATIME),
            "atime" => (false, MsFlags::MS_NOATIME),
            "nodiratime" => (true, MsFlags::MS_NODIRATIME),
            "diratime" => (false, MsFlags::MS_NODIRATIME),
            "relatime" => (true, MsFlags::MS_RELATIME),
            "norelatime" => (false, MsFlags::MS_RELATIME),
            "strictatime" => (true, MsFlags::MS_STRICTATIME),
            "nostrictatime" => (false, MsFlags::MS_STRICTATIME),
            "bind" => (true, MsFlags::MS_BIND),
            "rbind" => (true, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
            _ => {
                data.push(option);
                continue;
            }
        };
        flags.set(flag, set);
    }
    (flags, data.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn filesystems_are_told_from_directories() {
        for (pairs, wanted) in [
            (&[][..], false),
            (&[("type", "tmpfs"), ("device", "tmpfs")], true),
            (&[("type", "none"), ("device", "/x"), ("o", "bind")], false),
            (
                &[("type", "nfs"), ("device", ":/x"), ("o", "addr=::1")],
                true,
            ),
        ] {
            assert_eq!(is_wanted(&options(pairs)), wanted, "{pairs:?}");
        }
    }

    #[test]
    fn flags_are_told_from_data() {
        assert_eq!(
            parse("size=1m,ro,noexec,uid=7,exec"),
            (MsFlags::MS_RDONLY, "size=1m,uid=7".to_owned())
        );
    }
}
