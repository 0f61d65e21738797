//! Streams: clients, input, output, the log.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use super::{Fixture, client, frames, output, raw_with_stdin, rest, wait_until};
use crate::container::protocol::{Attach, Exit, LogTarget, Message, Start, Stream};

#[test]
fn output_goes_to_every_client_and_the_log_and_the_exit_is_recorded_first() {
    let fixture = Fixture::new();
    let clients: Vec<_> = (0..3).map(|_| client()).collect();
    let (ours, theirs): (Vec<_>, Vec<_>) = clients.into_iter().unzip();
    let only_stderr = Attach {
        stdout: false,
        ..output()
    };
    let attached = [output(), output(), only_stderr]
        .into_iter()
        .zip(theirs)
        .collect();
    fixture.launch(
        fixture.start("echo out; echo err >&2; printf rest; exit 3"),
        attached,
    );
    let exit = fixture.exit();
    assert_eq!(exit.code, 3);
    let recorded = std::fs::read(fixture.dir.path().join("exit.json")).expect("exit file");
    assert_eq!(
        serde_json::from_slice::<Exit>(&recorded).expect("JSON"),
        exit
    );
    let got: Vec<_> = ours
        .into_iter()
        .map(|client| frames(&rest(client)))
        .collect();
    assert_eq!(got[0], (b"out\nrest".to_vec(), b"err\n".to_vec()));
    assert_eq!(got[1], got[0]);
    assert_eq!(got[2], (Vec::new(), b"err\n".to_vec()));
    assert_eq!(fixture.log().len(), b"out\nrest".len() + b"err\n".len());
    assert!(fixture.shims.is_connected(&fixture.id));
    fixture.shims.release(&fixture.id);
    wait_until("the shim leaves", || {
        !fixture.shims.is_connected(&fixture.id)
    });
    assert!(fixture.events.try_recv().is_err(), "its end is no news");
}

#[test]
fn input_flows_under_back_pressure_and_its_end_is_passed_on() {
    let fixture = Fixture::new();
    let (ours, theirs) = client();
    let start = Start {
        open_stdin: true,
        stdin_once: true,
        ..fixture.start("cat")
    };
    let attach = Attach {
        early: b"early ".to_vec(),
        ..raw_with_stdin()
    };
    fixture.launch(start, vec![(attach, theirs)]);
    let input: Vec<u8> = (0..8_000_000_u32).map(|i| b'a' + (i % 23) as u8).collect();
    let mut writer = ours.try_clone().expect("clone");
    let sent = input.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).expect("write");
        writer.shutdown(Shutdown::Write).expect("half-close");
    });
    let got = rest(ours);
    writing.join().expect("join");
    assert_eq!(&got[..6], b"early ");
    assert!(
        got[6..] == input,
        "{} bytes of {}",
        got.len() - 6,
        input.len()
    );
    assert_eq!(fixture.exit().code, 0);
    assert!(fixture.log() == got);
}

#[test]
fn a_slow_client_stalls_the_output_and_a_vanished_one_does_not() {
    let fixture = Fixture::new();
    let ((slow, theirs), (gone, gones)) = (client(), client());
    let script = "head -c 6000000 /dev/zero | tr '\\0' x; echo; echo done >&2";
    fixture.launch(
        fixture.start(script),
        vec![(raw_with_stdin(), theirs), (output(), gones)],
    );
    drop(gone);
    assert!(
        fixture
            .events
            .recv_timeout(Duration::from_millis(300))
            .is_err(),
        "not stalled"
    );
    assert!(fixture.log().len() < 3_000_000);
    let got = rest(slow);
    assert_eq!(got.len(), 6_000_000 + 1 + 5);
    assert_eq!(fixture.exit().code, 0);
    assert_eq!(fixture.log().len(), got.len());
}

#[test]
fn a_late_client_gets_what_comes_later_and_a_detached_one_leaves() {
    let fixture = Fixture::new();
    let mut start = Start {
        open_stdin: true,
        ..fixture.start("read a; stty size; read b; echo bye")
    };
    start.plan.process.terminal = true;
    fixture.launch(start, Vec::new());
    fixture
        .shims
        .resize(&fixture.id, None, 33, 77)
        .expect("resize");
    let (mut ours, theirs) = client();
    let attach = Attach {
        detach_keys: b"\x10\x11".to_vec(),
        ..raw_with_stdin()
    };
    fixture
        .shims
        .attach(&fixture.id, attach.clone(), theirs)
        .expect("attach");
    ours.write_all(b"hello\n").expect("write");
    let mut got = Vec::new();
    while !got.ends_with(b"33 77\r\n") {
        let mut byte = [0];
        ours.read_exact(&mut byte).expect("read");
        got.push(byte[0]);
    }
    ours.write_all(b"x").expect("write");
    let mut echo = [0];
    ours.read_exact(&mut echo).expect("read");
    assert_eq!(&echo, b"x");
    ours.write_all(b"\x10\x11").expect("write");
    assert_eq!(String::from_utf8_lossy(&rest(ours)), "");
    assert!(matches!(fixture.event(), Message::Detached { exec: None }));
    let (mut ours, theirs) = client();
    fixture
        .shims
        .attach(&fixture.id, attach, theirs)
        .expect("attach");
    ours.write_all(b"\n").expect("write");
    assert_eq!(String::from_utf8_lossy(&rest(ours)), "\r\nbye\r\n");
    assert_eq!(fixture.exit().code, 0);
}

#[test]
fn a_descendant_that_never_stops_writing_stalls_nothing() {
    let fixture = Fixture::new();
    // Encoding for the log takes longer than writing does: the pipe is never empty.
    let script = "for i in 1 2 3 4; do yes & done; exit 6";
    fixture.launch(fixture.start(script), Vec::new());
    assert_eq!(fixture.exit().code, 6);
}

#[test]
fn a_log_that_cannot_be_written_is_told_of_once() {
    let fixture = Fixture::new();
    let mut start = fixture.start("echo one; sleep 0.1; echo two; sleep 0.1; echo three");
    start.log = Some(LogTarget {
        path: "/dev/full".into(),
        ..LogTarget::default()
    });
    let (ours, theirs) = client();
    fixture.launch(start, vec![(output(), theirs)]);
    // Nobody but the log misses anything.
    assert_eq!(frames(&rest(ours)).0, b"one\ntwo\nthree\n");
    let message = fixture.event();
    let Message::LogFailed { reason } = message else {
        panic!("{message:?}");
    };
    assert!(reason.contains("No space left on device"), "{reason}");
    assert_eq!(fixture.exit().code, 0);
}

#[test]
fn a_stream_has_dockers_number() {
    assert_eq!((Stream::Stdout as u8, Stream::Stderr as u8), (1, 2));
}
