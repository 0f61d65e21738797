//! A program of the host's that is pid 1 of containers with `--init`, where the daemon was told of
//! one (`init-path`). Otherwise it is the shim's own ([`userns::init`](crate::userns::init)).

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::container::record::Record;
use crate::container::spec;
use crate::engine::Engine;
use crate::engine::error::{Error, Kind, Result};

/// Where dockerd looks for its init before `$PATH`.
const LIBEXEC: [&str; 4] = [
    "/usr/local/libexec/docker",
    "/usr/libexec/docker",
    "/usr/local/lib/docker",
    "/usr/lib/docker",
];

/// The same, for programs that are plainly Docker's by their names.
const LIBEXEC_OF_DOCKER: [&str; 2] = ["/usr/local/libexec", "/usr/libexec"];

/// The init that the daemon was told of (moby, `daemon/config`, `lookupBinPath`).
fn find_init(name: &str) -> Result<PathBuf> {
    if name.starts_with('/') {
        return Ok(name.into());
    }
    let executable = |path: &PathBuf| {
        std::fs::metadata(path)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let docker = name.starts_with("docker-");
    let more: &[&str] = if docker { &LIBEXEC_OF_DOCKER } else { &[] };
    let libexec = LIBEXEC.iter().chain(more).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A name with a slash is no name to look for.
    let path: Vec<PathBuf> = match name.contains('/') {
        true => Vec::new(),
        false => std::env::split_paths(&path).collect(),
    };
    let mut candidates = libexec.chain(path).map(|directory| directory.join(name));
    candidates.find(executable).ok_or_else(|| {
        let message = format!("exec: {name:?}: executable file not found in $PATH");
        Error::new(Kind::System, message)
    })
}

impl Engine {
    /// A host's program that is the container's init, where it wants one and the daemon was told.
    pub(super) fn init_of(&self, record: &Record) -> Result<Option<PathBuf>> {
        let path = self.settings.containers.init_path.as_deref();
        let wanted = spec::wants_init(&record.host_config, &self.settings.defaults);
        path.filter(|_| wanted).map(find_init).transpose()
    }
}
