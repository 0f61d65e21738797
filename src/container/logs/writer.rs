//! Messages into a log's files.
//!
//! The shim hands over what it read, up to 64 KiB at once, for as long as there is more, and the
//! records that this completes go to the file together, in pieces of [`PIECE`]. A piece may end within
//! a record; should the rest find no room, what is in the file of it is taken back.
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

use super::escape::escape;
use super::lines::Lines;
use super::message::{Message, Splitter};
use super::rest::{BEGIN, Rest};
use super::rotate::{self, Compressing};
use super::source::Cut;
use super::{Format, local};
use crate::container::protocol::{Rotation, Stream};
use crate::types::timestamp::Timestamp;

/// Encoded records are written when they are this long, to bound the memory they take.
const PIECE: usize = 256 * 1024;

/// Pieces end where the file has a multiple of this: the kernel takes such in larger units, a
/// quarter faster.
const ALIGNMENT: u64 = 64 * 1024;

/// Writes one container's log.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    format: Format,
    rotation: Rotation,
    /// How long the file is.
    length: u64,
    /// Where the last whole record in it ends.
    whole: u64,
    /// What every record says of attributes, as the format has it.
    attrs: Vec<u8>,
    splitter: Splitter,
    /// What comes after the text of a line, as it was for the last record.
    rest: Rest,
    out: Vec<u8>,
    compressing: Option<Compressing>,
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
            whole: length,
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

    /// Takes output that was read at `now`; what it completes is in the file for certain after the
    /// next [`Writer::flush`]. After an error the file ends with a whole record, some records are
    /// missing, and later ones are tried again.
    pub fn take(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let begun = match self.splitter.is_within(stream) {
            true => memchr::memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1),
            false => 0,
        };
        let (begun, bytes) = bytes.split_at(begun);
        let mut now = now;
        let first = self.split(stream, begun, &mut now);
        let (done, lines) = self.write_lines(stream, bytes, &mut now);
        let last = self.split(stream, &bytes[done..], &mut now);
        last.and(lines).and(first)
    }

    /// Takes output and writes it.
    #[cfg(test)]
    pub fn write(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let taken = self.take(stream, bytes, now);
        self.flush().and(taken)
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

    /// Takes the whole lines at the beginning of `bytes` together, in JSON. Returns how many bytes it
    /// took, none where there is more to be considered. No line may have begun.
    fn write_lines(
        &mut self,
        stream: Stream,
        bytes: &[u8],
        now: &mut Timestamp,
    ) -> (usize, io::Result<()>) {
        let mut result = Ok(());
        if self.format != Format::Json {
            return (0, result);
        }
        self.rest.set(stream, *now, &self.attrs);
        let mut lines = Lines::begin(bytes, &mut self.out);
        if let Some(most) = self.rotation.max_size
            && self.length + (lines.whole + lines.most(&self.rest)) as u64 > most
        {
            self.out.truncate(lines.whole);
            return (0, result);
        }
        while lines.encode(&mut self.rest, &self.attrs, &mut self.out) {
            if lines.whole >= PIECE {
                let (gone, spilled) = self.spill(lines.whole);
                lines.whole -= gone;
                result = spilled.and(result);
            }
        }
        *now = self.rest.time().unwrap_or(*now);
        (lines.done(), result)
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
        match (self.out.len() >= PIECE, self.format) {
            (false, _) => made,
            (true, Format::Json) => self.spill(self.out.len()).1.and(made),
            (true, Format::Local) => self.flush().and(made),
        }
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
        self.rest.append(message.ends_line(), out);
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
            (self.length, self.whole) = (0, 0);
            return Ok(());
        }
        self.settle();
        rotate::shift(&self.path, self.rotation.max_files)?;
        self.file = open(&self.path)?;
        self.length = self.file.metadata()?.len();
        self.whole = self.length;
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
        let result = self.put(self.out.len());
        self.out.clear();
        result
    }

    /// Writes as much of the records before `whole` in `out` as ends well in the file, and returns how
    /// many bytes are no longer in `out`.
    fn spill(&mut self, whole: usize) -> (usize, io::Result<()>) {
        let beyond = (self.length + whole as u64) % ALIGNMENT;
        let length = whole.saturating_sub(beyond as usize);
        let result = self.put(length);
        let gone = if result.is_ok() { length } else { whole };
        self.out.drain(..gone);
        (gone, result)
    }

    /// Writes the first bytes of `out`.
    fn put(&mut self, length: usize) -> io::Result<()> {
        let mut rest = &self.out[..length];
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
        let written = length - rest.len();
        let whole = match self.format {
            Format::Json => memchr::memrchr(b'\n', &self.out[..written]).map(|end| end + 1),
            Format::Local if result.is_ok() => Some(written),
            Format::Local => Some(self.format.whole(&self.out[..written])),
        };
        self.whole = whole.map_or(self.whole, |whole| self.length + whole as u64);
        self.length += written as u64;
        // Disk full: what cannot be kept whole is taken back. Should even that fail, the next
        // record spoils itself together with the torn one, and the reader passes over both.
        if result.is_err() && self.whole < self.length && self.file.set_len(self.whole).is_ok() {
            self.length = self.whole;
        }
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
    use crate::container::logs::message::PARTIAL;
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

    /// The records that a log of these chunks has.
    fn written(path: &Path, chunks: &[&[u8]]) -> Vec<Record> {
        let mut writer = Writer::open(path, Format::Json, &BTreeMap::new()).expect("open");
        for chunk in chunks {
            writer.take(Stream::Stdout, chunk, NOW).expect("take");
        }
        writer.finish(NOW).expect("finish");
        assert_eq!(writer.whole, path.metadata().expect("stat").len());
        let mut records = records(path);
        std::fs::remove_file(path).expect("remove");
        // What is read at once is told apart by it.
        records.iter_mut().for_each(|record| record.time = NOW);
        records
    }

    #[test]
    fn lines_are_the_same_one_by_one_and_together() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let short = b"\n".repeat(PIECE / 32);
        let longest = b"x".repeat(PARTIAL - 1);
        let long = b"y".repeat(PARTIAL);
        let text = [b"a b\n\n", &longest[..], b"\nc\n", &long, b"\nd\n", &short].concat();
        for odd in [
            &b""[..],
            b"\"q\"\n",
            b"tab\t\n",
            "\u{e9}\n".as_bytes(),
            b"<\n",
            b"\\\n",
            b"&\n",
            b"\r\n",
            b"\xff\n",
            "\u{2028}\u{2014}\n".as_bytes(),
            b"\xe2\x80\n",
            b"end",
        ] {
            let text = [&text, odd].concat();
            let by = |size| written(&path, &text.chunks(size).collect::<Vec<_>>());
            let whole = by(text.len());
            assert!([1, 1000].iter().all(|&size| by(size) == whole), "{odd:?}");
        }
    }

    #[test]
    fn text_is_the_same_wherever_it_stands() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        // Across the ends of words and of pieces of lines, and of all that may be moved too far.
        let odd = "\u{2028}<\u{e9}\"\u{2014}\t\n";
        for before in (0..140).chain(2030..2060).chain(4080..4100) {
            let text = "x".repeat(before) + odd + &"y".repeat(before) + "\nz\n";
            let records = written(&path, &[text.as_bytes()]);
            let lines: Vec<u8> = records
                .iter()
                .flat_map(|record| record.line.clone())
                .collect();
            assert_eq!((records.len(), lines), (3, text.into_bytes()), "{before}");
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
