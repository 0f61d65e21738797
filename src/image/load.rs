//! `docker load`: archives of images, read once from beginning to end.
//!
//! Both forms, and docker 28's mixture of them: docker-archive (`manifest.json`, which decides
//! where there is one) and OCI layout (`index.json`). Entries come in any order, the manifest
//! usually last, so that it is not known which entry is a layer of what. But a layer's id is the
//! digest of its own tar: so whatever looks like a tar, compressed or not, is unpacked as it
//! streams by ([`super::pipeline`]), and claimed by its path when the manifest has been read. All
//! else (configs, manifests) is spooled to files. Of entries with one name the last counts. Up to
//! [`AT_ONCE`] layers are in flight, so that the end of one is written while the next is read.
//!
//! An uncompressed blob whose name says that it is a layer which the store has is not unpacked
//! again; the layer is pinned until the load is over.
//!
//! Nothing is put in place until every image of the archive is complete and every layer's digest
//! is what its config says; an error before that leaves nothing behind.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;

use serde::Deserialize;

use super::commit::{Naming, Parts};
use super::compression::{Compression, decompress};
use super::error::{Error, store};
use super::layout;
use super::ledger;
use super::pins::Pins;
use super::pipeline::{CHUNK, Finished, Pipeline};
use super::scratch::Scratch;
use super::store::Store;
use crate::registry::Descriptor;
use crate::tarball::{self, Entry, Kind, Reader};
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::reference::Reference;

/// Layers unpacked at the same time.
const AT_ONCE: usize = 3;
/// Most bytes of a config, manifest or index.
const DOCUMENT_MAX: u64 = 16 << 20;
/// Larger entries that are no tars cannot be of use and are skipped.
const SPOOL_MAX: u64 = 64 << 20;
/// Most bytes spooled for one archive.
const SPOOL_TOTAL: u64 = 1 << 30;
/// Most entries of one archive.
const ENTRIES_MAX: usize = 100_000;
/// Most bytes of all their names and links' targets.
const NAMES_MAX: usize = 16 << 20;
/// Most bytes of configs, manifests and indexes that are read, as often as they are referred to.
const DOCUMENTS_TOTAL: u64 = 64 << 20;
/// Most links followed to find an entry.
const LINKS_MAX: usize = 16;

/// What a client is shown while something goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A line of text, with its newline (`stream` in Docker's messages).
    Message(String),
    /// How far a layer is.
    Layer {
        /// The first twelve digits of its diff id.
        id: String,
        /// Bytes done.
        current: u64,
        /// Of so many.
        total: u64,
    },
}

/// An image that a load brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// The names it got.
    pub names: Vec<Reference>,
}

/// One image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestItem {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// An image whose every part is at hand.
struct Complete {
    parts: Parts,
    layers: Vec<String>,
    names: Vec<Reference>,
}

/// Where an entry of the archive went.
enum Content {
    Spooled(PathBuf),
    /// Being unpacked, or unpacked: an index into [`Intake::layers`].
    Layer(usize),
    /// A layer that the store has.
    Known(Digest),
    Link(Vec<u8>),
    /// Larger than anything useful.
    Skipped,
}

enum Slot {
    Running(Pipeline),
    Done(Result<Finished, Error>),
    /// Claimed; this is its diff id.
    Taken(Digest),
}

/// The archive, taken in.
struct Intake<'a> {
    store: &'a Store,
    spool: Scratch,
    spooled: u64,
    /// Entries that were read; one may replace an earlier one of its name.
    read: usize,
    entries: HashMap<Vec<u8>, Content>,
    /// Bytes of names and links' targets.
    names: usize,
    /// Bytes of documents that were read.
    documents: Cell<u64>,
    layers: Vec<Slot>,
    /// Layers that the store must keep.
    pins: Pins<'a>,
    finished: Vec<Finished>,
}

