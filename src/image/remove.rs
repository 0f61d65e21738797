//! Names given and taken, images removed: Docker's rules and sentences (moby,
//! `daemon/images/image_delete.go`).

use std::convert::Infallible;

use super::commit::Naming;
use super::config::chain_ids;
use super::error::Error;
use super::layer;
use super::query::bare_digest;
use super::store::{Index, Store};
use crate::types::digest::Digest;
use crate::types::reference::Reference;

/// A container that uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The first twelve digits of its id.
    pub id: String,
    /// Whether it runs.
    pub running: bool,
}

/// What a removal did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name was taken from an image.
    Untagged {
        /// The name, as people write it.
        name: String,
        /// The image.
        id: Digest,
    },
    /// An image is gone.
    Image {
        /// Its id.
        id: Digest,
        /// Bytes of the layers that went with it.
        freed: u64,
    },
    /// A layer is gone, with what was below it: this is its chain id.
    Layer(Digest),
}

/// How far a removal may go.
#[derive(Clone, Copy)]
struct Conflicts {
    /// Other names and stopped containers stand in the way.
    soft: bool,
    /// Other names do.
    names: bool,
}

impl Store {
    /// Gives the image `source` one more name.
    pub fn tag(&self, source: &str, name: &Reference) -> Result<Digest, Error> {
        let mut index = self.lock();
        let id = index.find(source)?;
        if name.digest().is_some() {
            let text = "refusing to create a tag with a digest reference";
            return Err(Error::Invalid(text.to_owned()));
        }
        if name.familiar_name() == "sha256" {
            let text = "refusing to create an ambiguous tag using digest algorithm as name";
            return Err(Error::Invalid(text.to_owned()));
        }
        let name = name.clone().with_default_tag();
        self.name(&mut index, Naming::Tags(&[name]), id)?;
        Ok(id)
    }

    /// Removes a name, and the image with its last one; or, by id or a manifest's digest, the image.
    /// With `parents`, the images that it was made from go as well, as far as nothing else needs
    /// them. `users` answers which containers use an image.
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        parents: bool,
        users: &dyn Fn(&Digest) -> Vec<User>,
    ) -> Result<Vec<Removed>, Error> {
        let mut index = self.lock();
        let id = index.find(name)?;
        let own = users(&id);
        let soft = !force;
        let mut removed = Vec::new();
        let mut names = index.refs.of(&id);
        // Once a name is gone, that its image is needed is no conflict to be told of.
        let is_quiet = !is_id_prefix(&id, name) && bare_digest(name).is_none();
        if is_quiet {
            if let Some(user) = own.first().filter(|_| !force && is_single(&names)) {
                return Err(Error::Conflict(format!(
                    "unable to remove repository reference {name:?} (must force) - container {} is using its referenced image {}",
                    user.id,
                    id.short()
                )));
            }
            let asked = asked(&names, name)?;
            let mut gone = vec![asked.clone()];
            names.retain(|known| *known != asked);
            let same = |known: &Reference| known.repository() == asked.repository();
            if asked.digest().is_none()
                && !names
                    .iter()
                    .any(|known| same(known) && known.digest().is_none())
            {
                gone.extend(names.iter().filter(|known| same(known)).cloned());
                names.retain(|known| !same(known));
            }
            self.untag(&mut index, &id, &gone, &mut removed)?;
            if !names.is_empty() {
                return Ok(removed);
            }
        } else if is_single(&names) {
            let conflicts = Conflicts { soft, names: false };
            if let Some(conflict) = index.conflict(&id, &own, conflicts) {
                return Err(conflict.error);
            }
            self.untag(&mut index, &id, &names, &mut removed)?;
        }
        let conflicts = Conflicts { soft, names: soft };
        if let Some(conflict) = index.conflict(&id, &own, conflicts) {
            let is_dangling = index.refs.of(&id).is_empty() && !index.has_children(&id);
            if is_quiet && (!is_dangling || conflict.by_container) {
                return Ok(removed);
            }
            return Err(conflict.error);
        }
        let mut next = self.delete(&mut index, &id, &mut removed)?;
        while let Some(parent) = next.filter(|_| parents) {
            let all = Conflicts {
                soft: true,
                names: true,
            };
            if index.conflict(&parent, &users(&parent), all).is_some() {
                break;
            }
            next = self.delete(&mut index, &parent, &mut removed)?;
        }
        Ok(removed)
    }

    fn untag(
        &self,
        index: &mut Index,
        id: &Digest,
        names: &[Reference],
        removed: &mut Vec<Removed>,
    ) -> Result<(), Error> {
        if names.is_empty() {
            return Ok(());
        }
        let mut refs = index.refs.clone();
        for name in names {
            refs.remove(name);
        }
        self.make_do(|| refs.write(&self.root))?;
        index.refs = refs;
        removed.extend(names.iter().map(|name| Removed::Untagged {
            name: name.familiar(),
            id: *id,
        }));
        Ok(())
    }

    /// Removes an image with its names, the record before what it refers to, which may then go at
    /// leisure; answers its parent.
    fn delete(
        &self,
        index: &mut Index,
        id: &Digest,
        removed: &mut Vec<Removed>,
    ) -> Result<Option<Digest>, Error> {
        let names = index.refs.of(id);
        self.untag(index, id, &names, removed)?;
        let Some(image) = index.images.get(id).cloned() else {
            return Ok(None);
        };
        self.trash(&self.record_path(id))?;
        index.images.remove(id);
        let at = removed.len();
        for blob in image.record.manifests.iter().chain([id]) {
            let elsewhere = |other: &std::sync::Arc<super::store::Stored>| {
                other.record.manifests.contains(blob)
            };
            if !index.images.contains_key(blob) && !index.images.values().any(elsewhere) {
                self.trash(&self.blob_path(blob))?;
            }
        }
        let diff_ids = image.config.diff_ids();
        let kept = |chain: &Digest| {
            let mut images = index.images.values();
            images.any(|other| chain_ids(other.config.diff_ids()).contains(chain))
        };
        let chains = chain_ids(diff_ids);
        let gone = chains.iter().zip(diff_ids).rev();
        let gone = gone.filter(|(chain, layer)| !kept(chain) && !index.pins.contains_key(*layer));
        removed.extend(gone.map(|(chain, _)| Removed::Layer(*chain)));
        let mut freed = 0;
        for diff_id in diff_ids {
            freed += self.drop_layer(index, diff_id)?;
        }
        removed.insert(at, Removed::Image { id: *id, freed });
        Ok(image.record.parent)
    }

    /// Removes a layer that no image and nobody else needs; answers its size if it is gone.
    pub(super) fn drop_layer(&self, index: &mut Index, diff_id: &Digest) -> Result<u64, Error> {
        if index.is_used(diff_id) || !index.layers.contains_key(diff_id) {
            return Ok(0);
        }
        self.trash(&self.layer_path(diff_id))?;
        Ok(index.layers.remove(diff_id).map_or(0, |layer| layer.size))
    }

    /// Removes those of these layers that belong to no image and that nobody counts on.
    pub(super) fn discard(&self, layers: &[Digest]) -> Result<(), Error> {
        let mut index = self.lock();
        for diff_id in layers {
            self.drop_layer(&mut index, diff_id)?;
        }
        Ok(())
    }

    /// Removes layers that belong to no image and that nobody counts on: what a crash between a
    /// layer and its image left, or a pull that was interrupted. Answers their size.
    ///
    /// # Errors
    /// When one can't be removed.
    pub fn collect(&self) -> Result<u64, Error> {
        self.collect_where(|_| true)
    }

    /// The same, but what a pull brought lately stays: it may be tried again.
    ///
    /// # Errors
    /// When one can't be removed.
    pub fn collect_stale(&self) -> Result<u64, Error> {
        self.collect_where(|layer| !layer::is_recent_pull(&self.layer_path(layer)))
    }

    fn collect_where(&self, may_go: impl Fn(&Digest) -> bool) -> Result<u64, Error> {
        let mut index = self.lock();
        let layers: Vec<Digest> = index.layers.keys().copied().filter(may_go).collect();
        let mut freed = 0;
        for diff_id in layers {
            freed += self.drop_layer(&mut index, &diff_id)?;
        }
        Ok(freed)
    }

    /// Waits until what was removed is off the disk and what was added is on it.
    pub fn settle(&self) {
        let settled = self.janitor.settle(|| Ok::<_, Infallible>(()));
        let Ok(()) = settled;
    }
}

