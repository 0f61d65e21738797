//! Reads a log, from wherever in it and for as long as it grows.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::record::{Decoder, Record};
use super::tail::tail;
use super::watch::Watch;
use crate::container::protocol::Stream;
use crate::types::timestamp::Timestamp;

/// Bytes read at once.
const BLOCK: usize = 64 * 1024;
/// A line longer than this is no record of ours (16 KiB, every byte escaped, and attributes).
const LONGEST: usize = 4 * 1024 * 1024;

/// Which records are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Query {
    /// Those of stdout.
    pub stdout: bool,
    /// Those of stderr.
    pub stderr: bool,
    /// Only the last so many, counted before anything else is left out, as Docker does.
    pub tail: Option<u64>,
    /// Only those of this time or later.
    pub since: Option<Timestamp>,
    /// Only those of this time or earlier.
    pub until: Option<Timestamp>,
}

/// Tells a reader that follows a log how long to do so.
#[derive(Debug)]
pub struct Follow {
    ended: AtomicBool,
    cancelled: AtomicBool,
    wake: OwnedFd,
}

impl Follow {
    /// The log may grow.
    pub fn new() -> io::Result<Arc<Self>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self {
            ended: false.into(),
            cancelled: false.into(),
            wake,
        }))
    }

    /// The container has ended, its log is complete: the reader ends after the last record.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Nobody wants the records any more: the reader ends at once.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub(super) fn wake(&self) {
        // Fails only when the counter is full, and then the reader is awake anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// Reads records, oldest first.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    query: Query,
    follow: Option<Watch>,
    /// Files to be read, the current one first; none if there is no log yet.
    files: VecDeque<File>,
    /// Where in the current file the next block begins.
    offset: u64,
    /// What was read and not yet given out: `buffer[start..]`.
    buffer: Vec<u8>,
    start: usize,
    decoder: Decoder,
}

impl Reader {
    /// Opens the log at `path` and its rotated predecessors. With `follow` the reader waits for
    /// more at the end, until told otherwise. A log that does not exist is empty.
    pub fn open(path: &Path, query: Query, follow: Option<Arc<Follow>>) -> io::Result<Self> {
        // Watched before anything is read, so that nothing is missed in between.
        let follow = match follow {
            Some(follow) => Some(Watch::new(path, follow)?),
            None => None,
        };
        let mut files = open_all(path)?;
        let mut offset = 0;
        if let Some(mut wanted) = query.tail {
            let mut kept = VecDeque::new();
            while let Some(file) = files.pop_back() {
                let (at, count) = tail(&file, file.metadata()?.len(), wanted)?;
                kept.push_front(file);
                offset = at;
                wanted -= count;
                if wanted == 0 {
                    break;
                }
            }
            files = kept;
        }
        Ok(Self {
            path: path.to_owned(),
            query,
            follow,
            files,
            offset,
            buffer: Vec::new(),
            start: 0,
            decoder: Decoder::default(),
        })
    }

    /// Reads the next record into `record`, whose memory is used again; false at the end. Lines
    /// that are no records are passed over.
    pub fn read(&mut self, record: &mut Record) -> io::Result<bool> {
        loop {
            if self
                .follow
                .as_ref()
                .is_some_and(|watch| watch.follow().cancelled.load(Ordering::SeqCst))
            {
                return Ok(false);
            }
            let Some(end) = self.line()? else {
                return Ok(false);
            };
            let line = &self.buffer[self.start..end];
            self.start = end + 1;
            if !self.decoder.decode(line, record) {
                continue;
            }
            if self.query.until.is_some_and(|until| record.time > until) {
                return Ok(false);
            }
            let wanted = match record.stream {
                Stream::Stdout => self.query.stdout,
                Stream::Stderr => self.query.stderr,
            };
            if wanted && self.query.since.is_none_or(|since| record.time >= since) {
                return Ok(true);
            }
        }
    }

    /// Whether the next [`Reader::read`] would have to read the file, and so may wait: the moment
    /// to send on what has been gathered.
    pub fn is_drained(&self) -> bool {
        memchr::memchr(b'\n', &self.buffer[self.start..]).is_none()
    }

