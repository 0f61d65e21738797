//! The same for files of the user's own: the client's side of `moss cp`.
//!
//! What a container sends is as little trusted here as there: it is unpacked below one directory,
//! and no link is followed out of it.

use std::ffi::CString;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, statat};

use super::extract::{Manner, Target, extract};
use super::layers::Merged;
use super::pack::{Packer, is_directory};
use super::{Ids, Refusal};
use crate::sys::tree;

/// Archives what is at `path`, which is no link to be followed, as `name`; `out` is a pipe.
///
/// # Errors
/// The first system call that failed.
pub fn pack(path: &Path, name: &str, out: OwnedFd) -> io::Result<()> {
    let mut packer = Packer::new(out, None)?;
    let stat = statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    if is_directory(&stat) {
        let directory = Merged::of(tree::open_dir(path)?);
        let prefix = format!("{name}/");
        packer.directory(&stat, prefix.as_bytes())?;
        packer.content(&directory, prefix.as_bytes())?;
    } else {
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        let directory = Merged::of(tree::open_dir(above.unwrap_or(Path::new(".")))?);
        let base = path.file_name().unwrap_or_default();
        let base = CString::new(base.as_bytes())?;
        packer.file(&directory, &base, &stat, name.as_bytes())?;
    }
    packer.finish()
}

/// Unpacks an archive into `directory`, its first part called `to` where it is `from`.
///
/// # Errors
/// What cannot be read, made or replaced.
pub fn unpack(
    source: impl Read,
    directory: &Path,
    rename: Option<(&str, &str)>,
) -> Result<(), Refusal> {
    let place = tree::open_dir(directory)?;
    let manner = Manner {
        overwrite: false,
        owner: None,
        ids: &Ids::default(),
        rename,
        shown: &directory.to_string_lossy(),
    };
    extract(
        BufReader::with_capacity(256 * 1024, source),
        Target::alone(place.as_fd()),
        manner,
    )
}
