//! What comes after the text of a JSON record: an escaped newline, the stream, attributes and the
//! time. Of lines that are read at once only the time's last digits differ, and are counted on.

use super::record::stream_name;
use crate::container::protocol::Stream;
use crate::types::timestamp::Timestamp;

/// How a JSON record begins.
pub(super) const BEGIN: &[u8] = b"{\"log\":\"";
/// How it ends, from the end of the time on.
const END: &[u8] = b"Z\"}\n";
/// Length of an escaped newline.
const NEWLINE: usize = 2;
/// Digits of a nanosecond.
const DIGITS: usize = 9;
/// Of these, those that are counted on.
const COUNTED: usize = 8;
/// Without attributes all of it has fewer bytes, and is moved by as many at once.
const WIDE: usize = 96;

/// The end of one record, and the beginning of the next.
#[derive(Debug, Default)]
pub(super) struct Rest {
    of: Option<(Stream, Timestamp)>,
    /// How many nanoseconds ago that was.
    counted: i32,
    /// With all digits of the nanosecond, as they were before any was counted on, and [`BEGIN`]. At
    /// least [`WIDE`] bytes.
    text: Vec<u8>,
    /// Where it ends.
    length: usize,
    /// The last digits, the last one in the lowest byte.
    digits: u64,
}

impl Rest {
    /// Makes it that of a record.
    pub(super) fn set(&mut self, stream: Stream, time: Timestamp, attrs: &[u8]) {
        if self.of.is_some_and(|(of, _)| of == stream) {
            match self.time() {
                Some(now) if now == time => return,
                Some(now) if now.next() == time => return self.advance(attrs),
                _ => {}
            }
        }
        self.of = Some((stream, time));
        self.counted = 0;
        let time = time.to_string();
        let (seconds, nanos) = time.split_once(['.', 'Z']).unwrap_or_default();
        let nanos = format!("{:0<DIGITS$}", nanos.trim_end_matches('Z'));
        let text = &mut self.text;
        text.clear();
        text.extend_from_slice(b"\\n\",\"stream\":\"");
        text.extend_from_slice(stream_name(stream).as_bytes());
        text.push(b'"');
        text.extend_from_slice(attrs);
        text.extend_from_slice(b",\"time\":\"");
        text.extend_from_slice(seconds.as_bytes());
        text.push(b'.');
        text.extend_from_slice(nanos.as_bytes());
        text.extend_from_slice(END);
        text.extend_from_slice(BEGIN);
        self.length = text.len();
        text.resize(self.length.max(WIDE), 0);
        let digits = nanos.as_bytes().last_chunk::<COUNTED>();
        self.digits = digits.map_or(0, |digits| u64::from_be_bytes(*digits));
    }

    /// Of which moment it is.
    pub(super) fn time(&self) -> Option<Timestamp> {
        let after =
            |time: Timestamp| Timestamp::from_nanos(time.nanos() + i128::from(self.counted));
        self.of.map(|(_, time)| after(time))
    }

    /// Most bytes that it has, and that [`Rest::put`] touches.
    pub(super) fn most(&self) -> usize {
        self.text.len()
    }

    /// Makes it that of the next nanosecond.
    #[inline]
    pub(super) fn advance(&mut self, attrs: &[u8]) {
        self.counted += 1;
        self.digits += 1;
        if self.digits as u8 > b'9' && !self.carry() {
            self.renew(attrs);
        }
    }

    /// Carries from the last digit; false where that goes beyond what is counted on.
    fn carry(&mut self) -> bool {
        let mut digits = self.digits.to_be_bytes();
        for at in (0..COUNTED).rev() {
            if digits[at] <= b'9' {
                break;
            }
            let Some(before) = at.checked_sub(1) else {
                return false;
            };
            digits[at] = b'0';
            digits[before] += 1;
        }
        self.digits = u64::from_be_bytes(digits);
        true
    }

    #[cold]
    fn renew(&mut self, attrs: &[u8]) {
        let time = self.time();
        if let (Some((stream, _)), Some(time)) = (self.of.take(), time) {
            self.set(stream, time, attrs);
        }
    }

    /// Puts it at the beginning of `out`, which has [`Rest::most`] bytes, with the beginning of the next
    /// record; returns its length. Zeros at the end of the time are left out, as in Docker.
    #[inline]
    pub(super) fn put(&self, out: &mut [u8]) -> usize {
        if self.length <= WIDE
            && let (Some(text), Some(out)) =
                (self.text.first_chunk::<WIDE>(), out.first_chunk_mut())
        {
            *out = *text;
        } else {
            self.put_long(out);
        }
        let end = self.length - BEGIN.len() - END.len();
        out[end - COUNTED..end].copy_from_slice(&self.digits.to_be_bytes());
        if self.digits as u8 == b'0' {
            return self.shorten(out);
        }
        self.length
    }

    /// Apart, or it would be one call for both.
    #[inline(never)]
    fn put_long(&self, out: &mut [u8]) {
        out[..self.length].copy_from_slice(&self.text[..self.length]);
    }

    fn shorten(&self, out: &mut [u8]) -> usize {
        let end = self.length - BEGIN.len() - END.len();
        let zeros = out[end - DIGITS..end].iter().rev();
        let zeros = zeros.take_while(|digit| **digit == b'0').count();
        let left = zeros + usize::from(zeros == DIGITS);
        out.copy_within(end..self.length, end - left);
        self.length - left
    }

    /// Appends it without the beginning of a record, and without the newline where the line does not
    /// end.
    pub(super) fn append(&self, ends_line: bool, out: &mut Vec<u8>) {
        let begin = out.len();
        out.resize(begin + self.most(), 0);
        let length = self.put(&mut out[begin..]);
        out.truncate(begin + length - BEGIN.len());
        if !ends_line {
            out.drain(begin..begin + NEWLINE);
        }
    }
}
