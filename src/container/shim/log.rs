//! The log as the shim has it: a file that it writes itself, and children that take messages.
//!
//! A file is written at once and waits for nobody but the disk; where not even that may be, a child
//! writes it, and another one sends what goes elsewhere. To a child ([`deliver`]) messages go
//! by a socket; those that it has no room for wait in a queue. Where the queue is bounded a message
//! that would go beyond is lost (the newest, as in Docker's ring; one that is alone may be of any
//! size). Where it is not, the container's output is not read while the queue is longer than a
//! block: the container waits for its log.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use serde::Serialize;

use super::reactor::{Epoll, Token, Watch};
use super::streams::BLOCK;
use crate::container::logs::{Delivery, Remote, Sender, Splitter, Writer, deliver, encode_entry};
use crate::container::protocol::{Failure, LogTarget, Start, Stream};
use crate::sys::{fork, pidfd};
use crate::types::timestamp::Timestamp;

/// Most bytes of a reason that are listened to.
const REASON: usize = 512;

/// A log before its container starts.
#[derive(Debug)]
pub(crate) struct Opened {
    file: Option<Writer>,
    target: Option<LogTarget>,
    delivery: Delivery,
}

/// What a child is to do.
#[derive(Debug, Clone, Serialize)]
enum Plan {
    /// Write a file.
    File(LogTarget),
    /// Send.
    Remote(Remote),
}

/// A log: a file, and where it goes elsewhere the way there.
#[derive(Debug, Default)]
pub(crate) struct Log {
    file: Option<Box<Writer>>,
    /// By their numbers.
    handed: Vec<Handed>,
    /// Something was taken since the last [`Log::flush`].
    is_new: bool,
    /// Why something of that was lost.
    lost: Option<io::Error>,
}

/// The way to a child. Dropped, the child is ended.
#[derive(Debug)]
pub(crate) struct Handed {
    socket: UnixStream,
    watch: Watch,
    child: Pid,
    pidfd: OwnedFd,
    splitter: Splitter,
    /// Entries that the child has not got yet.
    queue: Vec<u8>,
    /// Most bytes of them; the container waits where there is none.
    bound: Option<usize>,
    state: Way,
}

/// How far it is with a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Nothing is to come: closed once the queue is empty.
    Ending,
    /// The child has all, and writes it.
    Ended,
    /// The child has left.
    Over,
}

fn open(target: &LogTarget) -> io::Result<Writer> {
    let writer = Writer::open(&target.path, target.format, &target.attrs)?;
    Ok(writer.rotated(target.rotation))
}

impl Opened {
    /// Opens what `start` asks for.
    pub(crate) fn of(start: &Start) -> Result<Option<Self>, Failure> {
        let target = start.log.as_ref();
        let file = target.map(|target| {
            open(target).map_err(|e| {
                Failure::own(format!("failed to open log {}: {e}", target.path.display()))
            })
        });
        let opened = Self {
            file: file.transpose()?,
            target: start.log.clone(),
            delivery: start.delivery.clone().unwrap_or_default(),
        };
        let is_kept = opened.file.is_some() || opened.delivery.remote.is_some();
        Ok(is_kept.then_some(opened))
    }

    /// Makes the children, where there are to be some.
    pub(crate) fn begin(self, task: u32) -> Result<Log, Failure> {
        let Delivery { remote, buffer } = self.delivery;
        let mut log = Log::default();
        let hand = |log: &mut Log, plan, connection| {
            // There are two at most.
            let number = log.handed.len() as u32;
            let handed = Handed::begin(Token::Log(task, number), plan, connection, buffer);
            let failed = |e| Failure::own(format!("failed to start the log's process: {e}"));
            log.handed.push(handed.map_err(failed)?);
            Ok::<_, Failure>(())
        };
        if let Some(remote) = remote {
            let connection = remote.connect().map_err(|why| {
                let what =
                    "failed to create task for container: failed to initialize logging driver";
                Failure::own(format!("{what}: {why}"))
            })?;
            hand(&mut log, Plan::Remote(remote), connection)?;
        }
        match (buffer, self.target) {
            (Some(_), Some(target)) => hand(&mut log, Plan::File(target), None)?,
            _ => log.file = self.file.map(Box::new),
        }
        Ok(log)
    }
}

