//! Directories of layers, by held descriptors, and the descriptors that are held.
//!
//! A [`Dir`] is one real directory of one layer. It knows its real parent and its name there, so
//! that its descriptor may be closed and opened again: an image has more directories than some
//! hosts allow descriptors. A layer's directories never move; the upper's do by our hand alone, and
//! [`Dir::moved`] follows. What has no name any more keeps its descriptor.
//!
//! Marks that hide what is below, all of which are understood in every layer:
//!
//! | mark | hides |
//! |---|---|
//! | character device 0/0 | the name |
//! | empty file with `user.overlay.whiteout`, in a directory whose `user.overlay.opaque` is `x` | the name |
//! | `user.overlay.opaque`, `trusted.overlay.opaque`, `user.fuseoverlayfs.opaque` = `y` | the directory's other layers |
//!
//! Written are devices and `user.overlay.opaque`, which the kernel's overlayfs reads too. `.wh.`
//! files are no mark here: they are how archives say it, and unpacking turns them into these.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::{Errno, Result};

use super::node::Node;

/// The mark of a directory that hides those of its name in the layers below.
pub(super) const OPAQUE: &CStr = c"user.overlay.opaque";
const OPAQUE_NAMES: [&CStr; 3] = [
    OPAQUE,
    c"trusted.overlay.opaque",
    c"user.fuseoverlayfs.opaque",
];
const WHITEOUT: &CStr = c"user.overlay.whiteout";

/// Takes a lock. A thread that panicked left nothing half-done that matters more than going on.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A real directory.
#[derive(Debug)]
pub(super) struct Dir {
    slot: Mutex<Slot>,
    /// Nothing of its name in lower layers is seen.
    pub(super) opaque: bool,
    /// It may hold whiteouts that are files.
    xwhiteouts: bool,
}

#[derive(Debug)]
struct Slot {
    fd: Option<Arc<OwnedFd>>,
    /// Parent and name; `None` for a layer's root and for what was removed.
    at: Option<(Arc<Dir>, Box<CStr>)>,
}

/// What a name stands for in one layer.
#[derive(Debug)]
pub(super) enum Entry {
    /// Nothing: the layer below is asked.
    Absent,
    /// Nothing, and nothing below.
    Whiteout,
    Present(Stat),
}

impl Dir {
    /// A layer's root.
    pub(super) fn root(fd: OwnedFd) -> Arc<Dir> {
        Arc::new(Dir::new(fd, None))
    }

    fn new(fd: OwnedFd, at: Option<(Arc<Dir>, Box<CStr>)>) -> Dir {
        let (opaque, xwhiteouts) = marks(&fd);
        Dir {
            slot: Mutex::new(Slot {
                fd: Some(Arc::new(fd)),
                at,
            }),
            opaque,
            xwhiteouts,
        }
    }

    /// The directory of that name in this one.
    pub(super) fn child(self: &Arc<Dir>, name: &CStr, held: &Held) -> Result<Arc<Dir>> {
        let fd = open_dir(&*self.fd(held)?, name)?;
        let child = Arc::new(Dir::new(fd, Some((self.clone(), name.into()))));
        held.add(Holder::Dir(Arc::downgrade(&child)));
        Ok(child)
    }

    /// Its descriptor, opened again if need be.
    pub(super) fn fd(self: &Arc<Dir>, held: &Held) -> Result<Arc<OwnedFd>> {
        loop {
            let (parent, name) = {
                let slot = lock(&self.slot);
                match (&slot.fd, &slot.at) {
                    (Some(fd), _) => return Ok(fd.clone()),
                    (None, Some((parent, name))) => (parent.clone(), name.clone()),
                    (None, None) => return Err(Errno::STALE),
                }
            };
            let opened = open_dir(&*parent.fd(held)?, &name);
            let mut slot = lock(&self.slot);
            let same = slot
                .at
                .as_ref()
                .is_some_and(|(now_in, now_as)| Arc::ptr_eq(now_in, &parent) && *now_as == name);
            if slot.fd.is_none() && same {
                let fd = Arc::new(opened?);
                slot.fd = Some(fd.clone());
                drop(slot);
                held.add(Holder::Dir(Arc::downgrade(self)));
                return Ok(fd);
            }
        }
    }

