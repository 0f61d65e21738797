//! The keeper itself: one thread, one poll loop.
//!
//! Polled are the listening socket, a signalfd (SIGCHLD, SIGHUP), the daemons' connections, and
//! each shim's *leash*: a socket over which the shim sends pidfds of processes that must not
//! outlive it, the container's init first of all. When the shim ends they are killed
//! (`PR_SET_PDEATHSIG` does the same at once, but a container may clear it).
//!
//! The keeper is the subreaper of what it forks: a dead shim's children come to it and are reaped
//! here, rather than by a pid 1 that may not care (`sleep` in a CI container).
//!
//! It holds the namespaces of networks, which would otherwise go with the daemon that made them.
//!
//! SIGHUP makes the socket and `keeper.json` anew, where logind has deleted the runtime directory.
//!
//! **Upgrade.** The state becomes JSON in a memfd, every descriptor that it names loses
//! close-on-exec, and the new program is executed in place: same pid, same children.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::super::idmap::IdMap;
use super::identity::Identity;
use super::protocol::{Build, MAX_MESSAGE, Order, Reply, Request, Status, VERSION};
use super::setup::{self, Report};
use super::slirp;
use crate::sys::{fdpass, fork, paths, pidfd, prctl};

/// Names the socket in the exec root.
pub(super) const SOCKET: &str = "keeper.sock";

/// Names the lock in the exec root that orders starting and leaving keepers.
pub(super) const LOCK: &str = "keeper.lock";

/// What a forked shim runs, given by `main`: its connection to the daemon and its leash. The
/// result is its exit status.
pub type Shim = fn([OwnedFd; 2]) -> i32;

/// What the forked slirp runs, given by `main`: its link. The result is its exit status.
pub type Slirp = fn([OwnedFd; 1]) -> i32;

/// What the keeper's children run.
#[derive(Debug, Clone, Copy)]
pub struct Roles {
    /// A container's shim.
    pub shim: Shim,
    /// The networks' process.
    pub slirp: Slirp,
}

/// A request and its answer's length fit easily; a status reply is the longest message.
const MAX_REQUEST: usize = 4 << 10;

/// What crosses exec, at the start and at each upgrade. Grows only by fields with defaults.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub(super) exec_root: PathBuf,
    data_root: Option<PathBuf>,
    build: String,
    maps: Option<IdMap>,
    grace_ms: u64,
    forked: u64,
    /// None: this is the first start, and standard output awaits a [`Report`].
    listener: Option<RawFd>,
    connections: Vec<RawFd>,
    /// The connection, by its place above, that asked for the upgrade.
    asker: Option<usize>,
    shims: Vec<ShimState>,
    networks: Vec<(String, RawFd)>,
}

/// A shim as it crosses exec.
#[derive(Debug, Serialize, Deserialize)]
struct ShimState {
    pid: i32,
    leash: Option<RawFd>,
    held: Vec<RawFd>,
}

impl State {
    /// The state of a keeper that starts.
    pub(super) fn first(request: &setup::Request, maps: IdMap) -> Self {
        Self {
            exec_root: request.exec_root.clone(),
            data_root: request.data_root.clone(),
            build: request.build.0.clone(),
            maps: Some(maps),
            grace_ms: request.grace_ms,
            ..Self::default()
        }
    }
}

/// The keeper's life. `arguments` are those after the program's name; returns the exit status.
pub fn serve(arguments: &[String], roles: Roles) -> i32 {
    let first = match Server::take_over(arguments, roles) {
        Ok((server, asker)) => {
            let mut server = server;
            match asker {
                Some(asker) => server.answer(asker, &Reply::Done),
                None => Report::Ready(std::process::id().cast_signed()).send(),
            }
            // From here on nobody listens to the standard streams.
            fork::detach_standard_streams(&[]).and_then(|()| server.run())
        }
        Err(error) => {
            Report::Failed(format!("the keeper cannot start: {error}")).send();
            return 1;
        }
    };
    i32::from(first.is_err())
}

