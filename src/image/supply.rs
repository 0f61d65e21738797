//! What a layer is sent as: compressed from its tree, a blob that was kept, or one of a registry.
//!
//! ```text
//! split ─▶ Gzip or zstd ─┐
//! layers/DIFFID/blob ────┼─▶ Sent (hash, progress) ─▶ upload
//! another registry ──────┘      └─▶ Inspection, where the blob is not known to be the layer
//! ```
//!
//! Nothing is spooled: the digest is known at the end, when the registry asks for it. After a
//! broken connection everything is read, and hashed, from the beginning, and what the registry has
//! is left out: compression gives the same bytes each time.
//!
//! Where a supply has a digest to live up to and does not (a layer's tar has its diff id), or cannot
//! be read, that is a failure of the source ([`registry::Error::Source`]), and another supply may do.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use sha2::{Digest as _, Sha256};

use super::compression::{Format, begin_with};
use super::gzip::Gzip;
use super::layer::Kept;
use super::pipeline::{CHUNK, Inspection};
use super::split::LayerTar;
use super::store::Store;
use super::transfer::Pace;
use crate::registry::{self, Content, Repository};
use crate::types::digest::{Algorithm, Digest, Hasher};

/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// Where the bytes come from.
pub(super) enum Supply {
    /// The layer itself.
    Compressed(Format),
    /// A blob that was kept, in a file.
    Kept(Kept, PathBuf),
    /// A registry's blob.
    Fetched {
        repository: Repository,
        digest: Digest,
        size: u64,
        /// Whether it is known to be the layer.
        is_verified: bool,
    },
}

/// A layer being sent.
pub(super) struct Sent<'a> {
    store: &'a Store,
    diff_id: Digest,
    /// The size of its tar.
    tar_size: u64,
    supply: &'a Supply,
    /// Told how far it is, and of how much.
    tell: &'a dyn Fn(u64, u64),
    reading: Option<Reading>,
}

/// One pass over the bytes.
struct Reading {
    source: Box<dyn Read>,
    hash: Hasher,
    start: Vec<u8>,
    /// Bytes that came.
    size: u64,
    /// What was read of the tar that is compressed.
    tar: Option<Arc<Passed>>,
    pace: Pace,
    told: u64,
    total: u64,
    inspection: Option<Inspection>,
}

/// What was read of a layer's tar, by another thread.
#[derive(Default)]
struct Passed {
    bytes: AtomicU64,
    /// Its digest, at its end.
    digest: OnceLock<Digest>,
}

/// What was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) size: u64,
    /// `None` where nobody can read it.
    pub(super) format: Option<Format>,
}

impl<'a> Sent<'a> {
    pub(super) fn new(
        store: &'a Store,
        diff_id: Digest,
        tar_size: u64,
        supply: &'a Supply,
        tell: &'a dyn Fn(u64, u64),
    ) -> Self {
        Self {
            store,
            diff_id,
            tar_size,
            supply,
            tell,
            reading: None,
        }
    }

    /// What came, once it has been sent.
    pub(super) fn sizes(&self) -> Option<Sizes> {
        let reading = self.reading.as_ref()?;
        Some(Sizes {
            size: reading.size,
            format: Format::detect(&reading.start),
        })
    }

    fn expected(&self) -> Option<Digest> {
        match self.supply {
            Supply::Compressed(_) => None,
            Supply::Kept(kept, _) => Some(kept.digest),
            Supply::Fetched { digest, .. } => Some(*digest),
        }
    }

    fn begin(&self) -> io::Result<Reading> {
        let total = self.size().unwrap_or(self.tar_size);
        let (mut passed, mut inspection) = (None, None);
        let source: Box<dyn Read> = match self.supply {
            Supply::Compressed(format) => {
                let tar = self.store.layer_tar(&self.diff_id);
                let source = tar.map_err(|error| io::Error::other(error.chain()))?;
                let tar = Tar {
                    source,
                    hash: Sha256::new(),
                    passed: Arc::clone(passed.insert(Arc::default())),
                };
                compressed(*format, tar)?
            }
            Supply::Kept(_, path) => Box::new(File::open(path)?),
            Supply::Fetched {
                repository,
                digest,
                size,
                is_verified,
            } => {
                if !is_verified {
                    inspection = Some(Inspection::start(self.tar_size)?);
                }
                Box::new(repository.blob(*digest, Some(*size))?)
            }
        };
        let algorithm = self.expected().map(|expected| expected.algorithm());
        Ok(Reading {
            source,
            hash: algorithm.unwrap_or(Algorithm::Sha256).hasher(),
            start: Vec::new(),
            size: 0,
            tar: passed,
            pace: Pace::new(total),
            told: 0,
            total,
            inspection,
        })
    }
}

