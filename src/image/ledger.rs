//! What a layer's tree holds so far, in memory.
//!
//! The unpacker makes every entry itself, in a directory that nobody else has a name for, so it
//! can know the tree without asking: whether a name is taken, what by, and where a path leads.
//! Paths are resolved here, links included and `..` held at the root, exactly as a process whose
//! root the layer is would resolve them; the kernel is only ever given one name in one open
//! directory, and follows nothing. It also saves a `stat` an entry.
//!
//! Memory: about 60 bytes an entry and its name, whatever the entries are: a layer may have a
//! million, and several are unpacked at once. So there is one table for all directories, which holds
//! nothing but places, and one store of names. What is removed stays in it, marked. The sum of names
//! and link targets is bounded by whoever calls ([`Ledger::bytes`]).

use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;

/// An entry's place in the ledger.
pub(crate) type Id = u32;

/// The layer's root.
pub(crate) const ROOT: Id = 0;

/// Longest path, from the root, in bytes (the kernel's PATH_MAX).
pub(crate) const PATH_MAX: usize = 4096;
/// Longest name of one entry.
pub(crate) const NAME_MAX: usize = 255;
/// Most links followed in one path (the kernel's number).
const LINKS_MAX: u32 = 40;

/// Final attributes of a directory, given to it when everything in it is done.
#[derive(Debug, Clone)]
pub(crate) struct Attributes {
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    pub(crate) mode: u32,
    pub(crate) mtime: (i64, u32),
}

/// What an entry is.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Directory(Box<Directory>),
    /// A file made by the archive's entry with this number. `home` is whether its content is
    /// looked for under this name.
    File {
        entry: u64,
        home: bool,
    },
    Symlink {
        target: Rc<[u8]>,
    },
    Fifo,
    Whiteout,
    /// A device: known, but not in the tree.
    LeftOut,
    /// Removed.
    Gone,
}

/// What is known of a directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Directory {
    /// `None` where no entry of the archive described it.
    pub(crate) attributes: Option<Attributes>,
    /// Hides the same directory of the layers below.
    pub(crate) opaque: bool,
    /// The entry that was put in last; [`ROOT`] where none was.
    last: Id,
}

#[derive(Debug)]
struct Node {
    parent: Id,
    /// The entry that was put into the same directory before; [`ROOT`] where none was.
    before: Id,
    /// Where its name begins in [`Ledger::names`].
    name: u32,
    length: u8,
    /// Bytes of the path from the root.
    path: u16,
    body: Body,
}

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Walk {
    /// To this directory.
    Directory(Id),
    /// To `missing`, one after the other, below this directory.
    Missing { at: Id, missing: Vec<Vec<u8>> },
    /// To a whiteout, with this much of the path behind it.
    Whiteout { id: Id, missing: Vec<Vec<u8>> },
    /// Through something that is no directory.
    NotDirectory,
    /// Through a link whose target is not there.
    Dangling,
    /// Through too many links.
    Loop,
}

