//! The store: where images are on disk, and what of it is in memory.
//!
//! ```text
//! <data root>/
//!   images/HEX.json       one record an image, by the digest of its config
//!   blobs/sha256/HEX      configs, manifests and indexes, verbatim; also sha384, sha512
//!   layers/HEX/           one directory a layer, by its diff id, shared by all images
//!     fs/                 the tree, as overlayfs takes it
//!     layer.json          sizes
//!     blobs.json          which blobs of which registries it is (see `origin`)
//!     blob                the blob that it came as, where such are kept
//!     split.zst, aside/   what rebuilds the tar (see `split`)
//!     pulled              its image has not come yet; since when, by the file's time
//!     unsynced            the boot in which it was written, until it is known to be on disk
//!   refs.json, refs.old   names → ids, replaced whole
//!   reserve               room for a removal (see `reserve`)
//!   tmp/                  what is being built; emptied at open
//!   trash/                what is being removed; emptied at open
//! ```
//!
//! One daemon owns the data root (its lock sees to that), so everything but contents is held in
//! memory under one lock and written through: disk first, then memory. The lock is held for
//! renames and small writes only, never while a layer is read or written.
//!
//! # Crashes
//! Layers, blobs and records are built in `tmp/` and renamed into place: layers, then blobs, then
//! records, then names; removal goes the other way. So at every instruction what a name or a
//! record refers to is there, and what nothing refers to is removed when the store is opened or
//! collected. [`Store::open`] skips (and says so) what is damaged all the same:
//! a record whose config or layer is missing is no image, a `refs.json` that cannot be read is
//! replaced by `refs.old`.
//!
//! # Power cuts
//! Layers are not synced before they are used: a `syncfs` writes everybody's dirty data, seconds
//! for a large image, and what it protects can be verified. Each new layer carries the mark
//! `unsynced` with the boot's id; a thread calls `syncfs` after the fact and takes the mark off.
//! A layer that still has the mark in another boot is read back and hashed (its split file gives
//! exactly the tar of its diff id) and dropped if it differs. Inodes, names and attributes are
//! ordered by the filesystem's journal: if the rename survived, so did they. Names are synced, and so
//! are the records and blobs of an image that brings no new layer, whose `syncfs` would take them
//! along.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::config::ImageConfig;
use super::error::{Error, store};
use super::janitor::Janitor;
use super::layer;
use super::origin::{Origin, add_origin};
use super::owner::Owners;
use super::refs::Refs;
use super::reserve;
use super::scratch::Scratch;
use super::unpack::Limits;
use crate::sys::atomic::{self, Durability};
use crate::sys::spread::spread;
use crate::sys::trash;
use crate::types::digest::{Algorithm, Digest};
use crate::types::reference::Reference;
use crate::types::timestamp::Timestamp;

/// The images of one data root.
pub struct Store {
    pub(super) root: PathBuf,
    pub(super) owners: Owners,
    pub(super) limits: Limits,
    pub(super) index: Mutex<Index>,
    pub(super) janitor: Janitor,
}

/// What is known without looking at the disk.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) images: BTreeMap<Digest, Arc<Stored>>,
    pub(super) layers: HashMap<Digest, layer::Record>,
    pub(super) refs: Refs,
    /// Layers that a load, pull or push counts on, and how many do.
    pub(super) pins: HashMap<Digest, usize>,
}

/// An image in memory.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) config: Arc<ImageConfig>,
    pub(super) raw: Arc<[u8]>,
    pub(super) record: Record,
}

impl Stored {
    /// The same image with another record.
    pub(super) fn with_record(&self, record: Record) -> Self {
        Self {
            config: Arc::clone(&self.config),
            raw: Arc::clone(&self.raw),
            record,
        }
    }
}

/// `images/HEX.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// Manifests and indexes through which the image is known, all of them in `blobs`.
    #[serde(default)]
    pub(super) manifests: Vec<Digest>,
    /// When it was last tagged.
    #[serde(default)]
    pub(super) last_tagged: Option<Timestamp>,
    /// In which repositories the manifests were, the latest last.
    #[serde(default)]
    pub(super) origins: Vec<Origin>,
    /// The image that a commit was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<Digest>,
}

