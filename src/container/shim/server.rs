//! The shim's event loop: requests in, exits and answers out.

mod tasks;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::epoll::EventFlags;

use super::IDLE;
use super::daemons::Daemons;
use super::prepared::{Prepared, Staged};
use super::reactor::{Epoll, Token, Watch};
use super::start::Starter;
use super::streams::{BLOCK, Happened, Streams};
use crate::container::packet::Packet;
use crate::container::protocol::{
    Attach, EXIT, Envelope, Exit, Failure, Message, Reply, Request, ShimState, Start, Started,
    VERSION, mismatch,
};
use crate::sys::{heap, signal, text};
use crate::userns::keeper::ShimIdentity;
use crate::userns::plan::Namespace;

/// Number of the first process's task.
const FIRST: u32 = 0;

/// Exit code of what SIGKILL ended.
const KILLED: i32 = 128 + libc::SIGKILL;

/// One container's shim.
#[derive(Debug)]
pub(crate) struct Shim<S: Starter> {
    starter: S,
    epoll: Epoll,
    signals: SignalFd,
    server: Watch,
    daemons: Daemons,
    leash: Option<OwnedFd>,
    /// Clients that attached before the start.
    early: Vec<(Attach, OwnedFd)>,
    prepared: Option<Prepared<S::Ready>>,
    container: Option<Container>,
    tasks: BTreeMap<u32, Task>,
    next_task: u32,
    released: bool,
    /// Read buffer; empty while idle.
    buffer: Vec<u8>,
}

/// What stays known of the container after its start.
#[derive(Debug)]
struct Container {
    runtime_dir: PathBuf,
    exit_file: PathBuf,
    /// Its first process's end is the end of every other in it.
    own_pids: bool,
    started: Started,
    exit: Option<Exit>,
}

impl Container {
    /// Writes the exit down where a later daemon looks for it. That may fail everywhere: a connected
    /// daemon hears of it all the same.
    fn end(&mut self, exit: Exit) {
        let _ = write_exit(&self.exit_file, &exit)
            .or_else(|_| write_exit(&self.runtime_dir.join(EXIT), &exit));
        self.exit = Some(exit);
    }
}

/// One process and its streams.
#[derive(Debug)]
struct Task {
    /// Id of the exec session; the first process has none.
    exec: Option<String>,
    started: Started,
    pidfd: OwnedFd,
    watch: Watch,
    streams: Streams,
    state: State,
}

/// How far a task has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// The process has ended; its output may not have. After `until` it is not waited for.
    Draining {
        exit: Exit,
        until: Instant,
    },
    /// The output has ended, and the log has yet to hold all of it.
    Logging {
        exit: Exit,
        until: Instant,
    },
    /// A daemon has yet to acknowledge the end of an exec session.
    Unseen {
        until: Instant,
    },
    /// Only clients that are behind are left.
    Over,
}

