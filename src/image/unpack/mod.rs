//! From a layer's tar to a tree on disk, trusting nothing that the tar says.
//!
//! Runs in a thread of its own per layer (`pipeline`), in a directory under the store's `tmp/`
//! that nothing else uses. The archive's bytes go three ways: contents to files, attributes to
//! inodes, and everything else to the layer's split file ([`super::split`]).
//!
//! # Rules
//! - Names are resolved in the [`Ledger`], never by the kernel: each system call gets one name and
//!   the open directory that it is in, and none follows a link. `..` and absolute names stay in
//!   the layer, as in Docker's chroot.
//! - An entry replaces what has its name, whatever that is; only a directory over a directory
//!   merges (Docker). A replaced file whose content is needed to rebuild the tar is moved aside.
//! - Missing parents are made as Docker makes them: 0755, of the root user.
//! - `.wh.NAME` becomes overlayfs' whiteout, a 0/0 character device; `.wh..wh..opq` the attribute
//!   `user.overlay.opaque`. As the OCI specification has it they hide what is *below* the layer,
//!   wherever in the archive they stand: a whiteout beside a directory of the same layer makes
//!   that directory opaque. Other `.wh..wh.` names are AUFS' own and are left out; files in
//!   `.wh..wh.plnk` can be the target of hard links.
//! - Devices are left out, as rootless Docker does; hard links to them too.
//! - Attributes in the names that overlayfs, fuse-overlayfs or this store give a meaning
//!   ([`super::attributes::RESERVED_XATTRS`]) are dropped. Ones that the filesystem or the kernel
//!   refuses to this process (`trusted.*`, `security.*` without the right) are dropped too, as in
//!   Docker.
//! - The root's own entry counts only when it is named by an absolute path (Docker).
//! - Directories are made 0700 and get owner, mode and times at the end, when nothing more will
//!   be put into them.
//!
//! # Limits
//! [`Limits`] bounds entries, the bytes of their names, and one file's size; the filesystem's
//! free space is looked at every [`SPACE_EVERY`] bytes, so that a bomb stops before the disk is
//! full for everyone. Holes stay holes.
//!
//! # Cost
//! Four system calls for an ordinary file of the root user (open, write, times, close), three more
//! for one with an owner or attributes. Nothing is synced here.

mod directories;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{Givers, failed, set_all, set_by_name, set_times, umask};
use super::error::Error;
use super::ledger::{self, Body, Id, LINKS, Ledger, ROOT, Walk};
use super::owner::Owners;
use super::split;
use crate::sys::tree;
use crate::tarball::{Entry, Kind, Reader, TarError};
use directories::TOO_LONG;

const WHITEOUT: &[u8] = b".wh.";
const AUFS: &[u8] = b".wh..wh.";
const AUFS_LINKS: &[u8] = b".wh..wh.plnk";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Bytes written between two looks at the free space.
const SPACE_EVERY: u64 = 64 << 20;
/// Free space that is left to others: this, or a hundredth of a small filesystem.
const SPACE_LEFT: u64 = 256 << 20;

/// How much one layer may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries: extended headers counted, and so are directories that only others' names imply.
    pub entries: u64,
    /// Bytes of all names and link targets together.
    pub names: u64,
    /// Size of one file with its holes.
    pub file: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 8_000_000,
            names: 256 << 20,
            file: 1 << 40,
        }
    }
}

/// What became of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Sum of the files' sizes.
    pub(crate) size: u64,
    /// Size of the tar.
    pub(crate) tar_size: u64,
}

