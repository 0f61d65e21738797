//! Tables of what is asked for and what comes of it. Requests are written as the JSON that clients
//! send, so that the wire types take part.

use serde_json::{Value, json};

use super::*;
use crate::userns::from_spec::{Context, spec_to_plan};
use crate::userns::plan::{IdMapping, MountSource, Plan, ProcessIdentity};

const FACTS: HostFacts = HostFacts {
    last_cap: 40,
    kernel: KernelVersion(6, 18),
    last_gid: 65535,
    has_mqueue: true,
    cpus: 2,
};
const OTHER: ProcessIdentity = ProcessIdentity {
    pid: 77,
    start_time: 5,
};

fn config(json: Value) -> ContainerConfig {
    let mut config: ContainerConfig = serde_json::from_value(json).unwrap();
    if config.hostname.is_empty() {
        config.hostname = "0123456789ab".to_owned();
    }
    if config.cmd.is_none() && config.entrypoint.is_none() {
        config.cmd = Some(vec!["sh".to_owned()]);
    }
    config
}

fn host(json: Value) -> HostConfig {
    serde_json::from_value(json).unwrap()
}

fn spec(config: &ContainerConfig, host: &HostConfig) -> Result<Spec, Error> {
    let joined = Some(Namespace::Join(OTHER));
    let file = EngineFile {
        source: "/state/hosts".into(),
        destination: "/etc/hosts".to_owned(),
    };
    let device = Device {
        host: "/dev/fuse".into(),
        container: "/dev/fuse".to_owned(),
        write: true,
        required: false,
    };
    build(&SpecInput {
        config,
        host,
        mounts: &[
            HostMount {
                source: "/home/u/data".into(),
                destination: "/srv/data".to_owned(),
                readonly: true,
                ..HostMount::default()
            },
            HostMount {
                source: "/home/u/srv".into(),
                destination: "/srv".to_owned(),
                propagation: "rslave".to_owned(),
                ..HostMount::default()
            },
        ],
        files: &[file],
        joined: Joined {
            pid: joined,
            ipc: joined,
            net: joined,
        },
        host_devices: &[device],
        facts: FACTS,
    })
}

fn plan(configuration: Value, host_configuration: Value) -> Plan {
    let spec = spec(&config(configuration), &host(host_configuration)).unwrap();
    // What is stored or handed to another runtime must survive JSON.
    let spec: Spec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
    let context = Context {
        id_map: IdMapping::default(),
        identities: &[OTHER],
        compile: &seccomp::compile,
    };
    spec_to_plan(&spec, context).unwrap()
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&word| word.to_owned()).collect()
}

