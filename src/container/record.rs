//! A container's record: what is on disk of it, and the states it passes through.
//!
//! One JSON file a container, `containers/ID/record.json` in the data root, replaced atomically.
//! It is written when a container is made, renamed, started, and when it ends. A container that
//! removes itself (`--rm`) is never synced: after a power cut there is nothing worth having of it.
//!
//! ```text
//!            start                 exit
//!  Created ─────────▶ Running ───────────▶ Exited
//!     ▲  └─ start failed ─┘ │ ◀─────────── start
//!     └─ (stays Created,    │ exit, and the restart policy wants more
//!         with the reason)  └───────────▶ Restarting ──▶ Running, Exited
//! ```
//!
//! A running container may be paused.
//!
//! A container being removed is no state of the record: the record is moved to the trash in one
//! rename, before anything of it is deleted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::api::container::{
    ContainerConfig, EndpointSettings, Health, HostConfig, NetworkingConfig, PortMap,
};
use crate::container::protocol::{Exit, Failure, Started};
use crate::overlay::Driver;
use crate::sys::atomic::{self, Durability};
use crate::types::digest::Digest;
use crate::types::id::ContainerId;
use crate::types::timestamp::Timestamp;

/// Everything that is known of a container and outlives the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without the slash that the API puts before it.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Id of the image.
    pub image: Digest,
    /// The image's name as it was asked for.
    pub image_name: String,
    /// Platform of the image.
    pub os: String,
    /// Diff ids of the image's layers, bottom first.
    pub layers: Vec<Digest>,
    /// How its root filesystem is made; never changes.
    pub driver: Driver,
    /// Configuration, the image's merged in.
    pub config: ContainerConfig,
    /// Host-dependent configuration.
    pub host_config: HostConfig,
    /// Networks asked for.
    pub networking: NetworkingConfig,
    /// Others that it finds by an alias in the default network.
    #[serde(default)]
    pub links: Vec<Link>,
    /// Its places in networks while it runs, by the networks' names.
    #[serde(default)]
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Where its ports are published while it runs.
    #[serde(default)]
    pub ports: PortMap,
    /// Volumes and binds, resolved.
    pub mounts: Vec<MountPoint>,
    /// Where it is in its life.
    pub state: State,
    /// When it last ended, if it ever ran.
    pub finished: Option<Exit>,
    /// Times it was restarted by its policy.
    pub restart_count: u32,
    /// The user ended it, or tried to, since its last start.
    #[serde(default)]
    pub stopped_by_user: bool,
    /// What its health checks have added up to.
    #[serde(default)]
    pub health: Option<Health>,
    /// The host's boot in which `state` was written (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
}

/// Another container, and what it is called by one that is linked to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The other.
    pub container: ContainerId,
    /// How it is called.
    pub alias: String,
}

/// A container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// What was asked for, and what it has got.
    pub settings: EndpointSettings,
    /// The interface in the container; empty where it has none of its own.
    pub interface: String,
    /// The container's ports are published here.
    #[serde(default)]
    pub published: bool,
}

/// A volume or bind mount of a container, with its host side resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// `bind`, `volume`, `tmpfs` or `image`, as Docker's API has it.
    pub kind: MountKind,
    /// Name of the volume or image.
    pub name: Option<String>,
    /// Directory or file on the host; empty for tmpfs and images.
    pub source: PathBuf,
    /// Path in the container, absolute and clean.
    pub destination: String,
    /// The mode string as given (`z`, `ro,rslave`).
    pub mode: String,
    /// Writable.
    pub writable: bool,
    /// Propagation; empty means the default (`rprivate`).
    pub propagation: String,
    /// A named volume made for this container alone, removed with `rm -v` or `--rm`.
    pub anonymous: bool,
    /// Fill an empty volume from the image before the first start.
    pub populate: bool,
    /// Make the source directory when it is missing (`-v`, never `--mount`).
    pub create_source: bool,
    /// Do not take the source's submounts along.
    pub non_recursive: bool,
    /// A read-only mount leaves its submounts as they are.
    pub readonly_non_recursive: bool,
    /// What of a volume or an image is mounted, a path in it; all of it where empty.
    #[serde(default)]
    pub subpath: String,
    /// The image that is mounted, once it is known.
    #[serde(default)]
    pub image: Option<MountedImage>,
}

/// An image that a container has mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedImage {
    /// Its id.
    pub id: Digest,
    /// Diff ids of its layers, bottom first.
    pub layers: Vec<Digest>,
}

/// What kind of mount it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A path of the host.
    Bind,
    /// A volume.
    Volume,
    /// Memory.
    Tmpfs,
    /// An image's files, to be read only.
    Image,
}

impl MountKind {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume => "volume",
            Self::Tmpfs => "tmpfs",
            Self::Image => "image",
        }
    }
}

/// Where a container is in its life. Its form in a file is an object of one field: a tag beside the
/// fields would have serde buffer them, which it cannot do with numbers of 128 bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Never ran, or could not be started the last time.
    Created {
        /// Why the last start failed.
        failure: Option<Failure>,
    },
    /// Its first process runs.
    Running {
        /// Which process, since when.
        started: Started,
        /// All its processes are stopped.
        #[serde(default)]
        paused: bool,
    },
    /// Its first process ended, and its restart policy is about to start it again.
    Restarting {
        /// When it had started.
        started_at: i128,
        /// How it ended.
        exit: Exit,
    },
    /// Its first process ended.
    Exited {
        /// When it had started.
        started_at: i128,
        /// How it ended.
        exit: Exit,
        /// What went wrong, beyond the exit code.
        error: String,
    },
}

