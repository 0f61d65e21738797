//! The files that the kernel knows, each of them a [`Node`] in the [`table`](super::table).
//!
//! Of a file of a lower layer nothing is held but its place: layers do not change. What loses its last
//! name while the kernel knows it keeps a descriptor instead ([`Handle`]).
//!
//! Locks, in this order: a node's `copying`; its parent's `names`; the table; a node's state. The
//! last two are held for memory's sake only, never across a system call.
//!
//! - `copying`: who copies this file up. Others read on from the layer meanwhile.
//! - `names`: a directory's entries. Read by lookups, written by whatever changes what a name stands
//!   for, so that table and disk agree. Two directories: by ascending id.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use super::dir::{Dir, lock};
use super::listing::Listing;

/// A file that the kernel knows.
#[derive(Debug)]
pub(super) struct Node {
    /// Where in the table, and (upper half) which of those that were there.
    pub(super) id: u64,
    /// The inode number that is shown; stays through copy-up.
    pub(super) ino: u64,
    pub(super) kind: FileType,
    /// Changed under the table's lock, as is `upper`.
    pub(super) lookups: AtomicU64,
    /// Number of its inode in the upper directory; 0 for none.
    pub(super) upper: AtomicU64,
    pub(super) copying: Mutex<()>,
    names: RwLock<()>,
    pub(super) state: Mutex<State>,
}

/// Where a file is in the tree.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) parent: Arc<Node>,
    pub(super) name: Box<CStr>,
}

impl Place {
    pub(super) fn is(&self, parent: &Arc<Node>, name: &CStr) -> bool {
        Arc::ptr_eq(&self.parent, parent) && *self.name == *name
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) place: Option<Place>,
    real: Real,
}

#[derive(Debug)]
pub(super) enum Real {
    /// Anything but a directory.
    File {
        source: Source,
        handle: Option<Arc<Handle>>,
    },
    Dir(Box<Dirs>),
}

/// Where a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Upper,
    /// In one of its parent's lower directories.
    Lower(u16),
}

/// The real directories that make one.
#[derive(Debug, Clone)]
pub(super) struct Dirs {
    pub(super) upper: Option<Arc<Dir>>,
    pub(super) lowers: Arc<[Arc<Dir>]>,
    /// Kept from a reader's first call to its last.
    listing: Option<Arc<Listing>>,
}

impl Dirs {
    pub(super) fn new(upper: Option<Arc<Dir>>, lowers: Vec<Arc<Dir>>) -> Dirs {
        Dirs {
            upper,
            lowers: lowers.into(),
            listing: None,
        }
    }

    /// The one whose attributes are shown.
    pub(super) fn top(&self) -> Result<&Arc<Dir>> {
        let top = self.upper.as_ref().or(self.lowers.first());
        top.ok_or(Errno::STALE)
    }

    pub(super) fn are_merged(&self) -> bool {
        self.lowers.len() + usize::from(self.upper.is_some()) > 1
    }
}

/// An open real file.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) fd: OwnedFd,
    pub(super) access: Access,
}

/// What a descriptor is good for; each for what those before it are, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    /// O_PATH.
    Path,
    Read,
    Write,
}

/// How a file's real one is reached.
#[derive(Debug)]
pub(super) enum Located {
    Held(Source, Arc<Handle>),
    At(Source, Arc<Dir>, Place),
}

impl Node {
    pub(super) fn new(id: u64, ino: u64, kind: FileType, place: Option<Place>, real: Real) -> Node {
        Node {
            id,
            ino,
            kind,
            lookups: AtomicU64::new(1),
            upper: AtomicU64::new(0),
            copying: Mutex::new(()),
            names: RwLock::new(()),
            state: Mutex::new(State { place, real }),
        }
    }

    pub(super) fn read_names(&self) -> RwLockReadGuard<'_, ()> {
        self.names.read().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn write_names(&self) -> RwLockWriteGuard<'_, ()> {
        self.names.write().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    pub(super) fn place(&self) -> Option<Place> {
        lock(&self.state).place.clone()
    }

    /// The directories that it is made of.
    pub(super) fn dirs(&self) -> Result<Dirs> {
        match &lock(&self.state).real {
            Real::Dir(dirs) => Ok(Dirs::clone(dirs)),
            Real::File { .. } => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn is_upper(&self) -> bool {
        match &lock(&self.state).real {
            Real::Dir(dirs) => dirs.upper.is_some(),
            Real::File { source, .. } => *source == Source::Upper,
        }
    }

    /// A directory was copied up.
    pub(super) fn set_upper(&self, upper: Arc<Dir>) {
        if let Real::Dir(dirs) = &mut lock(&self.state).real {
            dirs.upper = Some(upper);
        }
    }

    /// A directory has nothing below it any more.
    pub(super) fn drop_lowers(&self) {
        if let Real::Dir(dirs) = &mut lock(&self.state).real {
            dirs.lowers = Arc::new([]);
        }
    }

    pub(super) fn listing(&self) -> Option<Arc<Listing>> {
        match &lock(&self.state).real {
            Real::Dir(dirs) => dirs.listing.clone(),
            Real::File { .. } => None,
        }
    }

    pub(super) fn set_listing(&self, listing: Option<Arc<Listing>>) {
        if let Real::Dir(dirs) = &mut lock(&self.state).real {
            dirs.listing = listing;
        }
    }

    /// Where a file that is no directory really is.
    pub(super) fn located(&self) -> Result<Located> {
        let (source, place) = {
            let state = lock(&self.state);
            let Real::File { source, handle } = &state.real else {
                return Err(Errno::ISDIR);
            };
            if let Some(handle) = handle {
                return Ok(Located::Held(*source, handle.clone()));
            }
            (*source, state.place.clone().ok_or(Errno::STALE)?)
        };
        let dirs = place.parent.dirs()?;
        let dir = match source {
            Source::Upper => dirs.upper.as_ref(),
            Source::Lower(index) => dirs.lowers.get(usize::from(index)),
        };
        let dir = dir.ok_or(Errno::STALE)?.clone();
        Ok(Located::At(source, dir, place))
    }

    /// A file of a layer is reached by way of another directory, where its place is from now on.
    pub(super) fn relocate(&self, to: Source) {
        if let Real::File { source, .. } = &mut lock(&self.state).real
            && *source != Source::Upper
        {
            *source = to;
        }
    }

    /// Keeps a handle, unless the file was copied up meanwhile.
    pub(super) fn keep(&self, of: Source, new: &Arc<Handle>) -> bool {
        match &mut lock(&self.state).real {
            Real::File { source, handle } if *source == of => {
                *handle = Some(new.clone());
                true
            }
            _ => false,
        }
    }

    /// The file was copied up.
    pub(super) fn set_copied(&self, new: Arc<Handle>) {
        if let Real::File { source, handle } = &mut lock(&self.state).real {
            *source = Source::Upper;
            *handle = Some(new);
        }
    }

    /// Closes the handle if the place leads to the file, too, and nobody uses it now.
    pub(super) fn evict(&self) -> bool {
        let mut state = lock(&self.state);
        let has_place = state.place.is_some();
        let Real::File { handle, .. } = &mut state.real else {
            return true;
        };
        let idle = handle.as_ref().is_none_or(|h| Arc::strong_count(h) == 1);
        let closes = idle && has_place;
        if closes {
            *handle = None;
        }
        closes
    }
}
