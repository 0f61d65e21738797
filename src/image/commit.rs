//! From finished layers and a config to an image: the only place where one comes to be.

use std::fs;
use std::sync::Arc;

use super::config::ImageConfig;
use super::error::{Error, store};
use super::layer;
use super::origin::Origin;
use super::pipeline::Finished;
use super::store::{Index, Record, Store, Stored};
use crate::sys::atomic::Durability;
use crate::types::digest::Digest;
use crate::types::reference::Reference;
use crate::types::timestamp::Timestamp;

/// Everything an image is made of.
pub(super) struct Parts {
    pub(super) raw: Vec<u8>,
    pub(super) config: ImageConfig,
    /// Manifests and indexes to keep, by digest.
    pub(super) manifests: Vec<(Digest, Vec<u8>)>,
    /// Which repository had which of them.
    pub(super) origin: Option<Origin>,
    /// The image that it was made from here.
    pub(super) parent: Option<Digest>,
}

/// The names that an image gets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Naming<'a> {
    /// Somebody wants it to be called so: the image was tagged.
    Tags(&'a [Reference]),
    /// A registry calls it so.
    Found(&'a [Reference]),
}

impl Parts {
    /// Reads a config's bytes.
    pub(super) fn new(raw: Vec<u8>) -> Result<Self, Error> {
        let config = ImageConfig::read(&raw)?;
        if config.rootfs.is_none() {
            return Err(Error::Invalid(
                "invalid image JSON, no RootFS key".to_owned(),
            ));
        }
        Ok(Self {
            raw,
            config,
            manifests: Vec::new(),
            origin: None,
            parent: None,
        })
    }
}

impl Store {
    /// Puts layers in place, skipping those that somebody else did meanwhile, then the image, and
    /// gives it names; answers its id and which images had them. All at once for everybody else: an
    /// image that has no name yet is one that a prune removes.
    pub(super) fn commit_image(
        &self,
        parts: Parts,
        layers: &mut Vec<Finished>,
        naming: Naming<'_>,
    ) -> Result<(Digest, Vec<Option<Digest>>), Error> {
        let mut index = self.lock();
        let id = self.place_image(&mut index, parts, layers)?;
        let before = self.name(&mut index, naming, id)?;
        Ok((id, before))
    }

    fn place_image(
        &self,
        index: &mut Index,
        parts: Parts,
        layers: &mut Vec<Finished>,
    ) -> Result<Digest, Error> {
        let id = Digest::of(&parts.raw);
        // The syncfs that follows a new layer takes the rest along.
        let mut durability = Durability::Synced;
        for diff_id in parts.config.diff_ids() {
            let unpacked = layers.iter().position(|layer| layer.diff_id == *diff_id);
            if index.layers.contains_key(diff_id) {
                continue;
            }
            let Some(at) = unpacked else {
                return Err(Error::Invalid(format!("the layer {diff_id} is missing")));
            };
            self.place(index, &layers.swap_remove(at))?;
            durability = Durability::Lazy;
        }
        self.write_blob(&id, &parts.raw, durability)?;
        let mut record = index
            .images
            .get(&id)
            .map_or_else(Record::default, |known| known.record.clone());
        for (digest, bytes) in &parts.manifests {
            self.write_blob(digest, bytes, durability)?;
            if !record.manifests.contains(digest) {
                record.manifests.push(*digest);
            }
        }
        if let Some(origin) = &parts.origin {
            record.add_origin(origin.manifest, &origin.repository);
        }
        if let Some(parent) = parts.parent {
            if !index.images.contains_key(&parent) {
                return Err(Error::NoSuchImage(parent.to_string()));
            }
            record.parent = Some(parent);
        }
        self.write_record(&id, &record, durability)?;
        for diff_id in parts.config.diff_ids() {
            layer::unmark_pulled(&self.layer_path(diff_id));
        }
        let stored = Stored {
            config: Arc::new(parts.config),
            raw: parts.raw.into(),
            record,
        };
        index.images.insert(id, Arc::new(stored));
        Ok(id)
    }

    /// Throws layers away that no image needed. To delete their files may take long, and is not waited
    /// for.
    pub(super) fn discard_layers(&self, layers: &mut Vec<Finished>) {
        for layer in layers.drain(..) {
            // Where this fails it is deleted here and now, as its owner goes.
            if let Err(error) = self.trash(layer.scratch.path()) {
                tracing::warn!(error = error.chain(), "cannot throw a layer away");
            }
        }
    }

    /// Puts one layer in place before its image, unless it is there. Where the image never comes it
    /// waits for a while.
    pub(super) fn commit_layer(&self, layer: &Finished) -> Result<(), Error> {
        let mut index = self.lock();
        if index.layers.contains_key(&layer.diff_id) {
            return Ok(());
        }
        layer::mark_pulled(layer.scratch.path())?;
        self.place(&mut index, layer)
    }

    fn place(&self, index: &mut Index, layer: &Finished) -> Result<(), Error> {
        let record = layer::Record {
            size: layer.unpacked.size,
            tar_size: layer.unpacked.tar_size,
            kept: layer.kept,
        };
        layer::seal(layer.scratch.path(), &record)?;
        let path = self.layer_path(&layer.diff_id);
        fs::rename(layer.scratch.path(), &path).map_err(store("move into place", &path))?;
        index.layers.insert(layer.diff_id, record);
        self.janitor.sync(&path);
        Ok(())
    }

    /// Gives an image names; answers which images had them.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] where it is gone: whoever found it does not hold the lock since then.
    pub(super) fn name(
        &self,
        index: &mut Index,
        naming: Naming<'_>,
        id: Digest,
    ) -> Result<Vec<Option<Digest>>, Error> {
        let known = index.images.get(&id);
        let known = known.ok_or_else(|| Error::NoSuchImage(id.to_string()))?;
        let (names, is_tagging) = match naming {
            Naming::Tags(names) => (names, true),
            Naming::Found(names) => (names, false),
        };
        let mut refs = index.refs.clone();
        let before = names.iter().map(|name| refs.set(name.clone(), id));
        let before = before.collect();
        if refs == index.refs {
            return Ok(before);
        }
        if is_tagging {
            let mut record = known.record.clone();
            record.last_tagged = Some(Timestamp::now());
            self.write_record(&id, &record, Durability::Lazy)?;
            let stored = known.with_record(record);
            index.images.insert(id, Arc::new(stored));
        }
        refs.write(&self.root)?;
        index.refs = refs;
        Ok(before)
    }
}
