//! Images that are made here: `docker import` and `docker commit`.

use std::io::{BufReader, Read};

use super::commit::{Naming, Parts};
use super::config::{Config, History, ImageConfig, RootFs};
use super::error::Error;
use super::pipeline::{CHUNK, Finished, Pipeline};
use super::query::Image;
use super::room::UNKNOWN;
use super::store::Store;
use crate::registry::Cancel;
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::reference::Reference;
use crate::types::timestamp::Timestamp;

/// What `docker import` says beside the tar.
#[derive(Debug, Clone, Default)]
pub struct Import {
    /// What containers start with (`--change`, see [`Config::change`]).
    pub config: Config,
    /// The comment (`--message`; Docker's default is "Imported from -").
    pub message: String,
    /// What it runs on; this machine's platform where nothing is said.
    pub platform: Option<Platform>,
    /// The name that it gets.
    pub name: Option<Reference>,
}

/// What `docker commit` says beside the layer.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// What containers start with.
    pub config: Config,
    /// Who makes it.
    pub author: String,
    /// Why.
    pub comment: String,
    /// What the container ran.
    pub created_by: String,
    /// The name that it gets.
    pub name: Option<Reference>,
}

impl Store {
    /// Makes an image of one layer from a tar, compressed or not.
    pub fn import(&self, source: &mut dyn Read, import: &Import) -> Result<Digest, Error> {
        let layer = self.unpack_stream(source)?;
        let now = Timestamp::now();
        let platform = import.platform.clone().unwrap_or_else(Platform::host);
        let config = ImageConfig {
            created: Some(now),
            comment: import.message.clone(),
            config: import.config.clone(),
            history: vec![History {
                created: Some(now),
                comment: import.message.clone(),
                ..History::default()
            }],
            ..of_layer(&layer.diff_id, &platform)
        };
        self.finish(config, vec![layer], None, import.name.as_ref())
    }

    /// Makes an image of `parent`'s layers and one more, from a tar that is whole where `whole` says
    /// so at its end. A layer with nothing in it is left out.
    pub fn commit(
        &self,
        parent: &Image,
        source: &mut dyn Read,
        whole: &mut dyn FnMut() -> std::io::Result<()>,
        commit: &Commit,
    ) -> Result<Digest, Error> {
        let layer = self.unpack_stream(source)?;
        whole().map_err(Error::Source)?;
        let now = Timestamp::now();
        let mut config = (*parent.config).clone();
        let empty_layer = layer.diff_id == Digest::of(&[0; 1024]);
        config.created = Some(now);
        config.author.clone_from(&commit.author);
        config.comment.clone_from(&commit.comment);
        config.config = commit.config.clone();
        config.history.push(History {
            created: Some(now),
            created_by: commit.created_by.clone(),
            author: commit.author.clone(),
            comment: commit.comment.clone(),
            empty_layer,
        });
        let mut layers = Vec::new();
        if !empty_layer {
            let rootfs = config.rootfs.get_or_insert_default();
            rootfs.diff_ids.push(layer.diff_id);
            layers.push(layer);
        }
        self.finish(config, layers, Some(parent.id), commit.name.as_ref())
    }

    /// Begins to unpack a layer of an archive's.
    pub(super) fn start_layer(&self) -> Result<Pipeline, Error> {
        // Nobody can cancel it but by dropping it.
        let never = Cancel::new();
        self.wait_for_room(UNKNOWN, &never)?;
        let scratch = self.scratch("layer")?;
        Pipeline::start(scratch, &self.owners, self.limits, &never)
    }

    fn unpack_stream(&self, source: &mut dyn Read) -> Result<Finished, Error> {
        let mut layer = self.start_layer()?;
        let mut source = BufReader::with_capacity(CHUNK, source);
        loop {
            let bytes = std::io::BufRead::fill_buf(&mut source).map_err(Error::Source)?;
            if bytes.is_empty() {
                return layer.finish();
            }
            layer.write(bytes);
            let amount = bytes.len();
            std::io::BufRead::consume(&mut source, amount);
        }
    }

    fn finish(
        &self,
        config: ImageConfig,
        mut layers: Vec<Finished>,
        parent: Option<Digest>,
        name: Option<&Reference>,
    ) -> Result<Digest, Error> {
        let raw = serde_json::to_vec(&config).map_err(|error| Error::Invalid(error.to_string()))?;
        let parts = Parts {
            raw,
            config,
            manifests: Vec::new(),
            origin: None,
            parent,
        };
        let names: Vec<_> = name
            .into_iter()
            .map(|name| name.clone().with_default_tag())
            .collect();
        let made = self.commit_image(parts, &mut layers, Naming::Tags(&names));
        if made.is_err() {
            self.collect_stale()?;
        }
        Ok(made?.0)
    }
}

fn of_layer(diff_id: &Digest, platform: &Platform) -> ImageConfig {
    ImageConfig {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        rootfs: Some(RootFs {
            kind: "layers".to_owned(),
            diff_ids: vec![*diff_id],
        }),
        ..ImageConfig::default()
    }
}
