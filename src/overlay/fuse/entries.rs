//! Making and removing entries of directories.
//!
//! What is made where a whiteout is, is made in the work directory and takes the whiteout's place by a
//! rename; what is removed where a lower layer has the name, gives its place to a whiteout in the
//! same way. So at every instant, and after a crash at any, the name stands for what it did before
//! or for what it does after. (One exception: in a directory with a default ACL, which only the
//! directory itself hands on, the whiteout is removed first.)

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, chmodat, chownat, fstat, linkat, mkdirat,
    mknodat, openat, renameat, renameat_with, statat, symlinkat, unlinkat,
};
use rustix::io::{Errno, Result};

use super::copy_up::{Data, set_opaque};
use super::dir::{Dir, Entry, is_device_whiteout};
use super::node::{Access, Dirs, Handle, Node, Real, Source};
use super::table::By;
use super::tree::{Found, Tree, file, is_dir, kind, shown};
use super::xattr::has_default_acl;

/// A file to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct New<'a> {
    pub(super) what: What<'a>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) umask: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum What<'a> {
    /// With its mode.
    File(u32),
    Dir(u32),
    /// Fifo, socket or device: mode with kind, and number.
    Special(u32, u64),
    Link(&'a CStr),
}

impl New<'_> {
    fn mode(&self, unmasked: bool) -> Mode {
        let mode = match self.what {
            What::File(mode) | What::Dir(mode) | What::Special(mode, _) => mode & 0o7777,
            What::Link(_) => 0o777,
        };
        Mode::from_raw_mode(if unmasked { mode } else { mode & !self.umask })
    }
}

impl Tree {
    /// Makes a file; nothing has the name.
    pub(super) fn make(&self, parent: &Arc<Node>, name: &CStr, new: &New<'_>) -> Result<Found> {
        if matches!(new.what, What::Special(mode, 0)
            if FileType::from_raw_mode(mode) == FileType::CharacterDevice)
        {
            // It would be a whiteout.
            return Err(Errno::PERM);
        }
        self.copy_up(parent, Data::Keep)?;
        let upper = parent.dirs()?.upper.ok_or(Errno::STALE)?;
        let dir = upper.fd(&self.held)?;
        let above = fstat(&*dir)?;
        let by_acl = has_default_acl(&*dir);
        let _names = parent.write_names();
        let opened = match self.make_in(&*dir, name, new, &above, by_acl) {
            Err(Errno::EXIST) => {
                if !matches!(upper.entry(name, &self.held)?, Entry::Whiteout) {
                    return Err(Errno::EXIST);
                }
                if by_acl {
                    unlinkat(&*dir, name, AtFlags::empty())?;
                    let opened = self.make_in(&*dir, name, new, &above, by_acl)?;
                    if matches!(new.what, What::Dir(_)) {
                        set_opaque(open_dir(&*dir, name)?)?;
                    }
                    opened
                } else {
                    self.make_over_whiteout(&*dir, name, new, &above)?
                }
            }
            opened => opened?,
        };
        self.made(parent, &upper, name, opened)
    }

    /// Makes it by its name, complete; the descriptor is a regular file's.
    fn make_in(
        &self,
        dir: impl AsFd + Copy,
        name: &CStr,
        new: &New<'_>,
        above: &Stat,
        by_acl: bool,
    ) -> Result<Option<OwnedFd>> {
        let mode = new.mode(by_acl);
        let mut opened = None;
        match new.what {
            What::File(_) => {
                let flags = OFlags::RDWR
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                opened = Some(openat(dir, name, flags, mode)?);
            }
            What::Dir(_) => mkdirat(dir, name, mode)?,
            What::Special(kind, number) => {
                mknodat(dir, name, FileType::from_raw_mode(kind), mode, number)?;
            }
            What::Link(target) => symlinkat(target, dir, name)?,
        }
        let owned = self.give(dir, name, opened.as_ref(), new, above, (mode, by_acl));
        if owned.is_err() {
            let flag = match new.what {
                What::Dir(_) => AtFlags::REMOVEDIR,
                _ => AtFlags::empty(),
            };
            let _ = unlinkat(dir, name, flag);
        }
        owned.map(|()| opened)
    }

