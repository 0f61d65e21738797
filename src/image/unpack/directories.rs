//! The directories of a layer in the making: found or made, kept open, emptied, described.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, Mode, XattrFlags};

use super::{Unpacker, kept};
use crate::image::attributes::{chown, failed, set_override, set_times, set_xattrs};
use crate::image::error::Error;
use crate::image::ledger::{Attributes, Body, Id, ROOT, Walk};
use crate::image::split;
use crate::sys::tree;
use crate::tarball::Entry;

/// What overlayfs marks a directory with that hides what is below.
const OPAQUE_XATTR: &str = "user.overlay.opaque";

/// What is said of names that the ledger does not take.
pub(super) const TOO_LONG: &str = "file name too long";

/// Open directories that are kept.
const DIRECTORIES: usize = 64;

impl Unpacker<'_> {
    /// The directory that an entry goes into, made if it is missing.
    pub(super) fn parent(&mut self, names: &[&[u8]], entry: &[u8]) -> Result<Id, Error> {
        let joined = names.join(&b'/');
        if let Some((last, id)) = &self.last_parent
            && *last == joined
        {
            return Ok(*id);
        }
        let (mut at, missing, mut opaque) = match self.ledger.walk(names).map_err(kept)? {
            Walk::Directory(id) => (id, Vec::new(), false),
            Walk::Missing { at, missing } => (at, missing, false),
            // Something is put into what this layer hides: a new directory hides it as well.
            Walk::Whiteout { at, missing } => {
                if let Some(name) = missing.first() {
                    self.displace(at, name, Body::Whiteout, entry)?;
                }
                (at, missing, true)
            }
            Walk::NotDirectory => return Err(Error::entry(entry, "not a directory")),
            Walk::Dangling => return Err(Error::entry(entry, "no such file or directory")),
            Walk::Loop => return Err(Error::entry(entry, "too many levels of symbolic links")),
        };
        for name in missing {
            at = self.make_directory(at, &name, entry)?;
            if std::mem::take(&mut opaque) {
                self.set_opaque(at, entry)?;
            }
        }
        self.last_parent = Some((joined, at));
        Ok(at)
    }

    pub(super) fn make_directory(
        &mut self,
        parent: Id,
        name: &[u8],
        entry: &[u8],
    ) -> Result<Id, Error> {
        let dir = self.directory(parent, entry)?;
        let id = self.ledger.add_directory(parent, name).map_err(kept)?;
        let id = id.ok_or_else(|| Error::entry(entry, TOO_LONG))?;
        rustix::fs::mkdirat(&*dir, name, Mode::RWXU).map_err(failed("make", entry))?;
        Ok(id)
    }

    /// An open directory.
    pub(super) fn directory(&mut self, id: Id, entry: &[u8]) -> Result<Rc<OwnedFd>, Error> {
        let (mut at, mut below) = (id, Vec::new());
        let mut open = loop {
            if let Some(open) = self.directories.get(&at) {
                break Rc::clone(open);
            }
            below.push(at);
            at = self.ledger.parent(at);
        };
        while let Some(id) = below.pop() {
            let name = self.ledger.name(id).map_err(kept)?;
            let child = tree::open_child_dir(open.as_fd(), OsStr::from_bytes(&name));
            open = Rc::new(child.map_err(failed("open the directory of", entry))?);
            if self.directories.len() >= DIRECTORIES {
                self.directories.retain(|id, _| *id == ROOT);
            }
            self.directories.insert(id, Rc::clone(&open));
        }
        Ok(open)
    }

    /// Removes what is in the way. Files whose content the tar needs are moved aside.
    pub(super) fn displace(
        &mut self,
        parent: Id,
        name: &[u8],
        body: Body,
        entry: &[u8],
    ) -> Result<(), Error> {
        let dir = self.directory(parent, entry)?;
        self.ledger.remove(parent, name).map_err(kept)?;
        match body {
            Body::LeftOut => return Ok(()),
            Body::File { entry: file, home } if home => {
                return self.put_aside(&dir, name, file, entry);
            }
            Body::Directory(id) => {
                // Paths may have led through it.
                self.last_parent = None;
                self.empty(id, entry)?;
                self.directories.retain(|id, _| *id == ROOT);
                let removed = tree::remove_all(dir.as_fd(), OsStr::from_bytes(name));
                return removed.map_err(|source| Error::Unpack {
                    what: "replace",
                    path: String::from_utf8_lossy(entry).into_owned(),
                    source,
                });
            }
            Body::Symlink(_) => self.last_parent = None,
            Body::File { .. } | Body::Fifo | Body::Whiteout => {}
        }
        rustix::fs::unlinkat(&*dir, name, AtFlags::empty()).map_err(failed("replace", entry))
    }

    /// Moves aside what the tar needs of a directory that is to be removed. What is in it the ledger
    /// cannot tell, but the directory can, and nobody else has put anything there.
    fn empty(&mut self, id: Id, entry: &[u8]) -> Result<(), Error> {
        let mut rest = vec![id];
        while let Some(id) = rest.pop() {
            self.ledger.forget(id);
            let dir = self.directory(id, entry)?;
            let fail = |error| failed("replace", entry)(error);
            for found in Dir::read_from(&*dir).map_err(fail)? {
                let found = found.map_err(fail)?;
                let name = found.file_name().to_bytes();
                match self.ledger.child(id, name).map_err(kept)? {
                    Some(Body::Directory(child)) => rest.push(child),
                    Some(Body::File { entry: file, home }) if home => {
                        self.put_aside(&dir, name, file, entry)?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn put_aside(
        &mut self,
        dir: &OwnedFd,
        name: &[u8],
        file: u64,
        entry: &[u8],
    ) -> Result<(), Error> {
        rustix::fs::renameat(dir, name, self.aside()?, file.to_string())
            .map_err(failed("move aside", entry))
    }

    pub(super) fn aside(&mut self) -> Result<BorrowedFd<'_>, Error> {
        let open = match self.aside.take() {
            Some(open) => open,
            None => {
                let make = || {
                    rustix::fs::mkdirat(self.layer, split::ASIDE, Mode::RWXU)?;
                    tree::open_child_dir(self.layer, OsStr::new(split::ASIDE))
                };
                make().map_err(failed("set up", split::ASIDE.as_bytes()))?
            }
        };
        let open: &OwnedFd = self.aside.insert(open);
        Ok(open.as_fd())
    }

    pub(super) fn set_opaque(&mut self, id: Id, entry: &[u8]) -> Result<(), Error> {
        let dir = self.directory(id, entry)?;
        if self.ledger.set_opaque(id) {
            return Ok(());
        }
        rustix::fs::fsetxattr(&*dir, OPAQUE_XATTR, b"y", XattrFlags::empty())
            .map_err(failed("make opaque the directory of", entry))
    }

    pub(super) fn describe_directory(&mut self, id: Id, entry: &Entry) -> Result<(), Error> {
        if !entry.xattrs.is_empty() {
            let dir = self.directory(id, &entry.name)?;
            set_xattrs(&dir, entry)?;
        }
        let attributes = Attributes {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
            mtime: entry.mtime,
        };
        self.ledger.describe(id, &attributes).map_err(kept)
    }

    pub(super) fn finish_directories(&mut self) -> Result<(), Error> {
        // Neighbours in this order are near each other in the tree, and share open directories.
        for id in self.ledger.directories().rev() {
            if self.ledger.is_gone(id) {
                continue;
            }
            let attributes = self.ledger.attributes(id).map_err(kept)?;
            let path = self.ledger.name(id).map_err(kept)?;
            let fail = |error| failed("set the attributes of", &path)(error);
            let dir = self.directory(id, &path)?;
            let (uid, gid, mode) = match &attributes {
                Some(a) => (a.uid, a.gid, a.mode),
                None => (0, 0, 0o755),
            };
            let given = self.owners.full.give(uid, gid, mode, 0o700);
            let given = match chown(&dir, &given).map_err(fail)? {
                true => given,
                false => self.owners.single.give(uid, gid, mode, 0o700),
            };
            // Directories that no entry describes have nobody whose ownership must be kept.
            if let (Some(value), Some(_)) = (&given.override_stat, &attributes) {
                set_override(&dir, value).map_err(fail)?;
            }
            rustix::fs::fchmod(&*dir, Mode::from_raw_mode(given.mode)).map_err(fail)?;
            if let Some(attributes) = &attributes {
                set_times(&dir, attributes.mtime).map_err(fail)?;
            }
        }
        Ok(())
    }
}
