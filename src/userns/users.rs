//! Users and groups as the container's own /etc/passwd and /etc/group name them.
//!
//! [`Files`] reads the two inside a container's root; the rest are pure functions over their text.
//! The rules are Docker's (moby/sys/user): a number is always an id and never a name; the first
//! matching line wins; malformed lines are skipped; a number needs no line; a user without an
//! explicit group gets the line's group and every group that lists its name.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use rustix::fs::OFlags;

use crate::sys::resolve;

/// Bytes of a file that are looked at.
const FILE_LIMIT: u64 = 16 << 20;

/// Highest id that Docker accepts (`MaxInt32`), though the kernel has 2³² − 2.
const MAX_ID: i64 = i32::MAX as i64;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, the primary one first as Docker has had it since 20.10.18.
    pub groups: Vec<u32>,
}

/// Why a user specification names nobody; the texts are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The user is no number and not in passwd.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// The group is no number and not in group.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// One of `--group-add` is no number and not in group.
    #[error("unable to find group {0}")]
    NoAdditionalGroup(String),
    /// A number outside 0 to 2³¹ − 1.
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
}

/// The texts of a root's passwd and group; `None` where it has no such file.
#[derive(Debug)]
pub struct Files {
    /// `/etc/passwd`.
    pub passwd: Option<String>,
    /// `/etc/group`.
    pub group: Option<String>,
}

impl Files {
    /// Reads them. The root was filled by a stranger: a device or pipe in place of a file is none,
    /// and does not block; of a large file the beginning counts.
    pub fn read(root: BorrowedFd<'_>) -> Self {
        let read = |path: &str| {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            let file = File::from(resolve::open(root, path, flags).ok()?);
            if !file.metadata().ok()?.is_file() {
                return None;
            }
            let mut text = Vec::new();
            file.take(FILE_LIMIT).read_to_end(&mut text).ok()?;
            Some(String::from_utf8_lossy(&text).into_owned())
        };
        Self {
            passwd: read("/etc/passwd"),
            group: read("/etc/group"),
        }
    }

    /// [`resolve()`] by these.
    ///
    /// # Errors
    ///
    /// Its.
    pub fn resolve(&self, user: &str, additional: &[String]) -> Result<Identity, LookupError> {
        resolve(
            user,
            additional,
            self.passwd.as_deref(),
            self.group.as_deref(),
        )
    }
}

/// Resolves Docker's `user[:group]` and the additional groups. The texts are `None` where the
/// container has no such file.
///
/// # Errors
///
/// A name that is in neither file, or a number out of range.
fn resolve(
    user: &str,
    additional: &[String],
    passwd: Option<&str>,
    group: Option<&str>,
) -> Result<Identity, LookupError> {
    let mut parts = user.split(':');
    let user = parts.next().unwrap_or_default();
    let group_name = parts.next().unwrap_or_default();
    let uid = number(user)?;
    let gid = number(group_name)?;

    let found = passwd.unwrap_or_default().lines().find_map(|line| {
        let entry = passwd_entry(line)?;
        let matches = match (user, uid) {
            ("", _) => entry.uid == 0,
            (_, Some(uid)) => entry.uid == uid,
            (name, None) => entry.name == name,
        };
        matches.then_some(entry)
    });
    let mut identity = Identity {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    };
    match (&found, uid) {
        (Some(entry), _) => {
            identity.uid = entry.uid;
            identity.gid = entry.gid;
        }
        (None, Some(uid)) => identity.uid = uid,
        (None, None) if user.is_empty() => {}
        (None, None) => return Err(LookupError::NoUser(user.to_owned())),
    }

    let groups = || group.unwrap_or_default().lines().filter_map(group_entry);
    let mut implicit = Vec::new();
    if group_name.is_empty() {
        if let Some(entry) = &found {
            implicit.extend(
                groups()
                    .filter(|g| g.members.split(',').any(|m| m == entry.name))
                    .map(|g| g.gid),
            );
        }
    } else {
        let named = groups().find(|g| gid.map_or(g.name == group_name, |gid| g.gid == gid));
        identity.gid = match (named, gid) {
            (Some(entry), _) => entry.gid,
            (None, Some(gid)) => gid,
            (None, None) => return Err(LookupError::NoGroup(group_name.to_owned())),
        };
    }

    identity.groups.push(identity.gid);
    for name in additional {
        let gid = match number(name)? {
            Some(gid) => gid,
            None => groups()
                .find(|g| g.name == name.as_str())
                .map(|g| g.gid)
                .ok_or_else(|| LookupError::NoAdditionalGroup(name.clone()))?,
        };
        implicit.push(gid);
    }
    for gid in implicit {
        if !identity.groups.contains(&gid) {
            identity.groups.push(gid);
        }
    }
    Ok(identity)
}

