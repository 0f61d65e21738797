//! `docker push`: from an image in the store to a tag in a registry.
//!
//! ```text
//!            ┌─▶ the repository has a blob of it (HEAD) ────────────▶ exists
//!  layer ────┼─▶ another repository of the registry has (mount) ────▶ mounted
//!            └─▶ slot ─▶ supply ─▶ upload ──────────────────────────▶ pushed
//!                                                                       │
//!  tag ◀── manifest: the one that is known, or a new one ◀── config ◀───┘
//! ```
//!
//! An image that was pulled keeps its manifest's digest wherever it is pushed, as long as the very
//! blobs of that manifest get there: the repository has them, mounts them, or they are sent as they
//! were kept, compressed again to the same bytes, or fetched from where they were pulled. Otherwise
//! layers are compressed anew, which makes a new manifest ([`Pushed::replaced`] tells). Of several
//! known manifests the one counts that was last in the repository, else in the registry, else
//! anywhere. What is known of blobs is told in `origin`.
//!
//! New manifests are Docker's (schema 2), unless a layer's compression has no place in it.
//!
//! The first error ends the uploads that are still under way by using the push's [`Cancel`].

mod layers;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::commit::Naming;
use super::compression::Format;
use super::error::Error;
use super::pins::Pins;
use super::schema::{self, Described};
use super::slots::{Slots, Turns, lock};
use super::store::{Store, Stored};
use crate::registry::{self, Cancel, Document, Manifest, RawManifest, Repository};
use crate::sys::atomic::Durability;
use crate::types::digest::Digest;
use crate::types::reference::Reference;
use layers::{Layer, Rank};

/// How many layers may be sent at the same time, and which are: one that is on its way to a registry
/// is not compressed and sent there twice, whoever pushes it.
pub struct Uploads {
    slots: Slots,
    turns: Turns<(Digest, String)>,
}

impl Uploads {
    /// So many, and at least one.
    pub fn new(limit: usize) -> Self {
        Self {
            slots: Slots::new(limit),
            turns: Turns::default(),
        }
    }

    /// Changes how many that are; those that are under way go on.
    pub fn set_limit(&self, limit: usize) {
        self.slots.set_limit(limit);
    }
}

/// How something is pushed, and what has been in this push: one for all tags of a repository.
pub struct Push<'a> {
    /// Where to.
    repository: &'a Repository,
    /// Opens a repository that a blob may be fetched from.
    sources: &'a (dyn Fn(&Reference) -> Option<Repository> + Sync),
    cancel: &'a Cancel,
    uploads: &'a Uploads,
    format: Format,
    /// The blobs that the repository has, by layer, and whether they are known to be the layer or
    /// only claimed to be by a manifest.
    there: Mutex<HashMap<Digest, (Described, bool)>>,
}

/// What a push came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The manifest's digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: usize,
    /// The digest of the manifest that it was to be.
    pub replaced: Option<Digest>,
}

/// How far a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadStep {
    /// It is part of the image.
    Preparing,
    /// Others come first.
    Waiting,
    /// It goes.
    Pushing {
        /// Bytes so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The line broke; it is tried again in so many seconds.
    Retrying {
        /// How many.
        seconds: u64,
    },
    /// It is there.
    Pushed,
    /// It was there.
    Exists,
    /// The registry had it in this repository.
    Mounted(String),
}

/// A manifest that the image is known by.
struct Known {
    raw: RawManifest,
    manifest: Manifest,
    /// Repositories that had it, the latest last.
    places: Vec<Reference>,
    rank: Rank,
}

impl<'a> Push<'a> {
    /// Pushes to `repository`, which was opened for it with `cancel`.
    pub fn new(
        repository: &'a Repository,
        sources: &'a (dyn Fn(&Reference) -> Option<Repository> + Sync),
        cancel: &'a Cancel,
        uploads: &'a Uploads,
        format: Format,
    ) -> Self {
        Self {
            repository,
            sources,
            cancel,
            uploads,
            format,
            there: Mutex::default(),
        }
    }

