//! Reads a log, from wherever in it and for as long as it grows.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::record::{Decoder, Record};
use super::source::{Cut, Source};
use super::watch::Watch;
use super::{Format, local};
use crate::container::protocol::Stream;
use crate::types::timestamp::Timestamp;

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
    format: Format,
    query: Query,
    follow: Option<Watch>,
    /// Files to be read, the current one first; none if there is no log yet.
    files: VecDeque<Source>,
    /// What was read and not yet given out: `buffer[start..]`.
    buffer: Vec<u8>,
    start: usize,
    decoder: Decoder,
}

impl Reader {
    /// Opens the log at `path` and its rotated predecessors. With `follow` the reader waits for
    /// more at the end, until told otherwise. A log that does not exist is empty.
    pub fn open(
        path: &Path,
        format: Format,
        query: Query,
        follow: Option<Arc<Follow>>,
    ) -> io::Result<Self> {
        // Watched before anything is read, so that nothing is missed in between.
        let follow = match follow {
            Some(follow) => Some(Watch::new(path, follow)?),
            None => None,
        };
        let mut files = newer_than(path, None)?;
        if let Some(mut wanted) = query.tail {
            let mut kept = VecDeque::new();
            while let Some(mut file) = files.pop_back() {
                wanted -= file.tail(format, wanted)?;
                kept.push_front(file);
                if wanted == 0 {
                    break;
                }
            }
            files = kept;
        }
        Ok(Self {
            path: path.to_owned(),
            format,
            query,
            follow,
            files,
            buffer: Vec::new(),
            start: 0,
            decoder: Decoder::default(),
        })
    }

    /// Reads the next record into `record`, whose memory is used again; false at the end. What is
    /// no record is passed over.
    pub fn read(&mut self, record: &mut Record) -> io::Result<bool> {
        loop {
            if self
                .follow
                .as_ref()
                .is_some_and(|watch| watch.follow().cancelled.load(Ordering::SeqCst))
            {
                return Ok(false);
            }
            let Some((begin, end, next)) = self.piece()? else {
                return Ok(false);
            };
            let piece = &self.buffer[begin..end];
            self.start = next;
            if let Some(file) = self.files.front_mut().filter(|file| file.skip > 0) {
                file.skip -= 1;
                continue;
            }
            let decoded = match self.format {
                Format::Json => self.decoder.decode(piece, record),
                Format::Local => local::decode(piece, record),
            };
            if !decoded {
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
        let next = self.format.cut(&self.buffer, self.start, self.start);
        !matches!(next, Cut::Record(..))
    }

    /// Finds the next record in the buffer, reading and waiting as needed.
    fn piece(&mut self) -> io::Result<Option<(usize, usize, usize)>> {
        let mut searched = self.start;
        loop {
            match self.format.cut(&self.buffer, self.start, searched) {
                Cut::Record(begin, end, next) => return Ok(Some((begin, end, next))),
                Cut::Broken => {
                    self.buffer.clear();
                    self.start = 0;
                    // The end of a line is found all the same.
                    if let (Format::Local, Some(file)) = (self.format, self.files.front_mut()) {
                        file.abandon()?;
                    }
                }
                Cut::Short => {
                    self.buffer.drain(..self.start);
                    self.start = 0;
                }
            }
            searched = self.buffer.len();
            // Asked before reading: what was written before the end is then read for certain.
            let may_grow = self
                .follow
                .as_ref()
                .is_some_and(|watch| !watch.follow().ended.load(Ordering::SeqCst));
            let filled = match self.files.front_mut() {
                Some(file) => file.fill(&mut self.buffer)?,
                None => false,
            };
            // Less where the file was emptied.
            searched = searched.min(self.buffer.len());
            if filled {
                continue;
            }
            if self.files.len() > 1 {
                self.files.pop_front();
                // The older file's torn last record, if any, will never be completed.
                self.buffer.clear();
                searched = 0;
            } else if self.is_replaced()? {
                // Rotated away under us. What was written before is read first: fill() again.
                let known = self.files.back().map(|file| file.identity);
                self.files.extend(newer_than(&self.path, known)?);
            } else if !may_grow || !self.wait()? {
                return Ok(None);
            }
        }
    }

    /// Whether the path names another file than the one that is read.
    fn is_replaced(&self) -> io::Result<bool> {
        if self.follow.is_none() {
            return Ok(false);
        }
        let Ok(now) = self.path.metadata() else {
            return Ok(false);
        };
        Ok(self.files.back().map(|file| file.identity) != Some(now.ino()))
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

/// Opens those of a log's files that are newer than the one `known`, the oldest first: all of them
/// where it is none of them any more. Files may be renamed meanwhile, each to the next number, and
/// be compressed.
fn newer_than(path: &Path, known: Option<u64>) -> io::Result<VecDeque<Source>> {
    let mut files = VecDeque::<Source>::new();
    let mut missing = 0;
    for number in 0_u32.. {
        match Source::open(path, number)? {
            Some(file) if known == Some(file.identity) => break,
            // The same under its next name.
            Some(file) if files.front().map(|last| last.identity) == Some(file.identity) => {}
            Some(file) => files.push_front(file),
            // In the middle of a rotation one number is missing for a moment.
            None if missing == 0 => missing += 1,
            None => break,
        }
    }
    Ok(files)
}
