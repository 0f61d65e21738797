//! What a container's mounts are on the host: where that is not what was written down.
//!
//! A volume with the options `type=none,o=bind` is another directory, and a bind of the engine's
//! usual socket means this engine's own:
//!
//! What talks to "its" engine from inside a container (testcontainers, Portainer, CI agents) is
//! started with `-v /var/run/docker.sock:/var/run/docker.sock`, whatever engine that is. Inspect
//! shows the path that was asked for. `"docker-sock-bind": "host"` in daemon.json leaves the path
//! alone.

use std::path::{Path, PathBuf};

use crate::container::record::{MountKind, MountPoint};
use crate::engine::Engine;
use crate::volume;

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

    /// What is mounted where a container wants this, and whether it may be written to.
    pub(super) fn source_of(&self, point: &MountPoint) -> (PathBuf, bool) {
        if point.kind == MountKind::Bind
            && let Some(socket) = &self.settings.socket
            && is_usual(&point.source)
        {
            return (socket.clone(), point.writable);
        }
        let volume = point.name.as_deref().map(|name| self.volumes.get(name));
        if let Some(Ok(volume)) = volume
            && let Some((directory, is_readonly)) = volume::bound(&volume.options)
        {
            return (directory.to_owned(), point.writable && !is_readonly);
        }
        (point.source.clone(), point.writable)
    }
}
