//! Files: copy-up, what open ones still show, holes, links, attributes, locks, and the server's death.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use moss::overlay::Driver;
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::world::{World, errno, get, read, set, write};

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

/// Cold, so that all of it is asked for.
pub fn large_files_are_read_whole(driver: Driver) {
    let mut world = World::new(driver, 1);
    let sizes = [0, 1, 32 << 10, 100_000, 128 << 10, (3 << 20) + 123];
    let content = |size: usize| -> Vec<u8> { (0..size).map(|n| (n % 251) as u8).collect() };
    for size in sizes {
        fs::write(world.layer(0, &size.to_string()), content(size)).expect("written");
    }
    world.mount();
    std::thread::scope(|scope| {
        for size in sizes {
            let path = world.at(&size.to_string());
            scope.spawn(move || assert!(fs::read(path).expect("read") == content(size), "{size}"));
        }
    });
    // The part that was copied up is as new to the kernel.
    let path = world.at(&sizes[5].to_string());
    let mut opened = OpenOptions::new().append(true).open(&path).expect("opens");
    opened.write_all(b"end").expect("appended");
    drop(opened);
    world.remount();
    let whole = fs::read(&path).expect("read");
    assert!(whole == [&content(sizes[5])[..], b"end"].concat());
}

pub fn copy_up_keeps_all(driver: Driver) {
    let mut world = World::new(driver, 2);
    let lower = world.layer(1, "a/b/file");
    write(&lower, "first\n");
    chown(&lower, Some(5), Some(6)).expect("chown");
    fs::set_permissions(&lower, fs::Permissions::from_mode(0o4751)).expect("chmod");
    set(&lower, "user.k", b"value");
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    let times = fs::FileTimes::new().set_modified(old).set_accessed(old);
    File::open(&lower)
        .and_then(|f| f.set_times(times))
        .expect("times");
    fs::set_permissions(world.layer(1, "a/b"), fs::Permissions::from_mode(0o1777)).expect("chmod");
    File::open(world.layer(1, "a/b"))
        .and_then(|f| f.set_times(times))
        .expect("times");
    symlink("target", world.layer(1, "a/link")).expect("symlink");
    world.mount();
    let file = world.at("a/b/file");
    let before = file.metadata().expect("there");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).expect("chmod");
    let after = file.metadata().expect("there");
    assert_eq!((after.ino(), after.dev()), (before.ino(), before.dev()));
    assert_eq!(
        (after.uid(), after.gid(), after.mode() & 0o7777),
        (5, 6, 0o4755)
    );
    assert_eq!(after.modified().expect("a time"), old);
    assert_eq!(get(&file, "user.k").as_deref(), Some(&b"value"[..]));
    let length = rustix::fs::getxattr_query(&file, "user.k");
    assert_eq!(length, Ok(5), "as most programs ask first");
    let directory = world.at("a/b").metadata().expect("there");
    assert_eq!(directory.mode() & 0o7777, 0o1777);
    assert_eq!(
        directory.modified().expect("a time"),
        old,
        "of the directory"
    );
    let mut opened = OpenOptions::new().append(true).open(&file).expect("opens");
    opened.write_all(b"second\n").expect("appended");
    drop(opened);
    assert_eq!(read(&file), "first\nsecond\n");
    chown(world.at("a/b"), Some(7), None).expect("chown");
    std::os::unix::fs::lchown(world.at("a/link"), Some(8), None).expect("chown");
    assert_eq!(
        fs::read_link(world.at("a/link")).expect("a link"),
        Path::new("target")
    );
    assert_eq!(read(&lower), "first\n", "the layer is untouched");
    assert_eq!(lower.metadata().expect("there").mode() & 0o7777, 0o4751);
    world.remount();
    assert_eq!(read(&file), "first\nsecond\n");
    if driver != Driver::Overlay2 {
        assert_eq!(
            file.metadata().expect("there").ino(),
            before.ino(),
            "after a remount"
        );
    }
    assert_eq!(
        world.at("a/link").symlink_metadata().expect("there").uid(),
        8
    );
}