/// Unpacks a tar into the empty directory `layer`.
pub(crate) fn unpack(
    source: impl BufRead,
    layer: BorrowedFd<'_>,
    owners: &Owners,
    limits: &Limits,
) -> Result<Unpacked, Error> {
    let setup = |error: Errno| failed("set up", b".")(error);
    rustix::fs::mkdirat(layer, split::TREE, Mode::RWXU).map_err(setup)?;
    let root = tree::open_child_dir(layer, OsStr::new(split::TREE)).map_err(setup)?;
    // A set-group-id data root would hand its group to everything made below it.
    rustix::fs::fchmod(&root, Mode::RWXU).map_err(setup)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(layer, split::FILE, flags, Mode::from_raw_mode(0o600));
    let file = file.map_err(setup)?.into();
    let mut unpacker = Unpacker {
        layer,
        directories: HashMap::from([(ROOT, Rc::new(root))]),
        aside: None,
        ledger: Ledger::new(layer).map_err(kept)?,
        last_parent: None,
        owners: Givers::new(owners),
        limits: *limits,
        umask: umask(),
        split: split::Writer::new(file).map_err(kept)?,
        entry: 0,
        size: 0,
        unchecked: 0,
    };
    let mut reader = Reader::new(source);
    while let Some(entry) = reader.next(&mut unpacker.split)? {
        unpacker.limit(&reader)?;
        unpacker.take(&mut reader, &entry)?;
        unpacker.entry += 1;
    }
    unpacker.finish_directories()?;
    Ok(Unpacked {
        size: unpacker.size,
        tar_size: unpacker.split.finish().map_err(kept)?,
    })
}

/// What is kept beside the tree cannot be written or read.
fn kept(error: io::Error) -> Error {
    Error::Tar(TarError::Keep(error))
}

struct Unpacker<'a> {
    layer: BorrowedFd<'a>,
    directories: HashMap<Id, Rc<OwnedFd>>,
    aside: Option<OwnedFd>,
    ledger: Ledger<'a>,
    /// The parent of the entry before: most entries share it.
    last_parent: Option<(Vec<u8>, Id)>,
    owners: Givers,
    limits: Limits,
    umask: u32,
    split: split::Writer,
    /// Number of the present entry.
    entry: u64,
    size: u64,
    /// Written since the last look at the free space.
    unchecked: u64,
}