    fn target(&self) -> &Reference {
        self.repository.reference()
    }

    /// The blob of a layer that this push has found there, or sent.
    fn known_there(&self, layer: &Layer<'_>) -> Option<Described> {
        let (blob, is_verified) = *lock(&self.there).get(&layer.diff_id)?;
        // A claim is good for the manifest that makes it, and for no other.
        let fits = match layer.wanted {
            Some(wanted) => wanted.digest == blob.digest,
            None => is_verified,
        };
        fits.then_some(blob)
    }

    /// Whether the blobs of all these layers are known to be them.
    fn has_verified(&self, layers: &[Digest]) -> bool {
        let there = lock(&self.there);
        let verified = |layer| {
            there
                .get(layer)
                .is_some_and(|(_, is_verified)| *is_verified)
        };
        layers.iter().all(verified)
    }
}

/// Where steps are told of: a layer's short diff id, and how far it is.
type Progress<'a> = &'a (dyn Fn(&str, UploadStep) + Sync);

impl Store {
    /// Every name that images have in a repository, digests included.
    pub fn names_in(&self, repository: &Reference) -> Vec<Reference> {
        self.lock().refs.in_repository(&repository.repository())
    }

    /// Pushes the image of a tag.
    pub fn push(
        &self,
        push: &Push<'_>,
        name: &Reference,
        progress: Progress<'_>,
    ) -> Result<Pushed, Error> {
        let mut pins = Pins::new(self);
        let (id, image) = {
            let mut index = self.lock();
            let id = index.refs.get(name);
            let found = id.and_then(|id| Some((id, Arc::clone(index.images.get(&id)?))));
            let (id, image) = found.ok_or_else(|| Error::NoSuchImage(name.familiar()))?;
            for layer in image.config.diff_ids() {
                pins.add(&mut index, *layer);
            }
            (id, image)
        };
        self.push_image(push, name, id, &image, progress)
    }

    fn push_image(
        &self,
        push: &Push<'_>,
        name: &Reference,
        id: Digest,
        image: &Stored,
        progress: Progress<'_>,
    ) -> Result<Pushed, Error> {
        let known = self.known_manifest(id, image, push.target());
        let diff_ids = image.config.diff_ids();
        let layers = diff_ids.iter().enumerate().map(|(at, diff_id)| Layer {
            diff_id: *diff_id,
            wanted: known
                .as_ref()
                .and_then(|known| known.manifest.layers.get(at)),
        });
        let layers: Vec<_> = layers.collect();
        let mut blobs = self.push_layers(push, &layers, known.as_ref(), progress)?;
        let same = |known: &&Known| {
            let wanted = known.manifest.layers.iter();
            wanted
                .map(|layer| layer.digest)
                .eq(blobs.iter().map(|blob| blob.digest))
        };
        let same = known.as_ref().filter(same);
        if same.is_none() && !push.has_verified(diff_ids) {
            // A new manifest does not repeat what the other one only claims.
            let layers = diff_ids.iter().map(|diff_id| Layer {
                diff_id: *diff_id,
                wanted: None,
            });
            let layers: Vec<_> = layers.collect();
            blobs = self.push_layers(push, &layers, None, progress)?;
        }
        let (media_type, bytes) = match same {
            Some(known) => (known.manifest.media_type.clone(), known.raw.bytes.clone()),
            None => schema::manifest(id, image.raw.len() as u64, &blobs)?,
        };
        self.push_config(push, id, &image.raw)?;
        let tag = name.tag().unwrap_or_default();
        let put = push.repository.put_manifest(Some(tag), &media_type, &bytes);
        let digest = put?;
        let size = bytes.len();
        self.note_push(id, name, digest, &bytes)?;
        Ok(Pushed {
            digest,
            size,
            replaced: known
                .map(|known| known.raw.digest)
                .filter(|known| *known != digest),
        })
    }

