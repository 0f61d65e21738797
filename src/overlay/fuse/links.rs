//! Files of a layer that have several names, and stay one file when they are copied up.
//!
//! All names of such a file are one [`Node`], found by the number of its inode. When it is copied
//! up, the copy gets all names that the file has in the tree, at once: so the upper directory says the
//! same to the next mount, and to whoever reads it without one. (The kernel's overlayfs has an index
//! for this, which it does not keep in a user namespace: there the names part.)
//!
//! Which names a file has, its inode does not say. So at the first copy of such a file all layers are
//! walked, once, and the names of all files that have several are kept.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, fstat, futimens, linkat, openat, statat, unlinkat,
};
use rustix::io::{Errno, Result};

use super::copy_up::Data;
use super::node::{Handle, Node, Place};
use super::table::ROOT;
use super::tree::Tree;
use crate::sys::copy;

/// Most names that are kept: a layer of more parts some of its files.
const MOST: usize = 1 << 20;

/// Paths of files with several names, by the number of their inode.
#[derive(Debug, Default)]
pub(super) struct Links(OnceLock<HashMap<u64, Vec<Box<[u8]>>>>);

/// The names that a file has in the tree. Their directories are in the upper directory.
#[derive(Debug)]
pub(super) struct Names<'a> {
    tree: &'a Tree,
    /// The parents of those that were looked for count a lookup.
    places: Vec<Place>,
}

impl Drop for Names<'_> {
    fn drop(&mut self) {
        for place in &self.places {
            self.tree.table.forget(place.parent.id, 1);
        }
    }
}

