//! The file that names the daemon's process (`--pidfile`), for service managers.
//!
//! As dockerd's: not written over while the process that it names lives, and removed at the end.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// A file that was written, removed when dropped.
#[derive(Debug)]
pub struct Pidfile(PathBuf);

/// Why it was not written.
#[derive(Debug, thiserror::Error)]
pub enum PidfileError {
    /// Its directory.
    #[error("failed to create pidfile directory")]
    Directory(#[source] io::Error),
    /// Somebody else's.
    #[error(
        "failed to start daemon, ensure moss is not running or delete {}: process with PID {pid} \
         is still running",
        path.display()
    )]
    Running {
        /// The file.
        path: PathBuf,
        /// What it says.
        pid: i32,
    },
    /// The file.
    #[error("cannot write the pidfile {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Pidfile {
    /// Writes this process's number into the file at `path`.
    ///
    /// # Errors
    /// Where it names another process that lives, or cannot be written.
    pub fn write(path: &Path) -> Result<Pidfile, PidfileError> {
        let failed = |source| PidfileError::File {
            path: path.to_owned(),
            source,
        };
        if let Some(parent) = path.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(parent);
            made.map_err(PidfileError::Directory)?;
        }
        let own = std::process::id().to_string();
        let said = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            said => said.map_err(failed)?,
        };
        let alive = |pid: &i32| !matches!(kill(Pid::from_raw(*pid), None), Err(Errno::ESRCH));
        let said = said.trim();
        let other = said.parse::<i32>().ok().filter(|pid| *pid > 0);
        if let Some(pid) = other.filter(|pid| said != own && alive(pid)) {
            return Err(PidfileError::Running {
                path: path.to_owned(),
                pid,
            });
        }
        fs::write(path, own).map_err(failed)?;
        Ok(Pidfile(path.to_owned()))
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "cannot remove the pidfile");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_one_living_process() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/moss.pid");
        let written = Pidfile::write(&path).unwrap();
        let own = std::process::id().to_string();
        assert_eq!(fs::read_to_string(&path).unwrap(), own);
        drop(written);
        assert!(!path.exists());
        // The test's own parent lives; nobody has the highest number there can be.
        let parent = std::os::unix::process::parent_id();
        fs::write(&path, format!("{parent}\n")).unwrap();
        let refused = Pidfile::write(&path).unwrap_err().to_string();
        let expected = format!(
            "failed to start daemon, ensure moss is not running or delete {}: process with PID \
             {parent} is still running",
            path.display()
        );
        assert_eq!(refused, expected);
        for stale in ["4194304", "", "x"] {
            fs::write(&path, stale).unwrap();
            drop(Pidfile::write(&path).unwrap());
        }
    }
}
