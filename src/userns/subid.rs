//! Which ids beyond their own a user was granted: /etc/subuid and /etc/subgid.
//!
//! A line is `owner:first:count`, the owner a name or a number; a user may have several lines. What
//! a directory service grants (`subid: sss` in nsswitch.conf) is in no file and is asked of
//! `getsubids`. Lines that make no sense are passed over, as newuidmap does.

use std::path::Path;
use std::process::{Command, Stdio};

/// A run of ids, as the user's namespace numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First id.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Users or groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// /etc/subuid.
    Users,
    /// /etc/subgid.
    Groups,
}

impl Kind {
    /// The file that grants such ids.
    pub fn file(self) -> &'static str {
        match self {
            Self::Users => "/etc/subuid",
            Self::Groups => "/etc/subgid",
        }
    }
}

/// Names under which `uid` may be granted ids: those of /etc/passwd, else what the directory
/// service or the environment says.
pub fn names(uid: u32) -> Vec<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut names = names_in(&passwd, uid);
    if names.is_empty() {
        names = output("getent", &["passwd", &uid.to_string()])
            .map(|line| names_in(&line, uid))
            .unwrap_or_default();
    }
    if names.is_empty() {
        names.extend(
            ["USER", "LOGNAME"]
                .iter()
                .find_map(|name| std::env::var(name).ok()),
        );
    }
    names
}

/// The ranges granted to `uid`, known by `names`.
pub fn granted(kind: Kind, names: &[String], uid: u32) -> Vec<Range> {
    let text = std::fs::read_to_string(Path::new(kind.file())).unwrap_or_default();
    let ranges = parse(&text, names, uid);
    if !ranges.is_empty() {
        return ranges;
    }
    for name in names {
        let arguments: &[&str] = match kind {
            Kind::Users => &[name],
            Kind::Groups => &["-g", name],
        };
        let listed = output("getsubids", arguments).unwrap_or_default();
        let ranges = parse_listed(&listed);
        if !ranges.is_empty() {
            return ranges;
        }
    }
    Vec::new()
}

fn names_in(passwd: &str, uid: u32) -> Vec<String> {
    let mut names = Vec::new();
    for line in passwd.lines() {
        let mut fields = line.split(':');
        let (name, number) = (fields.next(), fields.nth(1));
        if let (Some(name), Some(Ok(number))) = (name, number.map(str::parse::<u32>))
            && number == uid
            && !name.is_empty()
        {
            names.push(name.to_owned());
        }
    }
    names
}

/// Lines of /etc/subuid that belong to one of `names` or to the number itself.
fn parse(text: &str, names: &[String], uid: u32) -> Vec<Range> {
    let uid = uid.to_string();
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let range = range(fields.next()?, fields.next()?)?;
        let mine = owner == uid || names.iter().any(|name| name == owner);
        (mine && fields.next().is_none()).then_some(range)
    });
    lines.collect()
}

/// What `getsubids` prints: `0: alice 100000 65536`.
fn parse_listed(text: &str) -> Vec<Range> {
    let lines = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once(": ")?;
        let mut fields = rest.split_ascii_whitespace().skip(1);
        range(fields.next()?, fields.next()?)
    });
    lines.collect()
}

fn range(first: &str, count: &str) -> Option<Range> {
    let (first, count) = (
        first.trim().parse::<u32>().ok()?,
        count.trim().parse::<u32>().ok()?,
    );
    (count > 0 && first.checked_add(count - 1)? < u32::MAX).then_some(Range { first, count })
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<(u32, u32)> {
        let names = ["alice".to_owned(), "alias".to_owned()];
        parse(text, &names, 1001)
            .iter()
            .map(|range| (range.first, range.count))
            .collect()
    }

    #[test]
    fn lines_are_keyed_by_name_or_number() {
        let text = "bob:1:2\nalice:100000:65536\n1001:300000:10\nalias:400000:1\n10010:5:5\n";
        assert_eq!(of(text), [(100_000, 65536), (300_000, 10), (400_000, 1)]);
    }

    #[test]
    fn nonsense_is_passed_over() {
        for line in [
            "",
            "alice",
            "alice:1",
            "alice:x:1",
            "alice:1:0",
            "alice:-1:5",
            "alice:4294967295:1",
            "alice:1:4294967295",
            "alice:1:2:3",
            "# alice:1:1",
        ] {
            assert_eq!(of(line), [], "{line:?}");
        }
        assert_eq!(of("alice:4294967294:1"), [(4_294_967_294, 1)]);
    }

    #[test]
    fn names_come_from_every_line_of_the_number() {
        let passwd = "root:x:0:0::/:/bin/sh\na:x:1001:1::/:\nbroken\nb:x:1001:1::/:\n";
        assert_eq!(names_in(passwd, 1001), ["a", "b"]);
        assert_eq!(names_in(passwd, 7), [""; 0]);
    }

    #[test]
    fn getsubids_is_understood() {
        let listed = parse_listed("0: alice 100000 65536\n1: alice 5 6\nError fetching ranges\n");
        assert_eq!(
            listed,
            [
                Range {
                    first: 100_000,
                    count: 65536
                },
                Range { first: 5, count: 6 }
            ]
        );
    }
}
