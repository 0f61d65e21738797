//! Parameters of a request, read as Docker reads them.
//!
//! They come in the query string and, with `application/x-www-form-urlencoded`, in the body too,
//! whose values go first. The rules are Go's (`net/url`, `strconv`) and those of moby's
//! `httputils`: a boolean is false for "", 0, no, false and none in any case and true for
//! anything else; a semicolon and a broken escape are errors; error texts are Go's.

use super::answer::Failure;

/// Parameters by name, in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads a query string or a form.
    pub fn parse(text: &str) -> Result<Query, Failure> {
        let mut pairs = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            if part.contains(';') {
                return Err(Failure::bad_request("invalid semicolon separator in query"));
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((decode(name, true)?, decode(value, true)?));
        }
        Ok(Query { pairs })
    }

    /// Puts another query's parameters behind those that are there.
    pub fn append(&mut self, mut other: Query) {
        self.pairs.append(&mut other.pairs);
    }

    /// The first value, if the parameter is there at all.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.pairs.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The first value, `None` where it is absent or empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Every value of a repeated parameter.
    pub fn all(&self, name: &str) -> Vec<String> {
        let values = self.pairs.iter().filter(|(n, _)| n == name);
        values.map(|(_, value)| value.clone()).collect()
    }

    /// A boolean, false when absent.
    pub fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// A boolean with a default for when it is absent.
    pub fn flag_or(&self, name: &str, default: bool) -> bool {
        match self.get(name) {
            None => default,
            Some(value) => !matches!(
                value.trim().to_ascii_lowercase().as_str(),
                "" | "0" | "no" | "false" | "none"
            ),
        }
    }

    /// A number; absent and empty are `None`.
    pub fn number(&self, name: &str) -> Result<Option<i64>, Failure> {
        let Some(value) = self.text(name) else {
            return Ok(None);
        };
        let reason = match value.parse::<i64>() {
            Ok(number) => return Ok(Some(number)),
            Err(error) => number_error(&error),
        };
        Err(Failure::bad_request(format!(
            "strconv.Atoi: parsing {value:?}: {reason}"
        )))
    }

    /// One side of a terminal's size; `what` is "height" or "width".
    pub fn side(&self, name: &str, what: &str) -> Result<u16, Failure> {
        let value = self.get(name).unwrap_or("");
        let digits = value.strip_prefix('-').unwrap_or(value);
        let reason = if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            "invalid syntax"
        } else {
            match value.parse::<u32>() {
                // The kernel's window size has 16 bits; Docker cuts the rest off too.
                Ok(side) => return Ok((side & 0xffff) as u16),
                Err(_) => "value out of range",
            }
        };
        Err(Failure::bad_request(format!(
            "invalid resize {what} {value:?}: {reason}"
        )))
    }
}

fn number_error(error: &std::num::ParseIntError) -> &'static str {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    }
}

/// Undoes percent escapes, and `+` where it stands for a space. What is not UTF-8 afterwards
/// becomes U+FFFD: no name that moss knows holds such bytes.
pub fn decode(text: &str, plus_is_space: bool) -> Result<String, Failure> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        match first {
            b'%' => {
                let high = tail.first().copied().and_then(hex);
                let low = tail.get(1).copied().and_then(hex);
                let (Some(high), Some(low)) = (high, low) else {
                    let shown = String::from_utf8_lossy(&rest[..rest.len().min(3)]);
                    let message = format!("invalid URL escape \"{shown}\"");
                    return Err(Failure::bad_request(message));
                };
                bytes.push(high << 4 | low);
                rest = &tail[2..];
            }
            b'+' if plus_is_space => {
                bytes.push(b' ');
                rest = tail;
            }
            other => {
                bytes.push(other);
                rest = tail;
            }
        }
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(result: Result<impl std::fmt::Debug, Failure>) -> String {
        result.expect_err("must be refused").message
    }

    #[test]
    fn booleans_are_dockers() {
        let query = Query::parse("a=1&b=true&c=&d=0&e=False&f=no&g=none&h=x&i").expect("valid");
        for (name, expected) in [
            ("a", true),
            ("b", true),
            ("c", false),
            ("d", false),
            ("e", false),
            ("f", false),
            ("g", false),
            ("h", true),
            ("i", false),
            ("absent", false),
        ] {
            assert_eq!(query.flag(name), expected, "{name}");
        }
        assert!(query.flag_or("absent", true));
        assert!(!query.flag_or("c", true));
    }

    #[test]
    fn numbers_and_their_errors() {
        let query = Query::parse("a=5&b=-1&c=&d=x&e=99999999999999999999").expect("valid");
        assert_eq!(query.number("a").expect("number"), Some(5));
        assert_eq!(query.number("b").expect("number"), Some(-1));
        assert_eq!(query.number("c").expect("empty"), None);
        assert_eq!(query.number("absent").expect("absent"), None);
        assert_eq!(
            message(query.number("d")),
            r#"strconv.Atoi: parsing "x": invalid syntax"#
        );
        assert!(message(query.number("e")).ends_with("value out of range"));
    }

    #[test]
    fn sizes_and_their_errors() {
        let query = Query::parse("h=24&w=-80&x=foo&y=99999999999").expect("valid");
        assert_eq!(query.side("h", "height").expect("side"), 24);
        assert_eq!(
            message(query.side("w", "width")),
            r#"invalid resize width "-80": value out of range"#
        );
        assert_eq!(
            message(query.side("x", "width")),
            r#"invalid resize width "foo": invalid syntax"#
        );
        assert_eq!(
            message(query.side("absent", "height")),
            r#"invalid resize height "": invalid syntax"#
        );
        assert!(message(query.side("y", "height")).ends_with("value out of range"));
    }

    #[test]
    fn escapes() {
        let query = Query::parse("filters=%7B%22a%22%3A+1%7D&n=a&n=b%20c").expect("valid");
        assert_eq!(query.get("filters"), Some(r#"{"a": 1}"#));
        assert_eq!(query.all("n"), ["a", "b c"]);
        assert_eq!(
            message(Query::parse("a=%zz")),
            r#"invalid URL escape "%zz""#
        );
        assert_eq!(message(Query::parse("a=%")), r#"invalid URL escape "%""#);
        assert_eq!(
            message(Query::parse("a=1;b=2")),
            "invalid semicolon separator in query"
        );
        assert_eq!(decode("a+b", false).expect("valid"), "a+b");
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(text in ".*", name in ".*") {
            if let Ok(query) = Query::parse(&text) {
                query.flag(&name);
                let _ = query.number(&name);
                let _ = query.side(&name, "height");
            }
        }
    }
}
