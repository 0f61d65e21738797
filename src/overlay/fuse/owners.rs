//! Owners as they are stored, and as they are shown.
//!
//! In layers and the upper directory files belong to ids as an image and its containers know them,
//! whatever map a container has. The kernel is told of the ids that these are in the mount's own
//! namespace, and speaks of such: both are the same with the default map, and the container's map is
//! between them where it has one of its own. So one layer serves containers of any map, with no copy
//! and no chown, and the kernel's own permission checks (`default_permissions`) mean what they should:
//! it knows no other ids.
//!
//! The kernel could do the same by an idmapped mount (`FUSE_ALLOW_IDMAP`, Linux 6.12), made with the
//! container's namespace, which only exists later. It would be a second way to the same end, that
//! older kernels have not; here it is a lookup in a table of a few lines for each request.
//!
//! Ids are in two extended attributes, too: ACLs, and the namespace's root of file capabilities.

use std::borrow::Cow;
use std::ffi::CStr;

use rustix::io::{Errno, Result};

use crate::types::idmap::{Extent, IdMapping, inside, outside};

/// What is shown for an id that there is none for (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65534;

const CAPABILITY: &CStr = c"security.capability";
const ACLS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];

/// `struct vfs_ns_cap_data`: its first word's revisions, its size, and where its root is.
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const REVISION_MASK: u32 = 0xff00_0000;
const ROOT_AT: usize = 20;
/// `struct posix_acl_xattr_entry`: size, and the tags that an id goes with.
const ACL_HEADER: usize = 4;
const ACL_ENTRY: usize = 8;
const ACL_USER: u16 = 2;
const ACL_GROUP: u16 = 8;

/// The ids of one mount.
#[derive(Debug, Clone, Default)]
pub(super) struct Owners(Option<IdMapping>);

impl Owners {
    /// Inside are the stored ids, outside those that are shown.
    pub(super) fn new(map: Option<IdMapping>) -> Owners {
        Owners(map)
    }

    /// Owner and group to show.
    pub(super) fn shown(&self, uid: u32, gid: u32) -> (u32, u32) {
        match &self.0 {
            None => (uid, gid),
            Some(map) => (
                outside(&map.uids, uid).unwrap_or(NOBODY),
                outside(&map.gids, gid).unwrap_or(NOBODY),
            ),
        }
    }

    /// The user to store for one that the kernel names.
    pub(super) fn stored_uid(&self, uid: u32) -> Result<u32> {
        self.stored(uid, |map| &map.uids)
    }

    /// The same of a group.
    pub(super) fn stored_gid(&self, gid: u32) -> Result<u32> {
        self.stored(gid, |map| &map.gids)
    }

    fn stored(&self, id: u32, which: impl Fn(&IdMapping) -> &Vec<Extent>) -> Result<u32> {
        match &self.0 {
            None => Ok(id),
            Some(map) => inside(which(map), id).ok_or(Errno::OVERFLOW),
        }
    }

    /// Whether there are ids in an attribute that are to be changed.
    pub(super) fn are_in(&self, name: &CStr) -> bool {
        self.0.is_some() && (name == CAPABILITY || ACLS.contains(&name))
    }

    /// An attribute's value to show.
    pub(super) fn shown_value(&self, name: &CStr, mut value: Vec<u8>) -> Vec<u8> {
        if name != CAPABILITY {
            each_of_acl(&mut value, |is_user, id| {
                let (uid, gid) = self.shown(id, id);
                Ok(if is_user { uid } else { gid })
            })
            // Showing never fails.
            .unwrap_or_default();
            return value;
        }
        let magic = word(&value, 0);
        match magic.map(|magic| magic & REVISION_MASK) {
            // Without a root it is the mount's own, which is another than the container's.
            Some(REVISION_2) if value.len() == ROOT_AT => {
                let flags = magic.unwrap_or(0) & !REVISION_MASK;
                value[..4].copy_from_slice(&(REVISION_3 | flags).to_le_bytes());
                value.extend(self.shown(0, 0).0.to_le_bytes());
            }
            Some(REVISION_3) => {
                if let Some(root) = word(&value, ROOT_AT) {
                    let shown = self.shown(root, 0).0.to_le_bytes();
                    value[ROOT_AT..ROOT_AT + 4].copy_from_slice(&shown);
                }
            }
            _ => {}
        }
        value
    }

