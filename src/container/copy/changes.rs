//! What a container has changed: its upper directory held against the layers below.
//!
//! Docker's rules (go-archive, `ChangesDirs`): something is changed where mode, owner, device,
//! capability or, unless it is a directory, size or time differ; a directory is changed, too, where
//! something in it is. What is deleted is told once, without what was in it. Sorted by path.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, Stat, fgetxattr, openat};

use super::layers::{Merged, is_opaque, is_whiteout, names};
use super::pack::{Packer, is_directory};
use crate::api::container::FilesystemChange;
use crate::sys::tree;

/// Numbers of the API.
const CHANGED: u8 = 0;
const ADDED: u8 = 1;
const DELETED: u8 = 2;

/// Deepest nesting, as no path is longer than 4096 bytes.
const DEPTH: usize = 2048;

/// Something that changed, told to whoever wants to know.
pub(super) struct Change<'a> {
    pub(super) kind: u8,
    /// Path without a slash before it.
    pub(super) path: &'a [u8],
    /// The upper directory that it is in, and its name and attributes there; what is deleted is
    /// not there.
    pub(super) here: Option<(&'a Merged, &'a CStr, &'a Stat)>,
}

type Sink<'a> = dyn FnMut(Change<'_>) -> io::Result<()> + 'a;

/// Tells of every change, those of a directory before those in it.
pub(super) fn walk(upper: &Path, lower: &[PathBuf], sink: &mut Sink<'_>) -> io::Result<()> {
    let upper = Merged::of(tree::open_dir(upper)?);
    let lower = Merged::roots(lower.iter().map(|path| &**path))?;
    let place = Place {
        prefix: b"",
        depth: 0,
        whole: false,
    };
    directory(&upper, &lower, place, sink)
}

/// A directory, as its path's end matters for what is told of it.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// Its path, with a slash at its end; empty for the root.
    prefix: &'a [u8],
    depth: usize,
    /// It is in an opaque one: nothing of the layers below is seen through it.
    whole: bool,
}

/// Whether there is any change in a directory, or below.
fn has_changes(upper: &Merged, lower: &Merged, place: Place<'_>) -> io::Result<bool> {
    let found = directory(upper, lower, place, &mut |_| {
        Err(io::ErrorKind::Interrupted.into())
    });
    match found {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        other => other.map(|()| false),
    }
}

fn directory(
    upper: &Merged,
    lower: &Merged,
    place: Place<'_>,
    sink: &mut Sink<'_>,
) -> io::Result<()> {
    if place.depth > DEPTH {
        return Err(rustix::io::Errno::NAMETOOLONG.into());
    }
    let Some(here) = upper.top() else {
        return Ok(());
    };
    let mut found = names(here)?;
    let whole = place.whole || is_opaque(here);
    if whole {
        // All that is below and not here anew is deleted.
        found.extend(lower.entries()?.into_keys());
        found.sort();
        found.dedup();
    }
    for name in found {
        let path = [place.prefix, name.to_bytes()].concat();
        let below = lower.find(&name)?;
        let stat = upper.look(&name)?.filter(|stat| !is_whiteout(stat));
        let Some(stat) = stat else {
            if below.is_some() {
                sink(Change {
                    kind: DELETED,
                    path: &path,
                    here: None,
                })?;
            }
            continue;
        };
        let (child, child_below) = if is_directory(&stat) {
            (upper.child(&name)?, lower.child(&name)?)
        } else {
            (Merged::nothing(), Merged::nothing())
        };
        let prefix = [&path[..], b"/"].concat();
        let place = Place {
            prefix: &prefix,
            depth: place.depth + 1,
            whole,
        };
        let kind = match &below {
            None => Some(ADDED),
            Some(old) if differ(old, &stat) => Some(CHANGED),
            Some(_) if is_directory(&stat) => {
                has_changes(&child, &child_below, place)?.then_some(CHANGED)
            }
            Some(_) => {
                let (new, old) = (upper.holder(&name)?, lower.holder(&name)?);
                let same =
                    new.map(|at| capability(at, &name)) == old.map(|at| capability(at, &name));
                (!same).then_some(CHANGED)
            }
        };
        let Some(kind) = kind else { continue };
        sink(Change {
            kind,
            path: &path,
            here: Some((upper, &name, &stat)),
        })?;
        if is_directory(&stat) {
            directory(&child, &child_below, place, sink)?;
        }
    }
    Ok(())
}

