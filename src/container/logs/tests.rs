//! What a writer writes, however it is rotated, a reader reads.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Follow, Format, Query, Reader, Record, Writer};
use crate::container::protocol::{Rotation, Stream};
use crate::types::timestamp::Timestamp;

const BOTH: Query = Query {
    stdout: true,
    stderr: true,
    tail: None,
    since: None,
    until: None,
};

struct Log {
    dir: tempfile::TempDir,
    format: Format,
}

impl Log {
    fn new(format: Format) -> Self {
        Self {
            dir: tempfile::tempdir().expect("tempdir"),
            format,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("json.log")
    }

    fn writer(&self) -> Writer {
        Writer::open(&self.path(), self.format, &BTreeMap::new()).expect("open")
    }

    fn read(&self, query: Query) -> Vec<String> {
        lines(&mut Reader::open(&self.path(), self.format, query, None).expect("open"))
    }
}

fn lines(reader: &mut Reader) -> Vec<String> {
    let mut record = Record::default();
    let mut lines = Vec::new();
    while reader.read(&mut record).expect("read") {
        lines.push(String::from_utf8_lossy(&record.line).trim_end().to_owned());
    }
    lines
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_seconds(1_700_000_000 + second)
}

#[test]
fn records_are_selected_by_stream_time_and_number() {
    let log = Log::new(Format::Json);
    assert!(log.read(BOTH).is_empty());
    let mut writer = log.writer();
    for i in 0..10 {
        let stream = if i % 2 == 0 {
            Stream::Stdout
        } else {
            Stream::Stderr
        };
        writer
            .write(stream, format!("{i}\n").as_bytes(), at(i))
            .expect("write");
    }
    assert_eq!(log.read(BOTH).len(), 10);
    assert_eq!(
        log.read(Query {
            stderr: false,
            ..BOTH
        }),
        ["0", "2", "4", "6", "8"]
    );
    // The last three, and of those the ones that are wanted.
    let query = Query {
        stdout: false,
        tail: Some(3),
        ..BOTH
    };
    assert_eq!(log.read(query), ["7", "9"]);
    assert_eq!(
        log.read(Query {
            tail: Some(0),
            ..BOTH
        }),
        [""; 0]
    );
    let query = Query {
        since: Some(at(3)),
        until: Some(at(5)),
        ..BOTH
    };
    assert_eq!(log.read(query), ["3", "4", "5"]);
}

#[test]
fn torn_lines_and_nonsense_are_passed_over() {
    let log = Log::new(Format::Json);
    log.writer()
        .write(Stream::Stdout, b"one\n", at(0))
        .expect("write");
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(log.path())
        .expect("open");
    file.write_all(b"nonsense\n{\"log\":\"torn").expect("write");
    assert_eq!(log.read(BOTH), ["one"]);
    log.writer()
        .write(Stream::Stdout, b"two\n", at(0))
        .expect("write");
    assert_eq!(log.read(BOTH), ["one", "two"]);
}

#[test]
fn rotated_files_are_read_too() {
    let log = Log::new(Format::Json);
    for name in [".2", ".1", ""] {
        let mut writer = log.writer();
        writer
            .write(
                Stream::Stdout,
                format!("a{name}\nb{name}\n").as_bytes(),
                at(0),
            )
            .expect("w");
        if !name.is_empty() {
            let rotated = log.dir.path().join(format!("json.log{name}"));
            std::fs::rename(log.path(), rotated).expect("rename");
        }
    }
    assert_eq!(log.read(BOTH), ["a.2", "b.2", "a.1", "b.1", "a", "b"]);
    assert_eq!(
        log.read(Query {
            tail: Some(3),
            ..BOTH
        }),
        ["b.1", "a", "b"]
    );
    assert_eq!(
        log.read(Query {
            tail: Some(6),
            ..BOTH
        })
        .len(),
        6
    );
}

#[test]
fn a_growing_log_is_followed_through_rotation_to_its_end() {
    let log = Log::new(Format::Json);
    let follow = Follow::new().expect("eventfd");
    let mut reader =
        Reader::open(&log.path(), log.format, BOTH, Some(Arc::clone(&follow))).expect("open");
    let reading = std::thread::spawn(move || lines(&mut reader));
    let mut expected = Vec::new();
    let mut writer = log.writer().rotated(Rotation {
        max_size: Some(8000),
        max_files: 9,
        compress: false,
    });
    for i in 0..300 {
        writer
            .write(Stream::Stdout, format!("{i}\n").as_bytes(), at(i))
            .expect("write");
        expected.push(i.to_string());
    }
    assert!(log.dir.path().join("json.log.2").exists(), "rotated");
    follow.end();
    assert_eq!(reading.join().expect("join"), expected);
}

/// A reader misses nothing that was written, and rotated as far as `rotated`, after it read the first.
fn falls_behind(format: Format, rotation: Rotation, rotated: &str) {
    let log = Log::new(format);
    let follow = Follow::new().expect("eventfd");
    let mut writer = log.writer().rotated(rotation);
    let mut write = |i: i64| {
        let line = format!("{i}\n");
        writer
            .write(Stream::Stdout, line.as_bytes(), at(i))
            .expect("write");
    };
    write(0);
    let mut reader =
        Reader::open(&log.path(), log.format, BOTH, Some(Arc::clone(&follow))).expect("open");
    let mut record = Record::default();
    assert!(reader.read(&mut record).expect("read"));
    (1..20).for_each(&mut write);
    assert!(log.dir.path().join(rotated).exists(), "rotated often");
    follow.end();
    let expected: Vec<_> = (1..20).map(|i: i64| i.to_string()).collect();
    assert_eq!(lines(&mut reader), expected);
}

#[test]
fn a_reader_that_fell_behind_by_several_files_misses_none() {
    let rotation = Rotation {
        max_size: Some(400),
        max_files: 9,
        compress: false,
    };
    falls_behind(Format::Json, rotation, "json.log.3");
}

#[test]
fn a_follower_finds_its_place_among_compressed_files() {
    let rotation = Rotation {
        max_size: Some(200),
        max_files: 9,
        compress: true,
    };
    falls_behind(Format::Local, rotation, "json.log.2.gz");
}

#[test]
fn following_can_be_cancelled() {
    let log = Log::new(Format::Json);
    let follow = Follow::new().expect("eventfd");
    let mut reader =
        Reader::open(&log.path(), log.format, BOTH, Some(Arc::clone(&follow))).expect("open");
    let reading = std::thread::spawn(move || lines(&mut reader));
    std::thread::sleep(Duration::from_millis(20));
    follow.cancel();
    assert!(reading.join().expect("join").is_empty());
}

#[test]
fn entries_of_local_are_read_as_lines_are() {
    let log = Log::new(Format::Local);
    let mut writer = log.writer();
    for i in 0..10 {
        let line = format!("{i}\n");
        writer
            .write(Stream::Stdout, line.as_bytes(), at(i))
            .expect("write");
    }
    writer
        .write(Stream::Stderr, b"rest", at(10))
        .expect("write");
    writer.finish(at(10)).expect("finish");
    assert_eq!(log.read(BOTH).len(), 11);
    let tail = |tail| {
        log.read(Query {
            tail: Some(tail),
            ..BOTH
        })
    };
    assert_eq!(tail(2), ["9", "rest"]);
    assert_eq!(tail(0), [""; 0]);
    // A torn end is neither read nor in the way of a tail.
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(log.path())
        .expect("open");
    file.write_all(b"\0\0\0\x20torn").expect("write");
    assert_eq!(tail(2), ["9", "rest"]);
    assert_eq!(log.read(BOTH).len(), 11);
    let nonsense = b"this is no length, and long enough";
    file.write_all(nonsense).expect("write");
    assert_eq!(log.read(BOTH).len(), 11);
}

/// Writes 400 lines into a few small files, of which the older ones are compressed.
fn compressed(format: Format) -> Log {
    let log = Log::new(format);
    let mut writer = log.writer().rotated(Rotation {
        max_size: Some(3000),
        max_files: 4,
        compress: true,
    });
    for i in 0..400 {
        let line = format!("{i}\n");
        writer
            .write(Stream::Stdout, line.as_bytes(), at(i))
            .expect("write");
    }
    writer.finish(at(400)).expect("finish");
    log
}

#[test]
fn compressed_files_are_read_too() {
    for format in [Format::Json, Format::Local] {
        let log = compressed(format);
        let exists = |name: &str| log.dir.path().join(name).exists();
        assert!(exists("json.log.1.gz") && exists("json.log.2.gz") && exists("json.log.3.gz"));
        assert!(!exists("json.log.1") && !exists("json.log.4.gz") && !exists("json.log.1.gz.part"));
        let all = log.read(BOTH);
        assert_eq!(all.last().map(String::as_str), Some("399"));
        let first: i64 = all[0].parse().expect("a number");
        assert_eq!(all.len() as i64, 400 - first);
        for wanted in [1, 30, all.len() - 1] {
            let query = Query {
                tail: Some(wanted as u64),
                ..BOTH
            };
            assert!(
                log.read(query) == all[all.len() - wanted..],
                "the last {wanted}"
            );
        }
        let query = Query {
            since: Some(at(first + 3)),
            until: Some(at(first + 5)),
            ..BOTH
        };
        let expected: Vec<_> = (first + 3..=first + 5).map(|i| i.to_string()).collect();
        assert_eq!(log.read(query), expected);
    }
}

#[test]
fn a_killed_compression_leaves_nothing_that_is_read_twice_or_torn() {
    let log = Log::new(Format::Json);
    let rotation = Rotation {
        max_size: Some(400),
        max_files: 9,
        compress: false,
    };
    let mut writer = log.writer().rotated(rotation);
    for i in 0..9 {
        let line = format!("{i}\n");
        writer
            .write(Stream::Stdout, line.as_bytes(), at(i))
            .expect("write");
    }
    let all = log.read(BOTH);
    let plain = log.dir.path().join("json.log.1");
    let text = std::fs::read(&plain).expect("read");
    // Killed while it wrote, and between its two last steps.
    std::fs::write(log.dir.path().join("json.log.1.gz.part"), b"\x1f\x8bhalf").expect("write");
    assert_eq!(log.read(BOTH), all);
    let file = std::fs::File::create(log.dir.path().join("json.log.1.gz")).expect("create");
    let mut whole = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    whole.write_all(&text).expect("write");
    whole.finish().expect("finish");
    assert_eq!(log.read(BOTH), all);
    drop(log.writer());
    assert!(!plain.exists() && !log.dir.path().join("json.log.1.gz.part").exists());
    assert_eq!(log.read(BOTH), all);
}
