//! From a stream of blocks to entries.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::header::{Dialect, Fields, number, text};
use super::pax::Records;
use super::sparse::{self, Map, PaxSparse, Span};
use super::{BLOCK, SPECIAL_MAX, TarError};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Device,
    Directory,
    Fifo,
    /// A type that nobody knows; its data is skipped.
    Unknown(u8),
}

/// One entry, all its headers taken together.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    /// Permission bits, with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    /// Seconds since the epoch and nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Size with holes.
    pub(crate) size: u64,
    /// Where the stored bytes belong, in the order in which they come.
    pub(crate) spans: Vec<Span>,
}

/// Reads one archive; see the module's head.
pub(crate) struct Reader<R> {
    source: R,
    /// Content of the present entry that was not read yet.
    left: u64,
    /// Padding after it.
    padding: usize,
    done: bool,
    /// Extended headers seen so far; they too are bounded by who unpacks.
    pub(crate) headers: u64,
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            left: 0,
            padding: 0,
            done: false,
            headers: 0,
        }
    }

    /// Goes to the next entry. The present one's content must have been read to its end; `raw`
    /// gets everything up to the next one's content. At the end of the archive `raw` has got all
    /// of the rest, and the answer is `None`.
    pub(crate) fn next(&mut self, raw: &mut dyn Write) -> Result<Option<Entry>, TarError> {
        debug_assert_eq!(self.left, 0);
        let mut records = Records::default();
        let (mut long_name, mut long_link) = (None, None);
        while !self.done {
            self.pad(raw)?;
            let Some(block) = self.header(raw)? else {
                self.done = true;
                self.drain(raw)?;
                break;
            };
            self.headers += 1;
            let fields = Fields::parse(&block)?;
            match fields.kind {
                b'x' => records = Records::parse(&self.special(&fields, raw)?)?,
                b'g' => {
                    // Read for its errors only: Docker ignores what it says.
                    Records::parse(&self.special(&fields, raw)?)?;
                    records = Records::default();
                    (long_name, long_link) = (None, None);
                }
                b'L' => long_name = Some(text(&self.special(&fields, raw)?).to_vec()),
                b'K' => long_link = Some(text(&self.special(&fields, raw)?).to_vec()),
                _ => {
                    let mut entry = self.entry(&fields, &block, records, raw)?;
                    if let Some(name) = long_name.filter(|name: &Vec<u8>| !name.is_empty()) {
                        entry.name = name;
                    }
                    if let Some(link) = long_link.filter(|link: &Vec<u8>| !link.is_empty()) {
                        entry.link = link;
                    }
                    // Before POSIX a directory was a file whose name ends in a slash.
                    if fields.kind == 0 && entry.name.ends_with(b"/") {
                        entry.kind = Kind::Directory;
                    }
                    return Ok(Some(entry));
                }
            }
        }
        Ok(None)
    }

    /// Some more of the present entry's content; empty at its end. Call [`Reader::consume`].
    pub(crate) fn content(&mut self) -> Result<&[u8], TarError> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let bytes = fill(&mut self.source)?;
        if bytes.is_empty() {
            return Err(TarError::Truncated);
        }
        Ok(&bytes[..bytes.len().min(left)])
    }

    /// Marks content as read.
    pub(crate) fn consume(&mut self, amount: usize) {
        self.source.consume(amount);
        self.left -= amount as u64;
    }

    /// Writes an entry's content into an empty file; holes stay holes. `wrote` hears of every piece
    /// that was written, `failed` makes an error of the file's.
    pub(crate) fn write_to<E: From<TarError>>(
        &mut self,
        entry: &Entry,
        file: &OwnedFd,
        failed: impl Fn(Errno) -> E,
        mut wrote: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut end = 0;
        for span in &entry.spans {
            let (mut offset, mut left) = (span.offset, span.length);
            while left > 0 {
                let bytes = self.content()?;
                let want = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                if want == 0 {
                    return Err(TarError::Truncated.into());
                }
                let written = match rustix::io::pwrite(file, &bytes[..want], offset) {
                    Err(Errno::INTR) => continue,
                    written => written.map_err(&failed)?,
                };
                self.consume(written);
                offset += written as u64;
                left -= written as u64;
                wrote(written as u64)?;
            }
            end = offset;
        }
        if entry.size > end {
            rustix::fs::ftruncate(file, entry.size).map_err(failed)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        fields: &Fields,
        block: &[u8; BLOCK],
        records: Records,
        raw: &mut dyn Write,
    ) -> Result<Entry, TarError> {
        let kind = match fields.kind {
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Unknown(other),
        };
        let size = u64::try_from(records.size.unwrap_or(fields.size))
            .map_err(|_| TarError::Header("size"))?;
        let has_data = matches!(kind, Kind::File | Kind::Unknown(_));
        self.left = if has_data { size } else { 0 };
        let tail = (self.left % BLOCK as u64) as usize;
        self.padding = (BLOCK - tail) % BLOCK;

        let form = records.sparse.form();
        let map = if fields.kind == b'S' {
            Some(self.gnu_map(fields, block, raw)?)
        } else if has_data && form == PaxSparse::Inline {
            Some(records.sparse.inline_spans()?)
        } else if has_data && form == PaxSparse::InData {
            Some(self.map_in_data(raw)?)
        } else {
            None
        };
        let stored = self.left;
        let (size, spans) = match map {
            None if stored == 0 => (0, Vec::new()),
            None => (
                stored,
                vec![Span {
                    offset: 0,
                    length: stored,
                }],
            ),
            Some(spans) => {
                let full = if fields.kind == b'S' {
                    number(&block[483..495]).and_then(|size| u64::try_from(size).ok())
                } else {
                    records.sparse.full_size()?.or(Some(size))
                };
                let size = full.ok_or(TarError::Header("sparse size"))?;
                let map = Map { spans, size };
                if map.check()? != stored {
                    return Err(TarError::Header("sparse map"));
                }
                (map.size, map.spans)
            }
        };
        let name = match (form, records.sparse.name) {
            (PaxSparse::Inline | PaxSparse::InData, Some(name)) => name,
            _ => records.path.unwrap_or_else(|| fields.name.clone()),
        };
        Ok(Entry {
            kind,
            name,
            link: records.link.unwrap_or_else(|| fields.link.clone()),
            mode: (fields.mode & 0o7777) as u32,
            uid: records.uid.unwrap_or(fields.uid),
            gid: records.gid.unwrap_or(fields.gid),
            mtime: records.mtime.unwrap_or((fields.mtime, 0)),
            xattrs: records.xattrs,
            size,
            spans,
        })
    }

    /// The map of an old GNU sparse file: in the header, and in more blocks after it.
    fn gnu_map(
        &mut self,
        fields: &Fields,
        block: &[u8; BLOCK],
        raw: &mut dyn Write,
    ) -> Result<Vec<Span>, TarError> {
        if fields.dialect != Dialect::Gnu {
            return Err(TarError::Header("sparse file"));
        }
        let mut spans = Vec::new();
        sparse::gnu_pairs(&block[386..482], &mut spans)?;
        let mut more = block[482] != 0;
        let mut blocks = 0;
        while more {
            let block = self.block(raw)?.ok_or(TarError::Truncated)?;
            sparse::gnu_pairs(&block[..504], &mut spans)?;
            more = block[504] != 0;
            blocks += BLOCK as u64;
            if blocks > SPECIAL_MAX {
                return Err(TarError::TooLong("sparse map"));
            }
        }
        Ok(spans)
    }

    fn map_in_data(&mut self, raw: &mut dyn Write) -> Result<Vec<Span>, TarError> {
        sparse::in_data(|| {
            // The map is part of the entry's data, so it cannot reach beyond it.
            self.left = self
                .left
                .checked_sub(BLOCK as u64)
                .ok_or(TarError::Header("sparse map"))?;
            self.block(raw)?.ok_or(TarError::Truncated)
        })
    }

    /// The data of an `x`, `g`, `L` or `K` header.
    fn special(&mut self, fields: &Fields, raw: &mut dyn Write) -> Result<Vec<u8>, TarError> {
        let size = u64::try_from(fields.size).map_err(|_| TarError::Header("size"))?;
        if size > SPECIAL_MAX {
            return Err(TarError::TooLong("extended header"));
        }
        let mut data = vec![0; size as usize];
        self.source.read_exact(&mut data).map_err(eof)?;
        raw.write_all(&data).map_err(TarError::Keep)?;
        self.padding = (BLOCK - data.len() % BLOCK) % BLOCK;
        Ok(data)
    }

    /// The next header block; `None` at the archive's end.
    fn header(&mut self, raw: &mut dyn Write) -> Result<Option<[u8; BLOCK]>, TarError> {
        let zero = |block: &[u8; BLOCK]| block.iter().all(|b| *b == 0);
        match self.block(raw)? {
            Some(block) if zero(&block) => match self.block(raw)? {
                Some(block) if !zero(&block) => Err(TarError::Header("zero block")),
                _ => Ok(None),
            },
            block => Ok(block),
        }
    }

    /// A whole block, or `None` where the source ends just before it.
    fn block(&mut self, raw: &mut dyn Write) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let bytes = fill(&mut self.source)?;
            if bytes.is_empty() {
                return if filled == 0 {
                    Ok(None)
                } else {
                    Err(TarError::Truncated)
                };
            }
            let amount = bytes.len().min(BLOCK - filled);
            block[filled..filled + amount].copy_from_slice(&bytes[..amount]);
            self.source.consume(amount);
            filled += amount;
        }
        raw.write_all(&block).map_err(TarError::Keep)?;
        Ok(Some(block))
    }

    /// Padding may be missing at the end of the archive, and need not be zero.
    fn pad(&mut self, raw: &mut dyn Write) -> Result<(), TarError> {
        while self.padding > 0 {
            let bytes = fill(&mut self.source)?;
            let amount = bytes.len().min(self.padding);
            if amount == 0 {
                self.padding = 0;
                break;
            }
            raw.write_all(&bytes[..amount]).map_err(TarError::Keep)?;
            self.source.consume(amount);
            self.padding -= amount;
        }
        Ok(())
    }

    fn drain(&mut self, raw: &mut dyn Write) -> Result<(), TarError> {
        loop {
            let bytes = fill(&mut self.source)?;
            if bytes.is_empty() {
                return Ok(());
            }
            raw.write_all(bytes).map_err(TarError::Keep)?;
            let amount = bytes.len();
            self.source.consume(amount);
        }
    }
}

/// `fill_buf` that goes on after a signal.
fn fill(source: &mut impl BufRead) -> Result<&[u8], TarError> {
    loop {
        match source.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(eof(error)),
        }
    }
    source.fill_buf().map_err(eof)
}

fn eof(error: std::io::Error) -> TarError {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        TarError::Truncated
    } else {
        TarError::Read(error)
    }
}
