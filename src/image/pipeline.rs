//! A layer on its way to disk: decompressed, hashed and unpacked at once.
//!
//! ```text
//! caller ──chunks──▶ decoder ──chunks──▶ unpacker (files)
//!                       └──────────────▶ hasher   (diff id)
//! ```
//!
//! Three threads a layer, joined by bounded channels of [`CHUNK`]-sized buffers that unpacker and
//! hasher share, so that memory is bounded whatever the layer holds, and the slowest stage sets the
//! pace: about [`QUEUE`] × 3 × [`CHUNK`] a layer, and what its decoder needs, which is 8 MiB at most
//! for all but one layer at a time ([`turn`](super::turn)). The caller never sees an error before
//! [`Pipeline::finish`]: after one the rest of what it writes is dropped, which is what somebody
//! who must read on to the next entry of an archive wants.
//!
//! Everything happens in a scratch directory that vanishes with the pipeline unless the layer is
//! committed. A pipeline that is dropped ends its threads first, in the middle of the layer.

use std::io::{self, BufRead, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use sha2::{Digest as _, Sha256};

use super::compression::{Compression, decompress_in_turn};
use super::error::{Error, store};
use super::layer::Kept;
use super::owner::Owners;
use super::scratch::Scratch;
use super::turn::Turn;
use super::unpack::{self, Limits, Unpacked};
use crate::registry::{self, Cancel};
use crate::sys::tree;
use crate::types::digest::Digest;

/// Size of a buffer.
pub(crate) const CHUNK: usize = 128 << 10;
/// Buffers that wait between two stages.
const QUEUE: usize = 8;

type Chunk = Arc<Vec<u8>>;

/// A layer that is unpacked, in its scratch directory.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) scratch: Scratch,
    pub(crate) diff_id: Digest,
    pub(crate) unpacked: Unpacked,
    /// The blob that it came as, where that stays.
    pub(crate) kept: Option<Kept>,
}

/// A layer being unpacked.
pub(crate) struct Pipeline {
    feed: Option<SyncSender<Chunk>>,
    chunk: Vec<u8>,
    /// Until they are waited for.
    threads: Option<Threads>,
    /// Used when nobody waits for the layer any more.
    dropped: Cancel,
    /// Until the layer is finished.
    scratch: Option<Scratch>,
}

struct Threads {
    decoder: JoinHandle<Result<(), Error>>,
    hasher: JoinHandle<Digest>,
    unpacker: JoinHandle<Result<Unpacked, Error>>,
}

impl Pipeline {
    /// Starts the threads. They end soon after `cancel` is used.
    pub(crate) fn start(
        scratch: Scratch,
        owners: &Owners,
        limits: Limits,
        cancel: &Cancel,
    ) -> Result<Self, Error> {
        let layer = tree::open_dir(scratch.path()).map_err(store("open", scratch.path()))?;
        let (feed, encoded) = sync_channel::<Chunk>(QUEUE);
        let (to_hasher, plain) = sync_channel::<Chunk>(QUEUE);
        let (to_unpacker, tar) = sync_channel::<Chunk>(QUEUE);
        let owners = owners.clone();
        let spawn = |error| store("start a thread for", "the layer")(error);
        let dropped = Cancel::new();
        let (cancel, gone) = (cancel.clone(), dropped.clone());
        let is_wanted = move || cancel.check().and_then(|()| gone.check());
        let decoder = thread::Builder::new()
            .name("layer-decode".to_owned())
            .spawn(move || decode(encoded, &to_hasher, &to_unpacker, is_wanted))
            .map_err(spawn)?;
        let hasher = thread::Builder::new()
            .name("layer-hash".to_owned())
            .spawn(move || hash(&plain))
            .map_err(spawn)?;
        let unpacker = thread::Builder::new()
            .name("layer-unpack".to_owned())
            .spawn(move || unpack::unpack(Chunks::new(tar), layer.as_fd(), &owners, &limits))
            .map_err(spawn)?;
        Ok(Self {
            feed: Some(feed),
            chunk: Vec::with_capacity(CHUNK),
            threads: Some(Threads {
                decoder,
                hasher,
                unpacker,
            }),
            dropped,
            scratch: Some(scratch),
        })
    }

