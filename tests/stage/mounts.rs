//! What a container sees of files: mounts, masks, devices, binds.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::confinement::{everything, forbid};
use crate::world::{STRICT, World, bind, end, exec, filesystem, finish, process, strings, wait};
use moss::overlay::{self, Driver, Rootfs};
use moss::userns::plan::{Device, FilterInstruction, MountFlags, MountSource};

pub(crate) fn mounts(world: &World) {
    let ended = world.shell("cat /proc/self/mounts; cat /proc/self/cgroup; ls /oldroot 2>&1");
    let mut seen = BTreeMap::new();
    for line in ended.out.lines().filter(|l| l.split(' ').count() == 6) {
        let mut fields = line.split(' ').skip(1);
        let target = fields.next().expect("target").to_owned();
        let kind = fields.next().expect("type");
        seen.insert(
            target,
            format!("{kind} {}", fields.next().expect("options")),
        );
    }
    let has = |target: &str, kind: &str, options: &[&str]| {
        let line = seen
            .get(target)
            .unwrap_or_else(|| panic!("{target} in {seen:#?}"));
        assert!(line.starts_with(&format!("{kind} ")), "{target}: {line}");
        for option in options {
            let found = line.split([' ', ',']).any(|o| o == *option);
            assert!(found, "{target}: no {option} in {line}");
        }
    };
    has("/", "overlay", &["rw", "userxattr"]);
    has("/proc", "proc", &["rw", "nosuid", "nodev", "noexec"]);
    has("/dev", "tmpfs", &["rw", "nosuid", "size=65536k"]);
    has(
        "/dev/pts",
        "devpts",
        &["nosuid", "noexec", "mode=620", "ptmxmode=666"],
    );
    has("/sys", "sysfs", &["ro", "nosuid", "nodev", "noexec"]);
    has("/sys/fs/cgroup", "cgroup2", &["ro"]);
    has("/dev/mqueue", "mqueue", &["rw"]);
    has("/dev/shm", "tmpfs", &["size=65536k"]);
    has("/proc/sys", "proc", &["ro", "nosuid"]);
    let foreign: Vec<_> = seen
        .keys()
        .filter(|t| {
            *t != "/"
                && !["/proc", "/dev", "/sys"]
                    .iter()
                    .any(|top| t.starts_with(top))
        })
        .collect();
    assert!(foreign.is_empty(), "nothing of the host's: {foreign:?}");
    assert!(ended.out.contains("0::/\n"), "own cgroup namespace");
}

pub(crate) fn masks(world: &World) {
    let ended = world.shell(
        "wc -c </proc/keys; ls /sys/firmware | wc -l; \
         echo 1 >/proc/sys/kernel/domainname; echo $?; \
         touch /sys/firmware/x || echo refused; umount /proc/keys || echo kept",
    );
    assert_eq!(ended.out, "0\n0\n1\nrefused\nkept\n", "{}", ended.err);
}

pub(crate) fn devices(world: &World) {
    let mut plan = world.plan(&[
        "sh",
        "-c",
        "ls /dev | grep -v core | tr '\n' ' '; echo; readlink /dev/fd; readlink /dev/ptmx; head -c 2 /dev/zero | wc -c; \
         echo x >/dev/full; ls /dev/extra; echo x >/dev/null && echo null; ls /dev/pts",
    ]);
    plan.devices.push(Device {
        host: "/dev/zero".into(),
        container: "/dev/extra".into(),
        write: true,
        required: true,
    });
    plan.devices.push(Device {
        host: "/dev/nosuch".into(),
        container: "/dev/nosuch".into(),
        write: true,
        required: false,
    });
    let ended = world.run(&plan);
    assert!(
        ended.out.starts_with(
            "extra fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero \n\
             /proc/self/fd\npts/ptmx\n2\n/dev/extra\nnull\nptmx\n"
        ),
        "{}",
        ended.out
    );
    assert!(ended.err.contains("No space left"), "{}", ended.err);
    plan.devices[1].required = true;
    assert!(
        world
            .error(&plan)
            .message
            .contains("\"/dev/nosuch\": no such file or directory")
    );
}

pub(crate) fn read_only_root(world: &World) {
    let mut plan = world.plan(&[
        "sh",
        "-c",
        "touch /x; touch /tmp/x && echo wrote; touch /ro/x",
    ]);
    plan.root_readonly = true;
    plan.mounts
        .push(filesystem("/tmp", "tmpfs", "size=1m", STRICT));
    let read_only = MountFlags {
        readonly: true,
        ..STRICT
    };
    plan.mounts.push(filesystem("/ro", "tmpfs", "", read_only));
    let ended = world.run(&plan);
    assert_eq!(ended.out, "wrote\n");
    assert_eq!(ended.err.matches("Read-only file system").count(), 2);
}

