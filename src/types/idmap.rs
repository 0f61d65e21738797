//! The map of a user namespace: which ids of its parent the ids inside are.
//!
//! Data that crosses processes, and its arithmetic. What a map may be, and how it is written, is told
//! in [`userns`](crate::userns::idmap).

use serde::{Deserialize, Serialize};

/// Uid and gid extents of a nested user namespace, already split at the keeper's own extents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// Extents written to `/proc/PID/uid_map`.
    pub uids: Vec<Extent>,
    /// Extents written to `/proc/PID/gid_map`.
    pub gids: Vec<Extent>,
    /// Write `deny` to `/proc/PID/setgroups` first (one mapped id, no privilege to keep groups).
    pub deny_setgroups: bool,
}

/// One line of an id map (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First id inside the namespace.
    pub inside: u32,
    /// First id in the parent namespace.
    pub outside: u32,
    /// Number of ids.
    pub count: u32,
}

impl IdMapping {
    /// Whether every id is the same on both sides.
    pub fn is_plain(&self) -> bool {
        let mut all = self.uids.iter().chain(&self.gids);
        all.all(|extent| extent.inside == extent.outside)
    }

    /// The parent's ids for a user and a group inside, where both are mapped.
    pub fn outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        Some((outside(&self.uids, uid)?, outside(&self.gids, gid)?))
    }
}

/// The parent's id for one inside.
pub fn outside(map: &[Extent], id: u32) -> Option<u32> {
    map.iter()
        .find_map(|extent| shifted(id, extent.inside, extent.outside, extent.count))
}

/// The id inside for one of the parent's.
pub fn inside(map: &[Extent], id: u32) -> Option<u32> {
    map.iter()
        .find_map(|extent| shifted(id, extent.outside, extent.inside, extent.count))
}

fn shifted(id: u32, from: u32, to: u32, count: u32) -> Option<u32> {
    let offset = id.checked_sub(from).filter(|offset| *offset < count)?;
    to.checked_add(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_there_and_back() {
        let extent = |inside, outside, count| Extent {
            inside,
            outside,
            count,
        };
        let map = [
            extent(0, 1, 1000),
            extent(1000, 0, 1),
            extent(1001, 1001, 64),
        ];
        for (within, without) in [(0, 1), (999, 1000), (1000, 0), (1001, 1001), (1064, 1064)] {
            assert_eq!(outside(&map, within), Some(without));
            assert_eq!(inside(&map, without), Some(within));
        }
        assert_eq!((outside(&map, 1065), inside(&map, 1065)), (None, None));
        assert_eq!(outside(&[extent(5, u32::MAX, 2)], 6), None);
    }
}
