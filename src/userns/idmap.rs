//! Id maps: which users and groups exist inside the keeper's namespace, and inside a container's.
//!
//! One rule: 0 inside is the caller, 1 onwards are the caller's subordinate ranges in the order in
//! which they were granted. Where nothing is granted, or newuidmap cannot be had, the caller's own
//! id is the only one. Root without a range of its own maps its namespace's ids one to one (which
//! makes root in a container root on bind mounts; `docker info` warns of it); root with a range
//! keeps to the rule.
//!
//! Everything here is arithmetic on the namespace's own map (`/proc/self/uid_map`) and the granted
//! ranges, and so works in an already nested namespace too: ids that do not exist there are cut
//! away, and an extent never crosses the border of one of the parent's, which the kernel refuses
//! with EPERM (user_namespaces(7): each line must lie within one line of the parent's map).

use std::fmt::Write as _;
use std::io;

use serde::{Deserialize, Serialize};

use super::plan::{Extent, IdMapping};
use super::subid::{self, Range};
use crate::types::idmap;
use crate::types::keep_id::KeepId;

/// The most extents in a map. The kernel takes 340 lines but only one page in one write, and a
/// line is up to 33 bytes.
const MAX_EXTENTS: usize = 120;

/// The map of the keeper's namespace, and why it is what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// The extents; `outside` is in terms of the namespace that the keeper was started in.
    pub mapping: IdMapping,
    /// Where they come from.
    pub origin: Origin,
}

/// Where an id map comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The caller and its subordinate ranges.
    Subordinate,
    /// Root's own namespace, one to one.
    Identity,
    /// The caller alone.
    Single {
        /// Why there is no more: one sentence, for `doctor` and `info`.
        reason: String,
    },
}

/// Facts about the caller that its map follows from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// The caller's namespace's own map of users: only `inside` and `count` matter.
    pub uid_map: Vec<Extent>,
    /// The same of groups.
    pub gid_map: Vec<Extent>,
    /// setgroups(2) is already denied in the caller's namespace, and so in every one below.
    pub setgroups_denied: bool,
    /// Ranges granted in /etc/subuid.
    pub subuids: Vec<Range>,
    /// Ranges granted in /etc/subgid.
    pub subgids: Vec<Range>,
}

impl IdMap {
    /// The widest map that the caller has a right to.
    pub fn of(caller: &Caller) -> Self {
        let uids = with_ranges(caller.uid, &caller.subuids, &caller.uid_map);
        let gids = with_ranges(caller.gid, &caller.subgids, &caller.gid_map);
        if uids.len() > 1 && gids.len() > 1 {
            let mapping = IdMapping {
                uids,
                gids,
                deny_setgroups: caller.setgroups_denied,
            };
            return Self {
                mapping,
                origin: Origin::Subordinate,
            };
        }
        if caller.uid == 0 && caller.subuids.is_empty() && caller.subgids.is_empty() {
            let (uids, gids) = (one_to_one(&caller.uid_map), one_to_one(&caller.gid_map));
            let mapping = IdMapping {
                uids,
                gids,
                deny_setgroups: caller.setgroups_denied,
            };
            return Self {
                mapping,
                origin: Origin::Identity,
            };
        }
        let missing = |granted: &[Range], file: &str| match granted {
            [] => format!("{file} grants no ids to user {}", caller.uid),
            _ => format!("the ids that {file} grants do not exist in this namespace"),
        };
        let reason = if uids.len() > 1 {
            missing(&caller.subgids, "/etc/subgid")
        } else {
            missing(&caller.subuids, "/etc/subuid")
        };
        Self::single(caller.uid, caller.gid, reason)
    }

    /// The map that needs no one's leave: the caller alone.
    pub fn single(uid: u32, gid: u32, reason: impl Into<String>) -> Self {
        let only = |outside| {
            vec![Extent {
                inside: 0,
                outside,
                count: 1,
            }]
        };
        let mapping = IdMapping {
            uids: only(uid),
            gids: only(gid),
            deny_setgroups: true,
        };
        Self {
            mapping,
            origin: Origin::Single {
                reason: reason.into(),
            },
        }
    }

    /// Whether only one user exists inside.
    pub fn is_single(&self) -> bool {
        self.mapping.uids.iter().map(|extent| extent.count).eq([1])
    }
}

