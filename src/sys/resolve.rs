//! Paths inside a root that is not ours: a container's root filesystem, whose symbolic links were
//! written by a stranger.
//!
//! [`open`] resolves with `openat2(RESOLVE_IN_ROOT)` (Linux 5.6): absolute links and `..` stay
//! inside the root, magic links of proc are refused. [`make`] creates what is missing. The kernel
//! has no "create in root" for whole paths, so it walks: a stack of directory descriptors, one
//! component at a time, each opened without following links; links are read and their components
//! put in front of what is left; `..` pops the stack and stops at the root. Nothing is ever done
//! by a joined string, so a link swapped in meanwhile is at worst followed inside the root.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat,
    statat,
};

/// Links followed before ELOOP, as the kernel's own limit.
const MAX_LINKS: usize = 40;

/// What [`make`] creates at the end of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory, mode 0755.
    Directory,
    /// An empty regular file, mode 0644.
    File,
}

/// Opens `path` as seen by a process whose root is `root`.
///
/// # Errors
///
/// As openat2(2): ENOENT, ENOTDIR, ELOOP (too many links, or a magic link).
pub fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    open_with(root, path, flags, ResolveFlags::IN_ROOT)
}

/// As [`open`], and no component may be a symbolic link (ELOOP).
///
/// # Errors
///
/// As [`open`].
pub fn open_without_links(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    open_with(
        root,
        path,
        flags,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
    )
}

/// Opens what is at `path` below `base`, or refuses: no link and no `..` may lead out of it, not even
/// to come back.
///
/// # Errors
///
/// As openat2(2): EXDEV for what leads out, ENOENT, ENOTDIR, ELOOP.
pub fn open_beneath(base: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    open_with(base, path, OFlags::PATH, ResolveFlags::BENEATH)
}

fn open_with(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
    how: ResolveFlags,
) -> io::Result<OwnedFd> {
    let how = how | ResolveFlags::NO_MAGICLINKS;
    // EAGAIN: something was renamed while a `..` was walked; the kernel asks to try again.
    for _ in 0..16 {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(rustix::io::Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
    Err(rustix::io::Errno::AGAIN.into())
}

/// Opens `path` inside `root` as `O_PATH`, creating the missing directories and the last component.
/// A dangling link is followed and its target created, inside the root.
///
/// # Errors
///
/// ENOTDIR when a component is a file; EROFS, EACCES and the like from the creation itself.
pub fn make(root: BorrowedFd<'_>, path: &str, kind: Kind) -> io::Result<OwnedFd> {
    match open(root, path, OFlags::PATH) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => walk(root, path, kind),
        other => other,
    }
}

/// Opens the directory that holds the last component of `path`, making it when it is missing, and
/// gives that component's name, for creating a node or link that must replace no other.
///
/// # Errors
///
/// EINVAL when the path names no component; else as [`make`].
pub fn make_parent(root: BorrowedFd<'_>, path: &str) -> io::Result<(OwnedFd, OsString)> {
    let trimmed = path.trim_end_matches('/');
    let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
    if matches!(name, "" | "." | "..") {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let parent = if parent.is_empty() { "/" } else { parent };
    Ok((make(root, parent, Kind::Directory)?, name.into()))
}

fn walk(root: BorrowedFd<'_>, path: &str, kind: Kind) -> io::Result<OwnedFd> {
    let mut stack: Vec<OwnedFd> = vec![root.try_clone_to_owned()?];
    // Components still to walk, the next one last.
    let mut left: Vec<OsString> = components(path.as_bytes());
    let mut links = 0;
    while let Some(name) = left.pop() {
        if name == ".." {
            if stack.len() > 1 {
                stack.pop();
            }
            continue;
        }
        let here = stack.last().map_or(root, AsFd::as_fd);
        let last = left.is_empty();
        match step(here, &name, last, kind)? {
            Step::Entered(fd) => stack.push(fd),
            Step::Link(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                if target.first() == Some(&b'/') {
                    stack.truncate(1);
                }
                left.extend(components(&target));
            }
            Step::File(fd) if last => return Ok(fd),
            Step::File(_) => return Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        }
    }
    stack
        .pop()
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

enum Step {
    Entered(OwnedFd),
    Link(Vec<u8>),
    File(OwnedFd),
}

/// Opens one component, creating it when it is missing.
fn step(here: BorrowedFd<'_>, name: &OsStr, last: bool, kind: Kind) -> io::Result<Step> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match openat(here, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) => {
            if last && kind == Kind::File {
                let create = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mode = Mode::from_raw_mode(0o644);
                match openat(here, name, create | OFlags::WRONLY, mode) {
                    Ok(_) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            } else {
                match mkdirat(here, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            openat(here, name, flags, Mode::empty())?
        }
        Err(error) => return Err(error.into()),
    };
    match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
        FileType::Directory => Ok(Step::Entered(fd)),
        FileType::Symlink => {
            // A magic link (proc) has no length and leads out of every root.
            if statat(&fd, "", AtFlags::EMPTY_PATH)?.st_size == 0 {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            Ok(Step::Link(readlinkat(&fd, "", Vec::new())?.into_bytes()))
        }
        _ => Ok(Step::File(fd)),
    }
}

/// The components of a path, last first, without the empty ones and `.`.
fn components(path: &[u8]) -> Vec<OsString> {
    path.split(|&b| b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| OsString::from_vec(part.to_vec()))
        .rev()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let fd = std::fs::File::open(dir.path()).expect("opens").into();
        (dir, fd)
    }

    #[test]
    fn missing_parts_are_made() {
        let (dir, fd) = root();
        make(fd.as_fd(), "/a/b/./c", Kind::Directory).expect("made");
        make(fd.as_fd(), "a/b/file", Kind::File).expect("made");
        assert!(dir.path().join("a/b/c").is_dir());
        assert!(dir.path().join("a/b/file").is_file());
    }

    #[test]
    fn absolute_and_climbing_links_stay_inside() {
        let (dir, fd) = root();
        symlink("/etc", dir.path().join("abs")).expect("link");
        symlink("../../../../tmp/outside", dir.path().join("up")).expect("link");
        make(fd.as_fd(), "/abs/new", Kind::File).expect("made");
        make(fd.as_fd(), "/up/x", Kind::Directory).expect("made");
        make(fd.as_fd(), "/../../y/../z", Kind::Directory).expect("made");
        assert!(dir.path().join("etc/new").is_file());
        assert!(dir.path().join("tmp/outside/x").is_dir());
        assert!(dir.path().join("z").is_dir());
    }

    #[test]
    fn a_dangling_link_at_the_end_is_followed() {
        let (dir, fd) = root();
        std::fs::create_dir(dir.path().join("etc")).expect("mkdir");
        symlink("../run/stub.conf", dir.path().join("etc/resolv.conf")).expect("link");
        make(fd.as_fd(), "/etc/resolv.conf", Kind::File).expect("made");
        assert!(dir.path().join("run/stub.conf").is_file());
    }

    #[test]
    fn loops_and_files_in_the_way_are_errors() {
        let (dir, fd) = root();
        symlink("b", dir.path().join("a")).expect("link");
        symlink("a", dir.path().join("b")).expect("link");
        std::fs::write(dir.path().join("f"), "").expect("write");
        let code = |path| {
            make(fd.as_fd(), path, Kind::Directory)
                .expect_err("refused")
                .raw_os_error()
        };
        assert_eq!(code("/a/x"), Some(libc::ELOOP));
        assert_eq!(code("/f/x"), Some(libc::ENOTDIR));
    }
}
