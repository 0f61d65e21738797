//! What a layer's tree holds so far.
//!
//! The unpacker makes every entry itself, in a directory that nobody else has a name for, so it
//! can know the tree without asking: whether a name is taken, what by, and where a path leads.
//! Paths are resolved here, links included and `..` held at the root, exactly as a process whose
//! root the layer is would resolve them; the kernel is only ever given one name in one open
//! directory, and follows nothing. It also saves a `stat` an entry.
//!
//! Memory: some 25 bytes an entry and 27 MiB at most, and 16 bytes a directory, whatever their names
//! are: a layer may have millions, and several are unpacked at once. Names are hashed ([`table`]);
//! those of directories, their attributes and the targets of links go to a file ([`spill`]), and so
//! does what is too much of the rest. So entries can be looked up here, but not listed: that the
//! tree on disk can do. The sum of names and link targets is bounded by whoever calls
//! ([`Ledger::bytes`]).

mod spill;
mod table;

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use spill::Spill;
use table::{Table, VALUE_BITS};

/// A directory, by the order in which they came.
pub(crate) type Id = u32;

/// The layer's root.
pub(crate) const ROOT: Id = 0;
/// A directory that is in no tree: what is known of AUFS' own links has its names here.
pub(crate) const LINKS: Id = Id::MAX;

/// Longest path, from the root, in bytes (the kernel's PATH_MAX).
pub(crate) const PATH_MAX: usize = 4096;
/// Longest name of one entry.
pub(crate) const NAME_MAX: usize = 255;
/// Most links followed in one path (the kernel's number).
const LINKS_MAX: u32 = 40;

/// Final attributes of a directory, given to it when everything in it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    pub(crate) mode: u32,
    pub(crate) mtime: (i64, u32),
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Directory(Id),
    /// A file made by the archive's entry with this number. `home` is whether its content is
    /// looked for under this name.
    File {
        entry: u64,
        home: bool,
    },
    Symlink(Target),
    Fifo,
    Whiteout,
    /// A device: known, but not in the tree.
    LeftOut,
}

/// Where the target of a link is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target(u64);

impl Body {
    /// As a value of the table: a number, a flag and the kind. `None` where the number is beyond
    /// all bounds.
    fn pack(self) -> Option<u64> {
        let (number, flag, kind) = match self {
            Self::Directory(id) => (id.into(), false, 1),
            Self::File { entry, home } => (entry, home, 2),
            Self::Symlink(Target(place)) => (place, false, 3),
            Self::Fifo => (0, false, 4),
            Self::Whiteout => (0, false, 5),
            Self::LeftOut => (0, false, 6),
        };
        (number < 1 << (VALUE_BITS - 4)).then_some(number << 4 | u64::from(flag) << 3 | kind)
    }

    fn unpack(value: u64) -> Option<Self> {
        let number = value >> 4;
        Some(match value & 7 {
            1 => Self::Directory(number.try_into().ok()?),
            2 => Self::File {
                entry: number,
                home: value & 8 != 0,
            },
            3 => Self::Symlink(Target(number)),
            4 => Self::Fifo,
            5 => Self::Whiteout,
            6 => Self::LeftOut,
            _ => return None,
        })
    }
}

/// What is known of a directory in memory. Its record in the file: whether an entry of the archive
/// described it (1 byte), its attributes (32), its name.
#[derive(Debug)]
struct Directory {
    /// Its record's place.
    place: u64,
    parent: Id,
    /// Bytes of the path from the root.
    path: u16,
    /// Bytes of the name.
    name: u8,
    flags: u8,
}

/// Hides the same directory of the layers below.
const OPAQUE: u8 = 1;
/// Removed.
const GONE: u8 = 2;

/// Bytes of a record before the name.
const FIXED: usize = 33;

impl Attributes {
    fn record(&self) -> [u8; FIXED] {
        let mut record = [0; FIXED];
        record[0] = 1;
        record[1..9].copy_from_slice(&self.uid.to_le_bytes());
        record[9..17].copy_from_slice(&self.gid.to_le_bytes());
        record[17..21].copy_from_slice(&self.mode.to_le_bytes());
        record[21..29].copy_from_slice(&self.mtime.0.to_le_bytes());
        record[29..].copy_from_slice(&self.mtime.1.to_le_bytes());
        record
    }

