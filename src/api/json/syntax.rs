//! What is wrong with a text that is no JSON, in the words of Go's `encoding/json`, which clients'
//! users know and tests compare.
//!
//! Another parser has refused the text already; this one only finds the byte at which Go's would have
//! (its `scanner.go`, whose states are these functions), and what it had expected there.

/// Why Go refuses the text; `None` for what it would take.
pub(super) fn refusal(text: &str) -> Option<String> {
    let mut scanner = Scanner {
        bytes: text.as_bytes(),
        at: 0,
    };
    scanner.value(0).err()
}

/// Levels after which serde_json has given up. Go does at 10,000, for which threads' stacks here are
/// too small.
const DEPTH: usize = 128;

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Result<u8, String> {
        let found = self.bytes.get(self.at).copied();
        found.ok_or_else(|| "unexpected EOF".to_owned())
    }

    fn peek_word(&mut self) -> Result<u8, String> {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.peek()
    }

    fn wrong<T>(&self, context: &str) -> Result<T, String> {
        let found = match self.peek()? {
            b'\'' => r"'\''".to_owned(),
            b'"' => "'\"'".to_owned(),
            byte => format!("'{}'", char::from(byte).escape_debug()),
        };
        Err(format!("invalid character {found} {context}"))
    }

    fn value(&mut self, depth: usize) -> Result<(), String> {
        if depth > DEPTH {
            return Err("exceeded max depth".to_owned());
        }
        match self.peek_word()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string(),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.wrong("looking for beginning of value"),
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), String> {
        self.at += 1;
        if self.peek_word()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek_word()? != b'"' {
                return self.wrong("looking for beginning of object key string");
            }
            self.string()?;
            if self.peek_word()? != b':' {
                return self.wrong("after object key");
            }
            self.at += 1;
            self.value(depth + 1)?;
            let next = self.peek_word()?;
            if !matches!(next, b',' | b'}') {
                return self.wrong("after object key:value pair");
            }
            self.at += 1;
            if next == b'}' {
                return Ok(());
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), String> {
        self.at += 1;
        if self.peek_word()? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            let next = self.peek_word()?;
            if !matches!(next, b',' | b']') {
                return self.wrong("after array element");
            }
            self.at += 1;
            if next == b']' {
                return Ok(());
            }
        }
    }

    fn string(&mut self) -> Result<(), String> {
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => {
                    self.at += 1;
                    self.escape()?;
                }
                0..0x20 => return self.wrong("in string literal"),
                _ => {}
            }
            self.at += 1;
        }
        self.at += 1;
        Ok(())
    }

    /// What is behind a backslash, up to its last byte.
    fn escape(&mut self) -> Result<(), String> {
        match self.peek()? {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => Ok(()),
            b'u' => {
                for _ in 0..4 {
                    self.at += 1;
                    if !self.peek()?.is_ascii_hexdigit() {
                        return self.wrong(r"in \u hexadecimal character escape");
                    }
                }
                Ok(())
            }
            _ => self.wrong("in string escape code"),
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for (place, wanted) in word.bytes().enumerate() {
            if place > 0 && self.peek()? != wanted {
                let wanted = char::from(wanted);
                return self.wrong(&format!("in literal {word} (expecting '{wanted}')"));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), String> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        match self.peek()? {
            // Nothing but a point or an exponent may follow.
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return self.wrong("in numeric literal"),
        }
        if self.next_is(b".") {
            self.at += 1;
            if !self.peek()?.is_ascii_digit() {
                return self.wrong("after decimal point in numeric literal");
            }
            self.digits();
        }
        if self.next_is(b"eE") {
            self.at += 1;
            if self.next_is(b"+-") {
                self.at += 1;
            }
            if !self.peek()?.is_ascii_digit() {
                return self.wrong("in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.next_is(b"0123456789") {
            self.at += 1;
        }
    }

    fn next_is(&self, any: &[u8]) -> bool {
        self.bytes
            .get(self.at)
            .is_some_and(|next| any.contains(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_of_go() {
        for (text, expected) in [
            (
                "{invalid json",
                "invalid character 'i' looking for beginning of object key string",
            ),
            (
                "{\"a\":1,}",
                "invalid character '}' looking for beginning of object key string",
            ),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            (
                "{\"a\":1 \"b\"",
                "invalid character '\"' after object key:value pair",
            ),
            ("[1 2]", "invalid character '2' after array element"),
            (
                "[1,]",
                "invalid character ']' looking for beginning of value",
            ),
            (
                "'a'",
                r"invalid character '\'' looking for beginning of value",
            ),
            (
                "trve",
                "invalid character 'v' in literal true (expecting 'u')",
            ),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            (
                "\"\\u00g\"",
                r"invalid character 'g' in \u hexadecimal character escape",
            ),
            ("\"\n\"", r"invalid character '\n' in string literal"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("[01]", "invalid character '1' after array element"),
            (
                "1.x",
                "invalid character 'x' after decimal point in numeric literal",
            ),
            (
                "1e+x",
                "invalid character 'x' in exponent of numeric literal",
            ),
            ("{\"a\":", "unexpected EOF"),
            ("[\"a", "unexpected EOF"),
            ("tru", "unexpected EOF"),
        ] {
            assert_eq!(refusal(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "{}",
            " [1, -0.5e3, \"\\u00e4\", null, true, {\"a\": {}}]",
            "1 x",
        ] {
            assert_eq!(refusal(text), None, "{text}");
        }
    }
}
