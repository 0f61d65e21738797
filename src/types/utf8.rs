//! Text from bytes that should be UTF-8, in the manner of Go's `encoding/json`.

use std::borrow::Cow;

/// The bytes as text; each byte that is not part of a character's encoding becomes U+FFFD.
pub fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_for_each_byte() {
        assert_eq!(lossy("caf\u{e9}".as_bytes()), "caf\u{e9}");
        // A truncated sequence is two bytes of nothing, as Go has it.
        assert_eq!(lossy(b"a\xe2\x82b\xff"), "a\u{fffd}\u{fffd}b\u{fffd}");
    }
}
