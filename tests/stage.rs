//! The stage with real processes: from a plan to what the container sees.
//!
//! The runner starts itself again inside a user and mount namespace made by unshare(1), once with
//! the user's subordinate ids and once with a single id, as the keeper would be. There it stays
//! single-threaded and starts containers from a busybox root. It says so and passes where the host has no
//! busybox, no unshare, or allows no user namespaces.
//!
//! An argument that is no option selects cases by name; `--nocapture` shows the phases.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use moss::overlay::{self, Driver, Rootfs};
use moss::userns::plan::{
    CapabilitySets, Device, Extent, FilterInstruction, IdMapping, Mount, MountFlags, MountSource,
    Namespace, Namespaces, Plan, Process, ProcessIdentity, Rlimit,
};
use moss::userns::seccomp::{self, KernelVersion};
use moss::userns::stage::{self, Origin, Phases, Running, StageError, Stdio};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// Tells the copy of this program inside the namespaces which id map it got.
const INSIDE: &str = "MOSS_TEST_STAGE_INSIDE";

/// Docker's default capabilities.
const DEFAULT_CAPS: u64 = 0xa804_25fb;

/// How long a race is run until it must have been won.
const RACE: std::time::Duration = std::time::Duration::from_secs(180);

fn main() -> ExitCode {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    if std::env::args().any(|arg| arg == "--list") {
        for (name, _) in cases() {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    match std::env::var(INSIDE) {
        Ok(ids) => inside(&ids, filter.as_deref()),
        Err(_) => outside(filter.as_deref()),
    }
}

fn outside(filter: Option<&str>) -> ExitCode {
    if !Path::new("/bin/busybox").exists() {
        println!("skipped: no /bin/busybox (package busybox-static)");
        return ExitCode::SUCCESS;
    }
    let myself = std::env::current_exe().expect("own path");
    let mut code = ExitCode::SUCCESS;
    for (ids, flags) in [
        ("range", &["--map-auto", "--map-root-user"][..]),
        ("one", &["--map-root-user"][..]),
    ] {
        let unshare = |program: &Path| {
            let mut command = Command::new("unshare");
            command.args(["--user", "--mount"]).args(flags).arg(program);
            command
        };
        match unshare(Path::new("true")).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr);
                println!("skipped ({ids}): {}", why.trim());
                continue;
            }
            Err(error) => {
                println!("skipped ({ids}): no unshare: {error}");
                continue;
            }
        }
        let status = unshare(&myself)
            .args(filter)
            .env(INSIDE, ids)
            .status()
            .expect("unshare runs");
        if !status.success() {
            code = ExitCode::FAILURE;
        }
    }
    code
}

fn inside(ids: &str, filter: Option<&str>) -> ExitCode {
    let mut failed = 0;
    let world = World::new(ids == "one");
    for (name, case) in cases() {
        if filter.is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&world)));
        let result = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ({ids}) ... {result}");
        failed += i32::from(outcome.is_err());
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

type Case = fn(&World);

fn cases() -> Vec<(&'static str, Case)> {
    vec![
        ("ordinary", ordinary),
        ("users", users),
        ("unmapped_user", unmapped_user),
        ("mounts", mounts),
        ("masks", masks),
        ("devices", devices),
        ("capabilities", capabilities),
        ("seccomp_filter", seccomp_filter),
        ("descriptors", descriptors),
        ("not_inspectable", not_inspectable),
        ("limits", limits),
        ("working_directory", working_directory),
        ("read_only_root", read_only_root),
        ("binds", binds),
        ("copy_up", copy_up),
        ("sysctls", sysctls),
        ("terminal", terminal),
        ("mini_init", mini_init),
        ("exec_sessions", exec_sessions),
        ("stopped_exec", stopped_exec),
        ("joined_namespaces", joined_namespaces),
        ("host_namespaces", host_namespaces),
        ("program_errors", program_errors),
        ("hostile_links", hostile_links),
        ("disagreeing_streams", disagreeing_streams),
        ("hostile_null", hostile_null),
        ("dropped", dropped),
        ("overlay_drivers", overlay_drivers),
        ("phases", phases),
    ]
}

/// A directory with a busybox layer, and room for containers.
struct World {
    dir: tempfile::TempDir,
    one_id: bool,
    next: std::cell::Cell<u32>,
}

/// What became of a process.
#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
    running: Running,
}

