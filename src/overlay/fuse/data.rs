//! What is in files: reading, writing, and what else is done to open ones.
//!
//! The kernel does not tell us when files are opened: a real file is opened by its first read or write,
//! and closed when too many are held. A file is copied up by its first write, not when it is opened to
//! be written. Since the kernel writes back from its cache, a full disk is reported by close or
//! fsync, not by the write itself.

use std::sync::Arc;

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, SeekFrom, StatxFlags, Timespec, Timestamps, chmodat,
    chownat, copy_file_range, fallocate, fchmod, fchown, fdatasync, fstat, fstatvfs, fsync,
    ftruncate, futimens, seek, statx, utimensat,
};
use rustix::io::{Errno, Result, pread, pwrite};

use super::abi::set;
use super::copy_up::Data;
use super::node::{Access, Handle, Node};
use super::owners::Owners;
use super::tree::Tree;
use super::wire::{Attr, Body, Malformed, Reply};

/// What SETATTR asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Changes {
    pub(super) valid: u32,
    pub(super) size: u64,
    pub(super) atime: (u64, u32),
    pub(super) mtime: (u64, u32),
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Changes {
    pub(super) fn parse(body: &mut Body<'_>) -> std::result::Result<Self, Malformed> {
        let valid = body.u32()?;
        body.bytes(12)?; // Padding, file handle.
        let size = body.u64()?;
        body.u64()?; // Lock owner.
        let (atime, mtime) = (body.u64()?, body.u64()?);
        body.u64()?; // Change time.
        let (atime_nanos, mtime_nanos) = (body.u32()?, body.u32()?);
        body.u32()?;
        let mode = body.u32()?;
        body.u32()?;
        Ok(Changes {
            valid,
            size,
            atime: (atime, atime_nanos),
            mtime: (mtime, mtime_nanos),
            mode,
            uid: body.u32()?,
            gid: body.u32()?,
        })
    }

    /// The same in the ids that are stored.
    pub(super) fn stored(mut self, owners: &Owners) -> Result<Self> {
        if self.has(set::UID) {
            self.uid = owners.stored_uid(self.uid)?;
        }
        if self.has(set::GID) {
            self.gid = owners.stored_gid(self.gid)?;
        }
        Ok(self)
    }

    fn has(&self, what: u32) -> bool {
        self.valid & what != 0
    }

    fn times(&self) -> Option<Timestamps> {
        if !self.has(set::ATIME | set::MTIME) {
            return None;
        }
        let one = |given, now, (seconds, nanos): (u64, u32)| Timespec {
            tv_sec: seconds as i64,
            tv_nsec: match (self.has(given), self.has(now)) {
                (true, true) => rustix::fs::UTIME_NOW,
                (true, false) => nanos.into(),
                _ => rustix::fs::UTIME_OMIT,
            },
        };
        Some(Timestamps {
            last_access: one(set::ATIME, set::ATIME_NOW, self.atime),
            last_modification: one(set::MTIME, set::MTIME_NOW, self.mtime),
        })
    }
}

impl Tree {
    pub(super) fn setattr(&self, node: &Arc<Node>, changes: &Changes) -> Result<Attr> {
        if changes.has(set::SIZE) {
            let data = if changes.size == 0 {
                Data::Drop
            } else {
                Data::Keep
            };
            self.copy_up(node, data)?;
            let handle = self.handle(node, Access::Write)?;
            ftruncate(&handle.fd, changes.size)?;
            if changes.has(set::KILL_SUIDGID) {
                self.kill_privileges(&handle)?;
            }
        }
        self.copy_up(node, Data::Keep)?;
        let uid = changes.has(set::UID).then_some(changes.uid);
        let gid = changes.has(set::GID).then_some(changes.gid);
        let (uid, gid) = (
            uid.map(rustix::fs::Uid::from_raw),
            gid.map(rustix::fs::Gid::from_raw),
        );
        let mode = changes
            .has(set::MODE)
            .then_some(Mode::from_raw_mode(changes.mode & 0o7777));
        let times = changes.times();
        let stat = self.with_real(node, |fd| {
            if matches!(node.kind, FileType::RegularFile | FileType::Directory) {
                if uid.is_some() || gid.is_some() {
                    fchown(fd, uid, gid)?;
                }
                mode.map_or(Ok(()), |mode| fchmod(fd, mode))?;
                times.map_or(Ok(()), |times| futimens(fd, &times))?;
            } else {
                // By /proc: such descriptors are good for no change.
                let link = self.link(fd);
                let flags = AtFlags::empty();
                if uid.is_some() || gid.is_some() {
                    chownat(&self.proc, &*link, uid, gid, flags)?;
                }
                mode.map_or(Ok(()), |mode| chmodat(&self.proc, &*link, mode, flags))?;
                times.map_or(Ok(()), |times| utimensat(&self.proc, &*link, &times, flags))?;
            }
            fstat(fd)
        })?;
        self.shown(node, stat)
    }