    /// An attribute's value to store.
    pub(super) fn stored_value<'a>(&self, name: &CStr, value: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        if !self.are_in(name) {
            return Ok(value.into());
        }
        let mut stored = value.to_vec();
        if name != CAPABILITY {
            each_of_acl(&mut stored, |is_user, id| match is_user {
                true => self.stored_uid(id),
                false => self.stored_gid(id),
            })?;
        } else if word(value, 0).map(|magic| magic & REVISION_MASK) == Some(REVISION_3)
            && let Some(root) = word(value, ROOT_AT)
        {
            let root = self.stored_uid(root)?.to_le_bytes();
            stored[ROOT_AT..ROOT_AT + 4].copy_from_slice(&root);
        }
        Ok(stored.into())
    }
}

/// A little-endian word of an attribute.
fn word(value: &[u8], at: usize) -> Option<u32> {
    let bytes = value.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

/// Changes each id of an ACL; `change` is told whether it is a user's.
fn each_of_acl(value: &mut [u8], change: impl Fn(bool, u32) -> Result<u32>) -> Result<()> {
    let entries = value.get_mut(ACL_HEADER..).unwrap_or_default();
    for entry in entries.chunks_exact_mut(ACL_ENTRY) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if let ACL_USER | ACL_GROUP = tag
            && let Some(id) = word(entry, 4)
        {
            let changed = change(tag == ACL_USER, id)?;
            entry[4..].copy_from_slice(&changed.to_le_bytes());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As of `keep-id:uid=1000,gid=100`.
    fn owners() -> Owners {
        let moved = |place| {
            let extent = |inside, outside, count| Extent {
                inside,
                outside,
                count,
            };
            vec![
                extent(0, 1, place),
                extent(place, 0, 1),
                extent(place + 1, place + 1, 5000),
            ]
        };
        Owners::new(Some(IdMapping {
            uids: moved(1000),
            gids: moved(100),
            deny_setgroups: false,
        }))
    }

    #[test]
    fn owners_are_mapped_both_ways() {
        let owners = owners();
        for (stored, shown) in [
            ((0, 0), (1, 1)),
            ((1000, 100), (0, 0)),
            ((33, 2000), (34, 2000)),
        ] {
            assert_eq!(owners.shown(stored.0, stored.1), shown);
            assert_eq!(owners.stored_uid(shown.0), Ok(stored.0));
            assert_eq!(owners.stored_gid(shown.1), Ok(stored.1));
        }
        assert_eq!(owners.shown(70_000, 70_000), (NOBODY, NOBODY));
        assert_eq!(owners.stored_uid(70_000), Err(Errno::OVERFLOW));
        let plain = Owners::default();
        assert_eq!((plain.shown(7, 8), plain.stored_uid(9)), ((7, 8), Ok(9)));
        assert!(!plain.are_in(CAPABILITY) && !owners.are_in(c"user.a"));
    }

    #[test]
    fn acls_name_users_and_groups() {
        let entry =
            |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[7, 0], &id.to_le_bytes()].concat();
        let acl = |uid, gid| {
            let all = u32::MAX;
            let entries = [entry(1, all), entry(2, uid), entry(4, all), entry(8, gid)];
            [&2_u32.to_le_bytes()[..], &entries.concat()].concat()
        };
        let owners = owners();
        let shown = owners.shown_value(ACLS[0], acl(1000, 0));
        assert_eq!(shown, acl(0, 1));
        assert_eq!(*owners.stored_value(ACLS[0], &shown).unwrap(), acl(1000, 0));
        assert_eq!(
            owners.stored_value(ACLS[1], &acl(99_999, 0)),
            Err(Errno::OVERFLOW)
        );
        for cut in 0..shown.len() {
            let _ = owners.shown_value(ACLS[0], shown[..cut].to_vec());
            let _ = owners.stored_value(ACLS[0], &shown[..cut]);
        }
    }

    #[test]
    fn capabilities_are_of_the_containers_root() {
        let capability = |revision: u32, root: &[u8]| {
            [&(revision | 1).to_le_bytes()[..], &[9; 16], root].concat()
        };
        let (owners, third) = (owners(), |root: u32| {
            capability(REVISION_3, &root.to_le_bytes())
        });
        assert_eq!(
            owners.shown_value(CAPABILITY, capability(REVISION_2, &[])),
            third(1)
        );
        assert_eq!(owners.shown_value(CAPABILITY, third(1000)), third(0));
        assert_eq!(
            *owners.stored_value(CAPABILITY, &third(1)).unwrap(),
            third(0)
        );
        for cut in 0..24 {
            let _ = owners.shown_value(CAPABILITY, third(1)[..cut].to_vec());
            let _ = owners.stored_value(CAPABILITY, &third(1)[..cut]);
        }
    }
}
