//! A layer's tar, read ahead and checked on a thread of its own.
//!
//! What comes out is passed on at once, so that a tar which turns out to be another than its diff
//! id says has been written by then: its end is an error, and whoever writes gives up what it was
//! part of. The thread keeps up to [`QUEUE`] pieces of [`CHUNK`] bytes ahead, and ends with its
//! reader.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest as _, Sha256};

use super::error::{Error, store};
use super::pipeline::CHUNK;
use super::split::LayerTar;
use super::store::Store;
use crate::types::digest::Digest;

/// Pieces that wait for the reader.
const QUEUE: usize = 8;

enum Piece {
    Bytes(Vec<u8>),
    /// The end; all of it was right.
    End,
    Failed(Error),
}

/// What a layer must be.
struct Expected {
    diff_id: Digest,
    size: u64,
    /// Where it is, for errors.
    path: PathBuf,
}

/// The tar of a layer; an [`Error`] of this folder, wrapped, where it is damaged.
pub(super) struct Checked {
    pieces: Receiver<Piece>,
    piece: Vec<u8>,
    at: usize,
    has_ended: bool,
}

impl Checked {
    /// Begins to read the layer, whose tar has `size` bytes.
    pub(super) fn start(store: &Store, diff_id: Digest, size: u64) -> Result<Self, Error> {
        let tar = store.layer_tar(&diff_id)?;
        let path = store.layer_path(&diff_id);
        let expected = Expected {
            diff_id,
            size,
            path,
        };
        Self::read(tar, expected)
    }

    fn read(tar: LayerTar, expected: Expected) -> Result<Self, Error> {
        let (feed, pieces) = sync_channel(QUEUE);
        let path = expected.path.clone();
        thread::Builder::new()
            .name("layer-read".to_owned())
            .spawn(move || {
                let end = match pass(tar, &expected, &feed) {
                    Ok(()) => Piece::End,
                    Err(error) => Piece::Failed(error),
                };
                // Where nobody reads on, nobody asks.
                let _ = feed.send(end);
            })
            .map_err(|error| store("start a thread for", path)(error))?;
        Ok(Self {
            pieces,
            piece: Vec::new(),
            at: 0,
            has_ended: false,
        })
    }
}

/// Reads to the end, or until nobody wants more.
fn pass(mut tar: LayerTar, expected: &Expected, feed: &SyncSender<Piece>) -> Result<(), Error> {
    let damaged = |reason: String| Error::Damaged {
        path: expected.path.clone(),
        reason,
    };
    let (mut hash, mut size) = (Sha256::new(), 0);
    loop {
        let mut piece = Vec::with_capacity(CHUNK);
        let read = tar.by_ref().take(CHUNK as u64).read_to_end(&mut piece);
        read.map_err(store("read", &expected.path))?;
        if piece.is_empty() {
            break;
        }
        hash.update(&piece);
        size += piece.len() as u64;
        if feed.send(Piece::Bytes(piece)).is_err() {
            return Ok(());
        }
    }
    let actual = Digest::from_bytes(hash.finalize().into());
    if actual != expected.diff_id {
        let id = expected.diff_id;
        return Err(damaged(format!(
            "the layer has digest {actual}, expected {id}"
        )));
    }
    match expected.size == size {
        true => Ok(()),
        false => Err(damaged(format!(
            "the layer has {size} bytes, expected {}",
            expected.size
        ))),
    }
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() && !self.has_ended {
            match self.pieces.recv() {
                Ok(Piece::Bytes(piece)) => (self.piece, self.at) = (piece, 0),
                Ok(Piece::End) => self.has_ended = true,
                Ok(Piece::Failed(error)) => return Err(io::Error::other(error)),
                Err(_) => return Err(io::Error::other(Error::Interrupted)),
            }
        }
        let rest = &self.piece[self.at..];
        let amount = rest.len().min(buffer.len());
        buffer[..amount].copy_from_slice(&rest[..amount]);
        self.at += amount;
        Ok(amount)
    }
}
