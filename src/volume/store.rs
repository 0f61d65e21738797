//! The named volumes on disk.
//!
//! A volume is made in a directory of its own under a name that cannot be a volume's, then renamed
//! into place, so a half-made one is never seen; removal renames it to the trash first. The files
//! in `_data` belong to whoever wrote them, in the keeper's id map.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::sys::atomic::{self, Durability};
use crate::sys::spread::spread;
use crate::sys::trash;
use crate::types::name::{self, NameError};
use crate::types::timestamp::Timestamp;

/// A named volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Labels given by its maker.
    pub labels: BTreeMap<String, String>,
    /// Options of the `local` driver as given.
    pub options: BTreeMap<String, String>,
    /// Made for one container without a name.
    pub anonymous: bool,
}

/// The directory of the host that a volume is (`type=none,o=bind`), and whether it is to be read
/// only.
pub fn bound(options: &BTreeMap<String, String>) -> Option<(&Path, bool)> {
    let flags: Vec<&str> = options.get("o")?.split(',').collect();
    let is_bind = flags.iter().any(|flag| matches!(*flag, "bind" | "rbind"));
    let device = options
        .get("device")
        .filter(|device| device.starts_with('/'));
    Some((
        Path::new(device.filter(|_| is_bind)?),
        flags.contains(&"ro"),
    ))
}

/// What can go wrong with a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// No volume of that name.
    #[error("get {0}: no such volume")]
    NotFound(String),
    /// The name cannot be a volume's.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An option of the local driver that is not there.
    #[error("create {name}: invalid option: \"{option}\"")]
    BadOption {
        /// The volume.
        name: String,
        /// Its option.
        option: String,
    },
    /// A file operation failed.
    #[error("cannot {doing} volume {name}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The volume.
        name: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// The store of volumes.
pub struct Store {
    root: PathBuf,
    trash: PathBuf,
    volumes: Mutex<BTreeMap<String, Volume>>,
}

const RECORD: &str = "volume.json";
const DATA: &str = "_data";

