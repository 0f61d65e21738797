//! Owners and modes: what an entry says, and what this process can give a file.
//!
//! Whoever holds CAP_CHOWN can give every id of its user namespace's map; anyone else only its
//! own. What cannot be given is kept in the attribute [`OVERRIDE`] in fuse-overlayfs' form
//! (`uid:gid:mode`, the mode in octal), for the FUSE overlay to show; the file itself then belongs
//! to the overflow id where that is mapped, else to this process. A setuid or setgid bit that would
//! then give somebody else's rights is taken off the file (the attribute keeps it).
//!
//! Links, fifos and whiteouts can hold no such attribute; the layer's own tar headers still know
//! their owners.
//!
//! Without CAP_DAC_OVERRIDE (tests, hosts without user namespaces) a file that its owner may not
//! read could not be read back for `save`, so such files and directories get the owner's bits, and
//! their true mode goes to the attribute too.

use std::fs;

/// Attribute that holds the true owner and mode.
pub(crate) const OVERRIDE: &str = "user.containers.override_stat";

/// The kernel's overflow id: what an id without a place in the map is shown as.
const OVERFLOW: u32 = 65534;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const CAP_CHOWN: u64 = 1 << 0;
const CAP_DAC_OVERRIDE: u64 = 1 << 1;

/// The ids that this process can give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owners {
    uids: Ids,
    gids: Ids,
    /// May read and write what the mode forbids.
    override_access: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ids {
    own: u32,
    /// First ids and counts; empty without CAP_CHOWN.
    mapped: Vec<(u32, u32)>,
}

/// What a file gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    /// `None` where it has this owner already, being made by this process.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mode: u32,
    /// Value of [`OVERRIDE`].
    pub(crate) override_stat: Option<String>,
}

impl Ids {
    fn give(&self, wanted: i64) -> (u32, bool) {
        let mapped = |id: u32| {
            self.mapped
                .iter()
                .any(|(first, count)| id >= *first && id - first < *count)
        };
        match u32::try_from(wanted) {
            Ok(id) if id == self.own || mapped(id) => (id, true),
            _ if mapped(OVERFLOW) => (OVERFLOW, false),
            _ => (self.own, false),
        }
    }
}

impl Owners {
    /// Asks the kernel what this process may do.
    pub(crate) fn of_this_process() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let capabilities = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0);
        let map = |file: &str| {
            if capabilities & CAP_CHOWN == 0 {
                return Vec::new();
            }
            parse_map(&fs::read_to_string(file).unwrap_or_default())
        };
        Self {
            uids: Ids {
                own: rustix::process::geteuid().as_raw(),
                mapped: map("/proc/self/uid_map"),
            },
            gids: Ids {
                own: rustix::process::getegid().as_raw(),
                mapped: map("/proc/self/gid_map"),
            },
            override_access: capabilities & CAP_DAC_OVERRIDE != 0,
        }
    }

    /// The same process if it were not allowed to give files away.
    pub(crate) fn single(&self) -> Self {
        let mut single = self.clone();
        single.uids.mapped.clear();
        single.gids.mapped.clear();
        single
    }

    /// What a file or directory (`access`: the bits its owner needs) is given.
    pub(crate) fn give(&self, uid: i64, gid: i64, mode: u32, access: u32) -> Given {
        let (given_uid, uid_true) = self.uids.give(uid);
        let (given_gid, gid_true) = self.gids.give(gid);
        let mut given_mode = mode;
        if !uid_true {
            given_mode &= !SETUID;
        }
        if !gid_true {
            given_mode &= !SETGID;
        }
        if !self.override_access {
            given_mode |= access;
        }
        let same = uid_true && gid_true && given_mode == mode;
        let is_own = given_uid == self.uids.own && given_gid == self.gids.own;
        Given {
            owner: (!is_own).then_some((given_uid, given_gid)),
            mode: given_mode,
            override_stat: (!same).then(|| format!("{uid}:{gid}:{mode:o}")),
        }
    }
}

/// The inside column of an id map.
fn parse_map(text: &str) -> Vec<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let first = fields.next()?.parse().ok()?;
            let count = fields.nth(1)?.parse().ok()?;
            Some((first, count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(map: &str, own: u32, override_access: bool) -> Owners {
        let ids = Ids {
            own,
            mapped: parse_map(map),
        };
        Owners {
            uids: ids.clone(),
            gids: ids,
            override_access,
        }
    }

    #[test]
    fn in_and_out_of_range() {
        let full = owners("0 1000 1\n1 100000 65536\n", 0, true);
        let plain = full.give(999, 0, 0o4755, 0);
        assert_eq!((plain.owner, plain.mode), (Some((999, 0)), 0o4755));
        assert_eq!(plain.override_stat, None);
        assert_eq!(full.give(0, 0, 0o644, 0).owner, None);
        let beyond = full.give(70_000, 5, 0o6755, 0);
        assert_eq!((beyond.owner, beyond.mode), (Some((65534, 5)), 0o2755));
        assert_eq!(beyond.override_stat.as_deref(), Some("70000:5:6755"));
        assert_eq!(full.give(-1, 0, 0o644, 0).owner, Some((65534, 0)));
        assert_eq!(
            full.give(4_294_967_295, 0, 0o644, 0).owner,
            Some((65534, 0))
        );
    }

    #[test]
    fn one_id() {
        let single = owners("0 1000 1\n", 0, true);
        let other = single.give(0, 42, 0o2755, 0);
        assert_eq!((other.owner, other.mode), (None, 0o755));
        assert_eq!(other.override_stat.as_deref(), Some("0:42:2755"));
        let ordinary = owners("", 1000, false);
        let closed = ordinary.give(1000, 1000, 0o000, 0o600);
        assert_eq!((closed.owner, closed.mode), (None, 0o600));
        assert_eq!(closed.override_stat.as_deref(), Some("1000:1000:0"));
    }
}