/// One line a mount: target, source, flags.
fn lines(plan: &Plan) -> Vec<String> {
    let line = |mount: &crate::userns::plan::Mount| {
        let source = match &mount.source {
            MountSource::Filesystem { kind, options, .. } => format!("{kind} {options}"),
            MountSource::Bind {
                path,
                recursive,
                propagation,
            } => {
                let kind = if *recursive { "rbind" } else { "bind" };
                format!("{kind} {} {propagation}", path.display())
            }
            MountSource::FromHost { path } => format!("host {}", path.display()),
            MountSource::FromContainer { of, path } => {
                format!("of {} {}", of.pid, path.display())
            }
        };
        let flags: String = [
            (mount.flags.readonly, " ro"),
            (mount.flags.readonly_recursive, " rro"),
            (mount.flags.nosuid, " nosuid"),
            (mount.flags.nodev, " nodev"),
            (mount.flags.noexec, " noexec"),
        ]
        .into_iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| name)
        .collect();
        format!("{}: {}{flags}", mount.target, source.trim_end())
    };
    plan.mounts.iter().map(line).collect()
}

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
fn the_image_lies_under_the_client() {
    let image = || {
        serde_json::from_value::<ContainerConfig>(json!({
            "Entrypoint": ["/entry"], "Cmd": ["serve"], "Env": ["A=image", "B=image"],
            "User": "app", "WorkingDir": "/app", "StopSignal": "SIGINT",
            "Labels": {"l": "image", "m": "image"}, "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}},
            "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5000000},
        }))
        .unwrap()
    };
    for (client, args) in [
        (json!({}), &["/entry", "serve"][..]),
        (json!({"Cmd": ["a"]}), &["/entry", "a"]),
        // An entry point of one's own resets the image's command.
        (json!({"Entrypoint": ["/mine"]}), &["/mine"]),
        (
            json!({"Entrypoint": ["/mine"], "Cmd": ["a"]}),
            &["/mine", "a"],
        ),
        (json!({"Entrypoint": [""], "Cmd": ["a"]}), &["a"]),
        (json!({"Entrypoint": [], "Cmd": ["a"]}), &["a"]),
        (json!({"Entrypoint": []}), &["serve"]),
    ] {
        let mut config: ContainerConfig = serde_json::from_value(client.clone()).unwrap();
        merge(&mut config, &image()).unwrap();
        assert_eq!(merge::arguments(&config), args, "{client}");
    }
    let mut config: ContainerConfig = serde_json::from_value(json!({"Entrypoint": [""]})).unwrap();
    let error = merge(&mut config, &image()).unwrap_err();
    assert_eq!(error.to_string(), "no command specified");

    let mut config: ContainerConfig = serde_json::from_value(json!({
        "Env": ["B=mine", "C=mine"], "Labels": {"l": "mine"}, "Volumes": {"/more": {}},
        "User": "root", "Healthcheck": {"Retries": 2},
    }))
    .unwrap();
    merge(&mut config, &image()).unwrap();
    assert_eq!(config.env, Some(strings(&["B=mine", "C=mine", "A=image"])));
    assert_eq!(config.user, "root");
    assert_eq!(config.working_dir, "/app");
    assert_eq!(config.stop_signal, "SIGINT");
    let labels = serde_json::to_value(&config.labels).unwrap();
    assert_eq!(labels, json!({"l": "mine", "m": "image"}));
    assert_eq!(config.volumes.unwrap().len(), 2);
    assert_eq!(config.exposed_ports.unwrap().len(), 1);
    let health = config.healthcheck.unwrap();
    assert_eq!((health.interval, health.retries), (5_000_000, 2));
    assert_eq!(health.test, Some(strings(&["CMD", "x"])));
}

#[test]
fn names_of_hosts() {
    let id = "0123456789abcdef";
    let named = |config: Value, mode: &str, joined| {
        let config: ContainerConfig = serde_json::from_value(config).unwrap();
        hostname(
            &config,
            &host(json!({"NetworkMode": mode})),
            id,
            "laptop",
            joined,
        )
    };
    assert_eq!(named(json!({}), "", None), "0123456789ab");
    assert_eq!(named(json!({"Hostname": "box"}), "host", None), "box");
    assert_eq!(named(json!({}), "host", None), "laptop");
    assert_eq!(named(json!({}), "container:x", Some("other")), "other");
}

#[test]
fn an_exec_sessions_environment() {
    let config = config(json!({"Env": ["A=1", "B=2"]}));
    let env = environment(&config, true, &strings(&["B=3", "C=4"]));
    assert_eq!(
        env[1..],
        ["HOSTNAME=0123456789ab", "TERM=xterm", "A=1", "B=3", "C=4"]
    );
}

