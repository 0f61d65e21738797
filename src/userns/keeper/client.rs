//! The daemon's side: find the keeper or make one, join its namespaces, have shims forked.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::super::idmap::IdMap;
use super::super::mapped::become_root;
use super::Recipe;
use super::identity::{self, Identity};
use super::protocol::{Build, MAX_MESSAGE, Reply, Request, Status, VERSION};
use super::server::{SOCKET, open_lock};
use super::starting::{self, Namespaces, Report};
use super::{GRACE, KeeperError, SETUP};
use crate::sys::{fdpass, fork, paths, pidfd};

/// How long a keeper may take to answer; it answers within a millisecond, a stopped machine aside.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a keeper may take to start. Directory services that newuidmap asks can be slow.
const STARTED: Duration = Duration::from_secs(60);

/// How often one that lives without a socket is told to make it anew.
const AGAIN: Duration = Duration::from_secs(1);

/// What a keeper is found or started with.
#[derive(Debug, Clone)]
pub struct Start {
    /// Where its socket is.
    pub exec_root: PathBuf,
    /// Where a copy of its identity is kept, for when the exec root is deleted.
    pub data_root: Option<PathBuf>,
    /// The program that becomes the keeper; held open, since its path may be replaced.
    pub program: Arc<File>,
    /// How long it stays with nothing to do.
    pub grace: Duration,
}

impl Start {
    /// With the running program as keeper.
    pub fn new(exec_root: &Path, data_root: Option<&Path>) -> Result<Self, KeeperError> {
        let program = File::open("/proc/self/exe").map_err(KeeperError::Program)?;
        Ok(Self {
            exec_root: exec_root.to_owned(),
            data_root: data_root.map(Path::to_owned),
            program: Arc::new(program),
            grace: GRACE,
        })
    }
}

/// A connection to the keeper. The keeper stays while it is open.
#[derive(Debug)]
pub struct Keeper {
    start: Start,
    link: Mutex<Link>,
}

/// One connection, and who answers on it.
#[derive(Debug)]
struct Link {
    socket: OwnedFd,
    process: Arc<OwnedFd>,
    pid: i32,
    version: u32,
    build: Build,
    maps: IdMap,
    /// Inode of its user namespace.
    namespace: Option<u64>,
    /// How this daemon is started again.
    recipe: Option<Recipe>,
    /// Questions whose answers were not received.
    owed: u32,
}

impl Keeper {
    /// Connects to the keeper of this exec root; where there is none, makes one, in the namespaces
    /// of whatever is left of the last one; where it is of another build, has it replaced in
    /// place.
    pub fn connect_or_start(start: &Start) -> Result<Self, KeeperError> {
        let link = Link::open_or_start(start, None)?;
        Ok(Self {
            start: start.clone(),
            link: Mutex::new(link),
        })
    }

    /// Connects to the keeper of this exec root if there is one. One whose socket is gone makes it
    /// anew; nothing else changes.
    pub fn connect(start: &Start) -> Result<Option<Self>, KeeperError> {
        let link = match Link::open(start)? {
            Some(link) => Some(link),
            None => Link::revive(start, Link::last(start).as_ref())?,
        };
        Ok(link.map(|link| Self {
            start: start.clone(),
            link: Mutex::new(link),
        }))
    }

    /// Joins the keeper's user and mount namespaces and becomes root there. Supplementary groups
    /// stay (see the module's head); the working directory becomes `/`.
    ///
    /// # Errors
    /// [`KeeperError::Threads`] where this process has more than one thread.
    pub fn join(&self) -> Result<(), KeeperError> {
        let (process, pid) = {
            let link = self.link();
            (Arc::clone(&link.process), link.pid)
        };
        let failed = |source| KeeperError::Join { pid, source };
        let theirs = identity::user_namespace(&pid.to_string()).map_err(failed)?;
        if identity::user_namespace("self").map_err(failed)? == theirs {
            return Ok(());
        }
        let threads = fork::threads().map_err(failed)?;
        if threads != 1 {
            return Err(KeeperError::Threads(threads));
        }
        pidfd::join_user_and_mount(&*process).map_err(failed)?;
        become_root().map_err(failed)
    }

