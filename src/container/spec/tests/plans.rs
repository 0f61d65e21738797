//! What becomes of a request that is accepted: its plan.

use super::*;

#[test]
fn an_ordinary_container() {
    let plan = plan(json!({"User": "app"}), json!({}));
    assert_eq!(
        lines(&plan),
        [
            "/proc: proc nosuid nodev noexec",
            "/dev: tmpfs mode=755,size=65536k nosuid",
            "/dev/pts: devpts ptmxmode=0666,mode=0620,gid=5 nosuid noexec",
            "/sys: sysfs ro nosuid nodev noexec",
            "/sys/fs/cgroup: cgroup2 ro nosuid nodev noexec",
            "/dev/mqueue: mqueue nosuid nodev noexec",
            "/dev/shm: tmpfs mode=1777,size=67108864 nosuid nodev noexec",
            "/srv: rbind /home/u/srv rslave",
            "/etc/hosts: rbind /state/hosts rprivate",
            "/srv/data: rbind /home/u/data rprivate ro rro",
        ]
    );
    for namespace in [
        plan.namespaces.user,
        plan.namespaces.pid,
        plan.namespaces.ipc,
        plan.namespaces.uts,
        plan.namespaces.net,
        plan.namespaces.cgroup,
    ] {
        assert_eq!(namespace, Namespace::New);
    }
    assert_eq!(plan.hostname.as_deref(), Some("0123456789ab"));
    assert_eq!(plan.masked_paths, strings(&MASKED_PATHS));
    assert_eq!(plan.readonly_paths, strings(&READONLY_PATHS));
    assert!(plan.devices.is_empty() && !plan.init && !plan.root_readonly);
    let process = &plan.process;
    assert_eq!(process.args, ["sh"]);
    assert_eq!(
        process.env,
        [&format!("PATH={DEFAULT_PATH}"), "HOSTNAME=0123456789ab"]
    );
    assert_eq!((process.cwd.as_str(), process.user.as_str()), ("/", "app"));
    assert_eq!(process.capabilities.bounding, caps::DOCKER_DEFAULT);
    assert_eq!(process.capabilities.effective, caps::DOCKER_DEFAULT);
    assert_eq!(process.capabilities.ambient, 0);
    assert!(process.seccomp.is_some() && !process.no_new_privileges);
    assert_eq!(process.oom_score_adj, None);
    let sysctl = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        plan.sysctls,
        [
            sysctl("net.ipv4.ip_unprivileged_port_start", "0"),
            sysctl("net.ipv4.ping_group_range", "0 65535"),
        ]
    );
}

#[test]
fn a_privileged_container() {
    let plan = plan(
        json!({}),
        json!({"Privileged": true, "MaskedPaths": ["/x"]}),
    );
    assert!(plan.masked_paths.is_empty() && plan.readonly_paths.is_empty());
    assert!(plan.process.seccomp.is_none());
    assert_eq!(plan.process.capabilities.bounding, caps::all(40));
    assert_eq!(plan.devices[0].container, "/dev/fuse");
    assert!(lines(&plan).contains(&"/sys: sysfs nosuid nodev noexec".to_owned()));
    assert!(lines(&plan).contains(&"/sys/fs/cgroup: cgroup2 nosuid nodev noexec".to_owned()));
}

#[test]
fn namespaces_of_the_host() {
    let host = json!({
        "NetworkMode": "host", "PidMode": "host", "IpcMode": "host", "UTSMode": "host",
        "CgroupnsMode": "host", "UsernsMode": "host", "Init": true,
    });
    let plan = plan(json!({}), host);
    assert_eq!(plan.namespaces.user, Namespace::New);
    for namespace in [
        plan.namespaces.pid,
        plan.namespaces.ipc,
        plan.namespaces.uts,
        plan.namespaces.net,
        plan.namespaces.cgroup,
    ] {
        assert_eq!(namespace, Namespace::Host);
    }
    assert_eq!(plan.hostname, None);
    assert!(plan.sysctls.is_empty());
    // Our init is for a pid namespace of the container's own.
    assert!(!plan.init);
    let lines = lines(&plan);
    for line in [
        "/proc: host /proc nosuid nodev noexec",
        "/sys: host /sys ro rro nosuid nodev noexec",
        "/sys/fs/cgroup: host /sys/fs/cgroup ro nosuid nodev noexec",
        "/dev/mqueue: host /dev/mqueue nosuid nodev noexec",
        "/dev/shm: rbind /dev/shm rslave nosuid nodev noexec",
    ] {
        assert!(lines.iter().any(|l| l == line), "{line} in {lines:#?}");
    }
}