impl State {
    /// The API's word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            Self::Running { paused: true, .. } => "paused",
            Self::Running { .. } => "running",
            Self::Restarting { .. } => "restarting",
            Self::Exited { .. } => "exited",
        }
    }

    /// A process of it runs.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// It runs, but for being paused.
    pub fn is_paused(&self) -> bool {
        matches!(self, Self::Running { paused: true, .. })
    }

    /// Notes that a running container was paused, or goes on.
    pub fn set_paused(&mut self, is_paused: bool) {
        if let Self::Running { paused, .. } = self {
            *paused = is_paused;
        }
    }

    /// It is about to be started again.
    pub fn is_restarting(&self) -> bool {
        matches!(self, Self::Restarting { .. })
    }

    /// What Docker calls running: a process of it runs, or will before long.
    pub fn is_live(&self) -> bool {
        self.is_running() || self.is_restarting()
    }

    /// The first process, if it runs.
    pub fn started(&self) -> Option<Started> {
        match self {
            Self::Running { started, .. } => Some(*started),
            _ => None,
        }
    }

    /// The exit code as `inspect` and `wait` show it: 0 while it runs.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Created {
                failure: Some(failure),
            } => failure.code,
            Self::Exited { exit, .. } | Self::Restarting { exit, .. } => exit.code,
            _ => 0,
        }
    }
}

/// A record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Reading failed.
    #[error("cannot read the container record {path}")]
    Read {
        /// The record.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing was ever written to it: the host lost power before.
    #[error("the container record {path} is empty")]
    Empty {
        /// The record.
        path: PathBuf,
    },
    /// It is not a record.
    #[error("the container record {path} is damaged")]
    Damaged {
        /// The record.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Writing failed.
    #[error("cannot write the container record {path}")]
    Write {
        /// The record.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Name of the record in a container's directory.
pub const RECORD_FILE: &str = "record.json";

impl Record {
    /// The images that are mounted.
    pub fn mounted_images(&self) -> impl Iterator<Item = &MountedImage> {
        self.mounts.iter().filter_map(|point| point.image.as_ref())
    }

    /// All layers that must stay while the container is there: its image's, and those of the images
    /// that it has mounted.
    pub fn held_layers(&self) -> Vec<Digest> {
        let mounted = self.mounted_images().flat_map(|image| &image.layers);
        self.layers.iter().chain(mounted).copied().collect()
    }

    /// Reads the record in a container's directory.
    pub fn read(directory: &Path) -> Result<Self, RecordError> {
        let path = directory.join(RECORD_FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(RecordError::Read { path, source }),
        };
        // A file whose data did not reach the disk is short, or zeros.
        if bytes.iter().all(|byte| *byte == 0) {
            return Err(RecordError::Empty { path });
        }
        serde_json::from_slice(&bytes).map_err(|source| RecordError::Damaged { path, source })
    }

    /// Writes the record into a directory that is not a container's yet: in place, and to outlive a
    /// power cut unless the container removes itself.
    pub fn fill(&self, directory: &Path) -> Result<(), RecordError> {
        let path = directory.join(RECORD_FILE);
        let written = serde_json::to_vec(self)
            .map_err(std::io::Error::from)
            .and_then(|bytes| {
                let mut file = File::create(&path)?;
                file.write_all(&bytes)?;
                if !self.host_config.auto_remove {
                    file.sync_all()?;
                    File::open(directory)?.sync_all()?;
                }
                Ok(())
            });
        written.map_err(|source| RecordError::Write { path, source })
    }

    /// Writes the record. `durable` asks that it outlives a power cut; containers that remove
    /// themselves are not worth that.
    pub fn write(&self, directory: &Path, durable: bool) -> Result<(), RecordError> {
        let path = directory.join(RECORD_FILE);
        let durability = if durable && !self.host_config.auto_remove {
            Durability::Synced
        } else {
            Durability::Lazy
        };
        serde_json::to_vec(self)
            .map_err(std::io::Error::from)
            .and_then(|bytes| atomic::write(&path, &bytes, durability))
            .map_err(|source| RecordError::Write { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_written_is_told_from_what_is_damaged() {
        let directory = tempfile::tempdir().expect("tempdir");
        for (text, empty) in [("", true), ("\0\0\0", true), ("{\"id\":", false)] {
            std::fs::write(directory.path().join(RECORD_FILE), text).expect("written");
            let error = Record::read(directory.path()).expect_err("no record");
            assert_eq!(
                matches!(error, RecordError::Empty { .. }),
                empty,
                "{text:?}"
            );
        }
    }

    #[test]
    fn records_of_older_versions_are_read() {
        let text = r#"{"running":{"started":{"pid":7,"start_time":8,"at":9}}}"#;
        let state: State = serde_json::from_str(text).expect("a running container");
        assert!(state.is_running() && !state.is_paused());
    }

    #[test]
    fn states_are_read_as_they_were_written() {
        let at = 1_800_000_000_123_456_789;
        let (pid, start_time) = (7, 8);
        for state in [
            State::Created { failure: None },
            State::Running {
                started: Started {
                    pid,
                    start_time,
                    at,
                },
                paused: true,
            },
            State::Restarting {
                started_at: at,
                exit: Exit {
                    code: 3,
                    oom_killed: false,
                    lost_server: None,
                    at,
                },
            },
            State::Exited {
                started_at: at,
                exit: Exit {
                    code: 3,
                    oom_killed: false,
                    lost_server: None,
                    at,
                },
                error: String::new(),
            },
        ] {
            let text = serde_json::to_vec(&state).expect("a state is JSON");
            assert_eq!(
                serde_json::from_slice::<State>(&text).expect("as written"),
                state
            );
        }
    }
}
