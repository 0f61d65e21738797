//! The files of a log: the current one, `path.1`, `path.2` … the newest first, and `path.1.gz`
//! where rotated files are compressed.
//!
//! A file is compressed by a child process, so that nobody waits for it, under another name
//! (`path.1.gz.part`), and what it was made of is removed only once it is whole and has its own:
//! killed at any moment, one of the two is there and the half one is never read. The child dies
//! with its parent: what it had begun stays as it was, for the next rotations. Like Docker's the
//! file's header says when its last record was written; ours says as well which file it was
//! (its inode), so that a reader that is in the middle of that file finds its place again.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use flate2::{Compression, GzBuilder};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::sys::fork;
use crate::types::timestamp::Timestamp;

/// Bytes compressed at once.
const BLOCK: usize = 64 * 1024;

/// What the header of a compressed file says of it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Header {
    last_time: String,
    inode: u64,
}

/// The name of a log's file; 0 is the current one.
pub(super) fn name(path: &Path, number: u32) -> PathBuf {
    match number {
        0 => path.to_owned(),
        _ => suffixed(path, &format!(".{number}")),
    }
}

/// Its name where it is compressed.
pub(super) fn compressed(path: &Path, number: u32) -> PathBuf {
    suffixed(path, &format!(".{number}.gz"))
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Takes away what a killed compression left.
pub(super) fn repair(path: &Path) {
    let _ = std::fs::remove_file(part(path));
    // Killed between the two last steps: the compressed one is whole.
    if compressed(path, 1).exists() {
        let _ = std::fs::remove_file(name(path, 1));
    }
}

fn part(path: &Path) -> PathBuf {
    suffixed(path, ".1.gz.part")
}

/// Gives every file the next number; the one that would get `files` is lost.
pub(super) fn shift(path: &Path, files: u32) -> io::Result<()> {
    let missing = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let oldest = files.saturating_sub(1);
    missing(std::fs::remove_file(compressed(path, oldest)))?;
    for number in (1..files).rev() {
        let from = name(path, number - 1);
        missing(std::fs::rename(from, name(path, number)))?;
        if number > 1 {
            // Not both are there. Should the one that was here be plain, it has gone on.
            let from = compressed(path, number - 1);
            missing(std::fs::rename(from, compressed(path, number)))?;
        }
    }
    Ok(())
}

/// A compression under way.
#[derive(Debug)]
pub(super) struct Compressing(Pid);

impl Compressing {
    /// Begins to compress `path.1`. `last` is when its last record was written. Where no child can
    /// be had it is done at once.
    pub(super) fn begin(path: &Path, last: Timestamp) -> Option<Self> {
        let parent = getpid().as_raw_nonzero().get();
        let child = |_: Vec<OwnedFd>, (path, last, parent): (PathBuf, Timestamp, i32)| {
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            let orphaned = getppid().is_none_or(|pid| pid.as_raw_nonzero().get() != parent);
            i32::from(orphaned || compress(&path, last).is_err())
        };
        match fork::fork_holding(Vec::new(), (path.to_owned(), last, parent), child) {
            Ok(pid) => Some(Self(pid)),
            Err(_) => {
                // What cannot be compressed stays as it is.
                let _ = compress(path, last);
                None
            }
        }
    }

    /// Waits for its end.
    pub(super) fn finish(self) {
        while waitid(Id::Pid(self.0), WaitPidFlag::WEXITED) == Err(nix::errno::Errno::EINTR) {}
    }
}

/// Compresses `path.1`.
fn compress(path: &Path, last: Timestamp) -> io::Result<()> {
    let plain = name(path, 1);
    let part = part(path);
    let result = write(&plain, &part, last);
    if result.is_err() {
        let _ = std::fs::remove_file(&part);
        return result;
    }
    std::fs::rename(&part, compressed(path, 1))?;
    std::fs::remove_file(plain)
}

fn write(plain: &Path, part: &Path, last: Timestamp) -> io::Result<()> {
    let mut from = File::open(plain)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o640);
    let header = Header {
        last_time: last.to_string(),
        inode: from.metadata()?.ino(),
    };
    let mut to = GzBuilder::new()
        .extra(serde_json::to_vec(&header)?)
        .write(options.open(part)?, Compression::default());
    let mut block = vec![0; BLOCK];
    loop {
        match from.read(&mut block) {
            Ok(0) => break,
            Ok(n) => to.write_all(&block[..n])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // The plain one is removed next, and may not be missed after a power cut.
    to.finish()?.sync_all()
}

/// Which file a compressed one was: what its header says, or a number that is no inode's.
pub(super) fn identity(file: &File) -> io::Result<u64> {
    let decoder = MultiGzDecoder::new(file.try_clone()?);
    let header = decoder.header().and_then(|header| header.extra());
    let header: Header = header
        .and_then(|extra| serde_json::from_slice(extra).ok())
        .unwrap_or_default();
    rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))?;
    match header.inode {
        0 => Ok(!file.metadata()?.ino()),
        inode => Ok(inode),
    }
}
