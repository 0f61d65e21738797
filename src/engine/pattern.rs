//! The patterns of `reference` filters: those of Go's `path.Match`.
//!
//! `*` and `?` do not match a slash; `[a-z]` and `[^a-z]` match one character, `\\` takes the next as
//! it is. A pattern is read whole before anything is compared with it: Go, too, finds what is wrong
//! behind the place where nothing matches any more.

use crate::types::reference::Reference;

/// What a pattern consists of.
#[derive(Debug)]
enum Part {
    Any,
    One,
    Exactly(char),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A pattern that was read.
#[derive(Debug)]
pub(super) struct Pattern(Vec<Part>);

/// A pattern that makes no sense; Go's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub(super) struct BadPattern;

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, BadPattern> {
        let mut parts = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(next) = rest.next() {
            parts.push(match next {
                '*' => Part::Any,
                '?' => Part::One,
                '\\' => Part::Exactly(rest.next().ok_or(BadPattern)?),
                '[' => {
                    let negated = rest.next_if_eq(&'^').is_some();
                    let mut ranges = Vec::new();
                    while ranges.is_empty() || rest.next_if_eq(&']').is_none() {
                        let low = of_class(&mut rest)?;
                        let high = match rest.next_if_eq(&'-') {
                            Some(_) => of_class(&mut rest)?,
                            None => low,
                        };
                        ranges.push((low, high));
                    }
                    Part::Class { negated, ranges }
                }
                other => Part::Exactly(other),
            });
        }
        Ok(Self(parts))
    }

    /// Whether a name is meant, as people write it or in full, by repository, or by repository and
    /// tag.
    pub(super) fn matches_reference(&self, name: &str) -> bool {
        let by = |name: &str| {
            let repository = name.rsplit_once(':').map_or(name, |(before, _)| before);
            self.matches(name) || self.matches(repository)
        };
        by(name) || Reference::parse_named(name).is_ok_and(|full| by(&full.to_string()))
    }

    fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        // Where the last `*` was, and up to where it reaches.
        let (mut part, mut at, mut star) = (0, 0, None);
        loop {
            match (self.0.get(part), text.get(at)) {
                (None, None) => return true,
                (Some(Part::Any), _) => {
                    star = Some((part, at));
                    part += 1;
                    continue;
                }
                (Some(wanted), Some(found)) if wanted.is(*found) => {
                    (part, at) = (part + 1, at + 1);
                    continue;
                }
                _ => {}
            }
            match star {
                Some((from, reach)) if text.get(reach).is_some_and(|c| *c != '/') => {
                    star = Some((from, reach + 1));
                    (part, at) = (from + 1, reach + 1);
                }
                _ => return false,
            }
        }
    }
}

impl Part {
    fn is(&self, found: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => found != '/',
            Self::Exactly(wanted) => *wanted == found,
            Self::Class { negated, ranges } => {
                let mut ranges = ranges.iter();
                ranges.any(|(low, high)| (*low..=*high).contains(&found)) != *negated
            }
        }
    }
}

/// One end of a range.
fn of_class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, BadPattern> {
    match rest.next() {
        None | Some('-' | ']') => Err(BadPattern),
        Some('\\') => rest.next().ok_or(BadPattern),
        Some(other) => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_by_repository_and_tag() {
        let matches = |pattern, name| Pattern::parse(pattern).unwrap().matches_reference(name);
        for (pattern, name) in [
            ("debian", "debian:bookworm"),
            ("docker.io/library/debian", "debian:bookworm"),
            ("docker.io/library/d*:*", "debian:bookworm"),
            ("docker.io/a/b", "a/b:1"),
            ("debian:book*", "debian:bookworm"),
            ("*", "debian:bookworm"),
            ("a/*:l?test", "a/b:latest"),
            ("a/**b*:1", "a/xxbyb:1"),
            ("[c-e]ebian", "debian:1"),
            ("[^a-c]ebi[xa]n", "debian:1"),
            ("d\\ebian", "debian:1"),
            ("[\\]-a]x", "ax:1"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("*", "a/b:latest"),
            ("?", "/:1"),
            ("deb", "debian:bookworm"),
            ("[^d]ebian", "debian:1"),
            ("*:2", "debian:1"),
            ("", "debian:1"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn bad_patterns() {
        for pattern in ["[", "[]a]", "[a", "[-x]", "[x-]", "a\\", "[\\", "x[^]"] {
            assert_eq!(Pattern::parse(pattern).err(), Some(BadPattern), "{pattern}");
        }
    }
}
