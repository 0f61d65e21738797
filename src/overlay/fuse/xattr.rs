//! Extended attributes. The overlay's own are not seen, nor to be set: `user.overlay.NAME` of a
//! container is `user.overlay.overlay.NAME` on disk, as the kernel's overlayfs has it, so that an
//! overlay in a container works; other engines' marks are not to be had at all.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::fs::{
    FileType, Mode, XattrFlags, fgetxattr, fgetxattr_query, flistxattr, fremovexattr, fsetxattr,
    fstat, getxattr, getxattr_query, listxattr, removexattr, setxattr,
};
use rustix::io::{Errno, Result};

use super::node::Node;
use super::tree::Tree;
use super::wire::Reply;

const OURS: &[u8] = b"user.overlay.";
const ESCAPED: &[u8] = b"user.overlay.overlay.";
const OTHERS: [&[u8]; 2] = [b"user.fuseoverlayfs.", b"user.containers."];
/// Longest list and value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MOST: usize = 64 << 10;

/// A container's name as it is on disk; `None` for what it may not have.
fn on_disk(name: &CStr) -> Option<CString> {
    let bytes = name.to_bytes();
    if OTHERS.iter().any(|prefix| bytes.starts_with(prefix)) {
        return None;
    }
    let Some(rest) = bytes.strip_prefix(OURS) else {
        return Some(name.to_owned());
    };
    CString::new([ESCAPED, rest].concat()).ok()
}

/// Appends a name on disk to a list as the container sees it.
fn append_shown(list: &mut Vec<u8>, name: &[u8]) {
    if let Some(rest) = name.strip_prefix(ESCAPED) {
        list.extend_from_slice(OURS);
        list.extend_from_slice(rest);
    } else if name.starts_with(OURS) || OTHERS.iter().any(|prefix| name.starts_with(prefix)) {
        return;
    } else {
        list.extend_from_slice(name);
    }
    list.push(0);
}

impl Tree {
    pub(super) fn getxattr(
        &self,
        node: &Arc<Node>,
        name: &CStr,
        size: usize,
        reply: &mut Reply,
    ) -> Result<()> {
        let name = on_disk(name).ok_or(Errno::NODATA)?;
        if self.owners.are_in(&name) {
            let stored = self.with_attributes(node, |file| whole(|buffer| file.get(&name, buffer)));
            return give(&self.owners.shown_value(&name, stored?), size, reply);
        }
        self.with_attributes(node, |file| {
            if size == 0 {
                let length = file.length(&name)?;
                reply.u32(length as u32);
                reply.u32(0);
                return Ok(());
            }
            reply.fill(size, |room| file.get(&name, room))
        })
    }

    pub(super) fn listxattr(&self, node: &Arc<Node>, size: usize, reply: &mut Reply) -> Result<()> {
        let mut shown = Vec::new();
        self.with_attributes(node, |file| {
            for name in whole(|buffer| file.list(buffer))?.split(|byte| *byte == 0) {
                if !name.is_empty() {
                    append_shown(&mut shown, name);
                }
            }
            Ok(())
        })?;
        give(&shown, size, reply)
    }

    pub(super) fn setxattr(
        &self,
        node: &Arc<Node>,
        name: &CStr,
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
    ) -> Result<()> {
        let name = on_disk(name).ok_or(Errno::PERM)?;
        self.copy_up(node, super::copy_up::Data::Keep)?;
        let value = self.owners.stored_value(&name, value)?;
        self.with_attributes(node, |file| {
            file.set(&name, &value, XattrFlags::from_bits_retain(flags))
        })?;
        if kill_sgid {
            self.with_real(node, |fd| {
                let stat = fstat(fd)?;
                let mode = Mode::from_raw_mode(stat.st_mode) & !Mode::SGID;
                rustix::fs::chmodat(
                    &self.proc,
                    &*self.link(fd),
                    mode,
                    rustix::fs::AtFlags::empty(),
                )
            })?;
        }
        Ok(())
    }

    pub(super) fn removexattr(&self, node: &Arc<Node>, name: &CStr) -> Result<()> {
        let name = on_disk(name).ok_or(Errno::NODATA)?;
        // Nothing is copied up for the sake of what is not there.
        self.with_attributes(node, |file| file.length(&name).map(drop))?;
        self.copy_up(node, super::copy_up::Data::Keep)?;
        self.with_attributes(node, |file| file.remove(&name))
    }

