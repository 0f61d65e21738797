//! The inode table: the files that the kernel knows, by the numbers that it knows them by.
//!
//! A [`Node`] is there from the kernel's first lookup to its last FORGET; while it has children in
//! the table, each counts as a lookup, so that a child's parent is the one that lookups find.
//! Two indices find a node again: by parent and name (its *place*), and by the number of its
//! inode in the upper directory, under which the names of a hard-linked file meet.
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

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::ffi::CStr;
use std::hash::BuildHasher;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use super::dir::{Dir, lock};
use super::listing::Listing;

/// The root's number, by the protocol.
pub(super) const ROOT: u64 = 1;

/// A file that the kernel knows.
#[derive(Debug)]
pub(super) struct Node {
    /// Never used again.
    pub(super) id: u64,
    /// The inode number that is shown; stays through copy-up.
    pub(super) ino: u64,
    pub(super) kind: FileType,
    /// Changed under the table's lock, as is `upper`.
    lookups: AtomicU64,
    /// Number of its inode in the upper directory; 0 for none.
    upper: AtomicU64,
    pub(super) copying: Mutex<()>,
    names: RwLock<()>,
    state: Mutex<State>,
}

/// Where a file is in the tree.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) parent: Arc<Node>,
    pub(super) name: Box<CStr>,
}

impl Place {
    fn is(&self, parent: &Arc<Node>, name: &CStr) -> bool {
        Arc::ptr_eq(&self.parent, parent) && *self.name == *name
    }
}

#[derive(Debug)]
struct State {
    place: Option<Place>,
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

/// All nodes.
#[derive(Debug)]
pub(super) struct Table {
    maps: Mutex<Maps>,
    /// Keyed at random: an image cannot make its names collide.
    hasher: RandomState,
}

#[derive(Debug)]
struct Maps {
    nodes: HashMap<u64, Arc<Node>>,
    /// From a hash of parent and name. Of two that collide only the later is found again, and the
    /// earlier gets a second node, as rarely as 64 bits do.
    names: HashMap<u64, u64>,
    /// From inode numbers of the upper directory.
    uppers: HashMap<u64, u64>,
    next: u64,
}

impl Maps {
    fn named(&self, hash: u64, parent: &Arc<Node>, name: &CStr) -> Option<&Arc<Node>> {
        let node = self.nodes.get(self.names.get(&hash)?)?;
        let state = lock(&node.state);
        state
            .place
            .as_ref()
            .is_some_and(|place| place.is(parent, name))
            .then_some(node)
    }
}

impl Table {
    pub(super) fn new(root: Dirs, ino: u64) -> Table {
        let real = Real::Dir(Box::new(root));
        let root = Node::new(ROOT, ino, FileType::Directory, None, real);
        Table {
            maps: Mutex::new(Maps {
                nodes: HashMap::from([(ROOT, Arc::new(root))]),
                names: HashMap::new(),
                uppers: HashMap::new(),
                next: ROOT + 1,
            }),
            hasher: RandomState::new(),
        }
    }

    fn hash(&self, parent: &Node, name: &CStr) -> u64 {
        self.hasher.hash_one((parent.id, name))
    }

    /// A position in a directory that a name has, whatever else is there.
    pub(super) fn position(&self, name: &[u8]) -> u64 {
        self.hasher.hash_one(name) >> 1
    }

    /// The node that the kernel calls by this number.
    pub(super) fn get(&self, id: u64) -> Result<Arc<Node>> {
        let maps = lock(&self.maps);
        maps.nodes.get(&id).cloned().ok_or(Errno::STALE)
    }

    /// The number shown for a name, if it is known.
    pub(super) fn shown(&self, parent: &Arc<Node>, name: &CStr) -> Option<u64> {
        let hash = self.hash(parent, name);
        let maps = lock(&self.maps);
        maps.named(hash, parent, name).map(|node| node.ino)
    }

    /// The node of a name or of an upper inode, looked up once more.
    pub(super) fn find(
        &self,
        parent: &Arc<Node>,
        name: &CStr,
        upper: Option<u64>,
    ) -> Option<Arc<Node>> {
        let hash = self.hash(parent, name);
        let mut maps = lock(&self.maps);
        let node = match upper {
            Some(ino) => maps.nodes.get(maps.uppers.get(&ino)?)?,
            None => maps.named(hash, parent, name)?,
        };
        let node = node.clone();
        node.lookups.fetch_add(1, Relaxed);
        if lock(&node.state).place.is_none() && node.id != ROOT {
            maps.put(hash, &node, parent, name);
        }
        Some(node)
    }

