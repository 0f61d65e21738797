//! Its life: started, joined, killed, replaced, upgraded, left alone.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::roles::{Spawned, kill, namespace, start, wait_until};
use moss::sys::{fdpass, pidfd};
use moss::userns::keeper::{Keeper, KeeperError, Start};

pub fn spawns_a_shim_inside(directory: &Path) {
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

pub fn joins_its_namespaces(directory: &Path) {
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

pub fn refuses_to_join_with_threads(directory: &Path) {
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || stopped.recv());
    assert!(matches!(keeper.join(), Err(KeeperError::Threads(2))));
    drop(stop);
    let _ = thread.join();
}

pub fn two_starters_find_one_keeper(directory: &Path) {
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

pub fn killed_and_made_anew_from_inside(directory: &Path) {
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    keeper.join().unwrap();
    let (inside, maps, first) = (namespace("self"), keeper.maps(), keeper.pid());
    kill(first);
    let shim = Spawned::new(&keeper);
    assert_ne!(keeper.pid(), first);
    assert_eq!(shim.place().0, inside);
    assert_eq!(keeper.maps(), maps);
}

pub fn killed_and_made_anew_from_a_shim(directory: &Path) {
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

pub fn kills_what_a_dead_shim_leaves(directory: &Path) {
    let keeper = Keeper::connect_or_start(&start(directory)).unwrap();
    let shim = Spawned::new(&keeper);
    let pid = shim.ask("child").parse().unwrap();
    let left = pidfd::open(pid).unwrap();
    assert!(pidfd::is_alive(&left).unwrap());
    kill(shim.pid);
    wait_until("it is killed too", || !pidfd::is_alive(&left).unwrap());
    // And reaped: the keeper is its subreaper.
    let place = format!("/proc/{pid}");
    wait_until("it is reaped", || !Path::new(&place).exists());
}

pub fn upgrades_in_place(directory: &Path) {
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
pub fn holds_the_networks(directory: &Path) {
    let start = start(directory);
    let keeper = Keeper::connect_or_start(&start).expect("connect");
    let namespace = File::open("/proc/self/ns/net").expect("a namespace");
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
    let held = File::from(held).metadata().expect("its inode");
    assert_eq!(held.ino(), inode);
    assert_eq!(keeper.status().expect("a status").networks, ["a"]);
    // What plays slirp here leaves at once; the keeper serves on.
    keeper
        .tell_slirp(serde_json::json!({"unknown": {}}), &[namespace.as_fd()])
        .expect("telling");
}

pub fn leaves_after_its_grace_period(directory: &Path) {
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

pub fn is_not_stalled_by_who_never_listens(directory: &Path) {
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

pub fn is_small(directory: &Path) {
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
    // The times are for people to read.
    assert!(average < 1024, "{average} KiB");
    drop(shims);
    wait_until("all are reaped", || {
        keeper.status().unwrap().shims.is_empty()
    });
    assert_eq!(keeper.status().unwrap().forked, 50);
}
