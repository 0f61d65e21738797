//! Where a keeper lives and what it leaves: sockets, long paths, nested namespaces, descriptors.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::roles::{Spawned, kill, namespace, start, wait_until};
use moss::engine::leaks;
use moss::userns::idmap::Origin;
use moss::userns::keeper::{Keeper, KeeperError, ShimIdentity, Start};

pub fn makes_its_socket_anew(directory: &Path) {
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

pub fn deleted_and_killed(directory: &Path) {
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

pub fn replaces_a_stale_socket(directory: &Path) {
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

pub fn works_with_one_id(directory: &Path) {
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

pub fn works_in_a_nested_namespace(directory: &Path) {
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

pub fn works_below_a_long_path(directory: &Path) {
    let deep = directory.join("x".repeat(60)).join("y".repeat(60));
    std::fs::create_dir_all(&deep).unwrap();
    let keeper = Keeper::connect_or_start(&start(&deep)).unwrap();
    assert_eq!(Spawned::new(&keeper).place().1, 0);
    keeper.stop(true).unwrap();
}

pub fn keeps_none_of_its_starters_descriptors(directory: &Path) {
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

pub fn runs_from_a_sealed_copy(directory: &Path) {
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

pub fn what_it_leaves_is_found(directory: &Path) {
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
