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

use super::compression::Format;
use super::error::{Error, store};
use crate::types::digest::Digest;
use crate::types::reference::Reference;

/// The file's name in the layer's directory.
pub(super) const FILE: &str = "blobs.json";
/// Most blobs that are remembered of a layer, repositories of a blob and origins of an image.
const MOST: usize = 16;

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
pub(super) fn add<T: PartialEq>(list: &mut Vec<T>, item: T) -> bool {
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

/// Notes where a manifest was; whether that is news.
pub(super) fn add_origin(
    origins: &mut Vec<Origin>,
    manifest: Digest,
    repository: &Reference,
) -> bool {
    let repository = repository.bare();
    add(
        origins,
        Origin {
            manifest,
            repository,
        },
    )
}

/// What is noted of a layer.
pub(super) fn read(layer: &Path) -> Vec<Blob> {
    let text = fs::read(layer.join(FILE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Notes the blob of a layer that is not in place yet.
pub(super) fn write_first(layer: &Path, blob: &Blob) -> Result<(), Error> {
    write(&layer.join(FILE), std::slice::from_ref(blob))
}

/// Writes the notes of a layer.
pub(super) fn write(path: &Path, blobs: &[Blob]) -> Result<(), Error> {
    let text = serde_json::to_vec(blobs).map_err(|error| Error::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    fs::write(path, text).map_err(store("write", path))
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
}
