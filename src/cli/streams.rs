//! The two-way stream between the user's terminal and a container, on one thread.
//!
//! ```text
//! stdin ──▶ pending ──▶ socket ──▶ frames or raw ──▶ stdout, stderr
//! signals ──▶ the caller                 exit (another connection) ──▶ the caller
//! ```
//!
//! One poll(2) over all of it, so there is nothing to join and nothing to race: the loop ends when
//! the output has ended *and* the exit is there to be read. Writes to the container never block
//! (what it does not take is kept, and no more is read of stdin meanwhile); a container that fills
//! its output while not reading its input could otherwise stop both sides for ever.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendFlags, send};

use super::http::Hijacked;
use super::terminal::DetachKeys;
use crate::api::stream::{self, HEADER, StreamKind};

/// Bytes moved at once.
const BUFFER: usize = 32 * 1024;

/// Signals that are passed on to the container or mean something to the terminal.
const CAUGHT: &[Signal] = &[
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// Signals that come as data for as long as this lives.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
    former: SigSet,
}

impl Signals {
    /// Catches them. From here on they wait to be read. Those that end a program keep doing so
    /// where `only_resize` is set.
    pub fn catch(only_resize: bool) -> io::Result<Signals> {
        let mut set = SigSet::empty();
        for &signal in CAUGHT {
            if !only_resize || signal == Signal::SIGWINCH {
                set.add(signal);
            }
        }
        let mut former = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut former))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Signals {
            descriptor: SignalFd::with_flags(&set, flags)?,
            former,
        })
    }

    fn next(&self) -> Option<i32> {
        let info = self.descriptor.read_signal().ok().flatten()?;
        i32::try_from(info.ssi_signo).ok()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.former), None);
    }
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The output ended, and with it the exit, if one is waited for, is there to be read.
    Finished,
    /// The user typed the keys that detach.
    Detached,
    /// A signal asks this process to end.
    Interrupted(i32),
}

/// What a session does with a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heeded {
    /// It was passed on, or meant nothing.
    Continue,
    /// The session ends by it.
    Leave,
}

/// A session: where the bytes go.
pub struct Session<'a> {
    /// The container's side.
    pub connection: Hijacked,
    /// Standard input goes to it.
    pub stdin: bool,
    /// Standard output and error come from it, in one raw stream.
    pub raw: bool,
    /// Keys that detach, where they are looked for.
    pub keys: Option<DetachKeys>,
    /// Becomes readable when the exit is known.
    pub exit: Option<BorrowedFd<'a>>,
}

impl Session<'_> {
    /// Moves bytes until one of the ends.
    pub fn run(
        mut self,
        signals: &Signals,
        heed: &mut dyn FnMut(i32) -> Heeded,
    ) -> io::Result<End> {
        let stdin = io::stdin();
        let mut demux = Demux::new(self.raw, io::stdout(), io::stderr());
        demux.feed(&std::mem::take(&mut self.connection.early))?;
        let socket = &self.connection.stream;
        let mut pending: Vec<u8> = Vec::new();
        let mut sending = self.stdin;
        let (mut output, mut exited) = (true, self.exit.is_none());
        let mut buffer = vec![0; BUFFER];
        if !sending {
            // Nothing will be sent; the container's input, if it has one, is not ours to end.
            pending.clear();
        }
        while output || !exited {
            let mut socket_events = PollFlags::empty();
            socket_events.set(PollFlags::IN, output);
            socket_events.set(PollFlags::OUT, !pending.is_empty());
            let reads_stdin = sending && pending.is_empty();
            let mut polled = vec![
                PollFd::new(&signals.descriptor, PollFlags::IN),
                PollFd::new(socket, socket_events),
            ];
            // A socket that has ended would be reported for ever.
            if !output && pending.is_empty() {
                polled.pop();
            }
            let with_socket = polled.len() > 1;
            if reads_stdin {
                polled.push(PollFd::new(&stdin, PollFlags::IN));
            }
            if let Some(exit) = self.exit.as_ref().filter(|_| !exited) {
                polled.push(PollFd::new(exit, PollFlags::IN));
            }
            match poll(&mut polled, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let mut ready = polled.iter().map(|polled| !polled.revents().is_empty());
            let mut next = |there: bool| there && ready.next().unwrap_or(false);
            let (signalled, socket_ready) = (next(true), next(with_socket));
            let (typed, exit_known) = (next(reads_stdin), next(self.exit.is_some() && !exited));
            drop(polled);
            if signalled {
                while let Some(signal) = signals.next() {
                    if heed(signal) == Heeded::Leave {
                        return Ok(End::Interrupted(signal));
                    }
                }
            }
            if socket_ready {
                if !pending.is_empty() {
                    push(socket, &mut pending)?;
                }
                if output {
                    match read(socket, &mut buffer)? {
                        Some(0) => {
                            output = false;
                            // Nobody is left to read what is typed.
                            sending = false;
                            pending.clear();
                        }
                        Some(count) => demux.feed(&buffer[..count])?,
                        None => {}
                    }
                }
            }
            if typed {
                let count = match rustix::io::read(&stdin, &mut buffer) {
                    Err(rustix::io::Errno::INTR) => continue,
                    // A terminal that has hung up reads as an error.
                    Err(_) => 0,
                    Ok(count) => count,
                };
                if count == 0 {
                    sending = false;
                    // The container sees the end of its input; it may be gone already.
                    let _ = socket.shutdown(Shutdown::Write);
                    continue;
                }
                let typed = &buffer[..count];
                let (passed, detached) = match &mut self.keys {
                    Some(keys) => keys.filter(typed),
                    None => (typed.to_vec(), false),
                };
                pending.extend_from_slice(&passed);
                push(socket, &mut pending)?;
                if detached {
                    return Ok(End::Detached);
                }
            }
            exited |= exit_known;
        }
        demux.finish()?;
        Ok(End::Finished)
    }
}