    /// The same, or a new node.
    pub(super) fn intern(
        &self,
        parent: &Arc<Node>,
        name: &CStr,
        upper: Option<u64>,
        make: impl FnOnce(u64) -> Node,
    ) -> Arc<Node> {
        if let Some(node) = self.find(parent, name, upper) {
            return node;
        }
        let hash = self.hash(parent, name);
        let mut maps = lock(&self.maps);
        // Somebody else was faster.
        let known = match upper {
            Some(ino) => maps.uppers.get(&ino).and_then(|id| maps.nodes.get(id)),
            None => maps.named(hash, parent, name),
        };
        if let Some(node) = known {
            node.lookups.fetch_add(1, Relaxed);
            return node.clone();
        }
        let node = maps.add(make);
        maps.put(hash, &node, parent, name);
        if let Some(ino) = upper {
            maps.index(&node, ino);
        }
        node
    }

    /// A new node that has no name.
    pub(super) fn nameless(&self, upper: u64, make: impl FnOnce(u64) -> Node) -> Arc<Node> {
        let mut maps = lock(&self.maps);
        let node = maps.add(make);
        maps.index(&node, upper);
        node
    }

    /// A node has an inode in the upper directory now.
    pub(super) fn copied(&self, node: &Node, upper: u64) {
        let mut maps = lock(&self.maps);
        if maps.nodes.contains_key(&node.id) {
            maps.index(node, upper);
        }
    }

    /// A name is gone. Whoever had it there, and nowhere else, is to hold a descriptor by now.
    pub(super) fn unname(&self, node: &Arc<Node>, parent: &Arc<Node>, name: &CStr) {
        let hash = self.hash(parent, name);
        let mut maps = lock(&self.maps);
        let mut state = lock(&node.state);
        if state.place.as_ref().is_some_and(|p| p.is(parent, name)) {
            state.place = None;
            drop(state);
            maps.names.remove(&hash);
            self.release(&mut maps, parent.clone(), 1);
        }
    }

    /// A name was moved.
    pub(super) fn rename(
        &self,
        node: &Arc<Node>,
        from: (&Arc<Node>, &CStr),
        to: (&Arc<Node>, &CStr),
    ) {
        let (old, new) = (self.hash(from.0, from.1), self.hash(to.0, to.1));
        let mut maps = lock(&self.maps);
        {
            let state = lock(&node.state);
            match &state.place {
                Some(place) if place.is(from.0, from.1) => {}
                _ => return,
            }
        }
        if maps.names.get(&old) == Some(&node.id) {
            maps.names.remove(&old);
        }
        maps.put(new, node, to.0, to.1);
        self.release(&mut maps, from.0.clone(), 1);
    }

    /// The kernel forgets so many lookups.
    pub(super) fn forget(&self, id: u64, lookups: u64) {
        let mut maps = lock(&self.maps);
        if let Some(node) = maps.nodes.get(&id).cloned() {
            self.release(&mut maps, node, lookups);
        }
    }

    fn release(&self, maps: &mut Maps, mut node: Arc<Node>, mut lookups: u64) {
        loop {
            let before = node.lookups.load(Relaxed);
            let left = before.saturating_sub(lookups);
            node.lookups.store(left, Relaxed);
            if left > 0 || node.id == ROOT {
                return;
            }
            maps.nodes.remove(&node.id);
            let upper = node.upper.load(Relaxed);
            if maps.uppers.get(&upper) == Some(&node.id) {
                maps.uppers.remove(&upper);
            }
            maps.shrink();
            let place = lock(&node.state).place.clone();
            let Some(place) = place else { return };
            let hash = self.hash(&place.parent, &place.name);
            if maps.names.get(&hash) == Some(&node.id) {
                maps.names.remove(&hash);
            }
            (node, lookups) = (place.parent, 1);
        }
    }
}

impl Maps {
    fn add(&mut self, make: impl FnOnce(u64) -> Node) -> Arc<Node> {
        let id = self.next;
        self.next += 1;
        let node = Arc::new(make(id));
        self.nodes.insert(id, node.clone());
        node
    }

    fn index(&mut self, node: &Node, upper: u64) {
        node.upper.store(upper, Relaxed);
        self.uppers.insert(upper, node.id);
    }

    /// Gives a node its place; its parent is held by it.
    fn put(&mut self, hash: u64, node: &Arc<Node>, parent: &Arc<Node>, name: &CStr) {
        lock(&node.state).place = Some(Place {
            parent: parent.clone(),
            name: name.into(),
        });
        parent.lookups.fetch_add(1, Relaxed);
        self.names.insert(hash, node.id);
    }

    /// Gives memory back after many were forgotten.
    fn shrink(&mut self) {
        let few = self.nodes.len() * 8 < self.nodes.capacity() && self.nodes.capacity() > 1024;
        if few {
            self.nodes.shrink_to(self.nodes.len() * 2);
            self.names.shrink_to(self.names.len() * 2);
            self.uppers.shrink_to(self.uppers.len() * 2);
        }
    }
}
