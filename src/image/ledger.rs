//! What a layer's tree holds so far, in memory.
//!
//! The unpacker makes every entry itself, in a directory that nobody else has a name for, so it
//! can know the tree without asking: whether a name is taken, what by, and where a path leads.
//! Paths are resolved here, links included and `..` held at the root, exactly as a process whose
//! root the layer is would resolve them; the kernel is only ever given one name in one open
//! directory, and follows nothing. It also saves a `stat` an entry.
//!
//! Memory: about 100 bytes an entry and its name; the sum of names and link targets is bounded by
//! whoever calls ([`Ledger::bytes`]).

use std::collections::HashMap;
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
    Directory {
        children: HashMap<Rc<[u8]>, Id>,
        /// `None` where no entry of the archive described it.
        attributes: Option<Attributes>,
        /// Hides the same directory of the layers below.
        opaque: bool,
    },
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

#[derive(Debug)]
struct Node {
    parent: Id,
    name: Rc<[u8]>,
    /// Bytes of the path from the root.
    path: u32,
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
    /// Sum of names and link targets that were ever put in.
    pub(crate) bytes: u64,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        let root = Node {
            parent: ROOT,
            name: Rc::from(&b""[..]),
            path: 0,
            body: Body::directory(),
        };
        Self {
            nodes: vec![root],
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

    pub(crate) fn name(&self, id: Id) -> Rc<[u8]> {
        Rc::clone(&self.nodes[id as usize].name)
    }

    /// The entry `name` of the directory `dir`.
    pub(crate) fn child(&self, dir: Id, name: &[u8]) -> Option<Id> {
        match self.body(dir) {
            Body::Directory { children, .. } => children.get(name).copied(),
            _ => None,
        }
    }

    /// The entries of the directory `dir`.
    pub(crate) fn children(&self, dir: Id) -> Vec<Id> {
        match self.body(dir) {
            Body::Directory { children, .. } => children.values().copied().collect(),
            _ => Vec::new(),
        }
    }

    /// Adds an entry where none is; `None` where its path would be too long.
    pub(crate) fn add(&mut self, dir: Id, name: &[u8], body: Body) -> Option<Id> {
        let path = self.nodes[dir as usize].path + name.len() as u32 + 1;
        let id = Id::try_from(self.nodes.len()).ok()?;
        if path as usize > PATH_MAX {
            return None;
        }
        self.bytes += name.len() as u64;
        if let Body::Symlink { target } = &body {
            self.bytes += target.len() as u64;
        }
        let name: Rc<[u8]> = Rc::from(name);
        if let Body::Directory { children, .. } = self.body_mut(dir) {
            children.insert(Rc::clone(&name), id);
        }
        self.nodes.push(Node {
            parent: dir,
            name,
            path,
            body,
        });
        Some(id)
    }

    /// Takes an entry and everything below it out; answers the removed files that were at home.
    pub(crate) fn remove(&mut self, id: Id) -> Vec<(Id, u64)> {
        let name = self.name(id);
        let parent = self.parent(id);
        if let Body::Directory { children, .. } = self.body_mut(parent) {
            children.remove(&name);
        }
        let (mut files, mut rest) = (Vec::new(), vec![id]);
        while let Some(id) = rest.pop() {
            match std::mem::replace(self.body_mut(id), Body::Gone) {
                Body::Directory { children, .. } => rest.extend(children.into_values()),
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
                Body::Directory { .. } => at = child,
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
        Self::Directory {
            children: HashMap::new(),
            attributes: None,
            opaque: false,
        }
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
