//! What daemon and keeper say to each other: one JSON message a packet, descriptors beside it.
//!
//! Requests are answered in order, each with one [`Reply`]. Messages may grow fields; [`VERSION`]
//! grows when one changes its meaning, and a daemon that is newer has the keeper replaced first.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use super::super::idmap::IdMap;

/// Version of this protocol.
pub const VERSION: u32 = 1;

/// The longest message, either way (a status with a few thousand shims).
pub(super) const MAX_MESSAGE: usize = 64 << 10;

/// Names one build of moss: its version, and what tells two builds of one version apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Build(pub String);

impl Build {
    /// The build in `program`: the file's size and time of change stand for its content, which
    /// would take milliseconds to read.
    pub fn of(program: &File) -> std::io::Result<Self> {
        let metadata = program.metadata()?;
        let (size, seconds) = (metadata.size(), metadata.mtime());
        let nanoseconds = metadata.mtime_nsec();
        Ok(Self(format!(
            "{}+{size:x}.{seconds:x}.{nanoseconds:x}",
            env!("CARGO_PKG_VERSION")
        )))
    }
}

/// What a daemon asks of the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// First message of a connection.
    Hello {
        /// The sender's [`VERSION`].
        version: u32,
        /// The sender's build.
        build: Build,
    },
    /// Fork a shim; the descriptor is its end of a connection to the daemon.
    Spawn,
    /// Hold a network's namespace, the descriptor, in place of one held before.
    Pin {
        /// The network.
        network: String,
    },
    /// Pass an order on to slirp, with the descriptors; without one there is nobody to be told.
    Tell {
        /// In slirp's own words.
        order: serde_json::Value,
    },
    /// Let go of a network's namespace, if it is held.
    Unpin {
        /// The network.
        network: String,
    },
    /// Give a network's namespace; it comes with the answer.
    Namespace {
        /// The network.
        network: String,
    },
    /// What there is.
    Status,
    /// Start the daemon again should it end while shims run: the descriptors are a
    /// [`Recipe`](super::Recipe) and the program. Without them: no more.
    Revive,
    /// Execute another build in place; the descriptor is its program.
    Upgrade {
        /// That build.
        build: Build,
    },
    /// Leave now.
    Stop {
        /// Though shims run.
        force: bool,
    },
}

/// What the keeper itself tells slirp: some of slirp's own orders.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order<'a> {
    /// First of all.
    Begin {
        /// Where the networks' files are.
        exec_root: &'a std::path::Path,
    },
    /// Serve a network, whose namespace comes with it.
    Pin {
        /// Its id.
        network: &'a str,
    },
    /// Serve it no more.
    Unpin {
        /// Its id.
        network: &'a str,
    },
}

/// The keeper's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    /// To [`Request::Hello`].
    Hello {
        /// The keeper's [`VERSION`].
        version: u32,
        /// The keeper's build.
        build: Build,
        /// The keeper's process.
        pid: i32,
        /// The id map of its namespace.
        maps: IdMap,
    },
    /// To [`Request::Spawn`].
    Spawned {
        /// The shim.
        pid: i32,
    },
    /// To [`Request::Namespace`].
    Namespace {
        /// It is held, and here.
        held: bool,
    },
    /// To [`Request::Status`].
    Status(Status),
    /// Done.
    Done,
    /// Not done, and why.
    Failed {
        /// One sentence.
        message: String,
    },
}

/// What a keeper has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Shims that are its children.
    pub shims: Vec<i32>,
    /// Open connections, the asker's included.
    pub connections: usize,
    /// Shims forked since it started, upgrades included.
    pub forked: u64,
    /// Networks whose namespaces it holds.
    pub networks: Vec<String>,
}
