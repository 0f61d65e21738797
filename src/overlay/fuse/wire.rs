//! The FUSE protocol's bytes: requests read from, and replies written into, fixed buffers.
//!
//! The layouts are those of `include/uapi/linux/fuse.h`, version 7.45, all in the host's byte order. A
//! reader answers [`Malformed`] for what is cut short and never panics, whatever it is given; a
//! [`Reply`] never grows: who writes more than was asked for has a bug, and gets a short reply.

use std::ffi::CStr;
use std::sync::Arc;

use rustix::fs::{Stat, Statx};
use rustix::io::Errno;

use super::abi::NOTIFY_INVAL_INODE;
use super::owners::Owners;

/// Size of a request's header.
pub(super) const IN_HEADER: usize = 40;
/// Size of a reply's header.
pub(super) const OUT_HEADER: usize = 16;
/// Size of a `fuse_entry_out`.
pub(super) const ENTRY: usize = 128;
/// Size of a `fuse_dirent` without its name.
const DIRENT: usize = 24;
/// Largest write and read, in bytes: what the kernel allows by default (`fs.fuse.max_pages_limit`).
pub(super) const MAX_DATA: usize = 1 << 20;
/// What a read of the device must have room for.
pub(super) const REQUEST_MAX: usize = MAX_DATA + 4096;

/// How long the kernel may believe what it was told, in seconds. Only we change the upper
/// directory, and layers never change, so: until it forgets.
const FOREVER: u64 = 1 << 31;

/// A request that is shorter than its operation demands, or holds what no kernel sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Who asks for what.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    /// The file that it is about.
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) body: Body<'a>,
}

impl<'a> Request<'a> {
    /// Takes a request apart that was read from the device.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut head = Body(bytes);
        let length = head.u32()? as usize;
        let request = Request {
            opcode: head.u32()?,
            unique: head.u64()?,
            node: head.u64()?,
            uid: head.u32()?,
            gid: head.u32()?,
            body: Body(bytes.get(IN_HEADER..length).ok_or(Malformed)?),
        };
        Ok(request)
    }
}

/// What is left to read of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Body<'a>(pub(super) &'a [u8]);

impl<'a> Body<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u32::from_ne_bytes(*taken))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u64::from_ne_bytes(*taken))
    }

    /// Bytes up to a zero.
    pub(super) fn text(&mut self) -> Result<&'a CStr, Malformed> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Malformed)?;
        self.0 = &self.0[text.count_bytes() + 1..];
        Ok(text)
    }

    /// The name of a directory's entry: one component, and none of the two that every directory has.
    pub(super) fn name(&mut self) -> Result<&'a CStr, Malformed> {
        let name = self.text()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Malformed),
            bytes if bytes.contains(&b'/') => Err(Malformed),
            _ => Ok(name),
        }
    }
}

/// What READ and its like ask for: where from, and how many bytes at most.
pub(super) fn read_in(body: &mut Body<'_>) -> Result<(u64, u64), Malformed> {
    body.u64()?; // File handle.
    Ok((body.u64()?, body.u32()?.into()))
}

