//! Messages into a log's files.
//!
//! The shim hands over what it read, up to 64 KiB at once, and all records that this completes go
//! to the file in one write (in pieces of [`PIECE`] where very short lines swell it).
//!
//! With [`Rotation`] a file that the next record would make too long becomes `path.1`, `path.1`
//! becomes `path.2`, and the oldest is lost; where one file is all there is it is emptied, as in
//! Docker. A rotation that fails costs nothing but the bound. Rotated files may be compressed
//! ([`rotate`]); the next rotation waits until that is done.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::message::{Message, PARTIAL, Splitter};
use super::record::{are_plain, escape, stream_name};
use super::rotate::{self, Compressing};
use super::source::Cut;
use super::{Format, local};
use crate::container::protocol::{Rotation, Stream};
use crate::types::timestamp::Timestamp;

/// Encoded records are written when they are this long, to bound the memory they take.
const PIECE: usize = 256 * 1024;

/// How a JSON record begins.
const BEGIN: &[u8] = b"{\"log\":\"";

/// How it ends, from the end of the time on.
const END: &[u8] = b"Z\"}\n";

/// Length of an escaped newline.
const NEWLINE: usize = 2;

/// Writes one container's log.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    format: Format,
    rotation: Rotation,
    /// Where the last whole record ends.
    length: u64,
    /// What every record says of attributes, as the format has it.
    attrs: Vec<u8>,
    splitter: Splitter,
    /// What comes after the text of a line, as it was for the last record.
    rest: Rest,
    out: Vec<u8>,
    compressing: Option<Compressing>,
}

/// The end of a JSON record: an escaped newline, the stream, attributes and the time. Of lines that
/// are read at once only the time's last digits differ, and are counted on where they stand.
#[derive(Debug, Default)]
struct Rest {
    of: Option<(Stream, Timestamp)>,
    /// With all digits of the nanosecond.
    text: Vec<u8>,
}

/// Digits of a nanosecond.
const DIGITS: usize = 9;

impl Rest {
    fn set(&mut self, stream: Stream, time: Timestamp, attrs: &[u8]) {
        let before = self.of.replace((stream, time));
        if before == Some((stream, time)) {
            return;
        }
        let follows = before.is_some_and(|(of, before)| of == stream && before.next() == time);
        if follows && self.count_on() {
            return;
        }
        let time = time.to_string();
        let (seconds, nanos) = time.split_once(['.', 'Z']).unwrap_or_default();
        let nanos = nanos.trim_end_matches('Z');
        let text = &mut self.text;
        text.clear();
        text.extend_from_slice(b"\\n\",\"stream\":\"");
        text.extend_from_slice(stream_name(stream).as_bytes());
        text.push(b'"');
        text.extend_from_slice(attrs);
        text.extend_from_slice(b",\"time\":\"");
        text.extend_from_slice(seconds.as_bytes());
        text.extend_from_slice(format!(".{nanos:0<DIGITS$}").as_bytes());
        text.extend_from_slice(END);
    }

    /// The same for the next nanosecond.
    fn advance(&mut self, attrs: &[u8]) {
        let Some((stream, time)) = self.of else {
            return;
        };
        self.of = Some((stream, time.next()));
        if !self.count_on() {
            self.of = None;
            self.set(stream, time.next(), attrs);
        }
    }

    /// Counts the nanosecond up by one; false where a second ends.
    #[inline]
    fn count_on(&mut self) -> bool {
        let end = self.text.len() - END.len();
        for digit in self.text[end - DIGITS..end].iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return true;
            }
            *digit = b'0';
        }
        false
    }

    /// Puts it after a record's text; zeros at the end of the time are left out, as in Docker.
    fn put(&self, ends_line: bool, out: &mut Vec<u8>) {
        let text = if ends_line {
            &self.text[..]
        } else {
            &self.text[NEWLINE..]
        };
        let end = text.len() - END.len();
        if text[end - 1] != b'0' {
            out.extend_from_slice(text);
            return;
        }
        let zeros = text[end - DIGITS..end].iter().rev();
        let zeros = zeros.take_while(|digit| **digit == b'0').count();
        let point = usize::from(zeros == DIGITS);
        out.extend_from_slice(&text[..end - zeros - point]);
        out.extend_from_slice(END);
    }
}

