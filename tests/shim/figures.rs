//! What shims cost, and how fast output goes.

use std::io::Read;
use std::time::Instant;

use crate::world::{World, both, client, shows_figures, wait_until};
use moss::container::logs::{Format, Query, Reader, Record};

pub fn small(world: &World) {
    let containers: Vec<_> = (0..50)
        .map(|_| {
            let container = world.container();
            let start = container.start("echo hello; exec sleep 600");
            container.launch(start, Vec::new()).expect("launch");
            (container, world.last_shim())
        })
        .collect();
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
    let average = || {
        let each = containers.iter().map(|(_, shim)| memory(*shim, "Pss:"));
        each.sum::<u64>() / containers.len() as u64
    };
    // 0.3 MiB is what an idle shim may cost; an unoptimised build is no larger. What it only needs
    // while it is busy it gives back after a second.
    wait_until("shims are small", || average() <= 300);
    if shows_figures() {
        let private = memory(containers[0].1, "Private_Dirty:");
        println!(
            "PSS of a shim among 50: {} KiB, of which its own: {private} KiB",
            average()
        );
    }
    for (container, shim) in &containers {
        container
            .daemon
            .kill(&container.id, libc::SIGKILL)
            .expect("kill");
        assert_eq!(container.exit().code, 137);
        container.end(*shim);
    }
}

pub fn fast(world: &World) {
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
    let mut reader = Reader::open(&path, Format::Json, query, None).expect("open");
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
    let mut reader = Reader::open(&path, Format::Json, tail, None).expect("open");
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
