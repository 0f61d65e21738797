//! How the shim starts processes: the seam between its streams and the stage.
//!
//! Everything else in the shim works with any process that has a pidfd and two or three
//! descriptors, and is tested with ordinary children.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::streams::Ends;
use crate::container::protocol::{Failure, Start, Started};
use crate::overlay::{self, Rootfs};
use crate::sys::{command_line, signal};
use crate::types::chain::chain;
use crate::types::timestamp::Timestamp;
use crate::userns::plan::{MountSource, Process, ProcessIdentity};
use crate::userns::stage::{self, Origin, Running, Stdio};

/// Starts processes.
pub(crate) trait Starter {
    /// The container's first process before its last step. Dropped, it is ended.
    type Ready;

    /// Makes the container and its first process, which waits.
    fn prepare(&mut self, start: &Start, stdio: Stdio) -> Result<Self::Ready, Failure>;

    /// The first process that waits, by its pidfd.
    fn process(ready: &Self::Ready) -> Option<BorrowedFd<'_>>;

    /// The same, as others may find it; where it has namespaces of its own.
    fn identity(ready: &Self::Ready) -> Option<ProcessIdentity>;

    /// Lets it go on.
    fn start(&mut self, ready: Self::Ready) -> Result<Launched, Failure>;

    /// Starts one more.
    fn exec(
        &mut self,
        process: &Process,
        init: ProcessIdentity,
        pidfd: BorrowedFd<'_>,
        stdio: Stdio,
    ) -> Result<Launched, Failure>;

    /// Who serves the root filesystem, if that needs a process.
    fn server(&self) -> Option<&overlay::Server>;

    /// The container has ended, and everybody knows: drops what it saw of files.
    fn ended(&mut self);

    /// The container is no more: drops what it was made of. May take as long as a sync.
    fn release(&mut self);
}

/// A process, and what each phase of its start took.
#[derive(Debug)]
pub(crate) struct Launched {
    /// The process.
    pub(crate) running: Running,
    /// Names and nanoseconds.
    pub(crate) phases: Vec<(String, u64)>,
    /// When.
    pub(crate) at: Timestamp,
}

impl Launched {
    /// What others are told of it.
    pub(crate) fn started(&self) -> Started {
        let Running {
            pid, start_time, ..
        } = self.running;
        Started {
            pid,
            start_time,
            at: self.at.nanos(),
        }
    }

    /// Ends a process that cannot be looked after.
    pub(crate) fn abandon(&self) {
        let _ = signal::send(self.running.pidfd.as_fd(), libc::SIGKILL);
        let _ = waitid(
            WaitId::PidFd(self.running.pidfd.as_fd()),
            WaitIdOptions::EXITED,
        );
    }
}

/// The two sides of a process's streams: what it gets, and the ends for the shim, which a terminal
/// completes later.
pub(crate) fn ends(terminal: bool, stdin: bool) -> Result<(Stdio, Incomplete), Failure> {
    if terminal {
        return Ok((Stdio::Terminal, Incomplete(None)));
    }
    let pipe = || {
        pipe_with(PipeFlags::CLOEXEC)
            .map_err(|e| Failure::own(format!("failed to make a pipe: {e}")))
    };
    let (theirs, ours) = if stdin {
        pipe().map(|(r, w)| (Some(r), Some(w)))?
    } else {
        (None, None)
    };
    let (out, stdout) = pipe()?;
    let (err, stderr) = pipe()?;
    let ends = Ends {
        stdin: ours,
        stdout: out,
        stderr: Some(err),
        console: None,
    };
    Ok((
        Stdio::Pipes {
            stdin: theirs,
            stdout,
            stderr,
        },
        Incomplete(Some(ends)),
    ))
}

/// The shim's ends, before it is known whether they are a terminal's.
#[derive(Debug)]
pub(crate) struct Incomplete(Option<Ends>);

impl Incomplete {
    /// Completes them with the terminal, where there is one; `stdin` says whether it takes input.
    pub(crate) fn complete(self, console: Option<OwnedFd>, stdin: bool) -> Result<Ends, Failure> {
        if let Some(ends) = self.0 {
            return Ok(ends);
        }
        let console = console.ok_or_else(|| Failure::own("the process has no terminal"))?;
        let twin = || console.try_clone().map_err(|e| Failure::own(chain(&e)));
        let (stdin, stdout) = (if stdin { Some(twin()?) } else { None }, twin()?);
        Ok(Ends {
            stdin,
            stdout,
            stderr: None,
            console: Some(console),
        })
    }
}

