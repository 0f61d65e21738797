//! Copies of files: what is in them without filling their holes, and their times.
//!
//! An image or a container may hold a file of a terabyte with nothing in it; read as bytes it
//! would fill the disk, or the memory where it goes to a tmpfs.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom as Whence, Stat, Timespec, Timestamps, ftruncate, seek};
use rustix::io::Errno;

/// Copies all of the regular file `from` to the empty file `to`; holes become holes. Where a
/// filesystem tells of none, all is data.
///
/// # Errors
/// Reading's and writing's; what was copied so far stays.
pub fn data(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut source = File::from(from.try_clone_to_owned()?);
    let mut target = File::from(to.try_clone_to_owned()?);
    let mut end = 0;
    loop {
        let start = match seek(from, Whence::Data(end)) {
            Ok(start) => start,
            // Nothing but a hole after this.
            Err(Errno::NXIO) => break,
            // Not a filesystem that knows.
            Err(Errno::INVAL) => {
                source.seek(SeekFrom::Start(end))?;
                target.seek(SeekFrom::Start(end))?;
                io::copy(&mut source, &mut target)?;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        end = seek(from, Whence::Hole(start))?;
        source.seek(SeekFrom::Start(start))?;
        target.seek(SeekFrom::Start(start))?;
        io::copy(&mut (&mut source).take(end - start), &mut target)?;
    }
    let length = source.metadata()?.len();
    Ok(ftruncate(to, length)?)
}

/// A file's times, for its copy.
pub fn times(of: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: of.st_atime as _,
            tv_nsec: of.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: of.st_mtime as _,
            tv_nsec: of.st_mtime_nsec as _,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn bytes_and_holes_are_kept() {
        let (mut from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let parts: [(u64, &[u8]); 3] = [(0, b"begin"), (8 << 20, b"middle"), (64 << 20, b"end")];
        for (at, bytes) in parts {
            from.seek(SeekFrom::Start(at)).unwrap();
            from.write_all(bytes).unwrap();
        }
        let length = 1 << 40;
        from.set_len(length).unwrap();
        data(from.as_fd(), to.as_fd()).unwrap();
        let copied = to.metadata().unwrap();
        assert_eq!(copied.len(), length);
        assert!(copied.blocks() * 512 < 1 << 20, "{}", copied.blocks());
        for (at, bytes) in parts {
            let mut read = vec![0; bytes.len()];
            std::os::unix::fs::FileExt::read_exact_at(&to, &mut read, at).unwrap();
            assert_eq!(read, bytes);
        }
    }

    #[test]
    fn empty_and_whole_files() {
        for bytes in [&b""[..], b"all of it"] {
            let (mut from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            from.write_all(bytes).unwrap();
            data(from.as_fd(), to.as_fd()).unwrap();
            let mut read = Vec::new();
            let mut to = to;
            to.rewind().unwrap();
            to.read_to_end(&mut read).unwrap();
            assert_eq!(read, bytes);
        }
    }
}
