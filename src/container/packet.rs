//! Packets on a `SOCK_SEQPACKET` socket: one JSON message each, with descriptors beside it.
//!
//! A unix socket carries packets up to its send buffer's size (about 200 KiB by default). A
//! message of more than [`INLINE`] bytes is written to a memfd instead, which travels as the
//! first descriptor; the packet then holds only [`SPILLED`]. Both sides are processes of one
//! user and of one program, so nothing here defends against a hostile peer, but nothing panics on
//! nonsense either: a daemon may meet a shim of another version.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{RecvFlags, recv};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sys::fdpass;

/// Longest message that travels in the packet itself, in bytes.
const INLINE: usize = 64 * 1024;
/// Longest message at all, in bytes.
const LONGEST: u64 = 64 * 1024 * 1024;
/// What a packet holds when its message is in the memfd beside it. No message is a JSON null.
const SPILLED: &[u8] = b"null";
/// Most descriptors beside one message; one more is its memfd.
pub const MOST_DESCRIPTORS: usize = fdpass::MAX_DESCRIPTORS - 1;

/// One message, ready to be sent.
#[derive(Debug)]
pub struct Packet {
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Packet {
    /// Encodes a message; `descriptors` travel beside it, in order.
    pub fn new<T: Serialize>(message: &T, descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let mut bytes = serde_json::to_vec(message)?;
        let mut descriptors = VecDeque::from(descriptors);
        if bytes.len() > INLINE {
            let mut memfd = File::from(memfd_create("moss-message", MemfdFlags::CLOEXEC)?);
            memfd.write_all(&bytes)?;
            descriptors.push_front(memfd.into());
            bytes = SPILLED.to_vec();
        }
        if descriptors.len() > MOST_DESCRIPTORS + 1 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "too many descriptors",
            ));
        }
        Ok(Self { bytes, descriptors })
    }

    /// Sends the packet without waiting; `WouldBlock` when the peer's queue is full.
    pub fn send(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let descriptors: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(AsFd::as_fd).collect();
        fdpass::send_at_once(socket, &self.bytes, &descriptors)
    }

    /// Sends the packet, waiting until `deadline` for a peer whose queue is full.
    pub fn send_until(&self, socket: BorrowedFd<'_>, deadline: Instant) -> io::Result<()> {
        loop {
            match self.send(socket) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    wait(socket, PollFlags::OUT, deadline)?;
                }
                other => return other,
            }
        }
    }
}

/// Takes the next message and its descriptors without waiting: `WouldBlock` when there is none,
/// `None` when the peer has closed its end, `ConnectionReset` when it did so with something unread.
pub fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    // The length first, so that the buffer is no larger than the message: most are some hundred
    // bytes, and a shim's memory is counted in pages.
    let peek = RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT;
    let (_, length) = rustix::io::retry_on_intr(|| recv(socket, &mut [0u8; 1][..], peek))?;
    let mut bytes = vec![0; length.max(1)];
    let (length, descriptors) = fdpass::receive_at_once(socket, &mut bytes)?;
    let mut descriptors = VecDeque::from(descriptors);
    if length == 0 {
        return Ok(None);
    }
    bytes.truncate(length);
    if bytes == SPILLED {
        let memfd = descriptors
            .pop_front()
            .ok_or_else(|| invalid("no memfd beside a packet"))?;
        bytes = read_whole(&File::from(memfd))?;
    }
    Ok(Some((serde_json::from_slice(&bytes)?, descriptors.into())))
}

/// Takes the next message, waiting for it until `deadline`.
pub fn receive_until<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    deadline: Instant,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    loop {
        match receive(socket) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                wait(socket, PollFlags::IN, deadline)?;
            }
            other => return other,
        }
    }
}

fn wait(socket: BorrowedFd<'_>, flags: PollFlags, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left == Duration::ZERO {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
    match poll(&mut [PollFd::from_borrowed_fd(socket, flags)], Some(&left)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn read_whole(memfd: &File) -> io::Result<Vec<u8>> {
    let length = memfd.metadata()?.len();
    if length > LONGEST {
        return Err(invalid("a message is too long"));
    }
    // Bounded by LONGEST, so it fits a usize on any platform.
    let mut bytes = vec![0; length as usize];
    memfd.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use rustix::net::SendFlags;

    use super::*;
    use crate::sys::fdpass::pair;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn messages_of_any_length_arrive_with_their_descriptors() {
        for length in [0, 10, INLINE - 10, INLINE + 10, 5 << 20] {
            let (a, b) = pair().expect("socketpair");
            let text = "x".repeat(length);
            let file = File::from(memfd_create("t", MemfdFlags::CLOEXEC).expect("memfd"));
            file.write_all_at(b"hi", 0).expect("write");
            let packet = Packet::new(&text, vec![file.into()]).expect("encode");
            packet.send(a.as_fd()).expect("send");
            let (got, fds) = receive_until::<String>(b.as_fd(), soon())
                .expect("receive")
                .expect("a message");
            assert_eq!(got, text);
            assert_eq!(fds.len(), 1);
            let mut content = [0; 2];
            File::from(fds.into_iter().next().expect("one"))
                .read_exact_at(&mut content, 0)
                .expect("read");
            assert_eq!(&content, b"hi");
        }
    }

    #[test]
    fn as_many_descriptors_as_promised_fit_even_when_spilled() {
        let (a, b) = pair().expect("socketpair");
        let fds = (0..MOST_DESCRIPTORS)
            .map(|_| memfd_create("t", MemfdFlags::CLOEXEC).expect("memfd"))
            .collect();
        let packet = Packet::new(&"x".repeat(INLINE), fds).expect("encode");
        packet.send(a.as_fd()).expect("send");
        let (_, fds) = receive::<String>(b.as_fd())
            .expect("receive")
            .expect("a message");
        assert_eq!(fds.len(), MOST_DESCRIPTORS);
    }

    #[test]
    fn an_empty_queue_would_block_and_a_closed_one_ends() {
        let (a, b) = pair().expect("socketpair");
        let nothing = receive::<String>(b.as_fd()).expect_err("nothing there");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        let late = receive_until::<String>(b.as_fd(), Instant::now() + Duration::from_millis(5));
        assert_eq!(
            late.expect_err("nothing there").kind(),
            io::ErrorKind::TimedOut
        );
        drop(a);
        assert!(receive::<String>(b.as_fd()).expect("end").is_none());
    }

    #[test]
    fn nonsense_is_an_error() {
        let (a, b) = pair().expect("socketpair");
        for nonsense in [&b"{"[..], b"null", b"7"] {
            rustix::net::send(&a, nonsense, SendFlags::empty()).expect("send");
            receive::<String>(b.as_fd()).expect_err("nonsense");
        }
    }
}
