//! The shim with real containers: forked by a keeper, on an overlay, in namespaces.
//!
//! This program plays every role itself, as `main.rs` does: it is the tests (and in them the
//! daemon), the keeper that they start, and, forked from that, the shims. It says so and passes
//! where the host has no busybox or allows no user namespaces.
//!
//! An argument that is no option selects cases by name; `--nocapture` shows figures.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use moss::container::client::{Launched, Shims};
use moss::container::logs::{Query, Reader, Record};
use moss::container::protocol::{Attach, Exit, Failure, LogTarget, Message, Start};
use moss::container::shim;
use moss::overlay::{Driver, Rootfs};
use moss::sys::{pidfd, signal};
use moss::types::id::ContainerId;
use moss::userns::keeper::{self, Keeper};
use moss::userns::plan::{
    CapabilitySets, Extent, IdMapping, Mount, MountFlags, MountSource, Namespace, Namespaces, Plan,
    Process,
};

type Case = fn(&World);

const CASES: &[(&str, Case)] = &[
    ("a_container_runs_and_its_end_is_told", runs),
    ("what_the_stage_refuses_is_told", refusals),
    ("a_terminal_takes_input_and_sizes", terminal),
    ("a_killed_shim_takes_its_container_along", killed),
    (
        "a_deleted_runtime_directory_is_made_anew",
        runtime_directory,
    ),
    ("signals_to_the_shim_change_nothing", signals),
    ("execs_leave_nothing_behind", execs),
    ("orphans_end_with_a_container_that_shares_pids", shared_pids),
    ("shims_are_small", small),
    ("output_is_fast", fast),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let status = match &*arguments {
        [title, rest @ ..] if title == keeper::TITLE => keeper::serve(
            rest,
            keeper::Roles {
                shim: run_shim,
                slirp: |_| 0,
            },
        ),
        [_, verb, request] if verb == keeper::SETUP => keeper::setup(request),
        [_, flag] if flag == "--list" => {
            for (name, _) in CASES {
                println!("{name}: test");
            }
            0
        }
        _ => run(&arguments[1..]),
    };
    #[expect(clippy::disallowed_methods, reason = "this is the program's main")]
    std::process::exit(status);
}

fn run_shim([conn, leash]: [OwnedFd; 2]) -> i32 {
    shim::run(conn, leash)
}

fn run(arguments: &[String]) -> i32 {
    if !Path::new("/bin/busybox").exists() {
        println!("skipped: no /bin/busybox (package busybox-static)");
        return 0;
    }
    let allowed = Command::new("unshare")
        .args(["-Um", "true"])
        .stderr(Stdio::null())
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        println!("skipped: no user namespaces here");
        return 0;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let world = World::new();
    let mut failed = 0;
    for (name, case) in CASES {
        if filter.is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&world)));
        println!(
            "test {name} ... {}",
            if outcome.is_ok() { "ok" } else { "FAILED" }
        );
        failed += i32::from(outcome.is_err());
    }
    // Shims that a failed case left go with their containers.
    for pid in world.shims.lock().expect("no panic while held").iter() {
        if let Ok(process) = pidfd::open(*pid) {
            let _ = pidfd::kill(process, rustix::process::Signal::KILL);
        }
    }
    let _ = world.keeper.stop(true);
    i32::from(failed != 0)
}

/// A keeper, and layers.
struct World {
    keeper: Keeper,
    dir: tempfile::TempDir,
    shims: Mutex<Vec<i32>>,
    /// What each fork of a shim took, in microseconds.
    forks: Mutex<Vec<u128>>,
}

/// A daemon with one container.
struct Container<'a> {
    world: &'a World,
    id: ContainerId,
    dir: PathBuf,
    daemon: Shims,
    events: Receiver<Message>,
}