pub fn open_files_outlive_their_names(driver: Driver) {
    let mut world = World::new(driver, 1);
    write(&world.layer(0, "low"), "low");
    world.mount();
    let open = |name: &str| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(world.at(name))
    };
    let mut low = open("low").expect("opens");
    let mut own = open("own").expect("opens");
    own.write_all(b"own").expect("written");
    fs::remove_file(world.at("low")).expect("removed");
    fs::remove_file(world.at("own")).expect("removed");
    write(&world.at("low"), "another");
    low.seek(SeekFrom::End(0)).expect("seeks");
    low.write_all(b" and more").expect("written");
    for (file, text) in [(&mut low, "low and more"), (&mut own, "own")] {
        let mut all = String::new();
        file.rewind().expect("rewinds");
        file.read_to_string(&mut all).expect("read");
        assert_eq!(all, text);
        assert_eq!(file.metadata().expect("stat").nlink(), 0);
    }
    assert_eq!(read(&world.at("low")), "another");
    // A file that never had a name gets one.
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let fd = rustix::fs::open(world.at(""), flags, Mode::from_raw_mode(0o640)).expect("O_TMPFILE");
    rustix::io::write(&fd, b"nameless").expect("written");
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let flag = AtFlags::SYMLINK_FOLLOW;
    rustix::fs::linkat(CWD, link, CWD, world.at("named"), flag).expect("linked");
    assert_eq!(read(&world.at("named")), "nameless");
    assert_eq!(
        world.at("named").metadata().expect("stat").mode() & 0o777,
        0o640
    );
}

pub fn special_files_and_links(driver: Driver) {
    let mut world = World::new(driver, 1);
    let fifo = |path: PathBuf| {
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
    };
    fifo(world.layer(0, "fifo")).expect("made");
    write(&world.layer(0, "one"), "one");
    write(&world.layer(0, "twin"), "twin");
    fs::hard_link(world.layer(0, "twin"), world.layer(0, "other")).expect("linked");
    world.mount();
    let twins = ["twin", "other"].map(|name| world.at(name).metadata().expect("stat").ino());
    assert_eq!(twins[0], twins[1]);
    fifo(world.at("own")).expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(world.at("socket")).expect("bound");
    fs::set_permissions(world.at("fifo"), fs::Permissions::from_mode(0o666)).expect("chmod");
    assert!(
        world
            .at("fifo")
            .metadata()
            .expect("stat")
            .file_type()
            .is_fifo()
    );
    assert!(
        world
            .at("socket")
            .metadata()
            .expect("stat")
            .file_type()
            .is_socket()
    );
    let device = |path| rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0);
    if driver != Driver::Copy {
        assert_eq!(device(world.at("whiteout")), Err(Errno::PERM));
    }
    fs::hard_link(world.at("one"), world.at("two")).expect("linked");
    fs::write(world.at("two"), "changed").expect("written");
    assert_eq!(read(&world.at("one")), "changed");
    let (one, two) = (world.at("one").metadata(), world.at("two").metadata());
    let (one, two) = (one.expect("stat"), two.expect("stat"));
    assert_eq!((one.nlink(), two.nlink()), (2, 2));
    // The kernel's shows the layer's number for the name that has one there.
    assert!(one.ino() == two.ino() || driver == Driver::Overlay2);
    if driver != Driver::Overlay2 {
        // The kernel's takes its own two names for stale.
        fs::rename(world.at("one"), world.at("two")).expect("does nothing");
    }
    fs::remove_file(world.at("one")).expect("removed");
    assert_eq!(read(&world.at("two")), "changed");
    let odd = world
        .at("")
        .join(std::ffi::OsStr::from_bytes(b"\xff\xfe \n"));
    fs::write(&odd, "odd").expect("written");
    assert_eq!(read(&odd), "odd");
    let long = "n".repeat(255);
    fs::write(world.at(&long), "").expect("written");
    assert_eq!(
        errno(fs::write(world.at(&"n".repeat(256)), "")),
        Some(libc::ENAMETOOLONG)
    );
    fs::rename(world.at(&long), world.at(&"m".repeat(255))).expect("renamed");
}

pub fn holes_and_ranges(driver: Driver) {
    let mut world = World::new(driver, 1);
    let lower = File::create(world.layer(0, "sparse")).expect("made");
    lower.set_len(64 << 20).expect("grown");
    lower.write_all_at(b"middle", 32 << 20).expect("written");
    drop(lower);
    world.mount();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(world.at("sparse"))
        .expect("opens");
    file.write_all_at(b"begin", 0).expect("written");
    file.sync_all().expect("synced");
    // The kernel's looks for holes in steps, and not on every filesystem.
    let used = file.metadata().expect("stat").blocks() * 512;
    assert!(used < 1 << 20 || driver == Driver::Overlay2, "holes stay");
    let seek = |from| rustix::fs::seek(&file, from).expect("seeks");
    assert_eq!(seek(rustix::fs::SeekFrom::Data(1 << 20)), 32 << 20);
    let hole = seek(rustix::fs::SeekFrom::Hole(32 << 20));
    assert!(hole < 33 << 20 || driver == Driver::Overlay2);
    let copy = File::create(world.at("copy")).expect("made");
    let mut from = 32 << 20;
    let count = rustix::fs::copy_file_range(&file, Some(&mut from), &copy, None, 6);
    assert_eq!(count, Ok(6));
    assert_eq!(read(&world.at("copy")), "middle");
    let flags = rustix::fs::FallocateFlags::empty();
    rustix::fs::fallocate(&copy, flags, 0, 8192).expect("allocated");
    assert_eq!(copy.metadata().expect("stat").len(), 8192);
    fs::write(world.at("copy"), "short").expect("written");
    assert_eq!(read(&world.at("copy")), "short");
    file.set_len(3).expect("cut");
    assert_eq!(read(&world.at("sparse")), "beg");
}