struct Server {
    exec_root: PathBuf,
    data_root: Option<PathBuf>,
    build: Build,
    maps: IdMap,
    grace: Duration,
    roles: Roles,
    listener: OwnedFd,
    signals: SignalFd,
    connections: Vec<OwnedFd>,
    shims: Vec<Leashed>,
    /// Namespaces of networks: what daemons come and go by.
    networks: BTreeMap<String, OwnedFd>,
    slirp: slirp::Slirp,
    forked: u64,
    idle_since: Instant,
}

/// A shim, its leash, and what dies with it.
struct Leashed {
    pid: i32,
    /// None once the shim has closed it.
    leash: Option<OwnedFd>,
    held: Vec<OwnedFd>,
}

/// What one round of the loop leads to.
enum Next {
    GoOn,
    Leave,
}

impl Server {
    fn take_over(arguments: &[String], roles: Roles) -> io::Result<(Self, Option<usize>)> {
        let number = arguments.get(1).and_then(|number| number.parse().ok());
        let number = number.ok_or(io::ErrorKind::InvalidInput)?;
        let state = File::from(fork::take_inherited(number)?);
        let mut bytes = vec![0; usize::try_from(state.metadata()?.len()).unwrap_or(0)];
        state.read_exact_at(&mut bytes, 0)?;
        let state: State = serde_json::from_slice(&bytes)?;

        rustix::thread::set_name(c"moss-keeper")?;
        prctl::find_command_line();
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        raise_descriptor_limit();
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.add(Signal::SIGHUP);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;

        let maps = state.maps.ok_or(io::ErrorKind::InvalidData)?;
        let take = |numbers: &[RawFd]| {
            numbers
                .iter()
                .map(|&number| fork::take_inherited(number))
                .collect::<io::Result<Vec<_>>>()
        };
        let mut shims = Vec::with_capacity(64);
        for shim in state.shims {
            let leash = shim.leash.map(fork::take_inherited).transpose()?;
            shims.push(Leashed {
                pid: shim.pid,
                leash,
                held: take(&shim.held)?,
            });
        }
        let started_listener = state.listener.map(fork::take_inherited).transpose()?;
        let upgraded = started_listener.is_some();
        let listener = match started_listener {
            Some(listener) => listener,
            None => fdpass::listen(&state.exec_root.join(SOCKET))?,
        };
        let server = Self {
            exec_root: state.exec_root,
            data_root: state.data_root,
            build: Build(state.build),
            maps,
            grace: Duration::from_millis(state.grace_ms),
            roles,
            listener,
            signals,
            connections: take(&state.connections)?,
            shims,
            networks: state
                .networks
                .into_iter()
                .map(|(network, number)| Ok((network, fork::take_inherited(number)?)))
                .collect::<io::Result<_>>()?,
            slirp: slirp::Slirp::default(),
            forked: state.forked,
            idle_since: Instant::now(),
        };
        server.write_identity()?;
        Ok((server, if upgraded { state.asker } else { None }))
    }

    fn run(&mut self) -> io::Result<()> {
        // Children that ended around an upgrade sent their SIGCHLD to the program before.
        self.reap();
        // One that a keeper of another build had started ends with its link.
        self.start_slirp();
        loop {
            if let Next::Leave = self.round()? {
                return Ok(());
            }
        }
    }

