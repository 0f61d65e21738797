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

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::error::Error;
use super::origin::{Blob, Format};
use super::pins::Pins;
use super::schema;
use super::slots::{Slots, for_each, lock};
use super::store::{Store, Stored};
use super::supply::{Sent, Supply};
use super::transfer::seconds_left;
use crate::registry::{self, Cancel, Document, Manifest, Mount, RawManifest, Repository, Upload};
use crate::sys::atomic::Durability;
use crate::types::digest::Digest;
use crate::types::reference::Reference;

/// Blobs of one layer that are looked for; Docker's number for large layers.
const LOOKED_FOR: usize = 3;
/// Repositories that a layer is tried to be mounted from; Docker's number.
const MOUNTS: usize = 4;
/// Repositories that a blob is tried to be fetched from.
const SOURCES: usize = 2;

/// How many layers may be sent at the same time.
pub struct Uploads(Slots);

impl Uploads {
    /// So many, and at least one.
    pub fn new(limit: usize) -> Self {
        Self(Slots::new(limit))
    }

    /// Changes how many that are; those that are under way go on.
    pub fn set_limit(&self, limit: usize) {
        self.0.set_limit(limit);
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

/// A blob in a manifest to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) format: Format,
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

/// A layer on its way.
struct Layer<'a> {
    diff_id: Digest,
    /// The blob that it must be for the manifest to be the known one.
    wanted: Option<&'a registry::Descriptor>,
}

/// A manifest that the image is known by.
struct Known {
    raw: RawManifest,
    manifest: Manifest,
    /// Repositories that had it, the latest last.
    places: Vec<Reference>,
    rank: Rank,
}

/// How near a manifest's repository is, the nearest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Elsewhere,
    Registry,
    Repository,
}

impl Rank {
    fn of(place: &Reference, target: &Reference) -> Self {
        if place.domain() != target.domain() {
            Self::Elsewhere
        } else if place.path() != target.path() {
            Self::Registry
        } else {
            Self::Repository
        }
    }
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
        let pushed = self.push_image(push, name, id, &image, progress);
        drop(pins);
        // Of an image that was removed meanwhile the layers were left.
        if let Err(error) = self.discard(image.config.diff_ids()) {
            tracing::error!(error = error.chain(), "cannot remove unused layers");
        }
        pushed
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
        drop(index);
        self.name_pulled(&[name.with_digest(digest)], id).map(drop)
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
                        found.push((raw, manifest));
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

    /// Sees to it that the repository has all layers; their blobs, the lowest first.
    fn push_layers(
        &self,
        push: &Push<'_>,
        layers: &[Layer<'_>],
        known: Option<&Known>,
        progress: Progress<'_>,
    ) -> Result<Vec<Described>, Error> {
        let same = |one: &Layer<'_>, other: &Layer<'_>| {
            one.diff_id == other.diff_id
                && one.wanted.map(|it| it.digest) == other.wanted.map(|it| it.digest)
        };
        let mut each: Vec<&Layer<'_>> = Vec::new();
        // Docker begins at the top.
        for layer in layers.iter().rev() {
            progress(&layer.diff_id.short(), UploadStep::Preparing);
            if !each.iter().any(|other| same(other, layer)) {
                each.push(layer);
            }
        }
        let workers = each.len().min(push.uploads.0.limit());
        for layer in &each[workers..] {
            progress(&layer.diff_id.short(), UploadStep::Waiting);
        }
        let blobs: Mutex<HashMap<usize, Described>> = Mutex::default();
        for_each(&each, workers, push.cancel, |at, layer| {
            let tell = |step| progress(&layer.diff_id.short(), step);
            let blob = self.push_layer(push, layer, known, &tell)?;
            lock(&blobs).insert(at, blob);
            Ok(())
        })?;
        let blobs = lock(&blobs);
        let blob = |layer: &Layer<'_>| {
            let at = each.iter().position(|other| same(other, layer))?;
            blobs.get(&at).copied()
        };
        layers
            .iter()
            .map(|layer| blob(layer).ok_or(Error::Interrupted))
            .collect()
    }

