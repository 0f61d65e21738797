//! Copy-up: a lower file gets its own in the upper directory before it is first changed.
//!
//! It is made in the work directory with all that it has — data (shared where the filesystem can,
//! holes kept), owner, mode, attributes, times — and renamed to its place: whatever is killed
//! meanwhile, a name stands for the one or for the other, whole. The data is synced before, as
//! the kernel's overlayfs does, unless nothing need survive. What is left in the work directory
//! is removed by the next mount.
//!
//! Of a file with several names in a layer all are copied at once ([`super::links`]).

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, XattrFlags, chmodat, chownat, fdatasync, fstat,
    futimens, linkat, mkdirat, mknodat, openat, renameat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, Result};

use super::dir::{Dir, lock};
use super::links::Names;
use super::node::{Access, Handle, Located, Node, Place};
use super::tree::Tree;
use super::xattr;
use crate::sys::copy;

/// What of a file's data is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    Keep,
    /// It is about to be truncated to nothing.
    Drop,
}

/// Descriptors that are in use, so that nobody closes them.
#[derive(Debug)]
pub(super) struct Pinned {
    _dirs: Vec<Arc<OwnedFd>>,
    _file: Option<Arc<Handle>>,
}

impl Tree {
    /// Makes sure that a file is in the upper directory, and those that lead to it.
    pub(super) fn copy_up(&self, node: &Arc<Node>, data: Data) -> Result<()> {
        if node.is_upper() {
            return Ok(());
        }
        // The uppermost first, each by itself: the depth of a path must not become ours.
        let mut above = Vec::new();
        let mut place = node.place();
        while let Some(Place { parent, .. }) = place.take() {
            if !parent.is_upper() {
                place = parent.place();
                above.push(parent);
            }
        }
        for parent in above.iter().rev() {
            self.copy_one(parent, Data::Keep, None)?;
        }
        let names = self.names_of(node)?;
        self.copy_one(node, data, names.as_ref())
    }

    /// `names`: all of those that the copy gets, where there are several.
    fn copy_one(&self, node: &Arc<Node>, data: Data, names: Option<&Names<'_>>) -> Result<()> {
        let _copying = self.copying(node);
        if node.is_upper() {
            return Ok(());
        }
        let name = self.temporary();
        let copied = match node.kind {
            FileType::Directory => self.copy_directory(node, &name),
            FileType::RegularFile => self.copy_file(node, &name, data, names),
            _ => self.copy_special(node, &name, names),
        };
        if copied.is_err() {
            let flag = if node.is_dir() {
                AtFlags::REMOVEDIR
            } else {
                AtFlags::empty()
            };
            // The next mount removes what cannot be removed now.
            let _ = unlinkat(&self.work, &*name, flag);
        }
        copied
    }