impl Store {
    /// Opens the store under `data_root`, removing half-made volumes.
    ///
    /// # Errors
    /// When the directory cannot be made or read; damaged records are logged and left alone.
    pub fn open(data_root: &Path) -> io::Result<Self> {
        let root = data_root.join("volumes");
        let trash = data_root.join("trash");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&trash)?;
        spread(&root);
        let mut volumes = BTreeMap::new();
        for entry in fs::read_dir(&root)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                trash::discard(&trash, "half-volume", &entry.path())?;
                continue;
            }
            let read = fs::read(entry.path().join(RECORD))
                .and_then(|bytes| Ok(serde_json::from_slice::<Volume>(&bytes)?));
            match read {
                Ok(volume) => {
                    volumes.insert(name, volume);
                }
                Err(error) => {
                    tracing::warn!("volume {name}: its record cannot be read: {error}");
                }
            }
        }
        Ok(Self {
            root,
            trash,
            volumes: Mutex::new(volumes),
        })
    }

    /// Where the volume's files are.
    pub fn data_path(&self, name: &str) -> PathBuf {
        self.root.join(name).join(DATA)
    }

    /// The volume of that name.
    pub fn get(&self, name: &str) -> Result<Volume, VolumeError> {
        self.lock()
            .get(name)
            .cloned()
            .ok_or_else(|| VolumeError::NotFound(name.to_owned()))
    }

    /// All volumes, by name.
    pub fn list(&self) -> Vec<Volume> {
        self.lock().values().cloned().collect()
    }

    /// The volume of that name, made if there is none. Says whether it was made.
    pub fn ensure(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        options: &BTreeMap<String, String>,
        anonymous: bool,
    ) -> Result<(Volume, bool), VolumeError> {
        name::volume(name)?;
        if let Some(option) = options
            .keys()
            .find(|key| !matches!(key.as_str(), "type" | "o" | "device"))
        {
            return Err(VolumeError::BadOption {
                name: name.to_owned(),
                option: option.clone(),
            });
        }
        let mut volumes = self.lock();
        if let Some(volume) = volumes.get(name) {
            return Ok((volume.clone(), false));
        }
        let volume = Volume {
            name: name.to_owned(),
            created: Timestamp::now(),
            labels: labels.clone(),
            options: options.clone(),
            anonymous,
        };
        let failed = |source| VolumeError::Io {
            doing: "create",
            name: name.to_owned(),
            source,
        };
        let temporary = self.root.join(format!(".{}", beginning(name)));
        let made = (|| {
            fs::DirBuilder::new().mode(0o701).create(&temporary)?;
            let data = temporary.join(DATA);
            fs::create_dir(&data)?;
            fs::set_permissions(&data, fs::Permissions::from_mode(0o755))?;
            let record = serde_json::to_vec(&volume)?;
            atomic::write(&temporary.join(RECORD), &record, Durability::Synced)?;
            fs::rename(&temporary, self.root.join(name))
        })();
        if let Err(error) = made {
            // The next start would remove it too; what stopped the making matters more than this.
            let _ = fs::remove_dir_all(&temporary);
            return Err(failed(error));
        }
        volumes.insert(name.to_owned(), volume.clone());
        Ok((volume, true))
    }

    /// Takes the volume away: afterwards its files, if it had any, are in the trash, at the path
    /// returned.
    ///
    /// # Errors
    /// When there is none of this name, or it can't be moved.
    pub fn remove(&self, name: &str) -> Result<Option<PathBuf>, VolumeError> {
        let mut volumes = self.lock();
        if !volumes.contains_key(name) {
            return Err(VolumeError::NotFound(name.to_owned()));
        }
        let discarded = trash::discard(&self.trash, "volume", &self.root.join(name));
        let discarded = discarded.map_err(|source| VolumeError::Io {
            doing: "remove",
            name: name.to_owned(),
            source,
        })?;
        volumes.remove(name);
        Ok(discarded)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Volume>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As much of a volume's name, which may be as long as a file's, as leaves room for more.
fn beginning(name: &str) -> &str {
    const ROOM: usize = 200;
    name.get(..ROOM).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        (directory, store)
    }

    #[test]
    fn a_volume_survives_reopening_and_is_made_once() {
        let (directory, store) = store();
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let (made, new) = store
            .ensure("data", &labels, &BTreeMap::new(), false)
            .unwrap();
        assert!(new && made.name == "data");
        assert!(
            !store
                .ensure("data", &BTreeMap::new(), &BTreeMap::new(), false)
                .unwrap()
                .1
        );
        let again = Store::open(directory.path()).unwrap();
        let volume = again.get("data").unwrap();
        assert_eq!(volume.labels, labels);
    }

    #[test]
    fn half_made_volumes_are_swept_and_removed_ones_are_in_the_trash() {
        let (directory, store) = store();
        fs::create_dir(directory.path().join("volumes/.half")).unwrap();
        store
            .ensure("gone", &BTreeMap::new(), &BTreeMap::new(), true)
            .unwrap();
        let discarded = store.remove("gone").unwrap().unwrap();
        assert!(discarded.starts_with(directory.path().join("trash")));
        let again = Store::open(directory.path()).unwrap();
        assert!(again.list().is_empty());
        assert!(!directory.path().join("volumes/.half").exists());
    }

    #[test]
    fn a_volume_with_the_longest_name_comes_and_goes() {
        let (directory, store) = store();
        for length in [200, 250, 255] {
            let name = "v".repeat(length);
            let none = BTreeMap::new();
            store.ensure(&name, &none, &none, false).unwrap();
            store.remove(&name).unwrap();
            // Again before the trash is emptied, also half made.
            store.ensure(&name, &none, &none, false).unwrap();
            store.remove(&name).unwrap();
        }
        for _ in 0..2 {
            fs::create_dir_all(directory.path().join("volumes/.half/_data")).unwrap();
            Store::open(directory.path()).unwrap();
        }
    }

    #[test]
    fn names_that_could_escape_are_refused() {
        let (_directory, store) = store();
        for name in ["", "a", ".a", "../x", "a/b", "-a", "a b", "ä1"] {
            assert!(
                store
                    .ensure(name, &BTreeMap::new(), &BTreeMap::new(), false)
                    .is_err(),
                "{name}"
            );
        }
    }
}