impl Record {
    /// Notes where a manifest was; whether that is news.
    pub(super) fn add_origin(&mut self, manifest: Digest, repository: &Reference) -> bool {
        add_origin(&mut self.origins, manifest, repository)
    }
}

/// Directories of the store, in the order in which they are made.
const DIRECTORIES: &[&str] = &[
    "images",
    "blobs",
    "blobs/sha256",
    "blobs/sha384",
    "blobs/sha512",
    "layers",
    "tmp",
    "trash",
];

impl Store {
    /// Opens the store below `data_root`, making it if it is not there.
    pub fn open(data_root: &Path) -> Result<Self, Error> {
        Self::open_with(data_root, Limits::default())
    }

    /// The same with other bounds on what a layer may be.
    pub fn open_with(data_root: &Path, limits: Limits) -> Result<Self, Error> {
        let root = data_root.to_owned();
        for directory in DIRECTORIES {
            let path = root.join(directory);
            fs::create_dir_all(&path).map_err(store("make", &path))?;
        }
        // Layers are unpacked there, and only then moved to their place.
        spread(&root.join("tmp"));
        let opened = Self {
            owners: Owners::of_this_process(),
            limits,
            index: Mutex::default(),
            janitor: Janitor::start(&root)?,
            root,
        };
        opened.discard_scratch()?;
        let mut index = opened.lock();
        index.layers = opened.read_layers()?;
        index.images = opened.read_images(&index.layers)?;
        opened.discard_orphans()?;
        index.refs = Refs::read(&opened.root);
        let images = &index.images;
        let lost = index.refs.missing(|id| images.contains_key(id));
        for name in lost {
            tracing::warn!(%name, "the image of this name is gone");
            index.refs.remove(&name);
        }
        drop(index);
        opened.janitor.sweep();
        Ok(opened)
    }

    /// Where the store is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A poisoned lock is taken over: the index is changed only after the disk, in steps that
    /// cannot panic half way.
    pub(super) fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn scratch(&self, purpose: &str) -> Result<Scratch, Error> {
        Scratch::new(&self.root.join("tmp"), purpose)
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        let blobs = self.root.join("blobs").join(digest.algorithm().name());
        blobs.join(digest.hex())
    }

    pub(super) fn record_path(&self, id: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", id.hex()))
    }

