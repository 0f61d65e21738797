//! Directories of several layers seen as one, without a mount: overlayfs' rules, read by hand.
//!
//! A name is looked for from the top. A whiteout (a 0/0 character device) hides it in all layers
//! below; a directory is merged with those of its name below it, up to one that is opaque or none.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Stat, fgetxattr, fstat, statat};
use rustix::io::Errno;

use crate::sys::tree;

/// What overlayfs marks a directory with that hides what is below.
const OPAQUE: &str = "user.overlay.opaque";

/// One directory, of one or more layers.
#[derive(Debug)]
pub(super) struct Merged {
    /// The topmost first.
    layers: Vec<OwnedFd>,
}

/// Whether it hides what is below.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Whether a layer's directory hides those below.
pub(super) fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0; 2];
    matches!(fgetxattr(directory, OPAQUE, &mut value), Ok(1) if value[0] == b'y')
}

fn look(directory: &OwnedFd, name: &CStr) -> io::Result<Option<Stat>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Names in a directory, sorted.
pub(super) fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

impl Merged {
    /// A directory as it is.
    pub(super) fn of(directory: OwnedFd) -> Self {
        Self {
            layers: vec![directory],
        }
    }

    /// The roots of layers, the topmost first.
    pub(super) fn roots<'a>(layers: impl Iterator<Item = &'a Path>) -> io::Result<Self> {
        let mut roots = Vec::new();
        for layer in layers {
            let root = tree::open_dir(layer)?;
            // A copy of all that is below.
            let is_last = is_opaque(root.as_fd());
            roots.push(root);
            if is_last {
                break;
            }
        }
        Ok(Self { layers: roots })
    }

    /// No directory at all.
    pub(super) fn nothing() -> Self {
        Self { layers: Vec::new() }
    }

    /// The directory that its owner, mode and times are of.
    pub(super) fn stat(&self) -> io::Result<Option<Stat>> {
        Ok(self.layers.first().map(fstat).transpose()?)
    }

    /// The topmost layer's directory.
    pub(super) fn top(&self) -> Option<BorrowedFd<'_>> {
        self.layers.first().map(AsFd::as_fd)
    }

    /// What the topmost layer has under a name, a whiteout too.
    pub(super) fn look(&self, name: &CStr) -> io::Result<Option<Stat>> {
        match self.layers.first() {
            Some(layer) => look(layer, name),
            None => Ok(None),
        }
    }

    /// Everything visible in it, sorted by name.
    pub(super) fn entries(&self) -> io::Result<BTreeMap<CString, Stat>> {
        let mut found = BTreeMap::new();
        for layer in &self.layers {
            for name in names(layer.as_fd())? {
                if found.contains_key(&name) {
                    continue;
                }
                // Gone meanwhile: the container may run.
                if let Some(stat) = look(layer, &name)? {
                    found.insert(name, stat);
                }
            }
        }
        if self.layers.len() > 1 {
            found.retain(|_, stat| !is_whiteout(stat));
        }
        Ok(found)
    }

    /// What is visible under a name.
    pub(super) fn find(&self, name: &CStr) -> io::Result<Option<Stat>> {
        for layer in &self.layers {
            if let Some(stat) = look(layer, name)? {
                return Ok((!is_whiteout(&stat)).then_some(stat));
            }
        }
        Ok(None)
    }

    /// The layer's directory in which a name is visible.
    pub(super) fn holder(&self, name: &CStr) -> io::Result<Option<BorrowedFd<'_>>> {
        for layer in &self.layers {
            if look(layer, name)?.is_some() {
                return Ok(Some(layer.as_fd()));
            }
        }
        Ok(None)
    }

    /// The directory of a name, merged from all layers that have it; nothing where it is none.
    pub(super) fn child(&self, name: &CStr) -> io::Result<Self> {
        let mut layers = Vec::new();
        for layer in &self.layers {
            match look(layer, name)? {
                None => continue,
                Some(stat) if is_directory(&stat) => {}
                Some(_) => break,
            }
            let directory =
                tree::open_child_dir(layer.as_fd(), OsStr::from_bytes(name.to_bytes()))?;
            let is_last = is_opaque(directory.as_fd());
            layers.push(directory);
            if is_last {
                break;
            }
        }
        Ok(Self { layers })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, Mode, XattrFlags, mknodat, setxattr};

    use super::*;

    #[test]
    fn layers_are_one_tree() {
        let top = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| top.path().join(name));
        for layer in [&a, &b, &c] {
            fs::create_dir_all(layer.join("d/shared")).unwrap();
        }
        fs::write(c.join("d/low"), "c").unwrap();
        fs::write(c.join("d/both"), "c").unwrap();
        fs::write(a.join("d/both"), "aa").unwrap();
        fs::write(c.join("d/shared/hidden"), "").unwrap();
        fs::write(a.join("d/shared/seen"), "").unwrap();
        setxattr(b.join("d/shared"), OPAQUE, b"y", XattrFlags::empty()).unwrap();
        let mode = Mode::empty();
        let made = mknodat(CWD, b.join("d/low"), FileType::CharacterDevice, mode, 0);
        let root = Merged::roots([a, b, c].iter().map(|path| &**path)).unwrap();
        let directory = root.child(c"d").unwrap();
        let names = |merged: &Merged| -> Vec<String> {
            let entries = merged.entries().unwrap();
            let names = entries.keys().map(|name| name.to_str().unwrap().to_owned());
            names.collect()
        };
        // Before Linux 5.11 nobody but root makes whiteouts.
        if made.is_ok() {
            assert_eq!(names(&directory), ["both", "shared"]);
            assert!(directory.find(c"low").unwrap().is_none());
        }
        assert_eq!(directory.find(c"both").unwrap().unwrap().st_size, 2);
        assert_eq!(names(&directory.child(c"shared").unwrap()), ["seen"]);
        assert!(directory.child(c"both").unwrap().stat().unwrap().is_none());
    }
}