    /// Takes some more of the layer's (compressed) bytes.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (CHUNK - self.chunk.len()).min(bytes.len());
            self.chunk.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
            if self.chunk.len() == CHUNK {
                self.send();
            }
        }
    }

    /// Whether more bytes are of no use: a stage has given up, and `finish` says why.
    pub(crate) fn has_failed(&self) -> bool {
        self.feed.is_none()
    }

    fn send(&mut self) {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        let sent = self.feed.as_ref().map(|feed| feed.send(Arc::new(chunk)));
        if let Some(Err(_)) = sent {
            // The decoder gave up; `finish` says why.
            self.feed = None;
        }
    }

    /// Waits for the threads: what the layer is, or what was wrong with it.
    pub(crate) fn finish(mut self) -> Result<Finished, Error> {
        if !self.chunk.is_empty() {
            self.send();
        }
        self.feed = None;
        let threads = self.threads.take().ok_or(Error::Interrupted)?;
        let decoded = threads.decoder.join();
        let unpacked = threads.unpacker.join();
        let diff_id = threads.hasher.join();
        // After a broken stream the unpacker saw an archive that just ends.
        decoded.map_err(|_| Error::Interrupted)??;
        let unpacked = unpacked.map_err(|_| Error::Interrupted)??;
        Ok(Finished {
            scratch: self.scratch.take().ok_or(Error::Interrupted)?,
            diff_id: diff_id.map_err(|_| Error::Interrupted)?,
            unpacked,
            kept: None,
        })
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.dropped.cancel();
        self.feed = None;
        if let Some(threads) = self.threads.take() {
            // What they say is of no use; the scratch directory can go when nobody writes to it.
            let _ = threads.decoder.join();
            let _ = threads.unpacker.join();
            let _ = threads.hasher.join();
        }
    }
}

/// The digest of what a stream decompresses to, found while it passes by. Whose stream it is may
/// have made one that never ends: it is not decompressed beyond the size that it must have.
pub(crate) struct Inspection {
    feed: SyncSender<Chunk>,
    chunk: Vec<u8>,
    thread: JoinHandle<Result<Digest, Error>>,
}

impl Inspection {
    pub(crate) fn start(most: u64) -> io::Result<Self> {
        let (feed, encoded) = sync_channel::<Chunk>(QUEUE);
        let thread = thread::Builder::new().name("layer-inspect".to_owned());
        let inspect = move || {
            let turn = Turn::new(|| Ok(()));
            let mut plain = decompress_in_turn(Chunks::new(encoded), turn)?;
            let mut hash = Sha256::new();
            let mut buffer = vec![0; CHUNK];
            let mut left = most;
            loop {
                let amount = plain.read(&mut buffer).map_err(Error::Decompress)?;
                if amount == 0 {
                    return Ok(Digest::from_bytes(hash.finalize().into()));
                }
                left = left
                    .checked_sub(amount as u64)
                    .ok_or(Error::RootFsMismatch)?;
                hash.update(&buffer[..amount]);
            }
        };
        Ok(Self {
            feed,
            chunk: Vec::new(),
            thread: thread.spawn(inspect)?,
        })
    }

    /// Takes some more of the stream; whether more is of use, or `finish` says why it is not.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> bool {
        // The first bytes tell the compression, and must come together.
        self.chunk.extend_from_slice(bytes);
        self.chunk.len() < CHUNK || self.send()
    }

    fn send(&mut self) -> bool {
        self.feed
            .send(Arc::new(std::mem::take(&mut self.chunk)))
            .is_ok()
    }

    pub(crate) fn finish(mut self) -> Result<Digest, Error> {
        self.send();
        drop(self.feed);
        self.thread.join().map_err(|_| Error::Interrupted)?
    }
}

/// Decompresses `encoded` to both receivers; ends early when the unpacker has given up, or when
/// `is_wanted` fails.
fn decode(
    encoded: Receiver<Chunk>,
    hasher: &SyncSender<Chunk>,
    unpacker: &SyncSender<Chunk>,
    is_wanted: impl Fn() -> Result<(), registry::Error> + Clone + Send + 'static,
) -> Result<(), Error> {
    let mut source = Chunks::new(encoded);
    let start = source.fill_buf().map_err(Error::Source)?;
    if Compression::detect(start) == Compression::None {
        while let Some(chunk) = source.next_chunk() {
            is_wanted()?;
            if hasher.send(Arc::clone(&chunk)).is_err() || unpacker.send(chunk).is_err() {
                break;
            }
        }
        return Ok(());
    }
    let waited_for = is_wanted.clone();
    let turn = Turn::new(move || Ok(waited_for()?));
    let mut plain = decompress_in_turn(source, turn)?;
    loop {
        is_wanted()?;
        let mut chunk = Vec::with_capacity(CHUNK);
        let amount = plain.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
        if amount.map_err(undecoded)? == 0 {
            return Ok(());
        }
        let chunk = Arc::new(chunk);
        if hasher.send(Arc::clone(&chunk)).is_err() || unpacker.send(chunk).is_err() {
            return Ok(());
        }
    }
}

