//! Names of images: `refs.json`, `docker.io/library/debian:latest` → the image's id.
//!
//! Replaced whole and synced. The version before it stays as `refs.old`, for disks that lose what
//! they were told to keep.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{Error, store};
use crate::sys::atomic::{self, Durability};
use crate::types::digest::Digest;
use crate::types::reference::Reference;

const FILE: &str = "refs.json";
const OLD: &str = "refs.old";

/// All names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refs {
    refs: BTreeMap<Reference, Digest>,
}

impl Refs {
    /// Reads what is there; nothing readable is no names, and never a reason not to start.
    pub(super) fn read(root: &Path) -> Self {
        for file in [FILE, OLD] {
            let path = root.join(file);
            let text = match fs::read(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot read the images' names");
                    continue;
                }
            };
            match serde_json::from_slice(&text) {
                Ok(refs) => return refs,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "the images' names are damaged");
                    // Kept for whoever wants to look; the old ones are taken.
                    let _ = fs::rename(&path, root.join(format!("{file}.damaged")));
                }
            }
        }
        Self::default()
    }

    /// Writes all names.
    pub(super) fn write(&self, root: &Path) -> Result<(), Error> {
        let path = root.join(FILE);
        let text = serde_json::to_vec_pretty(self).map_err(|error| Error::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let old = root.join(OLD);
        // A missing old version is only one safety net less.
        let _ = fs::remove_file(&old);
        let _ = fs::hard_link(&path, &old);
        atomic::write(&path, &text, Durability::Synced).map_err(store("write", path))
    }

    pub(super) fn get(&self, name: &Reference) -> Option<Digest> {
        self.refs.get(name).copied()
    }

    pub(super) fn set(&mut self, name: Reference, id: Digest) -> Option<Digest> {
        self.refs.insert(name, id)
    }

    pub(super) fn remove(&mut self, name: &Reference) -> bool {
        self.refs.remove(name).is_some()
    }

    /// The names of one image, in order.
    pub(super) fn of(&self, id: &Digest) -> Vec<Reference> {
        let names = self.refs.iter().filter(|(_, of)| *of == id);
        names.map(|(name, _)| name.clone()).collect()
    }

    /// All names in a repository, digests included.
    pub(super) fn in_repository(&self, repository: &str) -> Vec<Reference> {
        let names = self.refs.keys();
        names
            .filter(|name| name.repository() == repository)
            .cloned()
            .collect()
    }

    /// The tags of a repository.
    pub(super) fn tags(&self, repository: &str) -> Vec<(Reference, Digest)> {
        let of_it = |name: &Reference| name.digest().is_none() && name.repository() == repository;
        let tags = self.refs.iter().filter(|(name, _)| of_it(name));
        tags.map(|(name, id)| (name.clone(), *id)).collect()
    }

    /// Names of images that are not there.
    pub(super) fn missing(&self, known: impl Fn(&Digest) -> bool) -> Vec<Reference> {
        let lost = self.refs.iter().filter(|(_, id)| !known(id));
        lost.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_damage() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(Refs::read(root), Refs::default());
        let mut refs = Refs::default();
        refs.set(Reference::parse("debian").unwrap(), Digest::of(b"1"));
        refs.write(root).unwrap();
        let first = refs.clone();
        refs.set(Reference::parse("a/b:c").unwrap(), Digest::of(b"2"));
        refs.write(root).unwrap();
        assert_eq!(Refs::read(root), refs);
        fs::write(root.join(FILE), &b"{\"refs\":{\"docker.io/libr"[..]).unwrap();
        assert_eq!(Refs::read(root), first);
        assert_eq!(Refs::read(root), first, "and again");
        fs::write(root.join(OLD), "").unwrap();
        assert_eq!(Refs::read(root), Refs::default());
    }
}
