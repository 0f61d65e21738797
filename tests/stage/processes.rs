//! Its processes: terminals, the small init, exec sessions, joined namespaces, what cannot be started.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use crate::confinement::forbid;
use crate::world::{
    DEFAULT_CAPS, RACE, World, end, exec, exec_only, finish, identity, join, pipes, process, wait,
};
use moss::userns::plan::{MountSource, Namespace};
use moss::userns::seccomp::{self, KernelVersion};
use moss::userns::stage::{self, Phases, Stdio};

pub(crate) fn terminal(world: &World) {
    let mut plan = world.plan(&[
        "sh",
        "-c",
        "tty; stty size; test -c /dev/console && echo console; echo ok >/dev/tty; read x; echo got $x",
    ]);
    plan.process.terminal = true;
    plan.process.console_size = Some((33, 77));
    let running =
        stage::start(&plan, world.rootfs(&world.fresh()), Stdio::Terminal).expect("starts");
    let mut console = std::fs::File::from(running.console.expect("a console"));
    console.write_all(b"hello\n").expect("writes");
    let mut text = Vec::new();
    // A terminal whose last user is gone gives EIO.
    let _ = console.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let text = text.replace("\r\n", "\n");
    // The echo of what was typed comes whenever the line discipline got to it.
    assert!(
        text.replacen("hello\n", "", 1)
            .starts_with("/dev/pts/0\n33 77\nconsole\nok\ngot "),
        "{text}"
    );
    assert!(text.ends_with("got hello\n"), "{text}");
    assert_eq!(wait(running.pid), 0);
}

pub(crate) fn mini_init(world: &World) {
    let run = |script: &str| {
        let mut plan = world.plan(&["sh", "-c", script]);
        plan.init = true;
        world.run(&plan)
    };
    let ended = run(
        "cat /proc/1/comm; tr '\\0' ' ' </proc/1/cmdline; echo; test $$ = 1 || echo not 1; \
         readlink /proc/1/exe; readlink /proc/1/fd/0; cat /proc/1/environ /proc/1/exe; (sleep 0 &) ; exit 7",
    );
    assert!(
        ended.out.starts_with("docker-init\n/sbin/docker-init -- "),
        "{}",
        ended.out
    );
    assert!(ended.out.ends_with("\nnot 1\n"), "{}", ended.out);
    assert_eq!(
        ended.err.matches("Permission denied").count(),
        2,
        "{}",
        ended.err
    );
    assert_eq!(ended.code, 7);
    assert_eq!(run("kill -TERM $$").code, 143);

    let mut plan = world.plan(&[
        "sh",
        "-c",
        "trap 'echo told; exit 9' TERM; echo up; while :; do sleep 0.05; done",
    ]);
    plan.init = true;
    plan.process.seccomp = Some(forbid(libc::SYS_clone3, libc::ENOSYS as u32)); // as Docker's
    let (running, mut pipes) = world.start(&plan).expect("starts");
    let mut up = [0; 3];
    pipes.out.read_exact(&mut up).expect("up");
    rustix::process::pidfd_send_signal(&running.pidfd, rustix::process::Signal::TERM)
        .expect("signals");
    let ended = finish(running, pipes);
    assert_eq!((ended.out.as_str(), ended.code), ("told\n", 9));

    // Control-C reaches the program in the foreground, and init tells of its end.
    let mut plan = world.plan(&["sh", "-c", "echo up; exec sleep 60"]);
    plan.init = true;
    plan.process.terminal = true;
    let running =
        stage::start(&plan, world.rootfs(&world.fresh()), Stdio::Terminal).expect("starts");
    let mut console = std::fs::File::from(running.console.expect("a console"));
    console.read_exact(&mut up).expect("up");
    console.write_all(b"\x03").expect("writes");
    assert_eq!(wait(running.pid), 130);
}

