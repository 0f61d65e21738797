//! Output of a container, as it comes, into records.
//!
//! The shim hands over what it read, up to 64 KiB at once, and all records that this completes go
//! to the file in one write (in pieces of [`PIECE`] where very short lines swell it). An
//! unfinished line is kept until it ends, grows beyond [`PARTIAL`] or the output ends.
//!
//! With [`Rotation`] a file that the next record would make too long becomes `path.1`, `path.1`
//! becomes `path.2`, and the oldest is lost; where one file is all there is it is emptied, as in
//! Docker. A rotation that fails costs nothing but the bound.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::record::{escape, stream_name};
use crate::container::protocol::{Rotation, Stream};
use crate::types::timestamp::Timestamp;

/// Most bytes of a line in one record; Docker's number, which log shippers count on.
pub const PARTIAL: usize = 16 * 1024;
/// Encoded records are written when they are this long, to bound the memory they take.
const PIECE: usize = 256 * 1024;

/// Writes one container's log.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    rotation: Rotation,
    /// Where the last whole record ends.
    length: u64,
    /// `,"attrs":{…}`, or nothing.
    attrs: Vec<u8>,
    /// Of stdout and of stderr.
    unfinished: [Unfinished; 2],
    out: Vec<u8>,
}

/// A line that has not ended yet.
#[derive(Debug, Default)]
struct Unfinished {
    bytes: Vec<u8>,
    /// When its first part was written, if one was: the time of all its records.
    begun: Option<String>,
}

