//! Names: how layers are merged, what hides what, and what removing and renaming leave behind.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use moss::overlay::Driver;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::world::{World, errno, names, read, set, whiteout, write};

pub fn layers_are_merged(driver: Driver) {
    let mut world = World::new(driver, 3);
    write(&world.layer(2, "d/low"), "low");
    write(&world.layer(2, "d/both"), "below");
    write(&world.layer(2, "d/hidden"), "hidden");
    write(&world.layer(2, "opaque/under"), "under");
    write(&world.layer(2, "file-over-dir/x"), "x");
    write(&world.layer(2, "dir-over-file"), "file");
    write(&world.layer(2, "gone/x"), "x");
    write(&world.layer(1, "d/both"), "above");
    whiteout(&world.layer(1, "d/hidden"));
    whiteout(&world.layer(1, "gone"));
    write(&world.layer(1, "opaque/over"), "over");
    set(&world.layer(1, "opaque"), "user.overlay.opaque", b"y");
    write(&world.layer(1, "file-over-dir"), "file");
    write(&world.layer(0, "dir-over-file/y"), "y");
    write(&world.layer(0, "gone"), "back");
    world.mount();
    assert_eq!(names(&world.at("d")), ["both", "low"]);
    assert_eq!(read(&world.at("d/both")), "above");
    assert!(world.at("d/hidden").symlink_metadata().is_err());
    assert_eq!(names(&world.at("opaque")), ["over"]);
    assert_eq!(read(&world.at("file-over-dir")), "file");
    assert_eq!(names(&world.at("dir-over-file")), ["y"]);
    assert_eq!(read(&world.at("gone")), "back");
}

pub fn names_are_removed_and_made_again(driver: Driver) {
    let mut world = World::new(driver, 2);
    write(&world.layer(1, "d/x"), "x");
    write(&world.layer(1, "d/sub/y"), "y");
    write(&world.layer(1, "f"), "f");
    world.mount();
    assert_eq!(errno(fs::remove_dir(world.at("d"))), Some(libc::ENOTEMPTY));
    fs::remove_file(world.at("f")).expect("removed");
    fs::remove_dir_all(world.at("d")).expect("removed");
    assert!(names(&world.at("")).is_empty());
    fs::create_dir(world.at("f")).expect("made");
    fs::create_dir(world.at("d")).expect("made");
    assert!(names(&world.at("d")).is_empty(), "nothing shines through");
    write(&world.at("d/x"), "new");
    world.remount();
    assert_eq!(names(&world.at("d")), ["x"]);
    assert_eq!(read(&world.at("d/x")), "new");
    assert!(names(&world.at("f")).is_empty());
    fs::remove_dir(world.at("f")).expect("removed");
    fs::remove_dir_all(world.at("d")).expect("removed");
    world.remount();
    assert!(names(&world.at("")).is_empty());
    // A name that was never in a layer leaves nothing behind.
    write(&world.at("own"), "");
    fs::remove_file(world.at("own")).expect("removed");
    world.unmount();
    assert!(world.upper("own").symlink_metadata().is_err());
    let work = fs::read_dir(world.dir.path().join("work")).expect("a directory");
    let left = work.filter(|entry| {
        entry
            .as_ref()
            .is_ok_and(|entry| entry.file_name().as_bytes().starts_with(b"#"))
    });
    assert_eq!(left.count(), 0);
}

pub fn directories_of_layers_are_renamed(driver: Driver) {
    let mut world = World::new(driver, 2);
    write(&world.layer(1, "d/sub/low"), "low");
    write(&world.layer(0, "d/sub/high"), "high");
    write(&world.layer(1, "d/gone"), "gone");
    write(&world.layer(1, "other/x"), "x");
    world.mount();
    fs::remove_file(world.at("d/gone")).expect("removed");
    let held = File::open(world.at("d/sub/low")).expect("opens");
    let renamed = fs::rename(world.at("d"), world.at("e"));
    if driver == Driver::Overlay2 {
        assert_eq!(errno(renamed), Some(libc::EXDEV));
        return;
    }
    renamed.expect("renamed");
    assert_eq!(
        errno(fs::rename(world.at("e"), world.at("other"))),
        Some(libc::ENOTEMPTY)
    );
    fs::remove_file(world.at("other/x")).expect("removed");
    fs::rename(world.at("e"), world.at("other")).expect("renamed");
    let mut text = String::new();
    (&held).read_to_string(&mut text).expect("read");
    assert_eq!(text, "low");
    fs::create_dir(world.at("d")).expect("the name is free");
    for _ in 0..2 {
        assert_eq!(names(&world.at("")), ["d", "other"]);
        assert_eq!(names(&world.at("other")), ["sub"]);
        assert_eq!(names(&world.at("other/sub")), ["high", "low"]);
        assert!(names(&world.at("d")).is_empty());
        world.remount();
    }
}

