//! OCI layouts: from `index.json` to the images that it leads to.
//!
//! An entry of `index.json` is an image's manifest, or an index of one image for many platforms, of
//! which the one that is wanted is taken, or the one for this machine. Attestations and other
//! artifacts are passed over, as Docker does. Every document on the way is kept, so that its digest
//! finds the image.

use super::error::Error;
use crate::registry::{
    self, DOCKER_CONFIG, Descriptor, Document, OCI_CONFIG, OCI_INDEX, RawManifest,
};
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::reference::Reference;

/// A layer that is not compressed.
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The full name of an image.
pub(super) const IMAGE_NAME: &str = "io.containerd.image.name";
/// Its tag; some write the full name here.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Indexes inside indexes that are followed.
const DEPTH_MAX: usize = 3;

/// Where a layout has a blob.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// An image in a layout.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) config: Digest,
    /// Layers as the manifest names them: by the digests of their (compressed) blobs.
    pub(super) layers: Vec<Digest>,
    pub(super) name: Option<Reference>,
    /// The manifest and the indexes on the way to it.
    pub(super) documents: Vec<(Digest, Vec<u8>)>,
}

/// The images of an `index.json`; `blob` reads and verifies a blob.
pub(super) fn images(
    index: &[u8],
    platform: Option<&Platform>,
    blob: &dyn Fn(&Descriptor) -> Result<Vec<u8>, Error>,
) -> Result<Vec<Found>, Error> {
    let raw = RawManifest {
        bytes: index.to_vec(),
        digest: Digest::of(index),
        media_type: OCI_INDEX.to_owned(),
    };
    let Document::Index(index) = raw
        .document("index.json")
        .map_err(|error| unreadable(&error))?
    else {
        return Err(Error::Invalid("index.json is no index".to_owned()));
    };
    let mut found = Vec::new();
    for descriptor in &index.manifests {
        if is_artifact(descriptor) {
            continue;
        }
        if let Some(mut image) = follow(descriptor, platform, blob, 0)? {
            image.name = name(descriptor)?;
            found.push(image);
        }
    }
    Ok(found)
}

fn follow(
    descriptor: &Descriptor,
    platform: Option<&Platform>,
    blob: &dyn Fn(&Descriptor) -> Result<Vec<u8>, Error>,
    depth: usize,
) -> Result<Option<Found>, Error> {
    let raw = RawManifest {
        bytes: blob(descriptor)?,
        digest: descriptor.digest,
        media_type: descriptor.media_type.clone(),
    };
    let document = match raw.document(&descriptor.digest.to_string()) {
        // Of an unknown kind: no image.
        Err(registry::Error::ManifestFormat) => return Ok(None),
        document => document.map_err(|error| unreadable(&error))?,
    };
    let here = (raw.digest, raw.bytes);
    let manifest = match document {
        Document::Manifest(manifest) => *manifest,
        Document::Index(_) if depth == DEPTH_MAX => {
            return Err(Error::Invalid("indexes are nested too deeply".to_owned()));
        }
        Document::Index(index) => {
            let best = index.best(platform).map_err(|error| unreadable(&error))?;
            let mut found = match best.first() {
                Some(best) => follow(best, platform, blob, depth + 1)?,
                None => None,
            };
            if let Some(found) = &mut found {
                found.documents.push(here);
            }
            return Ok(found);
        }
    };
    let config = &manifest.config;
    if !matches!(config.media_type.as_str(), "" | OCI_CONFIG | DOCKER_CONFIG) {
        return Ok(None);
    }
    Ok(Some(Found {
        config: config.digest,
        layers: manifest.layers.iter().map(|layer| layer.digest).collect(),
        name: None,
        documents: vec![here],
    }))
}

/// What is wrong with a document is what is wrong with the archive.
fn unreadable(error: &registry::Error) -> Error {
    Error::Invalid(error.chain())
}

fn is_artifact(descriptor: &Descriptor) -> bool {
    let of_nothing = |platform: &registry::DescribedPlatform| platform.os == "unknown";
    descriptor.is_attestation() || descriptor.platform.as_ref().is_some_and(of_nothing)
}

fn name(descriptor: &Descriptor) -> Result<Option<Reference>, Error> {
    let Some(annotations) = &descriptor.annotations else {
        return Ok(None);
    };
    if let Some(name) = annotations.get(IMAGE_NAME) {
        return Ok(Some(Reference::parse(name)?));
    }
    // A bare tag is no name.
    match annotations.get(REF_NAME) {
        Some(name) if name.contains([':', '/']) => Ok(Some(Reference::parse(name)?)),
        _ => Ok(None),
    }
}
