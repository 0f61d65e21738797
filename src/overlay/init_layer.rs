//! The layer beneath every image's: what a container's mounts are put on, and `/.dockerenv`, by
//! which programs know that they are in a container.
//!
//! An image rarely has all of it, and to make a missing file through an overlay costs a copy of its
//! directory into the container's own layer. One directory for all containers holds them instead.
//! It is the lowest, so whatever an image has wins, and it is no part of a container's changes.
//! The same names, kinds and modes as Docker's (moby, daemon/initlayer/setup_unix.go).
//!
//! It is never written to after it was made; what is missing of it is made at each start.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

const DIRECTORIES: [&str; 6] = ["dev", "dev/pts", "dev/shm", "etc", "proc", "sys"];
const FILES: [&str; 5] = [
    ".dockerenv",
    "dev/console",
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
];
const MTAB: (&str, &str) = ("etc/mtab", "/proc/mounts");
const MODE: u32 = 0o755;

/// Makes the layer in `directory`, or what is missing of it.
///
/// # Errors
///
/// The file system's.
pub fn make(directory: &Path) -> io::Result<()> {
    let new = |made: io::Result<()>| match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    std::fs::create_dir_all(directory)?;
    for name in DIRECTORIES {
        new(DirBuilder::new().mode(MODE).create(directory.join(name)))?;
    }
    for name in FILES {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(MODE);
        new(options.open(directory.join(name)).map(drop))?;
    }
    let (link, target) = MTAB;
    new(std::os::unix::fs::symlink(target, directory.join(link)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_once_and_mended() {
        let directory = tempfile::tempdir().expect("a directory");
        let layer = directory.path().join("init");
        make(&layer).expect("made");
        std::fs::remove_file(layer.join("etc/hosts")).expect("there");
        make(&layer).expect("mended");
        for name in FILES {
            let file = layer.join(name).symlink_metadata().expect(name);
            assert!(file.is_file() && file.len() == 0, "{name}");
        }
        assert_eq!(
            std::fs::read_link(layer.join("etc/mtab")).expect("a link"),
            Path::new("/proc/mounts")
        );
    }
}
