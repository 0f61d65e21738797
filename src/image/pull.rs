//! `docker pull`: from a name in a registry to an image in the store.
//!
//! ```text
//! tag, digest ─▶ manifest for the platform ─▶ config ─▶ diff ids ─┬─▶ in the store: skipped
//!     │                                                           └─▶ transfer, some at once
//!     └─ a tag that still means what is here: one HEAD              ─▶ image, then its names
//! ```
//!
//! The config comes first, because it alone tells which layers the store has: by their diff ids,
//! whatever the compression. The documents on the way to the image are kept verbatim, so that
//! their digests find it.
//!
//! Layers are put in place one by one and pinned until the pull is over. After a pull that was
//! interrupted (the network failed, the daemon was killed) those that were finished stay for the
//! next one, until a prune or for a week; after one that was cancelled or whose content was wrong they go.
//!
//! The first error ends the layers that are still under way by using the pull's [`Cancel`].

use std::sync::Arc;

use super::commit::{Naming, Parts};
use super::config::CONFIG_MAX;
use super::error::Error;
use super::origin::Origin;
use super::pins::Pins;
use super::slots::for_each;
use super::store::Store;
use super::transfer::{Downloads, LayerStep, Source};
use crate::registry::{self, Cancel, Found, Repository, Target};
use crate::sys::atomic::Durability;
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::reference::Reference;

/// How something is pulled.
#[derive(Clone, Copy)]
pub struct Pull<'a> {
    /// From where.
    pub repository: &'a Repository,
    /// For what; this machine where nothing is said.
    pub platform: Option<&'a Platform>,
    /// Ends it; used by the pull itself where it fails. The repository was opened with it.
    pub cancel: &'a Cancel,
    /// With which others it shares.
    pub downloads: &'a Downloads,
    /// Whether the compressed blobs stay beside the layers.
    pub keep_blobs: bool,
}

/// What a pull came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub id: Digest,
    /// Whether the name meant another image before, or none.
    pub is_new: bool,
}

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The registry has what was asked for.
    Found,
    /// A layer is somewhere.
    Layer {
        /// The first twelve digits of its blob's digest.
        id: String,
        /// Where.
        step: LayerStep,
    },
    /// All is here; this is the digest of what the name means.
    Digest(Digest),
}

impl Store {
    /// Pulls what a tag or a digest means, and names it so.
    pub fn pull(
        &self,
        pull: &Pull<'_>,
        target: Target<'_>,
        progress: &(dyn Fn(Step) + Sync),
    ) -> Result<Pulled, Error> {
        let own = pull.repository.reference();
        let tag = match target {
            Target::Tag(tag) => Some(own.with_tag(tag)?),
            Target::Digest(_) => None,
        };
        let (root, id, before) = match self.unchanged(pull, tag.as_ref())? {
            Some(found) => {
                progress(Step::Found);
                found
            }
            None => {
                let found = pull.repository.find(target, pull.platform);
                // Docker says that it pulls before it looks into an index.
                if found.as_ref().is_ok() || found.as_ref().is_err_and(is_of_content) {
                    progress(Step::Found);
                }
                let found = found?;
                let root = found
                    .chain
                    .first()
                    .map_or(found.manifest.config.digest, |d| d.digest);
                let names = names(own, root, tag);
                let (id, before) = self.image(pull, &found, &names, progress)?;
                (root, id, before)
            }
        };
        progress(Step::Digest(root));
        Ok(Pulled {
            id,
            is_new: before != Some(id),
        })
    }

    /// What a tag that is known here means in the registry, if that image is here: then there is
    /// nothing to fetch, and it is named. Answers the manifest's digest, the image, and the image that
    /// had the tag.
    fn unchanged(
        &self,
        pull: &Pull<'_>,
        tag: Option<&Reference>,
    ) -> Result<Option<(Digest, Digest, Option<Digest>)>, Error> {
        let Some((name, tag)) = tag.and_then(|name| Some((name, name.tag()?))) else {
            return Ok(None);
        };
        if self.lock().refs.get(name).is_none() {
            return Ok(None);
        }
        let digest = pull.repository.resolve(tag)?.digest;
        let wanted = pull.platform.cloned().unwrap_or_else(Platform::host);
        let mut index = self.lock();
        let found = index.images.iter().find(|(_, image)| {
            image.record.manifests.contains(&digest) && image.config.platform() == wanted
        });
        let Some((id, image)) = found.map(|(id, image)| (*id, Arc::clone(image))) else {
            return Ok(None);
        };
        let mut record = image.record.clone();
        if record.add_origin(digest, name) {
            self.write_record(&id, &record, Durability::Lazy)?;
            index.images.insert(id, Arc::new(image.with_record(record)));
        }
        let names = names(name, digest, Some(name.clone()));
        let before = self.name(&mut index, Naming::Found(&names), id)?;
        Ok(Some((digest, id, before.last().copied().flatten())))
    }

