//! What the processes of a keeper's start tell each other.
//!
//! ```text
//! client ──Request (an argument)──▶ setup ──State (a memfd)──▶ keeper ──State──▶ its next build
//!   ▲                                 │                          │
//!   └─────────── Report (a line on standard output) ─────────────┘
//! ```
//!
//! Whoever gets furthest makes the report. The state is read by keepers of other builds, so it grows
//! only by fields with defaults; the descriptors that it names are inherited.

use std::io::{self, Write as _};
use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::idmap::IdMap;
use super::protocol::Build;

/// What the client tells the setup process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) exec_root: PathBuf,
    pub(super) data_root: Option<PathBuf>,
    pub(super) build: Build,
    pub(super) grace_ms: u64,
    pub(super) namespaces: Namespaces,
}

/// Where the keeper's namespaces come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Namespaces {
    /// Made anew.
    New,
    /// The starter's own: it is inside. With the maps where an earlier keeper wrote them down.
    Inside(Option<IdMap>),
    /// Those of the process whose pidfd is standard input.
    Join(Option<IdMap>),
}

/// One line on standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The keeper listens.
    Ready(i32),
    /// It does not, and will not.
    Failed(String),
}

impl Report {
    /// Tells the client. If that has gone, nobody is left to be told.
    pub(super) fn send(&self) {
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        let _ = io::stdout().write_all(line.as_bytes());
        let _ = io::stdout().flush();
    }
}

/// A keeper as it crosses exec.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub(super) exec_root: PathBuf,
    pub(super) data_root: Option<PathBuf>,
    pub(super) build: String,
    pub(super) maps: Option<IdMap>,
    pub(super) grace_ms: u64,
    pub(super) forked: u64,
    /// None: this is the first start, and standard output awaits a [`Report`].
    pub(super) listener: Option<RawFd>,
    pub(super) connections: Vec<RawFd>,
    /// The connection, by its place above, that asked for the upgrade.
    pub(super) asker: Option<usize>,
    pub(super) shims: Vec<ShimState>,
    pub(super) networks: Vec<(String, RawFd)>,
    /// A daemon's recipe and program.
    pub(super) revival: Option<[RawFd; 2]>,
}

/// A shim as it crosses exec.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ShimState {
    pub(super) pid: i32,
    pub(super) leash: Option<RawFd>,
    pub(super) held: Vec<RawFd>,
}

impl State {
    /// The state of a keeper that starts.
    pub(super) fn first(request: &Request, maps: IdMap) -> Self {
        Self {
            exec_root: request.exec_root.clone(),
            data_root: request.data_root.clone(),
            build: request.build.0.clone(),
            maps: Some(maps),
            grace_ms: request.grace_ms,
            ..Self::default()
        }
    }
}
