//! All containers, by id and by name.
//!
//! A name is reserved before its container exists and freed when that cannot be made, so two
//! requests for one name never both get it. The lock is held for moments; no other is taken meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use super::Container;
use crate::engine::error::{Error, Kind, Result};
use crate::types::id::ContainerId;

/// All containers.
#[derive(Default)]
pub struct Index {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    by_id: BTreeMap<ContainerId, Arc<Container>>,
    /// Names, those of containers still being made included.
    names: HashMap<String, ContainerId>,
}

impl Index {
    /// Takes `name` for `id`, or says who has it.
    pub fn reserve(&self, name: &str, id: &ContainerId) -> Result<()> {
        let mut inner = self.write();
        if let Some(owner) = inner.names.get(name) {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \
                 \"{owner}\". You have to remove (or rename) that container to be able to reuse \
                 that name."
            )));
        }
        inner.names.insert(name.to_owned(), *id);
        Ok(())
    }

    /// Gives back a name that is reserved for `id`.
    pub fn release(&self, name: &str, id: &ContainerId) {
        let names = &mut self.write().names;
        if names.get(name) == Some(id) {
            names.remove(name);
        }
    }

    /// Adds a container whose name is reserved.
    pub fn insert(&self, container: Arc<Container>) {
        self.write().by_id.insert(container.id, container);
    }

    /// Takes a container out, with its name, or both names where it is just being renamed.
    pub fn remove(&self, id: &ContainerId) {
        let mut inner = self.write();
        inner.by_id.remove(id);
        inner.names.retain(|_, owner| owner != id);
    }

    /// The container of exactly this id.
    pub fn by_id(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.read().by_id.get(id).cloned()
    }

    /// The container that `name` means: full id, name (with or without a slash), then unique
    /// prefix of an id, in this order as in Docker.
    pub fn find(&self, name: &str) -> Result<Arc<Container>> {
        if name.is_empty() {
            return Err(Error::invalid("invalid name or ID supplied: \"\""));
        }
        let inner = self.read();
        if let Ok(id) = name.parse::<ContainerId>()
            && let Some(container) = inner.by_id.get(&id)
        {
            return Ok(container.clone());
        }
        let bare = name.strip_prefix('/').unwrap_or(name);
        if let Some(container) = inner.names.get(bare).and_then(|id| inner.by_id.get(id)) {
            return Ok(container.clone());
        }
        let mut found = inner
            .by_id
            .values()
            .filter(|container| container.id.as_str().starts_with(name));
        match (found.next(), found.next()) {
            (Some(container), None) => Ok(container.clone()),
            (Some(_), Some(_)) => Err(Error::new(
                Kind::InvalidParameter,
                format!("multiple IDs found with provided prefix: {name}"),
            )),
            _ => Err(Error::no_such_container(name)),
        }
    }

    /// All of them, newest first.
    pub fn all(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = self.read().by_id.values().cloned().collect();
        all.sort_by_cached_key(|container| std::cmp::Reverse(container.data().record.created));
        all
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_given_back_by_their_owner_alone() {
        let index = Index::default();
        let (a, b) = (ContainerId::random(), ContainerId::random());
        index.reserve("old", &a).unwrap();
        index.reserve("new", &a).unwrap();
        // Removed while it was being renamed; the name is taken again at once.
        index.remove(&a);
        index.reserve("old", &b).unwrap();
        index.release("old", &a);
        assert!(index.reserve("old", &a).is_err());
        index.reserve("new", &b).unwrap();
    }
}