    pub(super) fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// A config, manifest or index, checked against its digest.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let path = self.blob_path(digest);
        let bytes = fs::read(&path).map_err(store("read", &path))?;
        if !digest.is_of(&bytes) {
            let reason = "its digest is wrong".to_owned();
            return Err(Error::Damaged { path, reason });
        }
        Ok(bytes)
    }

    pub(super) fn write_blob(
        &self,
        digest: &Digest,
        bytes: &[u8],
        durability: Durability,
    ) -> Result<(), Error> {
        let path = self.blob_path(digest);
        atomic::write(&path, bytes, durability).map_err(store("write", &path))
    }

    pub(super) fn write_record(
        &self,
        id: &Digest,
        record: &Record,
        durability: Durability,
    ) -> Result<(), Error> {
        let path = self.record_path(id);
        let bytes = serde_json::to_vec(record).map_err(|error| Error::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        atomic::write(&path, &bytes, durability).map_err(store("write", &path))
    }

    /// Does a part of a removal, with the space that is kept in reserve if need be.
    pub(super) fn make_do<T>(&self, act: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        match act() {
            Err(error) if error.is_full() && reserve::give_up(&self.root) => {
                let done = act();
                reserve::make(&self.root);
                done
            }
            done => done,
        }
    }

    /// Moves something into the trash, where the janitor finds it.
    pub(super) fn trash(&self, path: &Path) -> Result<(), Error> {
        let trash = self.root.join("trash");
        self.make_do(|| trash::discard(&trash, "image", path).map_err(store("remove", path)))?;
        self.janitor.sweep();
        Ok(())
    }

    fn discard_scratch(&self) -> Result<(), Error> {
        let tmp = self.root.join("tmp");
        for name in names(&tmp)? {
            self.trash(&tmp.join(name))?;
        }
        for directory in [
            "images",
            "blobs/sha256",
            "blobs/sha384",
            "blobs/sha512",
            ".",
        ] {
            let directory = self.root.join(directory);
            for name in names(&directory)? {
                if atomic::is_temporary(&name) {
                    let path = directory.join(name);
                    fs::remove_file(&path).map_err(store("remove", &path))?;
                }
            }
        }
        Ok(())
    }

    /// Removes the blobs that no record refers to: a crash between them and their record left them.
    fn discard_orphans(&self) -> Result<(), Error> {
        let mut kept = HashSet::new();
        for name in names(&self.root.join("images"))? {
            let path = self.root.join("images").join(&name);
            let id = name
                .strip_suffix(".json")
                .and_then(|hex| Digest::from_hex(hex).ok());
            let text = fs::read(&path).map_err(store("read", &path))?;
            let record = serde_json::from_slice::<Record>(&text);
            let (Some(id), Ok(record)) = (id, record) else {
                // Nobody knows what it refers to.
                return Ok(());
            };
            kept.insert(id);
            kept.extend(record.manifests);
        }
        for algorithm in Algorithm::ALL {
            let blobs = self.root.join("blobs").join(algorithm.name());
            for name in names(&blobs)? {
                let digest = Digest::parse(algorithm, &name);
                if !digest.is_ok_and(|digest| kept.contains(&digest)) {
                    self.trash(&blobs.join(name))?;
                }
            }
        }
        Ok(())
    }

    fn read_layers(&self) -> Result<HashMap<Digest, layer::Record>, Error> {
        let mut layers = HashMap::new();
        for name in names(&self.root.join("layers"))? {
            let path = self.root.join("layers").join(&name);
            let read = Digest::from_hex(&name)
                .map_err(|error| error.to_string())
                .and_then(|id| Ok((id, layer::check(&path, &id).map_err(|e| e.chain())?)));
            match read {
                Ok((id, record)) => {
                    layers.insert(id, record);
                    if layer::is_unsynced(&path) {
                        self.janitor.sync(&path);
                    }
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a damaged layer is dropped");
                    self.trash(&path)?;
                }
            }
        }
        Ok(layers)
    }

    fn read_images(
        &self,
        layers: &HashMap<Digest, layer::Record>,
    ) -> Result<BTreeMap<Digest, Arc<Stored>>, Error> {
        let mut images = BTreeMap::new();
        for name in names(&self.root.join("images"))? {
            let Some(id) = name
                .strip_suffix(".json")
                .and_then(|hex| Digest::from_hex(hex).ok())
            else {
                continue;
            };
            match self.read_image(&id, layers) {
                Ok(image) => {
                    images.insert(id, Arc::new(image));
                }
                Err(error) => {
                    let error = error.chain();
                    tracing::warn!(%id, %error, "an image cannot be used and is left out");
                }
            }
        }
        Ok(images)
    }

    fn read_image(
        &self,
        id: &Digest,
        layers: &HashMap<Digest, layer::Record>,
    ) -> Result<Stored, Error> {
        let path = self.record_path(id);
        let text = fs::read(&path).map_err(store("read", &path))?;
        // A record that says nothing useful is better than no image: the config has the rest.
        let record = serde_json::from_slice(&text).unwrap_or_default();
        let raw = self.blob(id)?;
        let config = ImageConfig::read(&raw)?;
        if let Some(missing) = config.diff_ids().iter().find(|id| !layers.contains_key(id)) {
            return Err(Error::Damaged {
                path,
                reason: format!("its layer {missing} is missing"),
            });
        }
        Ok(Stored {
            config: Arc::new(config),
            raw: raw.into(),
            record,
        })
    }
}

/// The names in a directory, as far as they are text; everything the store makes is.
fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(store("read", directory))? {
        let entry = entry.map_err(store("read", directory))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}