impl World {
    fn new(one_id: bool) -> World {
        let dir = tempfile::tempdir().expect("temporary directory");
        let world = World {
            dir,
            one_id,
            next: std::cell::Cell::new(0),
        };
        let bin = world.layer().join("bin");
        std::fs::create_dir_all(&bin).expect("mkdir");
        std::fs::copy("/bin/busybox", bin.join("busybox")).expect("copy");
        let list = Command::new("/bin/busybox")
            .arg("--list")
            .output()
            .expect("busybox runs");
        for applet in String::from_utf8_lossy(&list.stdout).lines() {
            if applet != "busybox" {
                symlink("busybox", bin.join(applet)).expect("link");
            }
        }
        let etc = world.layer().join("etc");
        // Mount points that real images have; making one in an overlay costs 0.45 ms.
        for dir in ["etc", "proc", "sys", "dev"] {
            std::fs::create_dir_all(world.layer().join(dir)).expect("mkdir");
        }
        std::fs::write(
            etc.join("passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        )
        .expect("write");
        std::fs::write(
            etc.join("group"),
            "root:x:0:\napp:x:1000:\nmore:x:1001:app\n",
        )
        .expect("write");
        for (name, text) in [("script", "echo no shebang\n"), ("broken", "#!/nosuch\n")] {
            std::fs::write(bin.join(name), text).expect("write");
            std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755))
                .expect("chmod");
        }
        // Of a machine that this is not: MIPS, whose programs are 32 bits wide and big-endian.
        let mut foreign = b"\x7fELF\x01\x02\x01".to_vec();
        foreign.resize(16, 0);
        foreign.extend([0, 2, 0, 8]);
        foreign.resize(64, 0);
        std::fs::write(bin.join("foreign"), foreign).expect("write");
        std::fs::set_permissions(bin.join("foreign"), std::fs::Permissions::from_mode(0o755))
            .expect("chmod");
        world
    }

    fn layer(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    /// A fresh directory for one container.
    fn fresh(&self) -> PathBuf {
        let n = self.next.get();
        self.next.set(n + 1);
        let dir = self.dir.path().join(format!("c{n}"));
        for part in ["extra", "upper", "work"] {
            std::fs::create_dir_all(dir.join(part)).expect("mkdir");
        }
        dir
    }

    /// A root filesystem of busybox with `extra` of `dir` on top.
    fn rootfs(&self, dir: &Path) -> OwnedFd {
        overlay::mount(&Rootfs {
            driver: Driver::Overlay2,
            lower: vec![dir.join("extra"), self.layer()],
            upper: dir.join("upper"),
            work: dir.join("work"),
            volatile: true,
        })
        .expect("overlay mounts")
        .tree
    }

    fn plan(&self, args: &[&str]) -> Plan {
        let map = if self.one_id {
            vec![extent(0, 0, 1)]
        } else {
            vec![extent(0, 0, 1), extent(1, 1, 65535)]
        };
        Plan {
            namespaces: Namespaces {
                user: Namespace::New,
                pid: Namespace::New,
                ipc: Namespace::New,
                uts: Namespace::New,
                net: Namespace::New,
                cgroup: Namespace::New,
            },
            id_map: IdMapping {
                uids: map.clone(),
                gids: map,
                deny_setgroups: self.one_id,
            },
            hostname: Some("box".into()),
            domainname: None,
            root_readonly: false,
            mounts: default_mounts(),
            devices: Vec::new(),
            masked_paths: strings(&[
                "/proc/acpi",
                "/proc/kcore",
                "/proc/keys",
                "/proc/timer_list",
                "/proc/scsi",
                "/sys/firmware",
            ]),
            readonly_paths: strings(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]),
            sysctls: Vec::new(),
            init: false,
            process: process(args),
        }
    }

    fn start(&self, plan: &Plan) -> Result<(Running, Pipes), StageError> {
        self.start_in(&self.fresh(), plan)
    }

    fn start_in(&self, dir: &Path, plan: &Plan) -> Result<(Running, Pipes), StageError> {
        let (stdio, pipes) = pipes();
        let running = stage::start(plan, self.rootfs(dir), stdio)?;
        Ok((running, pipes))
    }

    fn run(&self, plan: &Plan) -> Ended {
        let (running, pipes) = self.start(plan).expect("starts");
        finish(running, pipes)
    }

    fn shell(&self, script: &str) -> Ended {
        self.run(&self.plan(&["sh", "-c", script]))
    }

