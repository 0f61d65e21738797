//! Manifests that are made here: Docker's schema 2, byte for byte as dockerd writes it, or OCI's
//! where a layer is compressed in a way that schema 2 has no name for.

use serde::Serialize;
use serde_json::ser::PrettyFormatter;

use super::compression::Format;
use super::error::Error;
use crate::registry::{DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, OCI_CONFIG, OCI_MANIFEST};
use crate::types::digest::Digest;

/// dockerd's indentation, which is part of a digest.
const INDENT: &[u8] = b"   ";

/// A blob in a manifest to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) format: Format,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// With its fields in dockerd's order, the size first: the registry's and the archives' have OCI's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: &'static str,
    size: u64,
    digest: Digest,
}

/// The manifest of an image, and its media type.
pub(super) fn manifest(
    id: Digest,
    config_size: u64,
    layers: &[Described],
) -> Result<(String, Vec<u8>), Error> {
    let docker = layers.iter().all(|layer| layer.format == Format::Gzip);
    let (media_type, config) = match docker {
        true => (DOCKER_MANIFEST, DOCKER_CONFIG),
        false => (OCI_MANIFEST, OCI_CONFIG),
    };
    let layer = |layer: &Described| Descriptor {
        media_type: match layer.format {
            _ if docker => DOCKER_LAYER,
            Format::Tar => "application/vnd.oci.image.layer.v1.tar",
            Format::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Format::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        },
        size: layer.size,
        digest: layer.digest,
    };
    let document = Document {
        schema_version: 2,
        media_type,
        config: Descriptor {
            media_type: config,
            size: config_size,
            digest: id,
        },
        layers: layers.iter().map(layer).collect(),
    };
    let mut bytes = Vec::new();
    let pretty = PrettyFormatter::with_indent(INDENT);
    let mut out = serde_json::Serializer::with_formatter(&mut bytes, pretty);
    document
        .serialize(&mut out)
        .map_err(|error| Error::Invalid(error.to_string()))?;
    Ok((media_type.to_owned(), bytes))
}

/// What a layer's media type says of its compression.
pub(super) fn format(media_type: &str) -> Format {
    if media_type.ends_with("zstd") {
        Format::Zstd
    } else if media_type.ends_with(".tar") {
        Format::Tar
    } else {
        Format::Gzip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(format: Format) -> Described {
        Described {
            digest: Digest::of(b"layer"),
            size: 5,
            format,
        }
    }

    #[test]
    fn dockers_own() {
        let (id, blob) = (Digest::of(b"config"), Digest::of(b"layer"));
        let (media_type, bytes) = manifest(id, 6, &[layer(Format::Gzip)]).unwrap();
        assert_eq!(media_type, DOCKER_MANIFEST);
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            format!(
                r#"{{
   "schemaVersion": 2,
   "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
   "config": {{
      "mediaType": "application/vnd.docker.container.image.v1+json",
      "size": 6,
      "digest": "{id}"
   }},
   "layers": [
      {{
         "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
         "size": 5,
         "digest": "{blob}"
      }}
   ]
}}"#
            )
        );
    }

    #[test]
    fn other_compressions_are_ocis() {
        let layers = [Format::Gzip, Format::Zstd, Format::Tar].map(layer);
        let (media_type, bytes) = manifest(Digest::of(b""), 0, &layers).unwrap();
        assert_eq!(media_type, OCI_MANIFEST);
        let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let formats: Vec<_> = document["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| format(layer["mediaType"].as_str().unwrap()))
            .collect();
        assert_eq!(formats, layers.map(|layer| layer.format));
        assert_eq!(format(DOCKER_LAYER), Format::Gzip);
    }
}
