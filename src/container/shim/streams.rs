//! The streams of one process: its output to the log and to every attached client, their input to
//! its stdin.
//!
//! ```text
//!  stdout ─┐             ┌─▶ log                   (a file, or a queue to who delivers it)
//!          ├─▶ [buffer] ─┼─▶ client ─ queue ─▶ socket
//!  stderr ─┘             └─▶ client ─ queue ─▶ socket
//!  stdin ◀── pending ◀────── clients' input        (read only while nothing is pending)
//! ```
//!
//! Nothing here blocks. Output is read while no client that wants it has a full queue, and the log
//! has room where the container is to wait for it; input is
//! read while the process has taken all that came before. After every step [`Streams::watch`]
//! tells epoll what follows from that, so there is one place that decides who is listened to.
//!
//! What cannot be logged is lost to the log alone: clients get it, and the daemon is told once.
//!
//! How an end is passed on (all as Docker does it):
//!
//! | what ends | consequence |
//! |---|---|
//! | a client's input, `stdin_once` or exec, no terminal | the process's stdin is closed |
//! | a client's input otherwise | that client's attachment ends |
//! | the process closes its stdin | further input is read and dropped |
//! | the process's output | nothing, until the process itself has ended |
//! | the process, and its output | every client gets what it is owed, then its socket is closed |

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::termios::{Winsize, tcsetwinsize};

use super::attached::{Client, Input};
use super::log::Log;
use super::reactor::{Epoll, Token, Watch};
use crate::container::protocol::{Attach, Stream};
use crate::types::timestamp::Timestamp;

/// Bytes read at once: a pipe's capacity.
pub(crate) const BLOCK: usize = 64 * 1024;
/// Blocks read from one stream before the others get their turn.
const TURN: usize = 8;
/// What a pipe holds at most, as long as nobody has raised `fs.pipe-max-size`.
const PIPE_MAX: u64 = 1024 * 1024;

/// The shim's ends of a process's streams.
#[derive(Debug)]
pub(crate) struct Ends {
    /// Write end of stdin, if it is open.
    pub(crate) stdin: Option<OwnedFd>,
    /// Read end of stdout, or the terminal.
    pub(crate) stdout: OwnedFd,
    /// Read end of stderr; a terminal has none of its own.
    pub(crate) stderr: Option<OwnedFd>,
    /// The terminal, for its size.
    pub(crate) console: Option<OwnedFd>,
}

/// What the shim must hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    /// Nothing of interest.
    Nothing,
    /// A client left by its detach keys.
    Detached,
}

/// One process's streams.
#[derive(Debug)]
pub(crate) struct Streams {
    task: u32,
    /// The first client's end of input closes stdin.
    stdin_once: bool,
    outputs: Vec<Output>,
    stdin: Option<Stdin>,
    console: Option<OwnedFd>,
    clients: BTreeMap<u32, Client>,
    next_client: u32,
    log: Option<Log>,
    log_state: LogState,
}

/// Whether the log takes what it is given.
#[derive(Debug, Default)]
struct LogState {
    failing: bool,
    /// Why, until somebody has been told.
    untold: Option<String>,
}

impl LogState {
    fn note(&mut self, written: &io::Result<()>) {
        if let Err(error) = written
            && !self.failing
        {
            self.untold = Some(error.to_string());
        }
        self.failing = written.is_err();
    }
}

#[derive(Debug)]
struct Output {
    stream: Stream,
    fd: OwnedFd,
    watch: Watch,
    /// Its end was read.
    closed: bool,
}

#[derive(Debug)]
struct Stdin {
    fd: OwnedFd,
    watch: Watch,
    /// Input that the process has not taken yet.
    pending: Vec<u8>,
    /// Closed once nothing is pending.
    ending: bool,
}

impl Streams {
    /// Takes over the ends; all become non-blocking.
    pub(crate) fn new(task: u32, ends: Ends, stdin_once: bool, log: Option<Log>) -> Self {
        let mut outputs = vec![Output {
            stream: Stream::Stdout,
            fd: ends.stdout,
            watch: Watch::new(Token::Stdout(task)),
            closed: false,
        }];
        outputs.extend(ends.stderr.map(|fd| Output {
            stream: Stream::Stderr,
            fd,
            watch: Watch::new(Token::Stderr(task)),
            closed: false,
        }));
        let stdin = ends.stdin.map(|fd| Stdin {
            fd,
            watch: Watch::new(Token::Stdin(task)),
            pending: Vec::new(),
            ending: false,
        });
        for fd in outputs
            .iter()
            .map(|o| &o.fd)
            .chain(stdin.iter().map(|s| &s.fd))
        {
            // The file description is ours alone: the process has the other end.
            let _ = rustix::io::ioctl_fionbio(fd, true);
        }
        Self {
            task,
            stdin_once,
            outputs,
            stdin,
            console: ends.console,
            clients: BTreeMap::new(),
            next_client: 0,
            log,
            log_state: LogState::default(),
        }
    }

