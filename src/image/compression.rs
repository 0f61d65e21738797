//! How layers and archives are compressed: told by the first bytes, and undone.
//!
//! A manifest has names for some of it only ([`Format`]); archives may come in any
//! ([`Compression`]).

use std::io::{BufRead, Read};

use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use serde::{Deserialize, Serialize};

use super::error::Error;

/// Most memory that xz may ask for: its highest level wants 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

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
    /// Looks at the first bytes (six are enough).
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
pub(crate) fn decompress<'a>(mut source: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>, Error> {
    let start = source.fill_buf().map_err(Error::Source)?;
    Ok(match Compression::detect(start) {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Zstd => {
            Box::new(zstd::Decoder::with_buffer(source).map_err(Error::Decompress)?)
        }
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED);
            let stream = stream.map_err(|error| Error::Decompress(error.into()))?;
            Box::new(XzDecoder::new_stream(source, stream))
        }
    })
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
    use super::*;

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