/// The tree.
#[derive(Debug)]
pub(crate) struct Ledger {
    nodes: Vec<Node>,
    /// All names, one after the other.
    names: Vec<u8>,
    /// Entries by directory and name: at the place that both hash to, or at the next ones where that
    /// is taken; [`ROOT`] where none is. A power of two, filled to three quarters at most.
    table: Vec<Id>,
    hashing: RandomState,
    /// Sum of names and link targets that were ever put in.
    pub(crate) bytes: u64,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        let root = Node {
            parent: ROOT,
            before: ROOT,
            name: 0,
            length: 0,
            path: 0,
            body: Body::directory(),
        };
        Self {
            nodes: vec![root],
            names: Vec::new(),
            table: vec![ROOT; 64],
            hashing: RandomState::new(),
            bytes: 0,
        }
    }

    /// How many entries were ever put in, the root not counted.
    pub(crate) fn entries(&self) -> u64 {
        self.nodes.len() as u64 - 1
    }

    pub(crate) fn body(&self, id: Id) -> &Body {
        &self.nodes[id as usize].body
    }

    pub(crate) fn body_mut(&mut self, id: Id) -> &mut Body {
        &mut self.nodes[id as usize].body
    }

    pub(crate) fn parent(&self, id: Id) -> Id {
        self.nodes[id as usize].parent
    }

    pub(crate) fn name(&self, id: Id) -> &[u8] {
        let node = &self.nodes[id as usize];
        &self.names[node.name as usize..][..node.length.into()]
    }

    /// The entry `name` of the directory `dir`.
    pub(crate) fn child(&self, dir: Id, name: &[u8]) -> Option<Id> {
        let found = self.table[self.slot(dir, name)];
        (found != ROOT && !matches!(self.body(found), Body::Gone)).then_some(found)
    }

    /// The entries of the directory `dir`.
    pub(crate) fn children(&self, dir: Id) -> Vec<Id> {
        let Body::Directory(directory) = self.body(dir) else {
            return Vec::new();
        };
        self.listed(directory)
    }

    fn listed(&self, directory: &Directory) -> Vec<Id> {
        let (mut listed, mut next) = (Vec::new(), directory.last);
        while next != ROOT {
            let node = &self.nodes[next as usize];
            if !matches!(node.body, Body::Gone) {
                listed.push(next);
            }
            next = node.before;
        }
        listed
    }

    /// Where the table has an entry, there or gone, or could have it. What is gone gives its place
    /// to the next of its name: else one that is replaced over and over would be ever longer looked
    /// for.
    fn slot(&self, dir: Id, name: &[u8]) -> usize {
        let mask = self.table.len() - 1;
        let mut at = self.hashing.hash_one((dir, name)) as usize & mask;
        loop {
            let id = self.table[at];
            if id == ROOT || self.parent(id) == dir && self.name(id) == name {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    /// Makes the table twice as large, without what was removed.
    fn grow(&mut self) {
        self.table = vec![ROOT; self.table.len() * 2];
        for id in 1..self.nodes.len() as Id {
            let node = &self.nodes[id as usize];
            if !matches!(node.body, Body::Gone) {
                let slot = self.slot(node.parent, self.name(id));
                self.table[slot] = id;
            }
        }
    }

    /// Adds an entry where none is; `None` where its path would be too long, or there are more than
    /// can be told apart.
    pub(crate) fn add(&mut self, dir: Id, name: &[u8], body: Body) -> Option<Id> {
        let parent = &self.nodes[dir as usize];
        let path = usize::from(parent.path) + name.len() + 1;
        let id = Id::try_from(self.nodes.len()).ok()?;
        let (start, length) = (u32::try_from(self.names.len()).ok()?, name.len().try_into());
        if path > PATH_MAX {
            return None;
        }
        let node = Node {
            parent: dir,
            before: match &parent.body {
                Body::Directory(directory) => directory.last,
                _ => ROOT,
            },
            name: start,
            length: length.ok()?,
            path: path.try_into().ok()?,
            body,
        };
        self.bytes += name.len() as u64;
        if let Body::Symlink { target } = &node.body {
            self.bytes += target.len() as u64;
        }
        if self.nodes.len() >= self.table.len() / 4 * 3 {
            self.grow();
        }
        let slot = self.slot(dir, name);
        self.table[slot] = id;
        self.names.extend_from_slice(name);
        self.nodes.push(node);
        if let Body::Directory(directory) = self.body_mut(dir) {
            directory.last = id;
        }
        Some(id)
    }

    /// Takes an entry and everything below it out; answers the removed files that were at home.
    pub(crate) fn remove(&mut self, id: Id) -> Vec<(Id, u64)> {
        let (mut files, mut rest) = (Vec::new(), vec![id]);
        while let Some(id) = rest.pop() {
            match std::mem::replace(self.body_mut(id), Body::Gone) {
                Body::Directory(directory) => rest.extend(self.listed(&directory)),
                Body::File { entry, home: true } => files.push((id, entry)),
                _ => {}
            }
        }
        files
    }

    /// The path from the root, without a slash before it.
    pub(crate) fn path(&self, mut id: Id) -> Vec<u8> {
        let mut names = Vec::new();
        while id != ROOT {
            names.push(self.name(id));
            id = self.parent(id);
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Follows `path` (of directories) from the root.
    pub(crate) fn walk(&self, path: &[&[u8]]) -> Walk {
        // What is still to be followed, the next last, and whether a link's target said so.
        let mut rest: Vec<(Vec<u8>, bool)> = path
            .iter()
            .rev()
            .map(|name| (name.to_vec(), false))
            .collect();
        let (mut at, mut links) = (ROOT, 0);
        while let Some((name, from_link)) = rest.pop() {
            if name == b".." {
                at = self.parent(at);
                continue;
            }
            let Some(child) = self.child(at, &name) else {
                if from_link || rest.iter().any(|(_, from_link)| *from_link) {
                    return Walk::Dangling;
                }
                let mut missing = vec![name];
                missing.extend(rest.into_iter().rev().map(|(name, _)| name));
                return Walk::Missing { at, missing };
            };
            match self.body(child) {
                Body::Directory(_) => at = child,
                Body::Symlink { target } => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Walk::Loop;
                    }
                    if target.first() == Some(&b'/') {
                        at = ROOT;
                    }
                    let names = target.split(|b| *b == b'/');
                    let names = names.filter(|name| !matches!(*name, b"" | b"."));
                    let names: Vec<_> = names.map(|name| (name.to_vec(), true)).collect();
                    rest.extend(names.into_iter().rev());
                }
                Body::Whiteout if !from_link => {
                    let missing = rest.into_iter().rev().map(|(name, _)| name).collect();
                    return Walk::Whiteout { id: child, missing };
                }
                _ => return Walk::NotDirectory,
            }
        }
        Walk::Directory(at)
    }
}

impl Body {
    /// A directory with nothing in it.
    pub(crate) fn directory() -> Self {
        Self::Directory(Box::default())
    }
}

/// Splits an entry's name as a process in the layer's root would read it after Go's
/// `filepath.Clean`: `.` and empty names dropped, `..` taken back, held at the root.
pub(crate) fn clean(name: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    let mut names: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            _ if part.len() > NAME_MAX => return Err("file name too long"),
            _ if part.contains(&0) => return Err("the name holds a NUL byte"),
            _ => names.push(part),
        }
    }
    let length: usize = names.iter().map(|part| part.len() + 1).sum();
    if length > PATH_MAX {
        return Err("file name too long");
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned() {
        let cases: &[(&[u8], &[&[u8]])] = &[
            (b"./a//b/", &[b"a", b"b"]),
            (b"/../../a", &[b"a"]),
            (b"a/../../b", &[b"b"]),
            (b".", &[]),
            (b"..", &[]),
            (b"...", &[b"..."]),
        ];
        for (name, parts) in cases {
            assert_eq!(clean(name).unwrap(), *parts);
        }
        assert!(clean(&[b'a'; 256]).is_err());
        assert!(clean(&b"a/".repeat(2049)).is_err());
        assert!(clean(b"a\0b").is_err());
    }

    #[test]
    fn many_come_and_go() {
        assert!(size_of::<Node>() <= 40);
        let mut tree = Ledger::new();
        let file = |entry| Body::File { entry, home: true };
        let dirs: Vec<Id> = (0..10)
            .map(|at| tree.add(ROOT, format!("d{at}").as_bytes(), Body::directory()))
            .collect::<Option<_>>()
            .unwrap();
        let name = |at: u64| format!("f{}", at / 10).into_bytes();
        let dir = |at: u64| dirs[at as usize % 10];
        for at in 0..1000 {
            assert_eq!(tree.child(dir(at), &name(at)), None);
            let id = tree.add(dir(at), &name(at), file(at)).unwrap();
            assert_eq!(tree.child(dir(at), &name(at)), Some(id));
        }
        // Each is replaced, over and over.
        for round in 1..20 {
            for at in 0..1000 {
                let old = tree.child(dir(at), &name(at)).unwrap();
                assert_eq!(tree.remove(old), [(old, at + 1000 * (round - 1))]);
                assert_eq!(tree.child(dir(at), &name(at)), None);
                tree.add(dir(at), &name(at), file(at + 1000 * round))
                    .unwrap();
            }
        }
        assert_eq!(tree.entries(), 10 + 20 * 1000);
        for dir in &dirs {
            assert_eq!(tree.children(*dir).len(), 100);
        }
        // And with its directory.
        let mut gone = tree.remove(dirs[3]);
        gone.sort_unstable();
        assert_eq!(gone.len(), 100);
        assert_eq!(tree.child(dirs[3], b"f5"), None);
        assert_eq!(tree.children(ROOT).len(), 9);
        let again = tree.add(ROOT, b"d3", Body::directory()).unwrap();
        assert!(tree.children(again).is_empty());
        assert_eq!(tree.path(tree.child(dirs[4], b"f5").unwrap()), b"d4/f5");
    }

    #[test]
    fn links_are_followed_inside_the_root() {
        let mut tree = Ledger::new();
        let usr = tree.add(ROOT, b"usr", Body::directory()).unwrap();
        let lib = tree.add(usr, b"lib", Body::directory()).unwrap();
        let link = |target: &[u8]| Body::Symlink {
            target: Rc::from(target),
        };
        tree.add(ROOT, b"lib", link(b"usr/lib")).unwrap();
        tree.add(lib, b"up", link(b"../../../../usr")).unwrap();
        tree.add(ROOT, b"loop", link(b"loop")).unwrap();
        tree.add(ROOT, b"dangling", link(b"/none")).unwrap();
        tree.add(ROOT, b"file", Body::Fifo).unwrap();
        assert_eq!(tree.walk(&[b"lib"]), Walk::Directory(lib));
        assert_eq!(tree.walk(&[b"lib", b"up", b"lib"]), Walk::Directory(lib));
        let missing = vec![b"x".to_vec(), b"y".to_vec()];
        assert_eq!(
            tree.walk(&[b"lib", b"x", b"y"]),
            Walk::Missing { at: lib, missing }
        );
        assert_eq!(tree.walk(&[b"loop"]), Walk::Loop);
        assert_eq!(tree.walk(&[b"dangling", b"x"]), Walk::Dangling);
        assert_eq!(tree.walk(&[b"file", b"x"]), Walk::NotDirectory);
        assert_eq!(tree.path(lib), b"usr/lib");
    }
}
