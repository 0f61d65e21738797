//! One record, and its line in the file in both directions.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

use crate::container::protocol::Stream;
use crate::types::timestamp::Timestamp;

/// One record of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where the container wrote it.
    pub stream: Stream,
    /// When.
    pub time: Timestamp,
    /// What was written, with its newline unless it is part of a longer line.
    pub line: Vec<u8>,
    /// Attributes that the log's options selected.
    pub attrs: BTreeMap<String, String>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            stream: Stream::Stdout,
            time: Timestamp::default(),
            line: Vec::new(),
            attrs: BTreeMap::new(),
        }
    }
}

impl Record {
    /// Appends the record as `docker logs` shows it: nine digits of a second with `timestamps`,
    /// URL-encoded attributes (and their blank, also where there are none) with `details`.
    pub fn render(&self, timestamps: bool, details: bool, out: &mut Vec<u8>) {
        if timestamps {
            let time = self.time.utc();
            let mut text = String::with_capacity(32);
            // Writing to a String does not fail.
            let _ = write!(
                text,
                "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z ",
                time.year(),
                u8::from(time.month()),
                time.day(),
                time.hour(),
                time.minute(),
                time.second(),
                time.nanosecond()
            );
            out.extend_from_slice(text.as_bytes());
        }
        if details {
            for (i, (name, value)) in self.attrs.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                query_escape(name, out);
                out.push(b'=');
                query_escape(value, out);
            }
            out.push(b' ');
        }
        out.extend_from_slice(&self.line);
    }
}

/// Go's `url.QueryEscape`.
fn query_escape(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte),
            b' ' => out.push(b'+'),
            _ => {
                out.push(b'%');
                out.push(HEX_UPPER[usize::from(byte >> 4)]);
                out.push(HEX_UPPER[usize::from(byte & 15)]);
            }
        }
    }
}

const HEX_UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// The name of a stream in the file.
pub(super) fn stream_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}

/// Turns lines into records. It remembers the last time it parsed: some writers give all lines that
/// they read at once the same one.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    text: Vec<u8>,
    time: Timestamp,
}

impl Decoder {
    /// Reads one line (without its newline) into `record`; false when it is no record.
    pub(super) fn decode(&mut self, line: &[u8], record: &mut Record) -> bool {
        record.line.clear();
        record.attrs.clear();
        if let Some((stream, time)) = plain(line, &mut record.line) {
            record.stream = stream;
            if time != self.text {
                let Some(parsed) = parse_time(time) else {
                    return false;
                };
                self.text = time.to_vec();
                self.time = parsed;
            }
            record.time = self.time;
            return true;
        }
        let Ok(general) = serde_json::from_slice::<General>(line) else {
            return false;
        };
        let Some(time) = parse_time(general.time.as_bytes()) else {
            return false;
        };
        record.time = time;
        record.stream = match general.stream.as_str() {
            "stderr" => Stream::Stderr,
            _ => Stream::Stdout,
        };
        record.line.clear();
        record.line.extend_from_slice(general.log.as_bytes());
        record.attrs = general.attrs;
        true
    }
}

/// A record in any form that JSON allows.
#[derive(Deserialize)]
struct General {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
    time: String,
}

fn parse_time(text: &[u8]) -> Option<Timestamp> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The form that Docker and the writer give to records without attributes, four times as fast as
/// the general one. Appends the text to `out` and returns the rest; `None` for any other form.
fn plain<'a>(line: &'a [u8], out: &mut Vec<u8>) -> Option<(Stream, &'a [u8])> {
    let mut rest = line.strip_prefix(b"{\"log\":\"")?;
    loop {
        let end = memchr::memchr2(b'"', b'\\', rest)?;
        out.extend_from_slice(&rest[..end]);
        if rest[end] == b'"' {
            rest = &rest[end + 1..];
            break;
        }
        let (byte, length) = match *rest.get(end + 1)? {
            b'n' => (b'\n', 2),
            b'r' => (b'\r', 2),
            byte @ (b'"' | b'\\' | b'/') => (byte, 2),
            b'u' => {
                let digits = std::str::from_utf8(rest.get(end + 2..end + 6)?).ok()?;
                let unit = u16::from_str_radix(digits, 16).ok()?;
                // Surrogate pairs are the general decoder's.
                let mut utf8 = [0; 4];
                let encoded = char::from_u32(unit.into())?.encode_utf8(&mut utf8);
                out.extend_from_slice(encoded.as_bytes());
                rest = &rest[end + 6..];
                continue;
            }
            _ => return None,
        };
        out.push(byte);
        rest = &rest[end + length..];
    }
    rest = rest.strip_prefix(b",\"stream\":\"")?;
    let (stream, rest) = if let Some(rest) = rest.strip_prefix(b"stdout") {
        (Stream::Stdout, rest)
    } else {
        (Stream::Stderr, rest.strip_prefix(b"stderr")?)
    };
    let time = rest.strip_prefix(b"\",\"time\":\"")?.strip_suffix(b"\"}")?;
    Some((stream, time))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::container::logs::escape::escape;

    fn decode(line: &[u8]) -> Option<Record> {
        let mut record = Record::default();
        Decoder::default()
            .decode(line, &mut record)
            .then_some(record)
    }

    #[test]
    fn any_json_is_read_and_anything_else_refused() {
        let time = "2026-01-02T03:04:05.000000006Z";
        let whole = format!(
            r#"{{"time": "{time}", "stream":"stderr", "log":"😀 \ud83d\ude00\t\n", "attrs":{{"a":"b"}}}}"#
        );
        let record = decode(whole.as_bytes()).expect("a record");
        assert_eq!(record.line, "😀 😀\t\n".as_bytes());
        assert_eq!(record.stream, Stream::Stderr);
        assert_eq!(record.attrs["a"], "b");
        assert_eq!(record.time.to_string(), time);
        let surrogates = format!(r#"{{"log":"\ud83d\ude00","stream":"stdout","time":"{time}"}}"#);
        assert_eq!(
            decode(surrogates.as_bytes()).expect("a record").line,
            "😀".as_bytes()
        );
        for torn in [
            "",
            "{",
            r#"{"log":"abc"#,
            r#"{"log":"x","stream":"stdout","time":"never"}"#,
        ] {
            assert!(decode(torn.as_bytes()).is_none(), "{torn}");
        }
    }

    #[test]
    fn records_are_rendered_as_docker_logs_does() {
        let mut record = Record {
            time: Timestamp::from_nanos(1_700_000_000_120_000_000),
            line: b"hi\n".to_vec(),
            ..Record::default()
        };
        let mut out = Vec::new();
        record.render(true, true, &mut out);
        record.attrs = [("a b", "c/d"), ("e", "f")]
            .map(|(k, v)| (k.into(), v.into()))
            .into();
        record.render(false, true, &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "2023-11-14T22:13:20.120000000Z  hi\na+b=c%2Fd,e=f hi\n"
        );
    }

    proptest! {
        #[test]
        fn what_is_escaped_reads_back(text in ".*") {
            let mut line = b"{\"log\":\"".to_vec();
            escape(text.as_bytes(), &mut line);
            line.extend_from_slice(b"\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05Z\"}");
            prop_assert_eq!(&decode(&line).expect("a record").line, text.as_bytes());
            // And as any JSON parser reads it.
            let value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
            prop_assert_eq!(&value["log"], &text);
        }

        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&line);
            let mut begun = b"{\"log\":\"".to_vec();
            begun.extend_from_slice(&line);
            let _ = decode(&begun);
        }
    }
}
