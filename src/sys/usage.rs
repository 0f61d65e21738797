//! How much a tree of files holds.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, open, openat, statat};

/// The sizes of the regular files and links below `path` in bytes, holes included, as Docker
/// counts. No link is followed. What vanishes meanwhile is not counted.
///
/// # Errors
/// When `path` itself cannot be opened.
pub fn disk_usage(path: &Path) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut total = 0_u64;
    // A descriptor for each level of the branch being walked; a deep tree ends at the limit of
    // descriptors and is then counted short.
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
            if let Ok(child) = openat(fd, name, flags, Mode::empty())
                && let Ok(child) = Dir::new(child)
            {
                open_directories.push(child);
            }
        } else {
            total = total.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
        }
    }
    Ok(total)
}
