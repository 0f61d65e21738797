//! Entries of the driver `local`: a protobuf message between its length and its length.
//!
//! ```text
//! u32 big-endian │ message │ u32 big-endian
//!   length n     │ n bytes │   length n        (moby: daemon/logger/local)
//!
//! LogEntry  1 source  2 time_nano  3 line  4 partial  5 metadata  6 attrs (each 1 key, 2 value)
//! metadata  1 last    2 id         3 ordinal
//! ```
//!
//! The second length lets a file be read from its end. Lines have no newline here: a reader adds
//! one where the line ends. This is also how the shim hands messages to the process that delivers
//! them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::message::{Message, Partial};
use super::record::{Record, stream_name};
use crate::container::protocol::Stream;
use crate::types::timestamp::Timestamp;

/// Bytes of one length.
pub(super) const LENGTH: usize = 4;
/// Longest message: Docker's reader takes no longer one.
pub(super) const LONGEST: usize = 1_000_000;

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// Appends a message; `attrs` as [`attributes`] makes them.
pub fn encode(message: &Message<'_>, attrs: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    field(1, stream_name(message.stream).as_bytes(), out);
    // Of the years 1677 to 2262; others do not come from a clock.
    let nanos = i64::try_from(message.time.nanos()).unwrap_or(0);
    number(2, nanos.cast_unsigned(), out);
    field(3, message.line, out);
    if let Some(partial) = message.partial {
        number(4, 1, out);
        let mut metadata = Vec::with_capacity(80);
        number(1, partial.last.into(), &mut metadata);
        field(2, partial.id.as_bytes(), &mut metadata);
        number(3, partial.ordinal.into(), &mut metadata);
        field(5, &metadata, out);
    }
    out.extend_from_slice(attrs);
    // A line of 16 KiB and what a command line may hold of attributes: far below 4 GiB.
    let length = u32::try_from(out.len() - begin - LENGTH).unwrap_or(u32::MAX);
    out[begin..begin + LENGTH].copy_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
}

/// What every message of a log says of its attributes.
pub fn attributes(attrs: &BTreeMap<String, String>) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in attrs {
        let mut pair = Vec::new();
        field(1, key.as_bytes(), &mut pair);
        field(2, value.as_bytes(), &mut pair);
        field(6, &pair, &mut out);
    }
    out
}

/// A field of bytes; nothing where it is empty, as in proto3.
fn field(tag: u64, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        varint(tag << 3 | BYTES, out);
        varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

fn number(tag: u64, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        varint(tag << 3 | VARINT, out);
        varint(value, out);
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Where the entry at the beginning of `bytes` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framed {
    /// It is whole: its message has this length, and lies between two [`LENGTH`]s.
    Whole(usize),
    /// The rest is not there yet.
    Short,
    /// This is no entry.
    Broken,
}

/// Finds the entry at the beginning of `bytes`.
pub fn framed(bytes: &[u8]) -> Framed {
    let Some(first) = bytes.first_chunk::<LENGTH>() else {
        return Framed::Short;
    };
    let length = u32::from_be_bytes(*first) as usize;
    if length > LONGEST {
        return Framed::Broken;
    }
    match bytes.get(LENGTH + length..2 * LENGTH + length) {
        Some(again) if again == first => Framed::Whole(length),
        Some(_) => Framed::Broken,
        None => Framed::Short,
    }
}

/// The message of an entry found by [`framed`].
pub fn message(bytes: &[u8], length: usize) -> &[u8] {
    bytes.get(LENGTH..LENGTH + length).unwrap_or_default()
}

/// An entry's message, taken apart.
#[derive(Debug, Default)]
struct Entry<'a> {
    source: &'a [u8],
    time: i64,
    line: &'a [u8],
    is_partial: bool,
    last: bool,
    id: &'a [u8],
    ordinal: u64,
    attrs: BTreeMap<String, String>,
}

impl<'a> Entry<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut entry = Self::default();
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(bytes)) => entry.source = bytes,
                (2, Value::Number(nanos)) => entry.time = nanos.cast_signed(),
                (3, Value::Bytes(bytes)) => entry.line = bytes,
                (4, Value::Number(flag)) => entry.is_partial = flag != 0,
                (5, Value::Bytes(metadata)) => {
                    for field in Fields(metadata) {
                        match field? {
                            (1, Value::Number(flag)) => entry.last = flag != 0,
                            (2, Value::Bytes(bytes)) => entry.id = bytes,
                            (3, Value::Number(number)) => entry.ordinal = number,
                            _ => {}
                        }
                    }
                }
                (6, Value::Bytes(pair)) => {
                    let (mut key, mut value) = (&b""[..], &b""[..]);
                    for field in Fields(pair) {
                        match field? {
                            (1, Value::Bytes(bytes)) => key = bytes,
                            (2, Value::Bytes(bytes)) => value = bytes,
                            _ => {}
                        }
                    }
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    entry.attrs.insert(text(key), text(value));
                }
                _ => {}
            }
        }
        Some(entry)
    }

    fn stream(&self) -> Stream {
        match self.source {
            b"stderr" => Stream::Stderr,
            _ => Stream::Stdout,
        }
    }
}