impl<S: Starter> Shim<S> {
    /// Takes over the connection to the daemon. All signals are blocked from here on.
    pub(crate) fn new(starter: S, conn: OwnedFd, leash: Option<OwnedFd>) -> io::Result<Self> {
        SigSet::all().thread_block()?;
        let mut wanted = SigSet::empty();
        wanted.add(Signal::SIGUSR1);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&wanted, flags)?;
        let epoll = Epoll::new()?;
        Watch::new(Token::Signal).set(&epoll, signals.as_fd(), Some(EventFlags::IN));
        let mut daemons = Daemons::default();
        daemons.add(&epoll, conn);
        Ok(Self {
            starter,
            epoll,
            signals,
            server: Watch::new(Token::Server),
            daemons,
            leash,
            early: Vec::new(),
            prepared: None,
            container: None,
            tasks: BTreeMap::new(),
            next_task: FIRST,
            released: false,
            buffer: Vec::new(),
        })
    }

    /// Serves until the container is gone and nobody needs anything of it.
    pub(crate) fn serve(&mut self) -> io::Result<()> {
        // What parsing the start request took is given back as soon as there is nothing to do.
        let mut busy = true;
        while !self.may_leave() {
            let mut limit = self.deadline();
            if limit.is_none() && busy {
                limit = Some(IDLE);
            }
            let events = self.epoll.wait(limit)?;
            if events.is_empty() && self.deadline().is_none() && busy {
                self.relax();
                busy = false;
            }
            busy |= !events.is_empty();
            for (token, flags) in events {
                self.handle(token, flags);
            }
            self.settle();
        }
        self.daemons.stop_listening();
        self.starter.release();
        Ok(())
    }

    fn may_leave(&self) -> bool {
        let needed = match &self.container {
            Some(container) => container.exit.is_none(),
            None => false,
        };
        let lapsed = |prepared: &Prepared<_>| prepared.until() <= Instant::now();
        let wanted = !self.released && !self.prepared.as_ref().is_some_and(lapsed);
        !needed && self.tasks.is_empty() && (self.daemons.is_empty() || !wanted)
    }

    /// How long nothing needs to be done unless something happens.
    fn deadline(&self) -> Option<Duration> {
        let now = Instant::now();
        let until = self.tasks.values().filter_map(|task| match task.state {
            State::Draining { until, .. }
            | State::Logging { until, .. }
            | State::Unseen { until } => Some(until),
            State::Running | State::Over => None,
        });
        until
            .chain(self.prepared.iter().map(Prepared::until))
            .min()
            .map(|until| until.saturating_duration_since(now))
    }

    /// Gives back the memory that only a busy shim needs.
    fn relax(&mut self) {
        self.buffer = Vec::new();
        for task in self.tasks.values_mut() {
            task.streams.relax();
        }
        heap::trim();
        text::forget();
    }

    fn handle(&mut self, token: Token, flags: EventFlags) {
        match token {
            Token::Signal => self.signalled(),
            Token::Listener => self.daemons.accept(&self.epoll),
            Token::Daemon(number) => {
                if let Some((envelope, fds)) = self.daemons.ready(&self.epoll, number, flags) {
                    self.request(number, envelope, fds);
                }
            }
            Token::Exit(number) => self.ended(number),
            Token::Server => self.unserved(),
            Token::Stdout(number)
            | Token::Stderr(number)
            | Token::Stdin(number)
            | Token::Log(number, _)
            | Token::Client(number, _) => {
                self.buffer.resize(BLOCK, 0);
                let Some(task) = self.tasks.get_mut(&number) else {
                    return;
                };
                if task.streams.ready(token, flags, &mut self.buffer) == Happened::Detached {
                    let message = Message::Detached {
                        exec: task.exec.clone(),
                    };
                    self.daemons.send_all(&self.epoll, &message);
                }
            }
        }
    }

    fn signalled(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {
            if let Some(container) = self.container.as_ref().filter(|_| !self.released) {
                // Nobody to tell: the daemon that sent the signal sees that there is no socket.
                let _ = self.daemons.listen(&self.epoll, &container.runtime_dir);
            }
        }
    }

    fn request(&mut self, daemon: u32, envelope: Envelope, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        let reply = match envelope.request {
            Request::Hello { version } => match mismatch(VERSION, version) {
                Some(reason) => Reply::Failed(Failure::own(reason)),
                None => Reply::State(self.state()),
            },
            Request::Prepare(start) => self.prepare(*start),
            Request::Start { attach } => {
                self.early.extend(attach.into_iter().zip(fds));
                self.start().unwrap_or_else(Reply::Failed)
            }
            Request::Attach(attach) => match fds.next() {
                Some(fd) => self.attach(attach, fd),
                None => Reply::Failed(Failure::own("no connection came with the request")),
            },
            Request::Kill { signal } => self.kill(signal),
            Request::Resize { exec, rows, cols } => self.resize(exec.as_deref(), rows, cols),
            Request::Exec {
                id,
                process,
                attach,
            } => {
                let client = attach.zip(fds.next());
                self.exec(id, &process, client)
                    .unwrap_or_else(Reply::Failed)
            }
            Request::ExecSeen { id } => return self.exec_seen(&id),
            Request::Release => {
                self.released = true;
                // Whoever finds it listening may take it for one that is needed.
                self.daemons.stop_listening();
                return;
            }
        };
        self.daemons.send(
            &self.epoll,
            daemon,
            &Message::Reply {
                seq: envelope.seq,
                reply,
            },
        );
    }

    fn state(&self) -> ShimState {
        let execs = self
            .tasks
            .values()
            .filter(|task| task.state == State::Running);
        ShimState {
            version: VERSION,
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            running: self.container.as_ref().map(|container| container.started),
            exit: self.container.as_ref().and_then(|container| container.exit),
            execs: execs
                .filter_map(|task| Some((task.exec.clone()?, task.started.pid)))
                .collect(),
        }
    }

    fn prepare(&mut self, start: Start) -> Reply {
        if self.container.is_some() || self.prepared.is_some() {
            return Reply::Failed(Failure::own("the container has been started already"));
        }
        let prepared = Prepared::new(&mut self.starter, start);
        if let Some(server) = self.starter.server() {
            self.server
                .set(&self.epoll, server.as_fd(), Some(EventFlags::IN));
        }
        let reply = prepared.reply();
        self.prepared = Some(prepared);
        reply
    }

    fn start(&mut self) -> Result<Reply, Failure> {
        let prepared = self.prepared.take();
        let prepared = prepared.ok_or_else(|| Failure::own("no container is prepared"))?;
        let staged = prepared.outcome()?;
        let identity = staged.start.identity_file.clone();
        ShimIdentity::write_own(&identity)
            .map_err(|e| Failure::own(format!("failed to write {}: {e}", identity.display())))?;
        self.launch(staged).inspect_err(|_| {
            // Left behind, it would hold off another start until this process has ended.
            let _ = std::fs::remove_file(&identity);
        })
    }

    fn launch(&mut self, staged: Staged<S::Ready>) -> Result<Reply, Failure> {
        let Staged {
            start,
            ready,
            ends,
            log,
        } = staged;
        // Before the start: what fails now leaves nothing behind.
        let log = log.map(|log| log.begin(FIRST)).transpose()?;
        self.daemons
            .listen(&self.epoll, &start.runtime_dir)
            .map_err(|e| {
                Failure::own(format!(
                    "failed to listen in {}: {e}",
                    start.runtime_dir.display()
                ))
            })?;
        // Where nobody would end it with this process it must not run at all.
        if let (Some(leash), Some(first)) = (&self.leash, S::process(&ready)) {
            leashed(leash, first)?;
        }
        let mut launched = self.starter.start(ready)?;
        let console = launched.running.console.take();
        let ends = ends
            .complete(console, start.open_stdin)
            .inspect_err(|_| launched.abandon())?;
        let streams = Streams::new(FIRST, ends, start.stdin_once, log);
        self.container = Some(Container {
            runtime_dir: start.runtime_dir,
            exit_file: start.exit_file,
            own_pids: start.plan.namespaces.pid == Namespace::New,
            started: launched.started(),
            exit: None,
        });
        let clients = std::mem::take(&mut self.early);
        Ok(self.add(None, launched, streams, clients))
    }

    /// The root filesystem's server has ended, and the container without it can only fail: it is
    /// ended, too.
    fn unserved(&mut self) {
        if let Some(server) = self.starter.server() {
            self.server.set(&self.epoll, server.as_fd(), None);
        }
        let tasks = self.tasks.values();
        for task in tasks.filter(|task| task.state == State::Running) {
            let _ = signal::send(task.pidfd.as_fd(), libc::SIGKILL);
        }
    }

    /// The root filesystem's server, where it ended before the container did.
    fn lost_server(&self) -> Option<i32> {
        let server = self.starter.server()?;
        server.has_ended().then(|| server.pid())
    }
}

/// Sends a pidfd to the keeper, which kills its process when this one ends.
fn leashed(leash: &OwnedFd, pidfd: BorrowedFd<'_>) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::own(format!("the keeper is not reachable: {e}"));
    let pidfd = pidfd.try_clone_to_owned().map_err(failed)?;
    Packet::new(&"init", vec![pidfd])
        .and_then(|packet| packet.send(leash.as_fd()))
        .map_err(failed)
}

/// Writes the exit file so that it is there whole or not at all. It is not synced: after a crash
/// of the host the container has ended in any case, with 255.
fn write_exit(path: &Path, exit: &Exit) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let bytes = serde_json::to_vec(exit)?;
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path))
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary);
        })
}
