//! The overlay itself, and how a name becomes a file: lookup and merging.
//!
//! A name is looked for in the parent's upper directory and then in its lower ones, the topmost
//! first. The first that has it decides: a whiteout says that there is nothing; a file is the
//! file; a directory is merged with those of the same name below, down to one that is opaque or to
//! what is no directory.
//!
//! The inode number that is shown is the real one, of the topmost lower file where there is one:
//! so that it stays when the file is copied up, and after the next mount. (Not the latter for a file
//! that has several names in its layer.) Layers on other filesystems get numbers made from theirs.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::{Errno, Result};

use super::dir::{Dir, Entry, Held, Holder, lock};
use super::links::{Links, is_linked};
use super::node::{Access, Dirs, Handle, Located, Node, Place, Real, Source};
use super::owners::Owners;
use super::pages::Pages;
use super::table::{By, Table};
use super::wire::Attr;
use crate::types::idmap::IdMapping;

/// Layers as one tree.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) table: Table,
    pub(super) held: Held,
    pub(super) pages: Pages,
    /// Where new files are made before they get their name.
    pub(super) work: OwnedFd,
    /// `/proc/self/fd`, by which a descriptor is opened once more, and linked.
    pub(super) proc: OwnedFd,
    /// Nothing written need survive a crash.
    pub(super) volatile: bool,
    /// Stored ids and shown ones.
    pub(super) owners: Arc<Owners>,
    /// Where all is copied and nobody looks on: the first of a layer's files that have one inode.
    pub(super) firsts: Option<Firsts>,
    pub(super) links: Links,
    /// The upper directory's device.
    device: u64,
    serial: AtomicU64,
}

/// Copied files by device and inode number of the layer's.
pub(super) type Firsts = Mutex<HashMap<(u64, u64), Arc<Node>>>;

/// What a lookup found. The node counts one lookup more.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) node: Arc<Node>,
    pub(super) attr: Attr,
}

/// The directories of an overlay, held open.
#[derive(Debug)]
pub(super) struct Layers {
    /// The topmost first.
    pub(super) lower: Vec<OwnedFd>,
    /// `None` for what is only read.
    pub(super) upper: Option<OwnedFd>,
    pub(super) work: OwnedFd,
    pub(super) volatile: bool,
    /// Whose files they are to whom: stored ids inside, shown ones outside. The same where `None`.
    pub(super) owners: Option<IdMapping>,
}