pub(crate) fn exec_sessions(world: &World) {
    let (target, _pipes) = world.start(&world.plan(&["sleep", "60"])).expect("starts");
    let ended = exec(
        &process(&[
            "sh",
            "-c",
            "hostname; id -u; cat /proc/1/comm; pwd; cd /proc/self/fd; echo *; exit 5",
        ]),
        &target,
    )
    .expect("execs");
    assert_eq!(ended.out, "box\n0\nsleep\n/\n0 1 2 3\n");
    assert_eq!(ended.code, 5);
    println!("exec phases: {:?}", ended.running.phases);
    if !world.one_id {
        let mut as_app = process(&[
            "sh",
            "-c",
            "id -un; id -G; grep CapEff /proc/self/status | tr '\t' ' '",
        ]);
        as_app.user = "app".into();
        let ended = exec(&as_app, &target).expect("execs");
        assert_eq!(ended.out, "app\n1000 1001\nCapEff: 0000000000000000\n");
    }
    let error = exec(&process(&["nosuch"]), &target).expect_err("refused");
    assert_eq!(
        (error.message.as_str(), error.code),
        ("exec: \"nosuch\": executable file not found in $PATH", 127)
    );
    let mut elsewhere = process(&["true"]);
    elsewhere.cwd = "/nosuch".into();
    assert_eq!(
        exec(&elsewhere, &target).expect_err("refused").message,
        "chdir to cwd (\"/nosuch\") set in config.json failed: no such file or directory"
    );
    let mut tty = process(&["tty"]);
    tty.terminal = true;
    let running = stage::exec(
        &tty,
        identity(&target),
        target.pidfd.as_fd(),
        Stdio::Terminal,
    )
    .expect("execs");
    let mut text = Vec::new();
    let _ = std::fs::File::from(running.console.expect("console")).read_to_end(&mut text);
    assert_eq!(String::from_utf8_lossy(&text), "/dev/pts/0\r\n");
    assert_eq!(wait(running.pid), 0);
    end(&target);

    // Into a container whose first process is our own non-dumpable init.
    let mut plan = world.plan(&["sleep", "60"]);
    plan.init = true;
    let (target, _pipes) = world.start(&plan).expect("starts");
    let ended = exec(&process(&["cat", "/proc/1/comm"]), &target).expect("execs");
    assert_eq!(ended.out, "docker-init\n");
    end(&target);
}

/// A container may stop whatever enters it before it executes its program.
pub(crate) fn stopped_exec(world: &World) {
    let script = "trap '' TERM; while :; do kill -STOP -1; done";
    let (target, _pipes) = world
        .start(&world.plan(&["sh", "-c", script]))
        .expect("starts");
    // It is a race, which the container wins one time in a few; on a busy machine, in many.
    let until = std::time::Instant::now() + RACE;
    let tries = std::iter::repeat_with(|| exec_only(&process(&["true"]), &target).err());
    let error = tries
        .take_while(|_| std::time::Instant::now() < until)
        .find_map(|error| error)
        .expect("the race is won");
    assert_eq!(
        error.message,
        "the process did not get ready within 10 seconds"
    );
    end(&target);
}

pub(crate) fn joined_namespaces(world: &World) {
    let (target, _pipes) = world.start(&world.plan(&["sleep", "60"])).expect("starts");
    let links = "for n in user pid ipc uts net mnt cgroup; do readlink /proc/self/ns/$n; done";
    let theirs = exec(&process(&["sh", "-c", links]), &target).expect("execs");
    let mut plan = world.plan(&["sh", "-c", &format!("{links}; cat /proc/1/comm; hostname")]);
    join(&mut plan, &target);
    let ended = world.run(&plan);
    let (ours, theirs): (Vec<&str>, Vec<&str>) =
        (ended.out.lines().collect(), theirs.out.lines().collect());
    assert_eq!(ours[..5], theirs[..5]);
    assert_ne!(ours[5..7], theirs[5..7]);
    assert_eq!(ours[7..], ["sleep", "box"]);

    let mut other = world.plan(&["sleep", "60"]);
    other.hostname = Some("second".into());
    let (second, _pipes) = world.start(&other).expect("starts");
    let mut plan = world.plan(&["sh", "-c", "hostname; cat /proc/1/comm; id -u"]);
    join(&mut plan, &target);
    plan.namespaces.uts = Namespace::Join(identity(&second));
    plan.namespaces.pid = Namespace::New;
    assert_eq!(world.run(&plan).out, "second\nsh\n0\n");

    let mut gone = world.plan(&["true"]);
    join(&mut gone, &target);
    let mut of = identity(&target);
    of.start_time += 1;
    gone.namespaces.net = Namespace::Join(of);
    gone.namespaces.user = Namespace::New;
    assert!(world.error(&gone).message.contains("non running container"));
    end(&second);
    end(&target);
}