    /// Adds a client; output from now on is its.
    pub(crate) fn attach(&mut self, attach: Attach, fd: OwnedFd) -> Happened {
        let number = self.next_client;
        self.next_client += 1;
        let token = Token::Client(self.task, number);
        let mut client = Client::new(token, attach, fd, self.console.is_some());
        let early = client.early();
        self.clients.insert(number, client);
        self.input(number, early)
    }

    /// Handles an event of one of this task's descriptors.
    pub(crate) fn ready(&mut self, token: Token, flags: EventFlags, buffer: &mut [u8]) -> Happened {
        match token {
            Token::Stdout(_) => self.pump(Stream::Stdout, buffer),
            Token::Stderr(_) => self.pump(Stream::Stderr, buffer),
            Token::Stdin(_) => self.feed(),
            Token::Client(_, number) => return self.client(number, flags, buffer),
            Token::Log(_, child) => {
                if let Some(log) = &mut self.log {
                    self.log_state.note(&log.ready(child, flags));
                }
            }
            _ => {}
        }
        Happened::Nothing
    }

    fn client(&mut self, number: u32, flags: EventFlags, buffer: &mut [u8]) -> Happened {
        let Some(client) = self.clients.get_mut(&number) else {
            return Happened::Nothing;
        };
        if flags.contains(EventFlags::OUT) {
            client.flush();
        }
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            // What it sent before is still there to be read.
            client.hang_up();
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR)
            || !takes_input(self.stdin.as_ref())
        {
            return Happened::Nothing;
        }
        let input = client.receive(buffer);
        self.input(number, input)
    }

    fn input(&mut self, number: u32, input: Input) -> Happened {
        let (bytes, detached) = match input {
            Input::Nothing => return Happened::Nothing,
            Input::End => {
                self.input_ended(number);
                return Happened::Nothing;
            }
            Input::Bytes(bytes) => (bytes, false),
            Input::Detached(bytes) => (bytes, true),
        };
        if let Some(stdin) = self.stdin.as_mut().filter(|stdin| !stdin.ending) {
            stdin.pending.extend_from_slice(&bytes);
            self.feed();
        }
        if !detached {
            return Happened::Nothing;
        }
        if let Some(client) = self.clients.get_mut(&number) {
            client.finish();
        }
        Happened::Detached
    }

    fn input_ended(&mut self, number: u32) {
        if self.stdin_once && self.console.is_none() {
            if let Some(stdin) = &mut self.stdin {
                stdin.ending = true;
            }
            self.feed();
        } else if let Some(client) = self.clients.get_mut(&number) {
            client.finish();
        }
    }

    /// Gives pending input to the process.
    fn feed(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        let mut given = 0;
        while given < stdin.pending.len() {
            match rustix::io::write(&stdin.fd, &stdin.pending[given..]) {
                Ok(n) => given += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => {
                    // The process has closed its stdin. A terminal stays: its output counts.
                    stdin.pending.clear();
                    stdin.ending = true;
                    return;
                }
            }
        }
        stdin.pending.drain(..given);
        if stdin.pending.is_empty() {
            stdin.pending = Vec::new();
        }
    }

    /// Reads one stream's output while there is some and every client has room.
    fn pump(&mut self, stream: Stream, buffer: &mut [u8]) {
        for _ in 0..TURN {
            if self.is_stalled(stream) || self.read(stream, buffer) == 0 {
                break;
            }
        }
        self.flush_log();
    }

    /// What was read goes to the log's file together: a turn's blocks are few writes.
    fn flush_log(&mut self) {
        if let Some(flushed) = self.log.as_mut().and_then(Log::flush) {
            self.log_state.note(&flushed);
        }
    }

    fn is_stalled(&self, stream: Stream) -> bool {
        let mut clients = self.clients.values();
        clients.any(|client| client.wants(stream) && client.is_full())
            || self.log.as_ref().is_some_and(Log::is_full)
    }

    /// Reads one block and returns its length; 0 when there is nothing to read now, or ever again.
    fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> usize {
        let Some(at) = self
            .outputs
            .iter()
            .position(|output| output.stream == stream)
        else {
            return 0;
        };
        let fd = &self.outputs[at].fd;
        match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *buffer)) {
            Err(rustix::io::Errno::AGAIN) => return 0,
            Ok(n @ 1..) => {
                self.deliver(stream, &buffer[..n]);
                return n;
            }
            // A terminal says EIO when its last other end is closed.
            Ok(0) | Err(_) => {}
        }
        self.outputs[at].closed = true;
        0
    }

    fn deliver(&mut self, stream: Stream, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            // A full disk costs records (the file stays whole); the container goes on, as it does
            // under Docker.
            log.take(stream, bytes, Timestamp::now());
        }
        if self.clients.values().any(|client| client.wants(stream)) {
            // Who has seen output finds it in the log.
            self.flush_log();
        }
        for client in self
            .clients
            .values_mut()
            .filter(|client| client.wants(stream))
        {
            client.send(stream, bytes);
        }
    }

    /// Reads what output of the ended process the kernel still holds, also for clients that are
    /// behind. No more than that: a descendant may go on writing as fast as this reads. True if
    /// more may still come.
    pub(crate) fn drain(&mut self, buffer: &mut [u8]) -> bool {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let output = self.outputs.iter().find(|output| output.stream == stream);
            let held = output.and_then(|output| rustix::io::ioctl_fionread(&output.fd).ok());
            let mut left = held.unwrap_or(0).max(PIPE_MAX);
            while left > 0 {
                match self.read(stream, buffer) {
                    0 => break,
                    length => left = left.saturating_sub(length as u64),
                }
            }
        }
        self.flush_log();
        self.outputs.iter().any(|output| !output.closed)
    }

    /// Whether all output has ended.
    pub(crate) fn is_ended(&self) -> bool {
        self.outputs.iter().all(|output| output.closed)
    }

    /// Stops reading output and taking input, and completes the log. Clients stay.
    pub(crate) fn end(&mut self, epoll: &Epoll) {
        for mut output in std::mem::take(&mut self.outputs) {
            output.watch.set(epoll, output.fd.as_fd(), None);
        }
        if let Some(mut stdin) = self.stdin.take() {
            stdin.watch.set(epoll, stdin.fd.as_fd(), None);
        }
        self.console = None;
        if let Some(log) = &mut self.log {
            self.log_state.note(&log.finish(Timestamp::now()));
        }
    }

    /// Whether the log holds all of the output that has ended.
    pub(crate) fn is_logged(&self) -> bool {
        self.log.as_ref().is_none_or(Log::is_finished)
    }

    /// Waits no more for what is left of the log.
    pub(crate) fn close_log(&mut self, epoll: &Epoll) {
        if let Some(mut log) = self.log.take() {
            if !log.is_finished() {
                let why = io::Error::from(io::ErrorKind::TimedOut);
                self.log_state.note(&Err(why));
            }
            log.watch(epoll);
        }
    }

    /// The processes that the log was handed to.
    pub(crate) fn log_processes(&self) -> impl Iterator<Item = i32> {
        self.log.iter().flat_map(Log::children)
    }

    /// Why the log misses output, once for a row of failures.
    pub(crate) fn log_failure(&mut self) -> Option<String> {
        self.log_state.untold.take()
    }

    /// Lets every client go once it has what it is owed.
    pub(crate) fn dismiss(&mut self) {
        for client in self.clients.values_mut() {
            client.finish();
        }
    }

    /// Whether any client is attached.
    pub(crate) fn has_clients(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Sets the terminal's size; false where there is no terminal.
    pub(crate) fn resize(&self, rows: u16, cols: u16) -> bool {
        let size = Winsize {
            ws_row: rows,
            ws_col: cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        self.console
            .as_ref()
            .is_some_and(|console| tcsetwinsize(console, size).is_ok())
    }

    /// Gives back the memory that only a busy container needs.
    pub(crate) fn relax(&mut self) {
        if let Some(log) = &mut self.log {
            log.relax();
        }
    }

    /// Closes what is done with, and tells epoll what is wanted of the rest.
    pub(crate) fn watch(&mut self, epoll: &Epoll) {
        if let Some(stdin) = &mut self.stdin {
            let wanted = (!stdin.pending.is_empty()).then_some(EventFlags::OUT);
            stdin.watch.set(epoll, stdin.fd.as_fd(), wanted);
            if stdin.ending && stdin.pending.is_empty() {
                self.stdin = None;
            }
        }
        let done: Vec<u32> = self
            .clients
            .iter()
            .filter(|(_, c)| c.is_done())
            .map(|(n, _)| *n)
            .collect();
        for number in done {
            if let Some(client) = self.clients.remove(&number) {
                client.close(epoll);
            }
        }
        let input = takes_input(self.stdin.as_ref());
        for client in self.clients.values_mut() {
            client.watch(epoll, input);
        }
        if let Some(log) = &mut self.log {
            log.watch(epoll);
        }
        for at in 0..self.outputs.len() {
            let stalled = self.is_stalled(self.outputs[at].stream);
            let output = &mut self.outputs[at];
            let wanted = (!output.closed && !stalled).then_some(EventFlags::IN);
            output.watch.set(epoll, output.fd.as_fd(), wanted);
        }
    }
}

/// Whether clients' input is read: always, except while some is pending.
fn takes_input(stdin: Option<&Stdin>) -> bool {
    stdin.is_none_or(|stdin| stdin.pending.is_empty())
}
