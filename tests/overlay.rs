//! Root filesystems: what holds for every driver, and a random walk beside a plain directory.
//!
//! The runner starts itself again inside a user and mount namespace made by unshare(1), with the
//! user's subordinate ids, as the keeper would be. There it stays single-threaded: the FUSE
//! driver forks. It says so and passes where the host allows no such thing.
//!
//! An argument that is no option selects cases by name; `MOSS_TEST_DRIVER` selects one driver.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use moss::overlay::{self, Driver, Root, Rootfs};
use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

/// Tells the copy of this program that it is inside the namespaces.
const INSIDE: &str = "MOSS_TEST_OVERLAY_INSIDE";

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

type Case = fn(Driver);

fn cases() -> Vec<(&'static str, Case)> {
    vec![
        ("layers_are_merged", layers_are_merged),
        ("copy_up_keeps_all", copy_up_keeps_all),
        (
            "names_are_removed_and_made_again",
            names_are_removed_and_made_again,
        ),
        (
            "directories_of_layers_are_renamed",
            directories_of_layers_are_renamed,
        ),
        ("renames_with_flags", renames_with_flags),
        (
            "open_files_outlive_their_names",
            open_files_outlive_their_names,
        ),
        ("special_files_and_links", special_files_and_links),
        ("holes_and_ranges", holes_and_ranges),
        (
            "groups_and_bits_are_inherited",
            groups_and_bits_are_inherited,
        ),
        ("attributes_and_acls", attributes_and_acls),
        ("locks", locks),
        ("large_directories_are_stable", large_directories_are_stable),
        ("hostile_layers", hostile_layers),
        ("a_dead_server_hangs_nobody", a_dead_server_hangs_nobody),
        ("random_walk", random_walk),
    ]
}

