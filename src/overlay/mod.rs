//! Root filesystems from layers.
//!
//! A container's root is a stack of unpacked layers, read-only and shared by all containers of an
//! image, under one upper directory of its own. A [`Driver`] makes one tree of them. The seam is
//! [`mount`]: from a [`Rootfs`], which is data and crosses a socket to the shim, to a *detached*
//! mount that no path names; whoever holds the descriptor attaches it in a mount namespace of its own,
//! and when the last holder is gone so is the mount.
//!
//! | driver | is | taken where |
//! |---|---|---|
//! | `overlay2` ([`native`]) | the kernel's overlayfs | it works |
//! | `fuse` ([`fuse`]) | an overlay of ours, served by a child of the shim | /dev/fuse is there |
//! | `copy` ([`copy`]) | a copy of all layers | neither |
//!
//! The same layers serve all three, and the first two leave the same upper directory behind.
//!
//! Callers are in the keeper's user and mount namespaces. [`mount`] may fork and so is for the
//! single-threaded shim; [`probe`] never forks.

mod copy;
mod fuse;
pub mod init_layer;
mod native;

pub use fuse::Server;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::sys::mount::{FilesystemError, clone_tree};
use crate::types::idmap::IdMapping;

/// How layers become one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// The kernel's overlayfs, with `userxattr`.
    Overlay2,
    /// Our own overlay over FUSE.
    Fuse,
    /// A copy of all layers.
    Copy,
}

impl Driver {
    /// The name that `docker info` shows.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Overlay2 => "overlay2",
            Driver::Fuse => "fuse",
            Driver::Copy => "copy",
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Driver {
    type Err = Error;

    /// Also takes the names that other engines have for the same thing.
    fn from_str(name: &str) -> Result<Driver, Error> {
        match name {
            "overlay2" | "overlay" => Ok(Driver::Overlay2),
            "fuse" | "fuse-overlayfs" => Ok(Driver::Fuse),
            "copy" | "vfs" => Ok(Driver::Copy),
            _ => Err(Error::UnknownDriver(name.to_owned())),
        }
    }
}

/// A root filesystem to be mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// What makes the tree.
    pub driver: Driver,
    /// Layers, the topmost first; never empty.
    pub lower: Vec<PathBuf>,
    /// Where changes go.
    pub upper: PathBuf,
    /// The driver's scratch directory, on the same filesystem as `upper`, used by nothing else.
    pub work: PathBuf,
    /// Nothing written need survive a crash: no sync, also not on unmount.
    pub volatile: bool,
    /// The map of the container's user namespace, where it is not the plain one: ids inside are those
    /// of the files in the layers. The FUSE driver alone can show them so; with others the image's
    /// files have wrong owners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owners: Option<IdMapping>,
}

/// Why there is no root filesystem.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that no driver has.
    #[error("unknown storage driver \"{0}\" (known: overlay2, fuse, copy)")]
    UnknownDriver(String),
    /// A stack without a layer.
    #[error("a root filesystem needs at least one layer")]
    NoLayers,
    /// The kernel did not make the overlay.
    #[error("mounting the overlay on \"{}\" failed at {step}", upper.display())]
    Mount {
        /// Upper directory.
        upper: PathBuf,
        /// Option or step, with the kernel's own sentence if it had one.
        step: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
}

impl Error {
    fn mount(rootfs: &Rootfs, error: FilesystemError) -> Error {
        Error::Mount {
            upper: rootfs.upper.clone(),
            step: error.to_string(),
            source: error.error,
        }
    }

    fn step(rootfs: &Rootfs, step: &str, source: io::Error) -> Error {
        Error::Mount {
            upper: rootfs.upper.clone(),
            step: step.to_owned(),
            source,
        }
    }
}

/// A root filesystem, attached nowhere.
#[derive(Debug)]
pub struct Root {
    /// The mount.
    pub tree: OwnedFd,
    /// Who serves it, with the FUSE driver. Ended, the tree is of no use.
    pub server: Option<Server>,
}

/// Makes the tree; the mount is attached nowhere.
///
/// # Errors
///
/// The kernel's refusal.
pub fn mount(rootfs: &Rootfs) -> Result<Root, Error> {
    let (tree, server) = match rootfs.driver {
        Driver::Overlay2 => (native::mount(rootfs)?, None),
        Driver::Fuse => fuse::mount(rootfs).map(|(tree, server)| (tree, Some(server)))?,
        Driver::Copy => (copy::mount(rootfs)?, None),
    };
    Ok(Root { tree, server })
}

/// What the layers (topmost first) look like together, to be read only; attached nowhere, and gone
/// with the descriptor. Never forks, so any thread may call it.
///
/// # Errors
///
/// The kernel's refusal.
pub fn mount_readonly(layers: &[PathBuf]) -> io::Result<OwnedFd> {
    match layers {
        [] => Err(io::ErrorKind::InvalidInput.into()),
        // overlayfs wants two where there is no upper directory.
        [layer] => Ok(std::fs::File::open(layer)?.into()),
        layers => native::mount_layers(layers).or_else(|error| {
            // Where neither can be had, the kernel's answer tells more.
            fuse::mount_layers(layers, None).map_err(|_| error)
        }),
    }
}