    fn push_layer(
        &self,
        push: &Push<'_>,
        layer: &Layer<'_>,
        known: Option<&Known>,
        tell: &dyn Fn(UploadStep),
    ) -> Result<Described, Error> {
        if let Some(blob) = push.known_there(layer) {
            tell(UploadStep::Exists);
            return Ok(blob);
        }
        let waiting = || tell(UploadStep::Waiting);
        let _slot = push.uploads.0.take(push.cancel, waiting)?;
        let candidates = self.candidates(push, layer, known);
        let mut upload = None;
        let found = match exists(push, &candidates)? {
            Some(found) => {
                tell(UploadStep::Exists);
                Some(found)
            }
            None => mount(push, &candidates, &mut upload)?.map(|(found, from)| {
                tell(UploadStep::Mounted(from));
                found
            }),
        };
        let is_verified = found.is_none_or(|found| found.is_verified);
        let blob = match found {
            Some(found) => {
                let (digest, size, format) = (found.digest, found.size, found.format);
                // What a manifest claims to be the layer stays a claim.
                if found.is_verified {
                    self.note_sent(push, layer.diff_id, digest, size, format, false);
                }
                Described {
                    digest,
                    size,
                    format,
                }
            }
            None => {
                let blob = self.send(push, layer, known, upload, tell)?;
                tell(UploadStep::Pushed);
                blob
            }
        };
        lock(&push.there).insert(layer.diff_id, (blob, is_verified));
        Ok(blob)
    }

    fn note_sent(
        &self,
        push: &Push<'_>,
        diff_id: Digest,
        digest: Digest,
        size: u64,
        format: Format,
        made: bool,
    ) {
        let blob = Blob {
            digest,
            size,
            format,
            made,
            places: vec![push.target().bare()],
        };
        self.note_blob(&diff_id, blob);
    }

    /// The blobs that the registry may have of a layer, the best first.
    fn candidates(
        &self,
        push: &Push<'_>,
        layer: &Layer<'_>,
        known: Option<&Known>,
    ) -> Vec<Candidate> {
        let mut blobs = self.blobs_of(&layer.diff_id);
        blobs.reverse();
        let (Some(wanted), Some(known)) = (layer.wanted, known) else {
            let rank = |place: &Reference| Rank::of(place, push.target());
            let best = |blob: &Blob| blob.places.iter().map(rank).max();
            blobs.sort_by_key(|blob| std::cmp::Reverse(best(blob)));
            blobs.truncate(LOOKED_FOR);
            return blobs.into_iter().map(Candidate::verified).collect();
        };
        let verified = blobs.into_iter().find(|blob| blob.digest == wanted.digest);
        let is_verified = verified.is_some();
        if !is_verified && known.rank == Rank::Elsewhere {
            // That this registry has such a blob does not make it the layer.
            return Vec::new();
        }
        let mut places = verified.map(|blob| blob.places).unwrap_or_default();
        places.extend(known.places.iter().cloned());
        vec![Candidate {
            digest: wanted.digest,
            size: wanted.size,
            format: schema::format(&wanted.media_type),
            places,
            is_verified,
        }]
    }

    /// The ways to send a layer, the best first.
    fn supplies(
        &self,
        push: &Push<'_>,
        layer: &Layer<'_>,
        known: Option<&Known>,
    ) -> Vec<(Supply, bool)> {
        let mut supplies = Vec::new();
        let fits = |digest: Digest| layer.wanted.is_none_or(|wanted| wanted.digest == digest);
        let kept = self.kept_blob(&layer.diff_id);
        if let Some((kept, path)) = kept.filter(|(kept, _)| fits(kept.digest)) {
            supplies.push((Supply::Kept(kept, path), false));
        }
        let mut format = push.format;
        if let (Some(wanted), Some(known)) = (layer.wanted, known) {
            let blobs = self.blobs_of(&layer.diff_id);
            let blob = blobs.into_iter().find(|blob| blob.digest == wanted.digest);
            match blob {
                Some(blob) if blob.made => format = blob.format,
                blob => {
                    let is_verified = blob.is_some();
                    let mut places = known.places.clone();
                    places.extend(blob.map(|blob| blob.places).unwrap_or_default());
                    let mut tried: Vec<Reference> = Vec::new();
                    for place in places.into_iter().rev() {
                        if tried.contains(&place)
                            || tried.len() == SOURCES
                            || Rank::of(&place, push.target()) == Rank::Repository
                        {
                            continue;
                        }
                        if let Some(repository) = (push.sources)(&place) {
                            let fetched = Supply::Fetched {
                                repository,
                                digest: wanted.digest,
                                size: wanted.size,
                                is_verified,
                            };
                            supplies.push((fetched, false));
                        }
                        tried.push(place);
                    }
                }
            }
        }
        supplies.push((Supply::Compressed(format), true));
        supplies
    }

