//! What registries have: searches, and manifests looked up without a pull.

use serde::{Deserialize, Serialize};

use super::descriptor::{Descriptor, OciPlatform};

/// Answer to `GET /distribution/{name}/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DistributionInspect {
    /// The manifest or index that the name means.
    pub descriptor: Descriptor,
    /// What it has images for; `null` where that is not known.
    pub platforms: Option<Vec<OciPlatform>>,
}

/// A repository that a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchResult {
    /// How many people like it.
    pub star_count: i64,
    /// Whether it is one of Docker's own.
    pub is_official: bool,
    /// Its name.
    pub name: String,
    /// Always false since 1.44.
    pub is_automated: bool,
    /// What it says about itself.
    pub description: String,
}