/// The same, with the owners that a container with this map knows.
///
/// # Errors
///
/// The kernel's refusal; where FUSE cannot be had.
pub fn mount_owned(layers: &[PathBuf], owners: &IdMapping) -> io::Result<OwnedFd> {
    fuse::mount_layers(layers, Some(owners))
}

/// What the layers (topmost first) look like together as a directory, which is made in `place`.
///
/// # Errors
///
/// The filesystem's.
pub fn copy_layers(layers: &[PathBuf], place: &Path) -> Result<PathBuf, Error> {
    let rootfs = Rootfs {
        driver: Driver::Copy,
        lower: layers.to_owned(),
        upper: place.join("upper"),
        work: place.join("work"),
        volatile: true,
        owners: None,
    };
    for directory in [&rootfs.upper, &rootfs.work] {
        std::fs::create_dir_all(directory)
            .map_err(|error| Error::step(&rootfs, "making the directories of a copy", error))?;
    }
    fuse::copy_whole(&rootfs)?;
    Ok(rootfs.upper)
}

/// Layers (topmost first) as one tree for a container that mounts an image: attached nowhere. May
/// fork, and so is for the single-threaded shim. `owners` as in [`Rootfs`].
///
/// # Errors
///
/// The kernel's refusal; several layers where nothing can be laid over anything.
pub fn mount_image(
    driver: Driver,
    layers: &[PathBuf],
    owners: Option<&IdMapping>,
) -> io::Result<Root> {
    let serve = || {
        fuse::serve_layers(layers, owners).map(|(tree, server)| Root {
            tree,
            server: Some(server),
        })
    };
    if owners.is_some() && driver == Driver::Fuse {
        return serve();
    }
    if let [layer] = layers {
        let tree = clone_tree(layer, false)?;
        return Ok(Root { tree, server: None });
    }
    match driver {
        Driver::Overlay2 => native::mount_layers(layers).map(|tree| Root { tree, server: None }),
        Driver::Fuse => serve(),
        Driver::Copy => Err(io::Error::other(
            "an image of several layers wants an overlay, and this host has none",
        )),
    }
}

/// Which driver works here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The best one, `None` when none does.
    pub driver: Option<Driver>,
    /// Why it and not a better one, one sentence.
    pub reason: String,
}

/// Tries the real operation in `dir` (on the filesystem that will hold the layers): mounts an
/// overlay, removes a file of the lower layer through it, makes one, and looks whether the changes
/// read back. `dir` is left as it was.
///
/// Where the kernel's overlayfs is refused, the same for the FUSE overlay; where that is, too, a
/// copy is left, which needs nothing but the directory.
pub fn probe(dir: &Path) -> Probe {
    let why = |error: Error| match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let (driver, reason) = match trial(dir, Driver::Overlay2, native::try_at).map_err(why) {
        Ok(()) => (
            Driver::Overlay2,
            "the kernel's overlayfs works here".to_owned(),
        ),
        Err(native) => match trial(dir, Driver::Fuse, fuse::try_at).map_err(why) {
            Ok(()) => (
                Driver::Fuse,
                format!("the kernel's overlayfs does not work here: {native}"),
            ),
            Err(fuse) => {
                let reason = format!(
                    "neither the kernel's overlayfs works here ({native}) nor FUSE does ({fuse})"
                );
                let driver = copy::try_in(dir).is_ok().then_some(Driver::Copy);
                return Probe { driver, reason };
            }
        },
    };
    Probe {
        driver: Some(driver),
        reason,
    }
}

/// Tries the FUSE driver in `dir` as [`probe`] does, whatever else works.
///
/// # Errors
///
/// What it lacks.
pub fn try_fuse(dir: &Path) -> Result<(), Error> {
    trial(dir, Driver::Fuse, fuse::try_at)
}

/// Tries a driver with directories below `dir` that are removed again.
fn trial(
    dir: &Path,
    driver: Driver,
    try_at: impl FnOnce(&Rootfs) -> Result<(), Error>,
) -> Result<(), Error> {
    let base = dir.join(format!(".probe-{driver}-{}", std::process::id()));
    let rootfs = Rootfs {
        driver,
        lower: vec![base.join("lower")],
        upper: base.join("upper"),
        work: base.join("work"),
        volatile: true,
        owners: None,
    };
    let outcome = try_at(&rootfs);
    // Left over: at worst an empty directory, and the outcome matters more.
    let _ = std::fs::remove_dir_all(&base);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_by_all_their_names() {
        for (name, driver) in [
            ("overlay2", Driver::Overlay2),
            ("fuse", Driver::Fuse),
            ("fuse-overlayfs", Driver::Fuse),
            ("copy", Driver::Copy),
            ("vfs", Driver::Copy),
        ] {
            assert_eq!(name.parse::<Driver>().expect("known"), driver);
        }
        assert_eq!(
            "btrfs".parse::<Driver>().expect_err("unknown").to_string(),
            "unknown storage driver \"btrfs\" (known: overlay2, fuse, copy)"
        );
        assert_eq!(
            serde_json::to_string(&Driver::Overlay2).expect("json"),
            "\"overlay2\""
        );
    }
}
