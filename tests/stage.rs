//! The stage with real processes: from a plan to what the container sees.
//!
//! The runner starts itself again inside a user and mount namespace made by unshare(1), once with
//! the user's subordinate ids and once with a single id, as the keeper would be. There it stays
//! single-threaded and starts containers from a busybox root. It says so and passes where the host has no
//! busybox, no unshare, or allows no user namespaces.
//!
//! An argument that is no option selects cases by name; `--nocapture` shows the phases.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use moss::overlay::{self, Driver, Rootfs};
use moss::userns::plan::{
    CapabilitySets, Extent, IdMapping, Mount, MountFlags, MountSource, Namespace, Namespaces, Plan,
    Process,
};
use moss::userns::stage::{self, Phases, Running, StageError, Stdio};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// Tells the copy of this program inside the namespaces which id map it got.
const INSIDE: &str = "MOSS_TEST_STAGE_INSIDE";

/// Docker's default capabilities.
const DEFAULT_CAPS: u64 = 0xa804_25fb;

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
    vec![("ordinary", ordinary), ("phases", phases)]
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
        std::fs::create_dir_all(&etc).expect("mkdir");
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

fn phases(world: &World) {
    let mut all: Vec<Phases> = (0..30)
        .map(|_| world.run(&world.plan(&["true"])).running.phases)
        .collect();
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