impl Writer {
    /// Opens the log, or makes it. A torn record at its end is ended, so that it spoils no other.
    pub fn open(path: &Path, attrs: &BTreeMap<String, String>) -> io::Result<Self> {
        let mut file = open(path)?;
        let mut length = file.metadata()?.len();
        if length > 0 {
            let mut last = [0];
            file.read_exact_at(&mut last, length - 1)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                length += 1;
            }
        }
        let attrs = if attrs.is_empty() {
            Vec::new()
        } else {
            [b",\"attrs\":", &serde_json::to_vec(attrs)?[..]].concat()
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            rotation: Rotation::default(),
            length,
            attrs,
            unfinished: Default::default(),
            out: Vec::new(),
        })
    }

    /// The same log, whose files are bounded.
    pub fn rotated(mut self, rotation: Rotation) -> Self {
        self.rotation = rotation;
        self
    }

    /// Takes output that was read at `now`. After an error the file ends with a whole record, some
    /// records are missing, and later ones are tried again.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let now = now.to_string();
        let which = index(stream);
        let mut result = Ok(());
        while !bytes.is_empty() {
            let held = self.unfinished[which].bytes.len();
            let room = PARTIAL - held;
            // The newline counts too, as in Docker's copier.
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = memchr::memchr(b'\n', window) {
                result = self.record(stream, &bytes[..=end], &now, true).and(result);
                bytes = &bytes[end + 1..];
            } else if bytes.len() >= room {
                let cut = character_boundary(&self.unfinished[which].bytes, &bytes[..room]);
                result = self.record(stream, &bytes[..cut], &now, false).and(result);
                bytes = &bytes[cut..];
            } else {
                self.unfinished[which].bytes.extend_from_slice(bytes);
                break;
            }
            if self.out.len() >= PIECE {
                result = self.flush().and(result);
            }
        }
        self.flush().and(result)
    }

    /// The output has ended: writes what is left of unfinished lines.
    pub fn finish(&mut self, now: Timestamp) -> io::Result<()> {
        let now = now.to_string();
        let mut result = Ok(());
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.unfinished[index(stream)].bytes.is_empty() {
                result = self.record(stream, b"", &now, false).and(result);
            }
        }
        self.flush().and(result)
    }

    /// Gives back the memory that only a busy container needs.
    pub fn relax(&mut self) {
        self.out = Vec::new();
        for unfinished in &mut self.unfinished {
            unfinished.bytes.shrink_to_fit();
        }
    }

    /// Encodes one record of what is unfinished and `text`; `last` when it ends its line.
    fn record(&mut self, stream: Stream, text: &[u8], now: &str, last: bool) -> io::Result<()> {
        let begin = self.out.len();
        let unfinished = &mut self.unfinished[index(stream)];
        let out = &mut self.out;
        out.extend_from_slice(b"{\"log\":\"");
        if unfinished.bytes.is_empty() {
            escape(text, out);
        } else {
            // A character may have arrived in two reads.
            unfinished.bytes.extend_from_slice(text);
            escape(&unfinished.bytes, out);
            unfinished.bytes.clear();
        }
        out.extend_from_slice(b"\",\"stream\":\"");
        out.extend_from_slice(stream_name(stream).as_bytes());
        out.push(b'"');
        out.extend_from_slice(&self.attrs);
        out.extend_from_slice(b",\"time\":\"");
        match &unfinished.begun {
            Some(begun) => out.extend_from_slice(begun.as_bytes()),
            None => out.extend_from_slice(now.as_bytes()),
        }
        out.extend_from_slice(b"\"}\n");
        if last {
            unfinished.begun = None;
        } else if unfinished.begun.is_none() {
            unfinished.begun = Some(now.to_owned());
        }
        self.make_room(begin)
    }

    /// Rotates before the record at `begin` of what is to be written, if the file would become too
    /// long by it.
    fn make_room(&mut self, begin: usize) -> io::Result<()> {
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
        let rotated = self.rotate();
        self.out = last;
        written.and(rotated)
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.rotation.max_files < 2 {
            self.file.set_len(0)?;
            self.length = 0;
            return Ok(());
        }
        let name = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            if number > 0 {
                name.push(format!(".{number}"));
            }
            PathBuf::from(name)
        };
        for number in (1..self.rotation.max_files).rev() {
            match std::fs::rename(name(number - 1), name(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = open(&self.path)?;
        self.length = self.file.metadata()?.len();
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
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
        let whole = if result.is_ok() {
            written
        } else {
            memchr::memrchr(b'\n', &self.out[..written]).map_or(0, |end| end + 1)
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

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o640);
    options.open(path)
}

fn index(stream: Stream) -> usize {
    usize::from(stream == Stream::Stderr)
}

/// Where to cut `text`, which follows `held`, so that no UTF-8 character is cut in two: its end,
/// or up to three bytes before. Text that is no UTF-8 is cut at its end.
fn character_boundary(held: &[u8], text: &[u8]) -> usize {
    for back in 1..=3.min(text.len()) {
        let byte = text[text.len() - back];
        if byte & 0xc0 == 0x80 {
            continue;
        }
        let length = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        // A cut at nothing at all would not get on.
        let cut = text.len() - back;
        return if length > back && held.len() + cut > 0 {
            cut
        } else {
            text.len()
        };
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::logs::record::{Decoder, Record};
    use proptest::prelude::*;

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

    fn write(chunks: &[&[u8]]) -> Vec<Record> {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let mut writer = Writer::open(&path, &BTreeMap::new()).expect("open");
        for chunk in chunks {
            writer.write(Stream::Stdout, chunk, NOW).expect("write");
        }
        writer.finish(NOW).expect("finish");
        records(&path)
    }

    fn lengths(chunks: &[&[u8]]) -> Vec<usize> {
        write(chunks).iter().map(|r| r.line.len()).collect()
    }

    #[test]
    fn the_file_is_dockers() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let attrs = [("a".to_owned(), "b".to_owned())].into();
        let mut writer = Writer::open(&path, &attrs).expect("open");
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
    fn long_lines_are_split_as_docker_splits_them() {
        let long = |n| [vec![b'x'; n], b"\n".to_vec()].concat();
        assert_eq!(lengths(&[&long(PARTIAL - 1)]), [PARTIAL]);
        assert_eq!(lengths(&[&long(PARTIAL)]), [PARTIAL, 1]);
        assert_eq!(lengths(&[&long(PARTIAL + 1)]), [PARTIAL, 2]);
        assert_eq!(
            lengths(&[&long(40_000)]),
            [PARTIAL, PARTIAL, 40_001 - 2 * PARTIAL]
        );
        assert_eq!(lengths(&[&vec![b'x'; PARTIAL]]), [PARTIAL]);
        let bytes = long(20_000);
        let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(lengths(&bytewise), [PARTIAL, 20_001 - PARTIAL]);
    }

    #[test]
    fn no_character_is_split() {
        let text = format!("a{}\n", "é".repeat(PARTIAL));
        let joined: Vec<u8> = write(&[text.as_bytes()])
            .into_iter()
            .flat_map(|r| r.line)
            .collect();
        assert_eq!(joined, text.as_bytes());
        // Bytes that are no characters at all get on too.
        assert_eq!(write(&[&[0xe2; 2 * PARTIAL]]).len(), 3);
    }

    #[test]
    fn files_are_rotated_between_records() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("log");
        let files = |max_files| {
            let rotation = Rotation {
                max_size: Some(1000),
                max_files,
            };
            let writer = Writer::open(&path, &BTreeMap::new()).expect("open");
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
        let mut writer = Writer::open(&path, &BTreeMap::new()).expect("open");
        writer.write(Stream::Stdout, b"next\n", NOW).expect("write");
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(
            text.starts_with("{\"log\":\"tor\n{\"log\":\"next\\n\""),
            "{text}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn nothing_is_lost_however_it_is_read(
            text in "(é|x|\n|\"){0,300}", size in 1..20usize, repeat in prop_oneof![Just(1), Just(200)]
        ) {
            let text = text.repeat(repeat);
            let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let joined: Vec<u8> = write(&chunks).into_iter().flat_map(|r| r.line).collect();
            prop_assert_eq!(joined, text.into_bytes());
        }
    }
}
