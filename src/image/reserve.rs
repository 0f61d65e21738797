//! Room for removing something from a full disk.
//!
//! To take a name from an image the names are written anew, which takes space before it gives any
//! back. So a file lies ready that nobody needs: where a removal finds no space the file goes, the
//! removal is tried again, and the file comes back when there is room for it: at once, or when the
//! trash is empty, or at the next start.

use std::fs;
use std::io;
use std::path::Path;

use crate::sys::atomic::{self, Durability};

/// In the store's root.
const FILE: &str = "reserve";
/// In bytes: the names of some thousand images.
const SIZE: usize = 256 << 10;

/// Sees to it that the file is there, if there is room for it.
pub(super) fn make(root: &Path) {
    let path = root.join(FILE);
    if path.exists() {
        return;
    }
    // Not zeros: some filesystems would keep none of them.
    let mut bytes = vec![0; SIZE];
    let filled = getrandom::fill(&mut bytes).map_err(io::Error::other);
    let written = filled.and_then(|()| atomic::write(&path, &bytes, Durability::Lazy));
    if let Err(error) = written {
        tracing::debug!(path = %path.display(), %error, "no room to keep in reserve");
    }
}

/// Frees the space; whether there was any.
pub(super) fn give_up(root: &Path) -> bool {
    fs::remove_file(root.join(FILE)).is_ok()
}