/// Reads what is there; `None` where nothing is.
fn read(mut socket: &UnixStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match socket.read(buffer) {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        // The container's side went without a goodbye: what came before is all there is.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Some(0)),
        Err(error) => Err(error),
    }
}

/// Sends as much as the socket takes.
fn push(socket: &UnixStream, pending: &mut Vec<u8>) -> io::Result<()> {
    match send(
        socket.as_fd(),
        pending,
        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
    ) {
        Ok(count) => {
            pending.drain(..count);
        }
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
        // The container is gone or has closed its input.
        Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => pending.clear(),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Takes multiplexed output apart, or passes raw output on.
#[derive(Debug)]
pub struct Demux<O, E> {
    raw: bool,
    out: O,
    error: E,
    /// The beginning of a header.
    header: Vec<u8>,
    /// The frame that is being passed on, and what is left of it.
    frame: Option<(StreamKind, u32)>,
    /// The engine's error in the stream, as far as it has come.
    failure: Vec<u8>,
}

impl<O: Write, E: Write> Demux<O, E> {
    /// Into these.
    pub fn new(raw: bool, out: O, error: E) -> Self {
        Self {
            raw,
            out,
            error,
            header: Vec::with_capacity(HEADER),
            frame: None,
            failure: Vec::new(),
        }
    }

    /// Passes `bytes` on.
    pub fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.raw {
            self.out.write_all(bytes)?;
            return self.out.flush();
        }
        while !bytes.is_empty() {
            let Some((kind, left)) = self.frame else {
                let missing = HEADER - self.header.len();
                let (head, rest) = bytes.split_at(missing.min(bytes.len()));
                self.header.extend_from_slice(head);
                bytes = rest;
                if let Ok(header) = <[u8; HEADER]>::try_from(self.header.as_slice()) {
                    let frame = stream::decode(header)
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    self.frame = Some(frame).filter(|(_, length)| *length > 0);
                    self.header.clear();
                }
                continue;
            };
            let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (content, rest) = bytes.split_at(count);
            match kind {
                StreamKind::Stdin | StreamKind::Stdout => self.out.write_all(content)?,
                StreamKind::Stderr => self.error.write_all(content)?,
                StreamKind::SystemError => self.failure.extend_from_slice(content),
            }
            bytes = rest;
            let left = left - u32::try_from(count).unwrap_or(left);
            self.frame = (left > 0).then_some((kind, left));
        }
        self.out.flush()?;
        self.error.flush()
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// What the engine reported in it.
    pub fn finish(self) -> io::Result<()> {
        if self.failure.is_empty() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&self.failure);
        Err(io::Error::other(format!(
            "error from daemon in stream: {text}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_apart_wherever_they_are_cut() {
        let mut bytes = Vec::new();
        for (kind, text) in [
            (StreamKind::Stdout, "out"),
            (StreamKind::Stderr, "error"),
            (StreamKind::Stdout, ""),
            (StreamKind::Stdout, "more"),
        ] {
            bytes.extend(stream::encode(kind, text.len() as u32));
            bytes.extend(text.bytes());
        }
        for cut in 0..bytes.len() {
            let (mut out, mut error) = (Vec::new(), Vec::new());
            let mut demux = Demux::new(false, &mut out, &mut error);
            demux.feed(&bytes[..cut]).unwrap();
            demux.feed(&bytes[cut..]).unwrap();
            demux.finish().unwrap();
            assert_eq!(
                (&*out, &*error),
                (b"outmore".as_slice(), b"error".as_slice())
            );
        }
        let mut demux = Demux::new(false, Vec::new(), Vec::new());
        assert!(demux.feed(b"garbage, not frames").is_err());
        let mut demux = Demux::new(false, Vec::new(), Vec::new());
        demux.feed(&[3, 0, 0, 0, 0, 0, 0, 2, b'n', b'o']).unwrap();
        let message = demux.finish().unwrap_err().to_string();
        assert_eq!(message, "error from daemon in stream: no");
    }
}
