//! The shim's epoll set.
//!
//! Who is interested in a descriptor keeps a [`Watch`] beside it and says what it wants after
//! every change; the kernel is asked only when that differs from what is registered. Events are
//! level-triggered, so nothing is lost by handling only a part of what is ready. A descriptor
//! with nothing wanted is taken out of the set altogether where its hang-up is known already:
//! epoll reports hang-ups whether asked or not, and would do so for ever.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// An epoll set.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

/// What one descriptor is registered for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    token: Token,
    registered: Option<EventFlags>,
}

/// Whose event it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// A signal arrived.
    Signal,
    /// A daemon connects.
    Listener,
    /// A daemon has sent something, or can be sent more.
    Daemon(u32),
    /// A task's process ended.
    Exit(u32),
    /// A task's stdout or terminal.
    Stdout(u32),
    /// A task's stderr.
    Stderr(u32),
    /// A task's stdin.
    Stdin(u32),
    /// A client of a task.
    Client(u32, u32),
    /// The root filesystem's server ended.
    Server,
    /// One of a task's log's children can take more, or has something to say.
    Log(u32, u32),
}

/// Task and client numbers have 28 bits each in a token; they are counted up and never used twice.
const NUMBER_BITS: u32 = 28;
const NUMBER: u64 = (1 << NUMBER_BITS) - 1;

impl Token {
    fn pack(self) -> u64 {
        let (kind, a, b) = match self {
            Self::Signal => (0, 0, 0),
            Self::Listener => (1, 0, 0),
            Self::Daemon(n) => (2, n, 0),
            Self::Exit(n) => (3, n, 0),
            Self::Stdout(n) => (4, n, 0),
            Self::Stderr(n) => (5, n, 0),
            Self::Stdin(n) => (6, n, 0),
            Self::Client(n, m) => (7, n, m),
            Self::Server => (8, 0, 0),
            Self::Log(n, m) => (9, n, m),
        };
        (kind << (2 * NUMBER_BITS))
            | ((u64::from(a) & NUMBER) << NUMBER_BITS)
            | (u64::from(b) & NUMBER)
    }

    fn unpack(packed: u64) -> Self {
        // Both fit: they are masked to 28 bits.
        let a = ((packed >> NUMBER_BITS) & NUMBER) as u32;
        let b = (packed & NUMBER) as u32;
        match packed >> (2 * NUMBER_BITS) {
            0 => Self::Signal,
            1 => Self::Listener,
            2 => Self::Daemon(a),
            3 => Self::Exit(a),
            4 => Self::Stdout(a),
            5 => Self::Stderr(a),
            6 => Self::Stdin(a),
            7 => Self::Client(a, b),
            8 => Self::Server,
            _ => Self::Log(a, b),
        }
    }
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Waits for events, at most `limit`; an empty list when that has passed.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> io::Result<Vec<(Token, EventFlags)>> {
        let mut space = [MaybeUninit::<Event>::uninit(); 32];
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        match epoll::wait(&self.0, &mut space[..], limit.as_ref()) {
            Ok((events, _)) => Ok(events
                .iter()
                .map(|e| (Token::unpack(e.data.u64()), e.flags))
                .collect()),
            Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Watch {
    /// Nothing is registered yet.
    pub(crate) fn new(token: Token) -> Self {
        Self {
            token,
            registered: None,
        }
    }

    /// Registers for `wanted` (hang-ups and errors included), or takes the descriptor out of the
    /// set. Must be called with `None` before the descriptor is closed where it has duplicates.
    pub(crate) fn set(&mut self, epoll: &Epoll, fd: BorrowedFd<'_>, wanted: Option<EventFlags>) {
        if wanted == self.registered {
            return;
        }
        let data = EventData::new_u64(self.token.pack());
        let result = match (self.registered, wanted) {
            (None, Some(flags)) => epoll::add(epoll, fd, data, flags),
            (Some(_), Some(flags)) => epoll::modify(epoll, fd, data, flags),
            (_, None) => epoll::delete(epoll, fd),
        };
        // Regular files and /dev/null cannot be polled (EPERM) and nobody waits for them; what
        // else could fail (ENOMEM, ENOSPC) leaves the watch as it was, to be tried again.
        if result.is_ok() {
            self.registered = wanted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_packing() {
        for token in [
            Token::Signal,
            Token::Listener,
            Token::Daemon(3),
            Token::Exit(0),
            Token::Stdout(7),
            Token::Stderr((1 << 28) - 1),
            Token::Stdin(1),
            Token::Client((1 << 28) - 1, (1 << 28) - 2),
            Token::Server,
            Token::Log(5, 1),
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