    fn error(&self, plan: &Plan) -> StageError {
        self.start(plan).expect_err("refused")
    }
}

#[derive(Debug)]
struct Pipes {
    out: std::io::PipeReader,
    err: std::io::PipeReader,
}

fn pipes() -> (Stdio, Pipes) {
    let (out, stdout) = std::io::pipe().expect("pipe");
    let (err, stderr) = std::io::pipe().expect("pipe");
    let stdio = Stdio::Pipes {
        stdin: None,
        stdout: stdout.into(),
        stderr: stderr.into(),
    };
    (stdio, Pipes { out, err })
}

fn finish(running: Running, mut pipes: Pipes) -> Ended {
    let (mut out, mut err) = (String::new(), String::new());
    pipes.out.read_to_string(&mut out).expect("stdout");
    pipes.err.read_to_string(&mut err).expect("stderr");
    Ended {
        code: wait(running.pid),
        out,
        err,
        running,
    }
}

fn wait(pid: i32) -> i32 {
    match waitpid(Pid::from_raw(pid), None).expect("our child") {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("unexpected {other:?}"),
    }
}

fn extent(inside: u32, outside: u32, count: u32) -> Extent {
    Extent {
        inside,
        outside,
        count,
    }
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|&item| item.to_owned()).collect()
}

fn process(args: &[&str]) -> Process {
    Process {
        args: strings(args),
        env: strings(&["PATH=/bin", "TERM=xterm"]),
        cwd: "/".into(),
        user: String::new(),
        groups: Vec::new(),
        terminal: false,
        console_size: None,
        capabilities: CapabilitySets {
            bounding: DEFAULT_CAPS,
            effective: DEFAULT_CAPS,
            permitted: DEFAULT_CAPS,
            inheritable: 0,
            ambient: 0,
        },
        no_new_privileges: false,
        rlimits: Vec::new(),
        oom_score_adj: Some(100),
        seccomp: None,
        umask: None,
    }
}

fn filesystem(target: &str, kind: &str, options: &str, flags: MountFlags) -> Mount {
    Mount {
        target: target.into(),
        source: MountSource::Filesystem {
            kind: kind.into(),
            options: options.into(),
            copy_up: false,
        },
        flags,
    }
}

fn bind(path: &Path, target: &str) -> Mount {
    Mount {
        target: target.into(),
        source: MountSource::Bind {
            path: path.to_owned(),
            recursive: true,
            propagation: "rprivate".into(),
        },
        flags: MountFlags::default(),
    }
}

const STRICT: MountFlags = MountFlags {
    readonly: false,
    readonly_recursive: false,
    nosuid: true,
    nodev: true,
    noexec: true,
};

fn default_mounts() -> Vec<Mount> {
    let read_only = MountFlags {
        readonly: true,
        ..STRICT
    };
    let dev = MountFlags {
        nosuid: true,
        ..MountFlags::default()
    };
    let pts = MountFlags {
        nodev: false,
        ..STRICT
    };
    vec![
        filesystem("/proc", "proc", "", STRICT),
        filesystem("/dev", "tmpfs", "mode=755,size=65536k", dev),
        filesystem(
            "/dev/pts",
            "devpts",
            "newinstance,ptmxmode=0666,mode=0620,gid=5",
            pts,
        ),
        filesystem("/sys", "sysfs", "", read_only),
        filesystem("/sys/fs/cgroup", "cgroup2", "", read_only),
        filesystem("/dev/mqueue", "mqueue", "", STRICT),
        filesystem("/dev/shm", "tmpfs", "mode=1777,size=67108864", STRICT),
    ]
}

fn ordinary(world: &World) {
    let ended =
        world.shell("id -u; id -g; echo $$; hostname; pwd; echo $HOME; echo oops >&2; exit 3");
    assert_eq!(ended.out, "0\n0\n1\nbox\n/\n/root\n");
    assert_eq!(ended.err, "oops\n");
    assert_eq!(ended.code, 3);
    assert!(ended.running.notes.is_empty(), "{:?}", ended.running.notes);
}