    fn of_record(record: &[u8; FIXED]) -> Option<Self> {
        let long = |at: usize| Some(i64::from_le_bytes(record[at..at + 8].try_into().ok()?));
        let short = |at: usize| Some(u32::from_le_bytes(record[at..at + 4].try_into().ok()?));
        if record[0] == 0 {
            return None;
        }
        Some(Self {
            uid: long(1)?,
            gid: long(9)?,
            mode: short(17)?,
            mtime: (long(21)?, short(29)?),
        })
    }
}

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Walk {
    /// To this directory.
    Directory(Id),
    /// To `missing`, one after the other, below this directory.
    Missing { at: Id, missing: Vec<Vec<u8>> },
    /// To a whiteout, the first of these names below this directory, with others behind it.
    Whiteout { at: Id, missing: Vec<Vec<u8>> },
    /// Through something that is no directory.
    NotDirectory,
    /// Through a link whose target is not there.
    Dangling,
    /// Through too many links.
    Loop,
}

/// The tree.
#[derive(Debug)]
pub(crate) struct Ledger<'a> {
    table: Table,
    directories: Vec<Directory>,
    spill: Spill<'a>,
    entries: u64,
    /// The path that was asked for last.
    path: (Id, Vec<u8>),
    /// Sum of names and link targets that were ever put in.
    pub(crate) bytes: u64,
}

impl<'a> Ledger<'a> {
    /// An empty tree. `dir` is where a file may be put.
    pub(crate) fn new(dir: BorrowedFd<'a>) -> io::Result<Self> {
        let mut spill = Spill::new(dir);
        let root = Directory {
            place: spill.push(&[&[0; FIXED]])?,
            parent: ROOT,
            path: 0,
            name: 0,
            flags: 0,
        };
        Ok(Self {
            table: Table::new(),
            directories: vec![root],
            spill,
            entries: 0,
            path: (ROOT, Vec::new()),
            bytes: 0,
        })
    }

    /// How many entries were ever put in, the root not counted.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// The entry `name` of the directory `dir`.
    pub(crate) fn child(&self, dir: Id, name: &[u8]) -> io::Result<Option<Body>> {
        let value = self.table.get(&self.spill, dir, name)?;
        Ok(value.and_then(Body::unpack))
    }

    /// Adds an entry where none is; `None` where its path would be too long, or there are more than
    /// can be told apart.
    pub(crate) fn add(&mut self, dir: Id, name: &[u8], body: Body) -> io::Result<Option<()>> {
        let path = self.directory(dir).map_or(0, |dir| dir.path.into());
        let value = body.pack().filter(|_| path + name.len() < PATH_MAX);
        let Some(value) = value else {
            return Ok(None);
        };
        self.table.set(&mut self.spill, dir, name, value)?;
        self.entries += 1;
        self.bytes += name.len() as u64;
        Ok(Some(()))
    }

    /// Adds a directory where nothing is, as [`Ledger::add`] does.
    pub(crate) fn add_directory(&mut self, dir: Id, name: &[u8]) -> io::Result<Option<Id>> {
        let id = Id::try_from(self.directories.len()).unwrap_or(LINKS);
        let Some(length) = name.len().try_into().ok().filter(|_| id < LINKS) else {
            return Ok(None);
        };
        if self.add(dir, name, Body::Directory(id))?.is_none() {
            return Ok(None);
        }
        let path = self.directory(dir).map_or(0, |dir| dir.path);
        let directory = Directory {
            place: self.spill.push(&[&[0; FIXED], name])?,
            parent: dir,
            path: path + u16::from(length) + 1,
            name: length,
            flags: 0,
        };
        self.directories.push(directory);
        Ok(Some(id))
    }

    /// Keeps what a link points to, for [`Body::Symlink`].
    pub(crate) fn keep(&mut self, target: &[u8]) -> io::Result<Target> {
        self.bytes += target.len() as u64;
        let length = u32::try_from(target.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.spill
            .push(&[&length.to_le_bytes(), target])
            .map(Target)
    }

    fn target(&self, target: Target) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.spill.read(target.0, &mut length)?;
        let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
        self.spill.read(target.0 + 4, &mut bytes)?;
        Ok(bytes)
    }

    /// Takes an entry out. What is below a directory is only beyond reach then.
    pub(crate) fn remove(&mut self, dir: Id, name: &[u8]) -> io::Result<()> {
        self.table.remove(&mut self.spill, dir, name)
    }

