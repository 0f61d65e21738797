//! Filling a new volume with what the image has in its place.
//!
//! The layers are looked at as one read-only tree, so whiteouts and links mean what they mean there,
//! and owners are who they are to the container. Where nothing can be laid over anything the layers
//! are copied, as they are once more for the container's root, and the copy is thrown away. One that
//! was interrupted is removed by the next start, as half-made containers are.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, DirEntry, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::overlay;
use crate::sys::tree;
use crate::types::idmap::IdMapping;
use crate::volume::populate::populate;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Copies what the layers (topmost first) have at `destination` into the volume. `owners` is the
/// container's map where it has one of its own; `scratch` is a place for a copy, where there is nothing.
pub(super) fn fill(
    layers: &[PathBuf],
    owners: Option<&IdMapping>,
    scratch: &Path,
    destination: &str,
    volume: BorrowedFd<'_>,
) -> io::Result<()> {
    let mounted = match owners {
        Some(owners) => overlay::mount_owned(layers, owners),
        None => overlay::mount_readonly(layers),
    };
    match mounted {
        Ok(root) => fill_from(&root, destination, volume),
        Err(_) if may_have(layers, destination) => {
            let copied = from_copy(layers, scratch, destination, volume);
            // As deep as an image's maker likes.
            copied.and(tree::remove_path(scratch))
        }
        Err(_) => Ok(()),
    }
}

fn from_copy(
    layers: &[PathBuf],
    scratch: &Path,
    destination: &str,
    volume: BorrowedFd<'_>,
) -> io::Result<()> {
    let copied = overlay::copy_layers(layers, scratch).map_err(io::Error::other)?;
    fill_from(&tree::open_dir(&copied)?, destination, volume)
}

fn fill_from(root: &OwnedFd, destination: &str, volume: BorrowedFd<'_>) -> io::Result<()> {
    let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, relative(destination), DIRECTORY, Mode::empty(), flags) {
        Ok(source) => populate(source.as_fd(), volume),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether there may be something at a path: surely not where no layer has a way there.
fn may_have(layers: &[PathBuf], path: &str) -> bool {
    let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let look = OFlags::PATH | OFlags::CLOEXEC;
    layers.iter().any(|layer| {
        let found = openat2(CWD, layer, look, Mode::empty(), ResolveFlags::empty())
            .and_then(|layer| openat2(layer, relative(path), look, Mode::empty(), flags));
        !matches!(found, Err(Errno::NOENT))
    })
}

fn relative(path: &str) -> &str {
    match path.trim_start_matches('/') {
        "" => ".",
        path => path,
    }
}

/// What of a volume is mounted, where that is a directory with nothing in it.
pub(super) fn empty_part(root: &Path, subpath: &str) -> Option<OwnedFd> {
    let base = tree::open_dir(root).ok()?;
    let part = match subpath {
        "" => base,
        subpath => {
            let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            openat2(base, subpath, DIRECTORY, Mode::empty(), how).ok()?
        }
    };
    is_empty(&part).then_some(part)
}

fn is_empty(directory: &OwnedFd) -> bool {
    let is_entry = |entry: rustix::io::Result<DirEntry>| {
        entry.is_ok_and(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
    };
    Dir::read_from(directory).is_ok_and(|mut entries| !entries.any(is_entry))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_copy_of_the_layers_does_where_nothing_can_be_mounted() {
        let top = tempfile::tempdir().unwrap();
        let layers = ["upper", "lower"].map(|name| top.path().join(name));
        for layer in &layers {
            fs::create_dir_all(layer.join("srv/data")).unwrap();
        }
        fs::write(layers[0].join("srv/data/both"), "upper").unwrap();
        fs::write(layers[1].join("srv/data/both"), "lower").unwrap();
        fs::write(layers[1].join("srv/data/low"), "low").unwrap();
        symlink("srv", layers[0].join("link")).unwrap();
        let (scratch, volume) = (top.path().join("scratch"), top.path().join("volume"));
        fs::create_dir(&volume).unwrap();
        let opened = File::open(&volume).unwrap();
        from_copy(&layers, &scratch, "/link/data", opened.as_fd()).unwrap();
        assert_eq!(fs::read(volume.join("both")).unwrap(), b"upper");
        assert_eq!(fs::read(volume.join("low")).unwrap(), b"low");
        for (path, may) in [
            ("/srv/data", true),
            ("/link/x", true),
            ("/", true),
            ("/srv/none", false),
            ("/none", false),
        ] {
            assert_eq!(may_have(&layers, path), may, "{path}");
        }
    }
}
