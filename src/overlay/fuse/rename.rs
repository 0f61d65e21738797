//! Rename, in all cases.
//!
//! A file of a lower layer is copied up first, and so is a directory of which a part is in a lower
//! layer, with all that is in it. The kernel's overlayfs answers EXDEV to the latter, so that mv(1)
//! copies; a redirection in an attribute, which it has for the privileged, it would not follow in
//! a user namespace, and the upper directory must mean the same to both. What `mv` would have to copy
//! is copied here, and programs that do not expect EXDEV work.

use std::ffi::CStr;
use std::sync::Arc;

use rustix::fs::{AtFlags, RenameFlags, renameat, renameat_with, unlinkat};
use rustix::io::{Errno, Result};

use super::copy_up::{Data, set_opaque};
use super::dir::{Dir, is_device_whiteout};
use super::entries::open_dir;
use super::node::Node;
use super::tree::{Tree, is_dir};

/// A directory's entry.
pub(super) type Name<'a> = (&'a Arc<Node>, &'a CStr);

impl Tree {
    /// rename(2); `flags` are renameat2(2)'s.
    pub(super) fn rename(&self, from: Name<'_>, to: Name<'_>, flags: u32) -> Result<()> {
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let exchange = flags == RenameFlags::EXCHANGE;
        if !exchange && !flags.difference(RenameFlags::NOREPLACE).is_empty() {
            // RENAME_WHITEOUT is for overlays on top of this one: none of ours.
            return Err(Errno::INVAL);
        }
        self.copy_up(from.0, Data::Keep)?;
        self.copy_up(to.0, Data::Keep)?;
        let source = self.lookup(from.0, from.1)?.ok_or(Errno::NOENT)?.node;
        let target = match self.lookup(to.0, to.1) {
            Ok(found) => found.map(|found| found.node),
            Err(error) => {
                self.table.forget(source.id, 1);
                return Err(error);
            }
        };
        let renamed = self.rename_nodes(from, &source, to, target.as_ref(), flags);
        self.table.forget(source.id, 1);
        if let Some(target) = target {
            self.table.forget(target.id, 1);
        }
        renamed
    }

    fn rename_nodes(
        &self,
        from: Name<'_>,
        source: &Arc<Node>,
        to: Name<'_>,
        target: Option<&Arc<Node>>,
        flags: RenameFlags,
    ) -> Result<()> {
        let exchange = flags == RenameFlags::EXCHANGE;
        self.copy_whole(source)?;
        let _pinned = match target {
            None if exchange => return Err(Errno::NOENT),
            Some(_) if flags == RenameFlags::NOREPLACE => return Err(Errno::EXIST),
            // Two names of one file.
            Some(target) if Arc::ptr_eq(source, target) && !source.is_dir() => return Ok(()),
            Some(target) if exchange => {
                self.copy_whole(target)?;
                None
            }
            Some(target) => match (source.is_dir(), target.is_dir()) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if !self.is_empty(target)? => return Err(Errno::NOTEMPTY),
                _ => Some(self.pin(target)?),
            },
            None => None,
        };

        // Always in the same order; the kernel renames directories one at a time.
        let (first, second) = if from.0.id <= to.0.id {
            (from.0, to.0)
        } else {
            (to.0, from.0)
        };
        let _first = first.write_names();
        let _second = (!Arc::ptr_eq(first, second)).then(|| second.write_names());

        let (from_dirs, to_dirs) = (from.0.dirs()?, to.0.dirs()?);
        let from_upper = from_dirs.upper.as_ref().ok_or(Errno::STALE)?;
        let to_upper = to_dirs.upper.as_ref().ok_or(Errno::STALE)?;
        // What is below the new name must not show through.
        self.hide_below(source, self.is_below(&to_dirs, to.1)?)?;
        let old_is_below = self.is_below(&from_dirs, from.1)?;
        if exchange {
            let target = target.ok_or(Errno::NOENT)?;
            self.hide_below(target, old_is_below)?;
            let (old, new) = (from_upper.fd(&self.held)?, to_upper.fd(&self.held)?);
            renameat_with(&*old, from.1, &*new, to.1, RenameFlags::EXCHANGE)?;
            // Through a name that nothing has, so that the two do not meet in the table.
            let between = (to.0, c"/");
            self.table.rename(target, to, between);
            self.moved(source, from, to, to_upper);
            self.moved(target, between, from, from_upper);
            return Ok(());
        }
        self.move_upper(
            (from_upper, from.1),
            (to_upper, to.1),
            source.is_dir(),
            old_is_below,
        )?;
        if let Some(target) = target {
            self.gone(target, to.0, to.1);
        }
        self.moved(source, from, to, to_upper);
        Ok(())
    }

    /// In the upper directory, with nothing below.
    fn copy_whole(&self, node: &Arc<Node>) -> Result<()> {
        if node.is_dir() {
            self.copy_tree(node, || Ok(()))
        } else {
            self.copy_up(node, Data::Keep)
        }
    }

    fn hide_below(&self, node: &Arc<Node>, below: bool) -> Result<()> {
        if below && node.is_dir() {
            let upper = node.dirs()?.upper.ok_or(Errno::STALE)?;
            set_opaque(&*upper.fd(&self.held)?)?;
        }
        Ok(())
    }

    fn moved(&self, node: &Arc<Node>, from: Name<'_>, to: Name<'_>, upper: &Arc<Dir>) {
        self.table.rename(node, from, to);
        if let Ok(Some(dir)) = node.dirs().map(|dirs| dirs.upper) {
            dir.moved(Some((upper.clone(), to.1)));
        }
    }

    /// The rename of what is really there.
    fn move_upper(
        &self,
        (from, old): (&Arc<Dir>, &CStr),
        (to, new): (&Arc<Dir>, &CStr),
        directory: bool,
        covers: bool,
    ) -> Result<()> {
        let (from_fd, to_fd) = (from.fd(&self.held)?, to.fd(&self.held)?);
        let there = self.upper_stat(to, new)?;
        if directory && let Some(there) = there {
            if is_dir(&there) {
                // Seen to be empty, but there may be whiteouts, and then something below.
                let dir = open_dir(&*to_fd, new)?;
                set_opaque(&dir)?;
                self.clear_whiteouts(&dir)?;
            } else if is_device_whiteout(&there) {
                // Swapped, it is where a whiteout is wanted, or wanted nowhere.
                renameat_with(&*from_fd, old, &*to_fd, new, RenameFlags::EXCHANGE)?;
                if !covers {
                    unlinkat(&*from_fd, old, AtFlags::empty())?;
                }
                return Ok(());
            }
        }
        if !covers {
            return renameat(&*from_fd, old, &*to_fd, new);
        }
        match renameat_with(&*from_fd, old, &*to_fd, new, RenameFlags::WHITEOUT) {
            // Not on every filesystem.
            Err(Errno::INVAL | Errno::PERM | Errno::NOTSUP) => {
                renameat(&*from_fd, old, &*to_fd, new)?;
                self.whiteout(&*from_fd, old)
            }
            renamed => renamed,
        }
    }
}