impl Unpacker<'_> {
    fn limit<R: BufRead>(&self, reader: &Reader<R>) -> Result<(), Error> {
        if reader.headers.max(self.ledger.entries()) > self.limits.entries {
            return Err(Error::Limit(format!("{} entries", self.limits.entries)));
        }
        if self.ledger.bytes > self.limits.names {
            return Err(Error::Limit(format!(
                "{} bytes of names",
                self.limits.names
            )));
        }
        Ok(())
    }

    fn take<R: BufRead>(&mut self, reader: &mut Reader<R>, entry: &Entry) -> Result<(), Error> {
        let bad = |reason: &str| Error::entry(&entry.name, reason);
        if let Kind::Unknown(kind) = entry.kind {
            return Err(bad(&format!("unhandled tar header type {kind}")));
        }
        if entry.size > self.limits.file {
            return Err(Error::Limit(format!(
                "{} bytes in one file",
                self.limits.file
            )));
        }
        let names = ledger::clean(&entry.name).map_err(bad)?;
        let Some((base, parents)) = names.split_last() else {
            return self.root(entry);
        };
        if names[0].starts_with(AUFS) && names[0] != OPAQUE || is_aufs(base) {
            if names.len() == 2 && names[0] == AUFS_LINKS && entry.kind == Kind::File {
                let body = Body::File {
                    entry: self.entry,
                    home: false,
                };
                self.add(LINKS, base, body, &entry.name)?;
                return self.content_aside(reader, entry, true);
            }
            return self.content_aside(reader, entry, false);
        }
        let parent = self.parent(parents, &entry.name)?;
        if *base == OPAQUE {
            self.set_opaque(parent, &entry.name)?;
            return self.content_aside(reader, entry, false);
        }
        if let Some(hidden) = base.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(bad("invalid whiteout"));
            }
            self.whiteout(parent, hidden, &entry.name)?;
            return self.content_aside(reader, entry, false);
        }
        self.place(reader, entry, parent, base)
    }

    /// An ordinary entry.
    fn place<R: BufRead>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
        parent: Id,
        base: &[u8],
    ) -> Result<(), Error> {
        let mut opaque = false;
        if let Some(old) = self.ledger.child(parent, base).map_err(kept)? {
            match (old, entry.kind) {
                (Body::Directory(old), Kind::Directory) => {
                    return self.describe_directory(old, entry);
                }
                (Body::Whiteout, Kind::Directory) => opaque = true,
                _ => {}
            }
            self.displace(parent, base, old, &entry.name)?;
        }
        let dir = self.directory(parent, &entry.name)?;
        match entry.kind {
            Kind::File => self.file(reader, entry, parent, base, &dir),
            Kind::Directory => {
                let id = self.make_directory(parent, base, &entry.name)?;
                if opaque {
                    self.set_opaque(id, &entry.name)?;
                }
                self.describe_directory(id, entry)
            }
            Kind::Symlink => {
                let target = self.ledger.keep(&entry.link).map_err(kept)?;
                self.add(parent, base, Body::Symlink(target), &entry.name)?;
                rustix::fs::symlinkat(&entry.link[..], &*dir, base)
                    .map_err(failed("make the link", &entry.name))?;
                set_by_name(&self.owners, &dir, base, entry)
            }
            Kind::Fifo => {
                self.add(parent, base, Body::Fifo, &entry.name)?;
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(&*dir, base, FileType::Fifo, mode, 0)
                    .map_err(failed("make the fifo", &entry.name))?;
                set_by_name(&self.owners, &dir, base, entry)
            }
            Kind::HardLink => self.hard_link(entry, parent, base, &dir),
            Kind::Device => {
                self.add(parent, base, Body::LeftOut, &entry.name)?;
                Ok(())
            }
            Kind::Unknown(_) => Ok(()),
        }
    }

    /// The archive's own root. `./` says nothing in Docker; `/` does.
    fn root(&mut self, entry: &Entry) -> Result<(), Error> {
        match entry.kind {
            Kind::Directory if entry.name.starts_with(b"/") => self.describe_directory(ROOT, entry),
            Kind::Directory => Ok(()),
            _ => Err(Error::entry(&entry.name, "the root is no directory")),
        }
    }

    fn add(&mut self, parent: Id, name: &[u8], body: Body, entry: &[u8]) -> Result<(), Error> {
        let added = self.ledger.add(parent, name, body).map_err(kept)?;
        added.ok_or_else(|| Error::entry(entry, TOO_LONG))
    }

    /// Content without a place in the tree; `keep` also when it is empty.
    fn content_aside<R: BufRead>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
        keep: bool,
    ) -> Result<(), Error> {
        if entry.spans.is_empty() && !keep {
            return Ok(());
        }
        let number = self.entry.to_string();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = rustix::fs::openat(self.aside()?, number, flags, mode)
            .map_err(failed("keep", &entry.name))?;
        self.content(reader, entry, &file, b"")?;
        if keep {
            set_all(&self.owners, &file, entry)?;
        }
        Ok(())
    }

    fn whiteout(&mut self, parent: Id, name: &[u8], entry: &[u8]) -> Result<(), Error> {
        if let Some(old) = self.ledger.child(parent, name).map_err(kept)? {
            match old {
                // This layer's own entry hides the one below anyway.
                Body::Directory(old) => return self.set_opaque(old, entry),
                Body::LeftOut => self.displace(parent, name, old, entry)?,
                _ => return Ok(()),
            }
        }
        let dir = self.directory(parent, entry)?;
        self.add(parent, name, Body::Whiteout, entry)?;
        rustix::fs::mknodat(&*dir, name, FileType::CharacterDevice, Mode::empty(), 0)
            .map_err(failed("make the whiteout", entry))
    }

    fn file<R: BufRead>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
        parent: Id,
        base: &[u8],
        dir: &OwnedFd,
    ) -> Result<(), Error> {
        let given = self
            .owners
            .full
            .give(entry.uid, entry.gid, entry.mode, 0o600);
        // Where the mode given at creation is what comes out, chmod can be left out.
        let plain = given.owner.is_none()
            && given.override_stat.is_none()
            && entry.xattrs.is_empty()
            && given.mode & (self.umask | 0o7000) == 0;
        let mode = Mode::from_raw_mode(if plain { given.mode } else { 0o600 });
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(dir, base, flags, mode).map_err(failed("create", &entry.name))?;
        let body = Body::File {
            entry: self.entry,
            home: !entry.spans.is_empty(),
        };
        self.add(parent, base, body, &entry.name)?;
        let path = match entry.spans.is_empty() {
            true => Vec::new(),
            false => self.ledger.path(parent, base).map_err(kept)?,
        };
        self.content(reader, entry, &file, &path)?;
        self.size += entry.size;
        if plain {
            return set_times(&file, entry.mtime).map_err(failed("set the times of", &entry.name));
        }
        set_all(&self.owners, &file, entry)
    }

    /// Writes the entry's content and notes in the split file where it is.
    fn content<R: BufRead>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
        file: &OwnedFd,
        path: &[u8],
    ) -> Result<(), Error> {
        if !entry.spans.is_empty() {
            self.split
                .content(self.entry, path, &entry.spans)
                .map_err(kept)?;
        }
        let failed = |error| failed("write", &entry.name)(error);
        reader.write_to(entry, file, failed, |written| self.space(file, written))
    }

    fn space(&mut self, file: &OwnedFd, written: u64) -> Result<(), Error> {
        self.unchecked += written;
        if self.unchecked < SPACE_EVERY {
            return Ok(());
        }
        self.unchecked = 0;
        let Ok(stat) = rustix::fs::fstatvfs(file) else {
            return Ok(());
        };
        let all = stat.f_blocks.saturating_mul(stat.f_frsize);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < SPACE_LEFT.min(all / 100) {
            return Err(Error::NearlyFull);
        }
        Ok(())
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        parent: Id,
        base: &[u8],
        dir: &OwnedFd,
    ) -> Result<(), Error> {
        let bad = |reason: &str| {
            let target = String::from_utf8_lossy(&entry.link);
            Error::entry(&entry.name, format!("hard link to {target:?}: {reason}"))
        };
        let names = ledger::clean(&entry.link).map_err(bad)?;
        let Some((target_base, target_parents)) = names.split_last() else {
            return Err(bad("it is a directory"));
        };
        let link = |from: BorrowedFd<'_>, name: &[u8]| {
            rustix::fs::linkat(from, name, dir, base, AtFlags::empty())
                .map_err(failed("link", &entry.name))
        };
        if names.len() == 2 && names[0] == AUFS_LINKS {
            let known = self.ledger.child(LINKS, target_base).map_err(kept)?;
            let Some(body @ Body::File { entry: number, .. }) = known else {
                return Err(bad("no such file or directory"));
            };
            self.add(parent, base, body, &entry.name)?;
            return link(self.aside()?, number.to_string().as_bytes());
        }
        let walk = self.ledger.walk(target_parents).map_err(kept)?;
        let Walk::Directory(target_parent) = walk else {
            return Err(bad("no such file or directory"));
        };
        let target = self
            .ledger
            .child(target_parent, target_base)
            .map_err(kept)?;
        let target = target.ok_or_else(|| bad("no such file or directory"))?;
        let body = match target {
            Body::File { entry, .. } => Body::File { entry, home: false },
            Body::LeftOut => {
                self.add(parent, base, Body::LeftOut, &entry.name)?;
                return Ok(());
            }
            body @ (Body::Symlink(_) | Body::Fifo) => body,
            Body::Directory(_) => return Err(bad("it is a directory")),
            Body::Whiteout => return Err(bad("no such file or directory")),
        };
        self.add(parent, base, body, &entry.name)?;
        let from = self.directory(target_parent, &entry.name)?;
        link(from.as_fd(), target_base)
    }
}

/// Whether a name is AUFS' own; the opaque marker is not.
fn is_aufs(name: &[u8]) -> bool {
    name.starts_with(AUFS) && name != OPAQUE
}
