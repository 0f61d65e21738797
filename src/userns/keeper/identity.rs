//! Finding a keeper, or what is left of one, without its socket.
//!
//! `keeper.json`, in the exec root and (since logind deletes the runtime directory with the last
//! session, while containers run on) in the data root, says which process is the keeper and
//! which namespace is its. Shims are found by their sockets `<exec-root>/c/ID/shim.sock`: whoever
//! listens there, of the same user and in the keeper's user namespace, is inside. Where the exec
//! root was deleted they are found by what each has written of itself into its container's
//! directory, `<data-root>/containers/ID/shim.json`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::idmap::IdMap;
use super::protocol::Build;
use crate::sys::atomic::{self, Durability};
use crate::sys::{fdpass, pidfd};
use crate::types::timestamp::Timestamp;

/// Name of the file.
const FILE: &str = "keeper.json";

/// Which process is the keeper. Means nothing after the boot that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The process.
    pub pid: i32,
    /// Field 22 of its /proc/PID/stat.
    pub start_time: u64,
    /// The boot during which these numbers hold.
    pub boot_id: String,
    /// Its exec root.
    pub exec_root: PathBuf,
    /// Inode of its user namespace, which is unique while the namespace lives.
    pub user_namespace: u64,
    /// Its build.
    pub build: Build,
    /// The id map of its namespace.
    pub maps: IdMap,
}

impl Identity {
    /// The identity of this process.
    pub(super) fn own(exec_root: &Path, build: &Build, maps: &IdMap) -> io::Result<Self> {
        let pid = std::process::id().cast_signed();
        Ok(Self {
            pid,
            start_time: pidfd::start_time(pid)?,
            boot_id: pidfd::boot_id()?,
            exec_root: exec_root.to_owned(),
            user_namespace: user_namespace("self")?,
            build: build.clone(),
            maps: maps.clone(),
        })
    }

    /// Reads the identity in `directory` if there is one of this boot.
    pub fn read(directory: &Path) -> Option<Self> {
        let text = std::fs::read(directory.join(FILE)).ok()?;
        let identity: Self = serde_json::from_slice(&text).ok()?;
        (pidfd::boot_id().ok()? == identity.boot_id).then_some(identity)
    }

    /// Writes it into `directory`, in one step; by a name that the next one writes over, for nobody
    /// sweeps there. Not synced: it ends with the boot.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let (path, made) = (directory.join(FILE), directory.join("keeper.json.new"));
        std::fs::write(&made, serde_json::to_vec(self)?)?;
        std::fs::rename(made, path)
    }

    /// Removes it from `directory` if it is still this one.
    pub(super) fn remove(&self, directory: &Path) {
        if Self::read(directory).as_ref() == Some(self) {
            let _ = std::fs::remove_file(directory.join(FILE));
        }
    }

    /// The keeper's process, if it still runs.
    pub fn process(&self) -> Option<OwnedFd> {
        pidfd::open_identity(self.pid, self.start_time).ok()
    }
}

/// Name of the file in a container's directory that says when its shim was killed.
const END: &str = "shim-end.json";

/// When a shim ended that could not write down how its container did.
#[derive(Debug, Serialize, Deserialize)]
struct End {
    shim: ShimIdentity,
    /// Nanoseconds since 1970.
    at: i128,
}

/// Which process is a container's shim. Means nothing after the boot that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimIdentity {
    /// The process.
    pub pid: i32,
    /// Field 22 of its /proc/PID/stat.
    pub start_time: u64,
    /// The boot during which these numbers hold.
    pub boot_id: String,
}

impl ShimIdentity {
    /// Name of its file in a container's directory.
    pub const FILE: &str = "shim.json";

    /// Writes this process's identity to `path`, in one step. Not synced: it ends with the boot.
    pub fn write_own(path: &Path) -> io::Result<()> {
        let pid = std::process::id().cast_signed();
        let own = Self {
            pid,
            start_time: pidfd::start_time(pid)?,
            boot_id: pidfd::boot_id()?,
        };
        atomic::write(path, &serde_json::to_vec(&own)?, Durability::Lazy)
    }

    /// The shim that wrote its identity into a container's directory, if it still lives.
    pub fn living(directory: &Path) -> Option<(i32, OwnedFd)> {
        let identity = Self::read(directory)?;
        if pidfd::boot_id().ok()? != identity.boot_id {
            return None;
        }
        let process = pidfd::open_identity(identity.pid, identity.start_time).ok()?;
        Some((identity.pid, process))
    }

