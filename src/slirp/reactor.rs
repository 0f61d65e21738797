//! One epoll set, and numbers for what is in it that are never given twice.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

/// How long a listener is left alone that has what cannot be taken.
const PAUSE: Duration = Duration::from_millis(100);

/// What became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Its number.
    pub token: u64,
    /// How.
    pub flags: EventFlags,
}

/// The set.
#[derive(Debug)]
pub struct Reactor {
    epoll: OwnedFd,
    next: u64,
}

impl Reactor {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            next: 0,
        })
    }

    /// A number for something that is about to be added.
    pub fn token(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Watches a descriptor.
    pub fn add(&self, socket: impl AsFd, token: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            socket,
            EventData::new_u64(token),
            flags,
        )?)
    }

    /// Watches it for something else.
    pub fn modify(&self, socket: impl AsFd, token: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(
            &self.epoll,
            socket,
            EventData::new_u64(token),
            flags,
        )?)
    }

    /// Watches a listener no more for a moment, where it has connections that cannot be taken: it
    /// would say so again and again. When it is to be watched again is told.
    pub fn pause(&self, listener: impl AsFd, token: u64, error: Errno) -> Option<Instant> {
        let lacks = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
        if !lacks.contains(&error) {
            return None;
        }
        let paused = self.modify(listener, token, EventFlags::empty());
        paused.is_ok().then(|| Instant::now() + PAUSE)
    }

    /// Watches it no more. (Closing it does the same, unless somebody else has it too.)
    pub fn remove(&self, socket: impl AsFd) {
        let _ = epoll::delete(&self.epoll, socket);
    }

    /// Waits until something is ready, or `until`; for ever without.
    pub fn wait(&self, until: Option<Instant>) -> io::Result<Vec<Ready>> {
        let left = until.map(|until| {
            // A moment more, so as not to spin through the last millisecond.
            until.saturating_duration_since(Instant::now()) + Duration::from_millis(1)
        });
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut space = [MaybeUninit::<Event>::uninit(); 256];
        match epoll::wait(&self.epoll, &mut space[..], left.as_ref()) {
            Ok((events, _)) => Ok(events
                .iter()
                .map(|event| Ready {
                    token: event.data.u64(),
                    flags: event.flags,
                })
                .collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}