    fn directory(&self, id: Id) -> Option<&Directory> {
        self.directories.get(id as usize)
    }

    /// Sets a flag of a directory; whether it was set.
    fn flag(&mut self, id: Id, flag: u8) -> bool {
        let Some(directory) = self.directories.get_mut(id as usize) else {
            return true;
        };
        let before = directory.flags & flag != 0;
        directory.flags |= flag;
        before
    }

    pub(crate) fn parent(&self, id: Id) -> Id {
        self.directory(id)
            .map_or(ROOT, |directory| directory.parent)
    }

    /// A directory's name.
    pub(crate) fn name(&self, id: Id) -> io::Result<Vec<u8>> {
        let directory = self.directory(id).ok_or(io::ErrorKind::NotFound)?;
        let mut name = vec![0; directory.name.into()];
        let place = directory.place + FIXED as u64;
        self.spill.read(place, &mut name)?;
        Ok(name)
    }

    /// The path of a directory's entry from the root, without a slash before it.
    pub(crate) fn path(&mut self, dir: Id, name: &[u8]) -> io::Result<Vec<u8>> {
        if self.path.0 != dir {
            let (mut at, mut names) = (dir, Vec::new());
            while at != ROOT {
                names.push(self.name(at)?);
                at = self.parent(at);
            }
            names.reverse();
            self.path = (dir, names.join(&b'/'));
        }
        let mut path = self.path.1.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Ok(path)
    }

    /// Notes what an entry of the archive says of a directory.
    pub(crate) fn describe(&mut self, id: Id, attributes: &Attributes) -> io::Result<()> {
        match self.directory(id).map(|directory| directory.place) {
            Some(place) => self.spill.replace(place, &attributes.record()),
            None => Ok(()),
        }
    }

    /// What was said last of a directory, if anything was.
    pub(crate) fn attributes(&self, id: Id) -> io::Result<Option<Attributes>> {
        let directory = self.directory(id).ok_or(io::ErrorKind::NotFound)?;
        let mut record = [0; FIXED];
        self.spill.read(directory.place, &mut record)?;
        Ok(Attributes::of_record(&record))
    }

    /// Makes a directory opaque; whether it was.
    pub(crate) fn set_opaque(&mut self, id: Id) -> bool {
        self.flag(id, OPAQUE)
    }

    /// Notes that a directory is no more.
    pub(crate) fn forget(&mut self, id: Id) {
        self.flag(id, GONE);
    }

    /// Whether a directory has been forgotten.
    pub(crate) fn is_gone(&self, id: Id) -> bool {
        self.directory(id)
            .is_none_or(|directory| directory.flags & GONE != 0)
    }

    /// All directories that there ever were, parents before children.
    pub(crate) fn directories(&self) -> Range<Id> {
        // There are never more (see `add_directory`).
        ROOT..Id::try_from(self.directories.len()).unwrap_or(LINKS)
    }