/// (The kernel's overlayfs parts them.)
pub fn names_of_one_file_stay_so(driver: Driver) {
    if driver == Driver::Overlay2 {
        return;
    }
    let mut world = World::new(driver, 3);
    write(&world.layer(1, "a/h1"), "old");
    let first = world.layer(1, "a/h1");
    for name in ["h2", "gone", "a/h3", "d/e/h4", "hidden", "below/h5"] {
        let name = world.layer(1, name);
        fs::create_dir_all(name.parent().expect("a parent")).expect("made");
        fs::hard_link(&first, name).expect("linked");
    }
    // In the layer above something else has the name.
    write(&world.layer(0, "hidden"), "other");
    // In the layer below a directory is where the names are found.
    write(&world.layer(2, "a/lower"), "");
    world.mount();
    fs::remove_file(world.at("gone")).expect("removed");
    fs::remove_file(world.at("a/h1")).expect("removed");
    fs::rename(world.at("below"), world.at("renamed")).expect("renamed");
    let mut names = ["h2", "a/h3", "d/e/h4", "renamed/h5"].map(|name| world.at(name));
    let same = |names: &[PathBuf], content: &str| {
        let stats: Vec<_> = names.iter().map(|n| n.metadata().expect("stat")).collect();
        assert!(stats.iter().all(|stat| stat.ino() == stats[0].ino()));
        assert!(names.iter().all(|name| read(name) == content), "{content}");
        stats[0].nlink()
    };
    same(&names, "old");
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).open(name).expect("opens");
                file.write_all(b"+").expect("written");
            });
        }
    });
    assert_eq!(same(&names, "old++++"), 4);
    fs::hard_link(&names[3], world.at("h6")).expect("linked");
    fs::remove_file(&names[0]).expect("removed");
    names[0] = world.at("h6");
    for _ in 0..2 {
        assert_eq!(same(&names, "old++++"), 4);
        assert_eq!(read(&world.at("hidden")), "other");
        for name in ["gone", "a/h1", "h2"] {
            assert!(!world.at(name).exists(), "{name} is back");
        }
        world.remount();
    }
    fs::set_permissions(&names[1], fs::Permissions::from_mode(0o640)).expect("chmod");
    assert_eq!(names[2].metadata().expect("stat").mode() & 0o7777, 0o640);
}

/// One of a file's names goes, directory and all, while the file is copied up by another.
pub fn a_name_is_removed_during_the_copy(driver: Driver) {
    let mut world = World::new(driver, 1);
    let content = vec![b'x'; 4 << 20];
    for n in 0..8 {
        let (file, other) = (format!("file{n}"), format!("d{n}/sub/other"));
        fs::write(world.layer(0, &file), &content).expect("written");
        write(&world.layer(0, &other), "");
        fs::remove_file(world.layer(0, &other)).expect("removed");
        fs::hard_link(world.layer(0, &file), world.layer(0, &other)).expect("linked");
    }
    world.mount();
    for n in 0..8 {
        let path = world.at(&format!("file{n}"));
        std::thread::scope(|scope| {
            let path = &path;
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).open(path).expect("opens");
                file.write_all(b"end").expect("written");
                file.sync_all().expect("synced");
            });
            fs::remove_dir_all(world.at(&format!("d{n}"))).expect("removed");
        });
        assert!(fs::read(&path).expect("read").ends_with(b"xend"));
        assert!(!world.at(&format!("d{n}")).exists());
    }
}

/// What was just written is where SEEK_DATA looks, though nobody has synced it.
pub fn new_data_is_no_hole(driver: Driver) {
    use rustix::fs::SeekFrom::{Data, Hole};

    let mut world = World::new(driver, 1);
    fs::write(world.layer(0, "of-layer"), "old").expect("written");
    world.mount();
    std::thread::scope(|scope| {
        for name in ["of-layer", "a", "b", "c", "d", "e", "f", "g", "h", "i"] {
            let path = world.at(name);
            scope.spawn(move || {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
                let file = rustix::fs::open(&path, flags, Mode::RWXU).expect("opens");
                let file = File::from(file);
                for n in 1..40_u64 {
                    let at = n << 20;
                    file.write_all_at(b"new", at).expect("written");
                    let seek = |from| rustix::fs::seek(&file, from).expect("seeks");
                    assert_eq!(seek(Data(at)), at, "{name}");
                    // Where all is data the file's end is the next hole.
                    assert!(seek(Hole(at)) > at, "{name}");
                    assert!(seek(Data(at - 1)) <= at, "{name}");
                }
            });
        }
    });
    let whole = fs::read(world.at("of-layer")).expect("read");
    assert!(whole.starts_with(b"old\0") && whole.ends_with(b"\0new"));
}

