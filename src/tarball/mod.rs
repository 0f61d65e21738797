//! Tar archives that nobody vouches for, and writing our own ([`writer`]).
//!
//! The 512-byte headers are laid out by crate `tar`; everything between them is read here, because
//! the crate's own PAX reader splits records at newlines and so can be made to see a link target
//! that no other reader sees. The reference for what an archive *means* is Go's `archive/tar`: it
//! is what Docker unpacks with, and an image that means one thing to a scanner and another to the
//! engine is an attack. So:
//!
//! - PAX records are walked by their length; `g` headers are read and ignored, as Docker does;
//! - a GNU long name beats a PAX path, which beats the header's own fields;
//! - links, directories, devices and fifos have no data, whatever their size field says;
//! - sparse maps (old GNU, PAX 0.0, 0.1, 1.0) must be ordered, within the file, and agree with the
//!   amount of stored data;
//! - one zero block and then something else is an error; two end the archive; what follows is kept
//!   (it is part of the layer's digest) but not read.
//!
//! Nothing is seeked: the reader sees each byte once, in order. Every byte that is not a file's
//! content (headers, maps, padding, what trails) goes verbatim to a sink that the caller gives;
//! with the contents these are the archive, which is how `split` rebuilds it.
//!
//! Limits: [`SPECIAL_MAX`] bytes in one extended header, long name or sparse map (Go's own limit).
//! A path's length and the number of entries are bounded by who unpacks.

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

#[cfg(test)]
pub(crate) mod build;

pub(crate) use header::checksum_ok as is_header;
pub(crate) use reader::{Entry, Kind, Reader};
pub(crate) use sparse::Span;
pub(crate) use writer::{Header, Writer};

/// Most bytes that an extended header, a long name or a sparse map may have.
pub(crate) const SPECIAL_MAX: u64 = 1 << 20;

/// One tar block.
pub(crate) const BLOCK: usize = 512;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The source failed.
    #[error("cannot read the archive")]
    Read(#[source] std::io::Error),
    /// The sink for what is not content failed.
    #[error("cannot keep the archive's headers")]
    Keep(#[source] std::io::Error),
    /// The archive ends in the middle of something. Docker's (Go's) wording.
    #[error("unexpected EOF")]
    Truncated,
    /// Checksum, magic or a number that cannot be read.
    #[error("archive/tar: invalid tar header ({0})")]
    Header(&'static str),
    /// An extended header, long name or sparse map over the limit.
    #[error("archive/tar: header field too long ({0})")]
    TooLong(&'static str),
}
