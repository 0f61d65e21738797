//! What a container's mounts are on the host: where that is not what was written down.
//!
//! A volume with the options `type=none,o=bind` is another directory, and a bind of the engine's
//! usual socket means this engine's own:
//!
//! What talks to "its" engine from inside a container (testcontainers, Portainer, CI agents) is
//! started with `-v /var/run/docker.sock:/var/run/docker.sock`, whatever engine that is. Inspect
//! shows the path that was asked for. `"docker-sock-bind": "host"` in daemon.json leaves the path
//! alone.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::container::record::{MountKind, MountPoint};
use crate::engine::Engine;
use crate::engine::error::{Error, Kind, Result};
use crate::overlay;
use crate::sys::{resolve, tree};
use crate::types::errno;
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

    /// A bind of a directory that holds the data root, or is in it, must let go of what is unmounted
    /// there: unless it says otherwise it is a slave, and it may say little else (moby,
    /// `validateBindDaemonRoot`, which compares the paths as text, too).
    pub(super) fn spread_from_data_root(&self, mounts: &mut [MountPoint]) -> Result<()> {
        let root = self.settings.data_root.to_string_lossy();
        for point in mounts {
            let source = point.source.to_string_lossy();
            let overlaps = source.starts_with(&*root) || root.starts_with(&*source);
            if point.kind != MountKind::Bind || !overlaps {
                continue;
            }
            match point.propagation.as_str() {
                "" => "rslave".clone_into(&mut point.propagation),
                "rslave" | "rshared" => {}
                other => {
                    return Err(Error::invalid(format!(
                        "invalid mount config: must use either propagation mode \"rslave\" or \
                         \"rshared\" when mount source is within the daemon root, daemon root: \
                         {root:?}, bind mount source: {source:?}, propagation: {other:?}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// The layers of an image that is mounted, the topmost first.
    pub(super) fn layers_of(&self, point: &MountPoint) -> Vec<PathBuf> {
        let image = point.image.as_ref();
        image.map_or_else(Vec::new, |image| self.images.layer_paths_of(&image.layers))
    }

    /// Refuses a path in a volume or an image that is not there, or leads out of it, in dockerd's
    /// words. The shim looks once more when it mounts.
    pub(super) fn check_subpath(&self, point: &MountPoint) -> Result<()> {
        if point.subpath.is_empty() {
            return Ok(());
        }
        let (source, _) = self.source_of(point);
        let layers = self.layers_of(point);
        let base = match layers.is_empty() {
            true => tree::open_dir(&source),
            false => overlay::mount_readonly(&layers),
        };
        let base = base.map_err(|error| {
            let what = format!("cannot access path {}", source.display());
            Error::not_found(format!("{what}: {}", errno::text(&error)))
        })?;
        let found = resolve::open_beneath(base.as_fd(), &point.subpath);
        found.map(drop).map_err(|error| {
            let (base, path) = (source.display(), &point.subpath);
            match error.raw_os_error() {
                Some(libc::EXDEV) => Error::invalid(format!(
                    "path concatenation escapes the base directory, base: {base}, subpath: {path}"
                )),
                Some(libc::ENOENT | libc::ELOOP) => Error::not_found(format!(
                    "cannot access path {}: {}",
                    source.join(path).display(),
                    errno::text(&error)
                )),
                _ => Error::new(
                    Kind::System,
                    format!("openat2 {path}: {}", errno::text(&error)),
                ),
            }
        })
    }

    /// What is mounted where a container wants this, and whether it may be written to.
    pub(super) fn source_of(&self, point: &MountPoint) -> (PathBuf, bool) {
        if point.kind == MountKind::Bind
            && let Some(socket) = &self.settings.socket
            && is_usual(&point.source)
        {
            return (socket.clone(), point.writable);
        }
        let name = point.name.as_deref();
        let name = name.filter(|_| point.kind == MountKind::Volume);
        let volume = name.map(|name| self.volumes.get(name));
        if let Some(Ok(volume)) = volume
            && let Some((directory, is_readonly)) = volume::bound(&volume.options)
        {
            return (directory.to_owned(), point.writable && !is_readonly);
        }
        (point.source.clone(), point.writable)
    }
}
