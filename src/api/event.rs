//! Events: what happens in the engine, one JSON object a line of `GET /events`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::json::is_default;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// `container`, `image`, `volume`, `network`, `daemon` …
    #[serde(rename = "Type")]
    pub kind: String,
    /// `create`, `start`, `die` …
    #[serde(rename = "Action")]
    pub action: String,
    /// What it happened to.
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// `local`.
    #[serde(skip_serializing_if = "is_default")]
    pub scope: String,
    /// When, in seconds since the epoch.
    #[serde(skip_serializing_if = "is_default")]
    pub time: i64,
    /// When, in nanoseconds since the epoch.
    #[serde(rename = "timeNano", skip_serializing_if = "is_default")]
    pub time_nano: i64,
}

/// What an event happened to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Actor {
    /// Id, or name where it has no id.
    #[serde(rename = "ID")]
    pub id: String,
    /// Labels and more: `name`, `image`, `exitCode`, `signal` …
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}
