//! The keeper from outside: started, joined, killed, replaced, upgraded.
//!
//! This program plays every role itself, as `main.rs` does: it is the tests, the keeper that they
//! start, and (forked from it) a shim that does what its first packet says. So it needs no test
//! harness, and each test that changes its own namespaces runs in a process of its own.
//!
//! `keeper [FILTER]` runs the tests; as root too, with root's id map.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails; its own main hides that"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use moss::engine::leaks;
use moss::sys::{fdpass, pidfd};
use moss::userns::idmap::Origin;
use moss::userns::keeper::{self, Keeper, KeeperError, ShimIdentity, Start};

type Test = fn(&Path);

/// Run in this order, each in a process of its own (`TEST name directory`).
const TESTS: &[(&str, Test)] = &[
    ("spawns_a_shim_inside", spawns_a_shim_inside),
    ("joins_its_namespaces", joins_its_namespaces),
    ("refuses_to_join_with_threads", refuses_to_join_with_threads),
    ("two_starters_find_one_keeper", two_starters_find_one_keeper),
    (
        "killed_it_is_made_anew_from_the_daemons_namespaces",
        killed_and_made_anew_from_inside,
    ),
    (
        "killed_it_is_made_anew_from_a_shims_namespaces",
        killed_and_made_anew_from_a_shim,
    ),
    (
        "kills_what_a_dead_shim_leaves",
        kills_what_a_dead_shim_leaves,
    ),
    ("upgrades_in_place", upgrades_in_place),
    ("holds_the_networks", holds_the_networks),
    (
        "leaves_after_its_grace_period",
        leaves_after_its_grace_period,
    ),
    ("makes_its_socket_anew", makes_its_socket_anew),
    (
        "deleted_and_killed_it_is_made_anew_from_a_shims_namespaces",
        deleted_and_killed,
    ),
    ("replaces_a_stale_socket", replaces_a_stale_socket),
    ("works_with_one_id", works_with_one_id),
    ("works_in_a_nested_namespace", works_in_a_nested_namespace),
    ("works_below_a_long_path", works_below_a_long_path),
    (
        "keeps_none_of_its_starters_descriptors",
        keeps_none_of_its_starters_descriptors,
    ),
    (
        "is_not_stalled_by_who_never_listens",
        is_not_stalled_by_who_never_listens,
    ),
    ("runs_from_a_sealed_copy", runs_from_a_sealed_copy),
    ("what_it_leaves_is_found", what_it_leaves_is_found),
    ("is_quick_and_small", is_quick_and_small),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let status = match &*arguments {
        [title, rest @ ..] if title == keeper::TITLE => {
            keeper::serve(rest, keeper::Roles { shim, slirp: |_| 0 })
        }
        [_, verb, request] if verb == keeper::SETUP => keeper::setup(request),
        [_, verb, name, directory] if verb == "TEST" => {
            let (_, test) = TESTS
                .iter()
                .find(|(known, _)| known == name)
                .expect("a known test");
            test(Path::new(directory));
            0
        }
        [_, verb, directory] if verb == "CONNECT" => {
            let keeper = Keeper::connect_or_start(&start(Path::new(directory))).expect("connect");
            println!("{}", keeper.pid());
            0
        }
        _ => run(&arguments[1..]),
    };
    #[expect(clippy::disallowed_methods, reason = "this is the program's main")]
    std::process::exit(status);
}