/// The home directory that passwd gives a user id, or `/`.
pub fn home(uid: u32, passwd: Option<&str>) -> &str {
    passwd
        .unwrap_or_default()
        .lines()
        .filter_map(passwd_entry)
        .find(|entry| entry.uid == uid)
        .map_or("/", |entry| entry.home)
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// `name:password:uid:gid:gecos:home:shell`
fn passwd_entry(line: &str) -> Option<PasswdEntry<'_>> {
    let mut fields = line.trim().split(':');
    let name = fields
        .next()
        .filter(|n| !n.is_empty() && !n.starts_with('#'))?;
    Some(PasswdEntry {
        name,
        uid: fields.nth(1)?.parse().ok()?,
        gid: fields.next()?.parse().ok()?,
        home: fields.nth(1).unwrap_or_default(),
    })
}

/// `name:password:gid:member,member`
fn group_entry(line: &str) -> Option<GroupEntry<'_>> {
    let mut fields = line.trim().split(':');
    let name = fields
        .next()
        .filter(|n| !n.is_empty() && !n.starts_with('#'))?;
    Some(GroupEntry {
        name,
        gid: fields.nth(1)?.parse().ok()?,
        members: fields.next().unwrap_or_default(),
    })
}

/// A decimal number in range, `None` for what is no number.
fn number(text: &str) -> Result<Option<u32>, LookupError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<i64>() {
        Ok(n) if (0..=MAX_ID).contains(&n) => Ok(Some(n as u32)),
        _ => Err(LookupError::Range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "# comment\nroot:x:0:0:root:/root:/bin/sh\nbroken\n\
        app:x:1000:1001:App:/home/app:/bin/sh\n1234:x:7:7::/seven:\napp:x:5:5::/second:";
    const GROUP: &str =
        "root:x:0:root\nadm:x:4:app,other\napp:x:1001:\nbad:x:notnumber:app\nvideo:x:44:app\n";

    fn who(user: &str, more: &[&str]) -> Result<(u32, u32, Vec<u32>), LookupError> {
        let more: Vec<String> = more.iter().map(|&m| m.to_owned()).collect();
        resolve(user, &more, Some(PASSWD), Some(GROUP)).map(|i| (i.uid, i.gid, i.groups))
    }

    #[test]
    fn users_and_groups_by_name_and_number() {
        for (user, more, want) in [
            ("", &[][..], (0, 0, vec![0])),
            ("app", &[], (1000, 1001, vec![1001, 4, 44])),
            ("1000", &[], (1000, 1001, vec![1001, 4, 44])),
            ("app:adm", &[], (1000, 4, vec![4])),
            ("app:99", &[], (1000, 99, vec![99])),
            ("4242", &[], (4242, 0, vec![0])),
            ("4242:4343", &[], (4242, 4343, vec![4343])),
            ("1234", &[], (1234, 0, vec![0])),
            ("app", &["video", "77"], (1000, 1001, vec![1001, 4, 44, 77])),
        ] {
            assert_eq!(who(user, more), Ok(want), "{user} {more:?}");
        }
    }

    #[test]
    fn errors_are_worded_as_dockers() {
        let text = |user, more: &[&str]| who(user, more).expect_err("refused").to_string();
        assert_eq!(
            text("nosuch", &[]),
            "unable to find user nosuch: no matching entries in passwd file"
        );
        assert_eq!(
            text("app:nosuch", &[]),
            "unable to find group nosuch: no matching entries in group file"
        );
        assert_eq!(text("app", &["nosuch"]), "unable to find group nosuch");
        assert_eq!(
            text("99999999999", &[]),
            "uids and gids must be in range 0-2147483647"
        );
        assert_eq!(
            text("-1", &[]),
            "uids and gids must be in range 0-2147483647"
        );
    }

    #[test]
    fn without_files_numbers_still_work() {
        let id = resolve("5:6", &[], None, None).expect("numbers");
        assert_eq!((id.uid, id.gid), (5, 6));
        assert_eq!(resolve("", &[], None, None).map(|i| i.uid), Ok(0));
        assert!(resolve("app", &[], None, None).is_err());
    }

    #[test]
    fn homes() {
        assert_eq!(home(1000, Some(PASSWD)), "/home/app");
        assert_eq!(home(4242, Some(PASSWD)), "/");
        assert_eq!(home(0, None), "/");
    }
}
