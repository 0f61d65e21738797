//! The shim's event loop: requests in, exits and answers out.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::epoll::EventFlags;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};

use super::attached::Client;
use super::daemons::Daemons;
use super::orphans;
use super::prepared::{Prepared, Staged};
use super::reactor::{Epoll, Token, Watch};
use super::start::{Launched, Starter, ends};
use super::streams::{BLOCK, Happened, Streams};
use super::{ACKNOWLEDGEMENT, IDLE, OUTPUT_AFTER_EXEC, OUTPUT_AFTER_EXIT};
use crate::container::packet::Packet;
use crate::container::protocol::{
    Attach, Envelope, Exit, Failure, Message, Reply, Request, ShimState, Start, Started, VERSION,
    mismatch,
};
use crate::sys::{heap, signal, text};
use crate::types::timestamp::Timestamp;
use crate::userns::keeper::ShimIdentity;
use crate::userns::plan::{Namespace, Process, ProcessIdentity};

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
            State::Draining { until, .. } | State::Unseen { until } => Some(until),
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

    fn exec(
        &mut self,
        id: String,
        process: &Process,
        client: Option<(Attach, OwnedFd)>,
    ) -> Result<Reply, Failure> {
        let Some(first) = self
            .tasks
            .get(&FIRST)
            .filter(|task| task.state == State::Running)
        else {
            return Err(refused(client, Failure::own("container is not running")));
        };
        let init = ProcessIdentity {
            pid: first.started.pid,
            start_time: first.started.start_time,
        };
        let with_stdin = client.as_ref().is_some_and(|(attach, _)| attach.stdin);
        let launched = ends(process.terminal, with_stdin).and_then(|(stdio, ends)| {
            let mut launched = self
                .starter
                .exec(process, init, first.pidfd.as_fd(), stdio)?;
            let console = launched.running.console.take();
            let ends = ends
                .complete(console, with_stdin)
                .inspect_err(|_| launched.abandon())?;
            Ok((ends, launched))
        });
        let (ends, launched) = match launched {
            Ok(launched) => launched,
            Err(failure) => return Err(refused(client, failure)),
        };
        let streams = Streams::new(self.next_task, ends, true, None);
        Ok(self.add(Some(id), launched, streams, client.into_iter().collect()))
    }

    /// Takes over a process that runs, and makes the answer that says so.
    fn add(
        &mut self,
        exec: Option<String>,
        launched: Launched,
        mut streams: Streams,
        clients: Vec<(Attach, OwnedFd)>,
    ) -> Reply {
        let number = self.next_task;
        self.next_task += 1;
        let started = launched.started();
        let Launched {
            running, phases, ..
        } = launched;
        let notes = running.notes;
        let pidfd = running.pidfd;
        let mut watch = Watch::new(Token::Exit(number));
        watch.set(&self.epoll, pidfd.as_fd(), Some(EventFlags::IN));
        for (attach, fd) in clients {
            if streams.attach(attach, fd) == Happened::Detached {
                self.daemons
                    .send_all(&self.epoll, &Message::Detached { exec: exec.clone() });
            }
        }
        let state = State::Running;
        self.tasks.insert(
            number,
            Task {
                exec,
                started,
                pidfd,
                watch,
                streams,
                state,
            },
        );
        Reply::Started {
            started,
            phases,
            notes,
        }
    }

    fn attach(&mut self, attach: Attach, fd: OwnedFd) -> Reply {
        if self.container.is_none() {
            self.early.push((attach, fd));
            return Reply::Ok;
        }
        // Where the container has just ended the client sees an end, not an error.
        let first = self.tasks.get_mut(&FIRST);
        let first = first.filter(|task| !matches!(task.state, State::Over));
        let happened = first.map(|task| task.streams.attach(attach, fd));
        if happened == Some(Happened::Detached) {
            self.daemons
                .send_all(&self.epoll, &Message::Detached { exec: None });
        }
        Reply::Ok
    }

    fn kill(&self, number: i32) -> Reply {
        let running = self
            .tasks
            .get(&FIRST)
            .filter(|task| task.state == State::Running);
        let Some(task) = running else {
            return Reply::Failed(Failure::own("process already finished"));
        };
        match signal::send(task.pidfd.as_fd(), number) {
            Ok(()) => Reply::Ok,
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {
                Reply::Failed(Failure::own("process already finished"))
            }
            Err(e) => Reply::Failed(Failure::own(format!("cannot send signal {number}: {e}"))),
        }
    }

    fn resize(&self, exec: Option<&str>, rows: u16, cols: u16) -> Reply {
        let mut tasks = self.tasks.values();
        match tasks.find(|task| task.exec.as_deref() == exec) {
            Some(task) if task.streams.resize(rows, cols) => Reply::Ok,
            Some(_) => Reply::Failed(Failure::own("the process has no terminal")),
            None => Reply::Failed(Failure::own("the process has ended")),
        }
    }

    fn exec_seen(&mut self, id: &str) {
        for task in self
            .tasks
            .values_mut()
            .filter(|task| task.exec.as_deref() == Some(id))
        {
            if let State::Unseen { until } = &mut task.state {
                *until = Instant::now();
            }
        }
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

    /// A task's pidfd is readable: its process is a zombie.
    fn ended(&mut self, number: u32) {
        let lost = self.lost_server().filter(|_| number == FIRST);
        let Some(task) = self.tasks.get_mut(&number) else {
            return;
        };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status =
            rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(task.pidfd.as_fd()), options));
        let code = match status {
            Ok(None) => return,
            Ok(Some(status)) => exit_code(&status),
            // Not our child any more: only a tracer of this shim could have taken it.
            Err(_) => 255,
        };
        task.watch.set(&self.epoll, task.pidfd.as_fd(), None);
        let exit = Exit {
            // Whatever it died of first: a page that could not be read gives SIGBUS.
            code: lost.map_or(code, |_| KILLED),
            oom_killed: false,
            lost_server: lost,
            at: Timestamp::now().nanos(),
        };
        self.buffer.resize(BLOCK, 0);
        let more = task.streams.drain(&mut self.buffer);
        let own_pids = self
            .container
            .as_ref()
            .is_none_or(|container| container.own_pids);
        let wait = match &task.exec {
            _ if !more => Duration::ZERO,
            Some(_) => OUTPUT_AFTER_EXEC,
            None if own_pids => Duration::ZERO,
            None => OUTPUT_AFTER_EXIT,
        };
        task.state = State::Draining {
            exit,
            until: Instant::now() + wait,
        };
        if number == FIRST && !own_pids {
            // Without a pid namespace of its own nothing ends the others with the container.
            for session in self
                .tasks
                .values()
                .filter(|task| task.state == State::Running)
            {
                let _ = signal::send(session.pidfd.as_fd(), libc::SIGKILL);
            }
            orphans::end(&self.pids());
        }
    }

    /// Takes every task as far as it can go now, and tells epoll what is wanted.
    fn settle(&mut self) {
        let now = Instant::now();
        let numbers: Vec<u32> = self.tasks.keys().copied().collect();
        for number in numbers {
            if let Some(task) = self.tasks.get_mut(&number) {
                if let State::Draining { exit, until } = task.state
                    && (task.streams.is_ended() || until <= now)
                {
                    task.streams.end(&self.epoll);
                    task.state = match &task.exec {
                        Some(id) => {
                            let message = Message::ExecExited {
                                id: id.clone(),
                                code: exit.code,
                            };
                            self.daemons.send_all(&self.epoll, &message);
                            let wait = if self.daemons.is_empty() || !task.streams.has_clients() {
                                Duration::ZERO
                            } else {
                                ACKNOWLEDGEMENT
                            };
                            State::Unseen { until: now + wait }
                        }
                        None => {
                            if let Some(container) = &mut self.container {
                                // A full disk: a connected daemon hears of it all the same.
                                let _ = write_exit(&container.exit_file, &exit);
                                container.exit = Some(exit);
                            }
                            self.daemons.send_all(&self.epoll, &Message::Exited(exit));
                            task.streams.dismiss();
                            State::Over
                        }
                    };
                }
                if let State::Unseen { until } = task.state
                    && (until <= now || self.daemons.is_empty())
                {
                    task.streams.dismiss();
                    task.state = State::Over;
                }
                // Where no daemon is connected the next one is told.
                if !self.daemons.is_empty()
                    && let Some(reason) = task.streams.log_failure()
                {
                    self.daemons
                        .send_all(&self.epoll, &Message::LogFailed { reason });
                }
                task.streams.watch(&self.epoll);
                if task.state == State::Over && !task.streams.has_clients() {
                    self.tasks.remove(&number);
                }
            }
        }
        if let Some(container) = &self.container {
            if container.exit.is_some() && (self.released || self.daemons.is_empty()) {
                self.starter.ended();
            }
            if !container.own_pids {
                orphans::reap(&self.pids());
            }
        }
    }

    fn pids(&self) -> Vec<i32> {
        self.tasks.values().map(|task| task.started.pid).collect()
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

/// Tells the client of an exec session that could not be started, in Docker's manner.
fn refused(client: Option<(Attach, OwnedFd)>, failure: Failure) -> Failure {
    if let Some((attach, fd)) = client {
        let attach = Attach {
            stdin: false,
            stdout: true,
            early: Vec::new(),
            ..attach
        };
        let text = format!("{}\r\n", failure.message);
        Client::last_words(attach, fd, text.as_bytes());
    }
    failure
}

fn exit_code(status: &WaitIdStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}

/// Writes the exit file so that it is there whole or not at all. It is not synced: after a crash
/// of the host the container has ended in any case, with 255.
fn write_exit(path: &Path, exit: &Exit) -> io::Result<()> {
    let temporary = path.with_extension("new");
    std::fs::File::create(&temporary)?.write_all(&serde_json::to_vec(exit)?)?;
    std::fs::rename(temporary, path)
}
