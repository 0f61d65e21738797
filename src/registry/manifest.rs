//! Manifests and indexes: what a registry says an image consists of.
//!
//! Read from bytes that are bounded ([`MANIFEST_MAX`]) and kept verbatim, because their digest is
//! the image's name. What a document *is* follows from its own `mediaType`, else from its fields,
//! and must agree with what the registry calls it only in this sense: `Content-Type` is believed
//! where the document says nothing. A document with both `manifests` and `layers` is refused: two
//! readers could see two images in it. Sizes are non-negative, digests of known
//! algorithms.
//!
//! Accepted are Docker's schema 2 and its list, OCI manifests and indexes. Schema 1 is refused in
//! the words of the engine that removed it, and so is what is no image, by its config's media type.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::types::digest::Digest;

/// Longest manifest or index, in bytes: containerd's and most registries' bound.
pub const MANIFEST_MAX: u64 = 4 << 20;
/// Most layers of an image: overlayfs stacks 500 directories, and one is the engine's own.
pub const LAYERS_MAX: usize = 499;

/// Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI's manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's config of an image.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// OCI's config of an image.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's layer.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// The removed format.
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// The annotation of what accompanies an image in an index: attestations.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Configs that Docker takes for those of images, odd ones of old registries included.
const IMAGE_CONFIGS: &[&str] = &[
    DOCKER_CONFIG,
    OCI_CONFIG,
    "application/octet-stream",
    "application/json",
    "text/html",
    "",
];
const PLUGIN_CONFIG: &str = "application/vnd.docker.plugin.v1+json";
/// Media types, or their beginnings before a dot, that Docker unpacks.
const SUPPORTED: &[&str] = &[
    "application/vnd.oci.image",
    "application/vnd.docker",
    "application/octet-stream",
    "application/json",
    "text/html",
    "",
];

/// The value of `Accept`. The removed format is named so that its refusal can be explained.
pub(super) fn accepted() -> String {
    [
        DOCKER_MANIFEST,
        DOCKER_LIST,
        OCI_INDEX,
        OCI_MANIFEST,
        SCHEMA1_SIGNED,
    ]
    .join(", ")
}

/// A manifest or index as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawManifest {
    /// The bytes, which hash to the digest.
    pub bytes: Vec<u8>,
    /// The digest.
    pub digest: Digest,
    /// What the registry calls it.
    pub media_type: String,
}

/// A manifest or index, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Images for several platforms.
    Index(Index),
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its media type.
    pub media_type: String,
    /// Its config.
    pub config: Descriptor,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// Images for several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its media type.
    pub media_type: String,
    /// Their manifests, and what accompanies them.
    pub manifests: Vec<Descriptor>,
}

/// A reference to content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its address.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
    /// Notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescribedPlatform>,
    /// Other places where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
}

/// A platform as an index writes it, which may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedPlatform {
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// Architecture.
    #[serde(default)]
    pub architecture: String,
    /// Variant.
    #[serde(default)]
    pub variant: String,
}

impl Descriptor {
    /// Of content, and no more.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            annotations: None,
            platform: None,
            urls: None,
        }
    }

    /// Whether it accompanies an image and is none: an attestation.
    pub fn is_attestation(&self) -> bool {
        self.annotations
            .as_ref()
            .is_some_and(|notes| notes.contains_key(REFERENCE_TYPE))
    }
}