pub(crate) fn binds(world: &World) {
    let dir = world.fresh();
    let host = dir.join("host");
    std::fs::create_dir_all(host.join("sub")).expect("mkdir");
    std::fs::write(host.join("file"), "from the host\n").expect("write");
    // As in images made of cloud roots: a dangling link where Docker binds resolv.conf.
    std::fs::create_dir_all(dir.join("extra/etc")).expect("mkdir");
    symlink("../run/stub", dir.join("extra/etc/resolv.conf")).expect("link");
    let mut plan = world.plan(&[
        "sh",
        "-c",
        "cat /data/file /etc/resolv.conf /one; touch /data/new && echo wrote; touch /ro/x",
    ]);
    plan.mounts.push(bind(&host, "/data"));
    plan.mounts
        .push(bind(&host.join("file"), "/etc/resolv.conf"));
    plan.mounts.push(bind(&host.join("file"), "/one"));
    let mut read_only = bind(&host, "/ro");
    read_only.flags.readonly = true;
    plan.mounts.push(read_only);
    let (running, pipes) = world.start_in(&dir, &plan).expect("starts");
    let ended = finish(running, pipes);
    assert_eq!(ended.out, format!("{}wrote\n", "from the host\n".repeat(3)));
    assert!(ended.err.contains("Read-only file system"), "{}", ended.err);
    assert!(host.join("new").exists());

    let mut plan = world.plan(&["true"]);
    plan.mounts.push(bind(Path::new("/nosuch"), "/x"));
    let error = world.error(&plan);
    assert_eq!(
        error.message,
        "error during container init: error mounting \"/nosuch\" to rootfs at \"/x\": create \
         mountpoint for /x mount: stat /nosuch: no such file or directory"
    );
    let mut plan = world.plan(&["true"]);
    plan.mounts.push(bind(&host.join("file"), "/bin"));
    let error = world.error(&plan);
    let file = host.join("file");
    let file = file.display();
    assert_eq!(
        (error.message, error.code),
        (
            format!(
                "error during container init: error mounting \"{file}\" to rootfs at \"/bin\": \
                 mount src={file}, dst=/bin: not a directory"
            ),
            127
        )
    );
}

pub(crate) fn copy_up(world: &World) {
    let dir = world.fresh();
    let old = dir.join("extra/var/data");
    std::fs::create_dir_all(old.join("deep")).expect("mkdir");
    std::fs::write(old.join("deep/file"), "kept\n").expect("write");
    symlink("deep/file", old.join("link")).expect("link");
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o1777)).expect("chmod");
    let mut plan = world.plan(&[
        "sh",
        "-c",
        "cat /var/data/link; stat -c %a /var/data; grep -c /var/data /proc/self/mounts",
    ]);
    let mut mount = filesystem("/var/data", "tmpfs", "size=1m", STRICT);
    if let MountSource::Filesystem { copy_up, .. } = &mut mount.source {
        *copy_up = true;
    }
    plan.mounts.push(mount);
    let (running, pipes) = world.start_in(&dir, &plan).expect("starts");
    assert_eq!(finish(running, pipes).out, "kept\n1777\n1\n");
}

pub(crate) fn sysctls(world: &World) {
    let mut plan = world.plan(&["cat", "/proc/sys/net/ipv4/ip_forward"]);
    plan.sysctls
        .push(("net.ipv4.ip_forward".into(), "1".into()));
    assert_eq!(world.run(&plan).out, "1\n");
    plan.sysctls[0].0 = "net.nosuch".into();
    assert_eq!(
        world.error(&plan).message,
        "error during container init: open /proc/sys/net/nosuch: no such file or directory"
    );
}