impl Store {
    /// Loads every image of an archive, or those that are for `platform`.
    pub fn load(
        &self,
        source: &mut dyn Read,
        platform: Option<&Platform>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>, Error> {
        let mut intake = Intake {
            store: self,
            spool: self.scratch("load")?,
            spooled: 0,
            read: 0,
            entries: HashMap::new(),
            names: 0,
            documents: Cell::new(0),
            layers: Vec::new(),
            pins: Pins::new(self),
            finished: Vec::new(),
        };
        intake.read(source)?;
        let mut images = intake.images(platform)?;
        for image in &mut images {
            intake.claim(image, progress)?;
        }
        let loaded = intake.commit(images, progress);
        if loaded.is_err() {
            // Layers that got into place before the error and belong to nothing.
            drop(intake);
            self.collect_stale()?;
        }
        loaded
    }
}

impl Intake<'_> {
    fn read(&mut self, source: &mut dyn Read) -> Result<(), Error> {
        let source = BufReader::with_capacity(CHUNK, source);
        let plain = BufReader::with_capacity(CHUNK, decompress(source)?);
        let mut archive = Reader::new(plain);
        while let Some(entry) = archive.next(&mut io::sink())? {
            if self.read >= ENTRIES_MAX {
                return Err(Error::Archive(format!("{ENTRIES_MAX} entries")));
            }
            self.read += 1;
            let names = ledger::clean(&entry.name).map_err(|why| Error::entry(&entry.name, why))?;
            let path = names.join(&b'/');
            let content = match entry.kind {
                Kind::File => self.file(&mut archive, &entry, &path)?,
                Kind::Symlink => {
                    let parent = names.split_last().map_or(&[][..], |(_, parents)| parents);
                    Content::Link([&parent.join(&b'/'), &b"/"[..], &entry.link].concat())
                }
                Kind::HardLink => Content::Link(entry.link.clone()),
                _ => continue,
            };
            self.names += path.len() + entry.link.len();
            if self.names > NAMES_MAX {
                return Err(Error::Archive(format!("{NAMES_MAX} bytes of names")));
            }
            self.entries.insert(path, content);
        }
        Ok(())
    }

    fn file<R: io::BufRead>(
        &mut self,
        archive: &mut Reader<R>,
        entry: &Entry,
        path: &[u8],
    ) -> Result<Content, Error> {
        let mut head = Vec::with_capacity(tarball::BLOCK);
        while head.len() < tarball::BLOCK {
            let bytes = archive.content()?;
            let amount = bytes.len().min(tarball::BLOCK - head.len());
            if amount == 0 {
                break;
            }
            head.extend_from_slice(&bytes[..amount]);
            archive.consume(amount);
        }
        if !looks_like_layer(&head) {
            return self.spool(archive, entry, &head);
        }
        if let Some(known) = self.known(path, &head) {
            skip(archive)?;
            return Ok(Content::Known(known));
        }
        self.make_room();
        let mut layer = self.store.start_layer()?;
        layer.write(&head);
        loop {
            let bytes = archive.content()?;
            if bytes.is_empty() {
                break;
            }
            layer.write(bytes);
            let amount = bytes.len();
            archive.consume(amount);
        }
        self.layers.push(Slot::Running(layer));
        Ok(Content::Layer(self.layers.len() - 1))
    }

    /// Whether an uncompressed blob's name says that it is a layer which is here; pins it.
    fn known(&mut self, path: &[u8], head: &[u8]) -> Option<Digest> {
        if Compression::detect(head) != Compression::None {
            return None;
        }
        let hex = std::str::from_utf8(path.strip_prefix(b"blobs/sha256/")?).ok()?;
        let digest = Digest::from_hex(hex).ok()?;
        let mut index = self.store.lock();
        if !index.layers.contains_key(&digest) {
            return None;
        }
        self.pins.add(&mut index, digest);
        Some(digest)
    }

    /// Waits for the oldest layers until fewer than [`AT_ONCE`] are in flight.
    fn make_room(&mut self) {
        let is_running = |slot: &Slot| matches!(slot, Slot::Running(_));
        while self.layers.iter().filter(|slot| is_running(slot)).count() >= AT_ONCE {
            if let Some(oldest) = self.layers.iter().position(is_running) {
                self.wait(oldest);
            }
        }
    }

    fn wait(&mut self, at: usize) {
        let interrupted = Slot::Done(Err(Error::Interrupted));
        let slot = std::mem::replace(&mut self.layers[at], interrupted);
        self.layers[at] = match slot {
            Slot::Running(layer) => Slot::Done(layer.finish()),
            slot => slot,
        };
    }

    fn spool<R: io::BufRead>(
        &mut self,
        archive: &mut Reader<R>,
        entry: &Entry,
        head: &[u8],
    ) -> Result<Content, Error> {
        if entry.size > SPOOL_MAX {
            skip(archive)?;
            return Ok(Content::Skipped);
        }
        self.spooled += entry.size;
        if self.spooled > SPOOL_TOTAL {
            return Err(Error::Archive(format!(
                "{SPOOL_TOTAL} bytes beside the layers"
            )));
        }
        let path = self.spool.path().join(self.read.to_string());
        let write = || store("write", &path);
        let mut file = File::create(&path).map_err(write())?;
        file.write_all(head).map_err(write())?;
        loop {
            let bytes = archive.content()?;
            if bytes.is_empty() {
                break;
            }
            file.write_all(bytes).map_err(write())?;
            let amount = bytes.len();
            archive.consume(amount);
        }
        Ok(Content::Spooled(path))
    }

