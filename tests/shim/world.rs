//! Where containers of a test run, and words for what is done with them.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use moss::container::client::{Launched, Shims};
use moss::container::protocol::{Attach, Exit, Failure, LogTarget, Message, Start};
use moss::overlay::{Driver, Rootfs};
use moss::sys::{pidfd, signal};
use moss::types::id::ContainerId;
use moss::userns::keeper::{self, Keeper};
use moss::userns::plan::{Mount, MountFlags, Plan, Process};

use crate::busybox::{self, extent};

/// How long is waited for what takes milliseconds: a machine may be very busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A keeper, and layers.
pub struct World {
    pub keeper: Keeper,
    pub dir: tempfile::TempDir,
    pub shims: Mutex<Vec<i32>>,
    /// What each fork of a shim took, in microseconds.
    pub forks: Mutex<Vec<u128>>,
}

/// A daemon with one container.
pub struct Container<'a> {
    pub world: &'a World,
    pub id: ContainerId,
    pub dir: PathBuf,
    pub daemon: Shims,
    pub events: Receiver<Message>,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        busybox::layer(&dir.path().join("layer"));
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("mkdir");
        let start = keeper::Start::new(&dir.path().join("exec"), Some(&data)).expect("own program");
        let keeper = Keeper::connect_or_start(&start).expect("a keeper");
        Self {
            keeper,
            dir,
            shims: Mutex::default(),
            forks: Mutex::default(),
        }
    }

    pub fn container(&self) -> Container<'_> {
        let id = ContainerId::random();
        let dir = self.dir.path().join(id.short());
        for part in ["upper", "work"] {
            std::fs::create_dir_all(dir.join(part)).expect("mkdir");
        }
        let (sender, events) = channel();
        let on_event = Box::new(move |_, message| drop(sender.send(message)));
        let daemon = Shims::new(on_event).expect("monitor");
        Container {
            world: self,
            id,
            dir,
            daemon,
            events,
        }
    }

    /// Pid of the shim that was forked last.
    pub fn last_shim(&self) -> i32 {
        *self
            .shims
            .lock()
            .expect("no panic while held")
            .last()
            .expect("a shim")
    }
}

impl Container<'_> {
    pub fn start(&self, script: &str) -> Start {
        Start {
            id: self.id,
            rootfs: Rootfs {
                driver: Driver::Overlay2,
                lower: vec![self.world.dir.path().join("layer")],
                upper: self.dir.join("upper"),
                work: self.dir.join("work"),
                volatile: true,
                owners: None,
            },
            plan: Plan {
                mounts: vec![
                    mount("/proc", "proc", ""),
                    mount("/dev", "tmpfs", "mode=755"),
                    mount("/dev/pts", "devpts", "newinstance,ptmxmode=0666,mode=0620"),
                ],
                ..busybox::plan(vec![extent(0, 0, 1)], process(script))
            },
            open_stdin: false,
            stdin_once: false,
            log: Some(LogTarget {
                path: self.dir.join("json.log"),
                attrs: BTreeMap::new(),
                ..LogTarget::default()
            }),
            delivery: None,
            runtime_dir: self.dir.join("run"),
            exit_file: self.dir.join("exit.json"),
            identity_file: self.dir.join("shim.json"),
        }
    }

    pub fn launch(
        &self,
        start: Start,
        clients: Vec<(Attach, OwnedFd)>,
    ) -> Result<Launched, Failure> {
        let spawn = |conn: OwnedFd| {
            let begun = Instant::now();
            let keeper = &self.world.keeper;
            let pid = keeper.spawn_shim(&conn).map_err(std::io::Error::other)?;
            self.world
                .forks
                .lock()
                .expect("no panic while held")
                .push(begun.elapsed().as_micros());
            self.world
                .shims
                .lock()
                .expect("no panic while held")
                .push(pid);
            Ok(())
        };
        let prepared = self.daemon.prepare(&spawn, start)?;
        let started = self.daemon.start(prepared, &clients);
        drop(clients);
        started.map_err(|refused| refused.failure)
    }

    pub fn event(&self) -> Message {
        self.events.recv_timeout(PATIENCE).expect("an event")
    }

    pub fn exit(&self) -> Exit {
        match self.event() {
            Message::Exited(exit) => exit,
            other => panic!("{other:?} instead of an exit"),
        }
    }

    /// Lets the shim go and waits until it has gone.
    pub fn end(&self, shim: i32) {
        self.daemon.release(&self.id);
        gone(shim);
    }
}

fn mount(target: &str, kind: &str, options: &str) -> Mount {
    busybox::filesystem(target, kind, options, MountFlags::default())
}

pub fn process(script: &str) -> Process {
    busybox::process(&["sh", "-c", script])
}

pub fn both() -> Attach {
    Attach {
        stdin: true,
        stdout: true,
        stderr: true,
        ..Attach::default()
    }
}

pub fn client() -> (UnixStream, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().expect("socketpair");
    ours.set_read_timeout(Some(PATIENCE)).expect("timeout");
    (ours, theirs.into())
}

pub fn rest(mut client: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).expect("an orderly end");
    bytes
}

/// Waits until a process has gone.
pub fn gone(pid: i32) {
    let path = format!("/proc/{pid}");
    wait_until("the process is gone", || !Path::new(&path).exists());
}

/// Waits until something holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn open_descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("fd")
        .count()
}

pub fn send(pid: i32, number: i32) {
    signal::send(pidfd::open(pid).expect("pidfd").as_fd(), number).expect("signal");
}

pub fn shows_figures() -> bool {
    std::env::args().any(|argument| argument == "--nocapture")
}

pub fn median(mut of: Vec<u128>) -> u128 {
    of.sort_unstable();
    of[of.len() / 2]
}
