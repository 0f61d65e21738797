//! Removal in one rename: what is removed moves into a directory, the trash, that is emptied later.
//!
//! A tree may have a million files. After the rename it is gone for everybody, whatever happens
//! next; whoever empties the trash may take its time, or die and be followed by another. Nothing
//! is made in the trash first to be moved onto: it might be emptied in between, and the tree would
//! stay where it is.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Moves `path` into `trash`, of the same filesystem, under a name that begins with `purpose` and
/// that nothing else there has. Where it is then; `None` if there was nothing at `path`.
///
/// # Errors
/// Those of rename(2).
pub fn discard(trash: &Path, purpose: &str, path: &Path) -> io::Result<Option<PathBuf>> {
    let target = trash.join(unique(purpose));
    match fs::rename(path, &target) {
        Ok(()) => Ok(Some(target)),
        Err(error) if error.kind() == ErrorKind::NotFound => match path.symlink_metadata() {
            Err(gone) if gone.kind() == ErrorKind::NotFound => Ok(None),
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// A name that no other process and no earlier boot chose: RENAME_NOREPLACE is unknown to NFS.
fn unique(purpose: &str) -> OsString {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = now.unwrap_or_default().as_nanos();
    let serial = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{purpose}-{nanos}-{}-{serial}", std::process::id()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_discarded_is_whole_in_the_trash() {
        let root = tempfile::tempdir().unwrap();
        let (trash, tree) = (root.path().join("trash"), root.path().join("tree"));
        fs::create_dir(&trash).unwrap();
        for _ in 0..2 {
            fs::create_dir(&tree).unwrap();
            fs::write(tree.join("file"), "x").unwrap();
            let target = discard(&trash, "tree", &tree).unwrap().unwrap();
            assert!(!tree.exists());
            assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "x");
        }
        assert_eq!(fs::read_dir(&trash).unwrap().count(), 2);
    }

    #[test]
    fn what_is_discarded_while_the_trash_is_emptied_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let (trash, tree) = (root.path().join("trash"), root.path().join("tree"));
        fs::create_dir(&trash).unwrap();
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for entry in fs::read_dir(&trash).unwrap() {
                        fs::remove_dir_all(entry.unwrap().path()).unwrap();
                    }
                }
            });
            for _ in 0..500 {
                fs::create_dir(&tree).unwrap();
                discard(&trash, "tree", &tree).unwrap();
                assert!(!tree.exists());
            }
            over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn nothing_there_is_told_from_a_failure() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        assert_eq!(discard(root.path(), "tree", &tree).unwrap(), None);
        fs::create_dir(&tree).unwrap();
        let error = discard(&root.path().join("none"), "tree", &tree).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(tree.exists());
    }
}