/// The map of a container's namespace nested in `outer`: every id, each as itself.
///
/// Written as one extent for each of the outer map's, since none may cross their borders.
pub fn nested(outer: &IdMap) -> IdMapping {
    IdMapping {
        uids: one_to_one(&outer.mapping.uids),
        gids: one_to_one(&outer.mapping.gids),
        deny_setgroups: outer.mapping.deny_setgroups,
    }
}

/// Why a container cannot have the map that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{keep} wants the {kind} ids 0 to {last} in the container, and there are {granted}: {reason}"
)]
pub struct TooFew {
    keep: KeepId,
    kind: &'static str,
    last: u32,
    granted: u64,
    reason: String,
}

/// The map of a container's namespace in which the caller's ids are where `keep` says. As in podman
/// the others keep their order: 0 to N-1 are the subordinate ids that are 1 to N otherwise.
///
/// # Errors
/// Where there are fewer ids than that.
pub fn keep_id(outer: &IdMap, keep: KeepId) -> Result<IdMapping, TooFew> {
    let (uid, gid) = kept_ids(outer, keep);
    let too_few = |kind, last, extents: &[Extent]| TooFew {
        keep,
        kind,
        last,
        granted: extents.iter().map(|extent| u64::from(extent.count)).sum(),
        reason: match &outer.origin {
            Origin::Single { reason } => reason.clone(),
            Origin::Subordinate if kind == "user" => "/etc/subuid grants no more".into(),
            Origin::Subordinate => "/etc/subgid grants no more".into(),
            Origin::Identity => "this namespace has no more".into(),
        },
    };
    let (uids, gids) = (&outer.mapping.uids, &outer.mapping.gids);
    Ok(IdMapping {
        uids: moved(uids, uid).ok_or_else(|| too_few("user", uid, uids))?,
        gids: moved(gids, gid).ok_or_else(|| too_few("group", gid, gids))?,
        deny_setgroups: outer.mapping.deny_setgroups,
    })
}

/// The caller's user and group in a container's namespace.
pub fn kept_ids(outer: &IdMap, keep: KeepId) -> (u32, u32) {
    // 0 of the keeper's namespace is the caller, whose own number is on the other side.
    let own = |extents: &[Extent]| idmap::outside(extents, 0).unwrap_or(0);
    (
        keep.uid.unwrap_or_else(|| own(&outer.mapping.uids)),
        keep.gid.unwrap_or_else(|| own(&outer.mapping.gids)),
    )
}

/// Every id of a namespace but that its 0 is `place` inside, and 1 to `place` are one less; split
/// where its map is. `None` where one of these is missing.
fn moved(map: &[Extent], place: u32) -> Option<Vec<Extent>> {
    let mut extents = Vec::new();
    let mut low: u64 = 0;
    for own in one_to_one(map) {
        let (first, end) = (
            u64::from(own.inside),
            u64::from(own.inside) + u64::from(own.count),
        );
        let place = u64::from(place);
        let parts = [
            (0, 1, place),
            (1, place + 1, 0),
            (place + 1, u64::MAX, place + 1),
        ];
        for (from, to, inside) in parts {
            let (start, stop) = (first.max(from), end.min(to));
            if start >= stop {
                continue;
            }
            if from <= place {
                low += stop - start;
            }
            extents.push(Extent {
                inside: u32::try_from(inside + (start - from)).ok()?,
                outside: u32::try_from(start).ok()?,
                count: u32::try_from(stop - start).ok()?,
            });
        }
    }
    extents.sort_by_key(|extent| extent.inside);
    (low == u64::from(place) + 1).then_some(extents)
}

/// Every id of a namespace as itself, split where its map is.
pub fn one_to_one(map: &[Extent]) -> Vec<Extent> {
    let mut extents: Vec<_> = map
        .iter()
        .map(|extent| Extent {
            inside: extent.inside,
            outside: extent.inside,
            count: extent.count,
        })
        .collect();
    extents.sort_by_key(|extent| extent.inside);
    extents
}

