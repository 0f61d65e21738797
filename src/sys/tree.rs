//! Directory trees by handle: opening inside a root, and removing whatever is there.
//!
//! Nothing here follows a symbolic link out of the directory it was given, whatever the tree holds
//! and whoever changes it meanwhile.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Opens a directory that one trusts by its path.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens the directory `name` of `dir` itself, never what a link points to.
pub fn open_child_dir(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// Opens a file below `root` for reading, refusing links anywhere on the way and devices or fifos
/// (whose opening could block) at the end.
pub fn open_file_beneath(root: BorrowedFd<'_>, path: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let fd = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        // Sandboxes refuse openat2 because they cannot look into its argument.
        Err(Errno::NOSYS | Errno::PERM) => walk(root, path, flags)?,
        fd => fd?,
    };
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a regular file",
        ));
    }
    Ok(File::from(fd))
}

fn walk(root: BorrowedFd<'_>, path: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    let mut names = path.as_bytes().split(|b| *b == b'/').peekable();
    let mut dir = root.try_clone_to_owned()?;
    while let Some(name) = names.next() {
        if matches!(name, b"" | b"." | b"..") {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        if names.peek().is_none() {
            return Ok(rustix::fs::openat(&dir, name, flags, Mode::empty())?);
        }
        dir = open_child_dir(dir.as_fd(), OsStr::from_bytes(name))?;
    }
    Err(io::Error::from(io::ErrorKind::InvalidInput))
}

/// Deepest nesting that is removed by recursion, which holds one descriptor a level.
const DEPTH_MAX: u32 = 64;

/// Removes the entry `name` of `dir` and everything below it; nothing there is success.
///
/// Directories without permission for their owner are given it first. Of trees deeper than
/// [`DEPTH_MAX`] the lower part is renamed up into `dir` and removed from there, so that no depth
/// exhausts descriptors or stack.
pub fn remove_all(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let mut lifted = Lifted {
        top: dir,
        base: name,
        count: 0,
    };
    remove(dir, name, 0, &mut lifted)?;
    let mut next = 0;
    while next < lifted.count {
        let name = lifted.name(next);
        remove(dir, OsStr::from_bytes(&name), 0, &mut lifted)?;
        next += 1;
    }
    Ok(())
}

/// [`remove_all`] of what is at `path`, in a directory that one trusts.
pub fn remove_path(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    match open_dir(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => remove_all(opened?.as_fd(), name),
    }
}

/// The lower parts of a deep tree, renamed up into the directory that it is removed from.
struct Lifted<'a> {
    top: BorrowedFd<'a>,
    base: &'a OsStr,
    count: u64,
}

impl Lifted<'_> {
    /// The name of one of them. Names are at most 255 bytes.
    fn name(&self, serial: u64) -> Vec<u8> {
        let base = self.base.as_bytes();
        let mut name = base[..base.len().min(200)].to_vec();
        name.extend_from_slice(format!(".lifted-{}-{serial}", std::process::id()).as_bytes());
        name
    }
}

fn remove(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    depth: u32,
    lifted: &mut Lifted<'_>,
) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        // POSIX's answer for directories; also Linux's for a directory without permission.
        Err(Errno::PERM | Errno::ACCESS) => {
            let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(()),
                stat => stat?,
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Err(Errno::ACCESS.into());
            }
        }
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    if depth >= DEPTH_MAX {
        let target = lifted.name(lifted.count);
        lifted.count += 1;
        return Ok(rustix::fs::renameat(parent, name, lifted.top, &target[..])?);
    }
    let child = open_for_removal(parent, name)?;
    loop {
        let names = children(child.as_fd())?;
        if names.is_empty() {
            break;
        }
        for name in &names {
            remove(
                child.as_fd(),
                OsStr::from_bytes(name.to_bytes()),
                depth + 1,
                lifted,
            )?;
        }
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open_for_removal(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let open = || open_child_dir(parent, name);
    let child = match open() {
        Err(Errno::ACCESS) => {
            // By a handle: chmod(2) of a name follows what may meanwhile have become a link.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let handle = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            rustix::fs::chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU)?;
            open()?
        }
        child => child?,
    };
    let stat = rustix::fs::fstat(&child)?;
    if Mode::from_raw_mode(stat.st_mode) & Mode::RWXU != Mode::RWXU {
        // Refused where the directory is another's; the removal then says so.
        let _ = rustix::fs::fchmod(&child, Mode::RWXU);
    }
    Ok(child)
}

/// Up to a few thousand names of a directory, so that a huge one does not fill the memory.
fn children(dir: BorrowedFd<'_>) -> io::Result<Vec<std::ffi::CString>> {
    const BATCH: usize = 4096;
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
        if names.len() == BATCH {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn removes_deep_closed_and_linked_trees() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        let top = open_dir(temp.path()).unwrap();

        rustix::fs::mkdirat(&top, "deep", Mode::RWXU).unwrap();
        let mut dir = open_child_dir(top.as_fd(), OsStr::new("deep")).unwrap();
        for _ in 0..1500 {
            rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
            dir = open_child_dir(dir.as_fd(), OsStr::new("d")).unwrap();
        }
        rustix::fs::symlinkat("../../outside", &dir, "link").unwrap();
        drop(dir);
        fs::create_dir_all(temp.path().join("deep/closed/inner")).unwrap();
        let closed = temp.path().join("deep/closed");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        std::os::unix::fs::symlink(&outside, temp.path().join("deep/link")).unwrap();

        remove_all(top.as_fd(), OsStr::new("deep")).unwrap();
        remove_all(top.as_fd(), OsStr::new("deep")).unwrap();
        assert!(outside.join("kept").exists());
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }
}
