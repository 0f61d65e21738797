//! The inode table: the files that the kernel knows, by the numbers that it knows them by.
//!
//! A [`Node`] is there from the kernel's first lookup to its last FORGET; while it has children in
//! the table, each counts as a lookup, so that a child's parent is the one that lookups find.
//! Indices find a node again: by parent and name (its *place*), by the number of its inode in the
//! upper directory, and by that of a layer's inode with several names: under the latter the names of a
//! hard-linked file meet.
//!
//! A deep `find` through a large image may leave a million nodes. So the indices hold nothing but where in
//! the table a node is: what they go by is in the node itself.

use std::ffi::CStr;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

use hashbrown::HashTable;
use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use super::dir::lock;
use super::node::{Dirs, Node, Place, Real, Source};

/// The root's number, by the protocol.
pub(super) const ROOT: u64 = 1;

/// What makes a file under some name one that is known.
#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    /// The name.
    Name,
    /// Its inode in the upper directory.
    Upper(u64),
    /// Its inode in a layer, where it has several names: the number that is shown; and where it is
    /// by this one.
    Links(u64, Source),
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
    /// By the lower half of their number, less one.
    nodes: Vec<Option<Arc<Node>>>,
    /// Indices of `nodes` that are free, or were so once.
    free: Vec<u32>,
    /// How many there are.
    count: usize,
    /// Upper half of the last number given: none comes again before four billion others.
    generation: u32,
    /// By the hash of parent and name; all of them have a place.
    names: HashTable<u32>,
    /// By the hash of their inode's number in the upper directory; all of them have one.
    uppers: HashTable<u32>,
    /// Files of layers with several names, by the hash of the number that is shown.
    links: HashTable<u32>,
    /// The table's own.
    hasher: RandomState,
}

/// The index of `nodes` that a number stands for.
fn index(id: u64) -> u32 {
    (id as u32).wrapping_sub(1)
}

type Nodes = [Option<Arc<Node>>];

/// The inode number in the upper directory of the node at an index; 0 for none.
fn upper(nodes: &Nodes, index: u32) -> u64 {
    let node = nodes.get(index as usize).and_then(Option::as_ref);
    node.map_or(0, |node| node.upper.load(Relaxed))
}

/// The inode number that is shown for the node at an index; 0 for none.
fn shown(nodes: &Nodes, index: u32) -> u64 {
    let node = nodes.get(index as usize).and_then(Option::as_ref);
    node.map_or(0, |node| node.ino)
}

fn is_at(nodes: &Nodes, index: u32, parent: &Arc<Node>, name: &CStr) -> bool {
    let node = nodes.get(index as usize).and_then(Option::as_ref);
    node.is_some_and(|node| {
        let state = lock(&node.state);
        state
            .place
            .as_ref()
            .is_some_and(|place| place.is(parent, name))
    })
}

/// The hash that the node at an index is found by in [`Maps::names`].
fn name_hash(nodes: &Nodes, hasher: &RandomState, index: u32) -> u64 {
    let node = nodes.get(index as usize).and_then(Option::as_ref);
    let Some(node) = node else { return 0 };
    let state = lock(&node.state);
    state
        .place
        .as_ref()
        .map_or(0, |place| hasher.hash_one((place.parent.id, &*place.name)))
}

impl Maps {
    fn at(&self, index: u32) -> Option<&Arc<Node>> {
        self.nodes.get(index as usize)?.as_ref()
    }

    fn node(&self, id: u64) -> Option<&Arc<Node>> {
        self.at(index(id)).filter(|node| node.id == id)
    }

    fn named(&self, hash: u64, parent: &Arc<Node>, name: &CStr) -> Option<&Arc<Node>> {
        let index = self
            .names
            .find(hash, |index| is_at(&self.nodes, *index, parent, name))?;
        self.at(*index)
    }

    fn of_upper(&self, ino: u64) -> Option<&Arc<Node>> {
        let hash = self.hasher.hash_one(ino);
        let index = self
            .uppers
            .find(hash, |index| upper(&self.nodes, *index) == ino)?;
        self.at(*index)
    }

    fn of_links(&self, ino: u64) -> Option<&Arc<Node>> {
        let index = self.links.find(self.hasher.hash_one(ino), |index| {
            shown(&self.nodes, *index) == ino
        })?;
        self.at(*index)
    }

    fn known(&self, hash: u64, parent: &Arc<Node>, name: &CStr, by: By) -> Option<&Arc<Node>> {
        match by {
            By::Name => self.named(hash, parent, name),
            By::Upper(ino) => self.of_upper(ino),
            By::Links(ino, _) => self.of_links(ino),
        }
    }

    fn add(&mut self, make: impl FnOnce(u64) -> Node) -> Arc<Node> {
        let is_free = |index: &u32| matches!(self.nodes.get(*index as usize), Some(None));
        let index = loop {
            match self.free.pop() {
                Some(index) if is_free(&index) => break index,
                // What was behind the last one in use.
                Some(_) => {}
                None => {
                    self.nodes.push(None);
                    break (self.nodes.len() - 1) as u32;
                }
            }
        };
        self.generation = self.generation.wrapping_add(1);
        let id = u64::from(self.generation) << 32 | u64::from(index + 1);
        let node = Arc::new(make(id));
        self.nodes[index as usize] = Some(node.clone());
        self.count += 1;
        node
    }