impl Writer {
    /// Opens the log, or makes it. A torn record at its end is ended, or taken away, so that it
    /// spoils no other.
    pub fn open(path: &Path, format: Format, attrs: &BTreeMap<String, String>) -> io::Result<Self> {
        rotate::repair(path);
        let mut file = open(path)?;
        let length = match format {
            Format::Json => end_line(&mut file)?,
            Format::Local => end_entry(&file)?,
        };
        let attrs = match format {
            Format::Local => local::attributes(attrs),
            Format::Json if attrs.is_empty() => Vec::new(),
            Format::Json => [b",\"attrs\":", &serde_json::to_vec(attrs)?[..]].concat(),
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            format,
            rotation: Rotation::default(),
            length,
            attrs,
            splitter: Splitter::default(),
            rest: Rest::default(),
            out: Vec::new(),
            compressing: None,
        })
    }

    /// The same log, whose files are bounded.
    pub fn rotated(mut self, rotation: Rotation) -> Self {
        self.rotation = rotation;
        self
    }

    /// Takes output that was read at `now`. After an error the file ends with a whole record, some
    /// records are missing, and later ones are tried again.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let begun = match self.splitter.is_within(stream) {
            true => memchr::memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1),
            false => 0,
        };
        let (begun, bytes) = bytes.split_at(begun);
        let mut now = now;
        let first = self.split(stream, begun, &mut now);
        let (done, plain) = self.write_plain(stream, bytes, &mut now);
        let last = self.split(stream, &bytes[done..], &mut now);
        self.flush().and(last).and(plain).and(first)
    }

    fn split(&mut self, stream: Stream, bytes: &[u8], now: &mut Timestamp) -> io::Result<()> {
        let mut splitter = std::mem::take(&mut self.splitter);
        let mut result = Ok(());
        *now = splitter.write(stream, bytes, *now, |message| {
            if let Err(error) = self.log(message) {
                result = Err(error);
            }
        });
        self.splitter = splitter;
        result
    }

    /// Takes the whole lines at the beginning of `bytes` at once where JSON has them as they are: what
    /// [`Writer::log`] would do for each, in half the time. Returns how many bytes it took, none where
    /// there is more to be considered. No line may have begun.
    fn write_plain(
        &mut self,
        stream: Stream,
        bytes: &[u8],
        now: &mut Timestamp,
    ) -> (usize, io::Result<()>) {
        let is_simple =
            self.format == Format::Json && self.rotation.max_size.is_none() && are_plain(bytes);
        let mut done = 0;
        let mut result = Ok(());
        if !is_simple {
            return (done, result);
        }
        self.rest.set(stream, *now, &self.attrs);
        for end in memchr::memchr_iter(b'\n', bytes) {
            if end - done >= PARTIAL {
                break;
            }
            self.out.extend_from_slice(BEGIN);
            self.out.extend_from_slice(&bytes[done..end]);
            self.rest.put(true, &mut self.out);
            self.rest.advance(&self.attrs);
            done = end + 1;
            if self.out.len() >= PIECE
                && let Err(error) = self.flush()
            {
                result = Err(error);
            }
        }
        *now = self.rest.of.map_or(*now, |(_, time)| time);
        (done, result)
    }

    /// The output has ended: writes what is left of unfinished lines.
    pub fn finish(&mut self, now: Timestamp) -> io::Result<()> {
        let mut splitter = std::mem::take(&mut self.splitter);
        let mut result = Ok(());
        splitter.finish(now, |message| {
            if let Err(error) = self.log(message) {
                result = Err(error);
            }
        });
        let result = self.flush().and(result);
        self.settle();
        result
    }

    /// Takes one message; it is in the file for certain after the next [`Writer::flush`].
    pub fn log(&mut self, message: &Message<'_>) -> io::Result<()> {
        let begin = self.out.len();
        match self.format {
            Format::Json => self.encode(message),
            Format::Local => local::encode(message, &self.attrs, &mut self.out),
        }
        let made = self.make_room(begin, message.time);
        if self.out.len() >= PIECE {
            return self.flush().and(made);
        }
        made
    }

    /// Gives back the memory that only a busy container needs.
    pub fn relax(&mut self) {
        self.out = Vec::new();
        self.splitter.relax();
    }

    /// Encodes one record as JSON.
    fn encode(&mut self, message: &Message<'_>) {
        self.rest.set(message.stream, message.time, &self.attrs);
        let out = &mut self.out;
        out.extend_from_slice(BEGIN);
        escape(message.line, out);
        self.rest.put(message.ends_line(), out);
    }

    /// Rotates before the record at `begin` of what is to be written, if the file would become too
    /// long by it.
    fn make_room(&mut self, begin: usize, time: Timestamp) -> io::Result<()> {
        let Some(most) = self.rotation.max_size else {
            return Ok(());
        };
        let before = self.length + begin as u64;
        let record = (self.out.len() - begin) as u64;
        if before == 0 || before + record <= most {
            return Ok(());
        }
        let last = self.out.split_off(begin);
        let written = self.flush();
        let rotated = self.rotate(time);
        self.out = last;
        written.and(rotated)
    }

    fn rotate(&mut self, time: Timestamp) -> io::Result<()> {
        if self.rotation.max_files < 2 {
            self.file.set_len(0)?;
            self.length = 0;
            return Ok(());
        }
        self.settle();
        rotate::shift(&self.path, self.rotation.max_files)?;
        self.file = open(&self.path)?;
        self.length = self.file.metadata()?.len();
        if self.rotation.compress {
            self.compressing = Compressing::begin(&self.path, time);
        }
        Ok(())
    }

    /// Waits until nothing is being compressed.
    fn settle(&mut self) {
        if let Some(compressing) = self.compressing.take() {
            compressing.finish();
        }
    }

    /// Writes what was taken.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut rest = &self.out[..];
        let result = loop {
            if rest.is_empty() {
                break Ok(());
            }
            match self.file.write(rest) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        let written = self.out.len() - rest.len();
        let whole = match result {
            Ok(()) => written,
            Err(_) => self.format.whole(&self.out[..written]),
        };
        self.length += whole as u64;
        if whole < written {
            // Disk full: what cannot be kept whole is taken back. Should even that fail, the next
            // record spoils itself together with the torn one, and the reader passes over both.
            let _ = self.file.set_len(self.length);
        }
        self.out.clear();
        result
    }
}

