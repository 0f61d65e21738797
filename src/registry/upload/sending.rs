//! A blob on its way: in one request, or in pieces over a line that does not let one through.
//!
//! ```text
//!            cut, 413                       a piece is refused, not for its length
//!  one PATCH ────────▶ pieces, each a PATCH ─────────────────────────────────────▶ one PATCH,
//!                        └ cut, 413: smaller ones                                  for good
//! ```
//!
//! All begin with one request, as Docker's do: every registry knows how to take it. Pieces are for
//! lines that break connections after some time or so many bytes, and for proxies that bound
//! bodies; each goes by a connection of its own, and is read into memory before, so that its length
//! can be said where the blob's is unknown. They have the next of [`LENGTHS`] after each that fails,
//! or what the registry asks for as the least.
//!
//! What the registry has acknowledged is not sent again while it knows the upload. distribution 3
//! and others say after a cut how far they are; docker-registry 2 forgets an upload when what it
//! has is not what it last acknowledged, so there a piece that is cut costs the others, too.
//!
//! Attempts are counted anew after every [`PROGRESS`] bytes.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use super::{Content, Stop, Upload};
use crate::registry::blob::PROGRESS;
use crate::registry::error::Error;
use crate::registry::patience::{self, Retrying, pause_after};
use crate::registry::repository::Repository;
use crate::types::digest::Digest;

/// How often an interrupted upload is taken up again with no progress worth the name.
const ATTEMPTS: u32 = 5;
/// The second pause; doubled each time.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Lengths of pieces, in bytes: four attempts get from one request to the shortest. The first is the
/// least part of S3's: of less, a registry that keeps blobs there copies all that it has for each.
const LENGTHS: [u64; 4] = [5 << 20, 1 << 20, 256 << 10, 64 << 10];
/// The longest pieces that are read into memory; registries that ask for more get one request.
const PIECE_MAX: u64 = 16 << 20;
/// How often a piece that is not the first may be refused for where it begins.
const MISPLACED: u32 = 2;

/// In what the bytes are sent.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parting {
    /// A piece's length; `None`: all in one request.
    piece: Option<u64>,
    /// The registry does not take pieces.
    refused: bool,
    /// Pieces that were refused for where they begin, since one was taken.
    misplaced: u32,
}

impl Parting {
    /// Goes on with pieces, or smaller ones; whether that is possible. A blob's never grow again.
    fn shrink(&mut self, least: u64) -> bool {
        if self.refused || least > PIECE_MAX {
            return false;
        }
        let is_less = |length: &u64| self.piece.is_none_or(|piece| *length < piece);
        let next = LENGTHS
            .into_iter()
            .find(is_less)
            .map(|next| next.max(least));
        // What is asked for may have grown meanwhile.
        let next = next.filter(is_less);
        if next.is_some() {
            self.piece = next;
        }
        next.is_some()
    }

    /// Goes back to one request; whether that is anything new.
    fn refuse(&mut self) -> bool {
        self.refused = true;
        self.piece.take().is_some()
    }
}

struct Sending<'a> {
    upload: Upload,
    content: &'a mut dyn Content,
    parting: Parting,
    /// What the registry was told that the whole blob is.
    told: Option<Digest>,
}

/// Sends everything and finishes.
pub(super) fn send(
    upload: Upload,
    content: &mut dyn Content,
    retrying: Retrying<'_>,
) -> Result<Digest, Error> {
    let (mut failures, mut furthest) = (0, upload.offset);
    let mut sending = Sending {
        upload,
        content,
        parting: Parting::default(),
        told: None,
    };
    let mut outcome = sending.rest();
    loop {
        let stop = match outcome {
            Ok(digest) => return Ok(digest),
            Err(stop) => stop,
        };
        let mut progressed = |offset: u64| {
            let is_worth_it = offset >= furthest + PROGRESS;
            furthest = furthest.max(offset);
            is_worth_it
        };
        if progressed(sending.upload.offset) {
            failures = 0;
        }
        let least = sending.upload.least;
        let error = match stop {
            Stop::TooLarge(error) => {
                if !sending.parting.shrink(least) {
                    return Err(error);
                }
                // Each length is tried once, and nobody is busy: no pause, no failure.
                tracing::debug!(error = error.chain(), "sending smaller pieces");
                outcome = sending.take_up().map_err(Stop::from).and_then(|()| {
                    progressed(sending.upload.offset);
                    sending.rest()
                });
                continue;
            }
            Stop::Refused(error) if sending.gives_up_pieces(&error) => {
                tracing::debug!(error = error.chain(), "the registry takes no pieces");
                outcome = sending
                    .anew()
                    .map_err(Stop::from)
                    .and_then(|()| sending.rest());
                continue;
            }
            Stop::Cut(error) => {
                sending.parting.shrink(least);
                error
            }
            Stop::Refused(error) | Stop::Other(error) => {
                // A proof that has expired meanwhile is another one by now.
                let has_expired = is_refused_by(&error, &["UNAUTHORIZED"]);
                if is_lost(&error) {
                    // What it said before counts no more.
                    sending.upload.offset = 0;
                } else if !has_expired && !error.is_transient() {
                    return Err(error);
                }
                error
            }
        };
        failures += 1;
        if failures >= ATTEMPTS {
            return Err(error);
        }
        tracing::debug!(
            offset = sending.upload.offset,
            error = error.chain(),
            "upload interrupted, retrying"
        );
        let pause = pause_after(failures, PAUSE, PAUSE_MAX);
        patience::wait(pause, &sending.upload.inner.cancel, retrying)?;
        if let Some(digest) = sending.told.filter(|digest| sending.is_stored(*digest)) {
            return Ok(digest);
        }
        outcome = sending.take_up().map_err(Stop::from).and_then(|()| {
            if progressed(sending.upload.offset) {
                failures = 0;
            }
            sending.rest()
        });
    }
}

