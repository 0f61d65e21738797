//! Where a layer's compressed blobs are: what makes a push cheap, and keeps an image's digest.
//!
//! A layer is known by its diff id, a registry's blob by the digest of what it sends. Which blob is
//! which layer is noted in `blobs.json` in the layer's directory, with the repositories that had
//! it: there it can be looked for, mounted from and, where a manifest depends on it, fetched once
//! more. An image's record says besides in which repositories its manifests were ([`Origin`]).
//!
//! Only what was verified is noted: a blob that was fetched and unpacked to the layer, or made from
//! it. A manifest claims of a layer that is here already that some blob is that layer; to believe
//! it would let a registry slip its blob into other images' pushes.
//!
//! Nothing depends on these notes, so they are not synced, and what cannot be read is nothing.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{Error, store};
use super::pipeline::Compression;
use super::store::{Index, Record, Store};
use crate::registry;
use crate::types::digest::Digest;
use crate::types::reference::Reference;

/// The file's name in the layer's directory.
const FILE: &str = "blobs.json";
/// Most blobs that are remembered of a layer, repositories of a blob and origins of an image.
const MOST: usize = 16;

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

/// Adds to the beginning of a blob, which may come byte by byte, until it tells the format.
pub(super) fn begin_with(start: &mut Vec<u8>, bytes: &[u8]) {
    let lacking = TELLING.saturating_sub(start.len());
    start.extend_from_slice(&bytes[..bytes.len().min(lacking)]);
}

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

/// A blob that unpacks to a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) format: Format,
    /// Whether it was compressed here, and can be again.
    #[serde(default)]
    pub(super) made: bool,
    /// Repositories that had it, the latest last.
    #[serde(default)]
    pub(super) places: Vec<Reference>,
}

/// That a repository had a manifest, or the index that leads to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    pub(super) manifest: Digest,
    pub(super) repository: Reference,
}

/// Adds something as the latest, and forgets the earliest of too many; whether that changed
/// anything.
fn add<T: PartialEq>(list: &mut Vec<T>, item: T) -> bool {
    if list.last() == Some(&item) {
        return false;
    }
    list.retain(|known| *known != item);
    list.push(item);
    if list.len() > MOST {
        list.remove(0);
    }
    true
}

impl Record {
    /// Notes where a manifest was; whether that is news.
    pub(super) fn add_origin(&mut self, manifest: Digest, repository: &Reference) -> bool {
        let repository = repository.bare();
        add(
            &mut self.origins,
            Origin {
                manifest,
                repository,
            },
        )
    }
}

/// What is noted of a layer.
fn read(layer: &Path) -> Vec<Blob> {
    let text = fs::read(layer.join(FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Notes the blob of a layer that is not in place yet.
pub(super) fn write_first(layer: &Path, blob: &Blob) -> Result<(), Error> {
    write(&layer.join(FILE), std::slice::from_ref(blob))
}

fn write(path: &Path, blobs: &[Blob]) -> Result<(), Error> {
    let text = serde_json::to_vec(blobs).map_err(|error| Error::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    fs::write(path, text).map_err(store("write", path))
}

impl Store {
    /// The blobs that are known to be a layer.
    pub(super) fn blobs_of(&self, diff_id: &Digest) -> Vec<Blob> {
        read(&self.layer_path(diff_id))
    }

    /// Notes that a blob is a layer, and where it is. What cannot be noted costs a later push, no
    /// more.
    pub(super) fn note_blob(&self, diff_id: &Digest, found: Blob) {
        self.note(diff_id, |blobs| {
            let known = blobs.iter().position(|blob| blob.digest == found.digest);
            match known {
                Some(at) => {
                    let mut blob = blobs.remove(at);
                    let mut changed = at != blobs.len();
                    for place in found.places {
                        changed |= add(&mut blob.places, place);
                    }
                    blobs.push(blob);
                    changed
                }
                None => add(blobs, found),
            }
        });
    }

    /// Notes that a repository has these blobs, where they are known to be the layers.
    pub(super) fn note_place<'a>(
        &self,
        layers: impl Iterator<Item = (&'a registry::Descriptor, &'a Digest)>,
        repository: &Reference,
    ) {
        for (described, diff_id) in layers {
            self.note(diff_id, |blobs| {
                let mut blobs = blobs.iter_mut();
                let known = blobs.find(|blob| blob.digest == described.digest);
                known.is_some_and(|blob| add(&mut blob.places, repository.bare()))
            });
        }
    }

    fn note(&self, diff_id: &Digest, change: impl FnOnce(&mut Vec<Blob>) -> bool) {
        // Holding the lock: the layer stays, and nobody else changes the notes.
        let index = self.lock();
        if let Err(error) = self.rewrite(&index, diff_id, change) {
            tracing::warn!(layer = %diff_id, error = error.chain(), "cannot note where a layer is");
        }
    }

    fn rewrite(
        &self,
        index: &Index,
        diff_id: &Digest,
        change: impl FnOnce(&mut Vec<Blob>) -> bool,
    ) -> Result<(), Error> {
        if !index.layers.contains_key(diff_id) {
            return Ok(());
        }
        let layer = self.layer_path(diff_id);
        let mut blobs = read(&layer);
        if !change(&mut blobs) {
            return Ok(());
        }
        let scratch = self.scratch("blobs")?;
        let new = scratch.path().join(FILE);
        write(&new, &blobs)?;
        let path = layer.join(FILE);
        fs::rename(&new, &path).map_err(store("move into place", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered() {
        let mut list: Vec<usize> = Vec::new();
        for number in 0..20 {
            assert!(add(&mut list, number));
        }
        assert_eq!(list.len(), MOST);
        assert!(!add(&mut list, 19), "it is the latest");
        assert!(add(&mut list, 10), "it is so again");
        assert_eq!((list.len(), list.last()), (MOST, Some(&10)));
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
