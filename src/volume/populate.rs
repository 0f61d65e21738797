//! Filling a new volume with what the image has at its mount point.
//!
//! Docker copies the image's directory into a volume the first time it is mounted, with owners,
//! modes, times and extended attributes: a database image that ships `/var/lib/postgresql/data`
//! owned by `postgres` counts on it. The source is a tree that an image's maker controls, so it is
//! walked by directory descriptors and no symbolic link is ever followed; sockets, pipes and
//! devices are left out, as rootless Docker leaves devices out.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, XattrFlags, chownat, fchmod, fgetxattr, flistxattr,
    fsetxattr, futimens, mkdirat, openat, readlinkat, statat, symlinkat, utimensat,
};

use crate::sys::copy;

/// Deepest directory that is copied: each level holds two descriptors.
const MAX_DEPTH: usize = 200;

/// How names of attributes begin that say nothing about a file: what overlays keep for themselves,
/// and what stands in for an owner that is not mapped here.
const INTERNAL: [&[u8]; 3] = [b"user.overlay.", b"trusted.", b"user.containers."];

/// Copies what is in directory `source` into directory `target`, and gives `target` the owner,
/// mode and times of `source`.
///
/// # Errors
/// The first system call that failed; what was copied so far stays.
pub fn populate(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    copy_directory(source, target, 0)
}

fn copy_directory(source: BorrowedFd<'_>, target: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("directories are nested too deeply"));
    }
    for entry in Dir::read_from(source)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let stat = statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let from = open(source, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                mkdirat(target, name, Mode::RWXU)?;
                let to = open(target, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                copy_directory(from.as_fd(), to.as_fd(), depth + 1)?;
            }
            FileType::RegularFile => {
                let from = open(source, name, OFlags::RDONLY)?;
                let to = openat(
                    target,
                    name,
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
                    Mode::RUSR | Mode::WUSR,
                )?;
                copy::data(from.as_fd(), to.as_fd())?;
                copy_attributes(from.as_fd(), to.as_fd(), &stat)?;
            }
            FileType::Symlink => {
                let link = readlinkat(source, name, Vec::new())?;
                symlinkat(link.as_c_str(), target, name)?;
                chownat(
                    target,
                    name,
                    Some(owner(&stat)),
                    Some(group(&stat)),
                    AtFlags::SYMLINK_NOFOLLOW,
                )?;
                utimensat(target, name, &copy::times(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            _ => {}
        }
    }
    let stat = rustix::fs::fstat(source)?;
    copy_attributes(source, target, &stat)
}

/// Owner before mode (chown clears setuid bits), times last.
fn copy_attributes(source: BorrowedFd<'_>, target: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    rustix::fs::fchown(target, Some(owner(stat)), Some(group(stat)))?;
    fchmod(target, Mode::from_raw_mode(stat.st_mode))?;
    copy_xattrs(source, target)?;
    futimens(target, &copy::times(stat))?;
    Ok(())
}

fn copy_xattrs(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let mut names = vec![0_u8; 64 * 1024];
    let length = match flistxattr(source, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut value = vec![0_u8; 64 * 1024];
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        if INTERNAL.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let length = fgetxattr(source, name, &mut value)?;
        match fsetxattr(target, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn open(directory: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(openat(
        directory,
        name,
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )?)
}

fn owner(stat: &Stat) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(stat.st_uid)
}

fn group(stat: &Stat) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(stat.st_gid)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_tree_is_copied_without_following_links() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/b/file"), "content").unwrap();
        fs::set_permissions(from.join("a/b/file"), fs::Permissions::from_mode(0o4711)).unwrap();
        symlink("/etc", from.join("a/link")).unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o1777)).unwrap();
        let file = File::open(from.join("a/b/file")).unwrap();
        let names = [
            "user.note",
            "user.overlay.opaque",
            "user.containers.override_stat",
        ];
        let has_attributes = names
            .map(|name| fsetxattr(&file, name, b"x", XattrFlags::empty()))
            .iter()
            .all(Result::is_ok);
        populate(
            File::open(&from).unwrap().as_fd(),
            File::open(&to).unwrap().as_fd(),
        )
        .unwrap();
        assert_eq!(fs::read_to_string(to.join("a/b/file")).unwrap(), "content");
        let copy = File::open(to.join("a/b/file")).unwrap();
        let copied = names.map(|name| fgetxattr(&copy, name, &mut [0; 8]).is_ok());
        assert_eq!(copied, [has_attributes, false, false]);
        assert_eq!(
            fs::metadata(to.join("a/b/file")).unwrap().mode() & 0o7777,
            0o4711
        );
        assert_eq!(
            fs::read_link(to.join("a/link")).unwrap().to_str(),
            Some("/etc")
        );
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(
            fs::metadata(to.join("a/b/file")).unwrap().mtime_nsec(),
            fs::metadata(from.join("a/b/file")).unwrap().mtime_nsec()
        );
    }
}
