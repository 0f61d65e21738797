//! One layer's directory: its record, its mark, its tar.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::{Error, store};
use super::split::{self, LayerTar};
use crate::sys::atomic::{self, Durability};
use crate::sys::tree;
use crate::types::digest::Digest;

const RECORD: &str = "layer.json";
const UNSYNCED: &str = "unsynced";
/// Says that the layer was put in place before its image.
const PULLED: &str = "pulled";

/// How long such a layer waits for another attempt to pull its image.
const PULLED_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The compressed blob that a layer came as, in its directory (daemon.json's `keep-blobs`).
pub(super) const BLOB: &str = "blob";

/// `layer.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Sum of the sizes of its files.
    pub(super) size: u64,
    /// Size of its tar.
    pub(super) tar_size: u64,
    /// The blob beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) kept: Option<Kept>,
}

/// A compressed blob that was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// Reads a layer's record, and verifies the layer if a power cut may have hurt it.
pub(super) fn check(path: &Path, diff_id: &Digest) -> Result<Record, Error> {
    let file = path.join(RECORD);
    let text = fs::read(&file).map_err(store("read", &file))?;
    let mut record: Record = serde_json::from_slice(&text).map_err(|error| Error::Damaged {
        path: file,
        reason: error.to_string(),
    })?;
    let boot = fs::read_to_string(path.join(UNSYNCED));
    if boot.is_ok_and(|boot| boot != boot_id()) {
        verify(path, diff_id)?;
        // The layer is whole without it.
        record.kept = record.kept.filter(|kept| is_whole(path, kept));
    }
    Ok(record)
}

/// Whether a kept blob survived a power cut; one that did not is removed.
fn is_whole(path: &Path, kept: &Kept) -> bool {
    let file = path.join(BLOB);
    let whole = File::open(&file).and_then(digest_of);
    if whole.is_ok_and(|digest| digest == kept.digest) {
        return true;
    }
    tracing::warn!(path = %file.display(), "a damaged blob is removed");
    let _ = fs::remove_file(file);
    false
}

/// Makes the file for the blob of a layer that is being fetched.
pub(super) fn create_blob(layer: &Path) -> Result<File, Error> {
    let path = layer.join(BLOB);
    File::create_new(&path).map_err(store("make", path))
}

/// Whether the layer may not be on disk yet.
pub(super) fn is_unsynced(path: &Path) -> bool {
    path.join(UNSYNCED).exists()
}

/// Marks a layer that is not in place yet as a pull's.
pub(super) fn mark_pulled(path: &Path) -> Result<(), Error> {
    let file = path.join(PULLED);
    fs::write(&file, "").map_err(store("write", file))
}

/// Takes that mark off a layer whose image has come.
pub(super) fn unmark_pulled(path: &Path) {
    // A mark that stays only keeps the layer for a while when it is not needed any more.
    let _ = fs::remove_file(path.join(PULLED));
}

/// Whether a pull brought the layer for an image that has not come, and not long ago.
pub(super) fn is_recent_pull(path: &Path) -> bool {
    let marked = fs::metadata(path.join(PULLED)).and_then(|mark| mark.modified());
    // A clock that went back makes it recent.
    marked.is_ok_and(|at| at.elapsed().unwrap_or_default() < PULLED_KEPT)
}

/// Takes the mark off: the layer is on disk.
pub(super) fn mark_synced(path: &Path) {
    // A mark that stays costs a verification after the next boot, no more.
    let _ = fs::remove_file(path.join(UNSYNCED));
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Rebuilds the layer's tar and compares its digest.
fn verify(path: &Path, diff_id: &Digest) -> Result<(), Error> {
    let tar = open_tar(path)?;
    let actual = digest_of(tar).map_err(store("read", path))?;
    if actual != *diff_id {
        return Err(Error::DigestMismatch {
            what: format!("the layer in {}", path.display()),
            expected: Box::new(*diff_id),
            actual: Box::new(actual),
        });
    }
    Ok(())
}

fn digest_of(mut reader: impl Read) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(Digest::from_bytes(hash.finalize().into())),
            amount => hash.update(&buffer[..amount]),
        }
    }
}

/// The layer's tar, byte for byte as it was when it came.
pub(super) fn open_tar(path: &Path) -> Result<LayerTar, Error> {
    let open = || -> io::Result<LayerTar> { LayerTar::open(&tree::open_dir(path)?) };
    open().map_err(store("read", path))
}

/// Writes what is still missing in a finished layer's directory.
pub(super) fn seal(path: &Path, record: &Record) -> Result<(), Error> {
    let write = |name: &str, bytes: &[u8]| {
        let file = path.join(name);
        atomic::write(&file, bytes, Durability::Lazy).map_err(store("write", file))
    };
    let text = serde_json::to_vec(record).map_err(|error| Error::Damaged {
        path: path.join(RECORD),
        reason: error.to_string(),
    })?;
    write(RECORD, &text)?;
    write(UNSYNCED, boot_id().as_bytes())
}

/// The tree that overlayfs takes, in a layer's directory.
pub(super) fn tree_path(layer: &Path) -> PathBuf {
    layer.join(split::TREE)
}

/// `syncfs` of the filesystem that `path` is on.
pub(super) fn sync_filesystem(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}