/// The name that was meant, as the store has it.
fn asked(names: &[Reference], name: &str) -> Result<Reference, Error> {
    let reference = Reference::parse(name)?;
    let reference = match reference.digest() {
        Some(digest) => reference.with_digest(digest),
        None => reference,
    };
    if names.contains(&reference) {
        return Ok(reference);
    }
    Err(Error::NoSuchImage(reference.familiar()))
}

fn is_id_prefix(id: &Digest, name: &str) -> bool {
    id.hex().starts_with(name) || id.to_string().starts_with(name)
}

/// Whether an image has one name, or one tag and digests of the same repository.
fn is_single(names: &[Reference]) -> bool {
    if names.len() <= 1 {
        return true;
    }
    let tags: Vec<_> = names
        .iter()
        .filter(|name| name.digest().is_none())
        .collect();
    let first = match tags[..] {
        [] => &names[0],
        [tag] => tag,
        _ => return false,
    };
    let mut digests = names.iter().filter(|name| name.digest().is_some());
    digests.all(|name| name.repository() == first.repository())
}

/// What keeps an image from being removed.
struct Conflict {
    /// A container needs it.
    by_container: bool,
    error: Error,
}

impl Index {
    fn conflict(&self, id: &Digest, users: &[User], conflicts: Conflicts) -> Option<Conflict> {
        let because = |by_container, how: &str, why: String| {
            let text = format!("unable to delete {} ({how}) - {why}", id.short());
            Some(Conflict {
                by_container,
                error: Error::Conflict(text),
            })
        };
        if self.has_children(id) {
            let why = "image has dependent child images".to_owned();
            return because(false, "cannot be forced", why);
        }
        if let Some(user) = users.iter().find(|user| user.running) {
            let why = format!("image is being used by running container {}", user.id);
            return because(true, "cannot be forced", why);
        }
        if conflicts.names && !self.refs.of(id).is_empty() {
            let why = "image is referenced in multiple repositories".to_owned();
            return because(false, "must be forced", why);
        }
        if let Some(user) = users.iter().find(|_| conflicts.soft) {
            let why = format!("image is being used by stopped container {}", user.id);
            return because(true, "must be forced", why);
        }
        None
    }
}