impl Tree {
    /// The names of a file of a layer; `None` where it has but one.
    pub(super) fn names_of(&self, node: &Arc<Node>) -> Result<Option<Names<'_>>> {
        if !self.table.is_linked(node) {
            return Ok(None);
        }
        let mut names = Names {
            tree: self,
            places: Vec::new(),
        };
        let known = self.links.0.get_or_init(|| self.walk());
        for path in known.get(&node.ino).into_iter().flatten() {
            let Some(place) = self.place_of(path)? else {
                continue;
            };
            let parent = place.parent.clone();
            names.places.push(place);
            // A name that is not seen is none to make a directory for.
            let is_seen = match self.lookup(&parent, &names.places[names.places.len() - 1].name)? {
                Some(found) => {
                    self.table.forget(found.node.id, 1);
                    Arc::ptr_eq(&found.node, node)
                }
                None => false,
            };
            match is_seen.then(|| self.copy_up(&parent, Data::Keep)) {
                // Nor is one whose directory was removed meanwhile.
                Some(Err(error)) if parent.is_upper() || !is_gone(&parent) => return Err(error),
                Some(Ok(())) => {}
                Some(Err(_)) | None => {
                    names.places.pop();
                    self.table.forget(parent.id, 1);
                }
            }
        }
        Ok(Some(names))
    }

    /// A path's directory, looked up once more, and its last name; `None` where there is none such.
    fn place_of(&self, path: &[u8]) -> Result<Option<Place>> {
        let mut components = path.split(|byte| *byte == b'/');
        let name = components.next_back().unwrap_or_default();
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let mut parent = self.table.look_again(ROOT)?;
        for component in components {
            let component = CString::new(component).map_err(|_| Errno::INVAL)?;
            let found = self.lookup(&parent, &component);
            // A directory that is there holds the one above.
            self.table.forget(parent.id, 1);
            match found?.map(|found| found.node) {
                Some(node) if node.is_dir() => parent = node,
                Some(other) => {
                    self.table.forget(other.id, 1);
                    return Ok(None);
                }
                None => return Ok(None),
            }
        }
        let name = name.into_boxed_c_str();
        Ok(Some(Place { parent, name }))
    }

    /// What is in the work directory takes all the names of a file, or none. (Killed in between, it has
    /// some, and the others part from it.)
    pub(super) fn exchange_all(
        &self,
        node: &Arc<Node>,
        temporary: &CStr,
        new: Arc<Handle>,
        names: &Names<'_>,
    ) -> Result<()> {
        let ino = fstat(&new.fd)?.st_ino;
        let own = node.place();
        let mut places: Vec<&Place> = names.places.iter().collect();
        // One that was not found in the layers.
        places.extend(own.iter().filter(|own| {
            !names
                .places
                .iter()
                .any(|place| place.is(&own.parent, &own.name))
        }));
        let mut parents: Vec<&Arc<Node>> = places.iter().map(|place| &place.parent).collect();
        parents.sort_unstable_by_key(|parent| parent.id);
        parents.dedup_by_key(|parent| parent.id);
        let _names: Vec<_> = parents.iter().map(|parent| parent.write_names()).collect();
        let mut made: Vec<&Place> = Vec::new();
        for place in places {
            let linked = self
                .stands_for(place, node)
                .and_then(|stands| match stands {
                    true => self.link_at(temporary, place).map(|()| made.push(place)),
                    false => Ok(()),
                });
            // Its directory was removed meanwhile.
            let linked = match linked {
                Err(Errno::NOENT) => Ok(()),
                linked => linked,
            };
            if let Err(error) = linked {
                for place in made {
                    // Else the name alone parts from the file.
                    let _ = self.unlink_at(place);
                }
                return Err(error);
            }
        }
        node.set_copied(new);
        self.table.copied(node, ino);
        // A name that was not found parts from it.
        self.table.part(node);
        self.held
            .add(super::dir::Holder::Node(Arc::downgrade(node)));
        // The next mount removes what cannot be removed now.
        let _ = unlinkat(&self.work, temporary, AtFlags::empty());
        Ok(())
    }

    fn stands_for(&self, place: &Place, node: &Arc<Node>) -> Result<bool> {
        if is_gone(&place.parent) {
            return Ok(false);
        }
        let Some(found) = self.lookup_locked(&place.parent, &place.name)? else {
            return Ok(false);
        };
        self.table.forget(found.node.id, 1);
        Ok(Arc::ptr_eq(&found.node, node))
    }

    /// One more name for what is in the work directory; the directory's times stay.
    fn link_at(&self, temporary: &CStr, place: &Place) -> Result<()> {
        let parent = self.upper_of(place)?;
        let before = fstat(&*parent)?;
        linkat(
            &self.work,
            temporary,
            &*parent,
            &*place.name,
            AtFlags::empty(),
        )?;
        // The name is there, whatever its directory's times are.
        let _ = futimens(&*parent, &copy::times(&before));
        Ok(())
    }

    fn unlink_at(&self, place: &Place) -> Result<()> {
        let parent = self.upper_of(place)?;
        let before = fstat(&*parent)?;
        unlinkat(&*parent, &*place.name, AtFlags::empty())?;
        futimens(&*parent, &copy::times(&before))
    }

    fn upper_of(&self, place: &Place) -> Result<Arc<OwnedFd>> {
        let upper = place.parent.dirs()?.upper.ok_or(Errno::STALE)?;
        upper.fd(&self.held)
    }

    /// All names of files with several in the layers, whether they are seen or not.
    fn walk(&self) -> HashMap<u64, Vec<Box<[u8]>>> {
        let mut found = HashMap::new();
        let lowers = self.table.get(ROOT).and_then(|root| root.dirs());
        let lowers = lowers.map(|dirs| dirs.lowers);
        for lower in lowers.iter().flat_map(|lowers| lowers.iter()) {
            // What cannot be read has names that are not found.
            if let Ok(root) = lower.fd(&self.held) {
                self.walk_layer(&root, &mut found);
            }
        }
        found
    }

    fn walk_layer(&self, root: &OwnedFd, found: &mut HashMap<u64, Vec<Box<[u8]>>>) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut count = found.values().map(Vec::len).sum::<usize>();
        let mut waiting = vec![Vec::new()];
        while let Some(path) = waiting.pop() {
            let at = if path.is_empty() { &b"."[..] } else { &path };
            // Nobody changes a layer: what was a directory is none that leads elsewhere.
            let Ok(dir) = openat(root, at, flags, Mode::empty()) else {
                continue;
            };
            let Ok(entries) = rustix::fs::Dir::read_from(&dir) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                let mut below = path.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(name.to_bytes());
                let mut kind = entry.file_type();
                if kind != FileType::Directory {
                    let Ok(stat) = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
                        continue;
                    };
                    kind = super::tree::kind(&stat);
                    if is_linked(&stat) && count < MOST {
                        count += 1;
                        let number = self.number(&stat);
                        found.entry(number).or_default().push(below.into());
                        continue;
                    }
                }
                if kind == FileType::Directory {
                    waiting.push(below);
                }
            }
        }
    }
}

/// Whether a directory was removed.
fn is_gone(dir: &Arc<Node>) -> bool {
    dir.id != ROOT && dir.place().is_none()
}

/// Whether a layer's file has several names.
pub(super) fn is_linked(stat: &rustix::fs::Stat) -> bool {
    super::tree::kind(stat) != FileType::Directory
        && stat.st_nlink > 1
        && !super::dir::is_device_whiteout(stat)
}