/// Runs the tests whose names hold one of `filters`.
fn run(filters: &[String]) -> i32 {
    let filters: Vec<_> = filters
        .iter()
        .filter(|filter| !filter.starts_with('-'))
        .collect();
    let mut failed = 0;
    // Only what the kernel allows: one throw-away child.
    let allowed = Command::new("unshare")
        .args(["-Um", "true"])
        .stderr(Stdio::null())
        .status();
    let allowed = allowed.is_ok_and(|status| status.success());
    for (name, _) in TESTS {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        if !allowed {
            println!("test {name} ... skipped: no user namespaces here");
            continue;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let own = std::env::current_exe().expect("own path");
        let status = Command::new(own)
            .args(["TEST", name])
            .arg(directory.path())
            .status();
        let ok = status.is_ok_and(|status| status.success());
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        failed += i32::from(!ok);
        end_keeper(directory.path());
    }
    i32::from(failed != 0)
}

/// Ends what a test left, by its pid, and waits for that.
fn end_keeper(directory: &Path) {
    for place in ["exec", "data"] {
        if let Some(identity) = keeper::Identity::read(&directory.join(place))
            && let Some(process) = identity.process()
        {
            let _ = pidfd::kill(&process, rustix::process::Signal::KILL);
            wait_until("the keeper ends", || {
                !pidfd::is_alive(&process).unwrap_or(false)
            });
        }
    }
}

/// The shim: answers each packet of `conn`, and leaves at its end.
fn shim([connection, leash]: [OwnedFd; 2]) -> i32 {
    rustix::thread::set_name(c"moss-shim").expect("a name");
    let mut buffer = [0; 256];
    let mut listeners = Vec::new();
    let mut children: Vec<std::process::Child> = Vec::new();
    while let Ok((length @ 1.., _)) = fdpass::receive(&connection, &mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let reply = match text.split_once(' ').unwrap_or((&text, "")) {
            ("where", _) => {
                let uid = rustix::process::getuid().as_raw();
                let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
                format!("{} {uid} {open}", namespace("self"))
            }
            ("listen", path) => {
                listeners.push(fdpass::listen(Path::new(path)).expect("listen"));
                "ok".to_owned()
            }
            ("child", _) => {
                let child = Command::new("/bin/sleep")
                    .arg("600")
                    .spawn()
                    .expect("sleep");
                let pid = child.id();
                let process = pidfd::open(pid.cast_signed()).expect("pidfd");
                fdpass::send(&leash, b"p", &[process.as_fd()]).expect("leash");
                children.push(child);
                pid.to_string()
            }
            ("identify", path) => {
                ShimIdentity::write_own(Path::new(path)).expect("identify");
                "ok".to_owned()
            }
            ("read", path) => std::fs::read_to_string(path).unwrap_or_default(),
            _ => "what?".to_owned(),
        };
        if fdpass::send(&connection, reply.as_bytes(), &[]).is_err() {
            break;
        }
    }
    0
}

/// A shim's other end.
struct Spawned {
    pid: i32,
    connection: OwnedFd,
}

impl Spawned {
    fn new(keeper: &Keeper) -> Self {
        let (connection, theirs) = fdpass::pair().expect("pair");
        let pid = keeper.spawn_shim(&theirs).expect("spawn");
        Self { pid, connection }
    }

    fn ask(&self, question: &str) -> String {
        fdpass::send(&self.connection, question.as_bytes(), &[]).expect("ask");
        let mut buffer = [0; 4096];
        let (length, _) = fdpass::receive(&self.connection, &mut buffer).expect("answer");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// User namespace, uid, open descriptors.
    fn place(&self) -> (u64, u32, usize) {
        let answer = self.ask("where");
        let mut fields = answer.split(' ');
        let mut next = || fields.next().expect("a field");
        (
            next().parse().unwrap(),
            next().parse().unwrap(),
            next().parse().unwrap(),
        )
    }
}

fn start(directory: &Path) -> Start {
    let data = directory.join("data");
    std::fs::create_dir_all(&data).expect("data root");
    Start::new(&directory.join("exec"), Some(&data)).expect("own program")
}

fn namespace(process: &str) -> u64 {
    std::fs::metadata(format!("/proc/{process}/ns/user")).map_or(0, |metadata| metadata.ino())
}

fn kill(pid: i32) {
    let process = pidfd::open(pid).expect("a process");
    pidfd::kill(&process, rustix::process::Signal::KILL).expect("kill");
    wait_until("it ends", || !pidfd::is_alive(&process).unwrap());
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < deadline, "waited 5 s until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn spawns_a_shim_inside(directory: &Path) {
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    let outside = namespace("self");
    let shim = Spawned::new(&keeper);
    let (inside, uid, open) = shim.place();
    assert!(inside != outside && inside != 0);
    assert_eq!(uid, 0);
    // Its standard streams, connection, leash, and the directory that counts them.
    assert_eq!(open, 6);
    assert_eq!(keeper.status().unwrap().shims, [shim.pid]);
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", keeper.pid())).unwrap();
    assert_eq!(comm.trim(), "moss-keeper");
    let title = std::fs::read_to_string(format!("/proc/{}/cmdline", keeper.pid())).unwrap();
    assert!(title.starts_with("moss: keeper\0"));
    let map = shim.ask("read /proc/self/uid_map");
    let lines: Vec<Vec<u32>> = map
        .lines()
        .map(|line| {
            line.split_ascii_whitespace()
                .map(|n| n.parse().unwrap())
                .collect()
        })
        .collect();
    let told = keeper.maps();
    let told: Vec<_> = told
        .mapping
        .uids
        .iter()
        .map(|e| vec![e.inside, e.outside, e.count])
        .collect();
    assert_eq!(lines, told);
    drop(shim);
    wait_until("the shim is reaped", || {
        keeper.status().unwrap().shims.is_empty()
    });
    keeper.stop(false).unwrap();
    wait_until("it is gone", || {
        !directory.join("exec/keeper.sock").exists()
    });
}

fn joins_its_namespaces(directory: &Path) {
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    keeper.join().unwrap();
    assert_eq!(namespace("self"), namespace(&keeper.pid().to_string()));
    assert_eq!(rustix::process::getuid().as_raw(), 0);
    keeper.join().unwrap();
    let file = directory.join("data/file");
    std::fs::write(&file, "").unwrap();
    if !keeper.maps().is_single() {
        std::os::unix::fs::chown(&file, Some(999), Some(999)).unwrap();
    }
    let kind = std::ffi::CString::new("tmpfs").unwrap();
    rustix::mount::mount(
        "none",
        directory,
        kind.as_c_str(),
        rustix::mount::MountFlags::empty(),
        None,
    )
    .unwrap();
}

fn refuses_to_join_with_threads(directory: &Path) {
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || stopped.recv());
    assert!(matches!(keeper.join(), Err(KeeperError::Threads(2))));
    drop(stop);
    let _ = thread.join();
}

fn two_starters_find_one_keeper(directory: &Path) {
    let connect = || {
        let own = std::env::current_exe().unwrap();
        let mut command = Command::new(own);
        command
            .arg("CONNECT")
            .arg(directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let starters: Vec<_> = (0..6).map(|_| connect()).collect();
    let mut pids: Vec<_> = starters
        .into_iter()
        .map(|starter| String::from_utf8(starter.wait_with_output().unwrap().stdout).unwrap())
        .collect();
    pids.dedup();
    assert_eq!(pids.len(), 1, "{pids:?}");
    assert!(pids[0].trim().parse::<i32>().unwrap() > 1);
}

fn killed_and_made_anew_from_inside(directory: &Path) {
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    keeper.join().unwrap();
    let (inside, maps, first) = (namespace("self"), keeper.maps(), keeper.pid());
    kill(first);
    let shim = Spawned::new(&keeper);
    assert_ne!(keeper.pid(), first);
    assert_eq!(shim.place().0, inside);
    assert_eq!(keeper.maps(), maps);
}

fn killed_and_made_anew_from_a_shim(directory: &Path) {
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    let shim = Spawned::new(&keeper);
    let (inside, maps) = (shim.place().0, keeper.maps());
    let home = directory.join("exec/c/some");
    std::fs::create_dir_all(&home).unwrap();
    assert_eq!(
        shim.ask(&format!("listen {}/shim.sock", home.display())),
        "ok"
    );
    kill(keeper.pid());
    drop(keeper);
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    assert_eq!(shim.place().0, inside, "the orphan goes on");
    assert_eq!(Spawned::new(&keeper).place().0, inside);
    assert_eq!(keeper.maps(), maps);
    keeper.join().unwrap();
    assert_eq!(namespace("self"), inside);
    // Once more, with what the first one wrote down lost.
    kill(keeper.pid());
    std::fs::remove_file(directory.join("exec/keeper.json")).unwrap();
    std::fs::remove_file(directory.join("data/keeper.json")).unwrap();
    assert_eq!(Spawned::new(&keeper).place().0, inside);
}

fn kills_what_a_dead_shim_leaves(directory: &Path) {
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    let shim = Spawned::new(&keeper);
    let left = pidfd::open(shim.ask("child").parse().unwrap()).unwrap();
    assert!(pidfd::is_alive(&left).unwrap());
    kill(shim.pid);
    wait_until("it is killed too", || !pidfd::is_alive(&left).unwrap());
    // And reaped: the keeper is its subreaper.
    wait_until("it is reaped", || pidfd::pid(&left).unwrap().is_none());
}

fn upgrades_in_place(directory: &Path) {
    let first = start(directory);
    let keeper = Keeper::connect_or_start(&first).unwrap();
    let shim = Spawned::new(&keeper);
    let left = pidfd::open(shim.ask("child").parse().unwrap()).unwrap();
    let (pid, inside, build) = (keeper.pid(), shim.place().0, keeper.build());
    // Another build: the same program in another file.
    let path = directory.join("newer");
    std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
    let newer = Start {
        program: Arc::new(File::open(&path).unwrap()),
        ..first
    };
    let second = Keeper::connect_or_start(&newer).unwrap();
    assert_eq!(second.pid(), pid);
    assert_ne!(second.build(), build);
    assert_eq!(second.status().unwrap().shims, [shim.pid]);
    assert_eq!(
        keeper.status().unwrap().connections,
        2,
        "the first connection lives on"
    );
    assert_eq!(Spawned::new(&second).place().0, inside);
    kill(shim.pid);
    wait_until("its leash still holds", || !pidfd::is_alive(&left).unwrap());
    // What is no program is refused, and nothing has changed.
    let nonsense = directory.join("nonsense");
    std::fs::write(&nonsense, "x".repeat(100)).unwrap();
    let broken = Start {
        program: Arc::new(File::open(nonsense).unwrap()),
        ..newer
    };
    let refused = Keeper::connect_or_start(&broken).unwrap_err();
    assert!(
        matches!(
            refused,
            KeeperError::Refused {
                operation: "upgrade",
                ..
            }
        ),
        "{refused:?}"
    );
    let _ = Spawned::new(&keeper).place();
    assert_eq!(keeper.pid(), pid);
}

/// A network's namespace outlives the daemon that made it, and the keeper's upgrade; slirp is started
/// with the first network, and again when it dies.
fn holds_the_networks(directory: &Path) {
    let start = start(directory);
    let keeper = Keeper::connect_or_start(&start).expect("connect");
    let namespace = std::fs::File::open("/proc/self/ns/net").expect("a namespace");
    let inode = namespace.metadata().expect("its inode").ino();
    assert!(keeper.namespace("a").expect("an answer").is_none());
    keeper.pin("a", namespace.as_fd()).expect("pin");
    keeper.pin("b", namespace.as_fd()).expect("pin");
    keeper.unpin("b").expect("unpin");
    drop(keeper);
    let keeper = Keeper::connect_or_start(&start).expect("connect again");
    keeper.upgrade().expect("upgrade");
    let held = keeper
        .namespace("a")
        .expect("an answer")
        .expect("a namespace");
    let held = std::fs::File::from(held).metadata().expect("its inode");
    assert_eq!(held.ino(), inode);
    assert_eq!(keeper.status().expect("a status").networks, ["a"]);
    // What plays slirp here leaves at once; the keeper serves on.
    keeper
        .tell_slirp(serde_json::json!({"unknown": {}}), &[namespace.as_fd()])
        .expect("telling");
}

fn leaves_after_its_grace_period(directory: &Path) {
    let start = Start {
        grace: Duration::from_millis(150),
        ..start(directory)
    };
    let keeper = Keeper::connect_or_start(&start).unwrap();
    let process = keeper.process();
    std::thread::sleep(Duration::from_millis(400));
    assert!(pidfd::is_alive(&*process).unwrap(), "a connection holds it");
    let shim = Spawned::new(&keeper);
    drop(keeper);
    std::thread::sleep(Duration::from_millis(400));
    assert!(pidfd::is_alive(&*process).unwrap(), "a shim holds it");
    drop(shim);
    wait_until("it leaves", || !pidfd::is_alive(&*process).unwrap());
    assert!(!directory.join("exec/keeper.sock").exists());
    assert!(!directory.join("exec/keeper.json").exists());
    assert!(!directory.join("data/keeper.json").exists());
}

fn makes_its_socket_anew(directory: &Path) {
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    let pid = keeper.pid();
    // As logind does with the last session.
    std::fs::remove_dir_all(directory.join("exec")).unwrap();
    let again = Keeper::connect_or_start(&start(directory)).unwrap();
    assert_eq!(again.pid(), pid);
    assert_eq!(again.status().unwrap().connections, 2);
    std::fs::remove_dir_all(directory.join("exec")).unwrap();
    // Who only wants the one that is there finds it too.
    let found = Keeper::connect(&start(directory)).unwrap();
    assert_eq!(found.map(|found| found.pid()), Some(pid));
}

fn deleted_and_killed(directory: &Path) {
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    let shim = Spawned::new(&keeper);
    let inside = shim.place().0;
    let home = directory.join("data/containers/abc");
    std::fs::create_dir_all(&home).unwrap();
    let file = home.join(ShimIdentity::FILE);
    assert_eq!(shim.ask(&format!("identify {}", file.display())), "ok");
    std::fs::remove_dir_all(directory.join("exec")).unwrap();
    kill(keeper.pid());
    drop(keeper);
    assert!(Keeper::connect(&start(directory)).unwrap().is_none());
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    assert_eq!(Spawned::new(&keeper).place().0, inside);
}

fn is_not_stalled_by_who_never_listens(directory: &Path) {
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    let deaf = fdpass::connect(&directory.join("exec/keeper.sock")).unwrap();
    rustix::io::ioctl_fionbio(&deaf, true).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        match fdpass::send(&deaf, b"\"status\"", &[]) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            // It was shown the door.
            Err(_) => break,
        }
    }
    // It answers, and once it has read what the deaf one had sent before, that one is gone.
    wait_until("the deaf one is gone", || {
        keeper.status().unwrap().connections == 1
    });
}

fn replaces_a_stale_socket(directory: &Path) {
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    let first = keeper.pid();
    kill(first);
    drop(keeper);
    assert!(directory.join("exec/keeper.sock").exists());
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    assert_ne!(keeper.pid(), first);
    // A directory that others can write to is not used.
    let open = directory.join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let refused = Keeper::connect_or_start(&Start::new(&open, None).unwrap()).unwrap_err();
    assert!(matches!(refused, KeeperError::RuntimeDir { .. }));
}

fn works_with_one_id(directory: &Path) {
    if rustix::process::geteuid().is_root() {
        println!("  (skipped as root, who needs nobody's leave)");
        return;
    }
    // newuidmap gains nothing where no program may gain privileges.
    rustix::thread::set_no_new_privs(true).unwrap();
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    let maps = keeper.maps();
    assert!(maps.is_single() && maps.mapping.deny_setgroups, "{maps:?}");
    let Origin::Single { reason } = maps.origin else {
        panic!("{maps:?}")
    };
    assert!(
        ["newuidmap", "newgidmap", "/etc/subuid"]
            .iter()
            .any(|word| reason.contains(word)),
        "{reason}"
    );
    assert_eq!(Spawned::new(&keeper).place().1, 0);
    keeper.join().unwrap();
}

fn works_in_a_nested_namespace(directory: &Path) {
    // The test's own process becomes root in a namespace of its own, as in a container.
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).unwrap();
    std::fs::write("/proc/self/setgroups", "deny").unwrap();
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).unwrap();
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).unwrap();
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    assert!(keeper.maps().mapping.deny_setgroups);
    assert_eq!(keeper.maps().mapping.uids[0].inside, 0);
    keeper.join().unwrap();
    assert_eq!(Spawned::new(&keeper).place().0, namespace("self"));
    // Only this namespace's root can end it: the outer user's other tests cannot see it by 0.
    keeper.stop(true).unwrap();
}

