//! Where the last lines of a log begin, without reading what is before them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes read at once, from the end backwards.
const BLOCK: usize = 64 * 1024;

/// Finds the last `lines` whole lines of the first `length` bytes: the offset of the first of them,
/// and how many there are (fewer where the file has fewer). A last line without a newline is still
/// being written and does not count, but is after the offset.
pub(super) fn tail(file: &File, length: u64, lines: u64) -> io::Result<(u64, u64)> {
    let mut found = 0;
    let mut end = length;
    let mut block = vec![0; BLOCK];
    // Newlines are met last to first: the one that ends line k before the end, for k from 0. The
    // wanted offset is just after the one that precedes `lines` of them.
    while end > 0 {
        // At most BLOCK, so the cast is exact.
        let size = end.min(BLOCK as u64) as usize;
        let start = end - size as u64;
        file.read_exact_at(&mut block[..size], start)?;
        for at in memchr::memrchr_iter(b'\n', &block[..size]) {
            if found == lines {
                return Ok((start + at as u64 + 1, lines));
            }
            found += 1;
        }
        end = start;
    }
    Ok((0, found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn tails(text: &[u8], lines: u64) -> (String, u64) {
        let mut file = tempfile::tempfile().expect("tempfile");
        file.write_all(text).expect("write");
        let (offset, count) = tail(&file, text.len() as u64, lines).expect("tail");
        (
            String::from_utf8_lossy(&text[offset as usize..]).into_owned(),
            count,
        )
    }

    #[test]
    fn the_last_lines_are_found() {
        for (text, lines, expected, count) in [
            ("", 3, "", 0),
            ("a\nb\nc\n", 0, "", 0),
            ("a\nb\nc\n", 1, "c\n", 1),
            ("a\nb\nc\n", 2, "b\nc\n", 2),
            ("a\nb\nc\n", 3, "a\nb\nc\n", 3),
            ("a\nb\nc\n", 9, "a\nb\nc\n", 3),
            ("a\nb\ntor", 1, "b\ntor", 1),
            ("a\nb\ntor", 0, "tor", 0),
            ("\n\n\n", 2, "\n\n", 2),
        ] {
            assert_eq!(
                tails(text.as_bytes(), lines),
                (expected.into(), count),
                "{text:?} {lines}"
            );
        }
    }

    #[test]
    fn lines_may_be_longer_than_a_block() {
        let long = "x".repeat(3 * BLOCK);
        let text = format!("first\n{long}\nlast\n");
        assert_eq!(tails(text.as_bytes(), 2), (format!("{long}\nlast\n"), 2));
        assert_eq!(tails(text.as_bytes(), 3).1, 3);
    }
}