pub(crate) fn host_namespaces(world: &World) {
    let mut plan = world.plan(&[
        "sh",
        "-c",
        "readlink /proc/self/ns/net; ls /sys/class/net | grep lo",
    ]);
    plan.namespaces.net = Namespace::Host;
    plan.namespaces.uts = Namespace::Host;
    for mount in &mut plan.mounts {
        if mount.target == "/sys" {
            mount.source = MountSource::FromHost {
                path: "/sys".into(),
            };
        }
    }
    plan.mounts.retain(|mount| mount.target != "/sys/fs/cgroup");
    let net = std::fs::read_link("/proc/self/ns/net").expect("link");
    assert_eq!(world.run(&plan).out, format!("{}\nlo\n", net.display()));

    // The fallback: sysfs of another's network namespace cannot be mounted.
    let mut plan = world.plan(&["ls", "/sys/class"]);
    plan.namespaces.net = Namespace::Host;
    let ended = world.run(&plan);
    assert!(ended.out.contains("net"), "{}", ended.out);
    assert_eq!(ended.running.notes.len(), 1, "{:?}", ended.running.notes);

    // Nor can a message queue filesystem or a cgroup tree of the host's.
    let mut plan = world.plan(&["true"]);
    plan.namespaces.ipc = Namespace::Host;
    plan.namespaces.cgroup = Namespace::Host;
    let ended = world.run(&plan);
    assert_eq!((ended.code, ended.running.notes.len()), (0, 2));
    println!("notes: {:?}", ended.running.notes);

    let mut plan = world.plan(&["sh", "-c", "test -d /proc/$PPID/ns && echo host pids"]);
    plan.namespaces.pid = Namespace::Host;
    plan.mounts[0].source = MountSource::FromHost {
        path: "/proc".into(),
    };
    plan.masked_paths.clear();
    plan.readonly_paths.clear();
    assert_eq!(world.run(&plan).code, 0);
}

pub(crate) fn program_errors(world: &World) {
    for (program, text, code) in [
        (
            "nosuch",
            "exec: \"nosuch\": executable file not found in $PATH",
            127,
        ),
        (
            "/nosuch",
            "exec: \"/nosuch\": stat /nosuch: no such file or directory",
            127,
        ),
        ("/etc", "exec: \"/etc\": is a directory", 126),
        (
            "/etc/passwd",
            "exec: \"/etc/passwd\": permission denied",
            126,
        ),
    ] {
        for init in [false, true] {
            let mut plan = world.plan(&[program]);
            plan.init = init;
            let error = world.error(&plan);
            assert_eq!(
                error.message,
                format!("error during container init: {text}")
            );
            assert_eq!(error.code, code);
        }
    }
    let ended = world.run(&world.plan(&["script"]));
    assert_eq!(
        (ended.err.as_str(), ended.code),
        ("exec /bin/script: exec format error\n", 126)
    );
    let ended = world.run(&world.plan(&["foreign"]));
    let host = moss::types::platform::Platform::host();
    assert_eq!(
        (ended.err, ended.code),
        (
            format!(
                "exec /bin/foreign: exec format error: the program is for linux/mips, this host is \
                 {host}\n"
            ),
            126
        )
    );
    let ended = world.run(&world.plan(&["broken"]));
    assert_eq!(
        (ended.err.as_str(), ended.code),
        ("exec /bin/broken: no such file or directory\n", 255)
    );
}

pub(crate) fn disagreeing_streams(world: &World) {
    let mut plan = world.plan(&["true"]);
    let error = stage::spawn(
        &plan,
        world.rootfs(&world.fresh()),
        Vec::new(),
        Stdio::Terminal,
    );
    assert!(error.expect_err("refused").message.contains("disagree"));
    plan.process.terminal = true;
    assert!(world.error(&plan).message.contains("disagree"));
}

pub(crate) fn dropped(world: &World) {
    let (stdio, mut pipes) = pipes();
    let spawned = stage::spawn(
        &world.plan(&["true"]),
        world.rootfs(&world.fresh()),
        Vec::new(),
        stdio,
    )
    .expect("spawns");
    let pid = spawned.pid();
    drop(spawned);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "reaped");
    let mut text = String::new();
    pipes.out.read_to_string(&mut text).expect("reads");
    assert_eq!(text, "", "nobody holds the pipe");
}

pub(crate) fn phases(world: &World) {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("release");
    let kernel = KernelVersion::parse(&kernel).expect("a version");
    let profile = seccomp::docker_default(DEFAULT_CAPS, kernel).expect("a profile");
    let mut plan = world.plan(&["true"]);
    plan.process.seccomp = Some(seccomp::compile(&profile).expect("compiles"));
    let mut all: Vec<Phases> = (0..30).map(|_| world.run(&plan).running.phases).collect();
    let total = |p: &Phases| p.clone + p.map + p.mounts + p.pivot + p.confine + p.exec;
    all.sort_by_key(total);
    let median = all[all.len() / 2];
    let us = |ns: u64| ns / 1000;
    println!(
        "phases (median start of {}, µs): clone {} map {} mounts {} pivot {} confine {} exec {} total {}",
        all.len(),
        us(median.clone),
        us(median.map),
        us(median.mounts),
        us(median.pivot),
        us(median.confine),
        us(median.exec),
        us(total(&median))
    );
}