    /// Follows `path` (of directories) from the root.
    pub(crate) fn walk(&self, path: &[&[u8]]) -> io::Result<Walk> {
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
            let Some(child) = self.child(at, &name)? else {
                if from_link || rest.iter().any(|(_, from_link)| *from_link) {
                    return Ok(Walk::Dangling);
                }
                let mut missing = vec![name];
                missing.extend(rest.into_iter().rev().map(|(name, _)| name));
                return Ok(Walk::Missing { at, missing });
            };
            match child {
                Body::Directory(id) => at = id,
                Body::Symlink(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Ok(Walk::Loop);
                    }
                    let target = self.target(target)?;
                    if target.first() == Some(&b'/') {
                        at = ROOT;
                    }
                    let names = target.split(|b| *b == b'/');
                    let names = names.filter(|name| !matches!(*name, b"" | b"."));
                    let names: Vec<_> = names.map(|name| (name.to_vec(), true)).collect();
                    rest.extend(names.into_iter().rev());
                }
                Body::Whiteout if !from_link => {
                    let mut missing = vec![name];
                    missing.extend(rest.into_iter().rev().map(|(name, _)| name));
                    return Ok(Walk::Whiteout { at, missing });
                }
                _ => return Ok(Walk::NotDirectory),
            }
        }
        Ok(Walk::Directory(at))
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
    use std::fs::File;
    use std::os::fd::AsFd;

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
    fn what_is_put_in_is_found() {
        assert!(size_of::<Directory>() <= 16);
        let base = tempfile::tempdir().unwrap();
        let dir = File::open(base.path()).unwrap();
        let mut tree = Ledger::new(dir.as_fd()).unwrap();
        let usr = tree.add_directory(ROOT, b"usr").unwrap().unwrap();
        let lib = tree.add_directory(usr, b"lib").unwrap().unwrap();
        let bodies = [
            Body::File {
                entry: (1 << 40) - 1,
                home: true,
            },
            Body::File {
                entry: 0,
                home: false,
            },
            Body::Symlink(Target(5)),
            Body::Fifo,
            Body::Whiteout,
            Body::LeftOut,
        ];
        for (at, body) in (0..).zip(bodies) {
            tree.add(lib, &[b'a' + at], body).unwrap().unwrap();
            assert_eq!(tree.child(lib, &[b'a' + at]).unwrap(), Some(body));
        }
        let beyond = Body::File {
            entry: 1 << 40,
            home: true,
        };
        assert_eq!(tree.add(lib, b"beyond", beyond).unwrap(), None);
        assert_eq!(tree.child(usr, b"a").unwrap(), None);
        tree.remove(lib, b"a").unwrap();
        assert_eq!(tree.child(lib, b"a").unwrap(), None);
        assert_eq!(tree.entries(), 8);
        assert_eq!(tree.path(lib, b"f").unwrap(), b"usr/lib/f");
        assert_eq!(tree.path(ROOT, b"f").unwrap(), b"f");
        let long = [b'n'; PATH_MAX - 8];
        assert_eq!(tree.add(lib, &long, Body::Fifo).unwrap(), None);

        assert_eq!(tree.attributes(lib).unwrap(), None);
        let attributes = Attributes {
            uid: -1,
            gid: 1 << 40,
            mode: 0o1777,
            mtime: (-5, 999_999_999),
        };
        tree.describe(lib, &attributes).unwrap();
        assert_eq!(tree.attributes(lib).unwrap(), Some(attributes));
        assert_eq!(tree.name(lib).unwrap(), b"lib");
        assert!(!tree.set_opaque(lib) && tree.set_opaque(lib));
        assert_eq!(tree.directories(), 0..3);
        tree.forget(lib);
        assert!(tree.is_gone(lib) && !tree.is_gone(usr));
    }

    #[test]
    fn links_are_followed_inside_the_root() {
        let base = tempfile::tempdir().unwrap();
        let dir = File::open(base.path()).unwrap();
        let mut tree = Ledger::new(dir.as_fd()).unwrap();
        let usr = tree.add_directory(ROOT, b"usr").unwrap().unwrap();
        let lib = tree.add_directory(usr, b"lib").unwrap().unwrap();
        let links: [(Id, &[u8], &[u8]); 4] = [
            (ROOT, b"lib", b"usr/lib"),
            (lib, b"up", b"../../../../usr"),
            (ROOT, b"loop", b"loop"),
            (ROOT, b"dangling", b"/none"),
        ];
        for (dir, name, target) in links {
            let target = tree.keep(target).unwrap();
            tree.add(dir, name, Body::Symlink(target)).unwrap().unwrap();
        }
        tree.add(ROOT, b"file", Body::Fifo).unwrap().unwrap();
        tree.add(lib, b"hidden", Body::Whiteout).unwrap().unwrap();
        let walk = |path: &[&[u8]]| tree.walk(path).unwrap();
        assert_eq!(walk(&[b"lib"]), Walk::Directory(lib));
        assert_eq!(walk(&[b"lib", b"up", b"lib"]), Walk::Directory(lib));
        let missing = vec![b"x".to_vec(), b"y".to_vec()];
        let expected = Walk::Missing { at: lib, missing };
        assert_eq!(walk(&[b"lib", b"x", b"y"]), expected);
        let missing = vec![b"hidden".to_vec(), b"x".to_vec()];
        let expected = Walk::Whiteout { at: lib, missing };
        assert_eq!(walk(&[b"lib", b"hidden", b"x"]), expected);
        assert_eq!(walk(&[b"loop"]), Walk::Loop);
        assert_eq!(walk(&[b"dangling", b"x"]), Walk::Dangling);
        assert_eq!(walk(&[b"file", b"x"]), Walk::NotDirectory);
    }
}