impl Format {
    /// Length of the whole records at the beginning of `bytes`.
    fn whole(self, bytes: &[u8]) -> usize {
        let mut whole = 0;
        while let Cut::Record(_, _, next) = self.cut(bytes, whole, whole) {
            whole = next;
        }
        whole
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o640);
    options.open(path)
}

/// Ends a torn line, and gives the file's length.
fn end_line(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(0);
    }
    let mut last = [0];
    file.read_exact_at(&mut last, length - 1)?;
    if last == *b"\n" {
        return Ok(length);
    }
    file.write_all(b"\n")?;
    Ok(length + 1)
}

/// Takes away a torn entry, and what no entry is, and gives the file's length.
fn end_entry(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    if local::tail(file, length, 1)?.is_some() {
        return Ok(length);
    }
    let mut whole = 0;
    let mut block = vec![0; PIECE];
    loop {
        let read = file.read_at(&mut block, whole)?;
        match Format::Local.whole(&block[..read]) as u64 {
            // An entry of any length that there may be fits once it is the first.
            0 if read == block.len() && block.len() <= local::LONGEST => {
                block.resize(2 * local::LONGEST, 0);
            }
            0 => break,
            more => whole += more,
        }
    }
    file.set_len(whole)?;
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::logs::record::{Decoder, Record};

    const NOW: Timestamp = Timestamp::from_nanos(1_700_000_000_000_000_000);

    fn records(path: &Path) -> Vec<Record> {
        let text = std::fs::read(path).expect("read");
        assert!(text.is_empty() || text.ends_with(b"\n"));
        text.split_inclusive(|b| *b == b'\n')
            .map(|line| {
                let mut record = Record::default();
                assert!(Decoder::default().decode(&line[..line.len() - 1], &mut record));
                record
            })
            .collect()
    }

    #[test]
    fn the_file_is_dockers() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let attrs = [("a".to_owned(), "b".to_owned())].into();
        let mut writer = Writer::open(&path, Format::Json, &attrs).expect("open");
        writer
            .write(Stream::Stdout, b"one\ntw", NOW)
            .expect("write");
        writer.write(Stream::Stderr, b"err\n", NOW).expect("write");
        writer
            .write(Stream::Stdout, b"o\nrest", NOW)
            .expect("write");
        writer.finish(NOW).expect("finish");
        let line = |log: &str, stream: &str| {
            format!(
                r#"{{"log":"{log}","stream":"{stream}","attrs":{{"a":"b"}},"time":"2023-11-14T22:13:20Z"}}"#
            ) + "\n"
        };
        let expected = line("one\\n", "stdout")
            + &line("err\\n", "stderr")
            + &line("two\\n", "stdout")
            + &line("rest", "stdout");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), expected);
    }

    #[test]
    fn lines_are_the_same_one_by_one_and_together() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let write = |chunks: &[&[u8]]| {
            let mut writer = Writer::open(&path, Format::Json, &BTreeMap::new()).expect("open");
            for chunk in chunks {
                writer.write(Stream::Stdout, chunk, NOW).expect("write");
            }
            writer.finish(NOW).expect("finish");
            let mut records = records(&path);
            std::fs::remove_file(&path).expect("remove");
            // What is read at once is told apart by it.
            records.iter_mut().for_each(|record| record.time = NOW);
            records
        };
        let short = "\n".repeat(PIECE / 32);
        let longest = "x".repeat(PARTIAL - 1);
        let long = "y".repeat(PARTIAL);
        let text = format!("a b\n\n{longest}\nc\n{long}\nd\n{short}");
        // One that is not plain and long enough to be parted from the others.
        for odd in [
            "", "\"q\"\n", "tab\t\n", "\u{e9}\n", "<\n", "\\\n", "&\n", "\r\n", "end",
        ] {
            let text = text.clone() + odd;
            let by = |size| write(&text.as_bytes().chunks(size).collect::<Vec<_>>());
            let whole = by(text.len());
            assert!([1, 1000].iter().all(|&size| by(size) == whole), "{odd:?}");
        }
    }

    #[test]
    fn no_two_records_of_one_read_have_one_time() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let mut writer = Writer::open(&path, Format::Json, &BTreeMap::new()).expect("open");
        let begin = Timestamp::from_nanos(NOW.nanos() + 999_999_985);
        for text in ["plain\n", "not plain: <\n"] {
            let text = text.repeat(150);
            let written = writer.write(Stream::Stdout, text.as_bytes(), begin);
            written.expect("write");
        }
        let times: Vec<i128> = records(&path).iter().map(|it| it.time.nanos()).collect();
        let expected: Vec<i128> = (0..150).map(|after| begin.nanos() + after).collect();
        assert_eq!(times, [&expected[..], &expected].concat());
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(text.contains("\"time\":\"2023-11-14T22:13:21Z\""), "{text}");
        assert!(
            text.contains("\"time\":\"2023-11-14T22:13:21.0000001Z\""),
            "{text}"
        );
    }

    #[test]
    fn files_are_rotated_between_records() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let files = |max_files| {
            let rotation = Rotation {
                max_size: Some(1000),
                max_files,
                compress: false,
            };
            let writer = Writer::open(&path, Format::Json, &BTreeMap::new()).expect("open");
            let mut writer = writer.rotated(rotation);
            for number in 0..100 {
                let line = format!("line {number}\n");
                writer
                    .write(Stream::Stdout, line.as_bytes(), NOW)
                    .expect("write");
            }
            // Many lines in one write are bounded as well.
            let lines: String = (100..200)
                .map(|number| format!("line {number}\n"))
                .collect();
            writer
                .write(Stream::Stdout, lines.as_bytes(), NOW)
                .expect("write");
            let mut lines = Vec::new();
            for name in ["log.2", "log.1", "log"].map(|name| dir.path().join(name)) {
                if name.exists() {
                    assert!(name.metadata().expect("stat").len() <= 1000);
                    lines.extend(records(&name).into_iter().map(|record| record.line));
                }
            }
            lines
        };
        let lines = files(3);
        let first = 200 - lines.len();
        assert!((10..190).contains(&first));
        for (line, number) in lines.iter().zip(first..) {
            assert_eq!(*line, format!("line {number}\n").into_bytes());
        }
        assert!(!dir.path().join("log.3").exists());
        std::fs::remove_file(dir.path().join("log.1")).expect("remove");
        std::fs::remove_file(dir.path().join("log.2")).expect("remove");
        let lines = files(1);
        assert_eq!(lines.last().expect("a line"), b"line 199\n");
        assert!(!dir.path().join("log.1").exists());
    }

    #[test]
    fn a_torn_record_is_ended() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        std::fs::write(&path, "{\"log\":\"tor").expect("write");
        let mut writer = Writer::open(&path, Format::Json, &BTreeMap::new()).expect("open");
        writer.write(Stream::Stdout, b"next\n", NOW).expect("write");
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(
            text.starts_with("{\"log\":\"tor\n{\"log\":\"next\\n\""),
            "{text}"
        );
    }

    #[test]
    fn what_no_entry_is_is_taken_away() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let open = || Writer::open(&path, Format::Local, &BTreeMap::new()).expect("open");
        open()
            .write(Stream::Stdout, b"one\ntwo\n", NOW)
            .expect("write");
        let whole = std::fs::read(&path).expect("read");
        for torn in [&b"\0\0\0\x10half"[..], b"\xff\xff\xff\xff", b"\0"] {
            std::fs::write(&path, [&whole[..], torn].concat()).expect("write");
            assert_eq!(open().length, whole.len() as u64);
            assert!(std::fs::read(&path).expect("read") == whole);
        }
    }
}
