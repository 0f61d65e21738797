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

mod requests;
mod shims;
mod upgrade;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;

use super::super::idmap::IdMap;
use super::Roles;
use super::identity::Identity;
use super::protocol::{Build, Order, Reply};
use super::revival::Revival;
use super::slirp;
use super::starting::Report;
use crate::sys::{fdpass, fork, paths, pidfd};
use shims::Leashed;

/// Names the socket in the exec root.
pub(super) const SOCKET: &str = "keeper.sock";

/// Names the lock in the exec root that orders starting and leaving keepers.
pub(super) const LOCK: &str = "keeper.lock";

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
    /// Shims that an earlier keeper forked. They are known once no daemon is connected, for until then
    /// nothing depends on them.
    orphans: Vec<OwnedFd>,
    /// Namespaces of networks: what daemons come and go by.
    networks: BTreeMap<String, OwnedFd>,
    slirp: slirp::Slirp,
    revival: Revival,
    forked: u64,
    idle_since: Instant,
}

/// What one round of the loop leads to.
enum Next {
    GoOn,
    Leave,
}

impl Server {
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
                .chain(&self.orphans)
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
        let before = self.orphans.len();
        self.orphans
            .retain(|shim| pidfd::is_alive(shim).unwrap_or(false));
        if self.orphans.len() < before {
            self.idle_since = Instant::now();
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
        self.revive();
        if self.is_idle() && self.idle_since.elapsed() >= self.grace && self.may_leave() {
            self.remove_traces();
            return Ok(Next::Leave);
        }
        Ok(Next::GoOn)
    }

    fn is_idle(&self) -> bool {
        self.connections.is_empty() && !self.has_shims()
    }

    /// Whether containers run.
    fn has_shims(&self) -> bool {
        !self.shims.is_empty() || !self.orphans.is_empty()
    }

    /// How long to wait at most: what is left of the grace period where there is nothing to do, or
    /// until slirp or a daemon is started again.
    fn patience(&self) -> Option<Timespec> {
        let slirp = self.slirp.patience().filter(|_| !self.networks.is_empty());
        let idle = self.grace.saturating_sub(self.idle_since.elapsed());
        let left = slirp
            .into_iter()
            .chain(self.revival.patience())
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

    fn pin(&mut self, network: String, namespace: OwnedFd) {
        self.start_slirp();
        let order = Order::Pin { network: &network };
        self.slirp.tell(&order, std::slice::from_ref(&namespace));
        self.networks.insert(network, namespace);
        // The first one: before, there was nothing to start slirp for.
        self.start_slirp();
    }

    /// Sees to a daemon that ended unasked.
    fn revive(&mut self) {
        let wanted = self.connections.is_empty() && self.has_shims();
        self.revival.keep(wanted);
    }

    /// Starts slirp where there is something for it to do and it does not run.
    fn start_slirp(&mut self) {
        if !self.networks.is_empty() {
            self.slirp
                .start(self.roles.slirp, &self.exec_root, &self.networks);
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