/// Why nothing more can be decompressed: nobody wants it any more, or it is broken.
fn undecoded(error: io::Error) -> Error {
    registry::Error::from_io(error).map_or_else(Error::Decompress, Error::Registry)
}

fn hash(plain: &Receiver<Chunk>) -> Digest {
    let mut hash = Sha256::new();
    while let Ok(chunk) = plain.recv() {
        hash.update(&**chunk);
    }
    Digest::from_bytes(hash.finalize().into())
}

/// A channel of chunks as a stream.
struct Chunks {
    source: Receiver<Chunk>,
    chunk: Chunk,
    at: usize,
}

impl Chunks {
    fn new(source: Receiver<Chunk>) -> Self {
        Self {
            source,
            chunk: Chunk::default(),
            at: 0,
        }
    }

    /// The next whole chunk; of the present one too, if none of it was consumed.
    fn next_chunk(&mut self) -> Option<Chunk> {
        if self.at == 0 && !self.chunk.is_empty() {
            return Some(std::mem::take(&mut self.chunk));
        }
        self.source.recv().ok()
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let amount = bytes.len().min(buffer.len());
        buffer[..amount].copy_from_slice(&bytes[..amount]);
        self.consume(amount);
        Ok(amount)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.chunk.len() {
            self.chunk = self.source.recv().unwrap_or_default();
            self.at = 0;
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.chunk.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect(most: u64, encoded: &[u8], piece: usize) -> Result<Digest, Error> {
        let mut inspection = Inspection::start(most).unwrap();
        for bytes in encoded.chunks(piece) {
            if !inspection.write(bytes) {
                break;
            }
        }
        inspection.finish()
    }

    /// Somebody whose archive breaks off in the middle of a layer.
    #[test]
    fn what_is_dropped_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = crate::tarball::build::Archive::default();
        for at in 0..5000 {
            tar.file(&format!("d{}/f{at}", at % 50), b"x");
        }
        let tar = tar.end();
        for amount in [0, 1000, tar.len() / 2, tar.len()] {
            let scratch = Scratch::new(dir.path(), "layer").unwrap();
            let owners = Owners::of_this_process();
            let mut pipeline =
                Pipeline::start(scratch, &owners, Limits::default(), &Cancel::new()).unwrap();
            pipeline.write(&tar[..amount]);
            drop(pipeline);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    /// The wait is seen to by its end: whoever has the turn keeps it until then.
    #[test]
    fn a_layer_whose_decoder_wants_much_waits_for_its_turn() {
        let dir = tempfile::tempdir().unwrap();
        let mut tar = crate::tarball::build::Archive::default();
        tar.file("a", b"x");
        let tar = tar.end();
        // A frame with a window of 128 MiB, and one block as it is.
        let block = (tar.len() as u32) << 3 | 1;
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3];
        let wide = [&header[..], &block.to_le_bytes()[..3], &tar].concat();
        let unpack = |encoded: &[u8], cancel: &Cancel| {
            let scratch = Scratch::new(dir.path(), "layer").unwrap();
            let owners = Owners::of_this_process();
            let mut pipeline =
                Pipeline::start(scratch, &owners, Limits::default(), cancel).unwrap();
            pipeline.write(encoded);
            pipeline
        };
        let mut first = Turn::new(|| Ok(()));
        first.take().unwrap();
        let cancel = Cancel::new();
        let waits = unpack(&wide, &cancel);
        assert!(unpack(&tar, &Cancel::new()).finish().is_ok());
        cancel.cancel();
        let error = waits.finish().unwrap_err();
        assert!(matches!(error, Error::Registry(registry::Error::Cancelled)));
        let waits = unpack(&wide, &Cancel::new());
        drop(first);
        assert_eq!(waits.finish().unwrap().diff_id, Digest::of(&tar));
    }

    #[test]
    fn a_stream_is_inspected_to_its_size_and_no_further() {
        let plain = vec![7; 3 << 20];
        let encoded = zstd::encode_all(&plain[..], 3).unwrap();
        let size = plain.len() as u64;
        for piece in [1, 8 << 20] {
            let found = inspect(size, &encoded, piece).unwrap();
            assert_eq!(found, Digest::of(&plain));
            assert!(inspect(size - 1, &encoded, piece).is_err());
        }
        // 64 GiB of zeros.
        let bomb = zstd::encode_all(&vec![0; 64 << 20][..], 3)
            .unwrap()
            .repeat(1024);
        assert!(inspect(size, &bomb, CHUNK).is_err());
    }
}
