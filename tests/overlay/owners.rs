//! Owners under a map of the container's: what is shown, and what is stored.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::path::Path;

use moss::overlay::Driver;
use moss::types::idmap::{Extent, IdMapping};
use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;

use crate::world::{World, get, set, write};

/// 1000 inside is 0 outside, and those below are one more.
fn kept(place: u32) -> Vec<Extent> {
    [(0, 1, place), (place, 0, 1), (place + 1, place + 1, 4000)]
        .map(|(inside, outside, count)| Extent {
            inside,
            outside,
            count,
        })
        .into()
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).expect("there");
    (found.uid(), found.gid())
}

/// An ACL that names a user and a group.
fn acl(uid: u32, gid: u32) -> Vec<u8> {
    let all = u32::MAX;
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, id) in [
        (1_u16, all),
        (2, uid),
        (4, all),
        (8, gid),
        (16, all),
        (32, all),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(7_u16.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

pub fn owners_are_mapped(driver: Driver) {
    if driver != Driver::Fuse {
        return;
    }
    let mut world = World::new(driver, 1);
    world.owners = Some(IdMapping {
        uids: kept(1000),
        gids: kept(100),
        deny_setgroups: false,
    });
    for (name, uid, gid) in [("root", 0, 0), ("user", 1000, 100), ("other", 33, 3000)] {
        let path = world.layer(0, name);
        write(&path, name);
        chown(&path, Some(uid), Some(gid)).expect("chown");
    }
    world.mount();
    let shown = ["", "root", "user", "other"].map(|name| owner(&world.at(name)));
    assert_eq!(shown, [(1, 1), (1, 1), (0, 0), (34, 3000)]);

    // Everything that makes or changes an owner, by the kernel's ids: who makes it is 0 here.
    fs::write(world.at("file"), "x").expect("written");
    fs::create_dir(world.at("dir")).expect("made");
    symlink("file", world.at("link")).expect("made");
    let mode = Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(CWD, world.at("fifo"), FileType::Fifo, mode, 0).expect("made");
    for name in ["file", "dir", "link", "fifo"] {
        assert_eq!(owner(&world.at(name)), (0, 0), "{name}");
        assert_eq!(owner(&world.upper(name)), (1000, 100), "{name}");
    }
    lchown(world.at("link"), Some(1), None).expect("chown");
    chown(world.at("root"), None, Some(3001)).expect("chown");
    chown(world.at("user"), Some(2), Some(2)).expect("chown");
    for (name, shown, stored) in [
        ("link", (1, 0), (0, 100)),
        ("root", (1, 3001), (0, 3001)),
        ("user", (2, 2), (1, 1)),
    ] {
        assert_eq!(owner(&world.at(name)), shown, "{name}");
        assert_eq!(owner(&world.upper(name)), stored, "{name}");
    }
    let refused = chown(world.at("file"), Some(30_000), None).expect_err("no such id inside");
    assert_eq!(refused.raw_os_error(), Some(Errno::OVERFLOW.raw_os_error()));

    let name = "system.posix_acl_access";
    let flags = rustix::fs::XattrFlags::empty();
    match rustix::fs::setxattr(world.at("file"), name, &acl(0, 1), flags) {
        // A filesystem without ACLs.
        Err(Errno::NOTSUP) => {}
        done => {
            done.expect("set");
            assert_eq!(
                get(&world.upper("file"), name).as_deref(),
                Some(&*acl(1000, 0))
            );
            assert_eq!(get(&world.at("file"), name).as_deref(), Some(&*acl(0, 1)));
        }
    }
    // Of a file that root of this namespace gave them, another root than the container's.
    let capability = [&0x0200_0001_u32.to_le_bytes()[..], &[1; 16]].concat();
    set(&world.upper("dir"), "user.k", b"value");
    assert_eq!(
        get(&world.at("dir"), "user.k").as_deref(),
        Some(&b"value"[..])
    );
    let set_on_disk = rustix::fs::setxattr(
        world.upper("root"),
        "security.capability",
        &capability,
        flags,
    );
    if set_on_disk.is_ok() {
        let shown = get(&world.at("root"), "security.capability").expect("there");
        assert_eq!((shown.len(), &shown[20..]), (24, &1_u32.to_le_bytes()[..]));
    }
    world.remount();
    assert_eq!(owner(&world.at("user")), (2, 2));
}