    /// Has a shim forked that holds `connection`, and returns its pid.
    ///
    /// A keeper that has died is made anew first.
    pub fn spawn_shim(&self, connection: &OwnedFd) -> Result<i32, KeeperError> {
        match self.ask("start a shim", &Request::Spawn, &[connection.as_fd()])? {
            Reply::Spawned { pid } => Ok(pid),
            other => Err(other.unexpected()),
        }
    }

    /// Has a network's namespace held, which then outlives this process.
    ///
    /// A keeper that has died is made anew first.
    pub fn pin(&self, network: &str, namespace: BorrowedFd<'_>) -> Result<(), KeeperError> {
        let network = network.to_owned();
        match self.ask("hold a network", &Request::Pin { network }, &[namespace])? {
            Reply::Done => Ok(()),
            other => Err(other.unexpected()),
        }
    }

    /// Has the daemon started again as `recipe` says, should this process end while shims run; with
    /// `None` no more. A keeper that is made anew is told again.
    pub fn revive(&self, recipe: Option<Recipe>) -> Result<(), KeeperError> {
        let mut link = self.link();
        link.recipe = recipe;
        link.leave_recipe(&self.start)
    }

    /// Has slirp told something, in its own words; where it does not run, nobody is told.
    pub fn tell_slirp(
        &self,
        order: serde_json::Value,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), KeeperError> {
        match self.ask("tell slirp", &Request::Tell { order }, descriptors)? {
            Reply::Done => Ok(()),
            other => Err(other.unexpected()),
        }
    }

    /// Has a network's namespace let go.
    pub fn unpin(&self, network: &str) -> Result<(), KeeperError> {
        let network = network.to_owned();
        match self.ask("let go of a network", &Request::Unpin { network }, &[])? {
            Reply::Done => Ok(()),
            other => Err(other.unexpected()),
        }
    }

    /// The namespace of a network, if it is held.
    pub fn namespace(&self, network: &str) -> Result<Option<OwnedFd>, KeeperError> {
        let request = Request::Namespace {
            network: network.to_owned(),
        };
        let (reply, descriptor) = self.ask_with("give a network", &request, &[])?;
        match reply {
            Reply::Namespace { held } => Ok(descriptor.filter(|_| held)),
            other => Err(other.unexpected()),
        }
    }

    /// The id map of the keeper's namespace.
    pub fn maps(&self) -> IdMap {
        self.link().maps.clone()
    }

    /// The keeper's pid.
    pub fn pid(&self) -> i32 {
        self.link().pid
    }

    /// The keeper's process; readable once it has ended.
    pub fn process(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.link().process)
    }

    /// The keeper's build.
    pub fn build(&self) -> Build {
        self.link().build.clone()
    }

    /// What the keeper has.
    pub fn status(&self) -> Result<Status, KeeperError> {
        match self.ask("tell its state", &Request::Status, &[])? {
            Reply::Status(status) => Ok(status),
            other => Err(other.unexpected()),
        }
    }

    /// Has the keeper execute this program's build in place; its pid and children stay.
    pub fn upgrade(&self) -> Result<(), KeeperError> {
        self.link().upgrade(&self.start)
    }

    /// Ends the keeper. Shims go on, orphaned, which is refused unless `force`.
    pub fn stop(&self, force: bool) -> Result<(), KeeperError> {
        match self.link().ask("stop", &Request::Stop { force }, &[])? {
            Reply::Done => Ok(()),
            other => Err(other.unexpected()),
        }
    }

    /// The present connection. Nothing panics between a question and its answer.
    fn link(&self) -> std::sync::MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks; where the question could not even be sent, asks the keeper's successor.
    fn ask(
        &self,
        operation: &'static str,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Reply, KeeperError> {
        self.ask_with(operation, request, descriptors)
            .map(|(reply, _)| reply)
    }

    fn ask_with(
        &self,
        operation: &'static str,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Option<OwnedFd>), KeeperError> {
        let mut link = self.link();
        match link.send(request, descriptors) {
            Err(KeeperError::Talk(_)) => {
                let recipe = link.recipe.clone();
                *link = Link::open_or_start(&self.start, link.namespace)?;
                link.recipe = recipe;
                link.leave_recipe(&self.start)?;
                link.send(request, descriptors)?;
            }
            other => other?,
        }
        link.answer_with(operation)
    }
}