#[test]
fn namespaces_of_another_container() {
    let join = Namespace::Join(OTHER);
    for (host, user, net, pid) in [
        (
            json!({"NetworkMode": "container:x"}),
            join,
            join,
            Namespace::New,
        ),
        (
            json!({"PidMode": "container:x"}),
            join,
            Namespace::New,
            join,
        ),
        (
            json!({"NetworkMode": "none"}),
            Namespace::New,
            Namespace::New,
            Namespace::New,
        ),
    ] {
        let plan = plan(json!({}), host.clone());
        let namespaces = plan.namespaces;
        assert_eq!(
            (namespaces.user, namespaces.net, namespaces.pid),
            (user, net, pid),
            "{host}"
        );
    }
    // Loopback alone: nothing to open ports for.
    assert!(
        plan(json!({}), json!({"NetworkMode": "none"}))
            .sysctls
            .is_empty()
    );
    let unresolved = build(&SpecInput {
        config: &config(json!({})),
        host: &host(json!({"IpcMode": "container:x"})),
        mounts: &[],
        files: &[],
        joined: Joined::default(),
        host_devices: &[],
        facts: FACTS,
        defaults: &Defaults::default(),
        init: None,
    });
    assert!(matches!(
        unresolved,
        Err(Error::NotJoined(LinuxNamespaceType::Ipc))
    ));
}

#[test]
fn everything_about_the_process() {
    let config = json!({
        "Entrypoint": ["/run.sh"], "Cmd": ["a", "b"], "WorkingDir": "/app", "Tty": true,
        "Hostname": "box", "Domainname": "example.org", "User": "1:2",
        "Env": ["A=1", "PATH=/bin", "TERM"],
    });
    let host = json!({
        "ConsoleSize": [24, 80], "GroupAdd": ["audio", "7"], "OomScoreAdj": 500, "Init": true,
        "SecurityOpt": ["no-new-privileges", "seccomp=unconfined", "apparmor=x", "label:disable"],
        "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 2048}, {"Name": "core", "Soft": -1, "Hard": -1}],
        "CapDrop": ["ALL"], "CapAdd": ["chown"],
        "Sysctls": {"kernel.shmmax": "1", "net.ipv4.ip_unprivileged_port_start": "80"},
        "Devices": [{"PathOnHost": "/dev/tty", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}],
        "ReadonlyRootfs": true, "ShmSize": 1024, "MaskedPaths": [], "ReadonlyPaths": ["/proc/sys"],
    });
    let plan = plan(config, host);
    let process = &plan.process;
    assert_eq!(process.args, ["/run.sh", "a", "b"]);
    assert_eq!(process.env, ["PATH=/bin", "HOSTNAME=box", "A=1"]);
    assert_eq!(
        (process.cwd.as_str(), process.user.as_str()),
        ("/app", "1:2")
    );
    assert_eq!(process.groups, ["audio", "7"]);
    assert_eq!(
        (process.terminal, process.console_size),
        (true, Some((24, 80)))
    );
    assert_eq!(process.oom_score_adj, Some(500));
    assert!(process.no_new_privileges && process.seccomp.is_none() && plan.init);
    assert_eq!(process.capabilities.bounding, 1);
    let limits: Vec<_> = process
        .rlimits
        .iter()
        .map(|l| (l.name.as_str(), l.soft, l.hard))
        .collect();
    assert_eq!(
        limits,
        [
            ("RLIMIT_NOFILE", 1024, 2048),
            ("RLIMIT_CORE", u64::MAX, u64::MAX)
        ]
    );
    assert_eq!(plan.hostname.as_deref(), Some("box.example.org"));
    assert_eq!(plan.domainname.as_deref(), Some("example.org"));
    assert!(
        plan.sysctls
            .contains(&("net.ipv4.ip_unprivileged_port_start".into(), "80".into()))
    );
    assert!(plan.masked_paths.is_empty());
    assert_eq!(plan.readonly_paths, ["/proc/sys"]);
    assert!(plan.root_readonly);
    assert_eq!(plan.devices[0].host.to_str(), Some("/dev/tty"));
    assert_eq!(
        (plan.devices[0].container.as_str(), plan.devices[0].write),
        ("/dev/x", false)
    );
    let lines = lines(&plan);
    assert!(lines.contains(&"/dev/shm: tmpfs mode=1777,size=1024 nosuid nodev noexec".to_owned()));
    assert!(lines.contains(&"/etc/hosts: rbind /state/hosts rprivate ro rro".to_owned()));
}