    /// Takes a node out that has no place.
    fn remove(&mut self, node: &Node) {
        let index = index(node.id);
        self.take_upper(node);
        self.take_links(node);
        self.nodes[index as usize] = None;
        self.free.push(index);
        self.count -= 1;
    }

    /// Gives memory back after many were forgotten.
    fn shrink(&mut self) {
        let few = |used: usize, room: usize| used * 8 < room && room > 1024;
        if few(self.count, self.names.capacity()) {
            let (nodes, hasher) = (&self.nodes, &self.hasher);
            self.names
                .shrink_to(self.count * 2, |index| name_hash(nodes, hasher, *index));
        }
        if few(self.count, self.uppers.capacity()) {
            let (nodes, hasher) = (&self.nodes, &self.hasher);
            self.uppers.shrink_to(self.count * 2, |index| {
                hasher.hash_one(upper(nodes, *index))
            });
        }
        if few(self.count, self.links.capacity()) {
            let (nodes, hasher) = (&self.nodes, &self.hasher);
            self.links.shrink_to(self.count * 2, |index| {
                hasher.hash_one(shown(nodes, *index))
            });
        }
        while let Some(None) = self.nodes.last() {
            self.nodes.pop();
        }
        let length = self.nodes.len();
        if few(length, self.nodes.capacity()) {
            self.nodes.shrink_to(length * 2);
            self.free.retain(|index| (*index as usize) < length);
            self.free.shrink_to_fit();
        }
    }

    /// A node has an inode in the upper directory.
    fn index(&mut self, node: &Node, ino: u64) {
        self.take_upper(node);
        node.upper.store(ino, Relaxed);
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        let entry = self.uppers.entry(
            hasher.hash_one(ino),
            |index| upper(nodes, *index) == ino,
            |index| hasher.hash_one(upper(nodes, *index)),
        );
        entry.insert(index(node.id));
    }

    /// A node is a file of a layer with several names.
    fn index_links(&mut self, node: &Node) {
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        self.links
            .insert_unique(hasher.hash_one(node.ino), index(node.id), |index| {
                hasher.hash_one(shown(nodes, *index))
            });
    }

    fn take_links(&mut self, node: &Node) {
        let hash = self.hasher.hash_one(node.ino);
        let entry = self.links.find_entry(hash, |at| *at == index(node.id));
        if let Ok(entry) = entry {
            entry.remove();
        }
    }

    fn take_upper(&mut self, node: &Node) {
        let hash = self.hasher.hash_one(node.upper.load(Relaxed));
        let entry = self.uppers.find_entry(hash, |at| *at == index(node.id));
        if let Ok(entry) = entry {
            entry.remove();
        }
    }

    /// Gives a node its place; its parent is held by it.
    fn put(&mut self, hash: u64, node: &Arc<Node>, parent: &Arc<Node>, name: &CStr) {
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        let entry = self.names.entry(
            hash,
            |index| is_at(nodes, *index, parent, name),
            |index| name_hash(nodes, hasher, *index),
        );
        // Whoever was there has lost it.
        entry.insert(index(node.id));
        lock(&node.state).place = Some(Place {
            parent: parent.clone(),
            name: name.into(),
        });
        parent.lookups.fetch_add(1, Relaxed);
    }

    /// A name stands for nothing, if it stood for this node.
    fn take(&mut self, hash: u64, node: &Node) {
        let entry = self.names.find_entry(hash, |at| *at == index(node.id));
        if let Ok(entry) = entry {
            entry.remove();
        }
    }
}