impl Link {
    /// `known` is the user namespace of a keeper that this process had before.
    fn open_or_start(start: &Start, known: Option<u64>) -> Result<Self, KeeperError> {
        paths::private_dir(&start.exec_root).map_err(|source| KeeperError::RuntimeDir {
            path: start.exec_root.clone(),
            source,
        })?;
        let mut link = match Self::open(start)? {
            Some(link) => link,
            None => Self::start_locked(start, known)?,
        };
        let build = Build::of(&start.program).map_err(KeeperError::Program)?;
        if link.version > VERSION {
            let (pid, build, theirs) = (link.pid, link.build.0, link.version);
            return Err(KeeperError::Newer { pid, build, theirs });
        }
        if link.version < VERSION || link.build != build {
            link.upgrade(start)?;
        }
        Ok(link)
    }

    /// Gives the keeper the recipe, or takes it back where there is none.
    fn leave_recipe(&mut self, start: &Start) -> Result<(), KeeperError> {
        let packed = self.recipe.as_ref().map(Recipe::packed).transpose();
        let packed = packed.map_err(KeeperError::Talk)?;
        let descriptors = packed
            .as_ref()
            .map(|it| vec![it.as_fd(), start.program.as_fd()]);
        let descriptors = descriptors.unwrap_or_default();
        match self.ask("start the daemon again", &Request::Revive, &descriptors)? {
            Reply::Done => Ok(()),
            other => Err(other.unexpected()),
        }
    }

