//! Finding images, and what there is to say about them.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::config::{History, ImageConfig};
use super::error::Error;
use super::layer::{self, Kept};
use super::split::LayerTar;
use super::store::{Index, Store, Stored};
use crate::registry::{Descriptor, Document, RawManifest};
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::reference::Reference;
use crate::types::timestamp::Timestamp;

/// An image, as it was when it was asked for.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of its config.
    pub id: Digest,
    /// Its config, read.
    pub config: Arc<ImageConfig>,
    /// Its config's bytes.
    pub raw: Arc<[u8]>,
    /// When it was made, as its config says.
    pub created: Option<Timestamp>,
    /// Processor architecture, by Go's name.
    pub architecture: String,
    /// Operating system.
    pub os: String,
    /// Variant of the architecture.
    pub variant: String,
    /// Diff ids of its layers, the lowest first.
    pub layers: Vec<Digest>,
    /// Names with tags, as people write them: `debian:latest`.
    pub repo_tags: Vec<String>,
    /// Names with digests.
    pub repo_digests: Vec<String>,
    /// Manifests and indexes through which it is known.
    pub manifests: Vec<Digest>,
    /// Sum of its layers' sizes.
    pub size: u64,
    /// When it was last tagged here.
    pub last_tagged: Option<Timestamp>,
    /// The image that it was committed from here.
    pub parent: Option<Digest>,
    /// Whether others were committed from it.
    pub has_children: bool,
}

/// One line of an image's history, the newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryLine {
    /// The image's id on the first line, its parents' on those that follow, where they are known
    /// (else Docker says `<missing>`).
    pub id: Option<Digest>,
    /// That image's tags.
    pub tags: Vec<String>,
    /// What its config says.
    pub entry: History,
    /// Size of the layer that the step made.
    pub size: u64,
}

impl Index {
    /// Finds an image as Docker does: by name, by full id, by the beginning of an id; and beyond
    /// it by the digest of any manifest through which it is known.
    pub(super) fn find(&self, name: &str) -> Result<Digest, Error> {
        if let Some(digest) = bare_digest(name) {
            let found = if self.images.contains_key(&digest) {
                Some(digest)
            } else {
                self.by_manifest(&digest)
            };
            return found.ok_or_else(|| Error::NoSuchImage(digest.to_string()));
        }
        let reference = Reference::parse(name)?;
        self.by_reference(&reference)
            .or_else(|| self.by_prefix(name))
            .ok_or_else(|| Error::NoSuchImage(reference.familiar()))
    }

    /// By a name; of one with tag and digest the digest counts.
    pub(super) fn by_reference(&self, name: &Reference) -> Option<Digest> {
        let Some(digest) = name.digest() else {
            return self.refs.get(name);
        };
        let canonical = name.with_digest(digest);
        self.refs.get(&canonical).or_else(|| {
            let id = self.by_manifest(&digest)?;
            let names = self.refs.of(&id);
            let same = |known: &Reference| known.repository() == name.repository();
            names.iter().any(same).then_some(id)
        })
    }

    fn by_manifest(&self, digest: &Digest) -> Option<Digest> {
        let mut images = self.images.iter();
        let found = images.find(|(_, image)| image.record.manifests.contains(digest));
        found.map(|(id, _)| *id)
    }

    /// The one image whose id begins so; several are none (Docker answers "No such image" too).
    fn by_prefix(&self, text: &str) -> Option<Digest> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.is_empty() || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let mut found = self.images.keys().filter(|id| id.hex().starts_with(hex));
        match (found.next(), found.next()) {
            (Some(id), None) => Some(*id),
            _ => None,
        }
    }

    pub(super) fn image(&self, id: &Digest, stored: &Stored) -> Image {
        let config = &stored.config;
        let (digests, tags): (Vec<_>, Vec<_>) = self
            .refs
            .of(id)
            .into_iter()
            .partition(|name| name.digest().is_some());
        let familiar = |names: Vec<Reference>| names.iter().map(Reference::familiar).collect();
        let mut layers: Vec<Digest> = config.diff_ids().to_vec();
        let size = layers.iter().map(|id| self.layer_size(id)).sum();
        layers.shrink_to_fit();
        Image {
            id: *id,
            created: config.created,
            architecture: config.architecture.clone(),
            os: config.os.clone(),
            variant: config.variant.clone(),
            layers,
            repo_tags: familiar(tags),
            repo_digests: familiar(digests),
            manifests: stored.record.manifests.clone(),
            size,
            last_tagged: stored.record.last_tagged,
            parent: stored.record.parent,
            has_children: self.has_children(id),
            config: Arc::clone(config),
            raw: Arc::clone(&stored.raw),
        }
    }

    /// Whether images were committed from this one.
    pub(super) fn has_children(&self, id: &Digest) -> bool {
        let mut images = self.images.values();
        images.any(|image| image.record.parent == Some(*id))
    }

    fn layer_size(&self, diff_id: &Digest) -> u64 {
        self.layers.get(diff_id).map_or(0, |record| record.size)
    }

    pub(super) fn is_used(&self, diff_id: &Digest) -> bool {
        self.pins.contains_key(diff_id)
            || self
                .images
                .values()
                .any(|image| image.config.diff_ids().contains(diff_id))
    }
}

/// A digest without a name: an id's, or a manifest's.
pub(super) fn bare_digest(name: &str) -> Option<Digest> {
    let bare = Digest::from_hex(name).or_else(|_| name.parse::<Digest>());
    bare.ok()
}