fn works_below_a_long_path(directory: &Path) {
    let deep = directory.join("x".repeat(60)).join("y".repeat(60));
    std::fs::create_dir_all(&deep).unwrap();
    let keeper = Keeper::connect_or_start(&start(&deep)).unwrap();
    assert_eq!(Spawned::new(&keeper).place().1, 0);
    keeper.stop(true).unwrap();
}

fn keeps_none_of_its_starters_descriptors(directory: &Path) {
    let (mut read, write) = std::io::pipe().unwrap();
    let mut starter = Command::new(std::env::current_exe().unwrap());
    starter.arg("CONNECT").arg(directory).stdout(write);
    let mut child = starter.spawn().unwrap();
    drop(starter);
    let mut said = String::new();
    read.read_to_string(&mut said)
        .expect("the pipe ends though the keeper lives");
    child.wait().unwrap();
    let pid = said.trim();
    assert_eq!(
        std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        PathBuf::from("/")
    );
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert_eq!(environment, b"");
    for number in 0..3 {
        let target = std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
        assert_eq!(target, PathBuf::from("/dev/null"));
    }
    // Listening socket, signalfd; the starter's connection ends with it.
    wait_until("only its own are open", || {
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count()
            == 5
    });
}

fn runs_from_a_sealed_copy(directory: &Path) {
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    keeper.join().unwrap();
    let program = format!("/proc/{}/exe", keeper.pid());
    let target = std::fs::read_link(&program).unwrap();
    assert!(
        target.to_string_lossy().starts_with("/memfd:moss"),
        "{target:?}"
    );
    // Not while it runs, and, by its seals, never.
    let opened = File::options().write(true).open(&program);
    let written = opened.and_then(|mut file| file.write_all(b"x"));
    assert!(written.is_err());
}