fn users(world: &World) {
    if world.one_id {
        return;
    }
    let id = |user: &str, groups: &[&str]| {
        let mut plan = world.plan(&["sh", "-c", "id; echo $HOME"]);
        plan.process.user = user.into();
        plan.process.groups = strings(groups);
        world.run(&plan).out
    };
    assert_eq!(
        id("app", &[]),
        "uid=1000(app) gid=1000(app) groups=1000(app),1001(more)\n/home/app\n"
    );
    assert_eq!(
        id("4242:app", &["more", "77"]),
        "uid=4242 gid=1000(app) groups=77,1000(app),1001(more)\n/\n"
    );
    let mut plan = world.plan(&["sh", "-c", "echo by name >/dev/stderr"]);
    plan.process.user = "app".into();
    assert_eq!(
        world.run(&plan).err,
        "by name\n",
        "streams belong to the user"
    );
}

fn unmapped_user(world: &World) {
    let mut plan = world.plan(&["true"]);
    plan.process.user = "nosuch".into();
    let error = world.error(&plan);
    assert_eq!(
        (error.message.as_str(), error.origin),
        (
            "unable to find user nosuch: no matching entries in passwd file",
            Origin::Daemon
        )
    );
    plan.process.user = "70000:0".into();
    assert_eq!(
        world.error(&plan).message,
        "error during container init: unable to setup user: cannot setuid to unmapped uid 70000 in \
         user namespace"
    );
}