/// The caller at 0, and what of `ranges` exists in `own` from 1 on.
fn with_ranges(caller: u32, ranges: &[Range], own: &[Extent]) -> Vec<Extent> {
    let mut extents = vec![Extent {
        inside: 0,
        outside: caller,
        count: 1,
    }];
    let mut next: u32 = 1;
    for range in ranges {
        // Neither side of a map may name an id twice: what is there already is cut out.
        let taken: Vec<_> = extents
            .iter()
            .map(|extent| (extent.outside, extent.count))
            .collect();
        for (first, count) in pieces(*range, &taken, own) {
            let count = count.min(u32::MAX - next);
            if extents.len() == MAX_EXTENTS || count == 0 {
                return extents;
            }
            extents.push(Extent {
                inside: next,
                outside: first,
                count,
            });
            next += count;
        }
    }
    extents
}

/// What is left of a range without `taken`, cut at the borders of `own`, in ascending order.
fn pieces(range: Range, taken: &[(u32, u32)], own: &[Extent]) -> Vec<(u32, u32)> {
    let end = |first: u32, count: u32| u64::from(first) + u64::from(count);
    let (low, high) = (u64::from(range.first), end(range.first, range.count));
    let mut left = Vec::new();
    for extent in own {
        let start = low.max(u64::from(extent.inside));
        let stop = high.min(end(extent.inside, extent.count));
        if start < stop {
            left.push((start, stop));
        }
    }
    for &(first, count) in taken {
        let (from, to) = (u64::from(first), end(first, count));
        let cut = left
            .into_iter()
            .flat_map(|(start, stop)| [(start, stop.min(from)), (start.max(to), stop)]);
        left = cut.filter(|(start, stop)| start < stop).collect();
    }
    left.sort_unstable();
    let as_ids = |(start, stop): (u64, u64)| {
        Some((
            u32::try_from(start).ok()?,
            u32::try_from(stop - start).ok()?,
        ))
    };
    left.into_iter().filter_map(as_ids).collect()
}

/// The facts about this process.
pub fn caller() -> io::Result<Caller> {
    let uid = rustix::process::geteuid().as_raw();
    let names = subid::names(uid);
    let denied = std::fs::read_to_string("/proc/self/setgroups")?;
    Ok(Caller {
        uid,
        gid: rustix::process::getegid().as_raw(),
        uid_map: own_map("/proc/self/uid_map")?,
        gid_map: own_map("/proc/self/gid_map")?,
        setgroups_denied: denied.trim() == "deny",
        subuids: subid::granted(subid::Kind::Users, &names, uid),
        subgids: subid::granted(subid::Kind::Groups, &names, uid),
    })
}

/// The map of the namespace that this process is in, where nobody kept a better description.
pub fn current() -> io::Result<IdMap> {
    let mapping = IdMapping {
        uids: own_map("/proc/self/uid_map")?,
        gids: own_map("/proc/self/gid_map")?,
        deny_setgroups: std::fs::read_to_string("/proc/self/setgroups")?.trim() == "deny",
    };
    let origin = if mapping
        .uids
        .iter()
        .all(|extent| extent.inside == extent.outside)
    {
        Origin::Identity
    } else if mapping.uids.len() > 1 {
        Origin::Subordinate
    } else {
        Origin::Single {
            reason: "the namespace was made with one id".into(),
        }
    };
    Ok(IdMap { mapping, origin })
}

