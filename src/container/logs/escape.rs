//! Text into the inside of JSON strings, as Docker writes it.
//!
//! What must be looked at is found for many bytes at once ([`SPECIAL`]); what lies between is copied.

use crate::sys::byteset::{ByteSet, WORD, places};

/// Bytes that may have to be escaped: control characters, newlines among them, `"`, `\`, `<`, `>`,
/// `&`, and 0xe2, which begins U+2028 and U+2029.
pub(super) static SPECIAL: ByteSet = ByteSet::new({
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < special.len() {
        special[byte] = ESCAPED[byte].length > 0;
        byte += 1;
    }
    special[0xe2] = true;
    special
});

/// What a byte becomes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Escaped {
    bytes: [u8; 8],
    length: u8,
}

impl Escaped {
    /// Its bytes; those behind its end are of no meaning.
    pub(super) fn wide(&self) -> &[u8; 8] {
        &self.bytes
    }

    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        usize::from(self.length)
    }

    /// Its bytes.
    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len()]
    }
}

/// What the byte at the beginning of `text` becomes, and how many bytes that is of; `None` where it
/// stays as it is.
#[inline]
pub(super) fn escaped(text: &[u8]) -> Option<(&'static Escaped, usize)> {
    match *text {
        [0xe2, 0x80, 0xa8, ..] => Some((&LINE_SEPARATOR, 3)),
        [0xe2, 0x80, 0xa9, ..] => Some((&PARAGRAPH_SEPARATOR, 3)),
        [byte, ..] => {
            static TABLE: [Escaped; 256] = ESCAPED;
            let escaped = &TABLE[usize::from(byte)];
            (escaped.length > 0).then_some((escaped, 1))
        }
        [] => None,
    }
}

static LINE_SEPARATOR: Escaped = of(b"\\u2028");
static PARAGRAPH_SEPARATOR: Escaped = of(b"\\u2029");

const fn of(text: &[u8]) -> Escaped {
    let mut bytes = [0; 8];
    let mut at = 0;
    while at < text.len() {
        bytes[at] = text[at];
        at += 1;
    }
    Escaped {
        bytes,
        length: text.len() as u8,
    }
}

const ESCAPED: [Escaped; 256] = {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    const fn hex(byte: u8) -> Escaped {
        of(&[
            b'\\',
            b'u',
            b'0',
            b'0',
            HEX[(byte >> 4) as usize],
            HEX[(byte & 15) as usize],
        ])
    }
    let mut table = [of(b""); 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte as usize] = hex(byte);
        byte += 1;
    }
    table[b'\n' as usize] = of(b"\\n");
    table[b'\r' as usize] = of(b"\\r");
    table[b'"' as usize] = of(b"\\\"");
    table[b'\\' as usize] = of(b"\\\\");
    table[b'<' as usize] = hex(b'<');
    table[b'>' as usize] = hex(b'>');
    table[b'&' as usize] = hex(b'&');
    table
};

/// Appends the inside of a JSON string: control characters other than newline
/// and carriage return, `<`, `>`, `&`, U+2028 and U+2029 as `\uXXXX`, each byte of invalid UTF-8
/// as `\ufffd`.
pub(super) fn escape(text: &[u8], out: &mut Vec<u8>) {
    let mut marks = vec![0; text.len().div_ceil(WORD)];
    let is_ascii = SPECIAL.mark(text, &mut marks);
    let mut special = places(&marks).peekable();
    let mut valid = |mut begin: usize, end: usize, out: &mut Vec<u8>| {
        while let Some(found) = special.next_if(|found| *found < end) {
            // What is before belongs to no character.
            if found >= begin
                && let Some((escaped, length)) = escaped(&text[found..end])
            {
                out.extend_from_slice(&text[begin..found]);
                out.extend_from_slice(escaped.as_slice());
                begin = found + length;
            }
        }
        out.extend_from_slice(&text[begin..end]);
    };
    // utf8_chunks() goes byte by byte; the check for text that is all valid does not.
    if is_ascii || std::str::from_utf8(text).is_ok() {
        return valid(0, text.len(), out);
    }
    let mut begin = 0;
    for chunk in text.utf8_chunks() {
        let end = begin + chunk.valid().len();
        valid(begin, end, out);
        begin = end + chunk.invalid().len();
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_docker_does() {
        let long = "x".repeat(WORD);
        for (text, escaped) in [
            (&b"plain"[..], &b"plain"[..]),
            (b"a\"b\\c\n\r\t", b"a\\\"b\\\\c\\n\\r\\u0009"),
            (b"<b>&\x1b\x7f", b"\\u003cb\\u003e\\u0026\\u001b\x7f"),
            (
                "é\u{2028}\u{2029}\u{202a}".as_bytes(),
                "é\\u2028\\u2029\u{202a}".as_bytes(),
            ),
            (b"x\xff\xe2\x80y", b"x\\ufffd\\ufffd\\ufffdy"),
        ] {
            // At all places of a word, and across its end.
            for before in 0..=WORD {
                let mut out = Vec::new();
                escape(&[&long.as_bytes()[..before], text].concat(), &mut out);
                assert_eq!(
                    String::from_utf8_lossy(&out),
                    long[..before].to_owned() + &String::from_utf8_lossy(escaped)
                );
            }
        }
    }
}
