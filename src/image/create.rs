//! Images that are made here: `docker import`, and the one that is built into the binary.

use std::io::{BufReader, Read};

use tar::{Builder, EntryType, Header};

use super::commit::Parts;
use super::config::{Config, History, ImageConfig, RootFs};
use super::error::{Error, store};
use super::pipeline::{CHUNK, Finished, Pipeline};
use super::query::Image;
use super::store::Store;
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::reference::Reference;
use crate::types::timestamp::Timestamp;

/// The comment by which built-in images are known.
const BUILT_IN: &str = "built into moss";

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

/// A file or directory of the built-in image.
#[derive(Debug, Clone, Copy)]
pub struct BuiltinFile<'a> {
    /// Path from the root; a slash at its end makes it a directory.
    pub path: &'a str,
    /// Permissions.
    pub mode: u32,
    /// Content.
    pub bytes: &'a [u8],
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
        let id = self.finish(config, vec![layer], None)?;
        if let Some(name) = &import.name {
            self.name_image(name.clone().with_default_tag(), id)?;
        }
        Ok(id)
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
        let id = self.finish(config, layers, Some(parent.id))?;
        if let Some(name) = &commit.name {
            self.name_image(name.clone().with_default_tag(), id)?;
        }
        Ok(id)
    }

    /// Makes the built-in image `name` unless it is there: the same files and config are always
    /// the same image. A name that the user gave to another image stays with that; one that an
    /// older moss gave to its own moves on.
    pub fn ensure_builtin(
        &self,
        name: &Reference,
        files: &[BuiltinFile<'_>],
        config: &Config,
    ) -> Result<Digest, Error> {
        let tar = builtin_tar(files)?;
        let diff_id = Digest::of(&tar);
        let epoch = Some(Timestamp::from_seconds(0));
        let config = ImageConfig {
            created: epoch,
            comment: BUILT_IN.to_owned(),
            config: config.clone(),
            history: vec![History {
                created: epoch,
                created_by: BUILT_IN.to_owned(),
                ..History::default()
            }],
            ..of_layer(&diff_id, &Platform::host())
        };
        let known = {
            let index = self.lock();
            let id = index.refs.get(name);
            id.and_then(|id| Some((id, index.images.get(&id)?.config.clone())))
        };
        match known {
            Some((id, known)) if *known == config || known.comment != BUILT_IN => return Ok(id),
            _ => {}
        }
        let layers = match self.has_layer(&diff_id) {
            true => Vec::new(),
            false => vec![self.unpack_stream(&mut &tar[..])?],
        };
        let id = self.finish(config, layers, None)?;
        self.name_image(name.clone(), id)?;
        Ok(id)
    }

    fn unpack_stream(&self, source: &mut dyn Read) -> Result<Finished, Error> {
        let mut layer = Pipeline::start(self.scratch("layer")?, &self.owners, self.limits)?;
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
    ) -> Result<Digest, Error> {
        let raw = serde_json::to_vec(&config).map_err(|error| Error::Invalid(error.to_string()))?;
        let parts = Parts {
            raw,
            config,
            manifests: Vec::new(),
            origin: None,
            parent,
        };
        let made = self.commit_image(parts, &mut layers);
        if made.is_err() {
            self.collect_stale()?;
        }
        made
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

/// The same bytes for the same files, whenever and by whomever it is made.
fn builtin_tar(files: &[BuiltinFile<'_>]) -> Result<Vec<u8>, Error> {
    let mut tar = Builder::new(Vec::new());
    for file in files {
        let mut header = Header::new_ustar();
        let is_directory = file.path.ends_with('/');
        header.set_entry_type(match is_directory {
            true => EntryType::Directory,
            false => EntryType::Regular,
        });
        header.set_mode(file.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(file.bytes.len() as u64);
        tar.append_data(&mut header, file.path, file.bytes)
            .map_err(store("write", file.path))?;
    }
    tar.into_inner()
        .map_err(store("write", "the built-in image"))
}
