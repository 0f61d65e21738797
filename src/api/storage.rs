//! How a root filesystem is kept, as inspecting an image or a container shows it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::json::is_default;

/// A root filesystem as its driver has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DriverData {
    /// `LowerDir`, `UpperDir`, `MergedDir`, `WorkDir`.
    pub data: Option<BTreeMap<String, String>>,
    /// The driver.
    pub name: String,
}

/// A root filesystem that a snapshotter holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Storage {
    /// The root filesystem.
    #[serde(rename = "RootFS", skip_serializing_if = "Option::is_none")]
    pub root_fs: Option<RootFsStorage>,
}

/// Where a root filesystem is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RootFsStorage {
    /// A snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<RootFsSnapshot>,
}

/// A snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RootFsSnapshot {
    /// The snapshotter.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
}
