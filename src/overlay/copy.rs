//! A copy of all layers, where nothing can be mounted but directories that are there: slow to make,
//! as fast as the disk afterwards.
//!
//! The copy is made by the same code that copies files up in our overlay, which shares blocks where
//! the filesystem can. Never whole files by hard links: what a container writes would be in the
//! image; only what has several names in one layer has them in the copy, too. The upper directory's
//! root is marked opaque once everything is in it; so a copy that was interrupted is completed
//! by the next start, and those who read layers and upper directory without a mount see what the
//! container sees.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::{Error, Rootfs, fuse};
use crate::sys::mount::clone_tree;

pub(super) fn mount(rootfs: &Rootfs) -> Result<OwnedFd, Error> {
    fuse::copy_whole(rootfs)?;
    clone_tree(&rootfs.upper, false)
        .map_err(|error| Error::step(rootfs, "cloning a mount of it", error))
}

/// All that it needs is a directory to write to.
pub(super) fn try_in(dir: &Path) -> io::Result<()> {
    let trial = dir.join(format!(".probe-copy-{}", std::process::id()));
    std::fs::create_dir(&trial)?;
    std::fs::remove_dir(trial)
}