#[test]
fn temporary_filesystems() {
    for (asked, expected) in [
        (
            json!({"Tmpfs": {"/t": ""}}),
            "/t: tmpfs nosuid nodev noexec",
        ),
        (
            json!({"Tmpfs": {"/t": "exec,size=1m,rw"}}),
            "/t: tmpfs size=1m nosuid nodev",
        ),
        (
            json!({"Tmpfs": {"/t": "size=1m,ro,size=2m"}}),
            "/t: tmpfs size=2m ro nosuid nodev noexec",
        ),
        (
            json!({"Mounts": [{"Type": "tmpfs", "Target": "/t", "ReadOnly": true,
                "TmpfsOptions": {"SizeBytes": 4096, "Mode": 511, "Options": [["exec"], ["uid", "5"]]}}]}),
            "/t: tmpfs mode=777,size=4096,uid=5 ro nosuid nodev",
        ),
        // The client's own /dev/shm, and an image's /etc/hosts.
        (
            json!({"Tmpfs": {"/dev/shm": "size=5m"}}),
            "/dev/shm: tmpfs size=5m nosuid nodev noexec",
        ),
        (
            json!({"Tmpfs": {"/etc/hosts": ""}}),
            "/etc/hosts: tmpfs nosuid nodev noexec",
        ),
    ] {
        let lines = lines(&plan(json!({}), asked.clone()));
        let path = expected.split(' ').next().unwrap();
        let found: Vec<_> = lines.iter().filter(|line| line.starts_with(path)).collect();
        assert_eq!(found, [expected], "{asked}");
    }
    // A /dev of the client's takes what belongs into ours away.
    let lines = lines(&plan(json!({}), json!({"Tmpfs": {"/dev": "dev"}})));
    assert!(
        !lines.iter().any(|line| line.starts_with("/dev/")),
        "{lines:#?}"
    );
    assert_eq!(plan(json!({}), json!({"IpcMode": "none"})).mounts.len(), 9);
}

#[test]
fn profiles_of_the_clients() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}],
    });
    for (option, privileged, has_filter) in [
        ("builtin".to_owned(), false, true),
        ("builtin".to_owned(), true, true),
        ("unconfined".to_owned(), false, false),
        (profile.to_string(), false, true),
        (profile.to_string(), true, true),
        ("{}".to_owned(), false, false),
    ] {
        let host = json!({"Privileged": privileged, "SecurityOpt": [format!("seccomp={option}")]});
        let plan = plan(json!({}), host);
        assert_eq!(
            plan.process.seccomp.is_some(),
            has_filter,
            "{option} {privileged}"
        );
    }
}

#[test]
fn what_is_not_said_is_as_the_daemon_has_it() {
    let defaults = Defaults {
        no_new_privileges: true,
        seccomp: SeccompProfile::Unconfined,
        ulimits: vec![
            Ulimit {
                name: "core".to_owned(),
                hard: 2,
                soft: 1,
            },
            Ulimit {
                name: "nofile".to_owned(),
                hard: 4,
                soft: 3,
            },
        ],
        init: true,
    };
    let made = |wanted: Value, init: Option<&Path>| {
        build(&SpecInput {
            config: &config(json!({"Cmd": ["x", "y"]})),
            host: &host(wanted),
            mounts: &[],
            files: &[],
            joined: Joined::default(),
            host_devices: &[],
            facts: FACTS,
            defaults: &defaults,
            init,
        })
        .unwrap()
    };
    let shown = |spec: &Spec| {
        let process = spec.process().as_ref().unwrap();
        let limits = process.rlimits().as_ref().unwrap().iter();
        (
            process.no_new_privileges().unwrap(),
            spec.linux().as_ref().unwrap().seccomp().is_some(),
            limits.map(PosixRlimit::soft).collect::<Vec<_>>(),
            process.args().clone().unwrap(),
            spec.annotations()
                .as_ref()
                .unwrap()
                .contains_key(ANNOTATION_INIT),
        )
    };
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|&word| word.to_owned())
            .collect::<Vec<_>>()
    };
    let own = words(&["x", "y"]);
    let unsaid = shown(&made(json!({}), None));
    assert_eq!(unsaid, (true, false, vec![1, 3], own.clone(), true));
    let said = json!({
        "SecurityOpt": ["no-new-privileges=false", "seccomp=builtin"],
        "Ulimits": [{"Name": "nofile", "Soft": 7, "Hard": 7}], "Init": false,
    });
    let said = shown(&made(said, Some(Path::new("/host/init"))));
    assert_eq!(said, (false, true, vec![7, 1], own.clone(), false));
    // A program of the host's in place of ours; none where there is an init already.
    let bound = made(json!({}), Some(Path::new("/host/init")));
    assert_eq!(
        shown(&bound).3,
        words(&["/sbin/docker-init", "--", "x", "y"])
    );
    let mounts = bound.mounts().as_ref().unwrap();
    let there = mounts
        .iter()
        .find(|mount| mount.destination().ends_with("docker-init"));
    assert_eq!(
        there.unwrap().source().as_deref(),
        Some(Path::new("/host/init"))
    );
    let shared = shown(&made(
        json!({"PidMode": "host"}),
        Some(Path::new("/host/init")),
    ));
    assert_eq!((shared.3, shared.4), (own, false));
}
