//! How layers and archives are compressed: told by the first bytes, and undone.
//!
//! A manifest has names for some of it only ([`Format`]); archives may come in any
//! ([`Compression`]).

use std::io::{self, BufRead, Cursor, Read};

use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::frames::Frames;
use super::turn::Turn;

/// Most memory that xz may ask for: its highest level wants 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;
/// Bytes that tell the compression.
const START: u64 = 6;

/// How data is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Compression {
    /// Looks at the first bytes ([`START`] are enough).
    pub(crate) fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            _ => Self::None,
        }
    }
}

/// Undoes whatever compression a stream has; many gzip members, zstd frames or bzip2 and xz streams
/// are one.
pub(crate) fn decompress<'a>(source: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>, Error> {
    undo(source, None)
}

/// The same where there are many at once, of which those that want much memory take turns.
pub(super) fn decompress_in_turn<'a>(
    source: impl BufRead + 'a,
    turn: Turn,
) -> Result<Box<dyn Read + 'a>, Error> {
    undo(source, Some(turn))
}

fn undo<'a>(
    mut source: impl BufRead + 'a,
    turn: Option<Turn>,
) -> Result<Box<dyn Read + 'a>, Error> {
    // They may come one by one.
    let mut start = Vec::new();
    let begun = source.by_ref().take(START).read_to_end(&mut start);
    begun.map_err(Error::Source)?;
    let compression = Compression::detect(&start);
    let source = Cursor::new(start).chain(source);
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Zstd => {
            let frames = Frames::new(source, turn);
            Box::new(zstd::Decoder::with_buffer(frames).map_err(Error::Decompress)?)
        }
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED);
            let stream = stream.map_err(|error| Error::Decompress(error.into()))?;
            let reader = XzDecoder::new_stream(source, stream);
            Box::new(Xz { reader, turn })
        }
    })
}

/// A decoder that may want much memory for whatever it reads.
struct Xz<R> {
    reader: R,
    turn: Option<Turn>,
}

impl<R: Read> Read for Xz<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(turn) = &mut self.turn {
            turn.take()?;
        }
        self.reader.read(buffer)
    }
}

/// How a layer's tar is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// As it is.
    Tar,
    /// Compressed by gzip.
    Gzip,
    /// Compressed by zstd.
    Zstd,
}

/// Bytes of a blob that tell its format.
const TELLING: usize = 8;

impl Format {
    /// From the beginning of a blob.
    pub(super) fn detect(start: &[u8]) -> Option<Self> {
        match Compression::detect(start) {
            Compression::None => Some(Self::Tar),
            Compression::Gzip => Some(Self::Gzip),
            Compression::Zstd => Some(Self::Zstd),
            // No manifest has a name for these.
            Compression::Bzip2 | Compression::Xz => None,
        }
    }
}

/// Adds to the beginning of a blob, which may come byte by byte, until it tells the format.
pub(super) fn begin_with(start: &mut Vec<u8>, bytes: &[u8]) {
    let lacking = TELLING.saturating_sub(start.len());
    start.extend_from_slice(&bytes[..bytes.len().min(lacking)]);
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// As a client's archive comes that begins with a short piece.
    #[test]
    fn the_beginning_may_come_byte_by_byte() {
        let plain = b"moss has no roots\n".repeat(1000);
        let mut gzip = flate2::read::GzEncoder::new(&plain[..], flate2::Compression::fast());
        let mut xz = liblzma::read::XzEncoder::new(&plain[..], 1);
        let mut bzip2 = bzip2::read::BzEncoder::new(&plain[..], bzip2::Compression::fast());
        let encoded = |encoder: &mut dyn Read| {
            let mut bytes = Vec::new();
            encoder.read_to_end(&mut bytes).unwrap();
            bytes
        };
        for stream in [
            plain.clone(),
            encoded(&mut gzip),
            encoded(&mut xz),
            encoded(&mut bzip2),
            zstd::encode_all(&plain[..], 1).unwrap(),
            b"a".to_vec(),
            Vec::new(),
        ] {
            let expected = if stream.len() < 6 { &stream } else { &plain };
            for capacity in [1, 5, 4096] {
                let source = BufReader::with_capacity(capacity, &stream[..]);
                let mut out = Vec::new();
                decompress(source).unwrap().read_to_end(&mut out).unwrap();
                assert!(out == *expected);
            }
        }
    }

    #[test]
    fn formats_are_told_by_their_beginning() {
        assert_eq!(
            Format::detect(&[0x1f, 0x8b, 8, 0, 0, 0]),
            Some(Format::Gzip)
        );
        assert_eq!(Format::detect(b"etc/"), Some(Format::Tar));
        assert_eq!(Format::detect(b"BZh9"), None);
        let mut start = Vec::new();
        for byte in [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0] {
            begin_with(&mut start, &[byte]);
        }
        assert_eq!(
            (start.len(), Format::detect(&start)),
            (8, Some(Format::Gzip))
        );
        let text = serde_json::to_string(&Format::Zstd).unwrap();
        assert_eq!(text, "\"zstd\"");
    }
}