    fn with_attributes<T>(
        &self,
        node: &Arc<Node>,
        act: impl FnOnce(Attributes<'_>) -> Result<T>,
    ) -> Result<T> {
        self.with_real(node, |fd| match node.kind {
            FileType::RegularFile | FileType::Directory => act(Attributes::Open(fd)),
            _ => act(Attributes::Path(self.path(fd))),
        })
    }
}

/// Answers with a list or a value, or with its length where that is asked for.
fn give(whole: &[u8], size: usize, reply: &mut Reply) -> Result<()> {
    match size {
        0 => {
            reply.u32(whole.len() as u32);
            reply.u32(0);
        }
        size if whole.len() > size => return Err(Errno::RANGE),
        _ => reply.put(whole),
    }
    Ok(())
}

/// How attributes are reached.
enum Attributes<'a> {
    Open(BorrowedFd<'a>),
    /// In /proc, whose links lead to whatever a descriptor stands for: attributes of links and
    /// fifos are not to be had by their descriptors.
    Path(String),
}

impl Attributes<'_> {
    /// A value, as long as the room; its length.
    fn get(&self, name: &CStr, room: &mut [u8]) -> Result<usize> {
        match self {
            Attributes::Open(fd) => fgetxattr(fd, name, room),
            Attributes::Path(path) => getxattr(path, name, room),
        }
    }

    /// A value's length.
    fn length(&self, name: &CStr) -> Result<usize> {
        match self {
            Attributes::Open(fd) => fgetxattr_query(fd, name),
            Attributes::Path(path) => getxattr_query(path, name),
        }
    }

    fn list(&self, room: &mut [u8]) -> Result<usize> {
        match self {
            Attributes::Open(fd) => flistxattr(fd, room),
            Attributes::Path(path) => listxattr(path, room),
        }
    }

    fn set(&self, name: &CStr, value: &[u8], flags: XattrFlags) -> Result<()> {
        match self {
            Attributes::Open(fd) => fsetxattr(fd, name, value, flags),
            Attributes::Path(path) => setxattr(path, name, value, flags),
        }
    }

    fn remove(&self, name: &CStr) -> Result<()> {
        match self {
            Attributes::Open(fd) => fremovexattr(fd, name),
            Attributes::Path(path) => removexattr(path, name),
        }
    }
}

/// All of a list or value, of whatever length.
fn whole(mut read: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer[..]) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < MOST => buffer.resize(MOST, 0),
            Err(error) => return Err(error),
        }
    }
}

/// Gives `to` all attributes of `from`, except the marks of overlays.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let list = match whole(|buffer| flistxattr(from, buffer)) {
        Err(Errno::NOTSUP) => return Ok(()),
        list => list?,
    };
    for name in list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let is_mark = name.starts_with(OURS) && !name.starts_with(ESCAPED)
            || name.starts_with(b"trusted.overlay.")
            || name.starts_with(b"user.fuseoverlayfs.");
        if is_mark {
            continue;
        }
        let value = match whole(|buffer| fgetxattr(from, name, buffer)) {
            Err(Errno::NODATA) => continue,
            value => value?,
        };
        match fsetxattr(to, name, &value, XattrFlags::empty()) {
            // Labels of the host's security module, and what only the initial namespace may set.
            Err(Errno::NOTSUP | Errno::PERM) => {}
            set => set?,
        }
    }
    Ok(())
}

/// Whether files made in a directory get an ACL by it, which takes the umask's place.
pub(super) fn has_default_acl(dir: impl std::os::fd::AsFd) -> bool {
    rustix::fs::fgetxattr_query(dir, c"system.posix_acl_default").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_neither_seen_nor_set() {
        let disk = |name: &CStr| on_disk(name).map(|name| name.into_string().unwrap());
        assert_eq!(disk(c"user.a").as_deref(), Some("user.a"));
        assert_eq!(
            disk(c"user.overlay.opaque").as_deref(),
            Some("user.overlay.overlay.opaque")
        );
        assert_eq!(disk(c"user.containers.override_stat"), None);
        let mut list = Vec::new();
        for name in [
            &b"user.a"[..],
            b"user.overlay.opaque",
            b"user.overlay.overlay.opaque",
            b"user.fuseoverlayfs.origin",
        ] {
            append_shown(&mut list, name);
        }
        assert_eq!(list, b"user.a\0user.overlay.opaque\0");
    }
}
