//! Directories under the store's `tmp/` in which things are built.
//!
//! A [`Scratch`] removes its directory when it is dropped, unless that was renamed into place
//! before. After a `kill -9` the next `Store::open` empties `tmp/`.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::Mode;

use super::error::{Error, store};
use crate::sys::tree;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A directory that goes with its owner.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes an empty directory in `parent`, 0700.
    pub(crate) fn new(parent: &Path, purpose: &str) -> Result<Self, Error> {
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{purpose}-{}-{serial}", std::process::id()));
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(|error| store("make", &path)(error.into()))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return;
        };
        if let Err(error) = remove(parent, name) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a scratch directory");
        }
    }
}

/// Removes an entry of a directory with all below it; what is gone already is no error.
pub(crate) fn remove(parent: &Path, name: &OsStr) -> std::io::Result<()> {
    let parent = tree::open_dir(parent)?;
    tree::remove_all(parent.as_fd(), name)
}
