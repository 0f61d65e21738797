//! OCI's descriptors, as answers about images, containers and registries show them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::json::{is_default, is_empty};

/// A manifest, index or other blob (OCI).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Descriptor {
    /// Media type.
    pub media_type: String,
    /// Digest.
    pub digest: String,
    /// Bytes.
    pub size: i64,
    /// Where else it is.
    #[serde(skip_serializing_if = "is_empty")]
    pub urls: Option<Vec<String>>,
    /// Annotations.
    #[serde(skip_serializing_if = "is_empty")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// What it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<OciPlatform>,
    /// What it is, where it is no image.
    #[serde(skip_serializing_if = "is_default")]
    pub artifact_type: String,
}

/// What a manifest runs on (OCI).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OciPlatform {
    /// Architecture.
    pub architecture: String,
    /// System.
    pub os: String,
    /// Version of the system (Windows).
    #[serde(rename = "os.version", skip_serializing_if = "is_default")]
    pub os_version: String,
    /// What it needs of the system (Windows).
    #[serde(rename = "os.features", skip_serializing_if = "is_empty")]
    pub os_features: Option<Vec<String>>,
    /// Variant of the architecture.
    #[serde(skip_serializing_if = "is_default")]
    pub variant: String,
}
