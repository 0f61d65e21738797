//! One file of a log that is read: as it was written, or compressed since.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::{Format, local, rotate, tail};

/// Bytes read at once.
const BLOCK: usize = 64 * 1024;
/// A line longer than this is no record of ours (16 KiB, every byte escaped, and attributes).
const LONGEST: usize = 4 * 1024 * 1024;

/// What the beginning of some bytes of a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// A record, from and to here, and the next begins there.
    Record(usize, usize, usize),
    /// The beginning of one.
    Short,
    /// None, and where the next one begins is not known.
    Broken,
}

impl Format {
    /// Finds the record that begins at `start`; before `searched` its end is not.
    pub(super) fn cut(self, bytes: &[u8], start: usize, searched: usize) -> Cut {
        match self {
            Self::Json => match memchr::memchr(b'\n', &bytes[searched..]) {
                Some(end) => Cut::Record(start, searched + end, searched + end + 1),
                None if bytes.len() - start > LONGEST => Cut::Broken,
                None => Cut::Short,
            },
            Self::Local => match local::framed(&bytes[start..]) {
                local::Framed::Whole(length) => {
                    let begin = start + local::LENGTH;
                    let end = begin + length;
                    Cut::Record(begin, end, end + local::LENGTH)
                }
                local::Framed::Short => Cut::Short,
                local::Framed::Broken => Cut::Broken,
            },
        }
    }
}

/// A file that is read from the beginning on, or from another place.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    /// The inode that it was written to.
    pub(super) identity: u64,
    /// Where the next block begins.
    offset: u64,
    unpacked: Option<Box<MultiGzDecoder<BufReader<File>>>>,
    /// Records to be passed over.
    pub(super) skip: u64,
}

impl Source {
    /// Opens one of a log's files, compressed or not; `None` where there is none of this number.
    pub(super) fn open(path: &Path, number: u32) -> io::Result<Option<Self>> {
        let existing = |result: io::Result<File>| match result {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let source = |file, identity, unpacked| Self {
            file,
            identity,
            offset: 0,
            unpacked,
            skip: 0,
        };
        // A compressed one gets its name before the other loses it.
        if let Some(file) = existing(File::open(rotate::name(path, number)))? {
            let identity = file.metadata()?.ino();
            return Ok(Some(source(file, identity, None)));
        }
        if number == 0 {
            return Ok(None);
        }
        let Some(file) = existing(File::open(rotate::compressed(path, number)))? else {
            return Ok(None);
        };
        let identity = rotate::identity(&file)?;
        let unpacked = MultiGzDecoder::new(BufReader::new(file.try_clone()?));
        Ok(Some(source(file, identity, Some(Box::new(unpacked)))))
    }

    /// Appends a block to `buffer`; false at the end. A file that was emptied by its owner
    /// (`truncate -s 0`, to save space) begins anew, with an empty buffer.
    pub(super) fn fill(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let length = buffer.len();
        buffer.resize(length + BLOCK, 0);
        let result = loop {
            let space = &mut buffer[length..];
            let result = match &mut self.unpacked {
                Some(unpacked) => unpacked.read(space),
                None => self.file.read_at(space, self.offset),
            };
            match result {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let read = *result.as_ref().unwrap_or(&0);
        buffer.truncate(length + read);
        self.offset += read as u64;
        if read == 0
            && result.is_ok()
            && self.unpacked.is_none()
            && self.file.metadata()?.len() < self.offset
        {
            self.offset = 0;
            buffer.clear();
            return Ok(self.file.metadata()?.len() > 0);
        }
        Ok(result? > 0)
    }

    /// Passes over all that there is now.
    pub(super) fn abandon(&mut self) -> io::Result<()> {
        match &mut self.unpacked {
            Some(unpacked) => {
                io::copy(unpacked, &mut io::sink())?;
            }
            None => self.offset = self.file.metadata()?.len(),
        }
        Ok(())
    }

    /// Goes to the last `wanted` records, and tells how many they are.
    pub(super) fn tail(&mut self, format: Format, wanted: u64) -> io::Result<u64> {
        if self.unpacked.is_none() {
            let length = self.file.metadata()?.len();
            let found = match format {
                Format::Json => Some(tail::tail(&self.file, length, wanted)?),
                Format::Local => local::tail(&self.file, length, wanted)?,
            };
            if let Some((offset, count)) = found {
                self.offset = offset;
                return Ok(count);
            }
        }
        let all = self.count(format)?;
        self.skip = all.saturating_sub(wanted);
        Ok(all - self.skip)
    }

    /// Counts all records, and goes back to the first.
    fn count(&mut self, format: Format) -> io::Result<u64> {
        let mut buffer = Vec::new();
        let (mut start, mut searched, mut count) = (0, 0, 0);
        loop {
            match format.cut(&buffer, start, searched) {
                Cut::Record(_, _, next) => {
                    count += 1;
                    (start, searched) = (next, next);
                }
                Cut::Short => {
                    buffer.drain(..start);
                    (start, searched) = (0, buffer.len());
                    if !self.fill(&mut buffer)? {
                        break;
                    }
                }
                Cut::Broken => break,
            }
        }
        self.offset = 0;
        if self.unpacked.is_some() {
            let mut file = self.file.try_clone()?;
            io::Seek::rewind(&mut file)?;
            self.unpacked = Some(Box::new(MultiGzDecoder::new(BufReader::new(file))));
        }
        Ok(count)
    }
}