#[test]
fn refusals_are_in_dockers_words() {
    for (configuration, host_configuration, expected) in [
        (
            json!({"WorkingDir": "a"}),
            json!({}),
            "the working directory 'a' is invalid, it needs to be an absolute path",
        ),
        (
            json!({"StopSignal": "SIGFOO"}),
            json!({}),
            "invalid signal: SIGFOO",
        ),
        (
            json!({"Env": ["=a"]}),
            json!({}),
            "invalid environment variable: =a",
        ),
        (
            json!({"Healthcheck": {"Interval": 5}}),
            json!({}),
            "Interval in Healthcheck cannot be less than 1ms",
        ),
        (
            json!({}),
            json!({"CapAdd": ["foo"]}),
            "invalid CapAdd: unknown capability: \"CAP_FOO\"",
        ),
        (
            json!({}),
            json!({"CapDrop": ["foo"]}),
            "invalid CapDrop: unknown capability: \"CAP_FOO\"",
        ),
        (
            json!({}),
            json!({"SecurityOpt": ["foo"]}),
            "invalid --security-opt 1: \"foo\"",
        ),
        (
            json!({}),
            json!({"SecurityOpt": ["foo=bar"]}),
            "invalid --security-opt 2: \"foo=bar\"",
        ),
        (
            json!({}),
            json!({"SecurityOpt": ["no-new-privileges:maybe"]}),
            "invalid --security-opt 2: \"no-new-privileges:maybe\"",
        ),
        (
            json!({}),
            json!({"SecurityOpt": ["systempaths=x"]}),
            "invalid --security-opt 2: \"systempaths=x\"",
        ),
        (json!({}), json!({"IpcMode": "x"}), "invalid IPC mode: x"),
        (
            json!({}),
            json!({"PidMode": "container:"}),
            "invalid PID mode: container:",
        ),
        (json!({}), json!({"UTSMode": "x"}), "invalid UTS mode: x"),
        (
            json!({}),
            json!({"CgroupnsMode": "x"}),
            "invalid cgroup namespace mode: x",
        ),
        (
            json!({}),
            json!({"NetworkMode": "container:"}),
            "invalid network mode: invalid container format container:<name|id>",
        ),
        (
            json!({"Hostname": "a"}),
            json!({"NetworkMode": "container:x"}),
            "conflicting options: hostname and the network mode",
        ),
        (
            json!({"Hostname": "a"}),
            json!({"UTSMode": "host"}),
            "conflicting options: hostname and the UTS mode",
        ),
        (
            json!({}),
            json!({"NetworkMode": "container:x", "Dns": ["1.1.1.1"]}),
            "conflicting options: dns and the network mode",
        ),
        (
            json!({}),
            json!({"NetworkMode": "container:x", "PublishAllPorts": true}),
            "conflicting options: port publishing and the container type network mode",
        ),
        (
            json!({}),
            json!({"NetworkMode": "host", "Links": ["a:b"]}),
            "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
        ),
        (
            json!({"ExposedPorts": {"x/tcp": {}}}),
            json!({}),
            "invalid JSON: invalid port 'x': invalid syntax",
        ),
        (
            json!({}),
            json!({"PortBindings": {"65536": null}}),
            "invalid JSON: invalid port '65536': value out of range",
        ),
        (
            json!({}),
            json!({"PortBindings": {"0/tcp": null}}),
            "invalid port specification: \"0/tcp\"",
        ),
        (
            json!({}),
            json!({"PortBindings": {"80": [{"HostPort": "9-8"}]}}),
            "invalid port specification: \"9-8\"",
        ),
        (
            json!({}),
            json!({"Runtime": "nosuch"}),
            "unknown or invalid runtime name: nosuch",
        ),
        (
            json!({}),
            json!({"Tmpfs": {"a": ""}}),
            "invalid mount path: 'a' mount path must be absolute",
        ),
        (
            json!({}),
            json!({"Tmpfs": {"/a/..": ""}}),
            "invalid specification: destination can't be '/'",
        ),
        (
            json!({}),
            json!({"LogConfig": {"Type": "nosuch"}}),
            "logger: no log driver named 'nosuch' is registered",
        ),
        (
            json!({}),
            json!({"LogConfig": {"Type": "json-file", "Config": {"nosuch": "1"}}}),
            "unknown log opt 'nosuch' for json-file log driver",
        ),
        (
            json!({}),
            json!({"IOMaximumIOps": 1}),
            "invalid option: QoS maximum IOPs configuration is not supported on linux",
        ),
        (
            json!({}),
            json!({"CpuRealtimePeriod": 1}),
            "kernel does not support CPU real-time scheduler",
        ),
        (
            json!({}),
            json!({"AutoRemove": true, "RestartPolicy": {"Name": "always"}}),
            "can't create 'AutoRemove' container with restart policy",
        ),
        (
            json!({}),
            json!({"RestartPolicy": {"Name": "x"}}),
            "invalid restart policy: unknown policy 'x'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
        ),
        (
            json!({}),
            json!({"RestartPolicy": {"Name": "always", "MaximumRetryCount": 1}}),
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ),
        (
            json!({}),
            json!({"ExtraHosts": ["a"]}),
            "bad format for add-host: \"a\"",
        ),
        (
            json!({}),
            json!({"ExtraHosts": ["a:b"]}),
            "invalid IP address in add-host: \"b\"",
        ),
        (
            json!({}),
            json!({"ExtraHosts": ["a=1.2.3.4"]}),
            "bad format for add-host: \"a=1.2.3.4\"",
        ),
        (
            json!({}),
            json!({"ExtraHosts": ["a:[::1]"]}),
            "invalid IP address in add-host: \"[::1]\"",
        ),
        (
            json!({}),
            json!({"ShmSize": -1}),
            "SHM size can not be less than 0",
        ),
        (
            json!({}),
            json!({"OomScoreAdj": 1001}),
            "Invalid value 1001, range for oom score adj is [-1000, 1000]",
        ),
        (
            json!({}),
            json!({"Ulimits": [{"Name": "foo", "Soft": 1, "Hard": 1}]}),
            "invalid ulimit type: foo",
        ),
        (
            json!({}),
            json!({"Ulimits": [{"Name": "nofile", "Soft": 2, "Hard": 1}]}),
            "ulimit soft limit must be less than or equal to hard limit: 2 > 1",
        ),
        (
            json!({}),
            json!({"Isolation": "hyperv"}),
            "invalid isolation (hyperv): linux only supports 'default'",
        ),
    ] {
        let config: ContainerConfig = serde_json::from_value(configuration).unwrap();
        let error = validate(&config, &host(host_configuration), FACTS).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(!error.is_runtime());
    }
    let accepted = json!({
        "ExtraHosts": ["a:host-gateway", "b:::1"], "SecurityOpt": ["no-new-privileges=false"],
        "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": -1}],
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
    });
    validate(&ContainerConfig::default(), &host(accepted), FACTS).unwrap();
}

