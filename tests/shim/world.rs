//! Where containers of a test run, and words for what is done with them.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
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
use moss::userns::plan::{
    CapabilitySets, Extent, IdMapping, Mount, MountFlags, MountSource, Namespace, Namespaces, Plan,
    Process,
};

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
        let bin = dir.path().join("layer/bin");
        std::fs::create_dir_all(&bin).expect("mkdir");
        std::fs::copy("/bin/busybox", bin.join("busybox")).expect("copy");
        for applet in [
            "sh", "cat", "echo", "sleep", "dd", "stty", "true", "seq", "yes", "head",
        ] {
            symlink("busybox", bin.join(applet)).expect("link");
        }
        for mount_point in ["proc", "dev"] {
            std::fs::create_dir(dir.path().join("layer").join(mount_point)).expect("mkdir");
        }
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
        let new = Namespace::New;
        let one = vec![Extent {
            inside: 0,
            outside: 0,
            count: 1,
        }];
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
                namespaces: Namespaces {
                    user: new,
                    pid: new,
                    ipc: new,
                    uts: new,
                    net: new,
                    cgroup: new,
                },
                id_map: IdMapping {
                    uids: one.clone(),
                    gids: one,
                    deny_setgroups: true,
                },
                hostname: None,
                domainname: None,
                root_readonly: false,
                mounts: vec![
                    mount("/proc", "proc", ""),
                    mount("/dev", "tmpfs", "mode=755"),
                    mount("/dev/pts", "devpts", "newinstance,ptmxmode=0666,mode=0620"),
                ],
                devices: Vec::new(),
                masked_paths: Vec::new(),
                readonly_paths: Vec::new(),
                sysctls: Vec::new(),
                init: false,
                process: process(script),
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
        self.events
            .recv_timeout(Duration::from_secs(20))
            .expect("an event")
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
    Mount {
        target: target.to_owned(),
        source: MountSource::Filesystem {
            kind: kind.to_owned(),
            options: options.to_owned(),
            copy_up: false,
        },
        flags: MountFlags::default(),
    }
}

pub fn process(script: &str) -> Process {
    Process {
        args: ["sh", "-c", script].map(str::to_owned).into(),
        env: vec!["PATH=/bin".to_owned()],
        cwd: "/".to_owned(),
        user: String::new(),
        groups: Vec::new(),
        terminal: false,
        console_size: None,
        capabilities: CapabilitySets::default(),
        no_new_privileges: false,
        rlimits: Vec::new(),
        oom_score_adj: None,
        seccomp: None,
        umask: None,
    }
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
    ours.set_read_timeout(Some(Duration::from_secs(30)))
        .expect("timeout");
    (ours, theirs.into())
}

pub fn rest(mut client: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).expect("an orderly end");
    bytes
}

/// Waits until a process has gone.
pub fn gone(pid: i32) {
    let until = Instant::now() + Duration::from_secs(10);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < until, "process {pid} is still there");
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
