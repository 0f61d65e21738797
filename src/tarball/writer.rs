//! Writing archives as Docker (Go's `archive/tar`, PAX format) writes them.
//!
//! A ustar header, and before it an extended one with whatever that cannot hold: a name or link of
//! more than 100 bytes or not of ASCII, a size of 8 GiB and more, ids above two million, times
//! before the epoch, extended attributes. Times are whole seconds.

use std::io::{self, Write};

use super::BLOCK;
use super::reader::Kind;

/// What is said of an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header<'a> {
    pub(crate) kind: Kind,
    /// With a slash at its end where it is a directory.
    pub(crate) name: &'a [u8],
    pub(crate) link: &'a [u8],
    /// Permission bits, with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the epoch.
    pub(crate) mtime: i64,
    pub(crate) size: u64,
    /// Of a device: whether it is one of characters, and its numbers.
    pub(crate) device: (bool, u32, u32),
    pub(crate) xattrs: &'a [(&'a [u8], Vec<u8>)],
}

impl Default for Header<'_> {
    fn default() -> Self {
        Self {
            kind: Kind::File,
            name: b"",
            link: b"",
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            size: 0,
            device: (true, 0, 0),
            xattrs: &[],
        }
    }
}

/// Writes one archive. The content of a file is written by the caller, to [`Writer::out`], and
/// completed by [`Writer::pad`].
#[derive(Debug)]
pub(crate) struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out }
    }

    /// Where content goes.
    pub(crate) fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// Begins an entry.
    pub(crate) fn header(&mut self, header: &Header<'_>) -> io::Result<()> {
        let records = extended(header);
        if !records.is_empty() {
            let (directory, base) = split(header.name);
            let name = [directory, b"PaxHeaders.0/", base].concat();
            let size = records.len() as u64;
            let own = Header {
                name: &name,
                size,
                ..Header::default()
            };
            self.out.write_all(&block(&own, b'x'))?;
            self.out.write_all(&records)?;
            self.pad(size)?;
        }
        let kind = match header.kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::Device if header.device.0 => b'3',
            Kind::Device => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
            Kind::Unknown(kind) => kind,
        };
        self.out.write_all(&block(header, kind))
    }

    /// Fills a file's last block.
    pub(crate) fn pad(&mut self, size: u64) -> io::Result<()> {
        let tail = (size % BLOCK as u64) as usize;
        self.out.write_all(&[0; BLOCK][..(BLOCK - tail) % BLOCK])
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }
}

/// Directory (with its slash) and last part of a name.
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    let bare = name.strip_suffix(b"/").unwrap_or(name);
    let at = bare.iter().rposition(|byte| *byte == b'/');
    bare.split_at(at.map_or(0, |at| at + 1))
}

/// What ustar's fields hold.
const OCTAL_7: u64 = 0o777_7777;
const OCTAL_11: u64 = 0o777_7777_7777;

/// The records of what does not fit into a header, in the order of their names.
fn extended(header: &Header<'_>) -> Vec<u8> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| records.push((key.to_vec(), value.to_vec()));
    for (key, value) in header.xattrs {
        add(&[&b"SCHILY.xattr."[..], key].concat(), value);
    }
    for (key, value, max) in [
        (&b"gid"[..], u64::from(header.gid), OCTAL_7),
        (b"size", header.size, OCTAL_11),
        (b"uid", u64::from(header.uid), OCTAL_7),
    ] {
        if value > max {
            add(key, value.to_string().as_bytes());
        }
    }
    for (key, value) in [(&b"linkpath"[..], header.link), (b"path", header.name)] {
        if value.len() > 100 || !value.is_ascii() {
            add(key, value);
        }
    }
    if u64::try_from(header.mtime).is_err() {
        add(b"mtime", header.mtime.to_string().as_bytes());
    }
    records.sort();
    let records = records.iter().flat_map(|(key, value)| record(key, value));
    records.collect()
}

/// One record, which begins with its own length.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while length != body + length.to_string().len() {
        length = body + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn block(header: &Header<'_>, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut text = |at: usize, value: &[u8]| {
        let length = value.len().min(100);
        for (to, from) in block[at..at + length].iter_mut().zip(value) {
            *to = if from.is_ascii() { *from } else { b'_' };
        }
    };
    text(0, header.name);
    text(157, header.link);
    let mut octal = |at: usize, digits: usize, value: u64| {
        let text = format!("{value:0digits$o}");
        // What is too large is in the extended header.
        let text = if text.len() > digits {
            "0".repeat(digits)
        } else {
            text
        };
        block[at..at + digits].copy_from_slice(text.as_bytes());
    };
    octal(100, 7, header.mode.into());
    octal(108, 7, header.uid.into());
    octal(116, 7, header.gid.into());
    octal(124, 11, header.size);
    octal(136, 11, u64::try_from(header.mtime).unwrap_or(0));
    if header.kind == Kind::Device {
        octal(329, 7, header.device.1.into());
        octal(337, 7, header.device.2.into());
    }
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let long = [b"d/".repeat(80), b"name".to_vec()].concat();
        let capability = (&b"security.capability"[..], b"\x01\n\0=".to_vec());
        let xattrs = [capability.clone()];
        let headers = [
            Header {
                name: b"plain",
                mode: 0o4755,
                uid: 1,
                gid: 2,
                mtime: 3,
                size: 5,
                ..Header::default()
            },
            Header {
                name: &long,
                uid: 3_000_000,
                mtime: -1,
                xattrs: &xattrs,
                ..Header::default()
            },
            Header {
                kind: Kind::Directory,
                name: "düne/".as_bytes(),
                mode: 0o1777,
                ..Header::default()
            },
            Header {
                kind: Kind::Symlink,
                name: b"link",
                link: &long,
                ..Header::default()
            },
            Header {
                kind: Kind::Device,
                name: b"null",
                device: (true, 1, 3),
                ..Header::default()
            },
        ];
        let mut archive = Vec::new();
        let mut writer = Writer::new(&mut archive);
        for header in &headers {
            writer.header(header).unwrap();
            writer.out().extend(vec![b'x'; header.size as usize]);
            writer.pad(header.size).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(archive.len() % BLOCK, 0);
        let mut reader = Reader::new(&archive[..]);
        for header in &headers {
            let entry = reader.next(&mut io::sink()).unwrap().unwrap();
            assert_eq!(entry.kind, header.kind);
            assert_eq!(entry.name, header.name);
            assert_eq!(entry.link, header.link);
            assert_eq!(entry.mode, header.mode);
            assert_eq!(
                (entry.uid, entry.gid),
                (header.uid.into(), header.gid.into())
            );
            assert_eq!(entry.mtime, (header.mtime, 0));
            assert_eq!(entry.xattrs.len(), header.xattrs.len());
            if let Some(value) = entry.xattrs.get(capability.0) {
                assert_eq!(*value, capability.1);
            }
            let size = reader.content().unwrap().len();
            assert_eq!(size as u64, header.size);
            reader.consume(size);
        }
        assert!(reader.next(&mut io::sink()).unwrap().is_none());
    }
}
