//! The thread that watches all shims' connections.
//!
//! It reads from them, hands answers to whoever waits for them and everything else to the callback,
//! and notices their ends. Of a shim with a prepared start, and of a process whose shim cannot be
//! reached, it waits for the end alone. The table's lock is held for single operations, never while
//! a shim or the callback is spoken to.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::epoll::{self, Event, EventData, EventFlags};

use super::OnEvent;
use super::connection::Shim;
use crate::container::packet::receive;
use crate::container::protocol::{Message, Request};
use crate::types::id::ContainerId;

/// Epoll data of the eventfd that ends the monitor; connections count from 1.
pub(super) const STOP: u64 = 0;

/// What the monitor shares with those who ask.
pub(super) struct Shared {
    pub(super) epoll: OwnedFd,
    pub(super) stop: OwnedFd,
    pub(super) table: Mutex<Table>,
    pub(super) next: AtomicU64,
    pub(super) on_event: Arc<OnEvent>,
    /// To the thread that tells of ends; it goes when this is dropped.
    pub(super) ends: Sender<(ContainerId, Message)>,
}

/// The connections, each by what it is looked for by.
#[derive(Default)]
pub(super) struct Table {
    pub(super) by_container: HashMap<ContainerId, Arc<Shim>>,
    pub(super) by_token: HashMap<u64, Arc<Shim>>,
    /// Processes whose end alone is waited for, by their tokens.
    pub(super) watched: HashMap<ContainerId, u64>,
    /// Those that have prepared a start which may never be asked for.
    pub(super) waiting: HashMap<u64, ContainerId>,
}

impl Shared {
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        // Held only for single operations on the maps, which a panic cannot leave half done.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, shim: Shim) -> io::Result<()> {
        let shim = Arc::new(shim);
        let mut table = self.table();
        table.by_token.insert(shim.token, Arc::clone(&shim));
        if let Some(old) = table.by_container.insert(shim.id, Arc::clone(&shim)) {
            // A container that was started again before its former shim had left.
            table.by_token.remove(&old.token);
            let _ = epoll::delete(&self.epoll, &old.socket);
        }
        // Its connection tells more, and a container may have another shim before this one ends.
        let watched = table.watched.remove(&shim.id);
        if let Some(old) = watched.and_then(|token| table.by_token.remove(&token)) {
            let _ = epoll::delete(&self.epoll, &old.socket);
        }
        drop(table);
        epoll::add(
            &self.epoll,
            &shim.socket,
            EventData::new_u64(shim.token),
            EventFlags::IN,
        )?;
        Ok(())
    }

    pub(super) fn watch(&self) {
        let mut space = [MaybeUninit::<Event>::uninit(); 64];
        loop {
            let tokens: Vec<u64> = match epoll::wait(&self.epoll, &mut space[..], None) {
                Ok((events, _)) => events.iter().map(|event| event.data.u64()).collect(),
                Err(_) => continue,
            };
            for token in tokens {
                if token == STOP {
                    return;
                }
                let mut table = self.table();
                let lapsed = table.waiting.remove(&token);
                let shim = table.by_token.get(&token).cloned();
                drop(table);
                if let Some(shim) = shim {
                    self.listen(&shim);
                }
                if let Some(id) = lapsed {
                    self.tell(id, Message::Lapsed);
                }
            }
        }
    }

    /// Takes all that a shim has said.
    fn listen(&self, shim: &Shim) {
        loop {
            match receive::<Message>(shim.socket.as_fd()) {
                Ok(Some((message, _))) => self.hear(shim, message),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The end, or nonsense, after which nothing can be relied on.
                Ok(None) | Err(_) => break,
            }
        }
        let mut table = self.table();
        table.by_token.remove(&shim.token);
        if table
            .by_container
            .get(&shim.id)
            .is_some_and(|now| now.token == shim.token)
        {
            table.by_container.remove(&shim.id);
        }
        if table.watched.get(&shim.id) == Some(&shim.token) {
            table.watched.remove(&shim.id);
        }
        drop(table);
        let _ = epoll::delete(&self.epoll, &shim.socket);
        // Dropping the senders tells the waiters.
        shim.waiting().clear();
        if !shim.exited.load(Ordering::SeqCst) {
            self.tell(shim.id, Message::Lost);
        }
    }

    fn tell(&self, id: ContainerId, message: Message) {
        match message {
            Message::Exited(_) | Message::Lost => {
                // The other side goes only after this one.
                let _ = self.ends.send((id, message));
            }
            _ => tell(&self.on_event, id, message),
        }
    }

    fn hear(&self, shim: &Shim, message: Message) {
        let seen = match &message {
            Message::Reply { .. } => None,
            Message::ExecExited { id, .. } => Some(Request::ExecSeen { id: id.clone() }),
            Message::Exited(_) => {
                shim.exited.store(true, Ordering::SeqCst);
                None
            }
            Message::Detached { .. }
            | Message::LogFailed { .. }
            | Message::Lost
            | Message::Lapsed => None,
        };
        if let Message::Reply { seq, reply } = message {
            let waiter = shim.waiting().remove(&seq);
            // Whoever asked may have given up.
            let _ = waiter.map(|waiter| waiter.send(reply));
            return;
        }
        self.tell(shim.id, message);
        if let Some(seen) = seen {
            // Lost, it costs the client a moment: the shim does not wait for ever.
            let _ = shim.send(seen, Vec::new(), Instant::now());
        }
    }
}

/// Calls the callback.
pub(super) fn tell(on_event: &OnEvent, id: ContainerId, message: Message) {
    // What the callback shares with others it guards by itself.
    if catch_unwind(AssertUnwindSafe(|| on_event(id, message))).is_err() {
        tracing::error!(
            id = id.short(),
            "a defect: what the container's shim told could not be acted upon"
        );
    }
}
