//! The framing of a zstd stream, read as it passes by (RFC 8878, section 3.1).
//!
//! A decoder keeps as much of its output as the frame's header asks for, the window: 8 MiB from most
//! programs, and up to [`WINDOW_MAX`] from somebody who wants the smallest blob, or the largest
//! decoder. So the header is looked at before the decoder gets the last of its bytes: a window that
//! is larger than [`NARROW`] waits for its turn ([`Turn`]), and one that is too large is an error. A
//! stream has as many frames as it likes, and each says for itself; between them there may be frames
//! that everybody skips. Of what is no zstd nothing is said here: the decoder says it.
//!
//! ```text
//!  magic ─▶ header ─▶ block header ─▶ block ─┐
//!    ▲ │                   ▲                 │
//!    │ └▶ size ─▶ skipped  └─────────────────┤
//!    └──────┴─── checksum ◀── the last one ──┘
//! ```

use std::io::{self, BufRead, Read};

use super::turn::Turn;

/// Largest window that needs no turn, in bytes: what every decoder should support, as the RFC says.
const NARROW: u64 = 8 << 20;
/// Largest window, in bytes: the bound of the zstd program and its library. (Docker's decoder would
/// take four times as much, of memory too.)
const WINDOW_MAX: u64 = 128 << 20;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Longest piece that is looked at as a whole: a frame's header.
const PIECE_MAX: usize = 14;

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Magic,
    /// The header's first byte, which says how long it is.
    Descriptor,
    /// The whole header.
    Header,
    Block,
    Checksum,
    /// The length of what is skipped.
    Skippable,
    /// Nothing that could be understood.
    Unknown,
}

/// A stream whose frames are looked at.
pub(super) struct Frames<R> {
    source: R,
    /// Bytes of the source's buffer that were looked at.
    seen: usize,
    piece: Piece,
    /// What there is of the piece, and how long it is.
    bytes: [u8; PIECE_MAX],
    have: usize,
    need: usize,
    /// Bytes that come before the piece and say nothing.
    skip: u64,
    /// Whether a checksum follows the last block.
    has_checksum: bool,
    /// Waited for where a window is large, and kept to the end; nobody waits without one.
    turn: Option<Turn>,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(source: R, turn: Option<Turn>) -> Self {
        Self {
            source,
            seen: 0,
            piece: Piece::Magic,
            bytes: [0; PIECE_MAX],
            have: 0,
            need: 4,
            skip: 0,
            has_checksum: false,
            turn,
        }
    }

    /// Goes on to another piece.
    fn expect(&mut self, piece: Piece, need: usize) {
        (self.piece, self.need) = (piece, need);
        // The descriptor is the header's first byte.
        if piece != Piece::Header {
            self.have = 0;
        }
    }

    /// Takes a piece that is whole.
    fn take(&mut self) -> io::Result<()> {
        let [first, second, third, fourth, ..] = self.bytes;
        match self.piece {
            Piece::Magic if self.bytes[..4] == MAGIC => self.expect(Piece::Descriptor, 1),
            Piece::Magic
                if first & 0xf0 == 0x50 && [second, third, fourth] == [0x2a, 0x4d, 0x18] =>
            {
                self.expect(Piece::Skippable, 4);
            }
            Piece::Magic | Piece::Unknown => self.expect(Piece::Unknown, 1),
            Piece::Descriptor => {
                self.has_checksum = first & 4 != 0;
                self.expect(Piece::Header, header_length(first));
                if self.need == self.have {
                    self.take()?;
                }
            }
            Piece::Header => {
                self.window(window(&self.bytes))?;
                self.expect(Piece::Block, 3);
            }
            Piece::Block => {
                let size = u64::from(u32::from_le_bytes([first, second, third, 0]) >> 3);
                // A block of equal bytes has one of them.
                self.skip = if first >> 1 & 3 == 1 { 1 } else { size };
                match (first & 1 == 1, self.has_checksum) {
                    (false, _) => self.expect(Piece::Block, 3),
                    (true, true) => self.expect(Piece::Checksum, 4),
                    (true, false) => self.expect(Piece::Magic, 4),
                }
            }
            Piece::Checksum => self.expect(Piece::Magic, 4),
            Piece::Skippable => {
                self.skip = u64::from(u32::from_le_bytes([first, second, third, fourth]));
                self.expect(Piece::Magic, 4);
            }
        }
        Ok(())
    }

    fn window(&mut self, window: u64) -> io::Result<()> {
        if window > WINDOW_MAX {
            let text = format!("a zstd window has {window} bytes, more than {WINDOW_MAX}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        match &mut self.turn {
            Some(turn) if window > NARROW => turn.take(),
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let amount = bytes.len().min(buffer.len());
        buffer[..amount].copy_from_slice(&bytes[..amount]);
        self.consume(amount);
        Ok(amount)
    }
}

impl<R: BufRead> BufRead for Frames<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        loop {
            let bytes = self.source.fill_buf()?;
            let new = &bytes[self.seen.min(bytes.len())..];
            if new.is_empty() {
                break;
            }
            if self.piece == Piece::Unknown {
                self.seen += new.len();
            } else if self.skip > 0 {
                let skipped = new
                    .len()
                    .min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                self.skip -= skipped as u64;
                self.seen += skipped;
            } else {
                let more = new.len().min(self.need - self.have);
                self.bytes[self.have..self.have + more].copy_from_slice(&new[..more]);
                self.have += more;
                self.seen += more;
                if self.have == self.need {
                    self.take()?;
                }
            }
        }
        self.source.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.source.consume(amount);
        self.seen = self.seen.saturating_sub(amount);
    }
}

