//! Room on the disk for layers that are about to come.
//!
//! What is removed goes to the trash, which is emptied at leisure: a removal is quick. But whoever
//! removes an image to have room for another finds none if that comes at once. So where there is
//! little, it is waited for before a layer is unpacked.

use std::fs;

use super::error::Error;
use super::store::Store;
use crate::registry::Cancel;

/// How many times as large as its blob a layer may well be.
const UNPACKED: u64 = 8;
/// What a blob is taken for whose size nobody knows, in bytes.
pub(super) const UNKNOWN: u64 = 128 << 20;

impl Store {
    /// Waits until the trash is empty, where that may make the room that blobs of `size` bytes in all
    /// need.
    pub(super) fn wait_for_room(&self, size: u64, cancel: &Cancel) -> Result<(), Error> {
        let may_need = size.saturating_mul(UNPACKED);
        if self.free().is_some_and(|free| free < may_need) && self.has_trash() {
            self.janitor.settle(|| cancel.check())?;
        }
        Ok(())
    }

    /// The same, and refuses what certainly has none then: compressed, layers are hardly ever larger
    /// than unpacked. What is wrong with a larger one shows while it is unpacked.
    pub(super) fn make_room(&self, size: u64, cancel: &Cancel) -> Result<(), Error> {
        self.wait_for_room(size, cancel)?;
        match self.free() {
            Some(free) if size > free => Err(Error::NoRoom { needed: size, free }),
            _ => Ok(()),
        }
    }

    /// Bytes that may be written; `None` where the filesystem does not say.
    fn free(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.root).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn has_trash(&self) -> bool {
        let entries = fs::read_dir(self.root.join("trash"));
        entries.is_ok_and(|mut entries| entries.next().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.make_room(3, &Cancel::new()).is_ok());
        let error = store.make_room(u64::MAX, &Cancel::new()).unwrap_err();
        let text = error.to_string();
        let begin = "no space left on device: the layers take at least 18446744073709551615 bytes";
        assert!(text.starts_with(begin), "{text}");
    }

    #[test]
    fn the_trash_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let trash = dir.path().join("trash");
        for round in 0..20 {
            let old = dir.path().join("old");
            for at in 0..50 {
                fs::create_dir_all(old.join(format!("{at}/x"))).unwrap();
            }
            store.trash(&old).unwrap();
            // As much as there is: that is not certainly too much.
            let all = store.free().unwrap() / 2;
            store.make_room(all, &Cancel::new()).unwrap();
            assert_eq!(fs::read_dir(&trash).unwrap().count(), 0, "{round}");
        }
    }
}