    pub(super) fn read(
        &self,
        node: &Arc<Node>,
        offset: u64,
        size: usize,
        reply: &mut Reply,
    ) -> Result<()> {
        let handle = self.handle(node, Access::Read)?;
        reply.fill(size, |room| {
            let mut done = 0;
            // Short is the end of the file to the kernel.
            while done < room.len() {
                match pread(
                    &handle.fd,
                    &mut room[done..],
                    offset.saturating_add(done as u64),
                ) {
                    Ok(0) => break,
                    Ok(count) => done += count,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(done)
        })
    }

    pub(super) fn write(
        &self,
        node: &Arc<Node>,
        offset: u64,
        bytes: &[u8],
        kill: bool,
    ) -> Result<usize> {
        self.copy_up(node, Data::Keep)?;
        let handle = self.handle(node, Access::Write)?;
        let mut done = 0;
        while done < bytes.len() {
            match pwrite(
                &handle.fd,
                &bytes[done..],
                offset.saturating_add(done as u64),
            ) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        if kill {
            self.kill_privileges(&handle)?;
        }
        Ok(done)
    }

    /// Takes set-id bits and capabilities from a file that somebody unprivileged wrote to.
    fn kill_privileges(&self, handle: &Handle) -> Result<()> {
        match rustix::fs::fremovexattr(&handle.fd, c"security.capability") {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
        let mode = Mode::from_raw_mode(fstat(&handle.fd)?.st_mode);
        let mut less = mode - Mode::SUID;
        if mode.contains(Mode::XGRP) {
            less -= Mode::SGID;
        }
        if less != mode {
            rustix::fs::fchmod(&handle.fd, less)?;
        }
        Ok(())
    }

    pub(super) fn allocate(
        &self,
        node: &Arc<Node>,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        self.copy_up(node, Data::Keep)?;
        let handle = self.handle(node, Access::Write)?;
        let flags = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        fallocate(&handle.fd, flags, offset, length)
    }

    /// Only data and holes are asked for.
    pub(super) fn seek(&self, node: &Arc<Node>, offset: u64, whence: u32) -> Result<u64> {
        let to = match whence as i32 {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        // The descriptor's own position, which this moves, is used for nothing.
        seek(&self.handle(node, Access::Read)?.fd, to)
    }

    pub(super) fn copy_range(
        &self,
        from: (&Arc<Node>, u64),
        to: (&Arc<Node>, u64),
        length: u64,
    ) -> Result<u64> {
        self.copy_up(to.0, Data::Keep)?;
        let source = self.handle(from.0, Access::Read)?;
        let target = self.handle(to.0, Access::Write)?;
        let (mut from, mut to) = (from.1, to.1);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let copied = copy_file_range(
            &source.fd,
            Some(&mut from),
            &target.fd,
            Some(&mut to),
            length,
        )?;
        Ok(copied as u64)
    }

    pub(super) fn sync(&self, node: &Arc<Node>, data_only: bool) -> Result<()> {
        if self.volatile || !node.is_upper() {
            return Ok(());
        }
        self.with_real(node, |fd| if data_only { fdatasync(fd) } else { fsync(fd) })
    }

    pub(super) fn statfs(&self, root: &Arc<Node>, reply: &mut Reply) -> Result<()> {
        let stat = fstatvfs(&*root.dirs()?.top()?.fd(&self.held)?)?;
        for value in [
            stat.f_blocks,
            stat.f_bfree,
            stat.f_bavail,
            stat.f_files,
            stat.f_ffree,
        ] {
            reply.u64(value);
        }
        for value in [stat.f_bsize, stat.f_namemax, stat.f_frsize] {
            reply.u32(value as u32);
        }
        reply.put(&[0; 28]);
        Ok(())
    }

    /// All attributes with the time of birth, which GETATTR does not have.
    pub(super) fn statx(&self, node: &Arc<Node>, reply: &mut Reply) -> Result<()> {
        let attr = self.attr(node)?;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let real = if node.is_dir() {
            self.with_real(node, |fd| statx(fd, c"", AtFlags::EMPTY_PATH, wanted))?
        } else {
            let handle = self.handle(node, Access::Path)?;
            statx(&handle.fd, c"", AtFlags::EMPTY_PATH, wanted)?
        };
        reply.statx(&attr, &real);
        Ok(())
    }
}
