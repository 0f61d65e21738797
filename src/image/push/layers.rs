//! A push's layers: what the repository has of them, mounts, or is sent.
//!
//! Each layer is one task, run by as many threads as may send at the same time. A blob that the
//! repository has already is asked for by digest, at most three of a layer; else mounts from other
//! repositories of the registry are tried, at most four; else it is sent, by the first supply that
//! works. What is learnt is noted, so that the next push finds it, one that waits for the same layer
//! to get to the same registry first of all.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use super::{Known, Progress, Push, UploadStep, unless_cancelled};
use crate::image::compression::Format;
use crate::image::error::Error;
use crate::image::origin::Blob;
use crate::image::schema::{self, Described};
use crate::image::slots::{for_each, lock};
use crate::image::store::Store;
use crate::image::supply::{Sent, Supply};
use crate::image::transfer::seconds_left;
use crate::registry::{self, Mount, Upload};
use crate::types::digest::Digest;
use crate::types::reference::Reference;

/// Blobs of one layer that are looked for; Docker's number for large layers.
const LOOKED_FOR: usize = 3;
/// Repositories that a layer is tried to be mounted from; Docker's number.
const MOUNTS: usize = 4;
/// Repositories that a blob is tried to be fetched from.
const SOURCES: usize = 2;

/// A layer on its way.
pub(super) struct Layer<'a> {
    pub(super) diff_id: Digest,
    /// The blob that it must be for the manifest to be the known one.
    pub(super) wanted: Option<&'a registry::Descriptor>,
}

/// How near a manifest's repository is, the nearest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Elsewhere,
    Registry,
    Repository,
}

impl Rank {
    pub(super) fn of(place: &Reference, target: &Reference) -> Self {
        if place.domain() != target.domain() {
            Self::Elsewhere
        } else if place.path() != target.path() {
            Self::Registry
        } else {
            Self::Repository
        }
    }
}

/// A blob that may be there already.
struct Candidate {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) format: Format,
    pub(super) places: Vec<Reference>,
    /// Whether it is known to be the layer, rather than claimed by the manifest.
    pub(super) is_verified: bool,
}

impl Candidate {
    pub(super) fn verified(blob: Blob) -> Self {
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

impl Store {
    /// Sees to it that the repository has all layers; their blobs, the lowest first.
    pub(super) fn push_layers(
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
        let workers = each.len().min(push.uploads.slots.limit());
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
        let target = (layer.diff_id, push.target().domain().to_owned());
        let _turn = push.uploads.turns.take(target, push.cancel, waiting)?;
        let _slot = (push.uploads.slots).take(|| push.cancel.check(), waiting)?;
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