    /// Owner and mode of a new file. In a set-group-id directory the group is the directory's, and
    /// directories get the bit, too.
    fn give(
        &self,
        dir: impl AsFd + Copy,
        name: &CStr,
        opened: Option<&OwnedFd>,
        new: &New<'_>,
        above: &Stat,
        (mode, by_acl): (Mode, bool),
    ) -> Result<()> {
        let inherits = above.st_mode & Mode::SGID.bits() != 0;
        let gid = if inherits { above.st_gid } else { new.gid };
        let stat = || match opened {
            Some(file) => fstat(file),
            None => statat(dir, name, AtFlags::SYMLINK_NOFOLLOW),
        };
        let made = stat()?;
        let mut now = made.st_mode;
        if (made.st_uid, made.st_gid) != (new.uid, gid) {
            let uid = rustix::fs::Uid::from_raw(new.uid);
            let gid = rustix::fs::Gid::from_raw(gid);
            chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            now = stat()?.st_mode;
        }
        let mut mode = if by_acl {
            // The ACL has cut it already; set-id bits are what chown takes.
            mode & (Mode::from_raw_mode(made.st_mode) | Mode::SUID | Mode::SGID)
        } else {
            mode
        };
        if inherits && matches!(new.what, What::Dir(_)) {
            mode |= Mode::SGID;
        }
        if now & 0o7777 != mode.bits() && !matches!(new.what, What::Link(_)) {
            chmodat(dir, name, mode, AtFlags::empty())?;
        }
        Ok(())
    }

    fn make_over_whiteout(
        &self,
        dir: impl AsFd + Copy,
        name: &CStr,
        new: &New<'_>,
        above: &Stat,
    ) -> Result<Option<OwnedFd>> {
        let temporary = self.temporary();
        let opened = self.make_in(&self.work, &temporary, new, above, false)?;
        let is_dir = matches!(new.what, What::Dir(_));
        let placed = (|| {
            if is_dir {
                set_opaque(open_dir(&self.work, &temporary)?)?;
            }
            self.over_whiteout(&temporary, is_dir, dir, name)
        })();
        if placed.is_err() {
            let flag = if is_dir {
                AtFlags::REMOVEDIR
            } else {
                AtFlags::empty()
            };
            let _ = unlinkat(&self.work, &*temporary, flag);
        }
        placed.map(|()| opened)
    }

    /// What is in the work directory takes a whiteout's place.
    fn over_whiteout(
        &self,
        temporary: &CStr,
        is_dir: bool,
        dir: impl AsFd,
        name: &CStr,
    ) -> Result<()> {
        if !is_dir {
            return renameat(&self.work, temporary, dir, name);
        }
        renameat_with(&self.work, temporary, dir, name, RenameFlags::EXCHANGE)?;
        unlinkat(&self.work, temporary, AtFlags::empty())
    }

    /// The node of what was just made in an upper directory.
    fn made(
        &self,
        parent: &Arc<Node>,
        upper: &Arc<Dir>,
        name: &CStr,
        opened: Option<OwnedFd>,
    ) -> Result<Found> {
        let stat = match &opened {
            Some(file) => fstat(file)?,
            None => statat(&*upper.fd(&self.held)?, name, AtFlags::SYMLINK_NOFOLLOW)?,
        };
        let real = if is_dir(&stat) {
            let child = upper.child(name, &self.held)?;
            Real::Dir(Box::new(Dirs::new(Some(child), Vec::new())))
        } else {
            let handle = opened.map(|fd| {
                Arc::new(Handle {
                    fd,
                    access: Access::Write,
                })
            });
            file(Source::Upper, handle)
        };
        let node = self
            .table
            .intern(parent, name, By::Upper(stat.st_ino), |id| {
                Node::new(id, stat.st_ino, kind(&stat), None, real)
            });
        if !is_dir(&stat) {
            self.held
                .add(super::dir::Holder::Node(Arc::downgrade(&node)));
        }
        let attr = shown(&node, stat, false);
        Ok(Found { node, attr })
    }