    fn push_config(&self, push: &Push<'_>, id: Digest, raw: &Arc<[u8]>) -> Result<(), Error> {
        // docker-registry writes anew that the repository has a blob when it is sent once more, and
        // another push's manifest that comes just then has no such blob.
        let target = (id, push.target().domain().to_owned());
        let _turn = push.uploads.turns.take(target, push.cancel, || ())?;
        if push.repository.blob_size(id)?.is_some() {
            return Ok(());
        }
        let size = raw.len() as u64;
        Ok(push.repository.push_blob(id, size, |offset| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let rest = raw.get(start..).unwrap_or_default().to_vec();
            Ok(Box::new(std::io::Cursor::new(rest)))
        })?)
    }

    /// Keeps what a push made known: the manifest, its place, and the image's name by its digest.
    fn note_push(
        &self,
        id: Digest,
        name: &Reference,
        digest: Digest,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let mut index = self.lock();
        let Some(image) = index.images.get(&id).cloned() else {
            return Ok(());
        };
        let mut record = image.record.clone();
        let is_new = !record.manifests.contains(&digest);
        if is_new {
            self.write_blob(&digest, bytes, Durability::Lazy)?;
            record.manifests.push(digest);
        }
        if record.add_origin(digest, name) || is_new {
            self.write_record(&id, &record, Durability::Lazy)?;
            index.images.insert(id, Arc::new(image.with_record(record)));
        }
        let naming = [name.with_digest(digest)];
        self.name(&mut index, Naming::Found(&naming), id).map(drop)
    }

    /// The manifest that the image should have there, if one is known.
    fn known_manifest(&self, id: Digest, image: &Stored, target: &Reference) -> Option<Known> {
        let mut best: Option<Known> = None;
        for origin in image.record.origins.iter().rev() {
            let rank = Rank::of(&origin.repository, target);
            for known in self.manifests_under(&origin.manifest, image, id) {
                match &mut best {
                    Some(best) if best.raw.digest == known.0.digest => {
                        best.places.insert(0, origin.repository.clone());
                        best.rank = best.rank.max(rank);
                    }
                    Some(best) if best.rank >= rank => {}
                    _ => {
                        let (raw, manifest) = known;
                        let places = vec![origin.repository.clone()];
                        best = Some(Known {
                            raw,
                            manifest,
                            places,
                            rank,
                        });
                    }
                }
            }
        }
        best
    }

    /// The manifests of an image that a manifest or index is or leads to.
    fn manifests_under(
        &self,
        root: &Digest,
        image: &Stored,
        id: Digest,
    ) -> Vec<(RawManifest, Manifest)> {
        let read = |digest: &Digest| {
            let raw = RawManifest {
                bytes: self.blob(digest).ok()?,
                digest: *digest,
                media_type: String::new(),
            };
            let document = raw.document("").ok()?;
            Some((raw, document))
        };
        let (mut found, mut rest) = (Vec::new(), vec![*root]);
        let mut seen = HashSet::new();
        while let Some(digest) = rest.pop() {
            // An index may name something as often as it likes.
            if !seen.insert(digest) {
                continue;
            }
            match read(&digest) {
                Some((raw, Document::Manifest(manifest))) => {
                    let layers = image.config.diff_ids().len();
                    if manifest.config.digest == id && manifest.layers.len() == layers {
                        found.push((raw, *manifest));
                    }
                }
                Some((_, Document::Index(inner))) => {
                    let digests = inner.manifests.iter().map(|described| described.digest);
                    rest.extend(digests.filter(|it| image.record.manifests.contains(it)));
                }
                None => {}
            }
        }
        found
    }
}

fn unless_cancelled(push: &Push<'_>, error: &registry::Error) -> Result<(), Error> {
    push.cancel.check()?;
    tracing::debug!(
        error = error.chain(),
        "the registry cannot be asked for a layer"
    );
    Ok(())
}