impl Handed {
    fn begin(
        token: Token,
        plan: Plan,
        connection: Option<OwnedFd>,
        bound: Option<u64>,
    ) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        let mut keep = vec![OwnedFd::from(theirs)];
        keep.extend(connection);
        let parent = getpid().as_raw_nonzero().get();
        let child = fork::fork_holding(keep, (plan, parent), run)?;
        let raw = child.as_raw();
        Ok(Self {
            socket,
            watch: Watch::new(token),
            child: Pid::from_raw(raw).ok_or(io::ErrorKind::InvalidData)?,
            // A child of ours that nobody else reaps keeps its number.
            pidfd: pidfd::open(raw)?,
            splitter: Splitter::default(),
            queue: Vec::new(),
            bound: bound.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            state: Way::Open,
        })
    }

    fn take(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let (queue, bound) = (&mut self.queue, self.bound);
        self.splitter.write(stream, bytes, now, |message| {
            let room = bound.is_none_or(|bound| {
                queue.is_empty() || queue.len().saturating_add(message.line.len()) <= bound
            });
            if room {
                encode_entry(message, &[], queue);
            }
        });
        self.flush()
    }

    /// Gives the child what it takes now.
    fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        let result = loop {
            let rest = &self.queue[sent..];
            if rest.is_empty() || matches!(self.state, Way::Ended | Way::Over) {
                break Ok(());
            }
            match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(length) => sent += length,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break Ok(()),
                Err(_) => {
                    self.state = Way::Over;
                    break Err(io::Error::other("the log's process has ended"));
                }
            }
        };
        self.queue.drain(..sent);
        if self.state == Way::Over {
            self.queue.clear();
        }
        if self.queue.is_empty() {
            self.queue.shrink_to(BLOCK);
            if self.state == Way::Ending {
                let _ = self.socket.shutdown(Shutdown::Write);
                self.state = Way::Ended;
            }
        }
        result
    }

    /// Listens to the child: why something was lost.
    fn listen(&mut self) -> io::Result<()> {
        let mut reason = [0; REASON];
        match recv(&self.socket, &mut reason, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => {
                let early = self.state == Way::Open;
                self.state = Way::Over;
                self.queue.clear();
                match early {
                    true => Err(io::Error::other("the log's process has ended")),
                    false => Ok(()),
                }
            }
            Ok((_, length)) => {
                let text = String::from_utf8_lossy(&reason[..length]);
                Err(io::Error::other(text.trim_end().to_owned()))
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            Err(_) => {
                self.state = Way::Over;
                Ok(())
            }
        }
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        use rustix::process::{WaitId, WaitIdOptions, pidfd_send_signal, waitid};

        let wait = |options| {
            rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), options))
        };
        if self.state == Way::Over {
            let _ = wait(WaitIdOptions::EXITED);
            return;
        }
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        // A disk that does not answer would keep it, and the shim with it.
        let _ = wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

impl Handed {
    fn finish(&mut self, now: Timestamp) -> io::Result<()> {
        let queue = &mut self.queue;
        self.splitter
            .finish(now, |message| encode_entry(message, &[], queue));
        if self.state == Way::Open {
            self.state = Way::Ending;
        }
        self.flush()
    }

    fn ready(&mut self, flags: EventFlags) -> io::Result<()> {
        let mut result = Ok(());
        if flags.contains(EventFlags::OUT) {
            result = self.flush();
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return self.listen().and(result);
        }
        result
    }
}

impl Log {
    /// Takes output that was read at `now`. It is in the file after the next [`Log::flush`], which
    /// tells of what was lost.
    pub(crate) fn take(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) {
        let mut result = match &mut self.file {
            Some(file) => file.take(stream, bytes, now),
            None => Ok(()),
        };
        for handed in &mut self.handed {
            result = handed.take(stream, bytes, now).and(result);
        }
        self.is_new = true;
        self.lost = result.err().or(self.lost.take());
    }

    /// Writes what was taken; `None` where nothing was.
    pub(crate) fn flush(&mut self) -> Option<io::Result<()>> {
        if !std::mem::take(&mut self.is_new) {
            return None;
        }
        let result = match &mut self.file {
            Some(file) => file.flush(),
            None => Ok(()),
        };
        Some(self.lost.take().map_or(result, Err))
    }

    /// Whether the container has to wait for it.
    pub(crate) fn is_full(&self) -> bool {
        let mut handed = self.handed.iter();
        handed.any(|handed| handed.bound.is_none() && handed.queue.len() >= BLOCK)
    }

    /// The output has ended.
    pub(crate) fn finish(&mut self, now: Timestamp) -> io::Result<()> {
        let mut result = match &mut self.file {
            Some(file) => file.finish(now),
            None => Ok(()),
        };
        for handed in &mut self.handed {
            result = handed.finish(now).and(result);
        }
        result
    }

    /// Whether it holds all that it was given, after [`Log::finish`].
    pub(crate) fn is_finished(&self) -> bool {
        self.handed.iter().all(|handed| handed.state == Way::Over)
    }

    /// Something has happened at a child's end.
    pub(crate) fn ready(&mut self, number: u32, flags: EventFlags) -> io::Result<()> {
        match self.handed.get_mut(number as usize) {
            Some(handed) => handed.ready(flags),
            None => Ok(()),
        }
    }

    /// Gives back the memory that only a busy container needs.
    pub(crate) fn relax(&mut self) {
        if let Some(file) = &mut self.file {
            file.relax();
        }
        for handed in &mut self.handed {
            handed.splitter.relax();
            handed.queue.shrink_to_fit();
        }
    }

    /// Tells epoll what is wanted of the children.
    pub(crate) fn watch(&mut self, epoll: &Epoll) {
        for handed in &mut self.handed {
            let wanted = match handed.state {
                Way::Over => None,
                _ if handed.queue.is_empty() => Some(EventFlags::IN),
                _ => Some(EventFlags::IN | EventFlags::OUT),
            };
            handed.watch.set(epoll, handed.socket.as_fd(), wanted);
        }
    }

    /// The children, which are no processes of the container's.
    pub(crate) fn children(&self) -> impl Iterator<Item = i32> {
        let pid = |handed: &Handed| handed.child.as_raw_nonzero().get();
        self.handed.iter().map(pid)
    }
}

/// What a child does.
fn run(keep: Vec<OwnedFd>, (plan, parent): (Plan, i32)) -> i32 {
    let _ = rustix::thread::set_name(c"moss-log");
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let mut keep = keep.into_iter();
    let is_parent = |pid: Pid| pid.as_raw_nonzero().get() == parent;
    let Some(feed) = keep.next().filter(|_| getppid().is_some_and(is_parent)) else {
        return 0;
    };
    let sender = match &plan {
        Plan::File(target) => open(target).map(|writer| Sender::File(Box::new(writer))),
        Plan::Remote(remote) => Sender::new(remote, keep.next()),
    };
    let delivered = sender.and_then(|sender| deliver(UnixStream::from(feed), sender));
    i32::from(delivered.is_err())
}