    /// Waits for something to happen, and deals with it.
    fn round(&mut self) -> io::Result<Next> {
        let leashes = self.shims.iter().filter_map(|shim| shim.leash.as_ref());
        let mut polled = Vec::with_capacity(2 + self.connections.len() + self.shims.len());
        polled.push(PollFd::new(&self.listener, PollFlags::IN));
        polled.push(PollFd::from_borrowed_fd(
            self.signals.as_fd(),
            PollFlags::IN,
        ));
        polled.extend(
            self.connections
                .iter()
                .chain(leashes)
                .map(|fd| PollFd::new(fd, PollFlags::IN)),
        );
        let patience = self.patience();
        match rustix::event::poll(&mut polled, patience.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(Next::GoOn),
            other => other?,
        };
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(polled);
        let (fixed, rest) = ready.split_at(2);
        let (connections, leashes) = rest.split_at(self.connections.len());

        // Leashes before signals: a pidfd that was sent must be held when its shim is buried.
        let leashed = self.shims.iter_mut().filter(|shim| shim.leash.is_some());
        for (shim, _) in leashed.zip(leashes).filter(|(_, ready)| **ready) {
            shim.receive();
        }
        if fixed[1] {
            self.take_signals();
        }
        // Backwards, so that removing one leaves the places of the rest.
        for place in (0..connections.len())
            .rev()
            .filter(|&place| connections[place])
        {
            if let Next::Leave = self.serve_connection(place) {
                self.remove_traces();
                return Ok(Next::Leave);
            }
        }
        if fixed[0] {
            self.accept();
        }
        self.start_slirp();
        if self.is_idle() && self.idle_since.elapsed() >= self.grace && self.may_leave() {
            self.remove_traces();
            return Ok(Next::Leave);
        }
        Ok(Next::GoOn)
    }

    fn is_idle(&self) -> bool {
        self.connections.is_empty() && self.shims.is_empty()
    }

    /// How long to wait at most: what is left of the grace period where there is nothing to do, or
    /// until slirp is started again.
    fn patience(&self) -> Option<Timespec> {
        let slirp = self.slirp.patience().filter(|_| !self.networks.is_empty());
        let idle = self.grace.saturating_sub(self.idle_since.elapsed());
        let left = slirp
            .into_iter()
            .chain(self.is_idle().then_some(idle))
            .min()?;
        // A moment more than is left, so as not to spin through its last millisecond.
        Timespec::try_from(left + Duration::from_millis(1)).ok()
    }

