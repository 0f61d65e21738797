//! What rebuilds a layer's tar byte for byte.
//!
//! A layer's digest is that of its tar, and no two programs write the same tar from the same tree.
//! So beside each unpacked layer lies `split.zst`: everything of the archive that is not a file's
//! content, in order, and between it the places of the contents. It is about a kilobyte an entry
//! before compression, and a few dozen bytes after.
//!
//! ```text
//! "moss split 1\n"
//! 0 LENGTH bytes                                  verbatim
//! 1 ENTRY PATHLENGTH path COUNT {OFFSET LENGTH}   contents: spans of a file
//! 2 TOTAL                                         end; TOTAL is the archive's size
//! ```
//!
//! Numbers are LEB128, the whole is one zstd frame with a checksum. A content's file is `aside/ENTRY`
//! if that exists (a file that a later entry of the same archive displaced, or content that has no
//! place in the tree), else `fs/PATH`. Files are opened by handle and without following links; one
//! that is gone or too short is an error, never wrong data: the archive's digest would not match.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags};

use crate::sys::tree;
use crate::tarball::Span;

const MAGIC: &[u8] = b"moss split 1\n";
const VERBATIM: u8 = 0;
const CONTENT: u8 = 1;
const END: u8 = 2;

/// The file's name in the layer's directory.
pub(crate) const FILE: &str = "split.zst";
/// The layer's tree, in the layer's directory.
pub(crate) const TREE: &str = "fs";
/// Contents without a place in the tree, in the layer's directory.
pub(crate) const ASIDE: &str = "aside";

/// Verbatim bytes are written in pieces of this size.
const PIECE: usize = 64 << 10;
/// Longest path that a reader accepts; the unpacker writes none over 4096.
const PATH_MAX: u64 = 8192;
/// Fast: headers compress twentyfold at any level.
const LEVEL: i32 = 1;

/// Writes a split file while its archive is unpacked.
pub(crate) struct Writer {
    out: zstd::Encoder<'static, BufWriter<File>>,
    pending: Vec<u8>,
    total: u64,
}

impl Writer {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let mut out = zstd::Encoder::new(BufWriter::new(file), LEVEL)?;
        out.include_checksum(true)?;
        out.write_all(MAGIC)?;
        Ok(Self {
            out,
            pending: Vec::with_capacity(PIECE),
            total: 0,
        })
    }

    /// Notes that the content of entry `entry` comes here; `path` is empty where it is aside.
    pub(crate) fn content(&mut self, entry: u64, path: &[u8], spans: &[Span]) -> io::Result<()> {
        self.flush_pending()?;
        self.out.write_all(&[CONTENT])?;
        number(&mut self.out, entry)?;
        number(&mut self.out, path.len() as u64)?;
        self.out.write_all(path)?;
        number(&mut self.out, spans.len() as u64)?;
        for span in spans {
            number(&mut self.out, span.offset)?;
            number(&mut self.out, span.length)?;
            self.total += span.length;
        }
        Ok(())
    }

    /// Ends the file; answers the archive's size.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.flush_pending()?;
        self.out.write_all(&[END])?;
        number(&mut self.out, self.total)?;
        self.out
            .finish()?
            .into_inner()
            .map_err(|error| error.into_error())?;
        Ok(self.total)
    }

    fn flush_pending(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.out.write_all(&[VERBATIM])?;
        number(&mut self.out, self.pending.len() as u64)?;
        self.out.write_all(&self.pending)?;
        self.pending.clear();
        Ok(())
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pending.len() + bytes.len() > PIECE {
            self.flush_pending()?;
        }
        self.pending.extend_from_slice(bytes);
        self.total += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn number(out: &mut impl Write, mut value: u64) -> io::Result<()> {
    let mut bytes = [0; 10];
    let mut count = 0;
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        bytes[count] = if value == 0 { low } else { low | 0x80 };
        count += 1;
        if value == 0 {
            return out.write_all(&bytes[..count]);
        }
    }
}

