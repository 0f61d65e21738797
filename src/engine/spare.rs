//! Containers' directories, one of them made before anybody asks for it.
//!
//! For each inode that it makes, ext4 looks at every one in the group that was freed in the last
//! minutes (fs/ext4/ialloc.c, `recently_deleted`): where many containers come and go, a directory
//! takes up to a millisecond, and a container begins with seven inodes. So the janitor makes a spare
//! directory when a container has been started or removed, and a create that finds it only renames
//! it. Where there is none the create makes its own.
//!
//! The spare is unfinished under another name, so it is there whole or not at all. The next daemon
//! removes it, as it does all that begins with a dot.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::container::record::RECORD_FILE;
use crate::engine::containers::{FILES, Paths};

/// Names of the spare directory and of one being made, beside the containers' own.
pub(super) const NAMES: [&str; 2] = [".spare", ".spare-new"];

/// Makes a spare directory, unless there is one.
pub(super) fn provide(containers: &Path) -> io::Result<()> {
    let [spare, new] = NAMES.map(|name| containers.join(name));
    if spare.exists() {
        return Ok(());
    }
    build(&new)
        .and_then(|()| std::fs::rename(&new, &spare))
        .inspect_err(|_| drop(std::fs::remove_dir_all(&new)))
}

/// Takes the spare directory for a new container, or makes one.
pub(super) fn take(containers: &Path, directory: &Path) -> io::Result<()> {
    match std::fs::rename(containers.join(NAMES[0]), directory) {
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
        assert!(root.path().join(NAMES[0]).exists());
        take(root.path(), &root.path().join("spare")).expect("taken");
        assert!(NAMES.iter().all(|name| !root.path().join(name).exists()));
        assert_eq!(listed("own"), listed("spare"));
        assert_eq!(listed("own").len(), 6);
    }
}