    /// It has a new name, or (`None`) none any more: for that its descriptor is opened beforehand.
    pub(super) fn moved(&self, to: Option<(Arc<Dir>, &CStr)>) {
        lock(&self.slot).at = to.map(|(parent, name)| (parent, name.into()));
    }

    /// What a name stands for here.
    pub(super) fn entry(self: &Arc<Dir>, name: &CStr, held: &Held) -> Result<Entry> {
        let fd = self.fd(held)?;
        let stat = match statat(&*fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(Entry::Absent),
            stat => stat?,
        };
        let hidden = is_device_whiteout(&stat)
            || self.xwhiteouts
                && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && stat.st_size == 0
                && has_whiteout_mark(&*fd, name);
        Ok(if hidden {
            Entry::Whiteout
        } else {
            Entry::Present(stat)
        })
    }

    /// Whether an entry of this kind (`d_type`) may be a whiteout.
    pub(super) fn may_hide(&self, kind: FileType) -> bool {
        match kind {
            FileType::CharacterDevice | FileType::Unknown => true,
            FileType::RegularFile => self.xwhiteouts,
            _ => false,
        }
    }

    /// Closes the descriptor if it can be opened again and nobody uses it now.
    fn evict(&self) -> bool {
        let mut slot = lock(&self.slot);
        let idle = slot.fd.as_ref().is_none_or(|fd| Arc::strong_count(fd) == 1);
        let closes = idle && slot.at.is_some();
        if closes {
            slot.fd = None;
        }
        closes
    }
}

fn open_dir(parent: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

pub(super) fn is_device_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn has_whiteout_mark(dir: impl AsFd, name: &CStr) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty())
        .and_then(|file| rustix::fs::fgetxattr(&file, WHITEOUT, &mut [0_u8; 8]))
        .is_ok()
}

/// Whether a directory is opaque, and whether it may hold whiteouts that are files.
fn marks(dir: &OwnedFd) -> (bool, bool) {
    // Most directories have no attribute at all, which one call tells.
    if !matches!(rustix::fs::flistxattr_query(dir), Ok(length) if length > 0) {
        return (false, false);
    }
    let mut marks = (false, false);
    for name in OPAQUE_NAMES {
        let mut value = [0_u8; 1];
        match rustix::fs::fgetxattr(dir, name, &mut value) {
            Ok(1) if value == *b"y" => marks.0 = true,
            Ok(1) if value == *b"x" => marks.1 = true,
            _ => {}
        }
    }
    marks
}

/// Who holds a descriptor that could be opened again.
#[derive(Debug)]
pub(super) enum Holder {
    Dir(Weak<Dir>),
    Node(Weak<Node>),
}

/// All descriptors that could be opened again, the longest held first.
#[derive(Debug)]
pub(super) struct Held {
    queue: Mutex<VecDeque<Holder>>,
    most: usize,
}

impl Held {
    pub(super) fn new(most: usize) -> Held {
        Held {
            queue: Mutex::new(VecDeque::new()),
            most,
        }
    }

    /// Takes one more, and closes old ones if these are too many.
    pub(super) fn add(&self, holder: Holder) {
        let mut evicted = Vec::new();
        {
            let mut queue = lock(&self.queue);
            queue.push_back(holder);
            let surplus = queue.len().saturating_sub(self.most);
            evicted.extend(queue.drain(..surplus));
        }
        // The queue is not locked while others are. What is in use now gets another round.
        evicted.retain(|holder| match holder {
            Holder::Dir(dir) => dir.upgrade().is_some_and(|dir| !dir.evict()),
            Holder::Node(node) => node.upgrade().is_some_and(|node| !node.evict()),
        });
        if !evicted.is_empty() {
            lock(&self.queue).extend(evicted);
        }
    }
}