/// Bytes of a frame's header, the descriptor included.
fn header_length(descriptor: u8) -> usize {
    let has_window = usize::from(descriptor & 0x20 == 0);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    1 + has_window + dictionary + size_length(descriptor)
}

/// Bytes of the content's size in it.
fn size_length(descriptor: u8) -> usize {
    match descriptor >> 6 {
        0 => usize::from(descriptor & 0x20 != 0),
        flag => 1 << flag,
    }
}

/// The window that a header asks for; of a frame without one it is the content.
fn window(header: &[u8; PIECE_MAX]) -> u64 {
    let [descriptor, second, ..] = *header;
    if descriptor & 0x20 == 0 {
        let base = 1_u64 << (10 + (second >> 3));
        return base + base / 8 * u64::from(second & 7);
    }
    let (end, length) = (header_length(descriptor), size_length(descriptor));
    let mut size = [0; 8];
    size[..length].copy_from_slice(&header[end - length..end]);
    // Two bytes begin at 256.
    u64::from_le_bytes(size) + if length == 2 { 256 } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// Frames of all kinds, and the windows that they ask for.
    fn frames() -> Vec<(Vec<u8>, u64)> {
        let plain: Vec<u8> = (0..3 << 20).map(|at: u32| (at / 3) as u8).collect();
        let mut all = Vec::new();
        for (window, size, checksum) in [
            (10, 500_000, false),
            (17, 3 << 20, true),
            (20, 3 << 20, false),
            (23, 3 << 20, true),
        ] {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(window).unwrap();
            encoder.include_checksum(checksum).unwrap();
            std::io::Write::write_all(&mut encoder, &plain[..size]).unwrap();
            all.push((encoder.finish().unwrap(), 1 << window));
        }
        // With its size known beforehand a frame may have no window.
        for size in [0, 200, 300, 70_000] {
            let frame = zstd::bulk::compress(&plain[..size], 1).unwrap();
            all.push((frame, size as u64));
        }
        let skipped = b"\x5a\x2a\x4d\x18\x05\0\0\0hello";
        all.push((skipped.to_vec(), 0));
        all
    }

    #[test]
    fn windows_are_told() {
        let mut stream = Vec::new();
        for (frame, expected) in frames() {
            if frame[..4] == MAGIC {
                let mut header = [0; PIECE_MAX];
                let length = header_length(frame[4]);
                header[..length].copy_from_slice(&frame[4..4 + length]);
                assert_eq!(window(&header), expected);
            }
            stream.extend(frame);
        }
        for capacity in [1, 7, 1 << 20] {
            let mut frames = Frames::new(BufReader::with_capacity(capacity, &stream[..]), None);
            let mut passed = Vec::new();
            frames.read_to_end(&mut passed).unwrap();
            assert!(passed == stream, "what passes by is the same");
            let at_end = (frames.piece, frames.have, frames.skip);
            assert_eq!(at_end, (Piece::Magic, 0, 0), "all of it was understood");
        }
    }

    #[test]
    fn a_window_that_is_too_large_is_refused_wherever_it_is() {
        // 2^(10 + 17) and an eighth.
        let large = [&MAGIC[..], &[0, 17 << 3 | 1, 1, 0, 0]].concat();
        for before in [Vec::new(), frames()[3].0.clone()] {
            let stream = [before, large.clone()].concat();
            let refused = Frames::new(&stream[..], None).read_to_end(&mut Vec::new());
            assert_eq!(
                refused.unwrap_err().to_string(),
                "a zstd window has 150994944 bytes, more than 134217728"
            );
        }
        let largest = [&MAGIC[..], &[0, 17 << 3, 1, 0, 0]].concat();
        assert!(
            Frames::new(&largest[..], None)
                .read_to_end(&mut Vec::new())
                .is_ok()
        );
    }

    #[test]
    fn a_large_window_waits_for_its_turn() {
        let large = [&MAGIC[..], &[0, 17 << 3, 1, 0, 0]].concat();
        let narrow = frames()[3].0.clone();
        let wait = || Some(Turn::new(|| Ok(())));
        let turn = || Some(Turn::new(|| Err(io::ErrorKind::ConnectionAborted.into())));
        let mut first = Turn::new(|| Ok(()));
        first.take().unwrap();
        let read = |stream: &[u8]| Frames::new(stream, turn()).read_to_end(&mut Vec::new());
        assert!(read(&narrow).is_ok());
        assert!(read(&large).is_err(), "somebody has the turn");
        drop(first);
        let waited = Frames::new(&large[..], wait()).read_to_end(&mut Vec::new());
        assert!(waited.is_ok());
    }

    #[test]
    fn nonsense_passes_by() {
        let noise: Vec<u8> = (0..5000_u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for stream in [&noise[..], &[&MAGIC[..], &noise].concat(), &MAGIC[..2], b""] {
            let mut passed = Vec::new();
            // A header of noise may ask for anything.
            if Frames::new(stream, None).read_to_end(&mut passed).is_ok() {
                assert_eq!(passed, stream);
            }
        }
    }
}
