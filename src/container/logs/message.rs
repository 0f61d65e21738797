//! Output of a container, as it comes, into messages: one a line, or several where a line is long.
//!
//! An unfinished line is kept until it ends, grows to [`PARTIAL`] bytes or the output ends. What is
//! whole in what was read is not copied.

use std::fmt::Write as _;

use crate::container::protocol::Stream;
use crate::types::timestamp::Timestamp;

/// Most bytes of a line in one message; Docker's number, which log shippers count on.
pub const PARTIAL: usize = 16 * 1024;

/// One message, as log drivers get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Where the container wrote it.
    pub stream: Stream,
    /// When; of all parts of a long line, when its first was read.
    pub time: Timestamp,
    /// The text, without the newline that ends it.
    pub line: &'a [u8],
    /// Which part of a long line it is.
    pub partial: Option<Partial<'a>>,
}

/// Which part of a long line a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial<'a> {
    /// The same for all parts of a line, and no other: 64 hexadecimal digits.
    pub id: &'a str,
    /// From 1.
    pub ordinal: u32,
    /// The line ends with it.
    pub last: bool,
}

impl Message<'_> {
    /// Whether its line ends with it.
    pub fn ends_line(&self) -> bool {
        self.partial.is_none_or(|partial| partial.last)
    }
}

/// Makes messages of output.
#[derive(Debug, Default)]
pub struct Splitter {
    /// Of stdout and of stderr.
    unfinished: [Unfinished; 2],
}

/// A line that has not ended yet.
#[derive(Debug, Default)]
struct Unfinished {
    bytes: Vec<u8>,
    /// Of a line of which a part was given out already.
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    id: String,
    ordinal: u32,
    time: Timestamp,
}

impl Splitter {
    /// Takes output that was read at `now`, and gives out the messages that it completes, each a
    /// nanosecond after the one before: where two have one time, whoever reads on from the last time
    /// that he has seen gets one twice or never. Returns the time of what would come next.
    pub fn write(
        &mut self,
        stream: Stream,
        mut bytes: &[u8],
        mut now: Timestamp,
        mut each: impl FnMut(&Message<'_>),
    ) -> Timestamp {
        let unfinished = &mut self.unfinished[index(stream)];
        while !bytes.is_empty() {
            let room = PARTIAL - unfinished.bytes.len();
            // The newline counts too, as in Docker's copier.
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = memchr::memchr(b'\n', window) {
                unfinished.give(stream, &bytes[..end], now, true, &mut each);
                now = now.next();
                bytes = &bytes[end + 1..];
            } else if bytes.len() >= room {
                let cut = character_boundary(&unfinished.bytes, &bytes[..room]);
                unfinished.give(stream, &bytes[..cut], now, false, &mut each);
                now = now.next();
                bytes = &bytes[cut..];
            } else {
                unfinished.bytes.extend_from_slice(bytes);
                break;
            }
        }
        now
    }

    /// Whether a line of this stream has begun and not ended yet.
    pub fn is_within(&self, stream: Stream) -> bool {
        let unfinished = &self.unfinished[index(stream)];
        !unfinished.bytes.is_empty() || unfinished.begun.is_some()
    }

    /// The output has ended: gives out what is left of unfinished lines.
    pub fn finish(&mut self, now: Timestamp, mut each: impl FnMut(&Message<'_>)) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let unfinished = &mut self.unfinished[index(stream)];
            if !unfinished.bytes.is_empty() {
                unfinished.give(stream, b"", now, false, &mut each);
            }
        }
    }

    /// Gives back the memory that only a busy container needs.
    pub fn relax(&mut self) {
        for unfinished in &mut self.unfinished {
            unfinished.bytes.shrink_to_fit();
        }
    }
}

impl Unfinished {
    /// Gives out what was kept and `text`; `last` when the line ends with it.
    fn give(
        &mut self,
        stream: Stream,
        text: &[u8],
        now: Timestamp,
        last: bool,
        each: &mut impl FnMut(&Message<'_>),
    ) {
        if !last && self.begun.is_none() {
            self.begun = Some(Begun {
                id: random_id(),
                ordinal: 0,
                time: now,
            });
        }
        if let Some(begun) = &mut self.begun {
            begun.ordinal = begun.ordinal.saturating_add(1);
        }
        let kept = !self.bytes.is_empty();
        if kept {
            // A character may have arrived in two reads.
            self.bytes.extend_from_slice(text);
        }
        let begun = self.begun.as_ref();
        each(&Message {
            stream,
            time: begun.map_or(now, |begun| begun.time),
            line: if kept { &self.bytes } else { text },
            partial: begun.map(|begun| Partial {
                id: &begun.id,
                ordinal: begun.ordinal,
                last,
            }),
        });
        self.bytes.clear();
        if last {
            self.begun = None;
        }
    }
}

/// Random, so that no two lines share one; where the kernel gives nothing random, it is empty.
fn random_id() -> String {
    let mut bytes = [0_u8; 32];
    let mut text = String::with_capacity(64);
    if getrandom::fill(&mut bytes).is_ok() {
        for byte in bytes {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
        }
    }
    text
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
    use proptest::prelude::*;

    use super::*;

    /// Length, ordinal and whether the line ends, of each message.
    fn shapes(chunks: &[&[u8]]) -> Vec<(usize, u32, bool)> {
        let mut splitter = Splitter::default();
        let mut shapes = Vec::new();
        let mut ids = std::collections::BTreeSet::new();
        let mut each = |message: &Message<'_>| {
            ids.extend(message.partial.map(|partial| partial.id.to_owned()));
            let ordinal = message.partial.map_or(0, |partial| partial.ordinal);
            shapes.push((message.line.len(), ordinal, message.ends_line()));
        };
        for (chunk, second) in chunks.iter().zip(1..) {
            splitter.write(
                Stream::Stdout,
                chunk,
                Timestamp::from_seconds(second),
                &mut each,
            );
        }
        splitter.finish(Timestamp::default(), &mut each);
        assert!(ids.iter().all(|id| id.len() == 64));
        shapes
    }

