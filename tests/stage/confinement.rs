//! What its processes may do, and as whom.

use crate::world::{World, end, exec, join, pipes, process, strings};
use moss::userns::plan::{CapabilitySets, FilterInstruction, Rlimit};
use moss::userns::stage::{self, Origin};

pub(crate) fn ordinary(world: &World) {
    let ended =
        world.shell("id -u; id -g; echo $$; hostname; pwd; echo $HOME; echo oops >&2; exit 3");
    assert_eq!(ended.out, "0\n0\n1\nbox\n/\n/root\n");
    assert_eq!(ended.err, "oops\n");
    assert_eq!(ended.code, 3);
    assert!(ended.running.notes.is_empty(), "{:?}", ended.running.notes);
}

pub(crate) fn users(world: &World) {
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

pub(crate) fn unmapped_user(world: &World) {
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

pub(crate) fn capabilities(world: &World) {
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
pub(crate) fn forbid(call: i64, errno: u32) -> Vec<FilterInstruction> {
    let call = u32::try_from(call).expect("a system call number");
    vec![
        FilterInstruction(0x20, 0, 0, 0),
        FilterInstruction(0x15, 0, 1, call),
        FilterInstruction(0x06, 0, 0, 0x0005_0000 | errno),
        FilterInstruction(0x06, 0, 0, 0x7fff_0000),
    ]
}

pub(crate) fn seccomp_filter(world: &World) {
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

pub(crate) fn descriptors(world: &World) {
    // One that is deliberately left open across execve, as a careless library would.
    let leak = std::fs::File::open("/").expect("opens");
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).expect("set");
    let ended = world.shell("cd /proc/self/fd; echo *");
    // The shell opens its own directory for the pattern.
    assert_eq!(ended.out, "0 1 2 3\n");
    let plan = world.plan(&["readlink", "/proc/self/fd/0"]);
    assert_eq!(world.run(&plan).out, "/dev/null\n");
}

pub(crate) fn not_inspectable(world: &World) {
    // A container waits for its program in the pid namespace of another, whose root looks at it.
    let target = world
        .start(&world.plan(&["sleep", "60"]))
        .expect("starts")
        .0;
    let mut plan = world.plan(&["true"]);
    join(&mut plan, &target);
    let (stdio, _pipes) = pipes();
    let ready = stage::spawn(&plan, world.rootfs(&world.fresh()), Vec::new(), stdio)
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

pub(crate) fn everything() -> CapabilitySets {
    CapabilitySets {
        bounding: u64::MAX,
        effective: u64::MAX,
        permitted: u64::MAX,
        inheritable: 0,
        ambient: 0,
    }
}

pub(crate) fn limits(world: &World) {
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

pub(crate) fn working_directory(world: &World) {
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
