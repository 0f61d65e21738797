//! The shim as the daemon and its clients see it, with ordinary children in place of containers.

mod prepared;
mod streams;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::server::Shim;
use super::start::{Launched, Starter};
use crate::container::client::{self, NotStarted, Shims};
use crate::container::logs::{Format, Query, Reader, Record};
use crate::container::packet::{Packet, receive_until};
use crate::container::protocol::{
    Attach, EXIT, Envelope, Exit, Failure, LogTarget, Message, Reply, Request, SOCKET, Start,
};
use crate::overlay::{Driver, Rootfs};
use crate::sys::fdpass;
use crate::types::id::ContainerId;
use crate::types::timestamp::Timestamp;
use crate::userns::plan::{
    CapabilitySets, IdMapping, Namespace, Namespaces, Plan, Process, ProcessIdentity,
};
use crate::userns::stage::{Origin, Phases, Running, Stdio};

/// How long a shim is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something holds.
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `args` of the plan as they are, without a container.
struct Ordinary;

fn spawn(process: &Process, stdio: Stdio) -> Result<Launched, Failure> {
    let mut console = None;
    let mut command = if process.terminal {
        let mut command = Command::new("setsid");
        command.arg("--ctty").args(&process.args);
        command
    } else {
        let mut command = Command::new(&process.args[0]);
        command.args(&process.args[1..]);
        command
    };
    match stdio {
        Stdio::Pipes {
            stdin,
            stdout,
            stderr,
        } => {
            command.stdin(stdin.map_or_else(std::process::Stdio::null, Into::into));
            command.stdout(stdout).stderr(stderr);
        }
        Stdio::Terminal => {
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            let master = openpt(flags).expect("openpt");
            grantpt(&master).expect("grantpt");
            unlockpt(&master).expect("unlockpt");
            let name = ptsname(&master, Vec::new())
                .expect("ptsname")
                .into_string()
                .expect("UTF-8");
            let slave = || {
                std::fs::File::options()
                    .read(true)
                    .write(true)
                    .open(&name)
                    .expect("pts")
            };
            command.stdin(slave()).stdout(slave()).stderr(slave());
            console = Some(master);
        }
    }
    let child = command.spawn().map_err(|e| Failure {
        message: format!("exec: {:?}: {e}", process.args[0]),
        code: 127,
        origin: Origin::Runtime,
    })?;
    let pid = child.id().cast_signed();
    let pidfd = pidfd_open(Pid::from_raw(pid).expect("a pid"), PidfdFlags::empty());
    let running = Running {
        pid,
        pidfd: pidfd.expect("a child that is not reaped"),
        start_time: 0,
        console,
        phases: Phases::default(),
        notes: Vec::new(),
    };
    Ok(Launched {
        running,
        phases: Vec::new(),
        at: Timestamp::now(),
    })
}

impl Starter for Ordinary {
    /// With a process that waits in its stead.
    type Ready = (Process, Stdio, OwnedFd);

    fn prepare(&mut self, start: &Start, stdio: Stdio) -> Result<Self::Ready, Failure> {
        let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).expect("a pidfd");
        match &*start.plan.process.cwd {
            "/" => Ok((start.plan.process.clone(), stdio, own)),
            other => Err(Failure::own(format!("no directory {other}"))),
        }
    }

    fn process((_, _, own): &Self::Ready) -> Option<BorrowedFd<'_>> {
        Some(own.as_fd())
    }

    fn identity(_: &Self::Ready) -> Option<ProcessIdentity> {
        None
    }

    fn start(&mut self, (process, stdio, _): Self::Ready) -> Result<Launched, Failure> {
        spawn(&process, stdio)
    }

    fn exec(
        &mut self,
        process: &Process,
        _: ProcessIdentity,
        _: BorrowedFd<'_>,
        stdio: Stdio,
    ) -> Result<Launched, Failure> {
        spawn(process, stdio)
    }

    fn server(&self) -> Option<&crate::overlay::Server> {
        None
    }

    fn ended(&mut self) {}

    fn release(&mut self) {}
}