fn main() -> ExitCode {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    if std::env::args().any(|arg| arg == "--list") {
        for (name, _) in cases() {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(INSIDE).is_some() {
        return inside(filter.as_deref());
    }
    let unshare = |program: &Path| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-auto", "--map-root-user", "--mount"]);
        command.arg(program);
        command
    };
    match unshare(Path::new("true")).output() {
        Ok(output) if output.status.success() => {}
        _ => {
            println!("skipped: no user namespaces with subordinate ids here");
            return ExitCode::SUCCESS;
        }
    }
    let status = unshare(&std::env::current_exe().expect("own path"))
        .args(filter)
        .env(INSIDE, "1")
        .status()
        .expect("unshare runs");
    ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}

fn inside(filter: Option<&str>) -> ExitCode {
    let drivers = match std::env::var("MOSS_TEST_DRIVER") {
        Ok(name) => vec![name.parse().expect("a driver")],
        Err(_) => vec![Driver::Overlay2, Driver::Fuse, Driver::Copy],
    };
    let mut failed = false;
    for driver in drivers {
        for (name, case) in cases() {
            if filter.is_some_and(|filter| !name.contains(filter)) {
                continue;
            }
            if driver == Driver::Fuse && !Path::new("/dev/fuse").exists() {
                println!("skipped: no /dev/fuse");
                continue;
            }
            let passed = std::panic::catch_unwind(|| case(driver)).is_ok();
            let word = if passed { "ok" } else { "FAILED" };
            println!("test {driver}::{name} ... {word}");
            failed |= !passed;
        }
    }
    ExitCode::from(u8::from(failed))
}

/// Layers and an overlay of them, attached in this namespace.
struct World {
    dir: tempfile::TempDir,
    driver: Driver,
    layers: usize,
    root: Option<Root>,
}

impl World {
    /// `layers` empty ones.
    fn new(driver: Driver, layers: usize) -> World {
        rustix::process::umask(Mode::from_raw_mode(0o022));
        let dir = tempfile::tempdir().expect("a directory");
        for n in 0..layers {
            fs::create_dir(dir.path().join(format!("l{n}"))).expect("a layer");
        }
        for name in ["upper", "work", "m", "native", "native-work"] {
            fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        World {
            dir,
            driver,
            layers,
            root: None,
        }
    }

    /// In a layer, 0 being the topmost.
    fn layer(&self, n: usize, path: &str) -> PathBuf {
        self.dir.path().join(format!("l{n}")).join(path)
    }

    fn upper(&self, path: &str) -> PathBuf {
        self.dir.path().join("upper").join(path)
    }

    /// In the merged tree.
    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("m").join(path)
    }

    fn mount(&mut self) {
        self.mount_as(self.driver);
    }

    fn mount_as(&mut self, driver: Driver) {
        let rootfs = Rootfs {
            driver,
            lower: (0..self.layers).map(|n| self.layer(n, "")).collect(),
            upper: self.upper(""),
            work: self.dir.path().join("work"),
            volatile: false,
        };
        let root = overlay::mount(&rootfs).expect("mounts");
        let place = File::open(self.at("")).expect("a directory");
        moss::sys::mount::attach(root.tree.as_fd(), place.as_fd()).expect("attaches");
        self.root = Some(root);
    }

    fn unmount(&mut self) {
        let Some(root) = self.root.take() else { return };
        unmount(self.at(""), UnmountFlags::DETACH).expect("unmounts");
        drop(root.tree);
        if let Some(server) = root.server {
            server.finish();
        }
    }

    fn remount(&mut self) {
        self.unmount();
        self.mount();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn write(path: &Path, text: &str) {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("a directory");
    }
    fs::write(path, text).expect("written");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("read")
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

fn whiteout(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).expect("made");
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).expect("set");
}

fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    let length = rustix::fs::getxattr(path, name, &mut value).ok()?;
    Some(value[..length].to_vec())
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn layers_are_merged(driver: Driver) {
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

fn copy_up_keeps_all(driver: Driver) {
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

fn names_are_removed_and_made_again(driver: Driver) {
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

fn directories_of_layers_are_renamed(driver: Driver) {
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

fn renames_with_flags(driver: Driver) {
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

fn open_files_outlive_their_names(driver: Driver) {
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

fn special_files_and_links(driver: Driver) {
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

fn holes_and_ranges(driver: Driver) {
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

fn groups_and_bits_are_inherited(driver: Driver) {
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

fn attributes_and_acls(driver: Driver) {
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

fn locks(driver: Driver) {
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

fn large_directories_are_stable(driver: Driver) {
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
fn hostile_layers(driver: Driver) {
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

fn a_dead_server_hangs_nobody(driver: Driver) {
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

/// Pseudo-random numbers (xorshift64), the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.roll(3);
        let parts: Vec<String> = (0..depth).map(|_| format!("n{}", self.roll(4))).collect();
        parts.join("/")
    }
}

/// One random operation, done the same to an overlay and to a plain directory.
fn step(root: &Path, dice: &mut Dice) -> (String, Result<(), Option<i32>>) {
    let (one, two) = (dice.path(), dice.path());
    let (a, b) = (root.join(&one), root.join(&two));
    let number = dice.roll(1000);
    let kind = dice.roll(16);
    let io = |result: std::io::Result<()>| result.map_err(|error| error.raw_os_error());
    let sys = |result: rustix::io::Result<()>| result.map_err(|error| Some(error.raw_os_error()));
    let (what, result) = match kind {
        0..=2 => ("write", io(fs::write(&a, format!("{number}")))),
        3 => {
            let file = OpenOptions::new().append(true).open(&a);
            (
                "append",
                io(file.and_then(|mut file| write!(file, "+{number}"))),
            )
        }
        4 | 5 => ("mkdir", io(fs::create_dir(&a))),
        6 => ("rmdir", io(fs::remove_dir(&a))),
        7 => ("unlink", io(fs::remove_file(&a))),
        8 => ("rm -r", {
            // The order of a directory decides which error comes first: there is to be none.
            io(match fs::remove_dir_all(&a) {
                Err(error) if error.kind() == ErrorKind::NotADirectory => Err(error),
                other => other,
            })
        }),
        9 | 10 => ("rename", io(fs::rename(&a, &b))),
        11 => {
            let flags = RenameFlags::EXCHANGE;
            (
                "exchange",
                sys(rustix::fs::renameat_with(CWD, &a, CWD, &b, flags)),
            )
        }
        12 => ("link", io(fs::hard_link(&a, &b))),
        13 => ("symlink", io(symlink(&two, &a))),
        14 => {
            let mode =
                fs::Permissions::from_mode(0o700 | u32::try_from(number % 64).expect("small"));
            let is_link = a.symlink_metadata().is_ok_and(|stat| stat.is_symlink());
            (
                "chmod",
                if is_link {
                    Ok(())
                } else {
                    io(fs::set_permissions(&a, mode))
                },
            )
        }
        _ => {
            let file = OpenOptions::new().write(true).open(&a);
            (
                "truncate",
                io(file.and_then(|file| file.set_len(number % 5))),
            )
        }
    };
    (format!("{what} {one} {two} {number}"), result)
}

/// Everything below a directory, in words.
fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let entry = entry.expect("an entry");
            let path = entry.path();
            let stat = path.symlink_metadata().expect("what was listed is there");
            assert_eq!(entry.file_type().expect("a type"), stat.file_type());
            let what = if stat.is_dir() {
                waiting.push(path.clone());
                "directory".to_owned()
            } else if stat.is_symlink() {
                format!("link to {:?}", fs::read_link(&path).expect("a link"))
            } else {
                format!("{} times {:?}", stat.nlink(), read(&path))
            };
            let owner = (stat.uid(), stat.gid(), stat.mode());
            let name = path.strip_prefix(root).expect("below").to_owned();
            all.insert(name, format!("{owner:?} {what}"));
        }
    }
    all
}

fn random_walk(driver: Driver) {
    if driver == Driver::Overlay2 {
        // It answers EXDEV where a directory does not.
        return;
    }
    for seed in 1..=4 {
        let mut world = World::new(driver, 3);
        let model = world.dir.path().join("model");
        let mut dice = Dice(seed << 32 | 0x7f4a_7c15);
        // The layers are what the native driver leaves behind, walked at random, too.
        for layer in (0..3).rev() {
            for _ in 0..40 {
                // Most fail: nothing is there yet.
                let _ = step(&world.layer(layer, ""), &mut dice);
            }
        }
        unlink_twins(&world);
        world.mount();
        copy_tree(&world.at(""), &model);
        for round in 0..8 {
            assert_eq!(
                picture(&world.at("")),
                picture(&model),
                "seed {seed}, round {round}"
            );
            for n in 0..150 {
                let mut twin = Dice(dice.0);
                let (what, ours) = step(&world.at(""), &mut dice);
                let (_, theirs) = step(&model, &mut twin);
                assert_eq!(ours, theirs, "seed {seed}, round {round}, step {n}: {what}");
            }
            assert_eq!(
                picture(&world.at("")),
                picture(&model),
                "seed {seed}, round {round}"
            );
            world.remount();
        }
        assert_eq!(
            picture(&world.at("")),
            picture(&model),
            "seed {seed}, mounted again"
        );
        if driver == Driver::Fuse {
            // The kernel's overlayfs reads the same from the upper directory.
            world.unmount();
            world.mount_as(Driver::Overlay2);
            assert_eq!(
                picture(&world.at("")),
                picture(&model),
                "seed {seed}, mounted natively"
            );
        }
    }
}

/// Files of a layer with several names become files of their own when written to, which a plain
/// directory's do not.
fn unlink_twins(world: &World) {
    for layer in 0..3 {
        let root = world.layer(layer, "");
        for path in picture(&root).into_keys() {
            let path = root.join(path);
            let stat = path.symlink_metadata().expect("there");
            if !stat.is_dir() && stat.nlink() > 1 {
                fs::remove_file(path).expect("removed");
            }
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.expect("cp runs").success());
}
