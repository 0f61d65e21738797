//! Shims: forked, held by their leashes, and buried with what must not outlive them.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::Server;
use crate::sys::{fdpass, fork, pidfd};
use crate::userns::keeper::identity::ShimIdentity;
use crate::userns::keeper::protocol::Reply;

/// A shim, its leash, and what dies with it.
pub(super) struct Leashed {
    pub(super) pid: i32,
    /// None once the shim has closed it.
    pub(super) leash: Option<OwnedFd>,
    pub(super) held: Vec<OwnedFd>,
}

impl Server {
    pub(super) fn spawn(&mut self, connection: OwnedFd) -> Reply {
        match self.try_spawn(connection) {
            Ok(pid) => Reply::Spawned { pid },
            Err(error) => Reply::Failed {
                message: error.to_string(),
            },
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

    /// Looks for living shims of the data root that are not children of this process.
    pub(super) fn find_orphans(&mut self) {
        let all = self.data_root.as_deref().map(ShimIdentity::all_living);
        let orphans = all.into_iter().flatten();
        let orphans = orphans.filter(|(pid, _)| self.shims.iter().all(|shim| shim.pid != *pid));
        self.orphans = orphans.map(|(_, process)| process).collect();
    }

    pub(super) fn reap(&mut self) {
        loop {
            let (pid, killed) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, _)) => (pid.as_raw(), false),
                Ok(WaitStatus::Signaled(pid, ..)) => (pid.as_raw(), true),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            self.slirp.buried(pid);
            self.revival.buried(pid);
            if let Some(place) = self.shims.iter().position(|shim| shim.pid == pid) {
                let mut shim = self.shims.swap_remove(place);
                shim.receive();
                for process in &shim.held {
                    let _ = pidfd::kill(process, rustix::process::Signal::KILL);
                }
                if killed && let Some(data_root) = &self.data_root {
                    // Unsaid, the container's end is when a daemon looks.
                    let _ = ShimIdentity::note_end(data_root, pid);
                }
                self.idle_since = Instant::now();
            }
        }
    }
}

impl Leashed {
    /// Takes what the shim has sent.
    pub(super) fn receive(&mut self) {
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