fn mounts(world: &World) {
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

fn masks(world: &World) {
    let ended = world.shell(
        "wc -c </proc/keys; ls /sys/firmware | wc -l; \
         echo 1 >/proc/sys/kernel/domainname; echo $?; \
         touch /sys/firmware/x || echo refused; umount /proc/keys || echo kept",
    );
    assert_eq!(ended.out, "0\n0\n1\nrefused\nkept\n", "{}", ended.err);
}

fn devices(world: &World) {
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

fn capabilities(world: &World) {
    let show = "grep -E 'Cap|NoNew' /proc/self/status | tr '\t' ' '";
    let ended = world.shell(show);
    assert_eq!(
        ended.out,
        "CapInh: 0000000000000000\nCapPrm: 00000000a80425fb\nCapEff: 00000000a80425fb\n\
         CapBnd: 00000000a80425fb\nCapAmb: 0000000000000000\nNoNewPrivs: 0\n"
    );
    if world.one_id {
        return;
    }
    let mut plan = world.plan(&["sh", "-c", show]);
    plan.process.user = "app".into();
    plan.process.no_new_privileges = true;
    plan.process.capabilities.inheritable = 1 << 13;
    plan.process.capabilities.ambient = 1 << 13;
    assert_eq!(
        world.run(&plan).out,
        "CapInh: 0000000000002000\nCapPrm: 0000000000002000\nCapEff: 0000000000002000\n\
         CapBnd: 00000000a80425fb\nCapAmb: 0000000000002000\nNoNewPrivs: 1\n"
    );
}

/// A filter that answers one system call (of this machine's own table) with an errno.
fn forbid(call: i64, errno: u32) -> Vec<FilterInstruction> {
    let call = u32::try_from(call).expect("a system call number");
    vec![
        FilterInstruction(0x20, 0, 0, 0),
        FilterInstruction(0x15, 0, 1, call),
        FilterInstruction(0x06, 0, 0, 0x0005_0000 | errno),
        FilterInstruction(0x06, 0, 0, 0x7fff_0000),
    ]
}

fn seccomp_filter(world: &World) {
    for no_new_privileges in [false, true] {
        let mut plan = world.plan(&[
            "sh",
            "-c",
            "hostname other; grep Seccomp: /proc/self/status | tr '\t' ' '",
        ]);
        plan.process.seccomp = Some(forbid(libc::SYS_sethostname, libc::EXDEV as u32));
        plan.process.no_new_privileges = no_new_privileges;
        plan.process.capabilities.bounding |= 1 << 21;
        plan.process.capabilities.permitted |= 1 << 21;
        plan.process.capabilities.effective |= 1 << 21;
        let ended = world.run(&plan);
        assert_eq!(ended.out, "Seccomp: 2\n");
        assert!(ended.err.contains("cross-device"), "{}", ended.err);
    }
}

fn descriptors(world: &World) {
    // One that is deliberately left open across execve, as a careless library would.
    let leak = std::fs::File::open("/").expect("opens");
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).expect("set");
    let ended = world.shell("cd /proc/self/fd; echo *");
    // The shell opens its own directory for the pattern.
    assert_eq!(ended.out, "0 1 2 3\n");
    let plan = world.plan(&["readlink", "/proc/self/fd/0"]);
    assert_eq!(world.run(&plan).out, "/dev/null\n");
}

fn not_inspectable(world: &World) {
    // A container waits for its program in the pid namespace of another, whose root looks at it.
    let target = world
        .start(&world.plan(&["sleep", "60"]))
        .expect("starts")
        .0;
    let mut plan = world.plan(&["true"]);
    join(&mut plan, &target);
    let (stdio, _pipes) = pipes();
    let ready = stage::spawn(&plan, world.rootfs(&world.fresh()), stdio)
        .and_then(stage::Spawned::ready)
        .expect("ready");
    let script = "for p in /proc/[0-9]*; do \
        case $(cat $p/comm) in sleep|sh) continue;; esac; \
        readlink $p/exe; readlink $p/fd/0; readlink $p/cwd; cat $p/environ $p/exe; echo seen; done";
    let mut process = process(&["sh", "-c", script]);
    process.capabilities = everything();
    let ended = exec(&process, &target).expect("execs");
    assert_eq!(ended.out, "seen\n", "{}", ended.err);
    assert!(ended.err.contains("Permission denied"), "{}", ended.err);
    drop(ready);
    end(&target);
}

fn everything() -> CapabilitySets {
    CapabilitySets {
        bounding: u64::MAX,
        effective: u64::MAX,
        permitted: u64::MAX,
        inheritable: 0,
        ambient: 0,
    }
}

fn limits(world: &World) {
    let mut plan = world.plan(&[
        "sh",
        "-c",
        "ulimit -n; ulimit -Hn; umask; cat /proc/self/oom_score_adj; kill -PIPE $$",
    ]);
    plan.process.rlimits.push(Rlimit {
        name: "RLIMIT_NOFILE".into(),
        soft: 100,
        hard: 200,
    });
    plan.process.umask = Some(0o077);
    let ended = world.run(&plan);
    assert_eq!(ended.out, "100\n200\n0077\n100\n");
    plan.process.rlimits[0].name = "RLIMIT_NOSUCH".into();
    assert_eq!(
        world.error(&plan).message,
        "error during container init: invalid rlimit type RLIMIT_NOSUCH"
    );
}

fn working_directory(world: &World) {
    let mut plan = world.plan(&["pwd"]);
    plan.process.cwd = "/made/for/this".into();
    assert_eq!(world.run(&plan).out, "/made/for/this\n");
    plan.process.cwd = "/etc/passwd/x".into();
    let error = world.error(&plan);
    assert_eq!(
        (error.message.as_str(), error.code),
        (
            "error during container init: mkdir /etc/passwd: not a directory",
            127
        )
    );
    plan.process.cwd = "/etc/passwd".into();
    assert_eq!(
        world.error(&plan).message,
        "error during container init: mkdir /etc/passwd: not a directory"
    );
}

fn read_only_root(world: &World) {
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

fn binds(world: &World) {
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

fn copy_up(world: &World) {
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

fn sysctls(world: &World) {
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

fn terminal(world: &World) {
    let mut plan = world.plan(&[
        "sh",
        "-c",
        "tty; stty size; test -c /dev/console && echo console; echo ok >/dev/tty; read x; echo got $x",
    ]);
    plan.process.terminal = true;
    plan.process.console_size = Some((33, 77));
    let running =
        stage::start(&plan, world.rootfs(&world.fresh()), Stdio::Terminal).expect("starts");
    let mut console = std::fs::File::from(running.console.expect("a console"));
    console.write_all(b"hello\n").expect("writes");
    let mut text = Vec::new();
    // A terminal whose last user is gone gives EIO.
    let _ = console.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let text = text.replace("\r\n", "\n");
    // The echo of what was typed comes whenever the line discipline got to it.
    assert!(
        text.replacen("hello\n", "", 1)
            .starts_with("/dev/pts/0\n33 77\nconsole\nok\ngot "),
        "{text}"
    );
    assert!(text.ends_with("got hello\n"), "{text}");
    assert_eq!(wait(running.pid), 0);
}

fn mini_init(world: &World) {
    let run = |script: &str| {
        let mut plan = world.plan(&["sh", "-c", script]);
        plan.init = true;
        world.run(&plan)
    };
    let ended = run(
        "cat /proc/1/comm; tr '\\0' ' ' </proc/1/cmdline; echo; test $$ = 1 || echo not 1; \
         readlink /proc/1/exe; readlink /proc/1/fd/0; cat /proc/1/environ /proc/1/exe; (sleep 0 &) ; exit 7",
    );
    assert!(
        ended.out.starts_with("docker-init\n/sbin/docker-init -- "),
        "{}",
        ended.out
    );
    assert!(ended.out.ends_with("\nnot 1\n"), "{}", ended.out);
    assert_eq!(
        ended.err.matches("Permission denied").count(),
        2,
        "{}",
        ended.err
    );
    assert_eq!(ended.code, 7);
    assert_eq!(run("kill -TERM $$").code, 143);

    let mut plan = world.plan(&[
        "sh",
        "-c",
        "trap 'echo told; exit 9' TERM; echo up; while :; do sleep 0.05; done",
    ]);
    plan.init = true;
    plan.process.seccomp = Some(forbid(libc::SYS_clone3, libc::ENOSYS as u32)); // as Docker's
    let (running, mut pipes) = world.start(&plan).expect("starts");
    let mut up = [0; 3];
    pipes.out.read_exact(&mut up).expect("up");
    rustix::process::pidfd_send_signal(&running.pidfd, rustix::process::Signal::TERM)
        .expect("signals");
    let ended = finish(running, pipes);
    assert_eq!((ended.out.as_str(), ended.code), ("told\n", 9));

    // Control-C reaches the program in the foreground, and init tells of its end.
    let mut plan = world.plan(&["sh", "-c", "echo up; exec sleep 60"]);
    plan.init = true;
    plan.process.terminal = true;
    let running =
        stage::start(&plan, world.rootfs(&world.fresh()), Stdio::Terminal).expect("starts");
    let mut console = std::fs::File::from(running.console.expect("a console"));
    console.read_exact(&mut up).expect("up");
    console.write_all(b"\x03").expect("writes");
    assert_eq!(wait(running.pid), 130);
}

fn exec(process: &Process, target: &Running) -> Result<Ended, StageError> {
    let (stdio, pipes) = pipes();
    let running = stage::exec(process, identity(target), target.pidfd.as_fd(), stdio)?;
    Ok(finish(running, pipes))
}

fn identity(of: &Running) -> ProcessIdentity {
    ProcessIdentity {
        pid: of.pid,
        start_time: of.start_time,
    }
}

fn end(running: &Running) {
    rustix::process::pidfd_send_signal(&running.pidfd, rustix::process::Signal::KILL)
        .expect("signals");
    assert_eq!(wait(running.pid), 137);
}

fn exec_sessions(world: &World) {
    let (target, _pipes) = world.start(&world.plan(&["sleep", "60"])).expect("starts");
    let ended = exec(
        &process(&[
            "sh",
            "-c",
            "hostname; id -u; cat /proc/1/comm; pwd; cd /proc/self/fd; echo *; exit 5",
        ]),
        &target,
    )
    .expect("execs");
    assert_eq!(ended.out, "box\n0\nsleep\n/\n0 1 2 3\n");
    assert_eq!(ended.code, 5);
    println!("exec phases: {:?}", ended.running.phases);
    if !world.one_id {
        let mut as_app = process(&[
            "sh",
            "-c",
            "id -un; id -G; grep CapEff /proc/self/status | tr '\t' ' '",
        ]);
        as_app.user = "app".into();
        let ended = exec(&as_app, &target).expect("execs");
        assert_eq!(ended.out, "app\n1000 1001\nCapEff: 0000000000000000\n");
    }
    let error = exec(&process(&["nosuch"]), &target).expect_err("refused");
    assert_eq!(
        (error.message.as_str(), error.code),
        ("exec: \"nosuch\": executable file not found in $PATH", 127)
    );
    let mut elsewhere = process(&["true"]);
    elsewhere.cwd = "/nosuch".into();
    assert_eq!(
        exec(&elsewhere, &target).expect_err("refused").message,
        "chdir to cwd (\"/nosuch\") set in config.json failed: no such file or directory"
    );
    let mut tty = process(&["tty"]);
    tty.terminal = true;
    let running = stage::exec(
        &tty,
        identity(&target),
        target.pidfd.as_fd(),
        Stdio::Terminal,
    )
    .expect("execs");
    let mut text = Vec::new();
    let _ = std::fs::File::from(running.console.expect("console")).read_to_end(&mut text);
    assert_eq!(String::from_utf8_lossy(&text), "/dev/pts/0\r\n");
    assert_eq!(wait(running.pid), 0);
    end(&target);

    // Into a container whose first process is our own non-dumpable init.
    let mut plan = world.plan(&["sleep", "60"]);
    plan.init = true;
    let (target, _pipes) = world.start(&plan).expect("starts");
    let ended = exec(&process(&["cat", "/proc/1/comm"]), &target).expect("execs");
    assert_eq!(ended.out, "docker-init\n");
    end(&target);
}

/// A container may stop whatever enters it before it executes its program.
fn stopped_exec(world: &World) {
    let script = "trap '' TERM; while :; do kill -STOP -1; done";
    let (target, _pipes) = world
        .start(&world.plan(&["sh", "-c", script]))
        .expect("starts");
    // It is a race, which the container wins one time in a few; on a busy machine, in many.
    let until = std::time::Instant::now() + RACE;
    let tries = std::iter::repeat_with(|| exec_only(&process(&["true"]), &target).err());
    let error = tries
        .take_while(|_| std::time::Instant::now() < until)
        .find_map(|error| error)
        .expect("the race is won");
    assert_eq!(
        error.message,
        "the process did not get ready within 10 seconds"
    );
    end(&target);
}

/// Starts a process and leaves it alone.
fn exec_only(process: &Process, target: &Running) -> Result<(), StageError> {
    let (stdio, _pipes) = pipes();
    let running = stage::exec(process, identity(target), target.pidfd.as_fd(), stdio)?;
    let _ = rustix::process::pidfd_send_signal(&running.pidfd, rustix::process::Signal::KILL);
    wait(running.pid);
    Ok(())
}

/// As Docker's `container:X` for all that can be shared.
fn join(plan: &mut Plan, target: &Running) {
    let of = Namespace::Join(identity(target));
    plan.namespaces.user = of;
    plan.namespaces.pid = of;
    plan.namespaces.ipc = of;
    plan.namespaces.uts = of;
    plan.namespaces.net = of;
}

fn joined_namespaces(world: &World) {
    let (target, _pipes) = world.start(&world.plan(&["sleep", "60"])).expect("starts");
    let links = "for n in user pid ipc uts net mnt cgroup; do readlink /proc/self/ns/$n; done";
    let theirs = exec(&process(&["sh", "-c", links]), &target).expect("execs");
    let mut plan = world.plan(&["sh", "-c", &format!("{links}; cat /proc/1/comm; hostname")]);
    join(&mut plan, &target);
    let ended = world.run(&plan);
    let (ours, theirs): (Vec<&str>, Vec<&str>) =
        (ended.out.lines().collect(), theirs.out.lines().collect());
    assert_eq!(ours[..5], theirs[..5]);
    assert_ne!(ours[5..7], theirs[5..7]);
    assert_eq!(ours[7..], ["sleep", "box"]);

    let mut other = world.plan(&["sleep", "60"]);
    other.hostname = Some("second".into());
    let (second, _pipes) = world.start(&other).expect("starts");
    let mut plan = world.plan(&["sh", "-c", "hostname; cat /proc/1/comm; id -u"]);
    join(&mut plan, &target);
    plan.namespaces.uts = Namespace::Join(identity(&second));
    plan.namespaces.pid = Namespace::New;
    assert_eq!(world.run(&plan).out, "second\nsh\n0\n");

    let mut gone = world.plan(&["true"]);
    join(&mut gone, &target);
    let mut of = identity(&target);
    of.start_time += 1;
    gone.namespaces.net = Namespace::Join(of);
    gone.namespaces.user = Namespace::New;
    assert!(world.error(&gone).message.contains("non running container"));
    end(&second);
    end(&target);
}

fn host_namespaces(world: &World) {
    let mut plan = world.plan(&[
        "sh",
        "-c",
        "readlink /proc/self/ns/net; ls /sys/class/net | grep lo",
    ]);
    plan.namespaces.net = Namespace::Host;
    plan.namespaces.uts = Namespace::Host;
    for mount in &mut plan.mounts {
        if mount.target == "/sys" {
            mount.source = MountSource::FromHost {
                path: "/sys".into(),
            };
        }
    }
    plan.mounts.retain(|mount| mount.target != "/sys/fs/cgroup");
    let net = std::fs::read_link("/proc/self/ns/net").expect("link");
    assert_eq!(world.run(&plan).out, format!("{}\nlo\n", net.display()));

    // The fallback: sysfs of another's network namespace cannot be mounted.
    let mut plan = world.plan(&["ls", "/sys/class"]);
    plan.namespaces.net = Namespace::Host;
    let ended = world.run(&plan);
    assert!(ended.out.contains("net"), "{}", ended.out);
    assert_eq!(ended.running.notes.len(), 1, "{:?}", ended.running.notes);

    // Nor can a message queue filesystem or a cgroup tree of the host's.
    let mut plan = world.plan(&["true"]);
    plan.namespaces.ipc = Namespace::Host;
    plan.namespaces.cgroup = Namespace::Host;
    let ended = world.run(&plan);
    assert_eq!((ended.code, ended.running.notes.len()), (0, 2));
    println!("notes: {:?}", ended.running.notes);

    let mut plan = world.plan(&["sh", "-c", "test -d /proc/$PPID/ns && echo host pids"]);
    plan.namespaces.pid = Namespace::Host;
    plan.mounts[0].source = MountSource::FromHost {
        path: "/proc".into(),
    };
    plan.masked_paths.clear();
    plan.readonly_paths.clear();
    assert_eq!(world.run(&plan).code, 0);
}

fn program_errors(world: &World) {
    for (program, text, code) in [
        (
            "nosuch",
            "exec: \"nosuch\": executable file not found in $PATH",
            127,
        ),
        (
            "/nosuch",
            "exec: \"/nosuch\": stat /nosuch: no such file or directory",
            127,
        ),
        ("/etc", "exec: \"/etc\": is a directory", 126),
        (
            "/etc/passwd",
            "exec: \"/etc/passwd\": permission denied",
            126,
        ),
    ] {
        for init in [false, true] {
            let mut plan = world.plan(&[program]);
            plan.init = init;
            let error = world.error(&plan);
            assert_eq!(
                error.message,
                format!("error during container init: {text}")
            );
            assert_eq!(error.code, code);
        }
    }
    let ended = world.run(&world.plan(&["script"]));
    assert_eq!(
        (ended.err.as_str(), ended.code),
        ("exec /bin/script: exec format error\n", 126)
    );
    let ended = world.run(&world.plan(&["foreign"]));
    let host = moss::types::platform::Platform::host();
    assert_eq!(
        (ended.err, ended.code),
        (
            format!(
                "exec /bin/foreign: exec format error: the program is for linux/mips, this host is \
                 {host}\n"
            ),
            126
        )
    );
    let ended = world.run(&world.plan(&["broken"]));
    assert_eq!(
        (ended.err.as_str(), ended.code),
        ("exec /bin/broken: no such file or directory\n", 255)
    );
}

fn hostile_links(world: &World) {
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

fn disagreeing_streams(world: &World) {
    let mut plan = world.plan(&["true"]);
    let error = stage::spawn(&plan, world.rootfs(&world.fresh()), Stdio::Terminal);
    assert!(error.expect_err("refused").message.contains("disagree"));
    plan.process.terminal = true;
    assert!(world.error(&plan).message.contains("disagree"));
}

fn hostile_null(world: &World) {
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

fn dropped(world: &World) {
    let (stdio, mut pipes) = pipes();
    let spawned =
        stage::spawn(&world.plan(&["true"]), world.rootfs(&world.fresh()), stdio).expect("spawns");
    let pid = spawned.pid();
    drop(spawned);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "reaped");
    let mut text = String::new();
    pipes.out.read_to_string(&mut text).expect("reads");
    assert_eq!(text, "", "nobody holds the pipe");
}

fn overlay_drivers(world: &World) {
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

fn phases(world: &World) {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("release");
    let kernel = KernelVersion::parse(&kernel).expect("a version");
    let profile = seccomp::docker_default(DEFAULT_CAPS, kernel).expect("a profile");
    let mut plan = world.plan(&["true"]);
    plan.process.seccomp = Some(seccomp::compile(&profile).expect("compiles"));
    let mut all: Vec<Phases> = (0..30).map(|_| world.run(&plan).running.phases).collect();
    let total = |p: &Phases| p.clone + p.map + p.mounts + p.pivot + p.confine + p.exec;
    all.sort_by_key(total);
    let median = all[all.len() / 2];
    let us = |ns: u64| ns / 1000;
    println!(
        "phases (median start of {}, µs): clone {} map {} mounts {} pivot {} confine {} exec {} total {}",
        all.len(),
        us(median.clone),
        us(median.map),
        us(median.mounts),
        us(median.pivot),
        us(median.confine),
        us(median.exec),
        us(total(&median))
    );
}