fn what_it_leaves_is_found(directory: &Path) {
    let (data, exec) = (directory.join("data"), directory.join("exec"));
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    let shim = Spawned::new(&keeper);
    let child: i32 = shim.ask("child").parse().unwrap();
    // Any keeper of this user without an exec root is found, one of a program that runs beside
    // this one too: what counts here are the directories and processes of this test.
    let pids = [keeper.pid(), shim.pid, child].map(|pid| pid.to_string());
    let found = || -> Vec<String> {
        let leaks = leaks::find(&data, &exec);
        // The record here only has to be there.
        let leaks = leaks
            .iter()
            .filter(|leak| !leak.why.contains("the engine cannot use"));
        let ours = leaks.filter(|leak| {
            let pid = leak.what.split(' ').next().unwrap();
            Path::new(&leak.what).starts_with(directory) || pids.iter().any(|own| own == pid)
        });
        ours.map(ToString::to_string).collect()
    };
    assert_eq!(found(), [""; 0]);

    let runtime = exec.join("c/abc");
    std::fs::create_dir_all(&runtime).unwrap();
    shim.ask(&format!("listen {}/shim.sock", runtime.display()));
    let shim_line = format!(
        "process    {} (moss-shim): its container abc has no record",
        shim.pid
    );
    assert_eq!(found()[0], shim_line);
    assert!(found().iter().any(|line| line.starts_with("directory")));
    let record = data.join("containers/abc");
    std::fs::create_dir_all(&record).unwrap();
    std::fs::write(record.join("record.json"), "{}").unwrap();
    assert_eq!(found(), [""; 0]);
    // Deleted under them, the exec root hides nothing and accuses nobody.
    std::fs::remove_dir_all(&exec).unwrap();
    assert_eq!(found(), [""; 0]);
    let hidden = directory.join("hidden");
    std::fs::rename(&record, &hidden).unwrap();
    assert_eq!(found()[0], shim_line);
    std::fs::rename(&hidden, &record).unwrap();

    // With keeper and shim killed, nobody is left to end what ran.
    kill(keeper.pid());
    assert_eq!(found(), [""; 0]);
    kill(shim.pid);
    let left = format!("process    {child} (/bin/sleep 600): neither the daemon nor a shim has it");
    assert_eq!(found(), [left]);
    kill(child);
    assert_eq!(found(), [""; 0]);
}

