//! What a container and its clients count on.

use std::io::Write;
use std::net::Shutdown;
use std::time::Instant;

use crate::world::{
    PATIENCE, World, both, client, gone, median, open_descriptors, process, rest, send,
    shows_figures, wait_until,
};
use moss::container::protocol::Message;
use moss::userns::keeper;
use moss::userns::plan::Namespace;

pub fn runs(world: &World) {
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

pub fn refusals(world: &World) {
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

pub fn terminal(world: &World) {
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

pub fn killed(world: &World) {
    let container = world.container();
    let launched = container
        .launch(container.start("sleep 600"), Vec::new())
        .expect("launch");
    send(world.last_shim(), libc::SIGKILL);
    assert!(matches!(container.event(), Message::Lost));
    gone(launched.started.pid);
}

pub fn runtime_directory(world: &World) {
    let container = world.container();
    let start = container.start("sleep 600");
    let run = start.runtime_dir.clone();
    container.launch(start, Vec::new()).expect("launch");
    let living = || keeper::ShimIdentity::living(&container.dir).map(|(pid, _)| pid);
    assert_eq!(living(), Some(world.last_shim()));
    std::fs::remove_dir_all(&run).expect("remove");
    send(world.last_shim(), libc::SIGUSR1);
    let socket = run.join("shim.sock");
    wait_until("there is a socket", || socket.exists());
    let state = container
        .daemon
        .adopt(container.id, &run, PATIENCE)
        .expect("adopt");
    assert_eq!(state.pid, world.last_shim());
    container
        .daemon
        .kill(&container.id, libc::SIGKILL)
        .expect("kill");
    assert_eq!(container.exit().code, 137);
    container.end(world.last_shim());
}

pub fn signals(world: &World) {
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

pub fn execs(world: &World) {
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
    wait_until("200 execs left no descriptor", || {
        open_descriptors(shim) <= before
    });
    let state = container
        .daemon
        .adopt(container.id, &container.dir.join("run"), PATIENCE)
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

pub fn shared_pids(world: &World) {
    let container = world.container();
    let (ours, theirs) = client();
    // Without the mount of a proc of its own: that needs a pid namespace of its own.
    let mut start = container.start("sleep 601 & echo $!; exit 2");
    start.plan.namespaces.pid = Namespace::Host;
    start.plan.mounts.remove(0);
    container
        .launch(start, vec![(both(), theirs)])
        .expect("launch");
    assert_eq!(container.exit().code, 2);
    let pid: i32 = String::from_utf8_lossy(&rest(ours))
        .trim()
        .parse()
        .expect("a pid");
    gone(pid);
    container.end(world.last_shim());
}
