//! Where a container's things lie in its directory.

use std::path::{Path, PathBuf};

use crate::types::id::ContainerId;
use crate::userns::keeper::ShimIdentity;

/// Files in a container's directory, and which of the image's own they are bound over.
pub(in crate::engine) const FILES: [(&str, &str); 3] = [
    ("resolv.conf", "/etc/resolv.conf"),
    ("hostname", "/etc/hostname"),
    ("hosts", "/etc/hosts"),
];

/// Where a container's things are.
pub struct Paths<'a>(pub &'a Path);

impl Paths<'_> {
    /// Upper directory of the overlay.
    pub fn upper(&self) -> PathBuf {
        self.0.join("upper")
    }

    /// Work directory of the overlay.
    pub fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    /// The log of the json-file driver.
    pub fn log(&self, id: &ContainerId) -> PathBuf {
        self.0.join(format!("{id}-json.log"))
    }

    /// The log of the driver `local`, in a directory of its own.
    pub fn local_log(&self) -> PathBuf {
        self.0.join("local-logs/container.log")
    }

    /// The copy of a log that goes elsewhere.
    pub fn log_cache(&self) -> PathBuf {
        self.0.join("container-cached.log")
    }

    /// How the last run ended, as the shim wrote it.
    pub fn exit(&self) -> PathBuf {
        self.0.join("exit.json")
    }

    /// Which process the last run's shim is, as it wrote it.
    pub fn shim(&self) -> PathBuf {
        self.0.join(ShimIdentity::FILE)
    }
}
