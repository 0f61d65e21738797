//! Records that need not be in memory: in a file that has no name, found again by their place.
//!
//! The latest are held back and written together; a small layer never has a file.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Mode, OFlags};

/// Bytes that are held back.
const PENDING: usize = 256 << 10;
/// The file's name until it is removed, at once.
const NAME: &str = "ledger";

#[derive(Debug)]
pub(super) struct Spill<'a> {
    /// Where the file is made.
    dir: BorrowedFd<'a>,
    file: Option<File>,
    written: u64,
    pending: Vec<u8>,
}

impl<'a> Spill<'a> {
    pub(super) fn new(dir: BorrowedFd<'a>) -> Self {
        Self {
            dir,
            file: None,
            written: 0,
            pending: Vec::new(),
        }
    }

    /// Keeps a record; its place.
    pub(super) fn push(&mut self, parts: &[&[u8]]) -> io::Result<u64> {
        if self.pending.len() >= PENDING {
            let file = match self.file.take() {
                Some(file) => file,
                None => create(self.dir)?,
            };
            self.file
                .insert(file)
                .write_all_at(&self.pending, self.written)?;
            self.written += self.pending.len() as u64;
            self.pending.clear();
        }
        let place = self.written + self.pending.len() as u64;
        for part in parts {
            self.pending.extend_from_slice(part);
        }
        Ok(place)
    }

    /// Reads a part of a record.
    pub(super) fn read(&self, place: u64, bytes: &mut [u8]) -> io::Result<()> {
        match (place.checked_sub(self.written), &self.file) {
            (None, Some(file)) => file.read_exact_at(bytes, place),
            (Some(start), _) => {
                let held = usize::try_from(start)
                    .ok()
                    .and_then(|start| self.pending.get(start..)?.get(..bytes.len()));
                bytes.copy_from_slice(held.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            (None, None) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Replaces a part of a record by as many bytes.
    pub(super) fn replace(&mut self, place: u64, bytes: &[u8]) -> io::Result<()> {
        match (place.checked_sub(self.written), &self.file) {
            (None, Some(file)) => file.write_all_at(bytes, place),
            (Some(start), _) => {
                let held = usize::try_from(start)
                    .ok()
                    .and_then(|start| self.pending.get_mut(start..)?.get_mut(..bytes.len()));
                held.ok_or(io::ErrorKind::UnexpectedEof)?
                    .copy_from_slice(bytes);
                Ok(())
            }
            (None, None) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn create(dir: BorrowedFd<'_>) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, NAME, flags, Mode::from_raw_mode(0o600))?;
    rustix::fs::unlinkat(dir, NAME, AtFlags::empty())?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn records_are_found_again() {
        let base = tempfile::tempdir().unwrap();
        let dir = File::open(base.path()).unwrap();
        let mut spill = Spill::new(dir.as_fd());
        let record = |at: u32| at.to_le_bytes().repeat(1 + at as usize % 9);
        let places: Vec<u64> = (0..100_000)
            .map(|at| spill.push(&[&[7], &record(at)]))
            .collect::<io::Result<_>>()
            .unwrap();
        for at in [0, 1, 50_000, 99_999] {
            let mut bytes = vec![0; record(at).len()];
            spill.read(places[at as usize] + 1, &mut bytes).unwrap();
            assert_eq!(bytes, record(at));
            spill.replace(places[at as usize], &[9]).unwrap();
            spill.read(places[at as usize], &mut bytes[..1]).unwrap();
            assert_eq!(bytes[0], 9);
        }
        assert!(spill.read(places[99_999], &mut [0; 1000]).is_err());
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
    }
}