pub fn groups_and_bits_are_inherited(driver: Driver) {
    let mut world = World::new(driver, 1);
    fs::create_dir(world.layer(0, "d")).expect("made");
    world.mount();
    let directory = world.at("d");
    chown(&directory, None, Some(7)).expect("chown");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o2775)).expect("chmod");
    write(&directory.join("f"), "");
    fs::create_dir(directory.join("s")).expect("made");
    let stat = |name: &str| directory.join(name).metadata().expect("stat");
    assert_eq!((stat("f").gid(), stat("f").mode() & 0o7777), (7, 0o644));
    assert_eq!((stat("s").gid(), stat("s").mode() & 0o7777), (7, 0o2755));
}

pub fn attributes_and_acls(driver: Driver) {
    let mut world = World::new(driver, 1);
    write(&world.layer(0, "d/f"), "");
    set(&world.layer(0, "d/f"), "user.k", b"v");
    world.mount();
    let file = world.at("d/f");
    assert_eq!(get(&file, "user.k").as_deref(), Some(&b"v"[..]));
    set(&file, "user.other", &[0, 1, 255]);
    rustix::fs::removexattr(&file, "user.k").expect("removed");
    assert_eq!(rustix::fs::removexattr(&file, "user.k"), Err(Errno::NODATA));
    let mut list = [0; 256];
    let length = rustix::fs::listxattr(&file, &mut list).expect("a list");
    assert_eq!(&list[..length], b"user.other\0");
    if driver != Driver::Copy {
        fs::remove_dir_all(world.at("d")).expect("removed");
        fs::create_dir(world.at("d")).expect("made");
        assert_eq!(
            get(&world.at("d"), "user.overlay.opaque"),
            None,
            "a mark of ours"
        );
    }
    // user::rwx, user:5:rwx, group::r-x, mask::rwx, other::---, as default.
    let mut acl = 2_u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, bits, id) in [
        (1, 7, none),
        (2, 7, 5),
        (4, 5, none),
        (16, 7, none),
        (32, 0, none),
    ] {
        acl.extend(u16::to_le_bytes(tag));
        acl.extend(u16::to_le_bytes(bits));
        acl.extend(u32::to_le_bytes(id));
    }
    match rustix::fs::setxattr(
        world.at("d"),
        "system.posix_acl_default",
        &acl,
        XattrFlags::empty(),
    ) {
        Err(Errno::NOTSUP) => return,
        done => done.expect("set"),
    }
    rustix::process::umask(Mode::from_raw_mode(0o077));
    File::create(world.at("d/new")).expect("made");
    let mode = world.at("d/new").metadata().expect("stat").mode() & 0o777;
    assert_eq!(mode, 0o660, "the ACL's, not the umask's");
    assert!(get(&world.at("d/new"), "system.posix_acl_access").is_some());
}

pub fn locks(driver: Driver) {
    let mut world = World::new(driver, 1);
    write(&world.layer(0, "f"), "");
    world.mount();
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(world.at("f"))
            .expect("opens")
    };
    let (one, two) = (open(), open());
    let lock = |file: &File, how| rustix::fs::flock(file, how);
    lock(&one, FlockOperation::LockExclusive).expect("locked");
    let refused = Err(Errno::WOULDBLOCK);
    assert_eq!(
        lock(&two, FlockOperation::NonBlockingLockExclusive),
        refused
    );
    fs::write(world.at("f"), "copied up").expect("written");
    assert_eq!(lock(&two, FlockOperation::NonBlockingLockShared), refused);
    lock(&one, FlockOperation::Unlock).expect("unlocked");
    lock(&two, FlockOperation::NonBlockingLockExclusive).expect("locked");
}

pub fn a_dead_server_hangs_nobody(driver: Driver) {
    let mut world = World::new(driver, 1);
    write(&world.layer(0, "f"), "f");
    world.mount();
    let Some(server) = world.root.as_ref().and_then(|root| root.server.as_ref()) else {
        return;
    };
    fs::write(world.at("synced"), "synced").expect("written");
    File::open(world.at("synced"))
        .and_then(|f| f.sync_all())
        .expect("synced");
    let pid = rustix::process::Pid::from_raw(server.pid()).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    while !server.has_ended() {
        std::thread::sleep(SECOND / 100);
    }
    assert_eq!(errno(fs::read(world.at("f"))), Some(libc::ENOTCONN));
    world.remount();
    assert_eq!(read(&world.at("synced")), "synced");
    assert_eq!(read(&world.at("f")), "f");
}