    /// Whether nobody is about to connect or to start another keeper; holds the lock from then on.
    fn may_leave(&mut self) -> bool {
        let lock = open_lock(&self.exec_root);
        let locked = lock.and_then(|lock| {
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            Ok(lock)
        });
        match locked {
            Ok(lock) => {
                self.accept();
                if self.is_idle() {
                    // Until exit: whoever waits for it then finds no socket and starts anew.
                    std::mem::forget(lock);
                }
                self.is_idle()
            }
            // Somebody is at it: look again in a grace period.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.idle_since = Instant::now();
                false
            }
            // The exec root is gone, and with it everyone who could ask.
            Err(_) => true,
        }
    }

    fn remove_traces(&self) {
        let _ = std::fs::remove_file(self.exec_root.join(SOCKET));
        if let Ok(identity) = Identity::own(&self.exec_root, &self.build, &self.maps) {
            identity.remove(&self.exec_root);
            if let Some(data_root) = &self.data_root {
                identity.remove(data_root);
            }
        }
    }

    fn write_identity(&self) -> io::Result<()> {
        let identity = Identity::own(&self.exec_root, &self.build, &self.maps)?;
        identity.write(&self.exec_root)?;
        if let Some(data_root) = &self.data_root {
            // A copy for when the exec root is deleted; the data root may not exist yet.
            let _ = identity.write(data_root);
        }
        Ok(())
    }

    fn accept(&mut self) {
        while let Ok(Some(socket)) = fdpass::accept(&self.listener) {
            // The caller is 0 inside, whether it has joined or not. Others cannot even reach the
            // socket unless someone opens the directory to them.
            if pidfd::peer(&socket).is_ok_and(|peer| peer.uid == 0)
                && rustix::io::ioctl_fionbio(&socket, true).is_ok()
            {
                self.connections.push(socket);
            }
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGHUP as u32 {
                self.listen_anew();
            }
        }
        // One SIGCHLD may stand for several children.
        self.reap();
    }

    /// Makes the socket again; the old one may be gone with its directory. If that cannot be
    /// done the old one is kept.
    fn listen_anew(&mut self) {
        let made = paths::private_dir(&self.exec_root)
            .and_then(|()| fdpass::listen(&self.exec_root.join(SOCKET)));
        if let Ok(listener) = made {
            self.listener = listener;
            let _ = self.write_identity();
        }
    }

    fn reap(&mut self) {
        loop {
            let pid = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => pid.as_raw(),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            self.slirp.buried(pid);
            if let Some(place) = self.shims.iter().position(|shim| shim.pid == pid) {
                let mut shim = self.shims.swap_remove(place);
                shim.receive();
                for process in &shim.held {
                    let _ = pidfd::kill(process, rustix::process::Signal::KILL);
                }
                self.idle_since = Instant::now();
            }
        }
    }

    /// Reads one request of the connection at `place` and answers it.
    fn serve_connection(&mut self, place: usize) -> Next {
        let mut buffer = [0; MAX_REQUEST];
        let received = fdpass::receive(&self.connections[place], &mut buffer);
        let (length, descriptors) = match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::GoOn,
            Ok((0, _)) | Err(_) => {
                self.connections.swap_remove(place);
                self.idle_since = Instant::now();
                return Next::GoOn;
            }
            Ok(received) => received,
        };
        let mut descriptors = descriptors.into_iter();
        let request = match serde_json::from_slice(&buffer[..length]) {
            Ok(request) => request,
            Err(error) => {
                self.refuse(
                    place,
                    &format!("it does not understand the request: {error}"),
                );
                return Next::GoOn;
            }
        };
        if let Request::Tell { order } = request {
            let told: Vec<OwnedFd> = descriptors.collect();
            self.slirp.tell(&order, &told);
            self.answer(place, &Reply::Done);
            return Next::GoOn;
        }
        let descriptor = descriptors.next();
        let reply = match (request, descriptor) {
            (Request::Hello { .. }, _) => Reply::Hello {
                version: VERSION,
                build: self.build.clone(),
                pid: std::process::id().cast_signed(),
                maps: self.maps.clone(),
            },
            (Request::Spawn, Some(connection)) => self.spawn(connection),
            (Request::Pin { network }, Some(namespace)) => {
                self.pin(network, namespace);
                Reply::Done
            }
            (Request::Unpin { network }, _) => {
                self.networks.remove(&network);
                let network = &network;
                self.slirp.tell(&Order::Unpin { network }, &[]);
                Reply::Done
            }
            (Request::Namespace { network }, _) => {
                let namespace = self.networks.get(&network);
                let twin = namespace.and_then(|namespace| namespace.try_clone().ok());
                let held = twin.is_some();
                self.answer_with(place, &Reply::Namespace { held }, twin.as_ref());
                return Next::GoOn;
            }
            (Request::Upgrade { build }, Some(program)) => {
                let error = self.upgrade(place, &build, &File::from(program));
                Reply::Failed {
                    message: error.to_string(),
                }
            }
            // Was passed on above.
            (Request::Tell { .. }, _) => Reply::Done,
            (Request::Spawn | Request::Upgrade { .. } | Request::Pin { .. }, None) => {
                Reply::Failed {
                    message: "a descriptor is missing".into(),
                }
            }
            (Request::Status, _) => Reply::Status(Status {
                shims: self.shims.iter().map(|shim| shim.pid).collect(),
                connections: self.connections.len(),
                forked: self.forked,
                networks: self.networks.keys().cloned().collect(),
            }),
            (Request::Stop { force }, _) => {
                if !force && !self.shims.is_empty() {
                    Reply::Failed {
                        message: format!("{} containers run", self.shims.len()),
                    }
                } else {
                    self.answer(place, &Reply::Done);
                    return Next::Leave;
                }
            }
        };
        self.answer(place, &reply);
        Next::GoOn
    }

    fn refuse(&mut self, place: usize, message: &str) {
        self.answer(
            place,
            &Reply::Failed {
                message: message.to_owned(),
            },
        );
    }

    /// Answers; an asker that has gone is noticed when its connection is read next.
    fn answer(&mut self, place: usize, reply: &Reply) {
        self.answer_with(place, reply, None);
    }

    fn answer_with(&mut self, place: usize, reply: &Reply, descriptor: Option<&OwnedFd>) {
        let Some(connection) = self.connections.get(place) else {
            return;
        };
        let mut bytes = serde_json::to_vec(reply).unwrap_or_default();
        if bytes.len() > MAX_MESSAGE {
            bytes = b"{\"failed\":{\"message\":\"the answer is too long\"}}".to_vec();
        }
        // An asker has one question open, so the answer fits; for one that asks and never listens
        // nobody else is kept waiting. Its connection's end is noticed as any other's.
        let descriptors: Vec<_> = descriptor.into_iter().map(AsFd::as_fd).collect();
        if fdpass::send(connection, &bytes, &descriptors).is_err() {
            let _ = rustix::net::shutdown(connection, rustix::net::Shutdown::Both);
        }
    }

    fn spawn(&mut self, connection: OwnedFd) -> Reply {
        match self.try_spawn(connection) {
            Ok(pid) => Reply::Spawned { pid },
            Err(error) => Reply::Failed {
                message: error.to_string(),
            },
        }
    }

    fn pin(&mut self, network: String, namespace: OwnedFd) {
        self.start_slirp();
        let order = Order::Pin { network: &network };
        self.slirp.tell(&order, std::slice::from_ref(&namespace));
        self.networks.insert(network, namespace);
        // The first one: before, there was nothing to start slirp for.
        self.start_slirp();
    }

    /// Starts slirp where there is something for it to do and it does not run.
    fn start_slirp(&mut self) {
        if !self.networks.is_empty() {
            self.slirp
                .start(self.roles.slirp, &self.exec_root, &self.networks);
        }
    }

    fn try_spawn(&mut self, connection: OwnedFd) -> io::Result<i32> {
        let (leash, shims_end) = fdpass::pair()?;
        rustix::io::ioctl_fionbio(&leash, true)?;
        let pid = fork::fork_keeping([connection, shims_end], self.roles.shim)?.as_raw();
        self.shims.push(Leashed {
            pid,
            leash: Some(leash),
            held: Vec::new(),
        });
        self.forked += 1;
        Ok(pid)
    }

    /// Executes `program` in place. Returns only where that fails; nothing has changed then.
    fn upgrade(&mut self, asker: usize, build: &Build, program: &File) -> io::Error {
        let numbers =
            |descriptors: &[OwnedFd]| descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let shims = self.shims.iter().map(|shim| ShimState {
            pid: shim.pid,
            leash: shim.leash.as_ref().map(AsRawFd::as_raw_fd),
            held: numbers(&shim.held),
        });
        let state = State {
            exec_root: self.exec_root.clone(),
            data_root: self.data_root.clone(),
            build: build.0.clone(),
            maps: Some(self.maps.clone()),
            grace_ms: u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX),
            forked: self.forked,
            listener: Some(self.listener.as_raw_fd()),
            connections: numbers(&self.connections),
            asker: Some(asker),
            shims: shims.collect(),
            networks: self
                .networks
                .iter()
                .map(|(network, namespace)| (network.clone(), namespace.as_raw_fd()))
                .collect(),
        };
        let mut pass = state.connections.clone();
        pass.extend(state.networks.iter().map(|(_, number)| *number));
        pass.push(self.listener.as_raw_fd());
        for shim in &state.shims {
            pass.extend(shim.leash.iter().chain(&shim.held));
        }
        setup::execute_keeper(program, &state, &pass)
    }
}

impl Leashed {
    /// Takes what the shim has sent.
    fn receive(&mut self) {
        while let Some(leash) = &self.leash {
            match fdpass::receive(leash, &mut [0; 1024]) {
                Ok((0, descriptors)) if descriptors.is_empty() => self.leash = None,
                Ok((_, descriptors)) => {
                    // Sessions come and go in a long life: what has ended is let go.
                    self.held
                        .retain(|process| pidfd::is_alive(process).unwrap_or(true));
                    self.held.extend(descriptors);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.leash = None,
            }
        }
    }
}

/// Opens the lock in the exec root.
pub(super) fn open_lock(exec_root: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = exec_root.join(LOCK);
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Each shim costs two descriptors here. Containers inherit the limit, as they do from dockerd.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
