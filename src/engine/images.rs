//! The verbs of images.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Mutex, MutexGuard, TryLockError};

use crate::api::filters::Filters;
use crate::api::image::{
    DeleteResponse, HistoryItem, Inspect, Metadata, PruneResponse, RootFs, Summary,
};
use crate::api::progress::JsonMessage;
use crate::api::storage::DriverData;
use crate::engine::Engine;
use crate::engine::error::{Error, Kind, Result};
use crate::engine::pattern::Pattern;
use crate::engine::platforms;
use crate::engine::prune;
use crate::image::{self, ErrorKind, Image, User};
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::reference::Reference;
use crate::types::timestamp::Timestamp;

/// What `GET /images/json` asks for.
#[derive(Debug, Clone, Default)]
pub struct ImageListOptions {
    /// Only those that match.
    pub filters: Filters,
    /// With the size shared with other images.
    pub shared_size: bool,
    /// With those that have no name and are others' parents.
    pub all: bool,
}

const FILTERS: &[&str] = &["before", "dangling", "label", "reference", "since", "until"];

/// Whether images are being pruned.
#[derive(Debug, Default)]
pub(super) struct Pruning(Mutex<()>);

impl Pruning {
    /// Begins one, unless one is under way. It ends when what is returned is dropped.
    fn begin(&self) -> Result<MutexGuard<'_, ()>> {
        match self.0.try_lock() {
            Ok(only) => Ok(only),
            // It guards nothing that a panic could have left half done.
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {
                Err(Error::conflict("a prune operation is already running"))
            }
        }
    }
}

impl Engine {
    /// The images that match, newest first.
    pub fn image_list(&self, options: &ImageListOptions) -> Result<Vec<Summary>> {
        let filters = &options.filters;
        filters
            .validate(FILTERS)
            .map_err(|error| Error::invalid(error.to_string()))?;
        let created = |name: &str| -> Result<Option<Option<Timestamp>>> {
            match filters.values(name).next() {
                Some(image) => Ok(Some(self.find_image(image)?.created)),
                None => Ok(None),
            }
        };
        let (before, since) = (created("before")?, created("since")?);
        let dangling = filters
            .bool("dangling")
            .map_err(|error| Error::invalid(error.to_string()))?;
        let until = match filters.values("until").next() {
            Some(text) => Some(
                Timestamp::parse(text, Timestamp::now())
                    .map_err(|error| Error::invalid(error.to_string()))?,
            ),
            None => None,
        };
        let mut images: Vec<Image> = self
            .images
            .list()
            .into_iter()
            .filter(|image| {
                before.is_none_or(|bound| image.created < bound)
                    && since.is_none_or(|bound| image.created > bound)
                    && until.is_none_or(|bound| image.created.is_none_or(|created| created < bound))
                    && dangling.is_none_or(|wanted| {
                        (image.repo_tags.is_empty() && !(wanted && image.has_children)) == wanted
                    })
                    && (options.all || !is_intermediate(image))
                    && filters.matches_labels(
                        "label",
                        &image.config.config.labels.clone().unwrap_or_default(),
                    )
            })
            .collect();
        images.sort_by_key(|image| std::cmp::Reverse(image.created));
        let shared_sizes = options.shared_size.then(|| self.images.shared_sizes());
        let mut summaries = Vec::new();
        for image in images {
            let mut repo_tags = image.repo_tags.clone();
            if filters.contains("reference") {
                let patterns = filters.values("reference").map(Pattern::parse);
                // With no name to compare a pattern may be anything.
                let patterns = match repo_tags.is_empty() {
                    true => Vec::new(),
                    false => patterns
                        .collect::<std::result::Result<Vec<_>, _>>()
                        .map_err(|error| Error::system(&error))?,
                };
                repo_tags.retain(|tag| {
                    let mut patterns = patterns.iter();
                    patterns.any(|pattern| pattern.matches_reference(tag))
                });
                if repo_tags.is_empty() {
                    continue;
                }
            }
            let users = self.image_users(&image.id).len();
            summaries.push(Summary {
                containers: signed(users as u64),
                created: image.created.map_or(0, Timestamp::seconds),
                id: image.id.to_string(),
                parent_id: parent(&image),
                labels: image.config.config.labels.clone(),
                repo_digests: image.repo_digests.clone(),
                repo_tags,
                shared_size: shared_sizes.as_ref().map_or(-1, |sizes| {
                    signed(sizes.get(&image.id).copied().unwrap_or_default())
                }),
                size: signed(image.size),
                ..Summary::default()
            });
        }
        Ok(summaries)
    }