    /// Notes when the shim with this pid, a child of the caller's that was killed, has ended: beside
    /// its identity in its container's directory, for a daemon that was not there to see it.
    pub(super) fn note_end(data_root: &Path, pid: i32) -> io::Result<()> {
        let (at, boot_id) = (Timestamp::now().nanos(), pidfd::boot_id()?);
        for directory in std::fs::read_dir(data_root.join("containers"))?.flatten() {
            let directory = directory.path();
            let Some(shim) = Self::read(&directory) else {
                continue;
            };
            // One of an earlier shim with the same number may be there, too; it is not heeded.
            if shim.pid == pid && shim.boot_id == boot_id {
                let end = serde_json::to_vec(&End { shim, at })?;
                atomic::write(&directory.join(END), &end, Durability::Lazy)?;
            }
        }
        Ok(())
    }

    /// When the shim ended that was a container's last, in nanoseconds since 1970, if the keeper saw
    /// it killed.
    pub fn noted_end(directory: &Path) -> Option<i128> {
        let end: End = serde_json::from_slice(&std::fs::read(directory.join(END)).ok()?).ok()?;
        (Self::read(directory)? == end.shim).then_some(end.at)
    }

    fn read(directory: &Path) -> Option<Self> {
        let text = std::fs::read(directory.join(Self::FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// All shims of a data root that live.
    pub fn all_living(data_root: &Path) -> impl Iterator<Item = (i32, OwnedFd)> + use<> {
        let directories = std::fs::read_dir(data_root.join("containers")).ok();
        let directories = directories.into_iter().flatten().flatten();
        directories.filter_map(|directory| Self::living(&directory.path()))
    }
}

/// Inode of the user namespace of a process (`self`, or a pid).
pub(super) fn user_namespace(process: &str) -> io::Result<u64> {
    Ok(std::fs::metadata(format!("/proc/{process}/ns/user"))?.ino())
}

/// A shim of these roots that runs in the user namespace `namespace` (any but the caller's, where
/// that is not known).
pub(super) fn any_shim(
    exec_root: &Path,
    data_root: Option<&Path>,
    namespace: Option<u64>,
) -> Option<OwnedFd> {
    let me = rustix::process::geteuid().as_raw();
    let own = user_namespace("self").ok()?;
    let directories = std::fs::read_dir(exec_root.join("c")).ok();
    let listening = directories.into_iter().flatten().flatten();
    let listening = listening.filter_map(|directory| {
        let socket = fdpass::connect(&directory.path().join("shim.sock")).ok()?;
        let peer = pidfd::peer(&socket).ok().filter(|peer| peer.uid == me)?;
        Some((peer.pid, peer.process))
    });
    let written = data_root.map(ShimIdentity::all_living);
    listening
        .chain(written.into_iter().flatten())
        .find_map(|(pid, process)| {
            let theirs = user_namespace(&pid.to_string()).ok()?;
            // The pid was looked up by number: only if the process still lives was it that one.
            let inside = namespace.map_or(theirs != own, |namespace| namespace == theirs);
            (inside && pidfd::is_alive(&process).ok()?).then_some(process)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_is_found_by_what_it_wrote_of_itself() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("containers/abc");
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join(ShimIdentity::FILE);
        assert!(ShimIdentity::living(&directory).is_none());
        ShimIdentity::write_own(&path).unwrap();
        let me = std::process::id().cast_signed();
        assert_eq!(ShimIdentity::living(&directory).unwrap().0, me);
        let all: Vec<_> = ShimIdentity::all_living(root.path()).collect();
        assert_eq!(all.len(), 1);
        // A process of an earlier boot, or a later one with the same number.
        let own: ShimIdentity = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let mut other = own.clone();
        other.boot_id = "an earlier one".into();
        std::fs::write(&path, serde_json::to_vec(&other).unwrap()).unwrap();
        assert!(ShimIdentity::living(&directory).is_none());
        other = own;
        other.start_time += 1;
        std::fs::write(&path, serde_json::to_vec(&other).unwrap()).unwrap();
        assert!(ShimIdentity::living(&directory).is_none());
        std::fs::write(&path, "{\"pid\": 1").unwrap();
        assert!(ShimIdentity::living(&directory).is_none());
    }

    #[test]
    fn an_identity_holds_for_its_boot_only() {
        let root = tempfile::tempdir().unwrap();
        let maps = IdMap::single(1, 1, "test");
        let mut identity = Identity::own(root.path(), &Build("1".into()), &maps).unwrap();
        identity.write(root.path()).unwrap();
        let read = Identity::read(root.path()).unwrap();
        assert_eq!(read, identity);
        assert!(read.process().is_some());
        identity.start_time += 1;
        identity.remove(root.path());
        assert!(Identity::read(root.path()).is_some(), "another's must stay");
        read.remove(root.path());
        assert!(Identity::read(root.path()).is_none());
        identity.boot_id = "an earlier one".into();
        identity.write(root.path()).unwrap();
        assert!(Identity::read(root.path()).is_none());
        std::fs::write(root.path().join(FILE), "{\"pid\": 1").unwrap();
        assert!(Identity::read(root.path()).is_none());
    }
}