fn process(script: &str) -> Process {
    Process {
        args: ["sh", "-c", script].map(str::to_owned).into(),
        env: Vec::new(),
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

/// Makes a shim, as the keeper does.
fn fork(conn: OwnedFd) -> std::io::Result<()> {
    std::thread::spawn(|| {
        Shim::new(Ordinary, conn, None)
            .and_then(|mut shim| shim.serve())
            .expect("serve");
    });
    Ok(())
}

/// A daemon with one container.
struct Fixture {
    dir: tempfile::TempDir,
    id: ContainerId,
    shims: Shims,
    events: Receiver<(ContainerId, Message)>,
}

impl Fixture {
    fn new() -> Self {
        let (sender, events) = channel();
        let dir = tempfile::tempdir().expect("tempdir");
        let on_event = Box::new(move |id, message| drop(sender.send((id, message))));
        let shims = Shims::new(on_event).expect("monitor");
        Self {
            dir,
            id: ContainerId::random(),
            shims,
            events,
        }
    }

    fn start(&self, script: &str) -> Start {
        let root = self.dir.path();
        let new = Namespace::New;
        let host = Namespace::Host;
        Start {
            id: self.id,
            rootfs: Rootfs {
                driver: Driver::Overlay2,
                lower: Vec::new(),
                upper: PathBuf::new(),
                work: PathBuf::new(),
                volatile: true,
                owners: None,
            },
            plan: Plan {
                namespaces: Namespaces {
                    user: new,
                    pid: new,
                    ipc: host,
                    uts: host,
                    net: host,
                    cgroup: host,
                },
                id_map: IdMapping::default(),
                hostname: None,
                domainname: None,
                root_readonly: false,
                mounts: Vec::new(),
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
                path: root.join("json.log"),
                attrs: BTreeMap::new(),
                ..LogTarget::default()
            }),
            delivery: None,
            runtime_dir: root.join("run"),
            exit_file: root.join("exit.json"),
            identity_file: root.join("shim.json"),
        }
    }

    fn launch(&self, start: Start, clients: Vec<(Attach, OwnedFd)>) -> client::Launched {
        self.try_launch(start, clients).expect("launch")
    }

    fn try_launch(
        &self,
        start: Start,
        clients: Vec<(Attach, OwnedFd)>,
    ) -> Result<client::Launched, Failure> {
        let prepared = self.shims.prepare(&fork, start)?;
        let started = self.shims.start(prepared, &clients);
        drop(clients);
        started.map_err(|NotStarted { failure, .. }| failure)
    }

    fn event(&self) -> Message {
        self.events.recv_timeout(PATIENCE).expect("an event").1
    }

    fn exit(&self) -> Exit {
        match self.event() {
            Message::Exited(exit) => exit,
            other => panic!("{other:?} instead of an exit"),
        }
    }

    fn log(&self) -> Vec<u8> {
        let query = Query {
            stdout: true,
            stderr: true,
            ..Query::default()
        };
        let path = self.dir.path().join("json.log");
        let mut reader = Reader::open(&path, Format::Json, query, None).expect("log");
        let (mut text, mut record) = (Vec::new(), Record::default());
        while reader.read(&mut record).expect("record") {
            text.extend_from_slice(&record.line);
        }
        text
    }
}

fn output() -> Attach {
    Attach {
        stdout: true,
        stderr: true,
        multiplexed: true,
        ..Attach::default()
    }
}

fn raw_with_stdin() -> Attach {
    Attach {
        stdin: true,
        stdout: true,
        stderr: true,
        ..Attach::default()
    }
}

fn client() -> (UnixStream, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().expect("socketpair");
    ours.set_read_timeout(Some(PATIENCE)).expect("timeout");
    (ours, theirs.into())
}

fn rest(mut client: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).expect("an orderly end");
    bytes
}

/// Takes frames apart: what came on stdout and on stderr.
fn frames(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut streams = (Vec::new(), Vec::new());
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[4..8].try_into().expect("four")) as usize;
        assert_eq!(bytes[1..4], [0; 3]);
        let stream = match bytes[0] {
            1 => &mut streams.0,
            2 => &mut streams.1,
            other => panic!("stream {other}"),
        };
        stream.extend_from_slice(&bytes[8..8 + length]);
        bytes = &bytes[8 + length..];
    }
    streams
}