fn own_map(path: &str) -> io::Result<Vec<Extent>> {
    parse(&std::fs::read_to_string(path)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Parses `/proc/PID/uid_map`.
pub fn parse(text: &str) -> Option<Vec<Extent>> {
    let line = |line: &str| {
        let mut numbers = line
            .split_ascii_whitespace()
            .map(|number| number.parse().ok());
        let mut number = || numbers.next().flatten();
        Some(Extent {
            inside: number()?,
            outside: number()?,
            count: number()?,
        })
    };
    text.lines().map(line).collect()
}

/// The map as one write to `/proc/PID/uid_map` takes it.
pub fn format(extents: &[Extent]) -> String {
    let mut text = String::new();
    for Extent {
        inside,
        outside,
        count,
    } in extents
    {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{inside} {outside} {count}");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: &str = "         0          0 4294967295\n";

    fn caller(uid: u32, ranges: &[(u32, u32)], own: &str) -> Caller {
        let ranges: Vec<_> = ranges
            .iter()
            .map(|&(first, count)| Range { first, count })
            .collect();
        let own = parse(own).unwrap();
        Caller {
            uid,
            gid: uid,
            uid_map: own.clone(),
            gid_map: own,
            setgroups_denied: false,
            subuids: ranges.clone(),
            subgids: ranges,
        }
    }

    fn map(uid: u32, ranges: &[(u32, u32)], own: &str) -> (String, Origin) {
        let map = IdMap::of(&caller(uid, ranges, own));
        (format(&map.mapping.uids), map.origin)
    }

    #[test]
    fn the_caller_is_0_and_its_ranges_follow() {
        let (text, origin) = map(1001, &[(100_000, 65536)], ALL);
        assert_eq!(
            (&*text, origin),
            ("0 1001 1\n1 100000 65536\n", Origin::Subordinate)
        );
        let (text, _) = map(1001, &[(300_000, 10), (100_000, 65536)], ALL);
        assert_eq!(text, "0 1001 1\n1 300000 10\n11 100000 65536\n");
    }

    #[test]
    fn what_is_granted_twice_is_mapped_once() {
        let (text, _) = map(1001, &[(100, 50), (100, 50), (120, 50), (90, 100)], ALL);
        assert_eq!(text, "0 1001 1\n1 100 50\n51 150 20\n71 90 10\n81 170 20\n");
        // A range that holds the caller's own id.
        let (text, _) = map(1001, &[(1000, 3)], ALL);
        assert_eq!(text, "0 1001 1\n1 1000 1\n2 1002 1\n");
    }

    #[test]
    fn root_keeps_its_ids_unless_it_has_a_range() {
        let (text, origin) = map(0, &[], ALL);
        assert_eq!((&*text, origin), ("0 0 4294967295\n", Origin::Identity));
        let (text, origin) = map(0, &[(100_000, 65536)], ALL);
        assert_eq!(
            (&*text, origin),
            ("0 0 1\n1 100000 65536\n", Origin::Subordinate)
        );
        let (text, origin) = map(0, &[], "0 1001 1\n1 100000 65536\n");
        assert_eq!((&*text, origin), ("0 0 1\n1 1 65536\n", Origin::Identity));
    }

    #[test]
    fn in_a_nested_namespace_only_its_ids_count() {
        let nested = "0 1001 1\n1 100000 65536\n";
        let (text, origin) = map(5, &[(60000, 10000)], nested);
        assert_eq!(
            (&*text, origin),
            ("0 5 1\n1 60000 5537\n", Origin::Subordinate)
        );
        let (text, origin) = map(5, &[(100_000, 65536)], nested);
        assert_eq!(text, "0 5 1\n");
        assert!(matches!(origin, Origin::Single { reason } if reason.contains("do not exist")));
        // Across a border of the namespace's own map.
        let (text, _) = map(5, &[(95, 10)], "0 1000 100\n100 5000 100\n");
        assert_eq!(text, "0 5 1\n1 95 5\n6 100 5\n");
    }

    #[test]
    fn one_file_alone_grants_nothing() {
        let mut caller = caller(1001, &[(100_000, 65536)], ALL);
        caller.subgids.clear();
        let map = IdMap::of(&caller);
        assert!(map.is_single() && map.mapping.deny_setgroups);
        assert_eq!(
            map.origin,
            Origin::Single {
                reason: "/etc/subgid grants no ids to user 1001".into()
            }
        );
    }

    #[test]
    fn a_container_has_every_id_split_as_the_keepers() {
        let outer = IdMap::of(&caller(1001, &[(300_000, 10), (100_000, 65526)], ALL));
        let inner = nested(&outer);
        assert_eq!(format(&inner.uids), "0 0 1\n1 1 10\n11 11 65526\n");
        assert!(!inner.deny_setgroups);
        let inner = nested(&IdMap::single(1001, 1001, "so"));
        assert_eq!(
            (format(&inner.gids), inner.deny_setgroups),
            ("0 0 1\n".into(), true)
        );
    }

    #[test]
    fn the_caller_is_where_it_is_asked_for() {
        let outer = IdMap::of(&caller(1001, &[(300_000, 10), (100_000, 65526)], ALL));
        let kept = |mode: &str| keep_id(&outer, mode.parse().unwrap()).unwrap();
        let map = kept("keep-id:uid=5");
        assert_eq!(format(&map.uids), "0 1 5\n5 0 1\n6 6 5\n11 11 65526\n");
        // The group is the caller's own number then, beyond the first range here.
        assert_eq!(
            format(&map.gids),
            "0 1 10\n10 11 991\n1001 0 1\n1002 1002 64535\n"
        );
        assert_eq!(
            format(&kept("keep-id:uid=0").uids),
            "0 0 1\n1 1 10\n11 11 65526\n"
        );
        assert!(kept("keep-id:uid=0,gid=0").is_plain() && !map.is_plain());
        assert_eq!(
            format(&kept("keep-id:uid=65536").uids),
            "0 1 10\n10 11 65526\n65536 0 1\n"
        );
        let refused =
            |map: &IdMap, mode: &str| keep_id(map, mode.parse().unwrap()).unwrap_err().to_string();
        assert_eq!(
            refused(&outer, "keep-id:uid=1,gid=65537"),
            "keep-id:uid=1,gid=65537 wants the group ids 0 to 65537 in the container, and there are \
             65537: /etc/subgid grants no more"
        );
        assert_eq!(
            refused(&IdMap::single(1001, 1001, "so"), "keep-id"),
            "keep-id wants the user ids 0 to 1001 in the container, and there are 1: so"
        );
        let root = IdMap::of(&caller(0, &[], ALL));
        assert_eq!(
            format(
                &keep_id(&root, "keep-id:uid=7".parse().unwrap())
                    .unwrap()
                    .uids
            ),
            "0 1 7\n7 0 1\n8 8 4294967287\n"
        );
        assert!(keep_id(&root, KeepId::default()).unwrap().is_plain());
    }

    #[test]
    fn a_map_never_exceeds_what_one_write_takes() {
        let many: Vec<_> = (0..500).map(|n| (100_000 + n * 20, 10)).collect();
        let (text, _) = map(1001, &many, ALL);
        assert!(text.len() < 4096 && text.lines().count() == MAX_EXTENTS);
    }

    proptest! {
        #[test]
        fn a_kept_id_moves_the_others_and_loses_none(
            uid in 0u32..200,
            ranges in prop::collection::vec((300u32..600, 1u32..100), 1..6),
            place in 0u32..300,
        ) {
            let outer = IdMap::of(&caller(uid, &ranges, ALL));
            let count: u32 = outer.mapping.uids.iter().map(|extent| extent.count).sum();
            let map = moved(&outer.mapping.uids, place);
            prop_assert_eq!(map.is_some(), place < count);
            let map = map.unwrap_or_default();
            for id in 0..if map.is_empty() { 0 } else { count } {
                let expected = match id {
                    id if id == place => 0,
                    id if id < place => id + 1,
                    id => id,
                };
                prop_assert_eq!(idmap::outside(&map, id), Some(expected));
                prop_assert_eq!(idmap::inside(&map, expected), Some(id));
            }
            for extent in &map {
                let within = |parent: &Extent| {
                    extent.outside >= parent.inside
                        && extent.outside + extent.count <= parent.inside + parent.count
                };
                prop_assert!(outer.mapping.uids.iter().any(within));
            }
        }

        #[test]
        fn extents_never_overlap_and_lie_in_one_of_the_parents(
            uid in 0u32..200,
            ranges in prop::collection::vec((0u32..300, 1u32..100), 0..6),
            border in 1u32..250,
        ) {
            let own = format!("0 1000 {border}\n{border} 5000 {}\n", 400 - border);
            let map = IdMap::of(&caller(uid, &ranges, &own));
            let parents = parse(&own).unwrap();
            let mut next = 0;
            let mut seen = std::collections::HashSet::new();
            for extent in &map.mapping.uids {
                if map.origin == Origin::Subordinate {
                    prop_assert_eq!(extent.inside, next);
                }
                next = extent.inside + extent.count;
                for id in extent.outside..extent.outside + extent.count {
                    prop_assert!(seen.insert(id), "{} twice", id);
                }
                let within = |parent: &Extent| {
                    extent.outside >= parent.inside
                        && extent.outside + extent.count <= parent.inside + parent.count
                };
                prop_assert!(parents.iter().any(within));
            }
        }
    }
}