impl Store {
    /// Whether the store has this layer.
    pub fn has_layer(&self, diff_id: &Digest) -> bool {
        self.lock().layers.contains_key(diff_id)
    }

    /// The tar of a layer, byte for byte as it was when it came.
    pub fn layer_tar(&self, diff_id: &Digest) -> Result<LayerTar, Error> {
        layer::open_tar(&self.layer_path(diff_id))
    }

    /// The size of a layer's tar; `None` where there is no such layer.
    pub fn layer_tar_size(&self, diff_id: &Digest) -> Option<u64> {
        Some(self.lock().layers.get(diff_id)?.tar_size)
    }

    /// The blob that was kept beside a layer.
    pub(super) fn kept_blob(&self, diff_id: &Digest) -> Option<(Kept, PathBuf)> {
        let kept = self.lock().layers.get(diff_id)?.kept?;
        Some((kept, self.layer_path(diff_id).join(layer::BLOB)))
    }

    /// Finds an image by name, id, beginning of an id, or manifest's digest.
    pub fn get(&self, name: &str) -> Result<Image, Error> {
        let index = self.lock();
        let id = index.find(name)?;
        let stored = index.images.get(&id);
        let stored = stored.ok_or_else(|| Error::NoSuchImage(name.to_owned()))?;
        Ok(index.image(&id, stored))
    }

    /// All images, in the order of their ids.
    pub fn list(&self) -> Vec<Image> {
        let index = self.lock();
        let images = index.images.iter();
        images.map(|(id, stored)| index.image(id, stored)).collect()
    }

    /// The directories that overlayfs stacks, the top one first.
    pub fn layer_paths(&self, image: &Image) -> Vec<PathBuf> {
        let layers = image.layers.iter().rev();
        layers
            .map(|id| layer::tree_path(&self.layer_path(id)))
            .collect()
    }

    /// The same of layers named by diff id, bottom first: a container may outlive its image's name.
    pub fn layer_paths_of(&self, layers: &[Digest]) -> Vec<PathBuf> {
        layers
            .iter()
            .rev()
            .map(|id| layer::tree_path(&self.layer_path(id)))
            .collect()
    }

    /// The size of these layers together.
    pub fn size_of(&self, layers: &[Digest]) -> u64 {
        let index = self.lock();
        layers.iter().map(|id| index.layer_size(id)).sum()
    }

    /// Whether an index through which the image is known says that it is for `platform`, whatever
    /// its config says: builders have written wrong ones.
    pub fn is_listed_for(&self, image: &Image, platform: &Platform) -> bool {
        let wanted = platform.candidates();
        let is_it = |entry: &Descriptor| {
            let said = entry.platform.as_ref();
            image.manifests.contains(&entry.digest)
                && said
                    .map(|said| Platform::new(&said.os, &said.architecture, &said.variant))
                    .is_some_and(|said| wanted.contains(&said))
        };
        image.manifests.iter().any(|digest| {
            let raw = RawManifest {
                bytes: self.blob(digest).unwrap_or_default(),
                digest: *digest,
                media_type: String::new(),
            };
            let document = raw.document(&digest.to_string());
            matches!(document, Ok(Document::Index(index)) if index.manifests.iter().any(is_it))
        })
    }

    /// How an image came about, the newest step first.
    pub fn history(&self, name: &str) -> Result<Vec<HistoryLine>, Error> {
        let image = self.get(name)?;
        let index = self.lock();
        let mut layers = image.layers.iter();
        let mut lines: Vec<HistoryLine> = Vec::new();
        for entry in &image.config.history {
            let size = match entry.empty_layer {
                true => 0,
                false => layers.next().map_or(0, |id| index.layer_size(id)),
            };
            lines.push(HistoryLine {
                id: None,
                tags: Vec::new(),
                entry: entry.clone(),
                size,
            });
        }
        lines.reverse();
        let mut next = Some(image.id);
        for line in &mut lines {
            let Some((id, stored)) = next.and_then(|id| Some((id, index.images.get(&id)?))) else {
                break;
            };
            line.id = Some(id);
            line.tags = index.image(&id, stored).repo_tags;
            next = stored.record.parent;
        }
        Ok(lines)
    }

    /// How much of each image's size is in layers that other images have too.
    pub fn shared_sizes(&self) -> HashMap<Digest, u64> {
        let index = self.lock();
        let mut owners: HashMap<&Digest, usize> = HashMap::new();
        for image in index.images.values() {
            // One that has a layer twice is one.
            for layer in image.config.diff_ids().iter().collect::<HashSet<_>>() {
                *owners.entry(layer).or_default() += 1;
            }
        }
        let shared = |layer: &&Digest| owners.get(layer).is_some_and(|count| *count > 1);
        let size = |image: &Stored| {
            let layers = image.config.diff_ids().iter().filter(shared);
            layers.map(|layer| index.layer_size(layer)).sum()
        };
        let images = index.images.iter();
        images.map(|(id, image)| (*id, size(image))).collect()
    }

    /// The size of all layers, each counted once, with the blobs that are kept.
    pub fn layers_size(&self) -> u64 {
        let index = self.lock();
        let kept = |record: &layer::Record| record.kept.map_or(0, |kept| kept.size);
        let records = index.layers.values();
        records.map(|record| record.size + kept(record)).sum()
    }
}