    /// Finds the end of the next line in the buffer, reading and waiting as needed.
    fn line(&mut self) -> io::Result<Option<usize>> {
        let mut searched = self.start;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[searched..]) {
                return Ok(Some(searched + at));
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            if self.buffer.len() > LONGEST {
                self.buffer.clear();
            }
            searched = self.buffer.len();
            // Asked before reading: what was written before the end is then read for certain.
            let may_grow = self
                .follow
                .as_ref()
                .is_some_and(|watch| !watch.follow().ended.load(Ordering::SeqCst));
            if self.fill()? {
                continue;
            }
            if self.files.len() > 1 {
                self.files.pop_front();
                self.offset = 0;
                // The older file's torn last line, if any, will never be completed.
                self.buffer.clear();
                searched = 0;
            } else if self.is_replaced()? {
                // Rotated away under us. What was written before is read first: fill() again.
                let newer = newer_than(&self.path, self.files.back())?;
                self.files.extend(newer);
            } else if !may_grow || !self.wait()? {
                return Ok(None);
            }
        }
    }

    /// Appends a block to the buffer; false at the end of the current file.
    fn fill(&mut self) -> io::Result<bool> {
        let Some(file) = self.files.front() else {
            return Ok(false);
        };
        let length = self.buffer.len();
        self.buffer.resize(length + BLOCK, 0);
        let result = loop {
            match file.read_at(&mut self.buffer[length..], self.offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let read = *result.as_ref().unwrap_or(&0);
        self.buffer.truncate(length + read);
        self.offset += read as u64;
        if read == 0 && result.is_ok() && file.metadata()?.len() < self.offset {
            // Emptied by its owner (`truncate -s 0`), to save space: begin anew.
            self.offset = 0;
            self.buffer.clear();
            return Ok(file.metadata()?.len() > 0);
        }
        Ok(result? > 0)
    }

    /// Whether the path names another file than the one that is read.
    fn is_replaced(&self) -> io::Result<bool> {
        if self.follow.is_none() {
            return Ok(false);
        }
        let Ok(now) = self.path.metadata() else {
            return Ok(false);
        };
        match self.files.back() {
            Some(file) => Ok(file.metadata()?.ino() != now.ino()),
            None => Ok(true),
        }
    }

    /// Waits for the log to change; false if it is not to be waited for.
    fn wait(&mut self) -> io::Result<bool> {
        let Some(follow) = self.follow.as_ref().map(Watch::follow) else {
            return Ok(false);
        };
        let limit = match self.query.until {
            Some(until) => {
                let left = until.nanos() - Timestamp::now().nanos();
                let Ok(left @ 1..) = u64::try_from(left) else {
                    return Ok(false);
                };
                Timespec::try_from(Duration::from_nanos(left)).ok()
            }
            None => None,
        };
        let mut woken = [PollFd::from_borrowed_fd(follow.wake.as_fd(), PollFlags::IN)];
        match poll(&mut woken, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let _ = rustix::io::read(&follow.wake, &mut [0; 8]);
        Ok(!follow.cancelled.load(Ordering::SeqCst))
    }
}

/// Opens a log's files, the oldest first.
fn open_all(path: &Path) -> io::Result<VecDeque<File>> {
    newer_than(path, None)
}

/// Opens those of a log's files that are newer than `known`, the oldest first: all of them where
/// it is none of them any more. Files may be renamed meanwhile, each to the next number.
fn newer_than(path: &Path, known: Option<&File>) -> io::Result<VecDeque<File>> {
    let inode = |file: &File| file.metadata().map(|metadata| metadata.ino());
    let known = known.map(inode).transpose()?;
    let mut files = VecDeque::new();
    let mut last = None;
    let mut missing = 0;
    for number in 0_u32.. {
        let mut name = path.as_os_str().to_owned();
        if number > 0 {
            name.push(format!(".{number}"));
        }
        match File::open(&name) {
            Ok(file) => {
                let inode = inode(&file)?;
                if known == Some(inode) {
                    break;
                }
                // The same under its next name.
                if last != Some(inode) {
                    files.push_front(file);
                }
                last = Some(inode);
            }
            // In the middle of a rotation one number is missing for a moment.
            Err(e) if e.kind() == io::ErrorKind::NotFound && missing == 0 => missing += 1,
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => return Err(e),
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::logs::Writer;
    use crate::container::protocol::Rotation;
    use std::collections::BTreeMap;
    use std::io::Write;

    const BOTH: Query = Query {
        stdout: true,
        stderr: true,
        tail: None,
        since: None,
        until: None,
    };

    struct Log {
        dir: tempfile::TempDir,
    }

    impl Log {
        fn new() -> Self {
            Self {
                dir: tempfile::tempdir().expect("tempdir"),
            }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("json.log")
        }

        fn writer(&self) -> Writer {
            Writer::open(&self.path(), &BTreeMap::new()).expect("open")
        }

        fn read(&self, query: Query) -> Vec<String> {
            lines(&mut Reader::open(&self.path(), query, None).expect("open"))
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
        let log = Log::new();
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
        let log = Log::new();
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
        let log = Log::new();
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
        let log = Log::new();
        let follow = Follow::new().expect("eventfd");
        let mut reader = Reader::open(&log.path(), BOTH, Some(Arc::clone(&follow))).expect("open");
        let reading = std::thread::spawn(move || lines(&mut reader));
        let mut expected = Vec::new();
        let mut writer = log.writer().rotated(Rotation {
            max_size: Some(8000),
            max_files: 9,
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

    #[test]
    fn a_reader_that_fell_behind_by_several_files_misses_none() {
        let log = Log::new();
        let follow = Follow::new().expect("eventfd");
        let rotation = Rotation {
            max_size: Some(400),
            max_files: 9,
        };
        let mut writer = log.writer().rotated(rotation);
        let mut write = |i: i64| {
            let line = format!("{i}\n");
            writer
                .write(Stream::Stdout, line.as_bytes(), at(i))
                .expect("write");
        };
        write(0);
        let mut reader = Reader::open(&log.path(), BOTH, Some(Arc::clone(&follow))).expect("open");
        let mut record = Record::default();
        assert!(reader.read(&mut record).expect("read"));
        (1..20).for_each(&mut write);
        assert!(log.dir.path().join("json.log.3").exists(), "rotated often");
        follow.end();
        let expected: Vec<_> = (1..20).map(|i: i64| i.to_string()).collect();
        assert_eq!(lines(&mut reader), expected);
    }

    #[test]
    fn following_can_be_cancelled() {
        let log = Log::new();
        let follow = Follow::new().expect("eventfd");
        let mut reader = Reader::open(&log.path(), BOTH, Some(Arc::clone(&follow))).expect("open");
        let reading = std::thread::spawn(move || lines(&mut reader));
        std::thread::sleep(Duration::from_millis(20));
        follow.cancel();
        assert!(reading.join().expect("join").is_empty());
    }
}