impl RawManifest {
    /// Reads the document. `reference` names the image in the refusal of a removed format.
    pub fn document(&self, reference: &str) -> Result<Document, Error> {
        let invalid = |reason: String| Error::Manifest {
            digest: self.digest,
            reason,
        };
        // serde would take an array for a struct without names.
        if self.bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(invalid("it is no JSON object".into()));
        }
        let fields: Fields =
            serde_json::from_slice(&self.bytes).map_err(|error| invalid(error.to_string()))?;
        let own = fields.media_type.as_deref().unwrap_or_default();
        let named = if own.is_empty() {
            self.media_type.as_str()
        } else {
            own
        };
        let fits = |index: bool| {
            let other = if index {
                fields.config.is_some() || fields.layers.is_some()
            } else {
                fields.manifests.is_some()
            };
            if other || fields.fs_layers.is_some() {
                let wrong = if index {
                    "\"config\", \"layers\", or \"fsLayers\""
                } else {
                    "\"manifests\" or \"fsLayers\""
                };
                return Err(invalid(format!(
                    "media-type: {named:?} should not have {wrong}"
                )));
            }
            Ok(index)
        };
        let is_index = match named {
            DOCKER_MANIFEST | OCI_MANIFEST => fits(false)?,
            DOCKER_LIST | OCI_INDEX => fits(true)?,
            SCHEMA1 | SCHEMA1_SIGNED => return Err(Error::Schema1(reference.to_owned())),
            _ if !own.is_empty() => return Err(Error::ManifestFormat),
            // Old registries call everything JSON or text.
            _ => match (&fields.manifests, &fields.layers, &fields.fs_layers) {
                (None, None, Some(_)) => return Err(Error::Schema1(reference.to_owned())),
                (Some(_), None, None) if fields.config.is_none() => true,
                (None, Some(_), None) => false,
                _ => return Err(Error::ManifestFormat),
            },
        };
        if fields.schema_version.is_some_and(|version| version != 2) {
            return Err(Error::ManifestFormat);
        }
        if is_index {
            return Ok(Document::Index(Index {
                media_type: if own.is_empty() && named != DOCKER_LIST {
                    OCI_INDEX.to_owned()
                } else {
                    named.to_owned()
                },
                manifests: fields.manifests.unwrap_or_default(),
            }));
        }
        let config = fields
            .config
            .ok_or_else(|| invalid("it has no config".into()))?;
        let layers = fields.layers.unwrap_or_default();
        if layers.len() > LAYERS_MAX {
            return Err(invalid(format!("it has more than {LAYERS_MAX} layers")));
        }
        Ok(Document::Manifest(Box::new(Manifest {
            media_type: if own.is_empty() && named != DOCKER_MANIFEST {
                OCI_MANIFEST.to_owned()
            } else {
                named.to_owned()
            },
            config,
            layers,
        })))
    }
}

/// Everything by which documents are told apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Manifest {
    /// Refuses what is no image or cannot be unpacked, as Docker does.
    pub fn check(&self) -> Result<(), Error> {
        let config = self.config.media_type.as_str();
        // Docker asks this of its own format only; OCI's artifacts are told by the next rule.
        if self.media_type == DOCKER_MANIFEST && !IMAGE_CONFIGS.contains(&config) {
            return Err(Error::Class {
                media_type: config.to_owned(),
                class: if config == PLUGIN_CONFIG {
                    "plugin"
                } else {
                    "unknown"
                },
            });
        }
        check_media_type(config)?;
        for layer in &self.layers {
            check_media_type(&layer.media_type)?;
        }
        Ok(())
    }
}