impl Tree {
    /// `most`: of descriptors that could be opened again, how many to hold.
    pub(super) fn new(layers: Layers, most: usize) -> Result<Tree> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open("/proc/self/fd", flags, Mode::empty())?;
        let top = fstat(layers.upper.as_ref().unwrap_or(&layers.work))?;
        let lowers: Vec<Arc<Dir>> = layers.lower.into_iter().map(Dir::root).collect();
        let below = lowers.iter().position(|dir| dir.opaque);
        let seen = below.map_or(lowers.len(), |index| index + 1);
        let upper = layers.upper.map(Dir::root);
        // Only copied whole is the upper root opaque: nothing of the layers is needed then.
        let is_whole = upper.as_ref().is_some_and(|upper| upper.opaque);
        let seen = if is_whole { 0 } else { seen };
        let mut dirs = Dirs::new(upper, lowers);
        dirs.lowers = dirs.lowers[..seen].into();
        Ok(Tree {
            table: Table::new(dirs, top.st_ino),
            held: Held::new(most),
            pages: Pages::default(),
            work: layers.work,
            proc,
            volatile: layers.volatile,
            owners: Arc::new(Owners::new(layers.owners)),
            firsts: None,
            links: Links::default(),
            device: top.st_dev,
            serial: AtomicU64::new(0),
        })
    }

    /// A name in the work directory that nothing has.
    pub(super) fn temporary(&self) -> std::ffi::CString {
        let serial = self.serial.fetch_add(1, Relaxed);
        std::ffi::CString::new(format!("#{serial:x}")).unwrap_or_default()
    }

    /// Looks a name up. What it stands for does not change meanwhile.
    pub(super) fn lookup(&self, parent: &Arc<Node>, name: &CStr) -> Result<Option<Found>> {
        let _names = parent.read_names();
        self.lookup_locked(parent, name)
    }

    /// The same for who has `names` already.
    pub(super) fn lookup_locked(&self, parent: &Arc<Node>, name: &CStr) -> Result<Option<Found>> {
        let dirs = parent.dirs()?;
        if let Some(upper) = &dirs.upper {
            match upper.entry(name, &self.held)? {
                Entry::Whiteout => return Ok(None),
                Entry::Present(stat) if is_dir(&stat) => {
                    return self.merge(parent, name, &dirs, None, stat).map(Some);
                }
                Entry::Present(stat) => {
                    return self.upper_file(parent, name, &dirs, stat).map(Some);
                }
                Entry::Absent => {}
            }
        }
        for (index, lower) in dirs.lowers.iter().enumerate() {
            match lower.entry(name, &self.held)? {
                Entry::Whiteout => return Ok(None),
                Entry::Present(stat) if is_dir(&stat) => {
                    return self.merge(parent, name, &dirs, Some(index), stat).map(Some);
                }
                Entry::Present(stat) => {
                    let source = Source::Lower(u16::try_from(index).map_err(|_| Errno::OVERFLOW)?);
                    let ino = self.number(&stat);
                    let real = match is_linked(&stat) && self.firsts.is_none() {
                        true => By::Links(ino, source),
                        false => By::Name,
                    };
                    let node = self.table.intern(parent, name, real, |id| {
                        Node::new(id, ino, kind(&stat), None, file(source, None))
                    });
                    return Ok(Some(found(node, stat, false)));
                }
                Entry::Absent => {}
            }
        }
        Ok(None)
    }

    fn upper_file(
        &self,
        parent: &Arc<Node>,
        name: &CStr,
        dirs: &Dirs,
        stat: Stat,
    ) -> Result<Found> {
        let by = By::Upper(stat.st_ino);
        if let Some(node) = self.table.find(parent, name, by) {
            return Ok(found(node, stat, false));
        }
        let mut ino = stat.st_ino;
        for lower in dirs.lowers.iter() {
            match lower.entry(name, &self.held)? {
                Entry::Absent => continue,
                Entry::Present(below) if kind(&below) == kind(&stat) && below.st_nlink == 1 => {
                    ino = self.number(&below);
                }
                _ => {}
            }
            break;
        }
        let node = self.table.intern(parent, name, by, |id| {
            Node::new(id, ino, kind(&stat), None, file(Source::Upper, None))
        });
        Ok(found(node, stat, false))
    }

    /// A directory whose topmost part is in the upper directory or in a lower one.
    fn merge(
        &self,
        parent: &Arc<Node>,
        name: &CStr,
        dirs: &Dirs,
        first: Option<usize>,
        stat: Stat,
    ) -> Result<Found> {
        let by = match first {
            None => By::Upper(stat.st_ino),
            Some(_) => By::Name,
        };
        if let Some(node) = self.table.find(parent, name, by) {
            let merged = node.dirs()?.are_merged();
            return Ok(found(node, stat, merged));
        }
        let upper = match (&dirs.upper, first) {
            (Some(upper), None) => Some(upper.child(name, &self.held)?),
            _ => None,
        };
        let mut ino = None;
        let mut lowers = Vec::new();
        if !upper.as_ref().is_some_and(|upper| upper.opaque) {
            for lower in &dirs.lowers[first.unwrap_or(0)..] {
                match lower.entry(name, &self.held)? {
                    Entry::Absent => continue,
                    Entry::Present(below) if is_dir(&below) => {
                        ino = ino.or(Some(self.number(&below)));
                        lowers.push(lower.child(name, &self.held)?);
                    }
                    _ => break,
                }
                if lowers.last().is_some_and(|lower| lower.opaque) {
                    break;
                }
            }
        }
        let real = Dirs::new(upper, lowers);
        let merged = real.are_merged();
        let ino = ino.unwrap_or(stat.st_ino);
        let node = self.table.intern(parent, name, by, |id| {
            let real = Real::Dir(Box::new(real));
            Node::new(id, ino, FileType::Directory, None, real)
        });
        Ok(found(node, stat, merged))
    }

    /// The number to show for a real file.
    pub(super) fn number(&self, stat: &Stat) -> u64 {
        if stat.st_dev == self.device {
            stat.st_ino
        } else {
            // The upper half of the numbers, which few filesystems use.
            (stat.st_ino ^ stat.st_dev.rotate_right(16)) | 1 << 63
        }
    }

    /// A file's attributes as they are now.
    pub(super) fn attr(&self, node: &Arc<Node>) -> Result<Attr> {
        if node.is_dir() {
            let stat = fstat(&*node.dirs()?.top()?.fd(&self.held)?)?;
            return self.shown(node, stat);
        }
        let stat = self.at_real(node, |located| match located {
            Located::Held(_, handle) => fstat(&handle.fd),
            Located::At(_, dir, place) => {
                let dir = dir.fd(&self.held)?;
                statat(&*dir, &*place.name, AtFlags::SYMLINK_NOFOLLOW)
            }
        })?;
        Ok(shown(node, stat, false))
    }

    /// The attributes of which the real file's are these.
    pub(super) fn shown(&self, node: &Arc<Node>, stat: Stat) -> Result<Attr> {
        let merged = node.is_dir() && node.dirs()?.are_merged();
        Ok(shown(node, stat, merged))
    }

    /// Does something where a file really is; once more if its name was changed meanwhile.
    pub(super) fn at_real<T>(
        &self,
        node: &Arc<Node>,
        mut act: impl FnMut(&Located) -> Result<T>,
    ) -> Result<T> {
        loop {
            let located = node.located()?;
            match (act(&located), &located) {
                (Err(Errno::NOENT | Errno::STALE), Located::At(_, _, place)) => {
                    let same = node.place().is_some_and(|now| {
                        Arc::ptr_eq(&now.parent, &place.parent) && now.name == place.name
                    });
                    if same && matches!(node.located()?, Located::At(..)) {
                        return Err(Errno::STALE);
                    }
                }
                (result, _) => return result,
            }
        }
    }

    /// A descriptor of a file that is no directory, good for `need`. To write, the file is to be
    /// in the upper directory.
    pub(super) fn handle(&self, node: &Arc<Node>, need: Access) -> Result<Arc<Handle>> {
        if need > Access::Path && node.kind != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        let flags = OFlags::CLOEXEC
            | match need {
                Access::Path => OFlags::PATH,
                Access::Read => OFlags::RDONLY,
                Access::Write => OFlags::RDWR,
            };
        loop {
            let mut of = Source::Upper;
            let fd = self.at_real(node, |located| match located {
                Located::Held(source, handle) => {
                    of = *source;
                    if handle.access >= need {
                        return Ok(Err(handle.clone()));
                    }
                    self.reopen(&handle.fd, flags).map(Ok)
                }
                Located::At(source, dir, place) => {
                    of = *source;
                    let dir = dir.fd(&self.held)?;
                    let flags = flags | OFlags::NOFOLLOW;
                    openat(&*dir, &*place.name, flags, Mode::empty()).map(Ok)
                }
            })?;
            let fd = match fd {
                Ok(fd) => fd,
                Err(known) => return Ok(known),
            };
            if need == Access::Write && of != Source::Upper {
                return Err(Errno::ROFS);
            }
            let handle = Arc::new(Handle { fd, access: need });
            if node.keep(of, &handle) {
                self.held.add(Holder::Node(Arc::downgrade(node)));
                return Ok(handle);
            }
        }
    }

    /// Opens what a descriptor stands for once more.
    pub(super) fn reopen(&self, fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
        openat(&self.proc, &*self.link(fd), flags, Mode::empty())
    }

    /// The name in [`Tree::proc`] that leads to what a descriptor stands for.
    pub(super) fn link(&self, fd: impl AsFd) -> String {
        fd.as_fd().as_raw_fd().to_string()
    }

    /// A path by which attributes of what a descriptor stands for are reached, whatever it is.
    pub(super) fn path(&self, fd: impl AsFd) -> String {
        format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
    }

    /// Serialises copies of one file.
    pub(super) fn copying<'a>(&self, node: &'a Node) -> MutexGuard<'a, ()> {
        lock(&node.copying)
    }
}

pub(super) fn file(source: Source, handle: Option<Arc<Handle>>) -> Real {
    Real::File { source, handle }
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(super) fn is_dir(stat: &Stat) -> bool {
    kind(stat) == FileType::Directory
}

fn found(node: Arc<Node>, stat: Stat, merged: bool) -> Found {
    let attr = shown(&node, stat, merged);
    Found { node, attr }
}

/// A merged directory counts no subdirectories, by which programs know not to rely on it.
pub(super) fn shown(node: &Node, stat: Stat, merged: bool) -> Attr {
    let nlink = if merged {
        1
    } else {
        u32::try_from(stat.st_nlink).unwrap_or(u32::MAX)
    };
    Attr {
        stat,
        ino: node.ino,
        nlink,
    }
}

/// Where a file is, if anywhere.
pub(super) fn is_at(place: Option<&Place>, parent: &Arc<Node>, name: &CStr) -> bool {
    place.is_some_and(|place| Arc::ptr_eq(&place.parent, parent) && *place.name == *name)
}
