//! Layers that somebody counts on before an image does: a load, or a pull under way.
//!
//! A pinned layer is not collected. A layer may be pinned before it is there: whoever puts it in
//! place later finds it kept.

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
        *index.pins.entry(layer).or_default() += 1;
        self.layers.push(layer);
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        let mut index = self.store.lock();
        for layer in &self.layers {
            if let Some(count) = index.pins.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    index.pins.remove(layer);
                }
            }
        }
    }
}
