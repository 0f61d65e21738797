//! Reading directories.
//!
//! The kernel opens no directory with us, so a reader is known by nothing but the offset at which it
//! goes on. An offset is a hash of the entry's name, under a key of this mount, and entries come
//! in the order of their offsets: whatever is made or removed between two calls, what was there
//! all the time comes exactly once, with millions of entries, too.
//!
//! The whole listing is made for a reader that begins, kept for those that go on, and dropped
//! when one is through. Who goes on later than that makes it again and misses nothing. The last
//! entry's offset says that it is the last, so that to be told so costs no further listing.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, RawDir, openat};
use rustix::io::{Errno, Result};

use super::dir::{Dir, Entry};
use super::node::Node;
use super::tree::Tree;
use super::wire::{Dirent, ENTRY, Reply, dirent_size};

/// Offsets behind the first two entries; those of others are larger.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
const FIRST: u64 = 3;
/// Behind the last entry.
const END: u64 = i64::MAX.unsigned_abs();

/// Bytes read from a real directory at once.
const BATCH: usize = 32 << 10;

/// A directory's entries in order, without the first two.
#[derive(Debug)]
pub(super) struct Listing {
    items: Vec<Item>,
}

#[derive(Debug)]
struct Item {
    position: u64,
    ino: u64,
    kind: u8,
    name: Box<CStr>,
}

impl Tree {
    /// Answers READDIR, or (`plus`) READDIRPLUS, with at most `size` bytes.
    pub(super) fn readdir(
        &self,
        node: &Arc<Node>,
        offset: u64,
        size: usize,
        plus: bool,
        reply: &mut Reply,
    ) -> Result<()> {
        if offset == END {
            return Ok(());
        }
        let dots = [(DOT, &b"."[..]), (DOT_DOT, b"..")];
        let listing = match node.listing() {
            Some(listing) if offset != 0 => listing,
            _ => Arc::new(self.list(node)?),
        };
        if offset == 0 {
            node.set_listing(Some(listing.clone()));
        }
        for (position, name) in dots.into_iter().filter(|(position, _)| *position > offset) {
            let ino = match node.place() {
                Some(place) if position == DOT_DOT => place.parent.ino,
                _ => node.ino,
            };
            let is_last = position == DOT_DOT && listing.items.is_empty();
            let entry = Dirent {
                ino,
                offset: if is_last { END } else { position },
                kind: libc::DT_DIR,
                name,
            };
            if reply.written() + if plus { ENTRY } else { 0 } + dirent_size(name) > size {
                return Ok(());
            }
            if plus {
                reply.put(&[0; ENTRY]);
            }
            reply.dirent(size, &entry);
        }
        let from = listing
            .items
            .partition_point(|item| item.position <= offset);
        let last = listing.items.last().map(|item| item.position);
        for item in &listing.items[from..] {
            let name = item.name.to_bytes();
            let room = if plus { ENTRY } else { 0 } + dirent_size(name);
            if reply.written() + room > size {
                return Ok(());
            }
            let mut entry = Dirent {
                ino: item.ino,
                offset: match last == Some(item.position) {
                    true => END,
                    false => item.position,
                },
                kind: item.kind,
                name,
            };
            if plus {
                match self.lookup(node, &item.name) {
                    Ok(Some(found)) => {
                        entry.ino = found.node.ino;
                        reply.entry(found.node.id, &found.attr);
                    }
                    // Removed since the listing was made.
                    Ok(None) => continue,
                    // A line that cannot be looked up is still a line.
                    Err(_) => reply.put(&[0; ENTRY]),
                }
            }
            reply.dirent(size, &entry);
        }
        node.set_listing(None);
        Ok(())
    }

    /// Whether a directory has nothing in it.
    pub(super) fn is_empty(&self, node: &Arc<Node>) -> Result<bool> {
        Ok(self.list(node)?.items.is_empty())
    }

    /// The names in a directory.
    pub(super) fn names(&self, node: &Arc<Node>) -> Result<Vec<Box<CStr>>> {
        let listing = self.list(node)?;
        Ok(listing.items.into_iter().map(|item| item.name).collect())
    }

    fn list(&self, node: &Arc<Node>) -> Result<Listing> {
        let dirs = node.dirs()?;
        let parts: Vec<&Arc<Dir>> = dirs.upper.iter().chain(dirs.lowers.iter()).collect();
        let mut items: Vec<Item> = Vec::new();
        if let [only] = parts[..] {
            self.each(only, |name, ino, kind| {
                if let Some(kind) = kind {
                    items.push(self.item(name, ino, kind));
                }
            })?;
        } else {
            // What was found in a directory further up: where it is among the items, if it is.
            let mut seen: HashMap<CString, Option<usize>> = HashMap::new();
            for (depth, part) in parts.iter().enumerate() {
                let in_lower = depth > 0 || dirs.upper.is_none();
                self.each(part, |name, ino, kind| match seen.get(name) {
                    None => {
                        let index = kind.map(|kind| {
                            items.push(self.item(name, ino, kind));
                            items.len() - 1
                        });
                        seen.insert(name.to_owned(), index);
                    }
                    // The number shown is that of the first lower file.
                    Some(&Some(index)) if in_lower && depth == 1 => {
                        if kind == Some(FileType::from_dirent(items[index].kind)) {
                            items[index].ino = self.table.shown(node, name).unwrap_or(ino);
                        }
                    }
                    Some(_) => {}
                })?;
            }
        }
        items.sort_unstable_by_key(|item| item.position);
        Ok(Listing { items })
    }

    fn item(&self, name: &CStr, ino: u64, kind: FileType) -> Item {
        Item {
            position: self.table.position(name.to_bytes()).clamp(FIRST, END - 1),
            ino,
            kind: kind.to_dirent(),
            name: name.into(),
        }
    }

    /// Gives each entry of a real directory: name, inode number, and kind, or `None` for a
    /// whiteout.
    pub(super) fn each(
        &self,
        dir: &Arc<Dir>,
        mut give: impl FnMut(&CStr, u64, Option<FileType>),
    ) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // One of our own: the position in a directory belongs to the open file. A directory that
        // was removed has no "." any more, and nothing in it.
        let fd = match openat(&*dir.fd(&self.held)?, c".", flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            fd => fd?,
        };
        let mut buffer = vec![MaybeUninit::uninit(); BATCH];
        let mut entries = RawDir::new(&fd, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let (name, mut kind) = (entry.file_name(), Some(entry.file_type()));
            if name == c"." || name == c".." {
                continue;
            }
            if dir.may_hide(entry.file_type()) {
                kind = match dir.entry(name, &self.held)? {
                    Entry::Present(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
                    Entry::Absent | Entry::Whiteout => None,
                };
            }
            give(name, entry.ino(), kind);
        }
        Ok(())
    }
}

/// `d_type` of a kind, there and back.
trait Dtype {
    fn to_dirent(self) -> u8;
    fn from_dirent(kind: u8) -> Self;
}

impl Dtype for FileType {
    fn to_dirent(self) -> u8 {
        // The kernel's own relation, IFTODT in <dirent.h>.
        (self.as_raw_mode() >> 12) as u8 & 0xf
    }

    fn from_dirent(kind: u8) -> Self {
        FileType::from_raw_mode(u32::from(kind) << 12)
    }
}
