//! What a container's last run left: its exit, and its shim's identity.
//!
//! The shim writes the exit into the container's directory in the data root, which outlives a boot.
//! Where that is not to be had, as the disk is full, it writes it into the container's directory in
//! the exec root, which is memory as a rule: a daemon that is killed before room is made still finds
//! it there. Both are removed before the next start, so at most one of them is there.

use std::io::ErrorKind;
use std::path::PathBuf;

use crate::container::protocol::{EXIT, Exit};
use crate::engine::Engine;
use crate::engine::containers::{Container, Paths};
use crate::engine::error::{Error, Result};

impl Engine {
    /// Where a container's exit may have been written.
    fn exit_files(&self, container: &Container) -> [PathBuf; 2] {
        [
            Paths(&container.directory).exit(),
            self.runtime_directory(&container.id).join(EXIT),
        ]
    }

    /// How the last run ended, as its shim wrote it.
    pub(super) fn written_exit(&self, container: &Container) -> Option<Exit> {
        self.exit_files(container).into_iter().find_map(|path| {
            let bytes = std::fs::read(path).ok()?;
            serde_json::from_slice(&bytes).ok()
        })
    }

    /// Removes what the last run left, which would be taken for the exit and the shim of the run to
    /// come.
    pub(super) fn forget_last_run(&self, container: &Container) -> Result<()> {
        let [exit, spare] = self.exit_files(container);
        for leftover in [exit, spare, Paths(&container.directory).shim()] {
            match std::fs::remove_file(leftover) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::io("cannot remove the last exit status", &error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