    /// A file without a name.
    pub(super) fn make_nameless(&self, parent: &Arc<Node>, new: &New<'_>) -> Result<Found> {
        self.copy_up(parent, Data::Keep)?;
        let upper = parent.dirs()?.upper.ok_or(Errno::STALE)?;
        let dir = upper.fd(&self.held)?;
        let above = fstat(&*dir)?;
        let by_acl = has_default_acl(&*dir);
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let fd = openat(&*dir, c".", flags, new.mode(by_acl))?;
        let link = self.link(&fd);
        let gid = match above.st_mode & Mode::SGID.bits() {
            0 => new.gid,
            _ => above.st_gid,
        };
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(new.uid),
            rustix::fs::Gid::from_raw(gid),
        );
        chownat(&self.proc, &*link, Some(uid), Some(gid), AtFlags::empty())?;
        let stat = fstat(&fd)?;
        let handle = Arc::new(Handle {
            fd,
            access: Access::Write,
        });
        let node = self.table.nameless(stat.st_ino, |id| {
            let real = file(Source::Upper, Some(handle));
            Node::new(id, stat.st_ino, kind(&stat), None, real)
        });
        let attr = shown(&node, stat, false);
        Ok(Found { node, attr })
    }

    /// Gives a file one more name.
    pub(super) fn link_to(
        &self,
        node: &Arc<Node>,
        parent: &Arc<Node>,
        name: &CStr,
    ) -> Result<Found> {
        self.copy_up(parent, Data::Keep)?;
        self.copy_up(node, Data::Keep)?;
        let handle = self.handle(node, Access::Path)?;
        let upper = parent.dirs()?.upper.ok_or(Errno::STALE)?;
        let dir = upper.fd(&self.held)?;
        let link = self.link(&handle.fd);
        let _names = parent.write_names();
        let follow = AtFlags::SYMLINK_FOLLOW;
        match linkat(&self.proc, &*link, &*dir, name, follow) {
            Err(Errno::EXIST) => {
                if !matches!(upper.entry(name, &self.held)?, Entry::Whiteout) {
                    return Err(Errno::EXIST);
                }
                let temporary = self.temporary();
                linkat(&self.proc, &*link, &self.work, &*temporary, follow)?;
                self.over_whiteout(&temporary, false, &*dir, name)?;
            }
            linked => linked?,
        }
        let stat = fstat(&handle.fd)?;
        let known = self.table.find(parent, name, By::Upper(stat.st_ino));
        let node = known.ok_or(Errno::STALE)?;
        let attr = shown(&node, stat, false);
        Ok(Found { node, attr })
    }

    /// Removes a file or (`directory`) an empty directory.
    pub(super) fn remove(&self, parent: &Arc<Node>, name: &CStr, directory: bool) -> Result<()> {
        self.copy_up(parent, Data::Keep)?;
        let dirs = parent.dirs()?;
        let upper = dirs.upper.as_ref().ok_or(Errno::STALE)?;
        let _names = parent.write_names();
        let found = self.lookup_locked(parent, name)?.ok_or(Errno::NOENT)?;
        let node = &found.node;
        let removed = match (directory, node.is_dir()) {
            (true, false) => Err(Errno::NOTDIR),
            (false, true) => Err(Errno::ISDIR),
            (true, true) if !self.is_empty(node)? => Err(Errno::NOTEMPTY),
            _ => self.pin(node).and_then(|pinned| {
                let covered = self.is_below(&dirs, name)?;
                self.take_away(upper, name, covered).map(|()| pinned)
            }),
        };
        if removed.is_ok() {
            self.gone(node, parent, name);
        }
        self.table.forget(node.id, 1);
        removed.map(drop)
    }

    /// A name stands for a file no longer.
    pub(super) fn gone(&self, node: &Arc<Node>, parent: &Arc<Node>, name: &CStr) {
        self.table.unname(node, parent, name);
        if let Ok(dirs) = node.dirs() {
            for dir in dirs.upper.iter().chain(dirs.lowers.iter()) {
                dir.moved(None);
            }
        }
    }

    /// Whether a lower layer has the name.
    pub(super) fn is_below(&self, dirs: &Dirs, name: &CStr) -> Result<bool> {
        for lower in dirs.lowers.iter() {
            match lower.entry(name, &self.held)? {
                Entry::Absent => {}
                Entry::Whiteout => return Ok(false),
                Entry::Present(_) => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Removes an entry of an upper directory, if it has it, and covers what is below.
    fn take_away(&self, upper: &Arc<Dir>, name: &CStr, covered: bool) -> Result<()> {
        let dir = upper.fd(&self.held)?;
        let stat = self.upper_stat(upper, name)?;
        if !covered && !stat.as_ref().is_some_and(is_dir) {
            return unlinkat(&*dir, name, AtFlags::empty());
        }
        let temporary = self.temporary();
        if !covered {
            match unlinkat(&*dir, name, AtFlags::REMOVEDIR) {
                // Full of whiteouts.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                removed => return removed,
            }
            renameat(&*dir, name, &self.work, &*temporary)?;
            return self.clear(&temporary);
        }
        self.whiteout(&self.work, &temporary)?;
        match stat {
            Some(stat) if is_dir(&stat) => {
                renameat_with(&self.work, &*temporary, &*dir, name, RenameFlags::EXCHANGE)?;
                self.clear(&temporary)
            }
            _ => renameat(&self.work, &*temporary, &*dir, name),
        }
    }

    /// Makes a whiteout.
    pub(super) fn whiteout(&self, dir: impl AsFd, name: &CStr) -> Result<()> {
        mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
    }

    /// Removes a directory that was moved to the work directory, with the whiteouts in it.
    fn clear(&self, temporary: &CStr) -> Result<()> {
        self.clear_whiteouts(&open_dir(&self.work, temporary)?)?;
        unlinkat(&self.work, temporary, AtFlags::REMOVEDIR)
    }

    /// Removes whiteouts from a real directory that nothing is below of.
    pub(super) fn clear_whiteouts(&self, dir: &OwnedFd) -> Result<()> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
            }
        }
        for name in names {
            let stat = statat(dir, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
            if is_device_whiteout(&stat) {
                unlinkat(dir, &*name, AtFlags::empty())?;
            }
        }
        Ok(())
    }
}

pub(super) fn open_dir(dir: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}