fn check_media_type(media_type: &str) -> Result<(), Error> {
    let lower = media_type.to_ascii_lowercase();
    if lower.starts_with("application/vnd.docker.ai.") {
        return Err(Error::AiModel);
    }
    let supported = SUPPORTED.iter().any(|known| {
        lower
            .strip_prefix(known)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    });
    if supported {
        Ok(())
    } else {
        Err(Error::MediaType(media_type.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn raw(content_type: &str, body: &str) -> RawManifest {
        RawManifest {
            bytes: body.replace("DIGEST", DIGEST).into_bytes(),
            digest: Digest::of(body.as_bytes()),
            media_type: content_type.into(),
        }
    }

    fn kind(content_type: &str, body: &str) -> String {
        match raw(content_type, body).document("r.example/a:b") {
            Ok(Document::Manifest(manifest)) => format!("manifest {}", manifest.media_type),
            Ok(Document::Index(index)) => format!("index {}", index.media_type),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn tells_documents_apart() {
        let image = r#"{"schemaVersion":2,"config":{"digest":"DIGEST","size":1},"layers":[]}"#;
        assert_eq!(kind("", image), format!("manifest {OCI_MANIFEST}"));
        assert_eq!(
            kind(DOCKER_MANIFEST, image),
            format!("manifest {DOCKER_MANIFEST}")
        );
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert_eq!(kind("text/plain", index), format!("index {OCI_INDEX}"));
        assert_eq!(kind(DOCKER_LIST, index), format!("index {DOCKER_LIST}"));
        // The document's own word goes first.
        let own = format!(r#"{{"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
        assert_eq!(kind(DOCKER_MANIFEST, &own), format!("index {OCI_INDEX}"));
    }

    #[test]
    fn refuses() {
        assert!(kind("", r#"{"schemaVersion":1,"fsLayers":[]}"#).starts_with(
            "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed. Suggest the author of r.example/a:b to upgrade"
        ));
        let both = r#"{"manifests":[],"layers":[],"config":{"digest":"DIGEST","size":1}}"#;
        assert_eq!(kind("", both), "unsupported manifest format");
        assert!(
            kind(OCI_INDEX, both)
                .contains("should not have \"config\", \"layers\", or \"fsLayers\"")
        );
        assert_eq!(
            kind("", r#"{"mediaType":"x/y"}"#),
            "unsupported manifest format"
        );
        assert_eq!(kind("", "{}"), "unsupported manifest format");
        for wrong in [
            r#"{"config":{"digest":"DIGEST","size":-1},"layers":[]}"#,
            r#"{"config":{"digest":"../../etc","size":1},"layers":[]}"#,
            r#"{"layers":[]}"#,
            "[]",
            "",
        ] {
            assert!(
                kind("", wrong).starts_with("invalid manifest sha256:"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn refuses_what_is_no_image() {
        let check = |media_type: &str, config: &str, layer: &str| {
            let descriptor = |media_type: &str| Descriptor {
                media_type: media_type.into(),
                digest: Digest::of(b""),
                size: 0,
                platform: None,
                annotations: None,
                urls: None,
            };
            Manifest {
                media_type: media_type.into(),
                config: descriptor(config),
                layers: vec![descriptor(layer)],
            }
            .check()
            .map_err(|error| error.to_string())
        };
        assert_eq!(check(DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER), Ok(()));
        assert_eq!(
            check(
                OCI_MANIFEST,
                OCI_CONFIG,
                "application/vnd.oci.image.layer.v1.tar+zstd"
            ),
            Ok(())
        );
        assert_eq!(
            check(DOCKER_MANIFEST, PLUGIN_CONFIG, DOCKER_LAYER),
            Err("Encountered remote \"application/vnd.docker.plugin.v1+json\"(plugin) when fetching".into())
        );
        assert_eq!(
            check(OCI_MANIFEST, "application/vnd.cncf.helm.config.v1+json", ""),
            Err("unsupported media type application/vnd.cncf.helm.config.v1+json".into())
        );
        assert_eq!(
            check(
                OCI_MANIFEST,
                OCI_CONFIG,
                "application/vnd.oci.images_are_fun"
            ),
            Err("unsupported media type application/vnd.oci.images_are_fun".into())
        );
        assert!(
            check(
                OCI_MANIFEST,
                "application/vnd.docker.ai.model.config.v0.1+json",
                ""
            )
            .is_err_and(|text| text.starts_with("AI models are not yet supported"))
        );
    }

    proptest! {
        #[test]
        fn never_panics(body in "\\PC*|[{}\\[\\]\":,a-z0-9]{0,60}", content_type in "[a-z/.+]{0,20}") {
            let _ = raw(&content_type, &body).document("x");
        }
    }
}