    /// An entry's content, links followed.
    fn find(&self, path: &str) -> Option<(Vec<u8>, &Content)> {
        let mut path = ledger::clean(path.as_bytes()).ok()?.join(&b'/');
        for _ in 0..LINKS_MAX {
            match self.entries.get(&path)? {
                Content::Link(target) => path = ledger::clean(target).ok()?.join(&b'/'),
                content => return Some((path, content)),
            }
        }
        None
    }

    fn images(&self, platform: Option<&Platform>) -> Result<Vec<Complete>, Error> {
        let mut images = if self.find("manifest.json").is_some() {
            self.docker_archive()?
        } else if self.find("index.json").is_some() {
            self.oci_layout(platform)?
        } else {
            return Err(Error::Invalid(
                "the archive holds no images: it has neither manifest.json nor index.json"
                    .to_owned(),
            ));
        };
        // Docker says nothing of the others.
        images
            .retain(|image| platform.is_none_or(|wanted| image.parts.config.platform() == *wanted));
        Ok(images)
    }

    fn docker_archive(&self) -> Result<Vec<Complete>, Error> {
        let items: Vec<ManifestItem> = parse(&self.document("manifest.json")?, "manifest.json")?;
        // Manifests are extras here: what is wrong with them is no reason to refuse the images.
        let found = self.document("index.json").ok().and_then(|index| {
            layout::images(&index, None, &|descriptor: &Descriptor| {
                self.blob(descriptor)
            })
            .ok()
        });
        let mut images = Vec::new();
        for item in items {
            let mut parts = Parts::new(self.document(&item.config)?)?;
            let id = Digest::of(&parts.raw);
            for image in found.iter().flatten().filter(|image| image.config == id) {
                parts.manifests.extend(image.documents.iter().cloned());
            }
            let tags = item.repo_tags.unwrap_or_default();
            let names = tags
                .iter()
                .map(|tag| tagged(tag))
                .collect::<Result<_, _>>()?;
            images.push(Complete {
                parts,
                layers: item.layers.unwrap_or_default(),
                names,
            });
        }
        Ok(images)
    }

    fn oci_layout(&self, platform: Option<&Platform>) -> Result<Vec<Complete>, Error> {
        let index = self.document("index.json")?;
        let found = layout::images(&index, platform, &|descriptor: &Descriptor| {
            self.blob(descriptor)
        })?;
        let mut images = Vec::new();
        for image in found {
            let mut parts = Parts::new(self.blob_of(&image.config)?)?;
            parts.manifests = image.documents;
            let layers = image.layers.iter().map(layout::blob_path);
            images.push(Complete {
                parts,
                layers: layers.collect(),
                names: image.name.into_iter().collect(),
            });
        }
        if images.is_empty() {
            return Err(Error::Invalid(
                "the archive's index names no image".to_owned(),
            ));
        }
        Ok(images)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        self.blob_of(&descriptor.digest)
    }

    fn blob_of(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let path = layout::blob_path(digest);
        let bytes = self.document(&path)?;
        if !digest.is_of(&bytes) {
            let mut hash = digest.algorithm().hasher();
            hash.update(&bytes);
            return Err(Error::DigestMismatch {
                what: path,
                expected: Box::new(*digest),
                actual: Box::new(hash.finish()),
            });
        }
        Ok(bytes)
    }

    fn document(&self, path: &str) -> Result<Vec<u8>, Error> {
        match self.find(path) {
            Some((_, Content::Spooled(file))) => {
                let length = fs::metadata(file).map_err(store("read", file))?.len();
                if length > DOCUMENT_MAX {
                    return Err(Error::Invalid(format!(
                        "{path} of the archive is too large"
                    )));
                }
                let documents = self.documents.get() + length;
                self.documents.set(documents);
                if documents > DOCUMENTS_TOTAL {
                    return Err(Error::Archive(format!(
                        "{DOCUMENTS_TOTAL} bytes of configs and manifests"
                    )));
                }
                fs::read(file).map_err(store("read", file))
            }
            Some((_, Content::Skipped)) => Err(Error::Invalid(format!(
                "{path} of the archive is too large"
            ))),
            Some(_) => Err(Error::Invalid(format!("{path} of the archive is no JSON"))),
            None => Err(Error::Invalid(format!("{path} is missing in the archive"))),
        }
    }