/// Starts them in namespaces, on an overlay.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    /// A duplicate of the root's mount. Not used, only kept: when the container ends this is the
    /// last reference, so that the sync which dropping it causes does not delay the report.
    root: Option<OwnedFd>,
    /// The container's mount namespace. Only kept, too: unmounting all that is in there, which the
    /// first process's end would wait for, takes 0.2 ms.
    mounts: Option<File>,
    /// The root's server. It ends by itself once the mount is gone, and dropped it is killed.
    server: Option<overlay::Server>,
    /// The same of images that are mounted.
    more_servers: Vec<overlay::Server>,
}

/// What [`Stage`] has prepared.
#[derive(Debug)]
pub(crate) struct Ready {
    process: stage::Ready,
    /// How long the mount of the root took, in nanoseconds.
    overlay: u64,
}

impl Starter for Stage {
    type Ready = Ready;

    fn prepare(&mut self, start: &Start, stdio: Stdio) -> Result<Ready, Failure> {
        // For people, who see it in `ps`: a forked process has the keeper's.
        command_line::set(&format!("moss: shim {}", start.id.short()));
        let begun = std::time::Instant::now();
        let root = overlay::mount(&start.rootfs).map_err(|e| Failure::own(chain(&e)))?;
        self.server = root.server;
        let kept = root.tree.try_clone().map_err(|e| Failure::own(chain(&e)))?;
        let overlay = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let images = self.mount_images(start)?;
        let process = stage::spawn(&start.plan, root.tree, images, stdio)?.ready()?;
        self.root = Some(kept);
        self.mounts = File::open(format!("/proc/{}/ns/mnt", process.pid())).ok();
        Ok(Ready { process, overlay })
    }

    fn process(ready: &Ready) -> Option<BorrowedFd<'_>> {
        ready.process.pidfd()
    }

    fn identity(ready: &Ready) -> Option<ProcessIdentity> {
        Some(ready.process.identity())
    }

    fn start(&mut self, ready: Ready) -> Result<Launched, Failure> {
        let running = ready.process.exec().inspect_err(|_| self.release())?;
        let mut phases = vec![("overlay".to_owned(), ready.overlay)];
        phases.extend(stage_phases(&running));
        Ok(Launched {
            running,
            phases,
            at: Timestamp::now(),
        })
    }

    fn exec(
        &mut self,
        process: &Process,
        init: ProcessIdentity,
        pidfd: BorrowedFd<'_>,
        stdio: Stdio,
    ) -> Result<Launched, Failure> {
        let running = stage::exec(process, init, pidfd.as_fd(), stdio).map_err(in_exec)?;
        let phases = stage_phases(&running);
        Ok(Launched {
            running,
            phases,
            at: Timestamp::now(),
        })
    }

    fn server(&self) -> Option<&overlay::Server> {
        self.server.as_ref()
    }

    fn ended(&mut self) {
        self.mounts = None;
    }

    fn release(&mut self) {
        self.mounts = None;
        self.root = None;
        let servers = self.server.take().into_iter();
        for server in servers.chain(self.more_servers.drain(..)) {
            server.finish();
        }
    }
}

impl Stage {
    /// The plan's images, each as one tree.
    fn mount_images(&mut self, start: &Start) -> Result<Vec<OwnedFd>, Failure> {
        let mut trees = Vec::new();
        for mount in &start.plan.mounts {
            if let MountSource::Layers { layers, .. } = &mount.source {
                let Rootfs { driver, owners, .. } = &start.rootfs;
                let image = overlay::mount_image(*driver, layers, owners.as_ref());
                let image = image.map_err(|error| {
                    let place = &mount.target;
                    Failure::own(format!(
                        "cannot mount an image at {place}: {}",
                        chain(&error)
                    ))
                })?;
                self.more_servers.extend(image.server);
                trees.push(image.tree);
            }
        }
        Ok(trees)
    }
}

/// Docker's whole sentence for an exec that failed.
fn in_exec(error: stage::StageError) -> Failure {
    let mut failure = Failure::from(error);
    if failure.origin == Origin::Runtime {
        failure.message = format!(
            "OCI runtime exec failed: exec failed: unable to start container process: {}: unknown",
            failure.message
        );
    }
    failure
}

fn stage_phases(running: &Running) -> Vec<(String, u64)> {
    let p = &running.phases;
    [
        ("clone", p.clone),
        ("map", p.map),
        ("mounts", p.mounts),
        ("pivot", p.pivot),
        ("confine", p.confine),
        ("exec", p.exec),
    ]
    .map(|(name, nanos)| (name.to_owned(), nanos))
    .into()
}
