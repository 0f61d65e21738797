//! What is refused, when, and in which words.

use super::*;

/// What is said of a host name of 65 bytes.
const LONG_HOSTNAME: &str = concat!(
    "hostname \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\" ",
    "is too long (maximum 64 bytes)"
);

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
        (
            json!({}),
            json!({"SecurityOpt": ["systempaths=unconfined"]}),
            "invalid --security-opt 2: \"systempaths=unconfined\"",
        ),
        (
            json!({}),
            json!({"SecurityOpt": ["writable-cgroups=x"]}),
            "invalid --security-opt 2: \"writable-cgroups=x\"",
        ),
        (
            json!({"Hostname": "x".repeat(65)}),
            json!({}),
            LONG_HOSTNAME,
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
            json!({"SecurityOpt": ["writable-cgroups"]}),
            "option WritableCgroups conflicts with user namespaces and rootless mode",
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
