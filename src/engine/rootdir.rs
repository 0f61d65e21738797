//! What a container's root filesystem will look like, asked before it is there.
//!
//! dockerd mounts it when it makes a container, to make the working directory; here nothing is
//! mounted before the start, and what a create must refuse is found in the layers. A working
//! directory that is one in them, which is the rule, costs a few lookups; only where something else
//! is in its place are the layers laid over each other, so that whiteouts and links mean what they
//! mean there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

use crate::engine::error::{Error, Kind, Result};
use crate::overlay;

const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Refuses a working directory whose place something else has in these layers (topmost first).
pub(super) fn check_working_directory(layers: &[PathBuf], path: &str) -> Result<()> {
    let names = path.trim_matches('/');
    if names.is_empty() {
        return Ok(());
    }
    let failed = |error: io::Error| Error::io("cannot look at the image's layers", &error);
    let mut opened = Vec::new();
    for layer in layers {
        opened.push(openat(CWD, layer, LOOK, Mode::empty()).map_err(|error| failed(error.into()))?);
    }
    if is_plainly_free(&opened, names).map_err(|error| failed(error.into()))? {
        return Ok(());
    }
    // Where nothing can be laid over anything, the start will tell.
    let Ok(root) = overlay::mount_readonly(layers) else {
        return Ok(());
    };
    let ends = names.match_indices('/').map(|(end, _)| end);
    for end in ends.chain([names.len()]) {
        let part = &names[..end];
        match resolved(&root, part) {
            Ok(FileType::Directory) => {}
            Ok(_) if end == names.len() => {
                return Err(Error::new(
                    Kind::System,
                    format!("Cannot mkdir: {path} is not a directory"),
                ));
            }
            Ok(_) | Err(Errno::NOTDIR) => {
                return Err(Error::new(
                    Kind::System,
                    format!("mkdir /{part}: not a directory"),
                ));
            }
            // It will be made. What cannot be followed is the start's to tell.
            Err(_) => break,
        }
    }
    Ok(())
}

/// Whether what is topmost on the way is a directory each time, or the way ends in all layers. A
/// lookup says "no" where it is not certain; that a layer above hides a directory of one below does
/// not matter, as it can then be made.
fn is_plainly_free(layers: &[OwnedFd], names: &str) -> rustix::io::Result<bool> {
    let flags = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let ends = names.match_indices('/').map(|(end, _)| end);
    for end in ends.chain([names.len()]) {
        let mut there = None;
        for layer in layers {
            match openat2(layer, &names[..end], LOOK, Mode::empty(), flags) {
                Ok(found) => there = Some(kind(&found)? == FileType::Directory),
                Err(Errno::NOENT) => continue,
                // A link or a file on the way or at its end, perhaps beneath what hides it.
                Err(_) => there = Some(false),
            }
            break;
        }
        match there {
            Some(true) => {}
            Some(false) => return Ok(false),
            None => return Ok(true),
        }
    }
    Ok(true)
}

fn resolved(root: &OwnedFd, path: &str) -> rustix::io::Result<FileType> {
    let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let look = OFlags::PATH | OFlags::CLOEXEC;
    kind(&openat2(root, Path::new(path), look, Mode::empty(), flags)?)
}

fn kind(found: impl AsFd) -> rustix::io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(found)?.st_mode))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_working_directory_is_one_or_can_be_made() {
        let root = tempfile::tempdir().unwrap();
        let layer = root.path().to_owned();
        fs::create_dir_all(layer.join("srv/app")).unwrap();
        fs::write(layer.join("file"), "").unwrap();
        symlink("/srv", layer.join("link")).unwrap();
        symlink("file", layer.join("bad")).unwrap();
        symlink("/nowhere", layer.join("dangling")).unwrap();
        let check = |path: &str| check_working_directory(std::slice::from_ref(&layer), path);
        for good in [
            "",
            "/",
            "/srv/app",
            "/srv/new/dir",
            "/link",
            "/link/app",
            "/link/x",
            "/dangling",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for (bad, told) in [
            ("/file", "Cannot mkdir: /file is not a directory"),
            ("/bad", "Cannot mkdir: /bad is not a directory"),
            ("/file/below", "mkdir /file: not a directory"),
            ("/bad/below", "mkdir /bad: not a directory"),
        ] {
            let refused = check(bad).unwrap_err();
            assert_eq!(
                (refused.kind, &*refused.message),
                (Kind::System, told),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_topmost_layer_counts() {
        let root = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(&path).unwrap();
            (openat(CWD, &path, LOOK, Mode::empty()).unwrap(), path)
        };
        let ((top, top_path), (bottom, bottom_path)) = (open("top"), open("bottom"));
        fs::create_dir_all(top_path.join("a")).unwrap();
        fs::write(bottom_path.join("a"), "").unwrap();
        fs::write(top_path.join("b"), "").unwrap();
        fs::create_dir_all(bottom_path.join("b/c")).unwrap();
        fs::create_dir_all(bottom_path.join("d/e")).unwrap();
        let layers = [top, bottom];
        for (names, free) in [
            ("a", true),
            ("b", false),
            ("b/c", false),
            ("d/e/f", true),
            // The file below is hidden, which a lookup cannot know.
            ("a/x", false),
        ] {
            assert_eq!(is_plainly_free(&layers, names), Ok(free), "{names}");
        }
    }
}
