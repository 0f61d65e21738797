//! What the store notes of its layers' blobs: see [`origin`](super::origin).

use std::fs;

use super::error::{Error, store};
use super::origin::{Blob, FILE, add, read, write};
use super::store::{Index, Store};
use crate::registry;
use crate::types::digest::Digest;
use crate::types::reference::Reference;

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