    /// Starts a keeper, unless another process has meanwhile done so.
    fn start_locked(start: &Start, known: Option<u64>) -> Result<Self, KeeperError> {
        let failed = |source| KeeperError::Lock {
            path: start.exec_root.clone(),
            source,
        };
        let lock = open_lock(&start.exec_root).map_err(failed)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|errno| failed(errno.into()))?;
        if let Some(link) = Self::open(start)? {
            return Ok(link);
        }
        let identity = Self::last(start);
        if let Some(link) = Self::revive(start, identity.as_ref())? {
            return Ok(link);
        }
        start_process(start, identity.as_ref(), known)?;
        Self::open(start)?.ok_or_else(|| {
            KeeperError::Start(io::Error::new(io::ErrorKind::NotFound, "it left at once"))
        })
    }

    /// What the last keeper of this exec root wrote of itself.
    fn last(start: &Start) -> Option<Identity> {
        let places = [Some(&start.exec_root), start.data_root.as_ref()];
        places.into_iter().flatten().find_map(|place| {
            Identity::read(place).filter(|identity| identity.exec_root == start.exec_root)
        })
    }

    /// Has a living keeper whose socket was deleted make it anew; `None` where it does not live.
    fn revive(start: &Start, last: Option<&Identity>) -> Result<Option<Self>, KeeperError> {
        let Some((pid, process)) = last.and_then(|last| Some((last.pid, last.process()?))) else {
            return Ok(None);
        };
        let begun = Instant::now();
        let mut told = 0;
        while pidfd::is_alive(&process).map_err(KeeperError::Talk)? {
            // Again and again, as it may have failed. One that is leaving does nothing about it.
            if begun.elapsed() >= AGAIN * told {
                told += 1;
                let _ = pidfd::kill(&process, rustix::process::Signal::HUP);
            }
            std::thread::sleep(Duration::from_millis(2));
            if let Some(link) = Self::open(start)? {
                return Ok(Some(link));
            }
            if begun.elapsed() > ANSWER {
                return Err(KeeperError::Silent(pid));
            }
        }
        Ok(None)
    }

    /// Connects; `None` where no keeper listens, or the one that did is just leaving.
    fn open(start: &Start) -> Result<Option<Self>, KeeperError> {
        let path = start.exec_root.join(SOCKET);
        let deadline = Instant::now() + ANSWER;
        let socket = loop {
            match fdpass::connect(&path) {
                Ok(socket) => break socket,
                Err(error) => match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                    // 64 are waiting already.
                    io::ErrorKind::WouldBlock if Instant::now() < deadline => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    _ => {
                        return Err(KeeperError::Connect {
                            path,
                            source: error,
                        });
                    }
                },
            }
        };
        let peer = pidfd::peer(&socket).map_err(KeeperError::Talk)?;
        if peer.uid != rustix::process::geteuid().as_raw() {
            return Err(KeeperError::Foreign {
                path,
                uid: peer.uid,
            });
        }
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(ANSWER),
        )
        .map_err(|errno| KeeperError::Talk(errno.into()))?;
        let mut link = Self {
            socket,
            process: Arc::new(peer.process),
            pid: peer.pid,
            version: 0,
            build: Build(String::new()),
            maps: IdMap::single(0, 0, ""),
            namespace: identity::user_namespace(&peer.pid.to_string()).ok(),
            recipe: None,
            owed: 0,
        };
        match link.hello(start) {
            Ok(()) => Ok(Some(link)),
            Err(KeeperError::Talk(error)) if error.kind() != io::ErrorKind::WouldBlock => Ok(None),
            Err(KeeperError::Talk(_)) => Err(KeeperError::Silent(link.pid)),
            Err(error) => Err(error),
        }
    }

    fn hello(&mut self, start: &Start) -> Result<(), KeeperError> {
        let build = Build::of(&start.program).map_err(KeeperError::Program)?;
        match self.ask(
            "greet",
            &Request::Hello {
                version: VERSION,
                build,
            },
            &[],
        )? {
            // The pid that counts is the one seen from here, which the kernel gave.
            Reply::Hello {
                version,
                build,
                maps,
                pid: _,
            } => {
                (self.version, self.build, self.maps) = (version, build, maps);
                Ok(())
            }
            other => Err(other.unexpected()),
        }
    }

    fn upgrade(&mut self, start: &Start) -> Result<(), KeeperError> {
        let build = Build::of(&start.program).map_err(KeeperError::Program)?;
        match self.ask(
            "upgrade",
            &Request::Upgrade { build },
            &[start.program.as_fd()],
        )? {
            Reply::Done => self.hello(start),
            other => Err(other.unexpected()),
        }
    }

    fn ask(
        &mut self,
        operation: &'static str,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Reply, KeeperError> {
        self.send(request, descriptors)?;
        self.answer(operation)
    }

    fn send(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), KeeperError> {
        let bytes = serde_json::to_vec(request).map_err(|error| KeeperError::Talk(error.into()))?;
        fdpass::send(&self.socket, &bytes, fds).map_err(KeeperError::Talk)
    }

    fn answer(&mut self, operation: &'static str) -> Result<Reply, KeeperError> {
        self.answer_with(operation).map(|(reply, _)| reply)
    }

    fn answer_with(
        &mut self,
        operation: &'static str,
    ) -> Result<(Reply, Option<OwnedFd>), KeeperError> {
        self.owed += 1;
        loop {
            let received = receive(&self.socket)?;
            self.owed -= 1;
            // Those before it came too late for whoever asked.
            if self.owed > 0 {
                continue;
            }
            return match understand(received)? {
                (Reply::Failed { message }, _) => Err(KeeperError::Refused { operation, message }),
                answer => Ok(answer),
            };
        }
    }
}

/// Receives an answer, with the descriptors that came with it.
fn receive(socket: &OwnedFd) -> Result<(Vec<u8>, Vec<OwnedFd>), KeeperError> {
    let mut buffer = vec![0; MAX_MESSAGE];
    let (length, descriptors) = fdpass::receive(socket, &mut buffer).map_err(KeeperError::Talk)?;
    if length == 0 {
        return Err(KeeperError::Talk(io::ErrorKind::UnexpectedEof.into()));
    }
    buffer.truncate(length);
    Ok((buffer, descriptors))
}