impl Table {
    pub(super) fn new(root: Dirs, ino: u64) -> Table {
        let real = Real::Dir(Box::new(root));
        let root = Node::new(ROOT, ino, FileType::Directory, None, real);
        let hasher = RandomState::new();
        Table {
            maps: Mutex::new(Maps {
                nodes: vec![Some(Arc::new(root))],
                free: Vec::new(),
                count: 1,
                generation: 0,
                names: HashTable::new(),
                uppers: HashTable::new(),
                links: HashTable::new(),
                hasher: hasher.clone(),
            }),
            hasher,
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
        maps.node(id).cloned().ok_or(Errno::STALE)
    }

    /// The same, looked up once more.
    pub(super) fn look_again(&self, id: u64) -> Result<Arc<Node>> {
        let maps = lock(&self.maps);
        let node = maps.node(id).cloned().ok_or(Errno::STALE)?;
        node.lookups.fetch_add(1, Relaxed);
        Ok(node)
    }

    /// Its names in the layers are no longer of one file.
    pub(super) fn part(&self, node: &Node) {
        lock(&self.maps).take_links(node);
    }

    /// Whether it is a file of a layer with several names.
    pub(super) fn is_linked(&self, node: &Arc<Node>) -> bool {
        let maps = lock(&self.maps);
        let known = maps.of_links(node.ino);
        known.is_some_and(|known| Arc::ptr_eq(known, node))
    }

    /// The number shown for a name, if it is known.
    pub(super) fn shown(&self, parent: &Arc<Node>, name: &CStr) -> Option<u64> {
        let hash = self.hash(parent, name);
        let maps = lock(&self.maps);
        maps.named(hash, parent, name).map(|node| node.ino)
    }

    /// The node of a name or of an upper inode, looked up once more.
    pub(super) fn find(&self, parent: &Arc<Node>, name: &CStr, by: By) -> Option<Arc<Node>> {
        let hash = self.hash(parent, name);
        let mut maps = lock(&self.maps);
        let node = maps.known(hash, parent, name, by)?.clone();
        node.lookups.fetch_add(1, Relaxed);
        if lock(&node.state).place.is_none() && node.id != ROOT {
            if let By::Links(_, source) = by {
                node.relocate(source);
            }
            maps.put(hash, &node, parent, name);
        }
        Some(node)
    }

    /// The same, or a new node.
    pub(super) fn intern(
        &self,
        parent: &Arc<Node>,
        name: &CStr,
        by: By,
        make: impl FnOnce(u64) -> Node,
    ) -> Arc<Node> {
        if let Some(node) = self.find(parent, name, by) {
            return node;
        }
        let hash = self.hash(parent, name);
        let mut maps = lock(&self.maps);
        // Somebody else was faster.
        if let Some(node) = maps.known(hash, parent, name, by) {
            node.lookups.fetch_add(1, Relaxed);
            return node.clone();
        }
        let node = maps.add(make);
        maps.put(hash, &node, parent, name);
        match by {
            By::Name => {}
            By::Upper(ino) => maps.index(&node, ino),
            By::Links(..) => maps.index_links(&node),
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
        if maps.node(node.id).is_some() {
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
            maps.take(hash, node);
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
        maps.take(old, node);
        maps.put(new, node, to.0, to.1);
        self.release(&mut maps, from.0.clone(), 1);
    }

    /// The kernel forgets so many lookups.
    pub(super) fn forget(&self, id: u64, lookups: u64) {
        let mut maps = lock(&self.maps);
        if let Some(node) = maps.node(id).cloned() {
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
            let place = lock(&node.state).place.clone();
            if let Some(place) = &place {
                maps.take(self.hash(&place.parent, &place.name), &node);
            }
            maps.remove(&node);
            maps.shrink();
            let Some(place) = place else { return };
            (node, lookups) = (place.parent, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(table: &Table, parent: &Arc<Node>, name: &CStr, upper: u64) -> Arc<Node> {
        let real = |_| Real::File {
            source: Source::Upper,
            handle: None,
        };
        table.intern(parent, name, By::Upper(upper), |id| {
            Node::new(id, upper, FileType::RegularFile, None, real(id))
        })
    }

    #[test]
    fn numbers_that_were_forgotten_stand_for_nothing() {
        let table = Table::new(Dirs::new(None, Vec::new()), 1);
        let root = table.get(ROOT).unwrap();
        let old = add(&table, &root, c"a", 7);
        assert!(Arc::ptr_eq(&add(&table, &root, c"b", 7), &old));
        table.forget(old.id, 1);
        assert!(table.get(old.id).is_ok());
        table.forget(old.id, 1);
        assert!(table.get(old.id).is_err());
        let new = add(&table, &root, c"a", 7);
        assert!(new.id != old.id && table.get(old.id).is_err());
        assert!(Arc::ptr_eq(&table.get(new.id).unwrap(), &new));
        for id in [0, u64::MAX, new.id + 1] {
            assert!(table.get(id).is_err());
        }
    }

    #[test]
    fn what_is_forgotten_takes_no_room() {
        let table = Table::new(Dirs::new(None, Vec::new()), 1);
        let root = table.get(ROOT).unwrap();
        let names: Vec<_> = (0..20_000_u64)
            .map(|number| {
                (
                    number + 2,
                    std::ffi::CString::new(number.to_string()).unwrap(),
                )
            })
            .collect();
        let nodes: Vec<_> = names
            .iter()
            .map(|(upper, name)| add(&table, &root, name, *upper))
            .collect();
        for node in nodes.iter().skip(1) {
            table.forget(node.id, 1);
        }
        let maps = lock(&table.maps);
        assert_eq!((maps.count, maps.nodes.len()), (2, 2));
        for capacity in [
            maps.nodes.capacity(),
            maps.names.capacity(),
            maps.free.capacity(),
        ] {
            assert!(capacity < 4096, "{capacity}");
        }
        drop(maps);
        assert_eq!(table.shown(&root, c"0"), Some(2));
        assert_eq!(table.shown(&root, c"1"), None);
        let again = add(&table, &root, c"1", 3);
        assert!(nodes.iter().all(|node| node.id != again.id));
    }
}
