//! From a method and a path to an endpoint: a table, searched in order.
//!
//! Docker's paths have names with slashes in their middle (`/images/a/b/c/json`), which is why
//! this is not somebody's trie. Every path of the API has at most one variable part, so a
//! [`Pattern`] is a prefix, a variable and a suffix, and matching is two string comparisons; the
//! whole table costs a few microseconds. Order counts: the first entry that matches wins.
//!
//! A path may begin with a version (`/v1.41`), digits and dots as Docker's router takes them;
//! whether that version is spoken is judged later (`version.rs`), and only for paths that exist,
//! so `/v9.9/nosuch` is "page not found" and `/v9.9/info` is "too new". A path that exists for
//! another method is not found either: Docker never answers 405. `HEAD` is served where `GET` is.

use hyper::Method;

/// The shape of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pattern {
    prefix: &'static str,
    variable: Variable,
    suffix: &'static str,
}

/// What stands between prefix and suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variable {
    /// Nothing: the prefix is the whole path.
    None,
    /// `{name}`: one path segment, not empty.
    Segment,
    /// `{name:.*}`: anything, slashes too.
    Rest,
}

impl Pattern {
    /// Splits `/images/{name:.*}/json` at its variable.
    fn new(text: &'static str) -> Pattern {
        let Some((prefix, rest)) = text.split_once('{') else {
            return Pattern {
                prefix: text,
                variable: Variable::None,
                suffix: "",
            };
        };
        let (name, suffix) = rest.split_once('}').unwrap_or((rest, ""));
        let variable = if name.ends_with(":.*") {
            Variable::Rest
        } else {
            Variable::Segment
        };
        Pattern {
            prefix,
            variable,
            suffix,
        }
    }

    /// The variable part of `path` (empty where the pattern has none), or `None`.
    fn matches<'a>(&self, path: &'a str) -> Option<&'a str> {
        let middle = path.strip_prefix(self.prefix)?;
        let middle = middle.strip_suffix(self.suffix)?;
        match self.variable {
            Variable::None => middle.is_empty().then_some(""),
            Variable::Segment => (!middle.is_empty() && !middle.contains('/')).then_some(middle),
            Variable::Rest => Some(middle),
        }
    }
}

/// Endpoints by method and path; `T` says what to do.
#[derive(Debug)]
pub struct Table<T> {
    entries: Vec<(Method, Pattern, T)>,
}

/// What a request asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match<'a, T> {
    /// The entry's target.
    pub target: T,
    /// The version as it stands in the path, without its `v`.
    pub version: Option<&'a str>,
    /// The variable part of the path: a container's, an image's name.
    pub name: &'a str,
}

impl<T: Copy> Table<T> {
    /// A table of `(method, pattern, target)`.
    pub fn new(entries: impl IntoIterator<Item = (Method, &'static str, T)>) -> Table<T> {
        let entries = entries.into_iter();
        Table {
            entries: entries
                .map(|(method, text, target)| (method, Pattern::new(text), target))
                .collect(),
        }
    }

    /// The first entry for this method and (percent-decoded) path.
    pub fn find<'a>(&self, method: &Method, path: &'a str) -> Option<Match<'a, T>> {
        let versioned = split_version(path);
        self.search(method, path, versioned)
            .or_else(|| match *method {
                Method::HEAD => self.search(&Method::GET, path, versioned),
                _ => None,
            })
    }

    fn search<'a>(
        &self,
        method: &Method,
        path: &'a str,
        versioned: Option<(&'a str, &'a str)>,
    ) -> Option<Match<'a, T>> {
        let candidates = self.entries.iter().filter(|(m, ..)| m == method);
        for (_, pattern, target) in candidates {
            if let Some((version, rest)) = versioned
                && let Some(name) = pattern.matches(rest)
            {
                return Some(Match {
                    target: *target,
                    version: Some(version),
                    name,
                });
            }
            if let Some(name) = pattern.matches(path) {
                return Some(Match {
                    target: *target,
                    version: None,
                    name,
                });
            }
        }
        None
    }
}

/// Splits `/v1.41/info` into `1.41` and `/info`.
fn split_version(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/v")?;
    let slash = rest.find('/')?;
    let (version, rest) = rest.split_at(slash);
    let valid = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    valid.then_some((version, rest))
}

/// The canonical form of a path where it differs: without empty and dot segments. Docker answers
/// such a path with a redirection to its canonical form.
pub fn canonical(path: &str) -> Option<String> {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    let mut clean = String::with_capacity(path.len());
    for segment in &segments {
        clean.push('/');
        clean.push_str(segment);
    }
    if clean.is_empty() || (path.ends_with('/') && !clean.ends_with('/')) {
        clean.push('/');
    }
    (clean != path).then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<u8> {
        Table::new([
            (Method::GET, "/info", 1),
            (Method::GET, "/images/json", 2),
            (Method::GET, "/images/{name:.*}/json", 3),
            (Method::DELETE, "/images/{name:.*}", 4),
            (Method::GET, "/exec/{id}/json", 5),
            (Method::HEAD, "/_ping", 6),
            (Method::GET, "/_ping", 7),
        ])
    }

    fn find(
        method: &Method,
        path: &'static str,
    ) -> Option<(u8, Option<&'static str>, &'static str)> {
        let found = table().find(method, path)?;
        Some((found.target, found.version, found.name))
    }

    #[test]
    fn paths_find_their_endpoint() {
        assert_eq!(find(&Method::GET, "/info"), Some((1, None, "")));
        assert_eq!(
            find(&Method::GET, "/v1.41/info"),
            Some((1, Some("1.41"), ""))
        );
        assert_eq!(find(&Method::GET, "/images/json"), Some((2, None, "")));
        assert_eq!(
            find(&Method::GET, "/v1.30/images/reg:5000/a/b:c/json"),
            Some((3, Some("1.30"), "reg:5000/a/b:c"))
        );
        assert_eq!(find(&Method::DELETE, "/images/a/b"), Some((4, None, "a/b")));
        assert_eq!(find(&Method::GET, "/exec/abc/json"), Some((5, None, "abc")));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for path in [
            "/",
            "",
            "/nosuch",
            "/info/",
            "/v1.41",
            "/v1.41/",
            "/vx/info",
            "/v/info",
            "/exec//json",
            "/exec/a/b/json",
            "/infos",
        ] {
            assert_eq!(find(&Method::GET, path), None, "{path}");
        }
        assert_eq!(find(&Method::POST, "/info"), None);
    }

    #[test]
    fn head_is_served_where_get_is() {
        assert_eq!(find(&Method::HEAD, "/info"), Some((1, None, "")));
        assert_eq!(find(&Method::HEAD, "/_ping"), Some((6, None, "")));
        assert_eq!(find(&Method::GET, "/_ping"), Some((7, None, "")));
    }

    #[test]
    fn paths_have_one_form() {
        assert_eq!(canonical("/info"), None);
        assert_eq!(canonical("/"), None);
        assert_eq!(canonical("/info/"), None);
        assert_eq!(canonical("//info").as_deref(), Some("/info"));
        assert_eq!(canonical("/a//b/").as_deref(), Some("/a/b/"));
        assert_eq!(canonical("/a/../b/./c").as_deref(), Some("/b/c"));
        assert_eq!(canonical("/../..").as_deref(), Some("/"));
        assert_eq!(canonical("").as_deref(), Some("/"));
    }
}