pub fn renames_with_flags(driver: Driver) {
    let mut world = World::new(driver, 2);
    write(&world.layer(1, "a"), "a");
    write(&world.layer(1, "d/b"), "b");
    write(&world.layer(1, "c"), "c");
    world.mount();
    let rename = |from: &str, to: &str, flags| {
        rustix::fs::renameat_with(CWD, world.at(from), CWD, world.at(to), flags)
    };
    assert_eq!(rename("a", "c", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    assert_eq!(
        rename("a", "none", RenameFlags::EXCHANGE),
        Err(Errno::NOENT)
    );
    rename("a", "d/b", RenameFlags::EXCHANGE).expect("exchanged");
    rename("c", "new", RenameFlags::NOREPLACE).expect("renamed");
    fs::write(world.at("own"), "own").expect("written");
    fs::rename(world.at("own"), world.at("a")).expect("replaces");
    world.remount();
    assert_eq!(names(&world.at("")), ["a", "d", "new"]);
    assert_eq!(read(&world.at("a")), "own");
    assert_eq!(read(&world.at("d/b")), "a");
    assert_eq!(read(&world.at("new")), "c");
}

pub fn large_directories_are_stable(driver: Driver) {
    const COUNT: usize = 4000;
    let mut world = World::new(driver, 2);
    for n in 0..COUNT {
        write(&world.layer(n % 2, &format!("d/{n}")), "");
    }
    world.mount();
    for n in (0..COUNT).step_by(10) {
        fs::write(world.at(&format!("d/{n}")), "x").expect("written");
    }
    // What is there all the time comes exactly once, whatever happens meanwhile.
    let mut seen = BTreeMap::new();
    for (index, entry) in fs::read_dir(world.at("d"))
        .expect("a directory")
        .enumerate()
    {
        let name = entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("a name");
        if index % 8 == 0 && index < COUNT {
            fs::write(world.at(&format!("d/new{index}")), "").expect("written");
            fs::remove_file(world.at(&format!("d/new{index}"))).expect("removed");
        }
        if !name.starts_with("new") {
            fs::remove_file(world.at("d").join(&name)).expect("there");
        }
        *seen.entry(name).or_insert(0) += 1;
    }
    assert!(seen.values().all(|count| *count == 1));
    assert_eq!(
        seen.keys().filter(|name| !name.starts_with("new")).count(),
        COUNT
    );
    assert!(names(&world.at("d")).is_empty());
    fs::remove_dir(world.at("d")).expect("removed");
}

/// Attributes that mean something to some overlay, with values that nobody would write.
pub fn hostile_layers(driver: Driver) {
    if driver == Driver::Overlay2 {
        // The kernel refuses to go into a directory with a redirection.
        return;
    }
    let mut world = World::new(driver, 2);
    write(&world.layer(1, "d/x"), "x");
    write(&world.dir.path().join("outside/secret"), "secret");
    fs::create_dir(world.layer(0, "d")).expect("made");
    for (name, value) in [
        ("user.overlay.opaque", &b"yes, and more"[..]),
        ("user.overlay.redirect", b"/../../outside"),
        ("user.overlay.metacopy", b""),
        ("user.overlay.origin", &[0xff; 200]),
        ("user.fuseoverlayfs.origin", b"../../outside/secret"),
        ("user.containers.override_stat", b"0:0:0777:block-1-1"),
    ] {
        set(&world.layer(0, "d"), name, value);
    }
    symlink("../../outside", world.layer(0, "out")).expect("linked");
    symlink(world.dir.path().join("outside"), world.layer(0, "absolute")).expect("linked");
    world.mount();
    assert_eq!(names(&world.at("d")), ["x"]);
    assert_eq!(names(&world.at("")), ["absolute", "d", "out"]);
    write(&world.at("d/y"), "y");
    fs::rename(world.at("out"), world.at("d/out")).expect("renamed");
    assert_eq!(read(&world.dir.path().join("outside/secret")), "secret");
    assert_eq!(names(&world.dir.path().join("outside")), ["secret"]);
}
