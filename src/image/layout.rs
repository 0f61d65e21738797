//! OCI layouts: from `index.json` to the images that it leads to.
//!
//! An entry of `index.json` is an image's manifest, or an index of one image for many platforms,
//! of which the one for this machine is taken. Attestations and other artifacts are passed over,
//! as Docker does. Every document on the way is kept, so that its digest finds the image.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::load::parse;
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::reference::Reference;

pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// The full name of an image.
pub(super) const IMAGE_NAME: &str = "io.containerd.image.name";
/// Its tag; some write the full name here.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Indexes inside indexes that are followed.
const DEPTH_MAX: usize = 3;

/// A pointer to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
}

/// An index or a manifest, whichever of the fields are there.
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
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
    blob: &dyn Fn(&Descriptor) -> Result<Vec<u8>, Error>,
) -> Result<Vec<Found>, Error> {
    let index: Document = parse(index, "index.json")?;
    let mut found = Vec::new();
    for descriptor in index.manifests.unwrap_or_default() {
        if is_artifact(&descriptor) {
            continue;
        }
        if let Some(mut image) = follow(&descriptor, blob, 0)? {
            image.name = name(&descriptor)?;
            found.push(image);
        }
    }
    Ok(found)
}

fn follow(
    descriptor: &Descriptor,
    blob: &dyn Fn(&Descriptor) -> Result<Vec<u8>, Error>,
    depth: usize,
) -> Result<Option<Found>, Error> {
    let bytes = blob(descriptor)?;
    let document: Document = parse(&bytes, &descriptor.digest.to_string())?;
    let here = (descriptor.digest, bytes);
    if let Some(manifests) = document.manifests {
        if depth == DEPTH_MAX {
            return Err(Error::Invalid("indexes are nested too deeply".to_owned()));
        }
        let Some(chosen) = choose(&manifests) else {
            return Err(Error::Invalid(format!(
                "no matching manifest for {} in the manifest list entries",
                Platform::host()
            )));
        };
        let mut found = follow(chosen, blob, depth + 1)?;
        if let Some(found) = &mut found {
            found.documents.push(here);
        }
        return Ok(found);
    }
    let Some(config) = document.config else {
        return Err(Error::Invalid(format!(
            "{} is no manifest",
            descriptor.digest
        )));
    };
    if !matches!(config.media_type.as_str(), "" | CONFIG | DOCKER_CONFIG) {
        return Ok(None);
    }
    let layers = document.layers.unwrap_or_default();
    Ok(Some(Found {
        config: config.digest,
        layers: layers.into_iter().map(|layer| layer.digest).collect(),
        name: None,
        documents: vec![here],
    }))
}

/// The manifest for this machine: the nearest variant; one that names no platform as a last resort.
fn choose(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let host = Platform::host();
    let normal = |p: &Platform| Platform::new(&p.os, &p.architecture, &p.variant);
    let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| host.runs(&normal(p)));
    let real = || manifests.iter().filter(|d| !is_artifact(d));
    real()
        .filter(fits)
        .max_by_key(|d| d.platform.as_ref().map(|p| normal(p).variant))
        .or_else(|| real().find(|d| d.platform.is_none()))
}

fn is_artifact(descriptor: &Descriptor) -> bool {
    let attested = descriptor
        .annotations
        .as_ref()
        .is_some_and(|a| a.contains_key(REFERENCE_TYPE));
    attested
        || descriptor
            .platform
            .as_ref()
            .is_some_and(|p| p.os == "unknown")
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
