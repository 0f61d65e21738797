//! A file that a person names, and that appears when it is whole (docker's `atomicwriter`).
//!
//! It is written beside its place, under another name, and takes the place at its end: whatever ends
//! the program before leaves what was there. What an image or a container holds is for its owner
//! alone. So is the choice of what is replaced: only a file, for renaming would put one in the place
//! of a device or of a link, which hardly anybody means.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A file that is being written.
pub struct Whole<'a> {
    place: &'a Path,
    temporary: PathBuf,
    file: File,
}

impl<'a> Whole<'a> {
    /// Begins to write what is to be at `place`.
    ///
    /// # Errors
    /// What stands in the way, in docker's words.
    pub fn create(place: &'a Path) -> Result<Self> {
        check(place)?;
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let temporary = place.with_file_name(format!(".tmp-{name}-{}", std::process::id()));
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .with_context(|| format!("open {}", temporary.display()))?;
        Ok(Self {
            place,
            temporary,
            file,
        })
    }

    /// Writes all of `source`, and puts the file in its place.
    ///
    /// # Errors
    /// The source's, or the file system's; nothing has changed then.
    pub fn write(mut self, source: &mut dyn io::Read) -> Result<()> {
        io::copy(source, &mut self.file)?;
        fs::rename(&self.temporary, self.place)?;
        Ok(())
    }
}

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        // Where it has its place there is nothing here any more.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Whether a file may take this place.
fn check(place: &Path) -> Result<()> {
    let parent = place.parent().unwrap_or(Path::new(""));
    if !parent.as_os_str().is_empty() {
        let found = fs::metadata(parent).and_then(|found| match found.is_dir() {
            true => Ok(()),
            false => Err(rustix::io::Errno::NOTDIR.into()),
        });
        found
            .with_context(|| format!("stat {}", parent.display()))
            .context("invalid output path")?;
    }
    let kind = match fs::symlink_metadata(place) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error)
                .with_context(|| format!("lstat {}", place.display()))
                .context("failed to stat output path");
        }
    };
    bail!(match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "cannot write to a directory",
        () if kind.is_symlink() => "cannot write to a symbolic link directly",
        () if kind.is_fifo() => "cannot write to a named pipe (FIFO)",
        () if kind.is_socket() => "cannot write to a socket",
        () if kind.is_char_device() => "cannot write to a character device file",
        () => "cannot write to a block device file",
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_breaks_off_leaves_what_was_there() {
        struct Broken;

        impl io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }

        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a");
        fs::write(&place, "before").unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o644)).unwrap();
        let broken = io::Read::chain(&b"half"[..], Broken);
        let written = Whole::create(&place).unwrap().write(&mut { broken });
        assert_eq!(written.unwrap_err().to_string(), "broken");
        assert_eq!(fs::read_to_string(&place).unwrap(), "before");
        let whole = Whole::create(&place).unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "before");
        whole.write(&mut &b"after"[..]).unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "after");
        let mode = fs::metadata(&place).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_a_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let refused = |place: &Path| {
            let refused = Whole::create(place).map(drop);
            super::super::error::describe(&refused.unwrap_err())
        };
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        assert_eq!(refused(dir.path()), "cannot write to a directory");
        let link = "cannot write to a symbolic link directly";
        assert_eq!(refused(&at("link")), link);
        let device = "cannot write to a character device file";
        assert_eq!(refused(Path::new("/dev/null")), device);
        for (parent, why) in [
            ("none", "no such file or directory"),
            ("file", "not a directory"),
        ] {
            let parent = at(parent);
            let why = format!("invalid output path: stat {}: {why}", parent.display());
            assert_eq!(refused(&parent.join("x")), why);
        }
    }
}
