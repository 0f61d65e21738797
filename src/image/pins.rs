//! Layers that somebody counts on, whatever images there are: a load or a pull under way before its
//! image is made, a push and a container also after its image was removed.
//!
//! A pinned layer is not collected, and one whose images went meanwhile goes with its last pin; but
//! one whose image has not come, as its pull was interrupted, waits for another attempt. A layer may
//! be pinned before it is there: whoever puts it in place later finds it kept. Pins are not on disk:
//! who has them takes them again at the start, before anything is collected.

use super::error::Error;
use super::layer;
use super::store::{Index, Store};
use crate::types::digest::Digest;

/// Pins that end with this value.
pub(super) struct Pins<'a> {
    store: &'a Store,
    layers: Vec<Digest>,
}

impl<'a> Pins<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self {
            store,
            layers: Vec::new(),
        }
    }

    /// Pins one more layer; `index` is the store's own, locked by the caller.
    pub(super) fn add(&mut self, index: &mut Index, layer: Digest) {
        index.pin(layer);
        self.layers.push(layer);
    }
}

impl Index {
    fn pin(&mut self, layer: Digest) {
        *self.pins.entry(layer).or_default() += 1;
    }

    fn unpin(&mut self, layer: &Digest) {
        if let Some(count) = self.pins.get_mut(layer) {
            *count -= 1;
            if *count == 0 {
                self.pins.remove(layer);
            }
        }
    }
}

impl Store {
    /// Keeps these layers until [`Store::release`], as a container does for its life. Whether all
    /// of them are there: an image that was found a moment ago may have been removed.
    pub fn hold(&self, layers: &[Digest]) -> bool {
        let mut index = self.lock();
        layers.iter().for_each(|layer| index.pin(*layer));
        layers.iter().all(|layer| index.layers.contains_key(layer))
    }

    /// Ends a [`Store::hold`], and removes the layers that nothing else needs.
    ///
    /// # Errors
    /// When one can't be removed; it is then collected at the next start.
    pub fn release(&self, layers: &[Digest]) -> Result<(), Error> {
        let mut index = self.lock();
        layers.iter().for_each(|layer| index.unpin(layer));
        for layer in layers {
            if !layer::is_recent_pull(&self.layer_path(layer)) {
                self.drop_layer(&mut index, layer)?;
            }
        }
        Ok(())
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.store.release(&self.layers) {
            let error = error.chain();
            tracing::warn!(%error, "a layer that nobody needs stays for now");
        }
    }
}
