//! Interfaces of containers that have ended are removed behind their backs: the kernel takes some ten
//! milliseconds for one, which nobody needs to wait for.
//!
//! What has left a network has its addresses until its interface is gone, so that no two answer to
//! one. Who needs them at once waits for [`Unplugger::settle`].

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::kernel::{self, Bridge};
use super::store::{Member, Store};

/// One that has left.
#[derive(Debug)]
pub struct Left {
    /// The network's id.
    pub network: String,
    /// The kernel's side of it.
    pub bridge: Option<Arc<Bridge>>,
    /// Who it was.
    pub member: Member,
}

/// Removes interfaces, one after the other, on a thread of its own.
#[derive(Debug)]
pub struct Unplugger {
    queue: Sender<Left>,
    waiting: Arc<(Mutex<usize>, Condvar)>,
}

impl Unplugger {
    /// Starts the thread, which ends with this.
    pub fn start(store: Arc<Store>) -> io::Result<Self> {
        let (queue, left) = channel();
        let waiting = Arc::new((Mutex::new(0), Condvar::new()));
        let done = Arc::clone(&waiting);
        std::thread::Builder::new()
            .name("unplug".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || run(&store, &left, &done))?;
        Ok(Self { queue, waiting })
    }

    /// Removes an interface soon, and then lets others have its addresses.
    pub fn push(&self, left: Left) {
        *self
            .waiting
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner) += 1;
        if self.queue.send(left).is_err() {
            *self
                .waiting
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner) -= 1;
        }
    }

    /// Waits until all that has been pushed is done.
    pub fn settle(&self) {
        let waiting = self
            .waiting
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        drop(
            self.waiting
                .1
                .wait_while(waiting, |waiting| *waiting > 0)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

fn run(store: &Store, left: &Receiver<Left>, done: &(Mutex<usize>, Condvar)) {
    for left in left {
        let near = kernel::near(&left.member.endpoint);
        if let Some(bridge) = &left.bridge
            && let Err(error) = bridge.unplug(&near)
        {
            tracing::warn!("cannot remove the interface {near}: {error}");
        }
        store.free(&left.network, &left.member);
        *done.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        done.1.notify_all();
    }
}