    #[test]
    fn long_lines_are_split_as_docker_splits_them() {
        let long = |n| [vec![b'x'; n], b"\n".to_vec()].concat();
        assert_eq!(
            shapes(&[b"a\n\nb"]),
            [(1, 0, true), (0, 0, true), (1, 1, false)]
        );
        assert_eq!(shapes(&[&long(PARTIAL - 1)]), [(PARTIAL - 1, 0, true)]);
        assert_eq!(
            shapes(&[&long(PARTIAL)]),
            [(PARTIAL, 1, false), (0, 2, true)]
        );
        assert_eq!(
            shapes(&[&long(40_000)]),
            [
                (PARTIAL, 1, false),
                (PARTIAL, 2, false),
                (40_000 - 2 * PARTIAL, 3, true)
            ]
        );
        assert_eq!(shapes(&[&vec![b'x'; PARTIAL]]), [(PARTIAL, 1, false)]);
        let bytes = long(20_000);
        let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(
            shapes(&bytewise),
            [(PARTIAL, 1, false), (20_000 - PARTIAL, 2, true)]
        );
        // Bytes that are no characters at all get on too.
        assert_eq!(shapes(&[&[0xe2; 2 * PARTIAL]]).len(), 3);
    }

    #[test]
    fn parts_of_a_line_have_the_time_of_the_first() {
        let mut splitter = Splitter::default();
        let mut times = Vec::new();
        for second in 1..=3 {
            let text = if second == 3 { "end\nnext\n" } else { "x" };
            splitter.write(
                Stream::Stderr,
                text.repeat(if second == 3 { 1 } else { PARTIAL })
                    .as_bytes(),
                Timestamp::from_seconds(second),
                |message| times.push(message.time.seconds()),
            );
        }
        assert_eq!(times, [1, 1, 1, 3]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn nothing_is_lost_and_no_character_split(
            text in "(é|x|\n|\"){0,300}", size in 1..20usize,
            repeat in prop_oneof![Just(1), Just(200)]
        ) {
            let text = text.repeat(repeat);
            let mut splitter = Splitter::default();
            let mut joined = Vec::new();
            let mut broken = false;
            let mut each = |message: &Message<'_>| {
                broken |= std::str::from_utf8(message.line).is_err();
                joined.extend_from_slice(message.line);
                joined.extend(message.ends_line().then_some(b'\n'));
            };
            for chunk in text.as_bytes().chunks(size) {
                splitter.write(Stream::Stdout, chunk, Timestamp::default(), &mut each);
            }
            splitter.finish(Timestamp::default(), &mut each);
            prop_assert!(!broken);
            prop_assert_eq!(joined, text.into_bytes());
        }
    }
}