fn understand(
    (bytes, descriptors): (Vec<u8>, Vec<OwnedFd>),
) -> Result<(Reply, Option<OwnedFd>), KeeperError> {
    let reply = serde_json::from_slice(&bytes)
        .map_err(|_| KeeperError::Answer(String::from_utf8_lossy(&bytes).into_owned()))?;
    Ok((reply, descriptors.into_iter().next()))
}

impl Reply {
    fn unexpected(&self) -> KeeperError {
        KeeperError::Answer(format!("{self:?}"))
    }
}

/// Runs the setup process until the keeper listens.
fn start_process(
    start: &Start,
    last: Option<&Identity>,
    known: Option<u64>,
) -> Result<(), KeeperError> {
    let own = identity::user_namespace("self").map_err(KeeperError::Start)?;
    let namespace = known.or(last.map(|identity| identity.user_namespace));
    let maps = last.map(|identity| identity.maps.clone());
    let mut stdin = Stdio::null();
    let namespaces = if namespace == Some(own) {
        Namespaces::Inside(maps)
    } else if let Some(shim) =
        identity::any_shim(&start.exec_root, start.data_root.as_deref(), namespace)
    {
        stdin = shim.into();
        Namespaces::Join(maps)
    } else {
        Namespaces::New
    };
    let request = starting::Request {
        exec_root: start.exec_root.clone(),
        data_root: start.data_root.clone(),
        build: Build::of(&start.program).map_err(KeeperError::Program)?,
        grace_ms: u64::try_from(start.grace.as_millis()).unwrap_or(u64::MAX),
        namespaces,
    };
    let request =
        serde_json::to_string(&request).map_err(|error| KeeperError::Start(error.into()))?;
    // Resolved in the child, whose copy of the descriptor is still open then.
    let program = format!("/proc/self/fd/{}", start.program.as_raw_fd());
    let mut child = Command::new(program)
        .args([SETUP, &request])
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(KeeperError::Start)?;
    let report = match child.stdout.take() {
        Some(output) => read_report(output),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    };
    if report.is_err() {
        // Slow or broken: what it has made leaves with it, since nothing has told it to go on.
        let _ = child.kill();
    }
    let status = child.wait().map_err(KeeperError::Start)?;
    match serde_json::from_str(&report.map_err(KeeperError::Start)?) {
        Ok(Report::Ready(_)) => Ok(()),
        Ok(Report::Failed(message)) => Err(KeeperError::Setup(message)),
        Err(_) => Err(KeeperError::Setup(format!(
            "it ended without a word ({status})"
        ))),
    }
}

/// Reads the one line that setup or keeper write.
fn read_report(mut output: impl Read + AsFd) -> io::Result<String> {
    let deadline = Instant::now() + STARTED;
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while !text.contains(&b'\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = rustix::event::Timespec::try_from(left).map_err(|_| io::ErrorKind::TimedOut)?;
        let mut polled = [rustix::event::PollFd::new(
            &output,
            rustix::event::PollFlags::IN,
        )];
        match rustix::event::poll(&mut polled, Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        match output.read(&mut buffer)? {
            0 => break,
            length => text.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_comes_too_late_is_nobodys() {
        let (ours, theirs) = fdpass::pair().unwrap();
        let timeout = rustix::net::sockopt::Timeout::Recv;
        let moment = Some(Duration::from_millis(1));
        rustix::net::sockopt::set_socket_timeout(&ours, timeout, moment).unwrap();
        let mut link = Link {
            socket: ours,
            process: Arc::new(pidfd::open(std::process::id().cast_signed()).unwrap()),
            pid: 1,
            version: VERSION,
            build: Build(String::new()),
            maps: IdMap::single(0, 0, ""),
            namespace: None,
            recipe: None,
            owed: 0,
        };
        let silent = link.ask("tell its state", &Request::Status, &[]);
        assert!(matches!(silent, Err(KeeperError::Talk(_))));
        for pid in [7, 8] {
            let spawned = format!("{{\"spawned\":{{\"pid\":{pid}}}}}");
            fdpass::send(&theirs, spawned.as_bytes(), &[]).unwrap();
        }
        let asked = link.ask("start a shim", &Request::Spawn, &[]).unwrap();
        assert_eq!(asked, Reply::Spawned { pid: 8 });
    }
}
