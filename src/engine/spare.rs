//! Containers' directories, one of them made before anybody asks for it.
//!
//! A container begins with seven inodes, and each may take a filesystem up to a millisecond
//! ([`crate::sys::spread`] tells why, and what is done about it). So the janitor makes a spare
//! directory when a container has been started or removed, and a create that finds it only renames
//! it. Where there is none the create makes its own.
//!
//! The spare is unfinished under another name, so it is there whole or not at all. The next daemon
//! removes it, as it does all that begins with a dot.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::container::record::RECORD_FILE;
use crate::engine::containers::{FILES, Paths};
use crate::types::id::random_hex;

/// Name of the spare directory, beside the containers' own.
pub(super) const SPARE: &str = ".spare";

/// Whether a name is that of the spare directory or of one being made, which are not containers.
pub(super) fn is_spare(name: &OsStr) -> bool {
    name.as_bytes().starts_with(SPARE.as_bytes())
}

/// Makes a spare directory, unless there is one.
pub(super) fn provide(containers: &Path) -> io::Result<()> {
    let spare = containers.join(SPARE);
    if spare.exists() {
        return Ok(());
    }
    // Its name decides where on the disk it is, so each has another.
    let new = containers.join(format!("{SPARE}-{}", random_hex()));
    build(&new)
        .and_then(|()| std::fs::rename(&new, &spare))
        .inspect_err(|_| drop(std::fs::remove_dir_all(&new)))
}

/// Takes the spare directory for a new container, or makes one.
pub(super) fn take(containers: &Path, directory: &Path) -> io::Result<()> {
    match std::fs::rename(containers.join(SPARE), directory) {
        Ok(()) => Ok(()),
        Err(_) => build(directory),
    }
}

fn build(directory: &Path) -> io::Result<()> {
    let make = |path: &Path, mode| DirBuilder::new().mode(mode).create(path);
    make(directory, 0o710)?;
    make(&Paths(directory).upper(), 0o755)?;
    make(&Paths(directory).work(), 0o700)?;
    let files = FILES.iter().map(|(file, _)| *file);
    for file in files.chain([RECORD_FILE]) {
        File::create_new(directory.join(file))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_the_same_spare_or_not() {
        let root = tempfile::tempdir().expect("tempdir");
        let listed = |name: &str| {
            let entries = std::fs::read_dir(root.path().join(name)).expect("readdir");
            let entries = entries.map(|entry| entry.expect("entry").file_name());
            entries.collect::<std::collections::BTreeSet<_>>()
        };
        take(root.path(), &root.path().join("own")).expect("made");
        provide(root.path()).expect("a spare");
        provide(root.path()).expect("the same spare");
        assert!(root.path().join(SPARE).exists());
        take(root.path(), &root.path().join("spare")).expect("taken");
        let left = listed(".");
        assert!(!left.iter().any(|name| is_spare(name)), "{left:?}");
        assert_eq!(listed("own"), listed("spare"));
        assert_eq!(listed("own").len(), 6);
    }
}