#[test]
fn refusals_at_the_start() {
    for (host_configuration, expected, runtime) in [
        (
            json!({"Sysctls": {"kernel.panic": "1"}}),
            "sysctl \"kernel.panic\" is not in a separate kernel namespace",
            true,
        ),
        (
            json!({"Sysctls": {"kernel.hostname": "x"}}),
            "sysctl \"kernel.hostname\" is not allowed as it conflicts with the OCI \"hostname\" field",
            true,
        ),
        (
            json!({"NetworkMode": "host", "Sysctls": {"net.core.somaxconn": "1"}}),
            "sysctl \"net.core.somaxconn\" not allowed in host network namespace",
            true,
        ),
        (
            json!({"IpcMode": "host", "Sysctls": {"fs.mqueue.msg_max": "1"}}),
            "sysctl \"fs.mqueue.msg_max\" is not allowed in the hosts ipc namespace",
            true,
        ),
        (
            json!({"Tmpfs": {"/t": "nope"}}),
            "invalid tmpfs option \"nope\"",
            false,
        ),
        (
            json!({"SecurityOpt": ["seccomp=nope"]}),
            "decoding seccomp profile failed: expected ident at line 1 column 2",
            false,
        ),
    ] {
        let error = spec(&config(json!({})), &host(host_configuration)).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.is_runtime()),
            (expected, runtime)
        );
    }
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
    let open = plan(
        json!({}),
        json!({"SecurityOpt": ["systempaths=unconfined"]}),
    );
    assert!(open.masked_paths.is_empty() && open.readonly_paths.is_empty());
}
