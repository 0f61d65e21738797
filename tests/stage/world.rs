//! The world that cases run in: a busybox root, plans for it, processes and what becomes of them.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use moss::overlay::{self, Driver, Rootfs};
use moss::userns::plan::{
    CapabilitySets, Mount, MountFlags, MountSource, Namespace, Plan, Process, ProcessIdentity,
};
use moss::userns::stage::{self, Running, StageError, Stdio};

use crate::busybox::{self, extent};
pub(crate) use crate::busybox::{filesystem, strings};

/// Docker's default capabilities.
pub(crate) const DEFAULT_CAPS: u64 = 0xa804_25fb;

/// How long a race is run until it must have been won.
pub(crate) const RACE: std::time::Duration = std::time::Duration::from_secs(180);

/// A directory with a busybox layer, and room for containers.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) one_id: bool,
    pub(crate) next: std::cell::Cell<u32>,
}

/// What became of a process.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) running: Running,
}

impl World {
    pub(crate) fn new(one_id: bool) -> World {
        let dir = tempfile::tempdir().expect("temporary directory");
        let world = World {
            dir,
            one_id,
            next: std::cell::Cell::new(0),
        };
        // Mount points that real images have; making one in an overlay costs 0.45 ms.
        busybox::layer(&world.layer());
        let (bin, etc) = (world.layer().join("bin"), world.layer().join("etc"));
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

    pub(crate) fn layer(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    /// A fresh directory for one container.
    pub(crate) fn fresh(&self) -> PathBuf {
        let n = self.next.get();
        self.next.set(n + 1);
        let dir = self.dir.path().join(format!("c{n}"));
        for part in ["extra", "upper", "work"] {
            std::fs::create_dir_all(dir.join(part)).expect("mkdir");
        }
        dir
    }

    /// A root filesystem of busybox with `extra` of `dir` on top.
    pub(crate) fn rootfs(&self, dir: &Path) -> OwnedFd {
        overlay::mount(&Rootfs {
            driver: Driver::Overlay2,
            lower: vec![dir.join("extra"), self.layer()],
            upper: dir.join("upper"),
            work: dir.join("work"),
            volatile: true,
            owners: None,
        })
        .expect("overlay mounts")
        .tree
    }

    pub(crate) fn plan(&self, args: &[&str]) -> Plan {
        let mut ids = vec![extent(0, 0, 1)];
        if !self.one_id {
            ids.push(extent(1, 1, 65535));
        }
        Plan {
            hostname: Some("box".into()),
            mounts: default_mounts(),
            masked_paths: strings(&[
                "/proc/acpi",
                "/proc/kcore",
                "/proc/keys",
                "/proc/timer_list",
                "/proc/scsi",
                "/sys/firmware",
            ]),
            readonly_paths: strings(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]),
            ..busybox::plan(ids, process(args))
        }
    }

    pub(crate) fn start(&self, plan: &Plan) -> Result<(Running, Pipes), StageError> {
        self.start_in(&self.fresh(), plan)
    }

    pub(crate) fn start_in(&self, dir: &Path, plan: &Plan) -> Result<(Running, Pipes), StageError> {
        let (stdio, pipes) = pipes();
        let running = stage::start(plan, self.rootfs(dir), stdio)?;
        Ok((running, pipes))
    }

    pub(crate) fn run(&self, plan: &Plan) -> Ended {
        let (running, pipes) = self.start(plan).expect("starts");
        finish(running, pipes)
    }

    pub(crate) fn shell(&self, script: &str) -> Ended {
        self.run(&self.plan(&["sh", "-c", script]))
    }

    pub(crate) fn error(&self, plan: &Plan) -> StageError {
        self.start(plan).expect_err("refused")
    }
}

#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) out: std::io::PipeReader,
    pub(crate) err: std::io::PipeReader,
}

pub(crate) fn pipes() -> (Stdio, Pipes) {
    let (out, stdout) = std::io::pipe().expect("pipe");
    let (err, stderr) = std::io::pipe().expect("pipe");
    let stdio = Stdio::Pipes {
        stdin: None,
        stdout: stdout.into(),
        stderr: stderr.into(),
    };
    (stdio, Pipes { out, err })
}

pub(crate) fn finish(running: Running, mut pipes: Pipes) -> Ended {
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

pub(crate) fn wait(pid: i32) -> i32 {
    match waitpid(Pid::from_raw(pid), None).expect("our child") {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("unexpected {other:?}"),
    }
}

/// Root as Docker has it.
pub(crate) fn process(args: &[&str]) -> Process {
    Process {
        capabilities: CapabilitySets {
            bounding: DEFAULT_CAPS,
            effective: DEFAULT_CAPS,
            permitted: DEFAULT_CAPS,
            inheritable: 0,
            ambient: 0,
        },
        oom_score_adj: Some(100),
        ..busybox::process(args)
    }
}

pub(crate) fn bind(path: &Path, target: &str) -> Mount {
    Mount {
        target: target.into(),
        source: MountSource::Bind {
            path: path.to_owned(),
            recursive: true,
            propagation: "rprivate".into(),
            subpath: String::new(),
        },
        flags: MountFlags::default(),
    }
}

pub(crate) const STRICT: MountFlags = MountFlags {
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

pub(crate) fn exec(process: &Process, target: &Running) -> Result<Ended, StageError> {
    let (stdio, pipes) = pipes();
    let running = stage::exec(process, identity(target), target.pidfd.as_fd(), stdio)?;
    Ok(finish(running, pipes))
}

pub(crate) fn identity(of: &Running) -> ProcessIdentity {
    ProcessIdentity {
        pid: of.pid,
        start_time: of.start_time,
    }
}

pub(crate) fn end(running: &Running) {
    rustix::process::pidfd_send_signal(&running.pidfd, rustix::process::Signal::KILL)
        .expect("signals");
    assert_eq!(wait(running.pid), 137);
}

/// Starts a process and leaves it alone.
pub(crate) fn exec_only(process: &Process, target: &Running) -> Result<(), StageError> {
    let (stdio, _pipes) = pipes();
    let running = stage::exec(process, identity(target), target.pidfd.as_fd(), stdio)?;
    let _ = rustix::process::pidfd_send_signal(&running.pidfd, rustix::process::Signal::KILL);
    wait(running.pid);
    Ok(())
}

/// As Docker's `container:X` for all that can be shared.
pub(crate) fn join(plan: &mut Plan, target: &Running) {
    let of = Namespace::Join(identity(target));
    plan.namespaces.user = of;
    plan.namespaces.pid = of;
    plan.namespaces.ipc = of;
    plan.namespaces.uts = of;
    plan.namespaces.net = of;
}