/// The header of a reply of `length` bytes, itself counted: they are far below 4 GiB. `code` is zero, or
/// less for an error.
pub(super) fn header(length: usize, unique: u64, code: i32) -> [u8; OUT_HEADER] {
    let mut header = [0; OUT_HEADER];
    header[..4].copy_from_slice(&(length as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&code.to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// Notifies the kernel that what it has of a file's content is stale.
pub(super) fn stale(id: u64) -> [u8; OUT_HEADER + 24] {
    let mut notification = [0; OUT_HEADER + 24];
    let header = header(notification.len(), 0, NOTIFY_INVAL_INODE);
    notification[..OUT_HEADER].copy_from_slice(&header);
    notification[OUT_HEADER..][..8].copy_from_slice(&id.to_ne_bytes());
    // Zeros: from the beginning to the end.
    notification
}

/// A reply under construction.
#[derive(Debug)]
pub(super) struct Reply {
    buffer: Box<[u8]>,
    length: usize,
    owners: Arc<Owners>,
}

impl Reply {
    /// Attributes are given with the ids that the mount's `owners` show.
    pub(super) fn new(owners: Arc<Owners>) -> Self {
        Reply {
            // Zeroed by the kernel when touched: a worker that never answers a large read never
            // has the memory.
            buffer: vec![0; OUT_HEADER + REQUEST_MAX].into_boxed_slice(),
            length: OUT_HEADER,
            owners,
        }
    }

    pub(super) fn clear(&mut self) {
        self.length = OUT_HEADER;
    }

    /// Completes the header. A failed operation has no body.
    pub(super) fn finish(&mut self, unique: u64, result: Result<(), Errno>) -> &[u8] {
        if result.is_err() {
            self.clear();
        }
        let code = result.err().map_or(0, |error| -error.raw_os_error());
        self.buffer[..OUT_HEADER].copy_from_slice(&header(self.length, unique, code));
        &self.buffer[..self.length]
    }

    /// Bytes written so far, the header aside.
    pub(super) fn written(&self) -> usize {
        self.length - OUT_HEADER
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        let room = &mut self.buffer[self.length..];
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.length += count;
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.put(&value.to_ne_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.put(&value.to_ne_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.put(&value.to_ne_bytes());
    }

    /// `count` bytes of room for `fill`, which says how many it used.
    pub(super) fn fill(
        &mut self,
        count: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        let room = &mut self.buffer[self.length..];
        let count = count.min(room.len());
        let used = fill(&mut room[..count])?;
        self.length += used.min(count);
        Ok(())
    }

    /// A `fuse_entry_out`: the file that a name stands for.
    pub(super) fn entry(&mut self, id: u64, attr: &Attr) {
        self.u64(id);
        self.u64(0); // Generation: it is in the id.
        self.u64(FOREVER);
        self.u64(FOREVER);
        self.u64(0);
        self.attr(attr);
    }

    /// A `fuse_entry_out` that says that there is nothing, and that this will stay so.
    pub(super) fn no_entry(&mut self) {
        self.put(&[0; 16]);
        self.u64(FOREVER);
        self.put(&[0; ENTRY - 24]);
    }

    /// A `fuse_attr_out`.
    pub(super) fn attributes(&mut self, attr: &Attr) {
        self.u64(FOREVER);
        self.u64(0);
        self.attr(attr);
    }

    /// A `fuse_attr`.
    fn attr(&mut self, attr: &Attr) {
        let stat = &attr.stat;
        let (uid, gid) = self.owners.shown(stat.st_uid, stat.st_gid);
        for value in [
            attr.ino,
            stat.st_size as u64,
            stat.st_blocks as u64,
            stat.st_atime as u64,
            stat.st_mtime as u64,
            stat.st_ctime as u64,
        ] {
            self.u64(value);
        }
        for value in [
            stat.st_atime_nsec as u32,
            stat.st_mtime_nsec as u32,
            stat.st_ctime_nsec as u32,
            stat.st_mode,
            attr.nlink,
            uid,
            gid,
            device(stat.st_rdev),
            stat.st_blksize as u32,
            0,
        ] {
            self.u32(value);
        }
    }

    /// A `fuse_statx_out`, of what GETATTR says and the time of birth.
    pub(super) fn statx(&mut self, attr: &Attr, real: &Statx) {
        let stat = &attr.stat;
        let (uid, gid) = self.owners.shown(stat.st_uid, stat.st_gid);
        self.u64(FOREVER);
        self.put(&[0; 24]); // Nanoseconds, flags, spare.
        self.u32(real.stx_mask);
        self.u32(stat.st_blksize as u32);
        self.u64(0);
        for value in [attr.nlink, uid, gid] {
            self.u32(value);
        }
        self.u16(stat.st_mode as u16);
        self.u16(0);
        for value in [attr.ino, stat.st_size as u64, stat.st_blocks as u64, 0] {
            self.u64(value);
        }
        for (seconds, nanos) in [
            (stat.st_atime, stat.st_atime_nsec as u32),
            (real.stx_btime.tv_sec, real.stx_btime.tv_nsec),
            (stat.st_ctime, stat.st_ctime_nsec as u32),
            (stat.st_mtime, stat.st_mtime_nsec as u32),
        ] {
            self.u64(seconds as u64);
            self.u32(nanos);
            self.u32(0);
        }
        self.u32(rustix::fs::major(stat.st_rdev));
        self.u32(rustix::fs::minor(stat.st_rdev));
        self.put(&[0; 120]); // The device is the mount's; spare.
    }

    /// A `fuse_dirent`; `false` where it would exceed `size` bytes of body, and nothing is written.
    pub(super) fn dirent(&mut self, size: usize, entry: &Dirent<'_>) -> bool {
        if self.written() + dirent_size(entry.name) > size {
            return false;
        }
        self.u64(entry.ino);
        self.u64(entry.offset);
        self.u32(entry.name.len() as u32);
        self.u32(entry.kind.into());
        self.put(entry.name);
        let padding = entry.name.len().next_multiple_of(8) - entry.name.len();
        self.put(&[0; 8][..padding]);
        true
    }
}

/// Room that an entry takes.
pub(super) fn dirent_size(name: &[u8]) -> usize {
    DIRENT + name.len().next_multiple_of(8)
}

/// One line of a directory.
#[derive(Debug)]
pub(super) struct Dirent<'a> {
    pub(super) ino: u64,
    /// Where to go on behind it.
    pub(super) offset: u64,
    /// `DT_*`.
    pub(super) kind: u8,
    pub(super) name: &'a [u8],
}

/// A file's attributes as the overlay shows them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attr {
    pub(super) stat: Stat,
    pub(super) ino: u64,
    pub(super) nlink: u32,
}

/// The kernel's 32-bit form of a device's number.
fn device(rdev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The device of the kernel's 32-bit form.
pub(super) fn from_device(number: u32) -> u64 {
    rustix::fs::makedev(
        (number >> 8) & 0xfff,
        (number & 0xff) | ((number >> 12) & 0xfff00),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_cut_short_anywhere_are_malformed() {
        let mut bytes = Vec::new();
        for value in [56_u32, 12, 7, 0, 9, 0, 1000, 100, 4, 0] {
            bytes.extend(value.to_ne_bytes());
        }
        bytes.extend(3_u64.to_ne_bytes());
        bytes.extend(b"a\0\xff\xfe\0\0\0\0");
        for cut in 0..bytes.len() {
            assert!(Request::parse(&bytes[..cut]).is_err(), "{cut}");
        }
        let request = Request::parse(&bytes).unwrap();
        assert_eq!((request.opcode, request.unique, request.node), (12, 7, 9));
        assert_eq!((request.uid, request.gid), (1000, 100));
        let mut body = request.body;
        assert_eq!(body.u64(), Ok(3));
        assert_eq!(body.name(), Ok(c"a"));
        assert_eq!(body.name().map(CStr::to_bytes), Ok(&b"\xff\xfe"[..]));
        assert_eq!(body.name(), Err(Malformed));
    }

    #[test]
    fn names_are_one_component() {
        for name in [&b"\0"[..], b".\0", b"..\0", b"a/b\0", b"/\0", b"endless"] {
            assert_eq!(Body(name).name(), Err(Malformed), "{name:?}");
        }
        assert_eq!(Body(b"...\0").name(), Ok(c"..."));
    }

    #[test]
    fn replies_hold_their_layout() {
        let mut reply = Reply::new(Arc::default());
        reply.no_entry();
        assert_eq!(reply.written(), ENTRY);
        reply.clear();
        let entry = Dirent {
            ino: 1,
            offset: 2,
            kind: 8,
            name: b"123456789",
        };
        assert!(!reply.dirent(39, &entry) && reply.written() == 0);
        assert!(reply.dirent(40, &entry) && reply.written() == 40);
        let bytes = reply.finish(5, Ok(()));
        assert_eq!(bytes.len(), 56);
        assert_eq!(bytes[..4], 56_u32.to_ne_bytes());
        assert_eq!(reply.finish(5, Err(Errno::NOENT)).len(), OUT_HEADER);
    }

    #[test]
    fn device_numbers_there_and_back() {
        for number in [0, 0x0105, 0xfff0_0fff, 0x1234_5678] {
            assert_eq!(device(from_device(number)), number);
        }
    }
}