    /// The image of a manifest: the one that is here, or a new one; and the image that had the last
    /// of its names.
    fn image(
        &self,
        pull: &Pull<'_>,
        found: &Found,
        names: &[Reference],
        progress: &(dyn Fn(Step) + Sync),
    ) -> Result<(Digest, Option<Digest>), Error> {
        let id = found.manifest.config.digest;
        let mut pins = Pins::new(self);
        let known = {
            let mut index = self.lock();
            let known = index.images.get(&id).cloned();
            if let Some(image) = &known {
                for layer in image.config.diff_ids() {
                    pins.add(&mut index, *layer);
                }
            }
            known
        };
        let mut parts = match known {
            Some(image) => Parts::new(image.raw.to_vec())?,
            None => {
                let parts = config(pull.repository, id)?;
                let layers = parts.config.diff_ids();
                if layers.len() != found.manifest.layers.len() {
                    return Err(Error::RootFsMismatch);
                }
                {
                    let mut index = self.lock();
                    for layer in layers {
                        pins.add(&mut index, *layer);
                    }
                }
                if let Err(error) = self.layers(pull, found, layers, progress) {
                    drop(pins);
                    if !is_interruption(&error) {
                        self.discard(layers)?;
                    }
                    return Err(error);
                }
                parts
            }
        };
        let blobs = found.manifest.layers.iter();
        let repository = pull.repository.reference();
        self.note_place(blobs.zip(parts.config.diff_ids()), repository);
        let documents = found.chain.iter();
        parts.manifests = documents
            .map(|raw| (raw.digest, raw.bytes.clone()))
            .collect();
        parts.origin = found.chain.first().map(|root| Origin {
            manifest: root.digest,
            repository: repository.bare(),
        });
        let (id, before) = self.commit_image(parts, &mut Vec::new(), Naming::Found(names))?;
        Ok((id, before.last().copied().flatten()))
    }

    /// Fetches the layers that the store lacks.
    fn layers(
        &self,
        pull: &Pull<'_>,
        found: &Found,
        diff_ids: &[Digest],
        progress: &(dyn Fn(Step) + Sync),
    ) -> Result<(), Error> {
        let tell = |source: &Source<'_>, step| {
            let id = source.digest.short();
            progress(Step::Layer { id, step });
        };
        let mut wanted: Vec<Source<'_>> = Vec::new();
        for (blob, diff_id) in found.manifest.layers.iter().zip(diff_ids) {
            let source = Source {
                repository: pull.repository,
                cancel: pull.cancel,
                digest: blob.digest,
                size: blob.size,
                diff_id: *diff_id,
                keep: pull.keep_blobs,
            };
            if self.has_layer(diff_id) {
                tell(&source, LayerStep::Exists);
            } else if !wanted.iter().any(|other| other.diff_id == *diff_id) {
                tell(&source, LayerStep::Wanted);
                wanted.push(source);
            }
        }
        let sizes = wanted.iter().map(|source| source.size);
        self.make_room(sizes.fold(0, u64::saturating_add), pull.cancel)?;
        let workers = wanted.len().min(pull.downloads.limit());
        for source in &wanted[workers..] {
            tell(source, LayerStep::Waiting);
        }
        for_each(&wanted, workers, pull.cancel, |_, source| {
            self.fetch_layer(pull.downloads, source, &|step| tell(source, step))
        })
    }
}

/// Fetches and reads a config.
fn config(repository: &Repository, digest: Digest) -> Result<Parts, Error> {
    let raw = repository
        .small_blob(digest, CONFIG_MAX)
        .map_err(|error| match error {
            registry::Error::Cancelled => Error::Registry(error),
            registry::Error::BlobDigest(digest) => Error::ConfigDigest(digest),
            other => Error::PullConfig(other),
        })?;
    let parts = Parts::new(raw)?;
    if !matches!(parts.config.os.as_str(), "" | "linux") {
        let text = "operating system is not supported";
        return Err(Error::Invalid(text.to_owned()));
    }
    Ok(parts)
}

/// What an image is called that was found: by its digest, and by the tag.
fn names(repository: &Reference, root: Digest, tag: Option<Reference>) -> Vec<Reference> {
    let mut names = vec![repository.with_digest(root)];
    names.extend(tag);
    names
}

/// Whether it is what the registry has that is of no use, rather than that it has nothing.
fn is_of_content(error: &registry::Error) -> bool {
    matches!(
        error,
        registry::Error::NoMatch(_)
            | registry::Error::MediaType(_)
            | registry::Error::AiModel
            | registry::Error::Nested { .. }
    )
}

/// Whether what was fetched so far is good, and only the way to the rest was cut off.
fn is_interruption(error: &Error) -> bool {
    matches!(
        error,
        Error::Registry(
            registry::Error::Request { .. }
                | registry::Error::Proof { .. }
                | registry::Error::Status(_)
        )
    )
}
