//! What is asked for: paths and queries, escaped (RFC 3986).

use std::fmt;

/// A path and query under construction; names and values may hold anything.
#[derive(Debug, Clone)]
pub struct Target(String, char);

impl Target {
    /// `/containers/{name}/json`: every `{}` of the pattern is replaced by the next name.
    pub fn new(pattern: &str, names: &[&str]) -> Target {
        let mut names = names.iter();
        let mut path = String::new();
        for (index, part) in pattern.split("{}").enumerate() {
            if index > 0 {
                path.push_str(&escape(names.next().copied().unwrap_or_default(), true));
            }
            path.push_str(part);
        }
        Target(path, '?')
    }

    /// Adds a parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Target {
        self.0.push(self.1);
        self.1 = '&';
        self.0.push_str(name);
        self.0.push('=');
        self.0.push_str(&escape(&value.to_string(), false));
        self
    }

    /// Adds a parameter unless its value is empty.
    #[must_use]
    pub fn with_some(self, name: &str, value: &str) -> Target {
        if value.is_empty() {
            self
        } else {
            self.with(name, value)
        }
    }

    /// Adds `name=1` where `flag` is set.
    #[must_use]
    pub fn with_flag(self, name: &str, flag: bool) -> Target {
        if flag { self.with(name, 1) } else { self }
    }

    /// The text, without a version before it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Percent-encodes what is not unreserved (RFC 3986 2.3); names keep their slashes.
fn escape(text: &str, slashes: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                escaped.push(byte as char);
            }
            b'/' if slashes => escaped.push('/'),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_escaped() {
        let target = Target::new("/images/{}/json", &["a/b:c d?"])
            .with("filters", "{\"a\":[\"b\"]}")
            .with_some("empty", "")
            .with_flag("all", true);
        assert_eq!(
            target.as_str(),
            "/images/a/b:c%20d%3F/json?filters=%7B%22a%22:%5B%22b%22%5D%7D&all=1"
        );
    }
}