    fn copy_directory(&self, node: &Arc<Node>, temporary: &CStr) -> Result<()> {
        // The root has no place, and is in the upper directory if there is one.
        let place = node.place().ok_or(Errno::ROFS)?;
        let lower = node.dirs()?.top()?.fd(&self.held)?;
        let stat = fstat(&*lower)?;
        mkdirat(&self.work, temporary, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new = openat(&self.work, temporary, flags, Mode::empty())?;
        chownat(&new, c"", uid(&stat), gid(&stat), AtFlags::EMPTY_PATH)?;
        xattr::copy(lower.as_fd(), new.as_fd())?;
        rustix::fs::fchmod(&new, mode(&stat))?;
        futimens(&new, &copy::times(&stat))?;
        let made = fstat(&new)?;

        let parent = place.parent.dirs()?.upper.ok_or(Errno::STALE)?;
        let _names = place.parent.write_names();
        self.put(&parent, temporary, &place.name)?;
        let dir = parent.child(&place.name, &self.held)?;
        node.set_upper(dir);
        self.table.copied(node, made.st_ino);
        Ok(())
    }

    fn copy_file(
        &self,
        node: &Arc<Node>,
        temporary: &CStr,
        data: Data,
        names: Option<&Names<'_>>,
    ) -> Result<()> {
        let lower = self.handle(node, Access::Read)?;
        let stat = fstat(&lower.fd)?;
        if let Some(firsts) = &self.firsts
            && stat.st_nlink > 1
        {
            let id = (stat.st_dev, stat.st_ino);
            let first = lock(firsts)
                .entry(id)
                .or_insert_with(|| node.clone())
                .clone();
            if !Arc::ptr_eq(&first, node) {
                return self.copy_link(node, temporary, &first);
            }
        }
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new = openat(&self.work, temporary, flags, Mode::RUSR | Mode::WUSR)?;
        if data == Data::Keep && stat.st_size > 0 {
            copy_data(lower.fd.as_fd(), new.as_fd())?;
        }
        chownat(&new, c"", uid(&stat), gid(&stat), AtFlags::EMPTY_PATH)?;
        xattr::copy(lower.fd.as_fd(), new.as_fd())?;
        rustix::fs::fchmod(&new, mode(&stat))?;
        futimens(&new, &copy::times(&stat))?;
        if !self.volatile {
            fdatasync(&new)?;
        }
        self.exchange(node, temporary, new, Access::Write, names)
    }

    /// One more name of a file that was copied.
    fn copy_link(&self, node: &Arc<Node>, temporary: &CStr, first: &Arc<Node>) -> Result<()> {
        let copied = self.handle(first, Access::Path)?;
        let link = self.link(&copied.fd);
        linkat(
            &self.proc,
            &*link,
            &self.work,
            temporary,
            AtFlags::SYMLINK_FOLLOW,
        )?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new = openat(&self.work, temporary, flags, Mode::empty())?;
        self.exchange(node, temporary, new, Access::Path, None)
    }

    /// A link, fifo, socket or device.
    fn copy_special(
        &self,
        node: &Arc<Node>,
        temporary: &CStr,
        names: Option<&Names<'_>>,
    ) -> Result<()> {
        let lower = self.handle(node, Access::Path)?;
        let stat = fstat(&lower.fd)?;
        if node.kind == FileType::Symlink {
            let target = rustix::fs::readlinkat(&lower.fd, c"", Vec::new())?;
            symlinkat(&*target, &self.work, temporary)?;
        } else {
            mknodat(
                &self.work,
                temporary,
                node.kind,
                Mode::empty(),
                stat.st_rdev,
            )?;
            chmodat(&self.work, temporary, mode(&stat), AtFlags::empty())?;
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        chownat(&self.work, temporary, uid(&stat), gid(&stat), flags)?;
        if node.kind != FileType::Symlink {
            chmodat(&self.work, temporary, mode(&stat), AtFlags::empty())?;
        }
        utimensat(&self.work, temporary, &copy::times(&stat), flags)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new = openat(&self.work, temporary, flags, Mode::empty())?;
        self.exchange(node, temporary, new, Access::Path, names)
    }

    /// The copy takes the file's place; where it has none any more, its open descriptor's.
    fn exchange(
        &self,
        node: &Arc<Node>,
        temporary: &CStr,
        new: OwnedFd,
        access: Access,
        names: Option<&Names<'_>>,
    ) -> Result<()> {
        let ino = fstat(&new)?.st_ino;
        let handle = Arc::new(Handle { fd: new, access });
        if let Some(names) = names {
            return self.exchange_all(node, temporary, handle, names);
        }
        loop {
            let Some(place) = node.place() else {
                unlinkat(&self.work, temporary, AtFlags::empty())?;
                node.set_copied(handle);
                self.table.copied(node, ino);
                return Ok(());
            };
            let parent = place.parent.dirs()?.upper.ok_or(Errno::STALE)?;
            let _names = place.parent.write_names();
            if !super::tree::is_at(node.place().as_ref(), &place.parent, &place.name) {
                continue;
            }
            self.put(&parent, temporary, &place.name)?;
            node.set_copied(handle);
            self.table.copied(node, ino);
            self.held
                .add(super::dir::Holder::Node(Arc::downgrade(node)));
            return Ok(());
        }
    }

    /// Renames what is in the work directory to its place, which changes nothing that is seen: so
    /// the directory's times stay.
    fn put(&self, parent: &Arc<Dir>, temporary: &CStr, name: &CStr) -> Result<()> {
        let parent = parent.fd(&self.held)?;
        let before = fstat(&*parent)?;
        renameat(&self.work, temporary, &*parent, name)?;
        futimens(&*parent, &copy::times(&before))
    }

    /// Copies a directory up with all that is in it, so that nothing below it is needed any more.
    /// Before this is written down, `ready` is called.
    pub(super) fn copy_tree(
        &self,
        root: &Arc<Node>,
        ready: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.copy_up(root, Data::Keep)?;
        let mut waiting = vec![root.clone()];
        // Those that lose what is below them; each is held by a lookup.
        let mut whole = Vec::new();
        let result = (|| {
            while let Some(dir) = waiting.pop() {
                if dir.dirs()?.lowers.is_empty() {
                    // All of it is in the upper directory already.
                    continue;
                }
                for name in self.names(&dir)? {
                    let Some(found) = self.lookup(&dir, &name)? else {
                        continue;
                    };
                    let copied = self.copy_up(&found.node, Data::Keep);
                    if found.node.is_dir() && copied.is_ok() {
                        waiting.push(found.node.clone());
                        whole.push(found.node);
                    } else {
                        self.table.forget(found.node.id, 1);
                    }
                    copied?;
                }
            }
            let dirs = root.dirs()?;
            if !dirs.lowers.is_empty() {
                ready()?;
                set_opaque(&*dirs.upper.ok_or(Errno::STALE)?.fd(&self.held)?)?;
            }
            // The mark hides what is below those further down, too.
            for dir in std::iter::once(root).chain(&whole) {
                dir.drop_lowers();
            }
            Ok(())
        })();
        for dir in whole {
            self.table.forget(dir.id, 1);
        }
        result
    }

    /// Does something by a descriptor of the real file, as it is.
    pub(super) fn with_real<T>(
        &self,
        node: &Arc<Node>,
        act: impl FnOnce(BorrowedFd<'_>) -> Result<T>,
    ) -> Result<T> {
        match node.kind {
            FileType::Directory => act(node.dirs()?.top()?.fd(&self.held)?.as_fd()),
            FileType::RegularFile => act(self.handle(node, Access::Read)?.fd.as_fd()),
            _ => act(self.handle(node, Access::Path)?.fd.as_fd()),
        }
    }

    /// Holds descriptors of what is about to lose its name, which stay while this is held.
    pub(super) fn pin(&self, node: &Arc<Node>) -> Result<Pinned> {
        if node.is_dir() {
            let dirs = node.dirs()?;
            let all = dirs.upper.iter().chain(dirs.lowers.iter());
            let held = all.map(|dir| dir.fd(&self.held)).collect::<Result<_>>()?;
            return Ok(Pinned {
                _dirs: held,
                _file: None,
            });
        }
        let handle = match node.located()? {
            Located::Held(_, handle) => handle,
            Located::At(..) => self.handle(node, Access::Path)?,
        };
        Ok(Pinned {
            _dirs: Vec::new(),
            _file: Some(handle),
        })
    }

    /// The status of an entry of the upper directory.
    pub(super) fn upper_stat(&self, dir: &Arc<Dir>, name: &CStr) -> Result<Option<Stat>> {
        match statat(&*dir.fd(&self.held)?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            stat => stat.map(Some),
        }
    }
}

/// Shares the blocks where the filesystem can, else copies what is no hole.
fn copy_data(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(()),
        Err(_) => {
            copy::data(from, to).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        }
    }
}

pub(super) fn set_opaque(dir: impl AsFd) -> Result<()> {
    rustix::fs::fsetxattr(dir, super::dir::OPAQUE, b"y", XattrFlags::empty())
}

pub(super) fn uid(stat: &Stat) -> Option<rustix::fs::Uid> {
    Some(rustix::fs::Uid::from_raw(stat.st_uid))
}

pub(super) fn gid(stat: &Stat) -> Option<rustix::fs::Gid> {
    Some(rustix::fs::Gid::from_raw(stat.st_gid))
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode)
}