impl Content for Sent<'_> {
    fn size(&self) -> Option<u64> {
        match self.supply {
            Supply::Compressed(_) => None,
            Supply::Kept(kept, _) => Some(kept.size),
            Supply::Fetched { size, .. } => Some(*size),
        }
    }

    fn open(&mut self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        // The threads of the pass before end first.
        self.reading = None;
        let reading = self.begin()?;
        let mut passing = Passing {
            diff_id: self.diff_id,
            reading: self.reading.insert(reading),
            // What the registry has was told of when it was sent.
            tell: &|_, _| (),
        };
        let skipped = io::copy(&mut passing.by_ref().take(offset), &mut io::sink())?;
        if skipped < offset {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        passing.tell = self.tell;
        Ok(Box::new(passing))
    }

    fn digest(&mut self) -> Result<Digest, registry::Error> {
        let wrong = |error: registry::Error| registry::Error::Source(error.into());
        if self.reading.is_none() {
            // Nothing had to be sent.
            self.reading = Some(self.begin().map_err(registry::Error::Source)?);
        }
        let reading = self.reading.as_mut();
        let found = reading.map(|reading| (reading.hash.clone(), reading.inspection.take()));
        let Some((hash, inspection)) = found else {
            return Err(registry::Error::Source(io::ErrorKind::UnexpectedEof.into()));
        };
        let digest = hash.finish();
        let tar = self
            .reading
            .as_ref()
            .and_then(|reading| reading.tar.as_ref());
        if tar.is_some_and(|tar| tar.digest.get() != Some(&self.diff_id)) {
            let text = format!("the layer {} is damaged", self.diff_id);
            return Err(registry::Error::Source(io::Error::other(text)));
        }
        if let Some(expected) = self.expected().filter(|expected| *expected != digest) {
            return Err(wrong(registry::Error::BlobDigest(expected)));
        }
        if let Some(inspection) = inspection {
            let plain = inspection.finish();
            if !plain.is_ok_and(|plain| plain == self.diff_id) {
                return Err(wrong(registry::Error::BlobDigest(digest)));
            }
        }
        Ok(digest)
    }
}

fn compressed(
    format: Format,
    tar: impl Read + Send + 'static,
) -> io::Result<Box<dyn Read + 'static>> {
    Ok(match format {
        Format::Tar => Box::new(tar),
        Format::Gzip => Box::new(Gzip::new(tar)?),
        Format::Zstd => {
            let tar = BufReader::with_capacity(CHUNK, tar);
            Box::new(zstd::stream::read::Encoder::with_buffer(tar, ZSTD_LEVEL)?)
        }
    })
}

/// A pass under way.
struct Passing<'a> {
    diff_id: Digest,
    reading: &'a mut Reading,
    tell: &'a dyn Fn(u64, u64),
}

impl Read for Passing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reading = &mut *self.reading;
        let amount = reading.source.read(buffer)?;
        let bytes = &buffer[..amount];
        reading.hash.update(bytes);
        begin_with(&mut reading.start, bytes);
        if let Some(inspection) = reading.inspection.as_mut().filter(|_| amount > 0)
            && !inspection.write(bytes)
        {
            let text = format!("the blob is not the layer {}", self.diff_id);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        reading.size += amount as u64;
        let tar = reading.tar.as_ref();
        let done = tar.map_or(reading.size, |tar| tar.bytes.load(Ordering::Relaxed));
        if done > reading.told && reading.pace.is_due(done, Instant::now()) {
            reading.told = done;
            (self.tell)(done, reading.total);
        }
        Ok(amount)
    }
}

/// A layer's tar, counted and hashed as it is read.
struct Tar {
    source: LayerTar,
    hash: Sha256,
    passed: Arc<Passed>,
}

impl Read for Tar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let amount = self.source.read(buffer)?;
        if amount == 0 && !buffer.is_empty() {
            let digest = Digest::from_bytes(self.hash.clone().finalize().into());
            self.passed.digest.get_or_init(|| digest);
        }
        self.hash.update(&buffer[..amount]);
        self.passed
            .bytes
            .fetch_add(amount as u64, Ordering::Relaxed);
        Ok(amount)
    }
}