    /// Everything about an image.
    pub fn image_inspect(&self, name: &str, platform: Option<&Platform>) -> Result<Inspect> {
        let image = self.find_image_for(name, platform)?;
        let config = &image.config;
        // The API's type and the image's own have the same fields in the same spelling.
        let shown = serde_json::to_value(&config.config)
            .and_then(serde_json::from_value)
            .map_err(|error| Error::system(&error))?;
        let layers: Vec<String> = self
            .images
            .layer_paths(&image)
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let data = match layers.split_first() {
            Some((top, below)) => [
                Some(("UpperDir".to_owned(), top.clone())),
                (!below.is_empty()).then(|| ("LowerDir".to_owned(), below.join(":"))),
            ]
            .into_iter()
            .flatten()
            .collect(),
            None => std::collections::BTreeMap::new(),
        };
        Ok(Inspect {
            id: image.id.to_string(),
            repo_tags: image.repo_tags.clone(),
            repo_digests: image.repo_digests.clone(),
            parent: parent(&image),
            comment: match config.history.last() {
                Some(last) if config.comment.is_empty() => last.comment.clone(),
                _ => config.comment.clone(),
            },
            created: image
                .created
                .map(|created| created.to_string())
                .unwrap_or_default(),
            docker_version: config.docker_version.clone(),
            author: config.author.clone(),
            config: Some(shown),
            architecture: image.architecture.clone(),
            variant: image.variant.clone(),
            os: image.os.clone(),
            os_version: config.os_version.clone(),
            size: signed(image.size),
            graph_driver: Some(DriverData {
                name: self.settings.storage_driver.name().to_owned(),
                data: Some(data),
            }),
            root_fs: RootFs {
                kind: "layers".to_owned(),
                layers: image.layers.iter().map(Digest::to_string).collect(),
            },
            metadata: Metadata {
                last_tag_time: image.last_tagged.unwrap_or(Timestamp::ZERO).to_string(),
            },
            ..Inspect::default()
        })
    }

