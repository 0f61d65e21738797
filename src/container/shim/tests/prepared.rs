//! Starts in two halves.

use rustix::event::{PollFd, PollFlags, poll};

use super::*;
use crate::sys::fdpass::pair;

#[test]
fn what_is_prepared_runs_when_it_is_started() {
    let fixture = Fixture::new();
    let mark = fixture.dir.path().join("ran");
    let start = fixture.start(&format!("echo ran >>{}; echo out", mark.display()));
    let prepared = fixture.shims.prepare(&fork, start).expect("prepared");
    std::thread::sleep(Duration::from_millis(100));
    assert!(!mark.exists());
    let (ours, theirs) = client();
    let clients = [(output(), theirs)];
    let launched = fixture.shims.start(prepared, &clients).expect("started");
    drop(clients);
    assert_eq!(frames(&rest(ours)).0, b"out\n");
    assert!(fixture.exit().at >= launched.started.at);
    assert_eq!(std::fs::read(&mark).expect("the mark"), b"ran\n");
}

#[test]
fn what_could_not_be_prepared_is_told_at_the_start() {
    let fixture = Fixture::new();
    let mut start = fixture.start("");
    start.plan.process.cwd = "/nosuch".to_owned();
    let prepared = fixture.shims.prepare(&fork, start).expect("a shim");
    let NotStarted { failure, never_ran } = fixture
        .shims
        .start(prepared, &[])
        .expect_err("not prepared");
    assert_eq!(failure.message, "no directory /nosuch");
    assert!(never_ran);
}

#[test]
fn a_shim_whose_start_nobody_wants_leaves() {
    let fixture = Fixture::new();
    let (sender, left) = channel();
    let spawn = |conn: OwnedFd| {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let served = Shim::new(Ordinary, conn, None).and_then(|mut shim| shim.serve());
            sender.send(served.is_ok())
        });
        Ok(())
    };
    let start = || fixture.start("true");
    drop(fixture.shims.prepare(&spawn, start()).expect("prepared"));
    assert!(left.recv_timeout(Duration::from_secs(60)).expect("an end"));
    // Nobody drops it, and nobody comes.
    let prepared = fixture.shims.prepare(&spawn, start()).expect("prepared");
    assert!(left.recv_timeout(Duration::from_secs(60)).expect("an end"));
    let refused = fixture.shims.start(prepared, &[]).expect_err("it has left");
    assert!(refused.never_ran, "{refused:?}");
}

#[test]
fn only_a_start_that_was_read_may_have_run() {
    let fixture = Fixture::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    for reads in [false, true] {
        let spawn = |conn: OwnedFd| {
            std::thread::spawn(move || {
                let next = || receive_until::<Envelope>(conn.as_fd(), deadline);
                let prepare = next().expect("a packet").expect("a request").0.request;
                assert!(matches!(prepare, Request::Prepare(_)));
                poll(&mut [PollFd::new(&conn, PollFlags::IN)], None).expect("poll");
                if reads {
                    next().expect("a packet").expect("a request");
                }
            });
            Ok(())
        };
        let start = fixture.start("true");
        let prepared = fixture.shims.prepare(&spawn, start).expect("a shim");
        let refused = fixture.shims.start(prepared, &[]).expect_err("killed");
        assert_eq!(refused.never_ran, !reads, "{refused:?}");
    }
}

#[test]
fn nothing_runs_that_would_outlive_its_shim() {
    let fixture = Fixture::new();
    let mark = fixture.dir.path().join("ran");
    let spawn = |conn: OwnedFd| {
        let (leash, keeper) = pair()?;
        drop(keeper);
        std::thread::spawn(move || {
            let shim = Shim::new(Ordinary, conn, Some(leash));
            shim.and_then(|mut shim| shim.serve()).expect("serve");
        });
        Ok(())
    };
    let start = fixture.start(&format!("echo ran >{}", mark.display()));
    let prepared = fixture.shims.prepare(&spawn, start).expect("prepared");
    let refused = fixture.shims.start(prepared, &[]).expect_err("no keeper");
    assert!(refused.never_ran, "{refused:?}");
    assert!(!mark.exists());
}