/// Refusals of a range that is not where the registry is, and of an upload that it has forgotten.
fn is_lost(error: &Error) -> bool {
    is_refused_by(
        error,
        &[
            "BLOB_UPLOAD_UNKNOWN",
            "BLOB_UPLOAD_INVALID",
            "RANGE_INVALID",
        ],
    )
}

/// Refusals that have nothing to do with how something is sent.
fn is_final(error: &Error) -> bool {
    is_refused_by(error, &["UNAUTHORIZED", "DENIED", "TOOMANYREQUESTS"])
}

fn is_refused_by(error: &Error, codes: &[&str]) -> bool {
    matches!(error, Error::Refused(refusal) if codes.contains(&refusal.code()))
}

impl Sending<'_> {
    /// Sends what the registry does not have, and finishes.
    fn rest(&mut self) -> Result<Digest, Stop> {
        let (size, offset) = (self.content.size(), self.upload.offset);
        if let Some(size) = size.filter(|size| offset > *size) {
            return Err(Stop::Other(Error::BlobSize {
                digest: self.content.digest()?,
                expected: size,
                actual: offset,
            }));
        }
        // What is of unknown length is read to its end in any case: its digest depends on it.
        if size.is_none_or(|size| offset < size) {
            let left = size.map(|size| size - offset);
            match self.parting.piece {
                None => {
                    let mut reader = self.content.open(offset).map_err(Error::Source)?;
                    self.upload.append(&mut *reader, left, false)?;
                }
                Some(piece) => self.pieces(piece, left)?,
            }
        }
        let digest = self.content.digest()?;
        self.told = Some(digest);
        self.upload.commit(digest)?;
        Ok(digest)
    }

    /// Sends the rest of the bytes in pieces; `left` where their number is known.
    fn pieces(&mut self, length: u64, left: Option<u64>) -> Result<(), Stop> {
        let offset = self.upload.offset;
        let mut reader = self.content.open(offset).map_err(Error::Source)?;
        let (is_known, mut left) = (left.is_some(), left.unwrap_or(u64::MAX));
        let mut piece = Vec::new();
        while left > 0 {
            piece.clear();
            let most = length.min(left);
            let read = reader.by_ref().take(most).read_to_end(&mut piece);
            let read = read.map_err(Error::Source)? as u64;
            if is_known && read < most {
                let short = io::ErrorKind::UnexpectedEof.into();
                return Err(Stop::Other(Error::Source(short)));
            }
            if read == 0 {
                break;
            }
            let is_first = self.upload.offset == 0;
            self.upload.append(&mut &piece[..], Some(read), true)?;
            if !is_first {
                self.parting.misplaced = 0;
            }
            left -= read;
        }
        Ok(())
    }

    /// Gives pieces up if a body was refused for being one; whether so. There is no telling but by what the
    /// refusal is not.
    fn gives_up_pieces(&mut self, error: &Error) -> bool {
        if is_final(error) || self.parting.piece.is_none() {
            return false;
        }
        if is_lost(error) {
            self.parting.misplaced += 1;
            if self.parting.misplaced < MISPLACED {
                return false;
            }
        }
        self.parting.refuse()
    }

    fn repository(&self) -> Repository {
        Repository {
            inner: Arc::clone(&self.upload.inner),
        }
    }

    /// Whether the registry has the blob, and only its answer was lost.
    fn is_stored(&self, digest: Digest) -> bool {
        matches!(self.repository().blob_size(digest), Ok(Some(_)))
    }

    /// Goes back to where the registry is, if it still knows the upload; else to the beginning.
    fn take_up(&mut self) -> Result<(), Error> {
        match self.upload.status() {
            Ok(()) => Ok(()),
            Err(error) if error.is_transient() => Err(error),
            Err(Error::Cancelled) => Err(Error::Cancelled),
            Err(error) => {
                tracing::debug!(error = error.chain(), "the upload is begun anew");
                self.anew()
            }
        }
    }

    fn anew(&mut self) -> Result<(), Error> {
        self.upload = self.repository().upload()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_shrink_to_what_is_taken() {
        let lengths = |least| {
            let mut parting = Parting::default();
            let next = || parting.shrink(least).then_some(parting.piece).flatten();
            std::iter::from_fn(next).collect::<Vec<_>>()
        };
        assert_eq!(lengths(0), LENGTHS);
        assert!(lengths(0).len() < ATTEMPTS as usize);
        assert_eq!(lengths(5 << 20), [5 << 20]);
        assert_eq!(lengths(500_000), [5 << 20, 1 << 20, 500_000]);
        assert!(lengths(PIECE_MAX + 1).is_empty());

        let mut parting = Parting::default();
        assert!(parting.shrink(0) && parting.shrink(0));
        assert!(!parting.shrink(8 << 20), "they would be longer");
        assert_eq!(parting.piece, Some(1 << 20));

        let mut parting = Parting::default();
        assert!(parting.shrink(0) && parting.refuse());
        assert!(!parting.shrink(0), "for good");
        assert!(!parting.refuse(), "it is one request by now");
    }
}