#[test]
fn exec_sessions_have_streams_and_exit_codes_of_their_own() {
    let fixture = Fixture::new();
    fixture.launch(fixture.start("exec sleep 60"), Vec::new());
    let id = &fixture.id;
    let exec = |name: &str, script: &str, attach: Attach| {
        let (ours, theirs) = client();
        let started = fixture
            .shims
            .exec(id, name, &process(script), Some((attach, theirs)));
        (started, ours)
    };
    let (started, mut ours) = exec("one", "cat; echo err >&2; exit 7", raw_with_stdin());
    started.expect("exec");
    ours.write_all(b"in\n").expect("write");
    ours.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(rest(ours), b"in\nerr\n");
    // The exit was heard of before the stream ended.
    match fixture.events.try_recv().expect("heard before").1 {
        Message::ExecExited { id, code: 7 } => assert_eq!(id, "one"),
        other => panic!("{other:?}"),
    }
    let (ours, theirs) = client();
    let mut nosuch = process("");
    nosuch.args = vec!["nosuch".to_owned()];
    let failure = fixture
        .shims
        .exec(id, "two", &nosuch, Some((output(), theirs)));
    let failure = failure.expect_err("no such program");
    assert_eq!(failure.code, 127);
    let (stdout, _) = frames(&rest(ours));
    assert_eq!(
        String::from_utf8_lossy(&stdout),
        format!("{}\r\n", failure.message)
    );
    // A descendant that holds the output open is waited for, but not for ever.
    let (started, ours) = exec("three", "sleep 600 & echo now", output());
    started.expect("exec");
    assert_eq!(frames(&rest(ours)).0, b"now\n");
    assert!(matches!(
        fixture.event(),
        Message::ExecExited { code: 0, .. }
    ));
    fixture
        .shims
        .exec(id, "four", &process("exit 5"), None)
        .expect("detached");
    assert!(matches!(
        fixture.event(),
        Message::ExecExited { code: 5, .. }
    ));
    // An ordinary child inherits the shim's mask, so no other signal would do.
    fixture.shims.kill(id, libc::SIGKILL).expect("kill");
    assert_eq!(fixture.exit().code, 128 + libc::SIGKILL);
    let late = fixture.shims.kill(id, libc::SIGTERM).expect_err("ended");
    assert_eq!(late.message, "process already finished");
}

#[test]
fn a_later_daemon_finds_the_container_and_its_clients_go_on() {
    let mut fixture = Fixture::new();
    let (mut ours, theirs) = client();
    let start = Start {
        open_stdin: true,
        stdin_once: true,
        ..fixture.start("cat; exit 9")
    };
    let runtime_dir = start.runtime_dir.clone();
    let launched = fixture.launch(start, vec![(raw_with_stdin(), theirs)]);
    fixture.shims = Fixture::new().shims;
    ours.write_all(b"meanwhile").expect("write");
    let mut bytes = [0; 9];
    ours.read_exact(&mut bytes).expect("read");
    let (sender, events) = channel();
    let later =
        Shims::new(Box::new(move |_, message| drop(sender.send(message)))).expect("monitor");
    let state = later
        .adopt(fixture.id, &runtime_dir, PATIENCE)
        .expect("adopt");
    assert_eq!((state.running, state.exit), (Some(launched.started), None));
    ours.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(rest(ours), b"");
    let message = events.recv_timeout(PATIENCE).expect("an event");
    assert!(
        matches!(message, Message::Exited(Exit { code: 9, .. })),
        "{message:?}"
    );
}

#[test]
fn another_version_is_refused_and_both_are_named() {
    let fixture = Fixture::new();
    let start = fixture.start("exec sleep 600");
    let runtime_dir = start.runtime_dir.clone();
    fixture.launch(start, Vec::new());
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None);
    let socket = socket.expect("socket");
    let address = SocketAddrUnix::new(runtime_dir.join(SOCKET)).expect("a short path");
    rustix::net::connect(&socket, &address).expect("connect");
    let hello = Envelope {
        seq: 7,
        request: Request::Hello { version: 99 },
    };
    let packet = Packet::new(&hello, Vec::new()).expect("packet");
    packet.send(socket.as_fd()).expect("send");
    let deadline = Instant::now() + PATIENCE;
    let (message, _) = receive_until::<Message>(socket.as_fd(), deadline)
        .expect("receive")
        .expect("an answer");
    let Message::Reply {
        seq: 7,
        reply: Reply::Failed(failure),
    } = message
    else {
        panic!("{message:?}");
    };
    assert_eq!(
        failure.message,
        "the shim speaks version 1 of its protocol, the daemon version 99"
    );
    fixture.shims.kill(&fixture.id, 9).expect("kill");
    assert_eq!(fixture.exit().code, 137);
}