impl World {
    fn new() -> Self {
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

    fn container(&self) -> Container<'_> {
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
    fn last_shim(&self) -> i32 {
        *self
            .shims
            .lock()
            .expect("no panic while held")
            .last()
            .expect("a shim")
    }
}

impl Container<'_> {
    fn start(&self, script: &str) -> Start {
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
            runtime_dir: self.dir.join("run"),
            exit_file: self.dir.join("exit.json"),
            identity_file: self.dir.join("shim.json"),
        }
    }

    fn launch(&self, start: Start, clients: Vec<(Attach, OwnedFd)>) -> Result<Launched, Failure> {
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

    fn event(&self) -> Message {
        self.events
            .recv_timeout(Duration::from_secs(20))
            .expect("an event")
    }

    fn exit(&self) -> Exit {
        match self.event() {
            Message::Exited(exit) => exit,
            other => panic!("{other:?} instead of an exit"),
        }
    }

    /// Lets the shim go and waits until it has gone.
    fn end(&self, shim: i32) {
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

fn process(script: &str) -> Process {
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

fn both() -> Attach {
    Attach {
        stdin: true,
        stdout: true,
        stderr: true,
        ..Attach::default()
    }
}

fn client() -> (UnixStream, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().expect("socketpair");
    ours.set_read_timeout(Some(Duration::from_secs(30)))
        .expect("timeout");
    (ours, theirs.into())
}

fn rest(mut client: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).expect("an orderly end");
    bytes
}

/// Waits until a process has gone.
fn gone(pid: i32) {
    let until = Instant::now() + Duration::from_secs(10);
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < until, "process {pid} is still there");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn open_descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("fd")
        .count()
}

fn send(pid: i32, number: i32) {
    signal::send(pidfd::open(pid).expect("pidfd").as_fd(), number).expect("signal");
}

fn shows_figures() -> bool {
    std::env::args().any(|argument| argument == "--nocapture")
}

fn median(mut of: Vec<u128>) -> u128 {
    of.sort_unstable();
    of[of.len() / 2]
}

fn runs(world: &World) {
    let (mut started, mut whole) = (Vec::new(), Vec::new());
    let mut phases = Vec::new();
    for _ in 0..20 {
        let container = world.container();
        let (ours, theirs) = client();
        let begun = Instant::now();
        let launched = container.launch(container.start("echo hi; exit 3"), vec![(both(), theirs)]);
        let launched = launched.expect("launch");
        started.push(begun.elapsed().as_micros());
        assert_eq!(rest(ours), b"hi\n");
        assert_eq!(container.exit().code, 3);
        whole.push(begun.elapsed().as_micros());
        assert!(container.dir.join("exit.json").exists());
        container.end(world.last_shim());
        phases = launched.phases;
    }
    if shows_figures() {
        let (started, whole) = (median(started), median(whole));
        let fork = median(world.forks.lock().expect("no panic while held").clone());
        println!(
            "median of 20: forked {fork} us, started {started} us, told of its end {whole} us"
        );
        println!("phases of the last, in us:");
        for (name, nanos) in phases {
            println!("    {name} {}", nanos / 1000);
        }
    }
}

fn refusals(world: &World) {
    let container = world.container();
    let mut start = container.start("");
    start.plan.process.args = vec!["nosuch".to_owned()];
    let failure = container
        .launch(start, Vec::new())
        .expect_err("no such program");
    assert!(
        failure
            .message
            .contains("\"nosuch\": executable file not found in $PATH"),
        "{failure:?}"
    );
    assert_eq!(failure.code, 127);
    gone(world.last_shim());
}

fn terminal(world: &World) {
    let container = world.container();
    let (mut ours, theirs) = client();
    let mut start = container.start("read a; stty size; echo bye");
    start.open_stdin = true;
    start.plan.process.terminal = true;
    container
        .launch(start, vec![(both(), theirs)])
        .expect("launch");
    container
        .daemon
        .resize(&container.id, None, 31, 91)
        .expect("resize");
    ours.write_all(b"\n").expect("write");
    assert_eq!(String::from_utf8_lossy(&rest(ours)), "\r\n31 91\r\nbye\r\n");
    assert_eq!(container.exit().code, 0);
    container.end(world.last_shim());
}

fn killed(world: &World) {
    let container = world.container();
    let launched = container
        .launch(container.start("sleep 600"), Vec::new())
        .expect("launch");
    send(world.last_shim(), libc::SIGKILL);
    assert!(matches!(container.event(), Message::Lost));
    gone(launched.started.pid);
}

fn runtime_directory(world: &World) {
    let container = world.container();
    let start = container.start("sleep 600");
    let run = start.runtime_dir.clone();
    container.launch(start, Vec::new()).expect("launch");
    let living = || keeper::ShimIdentity::living(&container.dir).map(|(pid, _)| pid);
    assert_eq!(living(), Some(world.last_shim()));
    std::fs::remove_dir_all(&run).expect("remove");
    send(world.last_shim(), libc::SIGUSR1);
    let until = Instant::now() + Duration::from_secs(5);
    while !run.join("shim.sock").exists() {
        assert!(Instant::now() < until, "no socket");
        std::thread::sleep(Duration::from_millis(2));
    }
    let state = container
        .daemon
        .adopt(container.id, &run, Duration::from_secs(60))
        .expect("adopt");
    assert_eq!(state.pid, world.last_shim());
    container
        .daemon
        .kill(&container.id, libc::SIGKILL)
        .expect("kill");
    assert_eq!(container.exit().code, 137);
    container.end(world.last_shim());
}

fn signals(world: &World) {
    let container = world.container();
    container
        .launch(container.start("sleep 600"), Vec::new())
        .expect("launch");
    for number in [
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGHUP,
        libc::SIGQUIT,
        libc::SIGPIPE,
    ] {
        send(world.last_shim(), number);
    }
    // Real-time signals too reach the container.
    container
        .daemon
        .kill(&container.id, 0)
        .expect("still there");
    container
        .daemon
        .kill(&container.id, libc::SIGRTMIN() + 3)
        .expect("kill");
    container
        .daemon
        .kill(&container.id, libc::SIGKILL)
        .expect("kill");
    assert_eq!(container.exit().code, 137);
    container.end(world.last_shim());
}

fn execs(world: &World) {
    let container = world.container();
    container
        .launch(container.start("sleep 600"), Vec::new())
        .expect("launch");
    let shim = world.last_shim();
    let mut times = Vec::new();
    let before = open_descriptors(shim);
    for round in 0..200 {
        let begun = Instant::now();
        let (ours, theirs) = client();
        let id = format!("exec{round}");
        let script = process("cat; exit 7");
        container
            .daemon
            .exec(&container.id, &id, &script, Some((both(), theirs)))
            .expect("exec");
        (&ours).write_all(b"in").expect("write");
        ours.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(rest(ours), b"in");
        times.push(begun.elapsed().as_micros());
        assert!(matches!(
            container.event(),
            Message::ExecExited { code: 7, .. }
        ));
    }
    let mut nosuch = process("");
    nosuch.args = vec!["nosuch".to_owned()];
    let (ours, theirs) = client();
    let failure = container
        .daemon
        .exec(&container.id, "bad", &nosuch, Some((both(), theirs)));
    let failure = failure.expect_err("no such program");
    assert_eq!(
        failure.message,
        "OCI runtime exec failed: exec failed: unable to start container process: \
         exec: \"nosuch\": executable file not found in $PATH: unknown"
    );
    assert_eq!(failure.code, 127);
    assert_eq!(
        String::from_utf8_lossy(&rest(ours)),
        failure.message + "\r\n"
    );
    // The last client hears of its end a moment before the shim closes its descriptors.
    let until = Instant::now() + Duration::from_secs(5);
    while open_descriptors(shim) > before {
        assert!(Instant::now() < until, "descriptors left after 200 execs");
        std::thread::sleep(Duration::from_millis(2));
    }
    let state = container
        .daemon
        .adopt(
            container.id,
            &container.dir.join("run"),
            Duration::from_secs(60),
        )
        .expect("adopt");
    assert!(state.execs.is_empty(), "{state:?}");
    let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children"));
    assert_eq!(children.expect("children").split_whitespace().count(), 1);
    if shows_figures() {
        println!(
            "exec of a shell and cat, to the end of its stream: {} us",
            median(times)
        );
    }
    container
        .daemon
        .kill(&container.id, libc::SIGKILL)
        .expect("kill");
    assert_eq!(container.exit().code, 137);
    container.end(shim);
}

fn shared_pids(world: &World) {
    let container = world.container();
    let (ours, theirs) = client();
    // Without the mount of a proc of its own: that needs a pid namespace of its own.
    let mut start = container.start("sleep 601 & echo $!; exit 2");
    start.plan.namespaces.pid = Namespace::Host;
    start.plan.mounts.remove(0);
    let begun = Instant::now();
    container
        .launch(start, vec![(both(), theirs)])
        .expect("launch");
    assert_eq!(container.exit().code, 2);
    let pid: i32 = String::from_utf8_lossy(&rest(ours))
        .trim()
        .parse()
        .expect("a pid");
    gone(pid);
    assert!(begun.elapsed() < Duration::from_secs(5));
    container.end(world.last_shim());
}

fn small(world: &World) {
    let containers: Vec<_> = (0..50)
        .map(|_| {
            let container = world.container();
            let start = container.start("echo hello; exec sleep 600");
            container.launch(start, Vec::new()).expect("launch");
            (container, world.last_shim())
        })
        .collect();
    // Past the second after which a shim gives back what it only needed while busy.
    std::thread::sleep(Duration::from_millis(1500));
    let memory = |pid: i32, field: &str| -> u64 {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps");
        let line = rollup
            .lines()
            .find(|line| line.starts_with(field))
            .expect("a field");
        line.split_whitespace()
            .nth(1)
            .expect("a number")
            .parse()
            .expect("a number")
    };
    let total: u64 = containers
        .iter()
        .map(|(_, shim)| memory(*shim, "Pss:"))
        .sum();
    let average = total / containers.len() as u64;
    if shows_figures() {
        let private = memory(containers[0].1, "Private_Dirty:");
        println!("PSS of a shim among 50: {average} KiB, of which its own: {private} KiB");
    }
    // 0.3 MiB is what an idle shim may cost; an unoptimised build is no larger.
    assert!(average <= 300, "{average} KiB on average");
    for (container, shim) in &containers {
        container
            .daemon
            .kill(&container.id, libc::SIGKILL)
            .expect("kill");
        assert_eq!(container.exit().code, 137);
        container.end(*shim);
    }
}

fn fast(world: &World) {
    // A little suffices to see that it works; figures want more, of an optimised build.
    let rounds = if shows_figures() { 64 } else { 1 };
    let text = format!("{}\n", "x".repeat(99)).repeat(160 * 1024);
    std::fs::write(world.dir.path().join("layer/text"), &text).expect("write");
    for logged in [false, true] {
        let container = world.container();
        let (ours, theirs) = client();
        let script = format!("for i in $(seq {rounds}); do cat /text; done");
        let mut start = container.start(&script);
        if !logged {
            start.log = None;
        }
        let begun = Instant::now();
        container
            .launch(start, vec![(both(), theirs)])
            .expect("launch");
        let mut ours = ours;
        let (mut total, mut buffer) = (0, vec![0; 256 * 1024]);
        while let n @ 1.. = ours.read(&mut buffer).expect("read") {
            total += n;
        }
        let seconds = begun.elapsed().as_secs_f64();
        assert_eq!(total, rounds * text.len());
        assert_eq!(container.exit().code, 0);
        if shows_figures() {
            let rate = total as f64 / seconds / 1e6;
            println!(
                "{rate:.0} MB/s to a client{}",
                if logged { " and the log" } else { "" }
            );
        }
        container.end(world.last_shim());
    }
    let container = world.container();
    let lines = if shows_figures() { 1_000_000 } else { 10_000 };
    let begun = Instant::now();
    container
        .launch(container.start(&format!("seq {lines}")), Vec::new())
        .expect("launch");
    assert_eq!(container.exit().code, 0);
    let written = begun.elapsed();
    let path = container.dir.join("json.log");
    let size = path.metadata().expect("log").len();
    let begun = Instant::now();
    let query = Query {
        stdout: true,
        stderr: true,
        ..Query::default()
    };
    let mut reader = Reader::open(&path, query, None).expect("open");
    let (mut count, mut record) = (0, Record::default());
    while reader.read(&mut record).expect("read") {
        count += 1;
    }
    let read = begun.elapsed();
    assert_eq!(count, lines);
    let tail = Query {
        tail: Some(10),
        ..query
    };
    let begun = Instant::now();
    let mut reader = Reader::open(&path, tail, None).expect("open");
    while reader.read(&mut record).expect("read") {}
    if shows_figures() {
        println!(
            "{lines} lines logged in {written:?} ({:.0} MB/s of log), read in {read:?}, tail in {:?}",
            size as f64 / written.as_secs_f64() / 1e6,
            begun.elapsed()
        );
    }
    container.end(world.last_shim());
}