fn is_quick_and_small(directory: &Path) {
    let begun = Instant::now();
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    let started = begun.elapsed();
    let begun = Instant::now();
    let _again = Keeper::connect_or_start(&start(directory)).unwrap();
    let connected = begun.elapsed();
    let mut times = Vec::new();
    let mut shims = Vec::new();
    for _ in 0..50 {
        let (connection, theirs) = fdpass::pair().unwrap();
        let begun = Instant::now();
        let pid = keeper.spawn_shim(&theirs).unwrap();
        times.push(begun.elapsed());
        shims.push(Spawned { pid, connection });
    }
    times.sort();
    let share = |pid: i32| -> u64 {
        let path = format!("/proc/{pid}/smaps_rollup");
        let rollup = std::fs::read_to_string(path).unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let digits = line.map(|line| line.trim().trim_end_matches(" kB"));
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    };
    for shim in &shims {
        assert_eq!(shim.place().1, 0);
    }
    let average = shims.iter().map(|shim| share(shim.pid)).sum::<u64>() / 50;
    println!(
        "  start {started:.1?}, connect {connected:.1?}, spawn median {:.0?} p90 {:.0?}, \
         shim {average} KiB PSS over 50, keeper {} KiB",
        times[25],
        times[45],
        share(keeper.pid()),
    );
    // Generous, for machines under load; the figures above are for people to read.
    assert!(times[25] < Duration::from_millis(5));
    assert!(average < 1024);
    drop(shims);
    wait_until("all are reaped", || {
        keeper.status().unwrap().shims.is_empty()
    });
    assert_eq!(keeper.status().unwrap().forked, 50);
}
