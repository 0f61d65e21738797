//! `docker save`: several images in one archive, as docker 28 writes it.
//!
//! An OCI layout whose layers are the uncompressed tars, byte for byte as they came, and beside it
//! docker-archive's `manifest.json` and `repositories`, which name the same blobs: older engines,
//! podman and skopeo read one or the other. Each blob is written once, whatever images share it.
//! Nothing is spooled: layers are read from their trees as they are written, and checked
//! (`checked`): a damaged one breaks the archive off. They are pinned until it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use serde::Serialize;
use tar::{Builder, EntryType, Header};

use super::checked::Checked;
use super::error::{Error, store};
use super::layout;
use super::pins::Pins;
use super::query::Image;
use super::store::Store;
use crate::registry::{Descriptor, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::reference::Reference;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestItem {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
    layer_sources: BTreeMap<Digest, Descriptor>,
}

/// What is written at the end, gathered on the way.
#[derive(Default)]
struct Documents {
    manifests: Vec<Descriptor>,
    items: Vec<ManifestItem>,
    repositories: BTreeMap<String, BTreeMap<String, String>>,
    written: BTreeSet<Digest>,
}

impl Store {
    /// Writes images to one archive. A name without a tag stands for every tag of its repository;
    /// an id or a digest for the image without its names. All names are looked up before the first
    /// byte is written. Fails where one is not for `platform`. The images that were meant, each once.
    pub fn save(
        &self,
        names: &[String],
        platform: Option<&Platform>,
        out: &mut dyn Write,
    ) -> Result<Vec<Digest>, Error> {
        let images = self.chosen(names, platform)?;
        let _pins = self.pinned(&images);
        let mut archive = Builder::new(out);
        let mut documents = Documents::default();
        directory(&mut archive, "blobs/")?;
        directory(&mut archive, "blobs/sha256/")?;
        for (image, names) in &images {
            self.save_image(&mut archive, &mut documents, image, names)?;
        }
        let index = Index {
            schema_version: 2,
            media_type: OCI_INDEX,
            manifests: documents.manifests,
        };
        file(&mut archive, "index.json", &json(&index)?)?;
        file(&mut archive, "manifest.json", &json(&documents.items)?)?;
        file(
            &mut archive,
            "oci-layout",
            br#"{"imageLayoutVersion": "1.0.0"}"#,
        )?;
        if !documents.repositories.is_empty() {
            file(
                &mut archive,
                "repositories",
                &json(&documents.repositories)?,
            )?;
        }
        archive.finish().map_err(write("archive"))?;
        Ok(images.iter().map(|(image, _)| image.id).collect())
    }

    /// Fails where [`Store::save`] would because of a name, or of a layer that cannot be opened.
    pub fn save_check(&self, names: &[String], platform: Option<&Platform>) -> Result<(), Error> {
        let images = self.chosen(names, platform)?;
        let layers: BTreeSet<&Digest> =
            images.iter().flat_map(|(image, _)| &image.layers).collect();
        layers
            .into_iter()
            .try_for_each(|layer| self.layer_tar(layer).map(drop))
    }

    /// Keeps the layers of these images, which may be removed meanwhile.
    fn pinned(&self, images: &[(Image, Vec<Reference>)]) -> Pins<'_> {
        let mut pins = Pins::new(self);
        let mut index = self.lock();
        for layer in images.iter().flat_map(|(image, _)| &image.layers) {
            pins.add(&mut index, *layer);
        }
        drop(index);
        pins
    }

    /// The images that are meant, each once, with the names they are saved under.
    fn chosen(
        &self,
        names: &[String],
        platform: Option<&Platform>,
    ) -> Result<Vec<(Image, Vec<Reference>)>, Error> {
        let index = self.lock();
        let mut chosen: Vec<(Image, Vec<Reference>)> = Vec::new();
        let mut add = |id: &Digest, names: Vec<Reference>| {
            let at = chosen
                .iter()
                .position(|(image, _)| image.id == *id)
                .or_else(|| {
                    let stored = index.images.get(id)?;
                    chosen.push((index.image(id, stored), Vec::new()));
                    Some(chosen.len() - 1)
                });
            if let Some(at) = at {
                let known = &mut chosen[at].1;
                for name in names {
                    if !known.contains(&name) {
                        known.push(name);
                    }
                }
            }
        };
        for name in names {
            let id = index.find(name);
            let reference = match Reference::parse_named(name) {
                Ok(reference) if reference.digest().is_none() => reference,
                _ => {
                    add(&id?, Vec::new());
                    continue;
                }
            };
            if reference.tag().is_some() {
                let id = id?;
                let by_name = index.refs.get(&reference).is_some();
                add(&id, if by_name { vec![reference] } else { Vec::new() });
                continue;
            }
            let tags = index.refs.tags(&reference.repository());
            if tags.is_empty() {
                add(&id?, Vec::new());
            }
            for (name, id) in tags {
                add(&id, vec![name]);
            }
        }
        if let Some(wanted) = platform
            && chosen
                .iter()
                .any(|(image, _)| image.config.platform() != *wanted)
        {
            return Err(Error::NotForPlatform(wanted.clone()));
        }
        Ok(chosen)
    }

    fn save_image<W: Write>(
        &self,
        archive: &mut Builder<W>,
        documents: &mut Documents,
        image: &Image,
        names: &[Reference],
    ) -> Result<(), Error> {
        let mut layers = Vec::new();
        for diff_id in &image.layers {
            let missing = || Error::Invalid(format!("the layer {diff_id} is missing"));
            let size = self.layer_tar_size(diff_id).ok_or_else(missing)?;
            layers.push(Descriptor::new(layout::LAYER, *diff_id, size));
            if documents.written.insert(*diff_id) {
                let tar = Checked::start(self, *diff_id, size)?;
                append(archive, &layout::blob_path(diff_id), size, tar)?;
            }
        }
        let config = Descriptor::new(OCI_CONFIG, image.id, image.raw.len() as u64);
        let manifest = json(&Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST,
            config,
            layers: layers.clone(),
        })?;
        let manifest_digest = Digest::of(&manifest);
        for (digest, bytes) in [(image.id, &image.raw[..]), (manifest_digest, &manifest)] {
            if documents.written.insert(digest) {
                file(archive, &layout::blob_path(&digest), bytes)?;
            }
        }
        let mut here = Descriptor::new(OCI_MANIFEST, manifest_digest, manifest.len() as u64);
        for name in names {
            let tag = name.tag().unwrap_or_default();
            let named = [
                (layout::IMAGE_NAME, name.to_string()),
                (layout::REF_NAME, tag.to_owned()),
            ];
            let named = named.map(|(key, value)| (key.to_owned(), value));
            here.annotations = Some(BTreeMap::from(named));
            documents.manifests.push(here.clone());
            if let Some(top) = image.layers.last() {
                let repository = documents
                    .repositories
                    .entry(name.familiar_name())
                    .or_default();
                repository.insert(tag.to_owned(), top.hex());
            }
        }
        if names.is_empty() {
            documents.manifests.push(here);
        }
        let tags = names.iter().map(Reference::familiar).collect();
        documents.items.push(ManifestItem {
            config: layout::blob_path(&image.id),
            repo_tags: (!names.is_empty()).then_some(tags),
            layers: image.layers.iter().map(layout::blob_path).collect(),
            layer_sources: layers
                .into_iter()
                .map(|layer| (layer.digest, layer))
                .collect(),
        });
        Ok(())
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Invalid(error.to_string()))
}

/// A layer that is read while the archive is written may be to blame.
fn write(what: &str) -> impl FnOnce(io::Error) -> Error {
    move |error| match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => store("write", what)(error),
    }
}

fn directory<W: Write>(archive: &mut Builder<W>, path: &str) -> Result<(), Error> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    archive
        .append_data(&mut header, path, io::empty())
        .map_err(write(path))
}

fn file<W: Write>(archive: &mut Builder<W>, path: &str, bytes: &[u8]) -> Result<(), Error> {
    append(archive, path, bytes.len() as u64, bytes)
}

fn append<W: Write>(
    archive: &mut Builder<W>,
    path: &str,
    size: u64,
    content: impl Read,
) -> Result<(), Error> {
    // GNU: a ustar header has no room for 8 GiB and more.
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size);
    archive
        .append_data(&mut header, path, content)
        .map_err(write(path))
}