    /// How an image came about, the newest step first.
    pub fn image_history(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<Vec<HistoryItem>> {
        self.find_image_for(name, platform)?;
        let lines = self
            .images
            .history(name)
            .map_err(|error| image_error(&error))?;
        Ok(lines
            .into_iter()
            .map(|line| HistoryItem {
                comment: line.entry.comment,
                created: line.entry.created.map_or(0, Timestamp::seconds),
                created_by: line.entry.created_by,
                id: line
                    .id
                    .map_or_else(|| "<missing>".to_owned(), |id| id.to_string()),
                size: signed(line.size),
                tags: (!line.tags.is_empty()).then_some(line.tags),
            })
            .collect())
    }

    /// Gives an image one more name.
    pub fn image_tag(&self, name: &str, repository: &str, tag: &str) -> Result<()> {
        let reference = Reference::parse_named(repository)
            .map_err(|error| Error::invalid(error.to_string()))?;
        if reference.digest().is_some() {
            return Err(Error::invalid("cannot import digest reference"));
        }
        let reference = if tag.is_empty() {
            reference.with_default_tag()
        } else {
            reference
                .with_tag(tag)
                .map_err(|error| Error::invalid(error.to_string()))?
        };
        let id = self
            .images
            .tag(name, &reference)
            .map_err(|error| image_error(&error))?;
        self.image_event("tag", &id, &reference.familiar());
        Ok(())
    }

    /// Takes a name away from an image, and the image with its last name; with `parents` those that
    /// it was made from too, where nothing else needs them.
    pub fn image_remove(
        &self,
        name: &str,
        force: bool,
        parents: bool,
        platform: Option<&Platform>,
    ) -> Result<Vec<DeleteResponse>> {
        self.find_image_for(name, platform)?;
        Ok(self.remove_image(name, force, parents)?.0)
    }

    /// The same, with the bytes that were freed.
    fn remove_image(
        &self,
        name: &str,
        force: bool,
        parents: bool,
    ) -> Result<(Vec<DeleteResponse>, u64)> {
        // Found before it is gone; the event of its end has no labels in dockerd either.
        let labels = self.find_image(name)?.config.config.labels.clone();
        let removed = self
            .images
            .remove(name, force, parents, &|id| self.image_users(id))
            .map_err(|error| image_error(&error))?;
        let mut answers = Vec::new();
        let mut reclaimed = 0;
        for item in removed {
            match item {
                image::Removed::Untagged { name, id } => {
                    self.labelled_event("untag", &id, &id.to_string(), labels.clone());
                    answers.push(DeleteResponse {
                        untagged: name,
                        ..DeleteResponse::default()
                    });
                }
                image::Removed::Image { id, freed } => {
                    reclaimed += freed;
                    self.labelled_event("delete", &id, &id.to_string(), None);
                    answers.push(DeleteResponse {
                        deleted: id.to_string(),
                        ..DeleteResponse::default()
                    });
                }
                image::Removed::Layer(chain) => {
                    answers.push(DeleteResponse {
                        deleted: chain.to_string(),
                        ..DeleteResponse::default()
                    });
                }
            }
        }
        Ok((answers, reclaimed))
    }

    /// Removes images that no container uses: unnamed ones, or all with `dangling=false`. One prune
    /// at a time.
    pub fn image_prune(&self, filters: &Filters) -> Result<PruneResponse> {
        let _only = self.pruning.begin()?;
        filters
            .validate(&["dangling", "label", "label!", "until"])
            .map_err(|error| Error::invalid(error.to_string()))?;
        let dangling = filters
            .bool_or("dangling", true)
            .map_err(|error| Error::invalid(error.to_string()))?;
        let until = prune::bound(filters)?;
        // What an interrupted pull left belongs to no image.
        let mut reclaimed = self.images.collect().map_err(|error| image_error(&error))?;
        let mut deleted = Vec::new();
        let mut failure = None;
        for image in self.images.list() {
            let labels = image.config.config.labels.clone().unwrap_or_default();
            if (dangling && (!image.repo_tags.is_empty() || image.has_children))
                || is_intermediate(&image)
                || until.is_some_and(|until| image.created.is_none_or(|created| created > until))
                || !filters.matches_labels("label", &labels)
                || !filters.excludes_labels("label!", &labels)
                || !self.image_users(&image.id).is_empty()
            {
                continue;
            }
            let mut names: Vec<String> = image.repo_tags;
            names.extend(image.repo_digests);
            if names.is_empty() {
                names.push(image.id.to_string());
            }
            for name in names {
                match self.remove_image(&name, false, true) {
                    Ok((answers, freed)) => {
                        deleted.extend(answers);
                        reclaimed += freed;
                    }
                    Err(error) if error.kind == Kind::System => {
                        tracing::warn!(%name, %error, "cannot prune an image");
                        failure.get_or_insert(error);
                    }
                    // Gone with a name before, or a container has taken it since: then it stays.
                    Err(_) => {}
                }
            }
        }
        // There is no place for an error beside what was done.
        if let Some(error) = failure.filter(|_| deleted.is_empty()) {
            return Err(error);
        }
        self.prune_event("image", reclaimed);
        Ok(PruneResponse {
            images_deleted: (!deleted.is_empty()).then_some(deleted),
            space_reclaimed: reclaimed,
        })
    }

    /// Loads the images of an archive, or those for `platform`, telling of them as Docker does.
    pub fn image_load(
        &self,
        source: &mut dyn Read,
        platform: Option<&Platform>,
        progress: &mut dyn FnMut(JsonMessage),
    ) -> Result<()> {
        let loaded = self
            .images
            .load(source, platform, &mut |step| progress(load_progress(&step)))
            .map_err(|error| image_error(&error))?;
        for image in loaded {
            self.image_event("load", &image.id, &image.id.to_string());
        }
        Ok(())
    }

    /// Checks that all of these images are there, and for `platform`, before [`Engine::image_save`].
    pub fn image_save_check(&self, names: &[String], platform: Option<&Platform>) -> Result<()> {
        self.images
            .save_check(names, platform)
            .map_err(|error| image_error(&error))
    }

    /// Writes images to one archive.
    pub fn image_save(
        &self,
        names: &[String],
        platform: Option<&Platform>,
        out: &mut dyn Write,
    ) -> Result<()> {
        let saved = self.images.save(names, platform, out);
        for id in saved.map_err(|error| image_error(&error))? {
            self.image_event("save", &id, &id.to_string());
        }
        Ok(())
    }

    /// The image of that name, id, or digest.
    pub(super) fn find_image(&self, name: &str) -> Result<Image> {
        self.images.get(name).map_err(|error| image_error(&error))
    }

    /// The image of that name for a container: the one that is built in is there whenever it is
    /// wanted.
    pub(super) fn image_to_run(&self, name: &str) -> Result<Image> {
        match self.find_image(name) {
            Err(error) if error.kind == Kind::NotFound && image::hello::is_named(name) => {
                image::hello::ensure(&self.images).map_err(|error| image_error(&error))?;
                self.find_image(name)
            }
            found => found,
        }
    }

    /// The same as [`Self::find_image`]; it must be for `platform` if one is given.
    fn find_image_for(&self, name: &str, platform: Option<&Platform>) -> Result<Image> {
        let image = self.find_image(name)?;
        if let Some(wanted) = platform {
            let named = Reference::parse_named(name).ok();
            // A name that is written in full is told of in short.
            let full = named.filter(|named| named.to_string() == name);
            let shown = full.map_or_else(|| name.to_owned(), |named| named.familiar());
            platforms::check(&self.images, &image, wanted, &shown)?;
        }
        Ok(image)
    }

    fn image_users(&self, id: &Digest) -> Vec<User> {
        self.containers
            .all()
            .iter()
            .filter_map(|container| {
                let data = container.data();
                let mut mounted = data.record.mounted_images();
                let uses = data.record.image == *id || mounted.any(|image| image.id == *id);
                uses.then(|| User {
                    id: container.id.short().to_owned(),
                    running: data.record.state.is_live(),
                })
            })
            .collect()
    }

    pub(super) fn image_event(&self, action: &str, id: &Digest, name: &str) {
        let image = self.find_image(&id.to_string());
        let labels = image
            .ok()
            .and_then(|image| image.config.config.labels.clone());
        self.labelled_event(action, id, name, labels);
    }

    fn labelled_event(
        &self,
        action: &str,
        id: &Digest,
        name: &str,
        labels: Option<BTreeMap<String, String>>,
    ) {
        let mut attributes = labels.unwrap_or_default();
        attributes.insert("name".to_owned(), name.to_owned());
        self.events
            .emit("image", action, &id.to_string(), attributes);
    }
}

/// Whether an image has no name and is others' parent.
fn is_intermediate(image: &Image) -> bool {
    image.has_children && image.repo_tags.is_empty() && image.repo_digests.is_empty()
}

/// The id of the image that one was made from here; empty where that is not known.
fn parent(image: &Image) -> String {
    image.parent.map(|id| id.to_string()).unwrap_or_default()
}

/// What Docker's clients show of a load under way.
fn load_progress(step: &image::Progress) -> JsonMessage {
    match step {
        image::Progress::Message(text) => JsonMessage::stream(text.clone()),
        image::Progress::Layer { id, current, total } => {
            JsonMessage::progress(id, "Loading layer", signed(*current), signed(*total))
        }
    }
}

pub(super) fn image_error(error: &image::Error) -> Error {
    let kind = match error.kind() {
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::Conflict => Kind::Conflict,
        ErrorKind::Invalid => Kind::InvalidParameter,
        ErrorKind::System => Kind::System,
    };
    Error::new(kind, error.chain())
}

pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::error::Kind;

    #[test]
    fn one_prune_at_a_time() {
        let pruning = Pruning::default();
        let first = pruning.begin().expect("nobody prunes");
        let second = pruning.begin().map(drop).expect_err("somebody does");
        assert_eq!(second.kind, Kind::Conflict);
        assert_eq!(second.message, "a prune operation is already running");
        drop(first);
        assert!(pruning.begin().is_ok());
    }
}