pub(crate) fn hostile_links(world: &World) {
    let outside = world.fresh();
    let hostile = |place: &str, to: &str| {
        let dir = world.fresh();
        let link = dir.join("extra").join(place);
        std::fs::create_dir_all(link.parent().expect("parent")).expect("mkdir");
        symlink(to, link).expect("link");
        dir
    };
    let plan = world.plan(&["sh", "-c", "ls /etc/null; cat /proc/self/comm"]);

    let dir = hostile("proc", "/etc");
    let error = world.start_in(&dir, &plan).expect_err("refused");
    assert!(
        error
            .message
            .ends_with("filesystem \"proc\" must be mounted on ordinary directory"),
        "{}",
        error.message
    );
    // /dev leads elsewhere in the image: everything lands there, in the image.
    let dir = hostile("dev", "/etc");
    let (running, pipes) = world.start_in(&dir, &plan).expect("starts");
    assert_eq!(finish(running, pipes).out, "/etc/null\ncat\n");
    // The link is a path of the host's that exists there, and not in the image.
    let dir = hostile("dev", &outside.display().to_string());
    let (running, pipes) = world.start_in(&dir, &plan).expect("starts");
    finish(running, pipes);
    assert_eq!(
        std::fs::read_dir(outside.join("upper"))
            .expect("dir")
            .count(),
        0
    );
    assert!(!outside.join("null").exists() && !outside.join("pts").exists());

    // A target that climbs out, by itself and through a link.
    for target in ["/../../../../made", "/climb/made", "/abs/made"] {
        let dir = hostile("climb", "../../../../../..");
        symlink(outside.join("extra"), dir.join("extra/abs")).expect("link");
        let mut plan = world.plan(&[
            "sh",
            "-c",
            "ls -d /made /abs/made 2>/dev/null | head -n 1 | wc -l",
        ]);
        plan.mounts.push(bind(&outside, target));
        let (running, pipes) = world.start_in(&dir, &plan).expect("starts");
        assert_eq!(finish(running, pipes).out, "1\n", "{target}");
        assert!(!outside.join("extra/made").exists());
        assert!(!Path::new("/made").exists());
    }
    // Into proc, which the image could use to lead masks astray; and onto the root itself.
    for (target, text) in [
        ("/proc/self/attr", "inside /proc"),
        ("/", "on the top of rootfs"),
        ("/proc", "not of type proc"),
    ] {
        let mut plan = world.plan(&["true"]);
        plan.mounts.push(bind(&outside, target));
        let error = world.error(&plan);
        assert!(error.message.contains(text), "{target}: {}", error.message);
    }
    // A masked path that is a magic link does not reach the host.
    let mut plan = world.plan(&["true"]);
    plan.masked_paths = strings(&["/proc/1/root/etc", "/proc/self/exe"]);
    assert!(world.start(&plan).is_err());
    // passwd as a device or pipe neither blocks nor floods.
    let dir = hostile("etc/passwd", "/dev/zero");
    let (running, pipes) = world
        .start_in(&dir, &world.plan(&["echo", "0"]))
        .expect("starts");
    assert_eq!(finish(running, pipes).out, "0\n");
}

pub(crate) fn hostile_null(world: &World) {
    // A running container waits for `docker exec` with a /dev/null that leads to our descriptors.
    let mut plan = world.plan(&[
        "sh",
        "-c",
        "set -e; umount -l /dev/null; rm /dev/null; ln -s /proc/self/fd/5 /dev/null; echo up; exec sleep 60",
    ]);
    plan.process.capabilities = everything();
    let (target, mut pipes) = world.start(&plan).expect("starts");
    pipes.out.read_exact(&mut [0; 3]).expect("up");
    let error = exec(&process(&["true"]), &target).expect_err("refused");
    assert!(error.message.starts_with("open /dev/null: "), "{error}");
    end(&target);
}

pub(crate) fn overlay_drivers(world: &World) {
    let probe = overlay::probe(world.dir.path());
    assert_eq!(probe.driver, Some(Driver::Overlay2), "{}", probe.reason);
    // Paths longer than fsconfig(2) takes, and more layers than fit into one string.
    let mut deep = world.fresh();
    for _ in 0..6 {
        deep.push("long".repeat(15));
    }
    let many: Vec<PathBuf> = (0..40).map(|n| deep.join(n.to_string())).collect();
    let mut rootfs = Rootfs {
        driver: Driver::Overlay2,
        lower: many.clone(),
        upper: deep.join("upper"),
        work: deep.join("work"),
        volatile: false,
        owners: None,
    };
    for path in many.iter().chain([&rootfs.upper, &rootfs.work]) {
        std::fs::create_dir_all(path).expect("mkdir");
    }
    std::fs::write(many[0].join("name"), "top").expect("write");
    std::fs::write(many[39].join("name"), "bottom").expect("write");
    let read = |tree: &OwnedFd| {
        let fd = rustix::fs::openat(
            tree,
            "name",
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )
        .expect("opens");
        let mut text = String::new();
        std::fs::File::from(fd)
            .read_to_string(&mut text)
            .expect("reads");
        text
    };
    assert_eq!(read(&overlay::mount(&rootfs).expect("mounts").tree), "top");
    // A kernel without fsopen(2), as far as this child can see.
    let child = moss::sys::clone::clone(0, || {
        let filter: Vec<_> = forbid(libc::SYS_fsopen, libc::ENOSYS as u32)
            .into_iter()
            .map(|FilterInstruction(code, jt, jf, k)| (code, jt, jf, k))
            .collect();
        rustix::thread::set_no_new_privs(true).expect("set");
        moss::sys::seccomp::load(&filter).expect("loads");
        assert_eq!(read(&overlay::mount(&rootfs).expect("mounts").tree), "top");
        0
    })
    .expect("clones");
    assert_eq!(wait(child.pid), 0);
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains("longlong"), "attached nowhere");
    rootfs.lower = vec!["/nosuch".into()];
    let error = overlay::mount(&rootfs).expect_err("refused");
    assert!(
        error.to_string().starts_with("mounting the overlay on"),
        "{error}"
    );
}