    /// Sends a layer by the first supply that works.
    fn send(
        &self,
        push: &Push<'_>,
        layer: &Layer<'_>,
        known: Option<&Known>,
        mut upload: Option<Upload>,
        tell: &dyn Fn(UploadStep),
    ) -> Result<Described, Error> {
        let diff_id = layer.diff_id;
        let tar_size = self.layer_tar_size(&diff_id).unwrap_or_default();
        let progress = |current, total| tell(UploadStep::Pushing { current, total });
        let retrying = &mut |left: Duration| {
            let seconds = seconds_left(left);
            tell(UploadStep::Retrying { seconds });
        };
        let mut last = Error::Interrupted;
        for (supply, made) in self.supplies(push, layer, known) {
            let upload = match upload.take() {
                Some(upload) => upload,
                None => push.repository.upload()?,
            };
            let mut sent = Sent::new(self, diff_id, tar_size, &supply, &progress);
            match upload.send(&mut sent, retrying) {
                Ok(digest) => {
                    let sizes = sent.sizes().ok_or(Error::Interrupted)?;
                    let claimed = layer.wanted.map(|it| schema::format(&it.media_type));
                    let format = sizes.format.or(claimed).unwrap_or(push.format);
                    self.note_sent(push, diff_id, digest, sizes.size, format, made);
                    return Ok(Described {
                        digest,
                        size: sizes.size,
                        format,
                    });
                }
                Err(registry::Error::Source(error)) => {
                    push.cancel.check()?;
                    tracing::info!(layer = %diff_id, %error, "a layer cannot be sent this way");
                    last = registry::Error::Source(error).into();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(last)
    }
}

/// A blob that may be there already.
struct Candidate {
    digest: Digest,
    size: u64,
    format: Format,
    places: Vec<Reference>,
    /// Whether it is known to be the layer, rather than claimed by the manifest.
    is_verified: bool,
}

impl Candidate {
    fn verified(blob: Blob) -> Self {
        Self {
            digest: blob.digest,
            size: blob.size,
            format: blob.format,
            places: blob.places,
            is_verified: true,
        }
    }
}

/// The candidate that the repository has. Where that cannot be asked, the upload tells why.
fn exists<'c>(
    push: &Push<'_>,
    candidates: &'c [Candidate],
) -> Result<Option<&'c Candidate>, Error> {
    for candidate in candidates {
        match push.repository.blob_size(candidate.digest) {
            Ok(Some(_)) => return Ok(Some(candidate)),
            Ok(None) => {}
            Err(error) => unless_cancelled(push, &error)?,
        }
    }
    Ok(None)
}

/// The candidate that could be mounted, and from which repository. An upload that was begun instead
/// is left in `upload`.
fn mount<'c>(
    push: &Push<'_>,
    candidates: &'c [Candidate],
    upload: &mut Option<Upload>,
) -> Result<Option<(&'c Candidate, String)>, Error> {
    let target = push.target();
    let mut attempts = 0;
    for candidate in candidates {
        for place in candidate.places.iter().rev() {
            if Rank::of(place, target) != Rank::Registry || attempts == MOUNTS {
                continue;
            }
            attempts += 1;
            match push.repository.mount(candidate.digest, place) {
                Ok(Mount::Mounted) => {
                    abandon(upload.take());
                    return Ok(Some((candidate, place.path().to_owned())));
                }
                Ok(Mount::Upload(begun)) => abandon(upload.replace(begun)),
                Err(error) => unless_cancelled(push, &error)?,
            }
        }
    }
    Ok(None)
}

/// Gives an upload up that nothing was sent for; registries forget what they are not told of too.
fn abandon(upload: Option<Upload>) {
    if let Some(Err(error)) = upload.map(Upload::abandon) {
        tracing::debug!(error = error.chain(), "an upload is left behind");
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
