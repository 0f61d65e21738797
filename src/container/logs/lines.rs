//! Whole lines into JSON records, many at once: what a message for each would become, in two thirds
//! of the time, or one third where something is to be escaped.
//!
//! Text is gone through in pieces of some KiB, so that it is still near when it is copied: what is
//! between two newlines or other characters to be escaped in wide moves that go beyond its end, where
//! what comes next is put. The room for that is made before, for the most that the piece's marks can
//! take.

use super::escape::{SPECIAL, escaped};
use super::message::PARTIAL;
use super::rest::{BEGIN, Rest};
use crate::sys::byteset::{WORD, places};

/// Words in a piece.
const PIECE: usize = 32;
/// Most bytes that one mark which is no newline becomes, and touches.
const ESCAPE: usize = 8;
/// Bytes that are moved at once where fewer are to be.
const WIDE: usize = 128;

/// Lines on their way.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    text: &'a [u8],
    /// Where the last whole line ends, after its newline.
    end: usize,
    /// Where the next piece begins.
    at: usize,
    /// Where the line that is not done yet begins.
    line: usize,
    /// What lies before is in `out`.
    copied: usize,
    /// All that is no ASCII is known to be UTF-8.
    is_valid: bool,
    /// In `out`, where the last whole record ends.
    pub(super) whole: usize,
}

impl<'a> Lines<'a> {
    /// Begins behind what is in `out`. No line may have begun before `text`.
    pub(super) fn begin(text: &'a [u8], out: &mut Vec<u8>) -> Self {
        let whole = out.len();
        out.extend_from_slice(BEGIN);
        Self {
            text,
            end: memchr::memrchr(b'\n', text).map_or(0, |at| at + 1),
            at: 0,
            line: 0,
            copied: 0,
            is_valid: false,
            whole,
        }
    }

    /// How many bytes of the text are in records.
    pub(super) fn done(&self) -> usize {
        self.line
    }

    /// Most bytes that the records may have.
    pub(super) fn most(&self, rest: &Rest) -> usize {
        let marked = |piece: &[u8]| -> usize {
            let mut marks = [0; PIECE];
            SPECIAL.mark(piece, &mut marks);
            marks.iter().map(|mark| mark.count_ones() as usize).sum()
        };
        let pieces = self.text[..self.end].chunks(PIECE * WORD);
        let marked: usize = pieces.map(marked).sum();
        BEGIN.len() + self.end + marked * rest.most().max(ESCAPE)
    }

    /// Encodes the next piece; false, and `out` holds whole records, where no more lines can be
    /// taken so: they have ended, or one is too long or no UTF-8.
    pub(super) fn encode(&mut self, rest: &mut Rest, attrs: &[u8], out: &mut Vec<u8>) -> bool {
        let goes_on = self.at < self.end && self.piece(rest, attrs, out);
        if !goes_on {
            out.truncate(self.whole);
        }
        goes_on
    }

    fn piece(&mut self, rest: &mut Rest, attrs: &[u8], out: &mut Vec<u8>) -> bool {
        let text = self.text;
        let begin = self.at;
        let length = (self.end - begin).min(PIECE * WORD);
        let mut special = [0; PIECE];
        let is_ascii = SPECIAL.mark(&text[begin..begin + length], &mut special);
        let count = special.iter().map(|mark| mark.count_ones() as usize);
        let count: usize = count.sum();
        if !is_ascii && !self.is_valid {
            self.is_valid = std::str::from_utf8(&text[self.line..self.end]).is_ok();
            if !self.is_valid {
                return false;
            }
        }
        let mut to = out.len();
        let room = begin + length - self.copied + count * rest.most().max(ESCAPE) + WIDE;
        out.resize(to + room, 0);
        for found in places(&special).map(|place| begin + place) {
            if text[found] == b'\n' {
                if found - self.line >= PARTIAL {
                    return false;
                }
                to += copy(&text[self.copied..], found - self.copied, &mut out[to..]);
                to += rest.put(&mut out[to..]);
                rest.advance(attrs);
                self.line = found + 1;
                self.copied = self.line;
                self.whole = to - BEGIN.len();
            } else if let Some((escaped, length)) = escaped(&text[found..]) {
                to += copy(&text[self.copied..], found - self.copied, &mut out[to..]);
                out[to..to + ESCAPE].copy_from_slice(escaped.wide());
                to += escaped.len();
                self.copied = found + length;
            }
        }
        self.at = begin + length;
        if self.at - self.line >= PARTIAL {
            return false;
        }
        // What was escaped may end in the next piece.
        if self.copied < self.at {
            to += copy(&text[self.copied..], self.at - self.copied, &mut out[to..]);
            self.copied = self.at;
        }
        out.truncate(to);
        true
    }
}

/// Copies the first bytes of `text` to the beginning of `out`, which has [`WIDE`] more, and returns
/// how many they are.
#[inline]
fn copy(text: &[u8], length: usize, out: &mut [u8]) -> usize {
    if length <= WIDE
        && let (Some(text), Some(out)) = (text.first_chunk::<WIDE>(), out.first_chunk_mut())
    {
        *out = *text;
    } else {
        copy_long(&text[..length], out);
    }
    length
}

/// Apart, or it would be one call for both.
#[inline(never)]
fn copy_long(text: &[u8], out: &mut [u8]) {
    out[..text.len()].copy_from_slice(text);
}
