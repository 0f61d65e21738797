//! How much a tree of files holds.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, open, openat, statat};

/// Deepest directory that is counted: each holds a descriptor of this process's, and a stranger may
/// have made the tree.
const DEPTH: usize = 256;

/// The sizes of the regular files and links below `path` in bytes, holes included and each file once
/// whatever names it has, as Docker counts. No link is followed. What vanishes meanwhile is not
/// counted, nor what lies deeper than [`DEPTH`].
///
/// # Errors
/// When `path` itself cannot be opened.
pub fn disk_usage(path: &Path) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut total = 0_u64;
    let mut seen = HashSet::new();
    // Those on the way to what is being looked at.
    let mut open_directories = vec![Dir::new(open(path, flags, Mode::empty())?)?];
    while let Some(directory) = open_directories.last_mut() {
        let Some(Ok(entry)) = directory.read() else {
            open_directories.pop();
            continue;
        };
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let fd = directory.fd()?;
        let Ok(stat) = statat(fd.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let child = openat(fd, name, flags, Mode::empty()).and_then(Dir::new);
            if let Ok(child) = child
                && open_directories.len() < DEPTH
            {
                open_directories.push(child);
            }
        } else if stat.st_nlink == 1 || seen.insert((stat.st_dev, stat.st_ino)) {
            total = total.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_counts_once() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(at("d/e")).unwrap();
        std::fs::write(at("d/file"), [0; 1000]).unwrap();
        for name in ["again", "d/e/again"] {
            std::fs::hard_link(at("d/file"), at(name)).unwrap();
        }
        std::fs::write(at("d/e/other"), [0; 20]).unwrap();
        std::os::unix::fs::symlink("file", at("d/link")).unwrap();
        assert_eq!(disk_usage(directory.path()).unwrap(), 1024);
        assert!(disk_usage(&at("nosuch")).is_err());
    }
}