    /// Matches an image's layers with what was unpacked.
    fn claim(
        &mut self,
        image: &mut Complete,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        let config = &image.parts.config;
        if !matches!(config.os.as_str(), "" | "linux") {
            let text = format!("cannot load {} image on linux", config.os);
            return Err(Error::Invalid(text));
        }
        let diff_ids = config.diff_ids().to_vec();
        if diff_ids.len() != image.layers.len() {
            return Err(Error::Invalid(format!(
                "invalid manifest, layers length mismatch: expected {}, got {}",
                diff_ids.len(),
                image.layers.len()
            )));
        }
        for (at, (path, expected)) in image.layers.iter().zip(&diff_ids).enumerate() {
            let (actual, size) = self.layer(path)?;
            if actual != *expected {
                return Err(Error::Invalid(format!(
                    "invalid diffID for layer {at}: expected {:?}, got {:?}",
                    expected.to_string(),
                    actual.to_string()
                )));
            }
            if let Some(total) = size {
                let id = actual.short();
                let current = total;
                progress(Progress::Layer { id, current, total });
            }
        }
        Ok(())
    }

    /// The layer at `path`: its diff id, and its tar's size the first time it is asked for.
    fn layer(&mut self, path: &str) -> Result<(Digest, Option<u64>), Error> {
        let missing = || Error::Invalid(format!("the layer {path} is missing in the archive"));
        let (path, content) = self.find(path).ok_or_else(missing)?;
        let at = match content {
            Content::Known(digest) => return Ok((*digest, None)),
            Content::Layer(at) => *at,
            Content::Spooled(file) => self.unpack_spooled(path, &file.clone())?,
            Content::Skipped | Content::Link(_) => return Err(missing()),
        };
        self.wait(at);
        let interrupted = Slot::Done(Err(Error::Interrupted));
        match std::mem::replace(&mut self.layers[at], interrupted) {
            Slot::Done(layer) => {
                let layer = layer?;
                let answer = (layer.diff_id, Some(layer.unpacked.tar_size));
                self.layers[at] = Slot::Taken(layer.diff_id);
                self.finished.push(layer);
                Ok(answer)
            }
            Slot::Taken(digest) => {
                self.layers[at] = Slot::Taken(digest);
                Ok((digest, None))
            }
            Slot::Running(_) => Err(Error::Interrupted),
        }
    }

    /// A layer that did not look like one: an empty file is an empty layer.
    fn unpack_spooled(&mut self, path: Vec<u8>, file: &PathBuf) -> Result<usize, Error> {
        let mut bytes = File::open(file).map_err(store("read", file))?;
        let mut layer = self.store.start_layer()?;
        let mut buffer = vec![0; CHUNK];
        loop {
            match bytes.read(&mut buffer).map_err(store("read", file))? {
                0 => break,
                amount => layer.write(&buffer[..amount]),
            }
        }
        self.layers.push(Slot::Running(layer));
        self.entries
            .insert(path, Content::Layer(self.layers.len() - 1));
        Ok(self.layers.len() - 1)
    }

    fn commit(
        &mut self,
        images: Vec<Complete>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>, Error> {
        let mut loaded = Vec::new();
        for image in images {
            let naming = Naming::Tags(&image.names);
            let store = self.store;
            let (id, before) = store.commit_image(image.parts, &mut self.finished, naming)?;
            for (name, before) in image.names.iter().zip(before) {
                if let Some(before) = before.filter(|before| *before != id) {
                    progress(Progress::Message(format!(
                        "The image {} already exists, renaming the old one with ID {before} to empty string\n",
                        name.familiar()
                    )));
                }
                let text = format!("Loaded image: {}\n", name.familiar());
                progress(Progress::Message(text));
            }
            if image.names.is_empty() {
                progress(Progress::Message(format!("Loaded image ID: {id}\n")));
            }
            let names = image.names;
            loaded.push(Loaded { id, names });
        }
        self.store.discard_layers(&mut self.finished);
        Ok(loaded)
    }
}

/// A tar's first block, or the beginning of something compressed.
fn looks_like_layer(head: &[u8]) -> bool {
    match Compression::detect(head) {
        Compression::None => match <&[u8; tarball::BLOCK]>::try_from(head) {
            Ok(block) => block.iter().all(|b| *b == 0) || tarball::is_header(block),
            Err(_) => false,
        },
        _ => true,
    }
}

fn skip<R: io::BufRead>(archive: &mut Reader<R>) -> Result<(), Error> {
    loop {
        let amount = archive.content()?.len();
        if amount == 0 {
            return Ok(());
        }
        archive.consume(amount);
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Invalid(format!("{what} of the archive cannot be read: {error}")))
}

/// A name of `manifest.json`; it must have a tag.
fn tagged(tag: &str) -> Result<Reference, Error> {
    let name = Reference::parse_named(tag)?;
    if name.tag().is_none() || name.digest().is_some() {
        return Err(Error::Invalid(format!("invalid tag {tag:?}")));
    }
    Ok(name)
}