#[test]
fn ends_that_take_long_or_panic_hold_nobody_up() {
    let fixtures = [(); 3].map(|()| Fixture::new());
    let [slow, broken, other] = &fixtures;
    let (slow_id, broken_id) = (slow.id, broken.id);
    let (go_on, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let (entered, inside) = channel();
    let (sender, events) = channel();
    let shims = Shims::new(Box::new(move |id, message| {
        if id == slow_id {
            // Until the test has had its answer.
            let _ = entered.send(());
            let _ = wait.lock().expect("one at a time").recv();
        }
        assert!(id != broken_id, "a callback that panics");
        drop(sender.send((id, message)));
    }));
    let shims = shims.expect("monitor");
    for (fixture, script) in [(slow, "true"), (broken, "true"), (other, "sleep 600")] {
        let prepared = shims.prepare(&fork, fixture.start(script));
        shims.start(prepared.expect("a shim"), &[]).expect("start");
    }
    let begun = inside.recv_timeout(PATIENCE);
    begun.expect("the end of the first one is being told of");
    shims
        .kill(&other.id, libc::SIGKILL)
        .expect("an answer all the same");
    drop(go_on);
    let mut told = [(); 2].map(|()| {
        let event = events.recv_timeout(PATIENCE);
        let (id, message) = event.expect("an event");
        assert!(matches!(message, Message::Exited(_)), "{message:?}");
        id
    });
    told.sort();
    let mut expected = [slow.id, other.id];
    expected.sort();
    assert_eq!(told, expected);
}

#[test]
fn with_no_daemon_the_exit_is_written_and_the_shim_leaves() {
    let mut fixture = Fixture::new();
    let start = fixture.start("sleep 0.2; exit 4");
    let (exit_file, runtime_dir) = (start.exit_file.clone(), start.runtime_dir.clone());
    fixture.launch(start, Vec::new());
    fixture.shims = Fixture::new().shims;
    wait_until("there is an exit file", || exit_file.exists());
    let socket = runtime_dir.join(SOCKET);
    wait_until("the shim has left", || fdpass::connect(&socket).is_err());
    fixture
        .shims
        .adopt(fixture.id, &runtime_dir, PATIENCE)
        .expect_err("the shim has left");
    let exit: Exit =
        serde_json::from_slice(&std::fs::read(exit_file).expect("file")).expect("JSON");
    assert_eq!(exit.code, 4);
}

#[test]
fn an_exit_that_cannot_be_written_is_beside_the_socket() {
    let fixture = Fixture::new();
    let mut start = fixture.start("exit 4");
    start.exit_file = fixture.dir.path().join("nosuch/exit.json");
    let spare = start.runtime_dir.join(EXIT);
    fixture.launch(start, Vec::new());
    assert_eq!(fixture.exit().code, 4);
    let exit: Exit = serde_json::from_slice(&std::fs::read(spare).expect("file")).expect("JSON");
    assert_eq!(exit.code, 4);
}

#[test]
fn what_cannot_be_started_is_told() {
    let fixture = Fixture::new();
    let mut start = fixture.start("");
    start.plan.process.args = vec!["nosuch".to_owned()];
    let (ours, theirs) = client();
    let failure = fixture
        .try_launch(start, vec![(output(), theirs)])
        .expect_err("no such program");
    assert_eq!((failure.code, failure.origin), (127, Origin::Runtime));
    assert_eq!(rest(ours), b"");
    assert!(!fixture.shims.is_connected(&fixture.id));
    let spawn = |_: OwnedFd| Err(std::io::Error::other("no keeper"));
    let failure = fixture
        .shims
        .prepare(&spawn, fixture.start(""))
        .expect_err("no keeper");
    assert_eq!(failure.message, "failed to start a shim: no keeper");
}
