//! One attached client: what it is still to be sent, and what it sends.
//!
//! Output goes straight from the read buffer to the client's socket as long as that takes it;
//! what it does not take is queued. A queue of [`QUEUE`] bytes is full: the task then stops
//! reading its process's output, until the client has caught up or left. So no live client loses
//! a byte, and the container feels a slow client as it would feel a slow pipe.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};

use super::keys::DetachKeys;
use super::reactor::{Epoll, Token, Watch};
use crate::container::protocol::{Attach, Stream};

/// Bytes queued for one client before its task stops reading.
const QUEUE: usize = 1024 * 1024;
/// A drained queue larger than this gives its memory back.
const KEPT: usize = 16 * 1024;

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    fd: OwnedFd,
    attach: Attach,
    keys: DetachKeys,
    watch: Watch,
    queue: Vec<u8>,
    /// How much of `queue` has been sent.
    sent: usize,
    /// It may still send input.
    reading: bool,
    /// It takes no more output; its input may be wanted still.
    deaf: bool,
    /// It has hung up.
    gone: bool,
    /// It is closed as soon as its queue is empty.
    finishing: bool,
}

/// What a client's input came to.
pub(crate) enum Input {
    /// Nothing at the moment.
    Nothing,
    /// Bytes for stdin; none if they were only the beginning of the detach keys.
    Bytes(Vec<u8>),
    /// Bytes for stdin, then the client detached.
    Detached(Vec<u8>),
    /// No more will come.
    End,
}

/// The header of a frame: the stream's number, three zeros, the length in network order.
fn header(stream: Stream, length: usize) -> [u8; 8] {
    // A frame holds one block, far below 4 GiB.
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [stream as u8, 0, 0, 0, a, b, c, d]
}

impl Client {
    /// `terminal` says whether detach keys are looked for.
    pub(crate) fn new(token: Token, mut attach: Attach, fd: OwnedFd, terminal: bool) -> Self {
        // Shared with other holders of the connection, who have it non-blocking already.
        let _ = rustix::io::ioctl_fionbio(&fd, true);
        let keys = std::mem::take(&mut attach.detach_keys);
        let keys = DetachKeys::new(if terminal { keys } else { Vec::new() });
        Self {
            fd,
            keys,
            watch: Watch::new(token),
            queue: Vec::new(),
            sent: 0,
            reading: attach.stdin,
            deaf: false,
            gone: false,
            finishing: false,
            attach,
        }
    }

    /// Whether the client is to get this stream's output.
    pub(crate) fn wants(&self, stream: Stream) -> bool {
        let wanted = match stream {
            Stream::Stdout => self.attach.stdout,
            Stream::Stderr => self.attach.stderr,
        };
        wanted && !self.deaf && !self.finishing
    }

    /// Whether output must wait for it.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.len() - self.sent >= QUEUE
    }

    /// Nothing more can come of it, in either direction.
    pub(crate) fn is_done(&self) -> bool {
        (self.finishing && self.queue.is_empty()) || (!self.reading && (self.deaf || self.gone))
    }

    /// Sends output, or queues what cannot be sent now.
    pub(crate) fn send(&mut self, stream: Stream, bytes: &[u8]) {
        let header = self.attach.multiplexed.then(|| header(stream, bytes.len()));
        let header = header.as_ref().map_or(&[][..], |header| &header[..]);
        let mut sent = 0;
        if self.queue.is_empty() {
            let parts = [IoSlice::new(header), IoSlice::new(bytes)];
            match rustix::io::retry_on_intr(|| rustix::io::writev(&self.fd, &parts)) {
                Ok(n) => sent = n,
                Err(rustix::io::Errno::AGAIN) => {}
                Err(_) => return self.deafen(),
            }
        }
        self.queue
            .extend_from_slice(header.get(sent..).unwrap_or_default());
        self.queue
            .extend_from_slice(&bytes[sent.saturating_sub(header.len())..]);
    }

    /// Sends what is queued as far as the socket takes it.
    pub(crate) fn flush(&mut self) {
        while self.sent < self.queue.len() {
            match rustix::io::write(&self.fd, &self.queue[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    // Keeps appending cheap without moving bytes on every flush.
                    if self.sent > QUEUE / 2 {
                        self.queue.drain(..self.sent);
                        self.sent = 0;
                    }
                    return;
                }
                Err(_) => return self.deafen(),
            }
        }
        self.sent = 0;
        self.queue.clear();
        self.queue.shrink_to(KEPT);
    }

    /// Takes what the client sent before its connection was handed over.
    pub(crate) fn early(&mut self) -> Input {
        let early = std::mem::take(&mut self.attach.early);
        if early.is_empty() || !self.reading {
            Input::Nothing
        } else {
            self.keyed(&early)
        }
    }

    /// Reads input.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Input {
        if !self.reading {
            return Input::Nothing;
        }
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut *buffer)) {
            Ok(0) => {}
            Ok(n) => return self.keyed(&buffer[..n]),
            Err(rustix::io::Errno::AGAIN) => return Input::Nothing,
            Err(_) => self.gone = true,
        }
        self.reading = false;
        Input::End
    }

    fn keyed(&mut self, input: &[u8]) -> Input {
        let mut bytes = Vec::with_capacity(input.len());
        if self.keys.feed(input, &mut bytes) {
            self.reading = false;
            Input::Detached(bytes)
        } else {
            Input::Bytes(bytes)
        }
    }

    /// Notes a hang-up: the client has closed both directions.
    pub(crate) fn hang_up(&mut self) {
        self.gone = true;
        self.deafen();
    }

    fn deafen(&mut self) {
        self.deaf = true;
        self.sent = 0;
        self.queue = Vec::new();
    }

    /// No more output will come: the client is closed once it has what is queued.
    pub(crate) fn finish(&mut self) {
        self.finishing = true;
        self.reading = false;
    }

    /// Tells epoll what is wanted now; `input` says whether stdin takes more.
    pub(crate) fn watch(&mut self, epoll: &Epoll, input: bool) {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.reading && input);
        flags.set(EventFlags::OUT, !self.queue.is_empty());
        let wanted = (!flags.is_empty() || !self.gone).then_some(flags);
        self.watch.set(epoll, self.fd.as_fd(), wanted);
    }

    /// Tells a client that has no process what is to be said, and closes it. The text is short and
    /// the connection new, so it takes the text at once.
    pub(crate) fn last_words(attach: Attach, fd: OwnedFd, text: &[u8]) {
        let mut client = Self::new(Token::Client(0, 0), attach, fd, false);
        client.send(Stream::Stdout, text);
        client.shut();
    }

    /// Ends the connection in an orderly way.
    pub(crate) fn close(mut self, epoll: &Epoll) {
        self.watch.set(epoll, self.fd.as_fd(), None);
        self.shut();
    }

    fn shut(&self) {
        // The daemon may hold a duplicate for a moment longer: the client must not wait for that.
        let _ = shutdown(&self.fd, Shutdown::Write);
        // Closing a unix socket with unread input resets it, and the client would see an error
        // where the end should be.
        let mut buffer = [0; 512];
        while let Ok((1.., _)) = recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {}
    }
}