/// Reads a message into a record; false where it is none.
pub(super) fn decode(bytes: &[u8], record: &mut Record) -> bool {
    let Some(entry) = Entry::parse(bytes) else {
        return false;
    };
    record.stream = entry.stream();
    record.time = Timestamp::from_nanos(entry.time.into());
    record.line.clear();
    record.line.extend_from_slice(entry.line);
    if !entry.is_partial || entry.last {
        record.line.push(b'\n');
    }
    record.attrs = entry.attrs;
    true
}

/// Reads a message as its writer had it, and shows it; false where it is none.
pub fn show<T>(bytes: &[u8], shown: impl FnOnce(&Message<'_>) -> T) -> Option<T> {
    let entry = Entry::parse(bytes)?;
    let id = std::str::from_utf8(entry.id).ok()?;
    Some(shown(&Message {
        stream: entry.stream(),
        time: Timestamp::from_nanos(entry.time.into()),
        line: entry.line,
        partial: entry.is_partial.then_some(Partial {
            id,
            ordinal: u32::try_from(entry.ordinal).unwrap_or(u32::MAX),
            last: entry.last,
        }),
    }))
}

/// A field's value.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a kind that no field here has.
    Other,
}

/// The fields of a message, in order; `None` in place of one that is torn, and then no more.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            VARINT => Value::Number(self.varint()?),
            BYTES => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            FIXED64 => self.take(8).map(|_| Value::Other)?,
            FIXED32 => self.take(4).map(|_| Value::Other)?,
            _ => return None,
        };
        Some((key >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// Finds the last `wanted` entries of the first `length` bytes, from the end: the offset of the
/// first of them, and how many there are. `None` where the end of the file is no entry's.
pub(super) fn tail(file: &File, length: u64, wanted: u64) -> io::Result<Option<(u64, u64)>> {
    let (mut end, mut found) = (length, 0);
    let mut size = [0; LENGTH];
    let both = 2 * LENGTH as u64;
    while end > 0 && found < wanted {
        if end < both {
            return Ok(None);
        }
        file.read_exact_at(&mut size, end - LENGTH as u64)?;
        let last = size;
        let message = u64::from(u32::from_be_bytes(last));
        let Some(begin) = end.checked_sub(message + both) else {
            return Ok(None);
        };
        file.read_exact_at(&mut size, begin)?;
        if size != last {
            return Ok(None);
        }
        end = begin;
        found += 1;
    }
    Ok(Some((end, found)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn entry(line: &[u8], partial: Option<Partial<'_>>) -> Vec<u8> {
        let attrs = attributes(&[("k".to_owned(), "v".to_owned())].into());
        let mut out = Vec::new();
        let message = Message {
            stream: Stream::Stderr,
            time: Timestamp::from_nanos(1_700_000_000_000_000_001),
            line,
            partial,
        };
        encode(&message, &attrs, &mut out);
        out
    }

    #[test]
    fn an_entry_is_dockers() {
        let mut expected = vec![0, 0, 0, 31, 0x0a, 6];
        expected.extend(b"stderr");
        expected.extend([0x10, 0x81, 0x80, 0xa8, 0xb1, 0xe3, 0x9f, 0xe7, 0xcb, 0x17]);
        expected.extend([0x1a, 3]);
        expected.extend(b"two");
        expected.extend([0x32, 6, 0x0a, 1, b'k', 0x12, 1, b'v', 0, 0, 0, 31]);
        let got = entry(b"two", None);
        assert_eq!(got, expected);
        let mut record = Record::default();
        assert!(decode(message(&got, got.len() - 8), &mut record));
        assert_eq!(record.time.nanos(), 1_700_000_000_000_000_001);
        assert_eq!(
            (&record.line[..], record.stream),
            (&b"two\n"[..], Stream::Stderr)
        );
        assert_eq!(record.attrs["k"], "v");
    }

    #[test]
    fn parts_of_lines_have_no_newline_but_the_last() {
        for (last, expected) in [(false, &b"part"[..]), (true, b"part\n")] {
            let id = "5".repeat(64);
            let partial = Partial {
                id: &id,
                ordinal: 7,
                last,
            };
            let got = entry(b"part", Some(partial));
            let Framed::Whole(length) = framed(&got) else {
                panic!("not whole");
            };
            let mut record = Record::default();
            assert!(decode(message(&got, length), &mut record));
            assert_eq!(record.line, expected);
            let same = show(message(&got, length), |message| {
                message.partial == Some(partial) && message.line == b"part"
            });
            assert_eq!(same, Some(true));
        }
    }

    #[test]
    fn files_are_read_from_their_end() {
        let mut file = tempfile::tempfile().expect("tempfile");
        let entries = [entry(b"a", None), entry(b"bb", None), entry(b"", None)];
        file.write_all(&entries.concat()).expect("write");
        let length = file.metadata().expect("stat").len();
        let at = |wanted| tail(&file, length, wanted).expect("tail");
        assert_eq!(at(0), Some((length, 0)));
        assert_eq!(at(1), Some((length - entries[2].len() as u64, 1)));
        assert_eq!(at(2), Some((entries[0].len() as u64, 2)));
        assert_eq!(at(9), Some((0, 3)));
        assert_eq!(tail(&file, length - 1, 1).expect("tail"), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut record = Record::default();
            let _ = decode(&bytes, &mut record);
            let _ = show(&bytes, |_| ());
            if let Framed::Whole(length) = framed(&bytes) {
                prop_assert!(message(&bytes, length).len() == length);
            }
        }
    }
}