fn differ(old: &Stat, new: &Stat) -> bool {
    let kind = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
    let time = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    kind(old) != kind(new) || !is_directory(new) && time(old) != time(new)
}

fn capability(directory: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = openat(directory, name, flags, Mode::empty()) else {
        return Vec::new();
    };
    let mut value = [0; 64];
    let length = fgetxattr(file.as_fd(), "security.capability", &mut value).unwrap_or(0);
    value[..length].to_vec()
}

/// The changes as the API tells them.
pub(super) fn list(upper: &Path, lower: &[PathBuf]) -> io::Result<Vec<FilesystemChange>> {
    let mut changes = Vec::new();
    walk(upper, lower, &mut |change| {
        changes.push(FilesystemChange {
            kind: change.kind,
            path: format!("/{}", String::from_utf8_lossy(change.path)),
        });
        Ok(())
    })?;
    Ok(changes)
}

/// The changes as an image's layer.
pub(super) fn layer(
    packer: &mut Packer,
    upper: &Path,
    lower: &[PathBuf],
    now: i64,
) -> io::Result<()> {
    walk(upper, lower, &mut |change| match change.here {
        None => packer.whiteout(change.path, now),
        Some((_, _, stat)) if is_directory(stat) => {
            let archived = [change.path, b"/"].concat();
            packer.directory(stat, &archived)
        }
        Some((directory, name, stat)) => packer.file(directory, name, stat, change.path),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn changes_are_told_as_docker_tells_them() {
        let top = tempfile::tempdir().unwrap();
        let [upper, lower] = ["upper", "lower"].map(|name| top.path().join(name));
        fs::create_dir_all(lower.join("etc/kept")).unwrap();
        fs::create_dir_all(lower.join("dir/sub")).unwrap();
        fs::write(lower.join("etc/file"), "old").unwrap();
        fs::write(lower.join("same"), "").unwrap();
        fs::create_dir_all(upper.join("etc/kept")).unwrap();
        fs::create_dir_all(upper.join("new/deep")).unwrap();
        fs::create_dir_all(upper.join("dir")).unwrap();
        fs::write(upper.join("etc/file"), "newer").unwrap();
        fs::write(upper.join("dir/sub"), "a file now").unwrap();
        // Copied up and otherwise as it was.
        let kept = fs::metadata(lower.join("same")).unwrap();
        let copy = fs::File::create(upper.join("same")).unwrap();
        copy.set_permissions(kept.permissions()).unwrap();
        copy.set_modified(kept.modified().unwrap()).unwrap();
        fs::set_permissions(upper.join("new"), fs::Permissions::from_mode(0o700)).unwrap();
        let found = list(&upper, &[lower]).unwrap();
        let told: Vec<String> = found
            .iter()
            .map(|change| {
                format!(
                    "{} {}",
                    ["C", "A", "D"][usize::from(change.kind)],
                    change.path
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                "C /dir",
                "C /dir/sub",
                "C /etc",
                "C /etc/file",
                "A /new",
                "A /new/deep"
            ]
        );
    }

    #[test]
    fn nothing_is_seen_through_an_opaque_directory() {
        let top = tempfile::tempdir().unwrap();
        let [upper, lower] = ["upper", "lower"].map(|name| top.path().join(name));
        fs::create_dir_all(lower.join("dir/sub")).unwrap();
        fs::write(lower.join("dir/sub/gone"), "").unwrap();
        fs::write(lower.join("beside"), "").unwrap();
        fs::create_dir_all(upper.join("dir/sub")).unwrap();
        let mark = |path: &Path| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(path, "user.overlay.opaque", b"y", flags).unwrap();
        };
        let deleted = || -> Vec<String> {
            let found = list(&upper, std::slice::from_ref(&lower)).unwrap();
            let found = found.into_iter().filter(|change| change.kind == DELETED);
            found.map(|change| change.path).collect()
        };
        assert_eq!(deleted(), [""; 0]);
        mark(&upper.join("dir"));
        assert_eq!(deleted(), ["/dir/sub/gone"]);
        mark(&upper);
        assert_eq!(deleted(), ["/beside", "/dir/sub/gone"]);
        let merged = Merged::roots([&*upper, &*lower].into_iter()).unwrap();
        assert!(merged.find(c"beside").unwrap().is_none());
    }
}
