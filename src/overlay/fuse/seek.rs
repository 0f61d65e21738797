//! SEEK_DATA and SEEK_HOLE of files with something in the kernel's cache that we were not yet given.
//!
//! The kernel collects writes, and asks where data is without writing them back first: a file that
//! somebody has open and writes to would be one hole, and who copies it by its data, as cp(1) does, would
//! copy nothing. So before the real file is asked, the kernel is told that its pages are stale, and
//! writes back those that it has changed. That call returns when their WRITEs are answered. A worker
//! that made it would wait for another, and all of them for nobody; so one thread of a mount makes
//! it, one file at a time, and answers. It is started by the first such request: they are rare.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use rustix::io::{Errno, Result, write};

use super::device::Device;
use super::dir::lock;
use super::node::Node;
use super::tree::Tree;
use super::wire::{Reply, Request, stale};

/// Stack of the thread.
const STACK: usize = 64 << 10;

/// A request that is to be answered.
#[derive(Debug)]
struct Seek {
    unique: u64,
    node: Arc<Node>,
    offset: u64,
    whence: u32,
    /// Where it was read, and is answered.
    device: Arc<OwnedFd>,
}

/// The thread of a mount that does it; it ends with this.
#[derive(Debug)]
pub(super) struct Seeker {
    tree: Arc<Tree>,
    waiting: Mutex<Option<Sender<Seek>>>,
}

impl Seeker {
    pub(super) fn new(tree: Arc<Tree>) -> Seeker {
        Seeker {
            tree,
            waiting: Mutex::default(),
        }
    }

    /// Takes an LSEEK over; it will be answered.
    ///
    /// # Errors
    ///
    /// EINVAL for a malformed one, ESTALE for an unknown file; EAGAIN where no thread can be started.
    pub(super) fn take(&self, request: &Request<'_>, device: &Device) -> Result<()> {
        let mut body = request.body;
        body.u64()?; // File handle.
        let seek = Seek {
            unique: request.unique,
            node: self.tree.table.get(request.node)?,
            offset: body.u64()?,
            whence: body.u32()?,
            device: device.asked().clone(),
        };
        let mut waiting = lock(&self.waiting);
        let sender = match waiting.take() {
            Some(sender) => sender,
            None => self.start()?,
        };
        let sent = sender.send(seek);
        *waiting = Some(sender);
        sent.map_err(|_| Errno::IO)
    }

    fn start(&self) -> Result<Sender<Seek>> {
        let (sender, seeks) = channel();
        let tree = self.tree.clone();
        std::thread::Builder::new()
            .name("fuse-seek".to_owned())
            .stack_size(STACK)
            .spawn(move || answer(&tree, &seeks))
            .map_err(|_| Errno::AGAIN)?;
        Ok(sender)
    }
}

fn answer(tree: &Tree, seeks: &Receiver<Seek>) {
    let mut reply = Reply::new(tree.owners.clone());
    for seek in seeks {
        // What was not written back is reported to who closes or syncs the file; of a file that was
        // forgotten meanwhile there is nothing.
        let _ = write(&*seek.device, &stale(seek.node.id));
        reply.clear();
        let found = tree.seek(&seek.node, seek.offset, seek.whence);
        let found = found.map(|offset| reply.u64(offset));
        // Only the mount's end is in the way.
        let _ = write(&*seek.device, reply.finish(seek.unique, found));
    }
}
