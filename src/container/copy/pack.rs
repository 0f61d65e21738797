//! From a tree to an archive.
//!
//! Docker's choices (go-archive, `Tarballer`): entries in the order of their names, a directory
//! before what is in it; sockets are left out; of the extended attributes only file capabilities
//! are kept; a file with several names is archived once, and linked to. A file that shrinks while it
//! is read is filled up with zeros, one that grows is cut.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    FileType, Mode, OFlags, Stat, fgetxattr, fstat, major, minor, openat, readlinkat, sendfile,
};
use rustix::io::Errno;

use super::layers::Merged;
use crate::tarball::{Header, Kind, Writer};
use crate::types::idmap::{self, Extent, IdMapping};

/// Files from this size on go by the kernel from file to pipe.
const LARGE: u64 = 64 * 1024;
/// Bytes that go at once.
const PIECE: usize = 1 << 20;
/// Longest name of an entry: no path is longer (PATH_MAX), and no tree so deep.
const LONGEST_NAME: usize = 4096;
/// The attribute that is kept.
const CAPABILITY: &str = "security.capability";

/// Writes one archive.
pub(super) struct Packer {
    archive: Writer<BufWriter<File>>,
    pipe: File,
    /// Names of files that have others, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
    /// Ids inside are archived for those outside.
    owners: Option<IdMapping>,
}

impl Packer {
    pub(super) fn new(pipe: OwnedFd, owners: Option<IdMapping>) -> io::Result<Self> {
        let pipe = File::from(pipe);
        let out = BufWriter::with_capacity(LARGE as usize, pipe.try_clone()?);
        Ok(Self {
            archive: Writer::new(out),
            pipe,
            linked: HashMap::new(),
            owners,
        })
    }

    pub(super) fn finish(self) -> io::Result<()> {
        self.archive.finish()
    }

    /// Everything in a directory, under `prefix` (empty, or with a slash at its end).
    pub(super) fn content(&mut self, directory: &Merged, prefix: &[u8]) -> io::Result<()> {
        for (name, stat) in directory.entries()? {
            let archived = [prefix, name.to_bytes()].concat();
            self.entry(directory, &name, &stat, archived)?;
        }
        Ok(())
    }

    /// One entry, as `archived`, and all below it.
    pub(super) fn entry(
        &mut self,
        directory: &Merged,
        name: &CStr,
        stat: &Stat,
        mut archived: Vec<u8>,
    ) -> io::Result<()> {
        if archived.len() > LONGEST_NAME {
            return Err(Errno::NAMETOOLONG.into());
        }
        if is_directory(stat) {
            archived.push(b'/');
            self.directory(stat, &archived)?;
            return self.content(&directory.child(name)?, &archived);
        }
        self.file(directory, name, stat, &archived)
    }

    /// A directory without what is in it.
    pub(super) fn directory(&mut self, stat: &Stat, archived: &[u8]) -> io::Result<()> {
        let header = Header {
            kind: Kind::Directory,
            ..self.described(stat, archived)
        };
        self.archive.header(&header)
    }

    /// Something that is no directory.
    pub(super) fn file(
        &mut self,
        directory: &Merged,
        name: &CStr,
        stat: &Stat,
        archived: &[u8],
    ) -> io::Result<()> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice | FileType::BlockDevice => Kind::Device,
            _ => return Ok(()),
        };
        let described = Header {
            kind,
            device: (
                FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice,
                major(stat.st_rdev),
                minor(stat.st_rdev),
            ),
            ..self.described(stat, archived)
        };
        let identity = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&identity) {
                return self.archive.header(&Header {
                    kind: Kind::HardLink,
                    link: first,
                    ..described
                });
            }
            self.linked.insert(identity, archived.to_vec());
        }
        let Some(holder) = directory.holder(name)? else {
            return Ok(());
        };
        match kind {
            Kind::File => self.regular(holder, name, described),
            Kind::Symlink => {
                let target = readlinkat(holder, name, Vec::new())?;
                self.archive.header(&Header {
                    link: target.to_bytes(),
                    ..described
                })
            }
            _ => self.archive.header(&described),
        }
    }

    fn regular(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        header: Header<'_>,
    ) -> io::Result<()> {
        // What was a file a moment ago may be a fifo by now.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(directory, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut value = [0; 64];
        let capability = match fgetxattr(&file, CAPABILITY, &mut value) {
            Ok(length) => vec![(CAPABILITY.as_bytes(), value[..length].to_vec())],
            Err(_) => Vec::new(),
        };
        self.archive.header(&Header {
            size,
            xattrs: &capability,
            ..header
        })?;
        let sent = if size < LARGE {
            let mut limited = io::Read::take(&file, size);
            io::copy(&mut limited, self.archive.out())?
        } else {
            self.archive.out().flush()?;
            send(&file, &self.pipe, size)?
        };
        let missing = size - sent;
        io::copy(
            &mut io::Read::take(io::repeat(0), missing),
            self.archive.out(),
        )?;
        self.archive.pad(size)
    }

    fn described<'a>(&self, stat: &Stat, archived: &'a [u8]) -> Header<'a> {
        let archived_id = |map: &[Extent], id| idmap::inside(map, id).unwrap_or(id);
        let (uid, gid) = match &self.owners {
            None => (stat.st_uid, stat.st_gid),
            Some(map) => (
                archived_id(&map.uids, stat.st_uid),
                archived_id(&map.gids, stat.st_gid),
            ),
        };
        Header {
            name: archived,
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            mtime: stat.st_mtime,
            ..Header::default()
        }
    }

    /// A mark that something is deleted, for a layer.
    pub(super) fn whiteout(&mut self, archived: &[u8], mtime: i64) -> io::Result<()> {
        let at = archived.iter().rposition(|byte| *byte == b'/');
        let (directory, name) = archived.split_at(at.map_or(0, |at| at + 1));
        let name = [directory, b".wh.", name].concat();
        self.archive.header(&Header {
            name: &name,
            mtime,
            ..Header::default()
        })
    }
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Sends up to `size` bytes; fewer where the file is shorter.
fn send(file: &File, pipe: &File, size: u64) -> io::Result<u64> {
    let mut sent = 0;
    while sent < size {
        let piece = usize::try_from(size - sent).unwrap_or(PIECE).min(PIECE);
        match sendfile(pipe.as_fd(), file.as_fd(), None, piece) {
            Ok(0) => break,
            Ok(count) => sent += count as u64,
            Err(Errno::INTR) => {}
            // A filesystem that cannot (in some versions, those of FUSE): by way of memory.
            Err(Errno::INVAL | Errno::NOSYS) => {
                let mut limited = io::Read::take(file, size - sent);
                return Ok(sent + io::copy(&mut limited, &mut &*pipe)?);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sent)
}