/// Reads the archive back.
pub struct LayerTar {
    split: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    tree: OwnedFd,
    aside: Option<OwnedFd>,
    displaced: HashSet<u64>,
    state: State,
    /// Bytes given out so far.
    total: u64,
}

enum State {
    /// A record comes next.
    Record,
    /// So many verbatim bytes are left.
    Verbatim(u64),
    /// Spans of a file, the last first.
    Content {
        file: File,
        spans: Vec<Span>,
    },
    End,
}

impl LayerTar {
    /// Opens the split file of the layer in `layer`.
    pub(crate) fn open(layer: &OwnedFd) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(layer, FILE, flags, Mode::empty())?);
        let mut split = BufReader::with_capacity(PIECE, zstd::Decoder::new(file)?);
        let mut magic = [0; MAGIC.len()];
        split.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(damaged("it is of another format"));
        }
        let tree = tree::open_child_dir(layer.as_fd(), OsStr::new(TREE))?;
        let aside = match tree::open_child_dir(layer.as_fd(), OsStr::new(ASIDE)) {
            Err(rustix::io::Errno::NOENT) => None,
            aside => Some(aside?),
        };
        let mut displaced = HashSet::new();
        if let Some(aside) = &aside {
            for entry in rustix::fs::Dir::read_from(aside)? {
                let entry = entry?;
                displaced.extend(
                    entry
                        .file_name()
                        .to_str()
                        .ok()
                        .and_then(|n| n.parse::<u64>().ok()),
                );
            }
        }
        Ok(Self {
            split,
            tree,
            aside,
            displaced,
            state: State::Record,
            total: 0,
        })
    }

    fn record(&mut self) -> io::Result<State> {
        match self.byte()? {
            VERBATIM => Ok(State::Verbatim(self.number()?)),
            CONTENT => {
                let entry = self.number()?;
                let length = self.number()?;
                if length > PATH_MAX {
                    return Err(damaged("a path is too long"));
                }
                let mut path = vec![0; length as usize];
                self.split.read_exact(&mut path)?;
                let count = self.number()?;
                let mut spans = Vec::new();
                for _ in 0..count {
                    let (offset, length) = (self.number()?, self.number()?);
                    if length > 0 {
                        spans.push(Span { offset, length });
                    }
                }
                spans.reverse();
                if spans.is_empty() {
                    return Ok(State::Record);
                }
                let aside = self
                    .aside
                    .as_ref()
                    .filter(|_| self.displaced.contains(&entry));
                let file = match aside {
                    Some(aside) => {
                        tree::open_file_beneath(aside.as_fd(), OsStr::new(&entry.to_string()))?
                    }
                    None => tree::open_file_beneath(self.tree.as_fd(), OsStr::from_bytes(&path))?,
                };
                Ok(State::Content { file, spans })
            }
            END => {
                if self.number()? != self.total || self.split.read(&mut [0])? != 0 {
                    return Err(damaged("its size is wrong"));
                }
                Ok(State::End)
            }
            _ => Err(damaged("a record is of no known kind")),
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.split.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damaged("a number is too long"))
    }
}

impl Read for LayerTar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let amount = match &mut self.state {
                State::Record | State::Verbatim(0) => {
                    self.state = self.record()?;
                    continue;
                }
                State::End => return Ok(0),
                State::Verbatim(left) => {
                    let want = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(buffer.len());
                    let amount = self.split.read(&mut buffer[..want])?;
                    *left -= amount as u64;
                    amount
                }
                State::Content { file, spans } => {
                    let Some(span) = spans.last_mut() else {
                        self.state = State::Record;
                        continue;
                    };
                    let want = usize::try_from(span.length)
                        .unwrap_or(usize::MAX)
                        .min(buffer.len());
                    let amount = file.read_at(&mut buffer[..want], span.offset)?;
                    span.offset += amount as u64;
                    span.length -= amount as u64;
                    if span.length == 0 {
                        spans.pop();
                    }
                    amount
                }
            };
            if amount == 0 {
                return Err(damaged("a content is too short"));
            }
            self.total += amount as u64;
            return Ok(amount);
        }
    }
}

fn damaged(reason: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the record of the layer's archive is damaged: {reason}"),
    )
}
