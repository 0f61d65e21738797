//! A bind of the engine's usual socket means this engine's own.
//!
//! What talks to "its" engine from inside a container (testcontainers, Portainer, CI agents) is
//! started with `-v /var/run/docker.sock:/var/run/docker.sock`, whatever engine that is. Inspect
//! shows the path that was asked for. `"docker-sock-bind": "host"` in daemon.json leaves the path
//! alone.

use std::path::{Path, PathBuf};

use crate::container::record::{MountKind, MountPoint};
use crate::engine::Engine;

/// Where clients look for Docker's socket.
const USUAL: [&str; 2] = ["/var/run/docker.sock", "/run/docker.sock"];

/// Whether a path is that of Docker's socket.
fn is_usual(path: &Path) -> bool {
    USUAL.iter().any(|usual| Path::new(usual) == path)
}

impl Engine {
    /// Whether a bind of this path is one of this engine's socket.
    pub(super) fn binds_socket(&self, source: &Path) -> bool {
        self.settings.socket.is_some() && is_usual(source)
    }

    /// What is mounted where a container wants this.
    pub(super) fn source_of(&self, point: &MountPoint) -> PathBuf {
        match &self.settings.socket {
            Some(socket) if point.kind == MountKind::Bind && is_usual(&point.source) => {
                socket.clone()
            }
            _ => point.source.clone(),
        }
    }
}
