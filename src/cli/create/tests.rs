//! From command lines to requests.

use std::ffi::OsString;

use serde_json::{Value, json};

use super::values::{bytes, cpus};
use crate::cli::args::{self, Verb};

/// The request of `moss run ARGUMENTS`.
fn request(line: &str) -> Result<Value, String> {
    let words = ["moss", "run"].into_iter().chain(line.split_whitespace());
    let words: Vec<OsString> = words.map(OsString::from).collect();
    match args::parse(&words) {
        Ok(parsed) => match parsed.verb {
            Verb::Run(run) => {
                let request = super::request(&run.container)?;
                serde_json::to_value(request).map_err(|error| error.to_string())
            }
            other => Err(format!("{other:?}")),
        },
        Err(error) => Err(error.to_string()),
    }
}

/// The parts of `whole` that `wanted` names.
fn project(whole: &Value, wanted: &Value) -> Value {
    match (whole, wanted) {
        (Value::Object(whole), Value::Object(wanted)) => wanted
            .iter()
            .map(|(key, wanted)| {
                let found = whole
                    .get(key)
                    .map_or(Value::Null, |found| project(found, wanted));
                (key.clone(), found)
            })
            .collect(),
        _ => whole.clone(),
    }
}

fn check(line: &str, wanted: &Value) {
    let found = request(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert_eq!(project(&found, wanted), *wanted, "{line}");
}

#[test]
fn flags_become_a_request() {
    check(
        "-it --rm --name n -e A=b -w /w -u 1:2 -h host debian:12 sh -c x",
        &json!({
            "Image": "debian:12", "Cmd": ["sh", "-c", "x"], "Tty": true, "OpenStdin": true,
            "StdinOnce": true, "AttachStdin": true, "AttachStdout": true, "Env": ["A=b"],
            "WorkingDir": "/w", "User": "1:2", "Hostname": "host", "Entrypoint": null,
            "HostConfig": {"AutoRemove": true, "NetworkMode": "default",
                "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}},
        }),
    );
    check(
        "-d -v /a:/b:ro -v named:/c -v /anonymous --tmpfs /t:size=1m --shm-size 128m img -it --rm",
        &json!({
            "Image": "img", "Cmd": ["-it", "--rm"], "Tty": false,
            "Volumes": {"/anonymous": {}},
            "HostConfig": {"AutoRemove": false, "Binds": ["/a:/b:ro", "named:/c"],
                "Tmpfs": {"/t": "size=1m"}, "ShmSize": 134_217_728},
        }),
    );
    check(
        "--network none --pid host --ipc=shareable --privileged --cap-add ALL --cap-drop=MKNOD \
         --ulimit nofile=1:2 --sysctl net.b=1 --init --read-only --oom-score-adj -5 --pids-limit -1 \
         --security-opt no-new-privileges --security-opt systempaths=unconfined --device /dev/fuse img",
        &json!({
            "NetworkingConfig": {"EndpointsConfig": {}},
            "HostConfig": {
                "NetworkMode": "none", "PidMode": "host", "IpcMode": "shareable", "Privileged": true,
                "CapAdd": ["ALL"], "CapDrop": ["MKNOD"], "Init": true, "ReadonlyRootfs": true,
                "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}], "Sysctls": {"net.b": "1"},
                "OomScoreAdj": -5, "PidsLimit": -1, "SecurityOpt": ["no-new-privileges"],
                "MaskedPaths": [], "ReadonlyPaths": [],
                "Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"}],
            },
        }),
    );
    check(
        "-m 1g --cpus 1.5 -p 8080:80 -p 127.0.0.1::53/udp -p 1-2:3-4 --expose 9 --restart on-failure:3 \
         --mount type=bind,src=/a,dst=/b,readonly --no-healthcheck --stop-timeout 3 img",
        &json!({
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "3/tcp": {}, "4/tcp": {}, "9/tcp": {}},
            "Healthcheck": {"Test": ["NONE"]}, "StopTimeout": 3,
            "HostConfig": {
                "Memory": 1 << 30, "NanoCpus": 1_500_000_000,
                "PortBindings": {
                    "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
                    "53/udp": [{"HostIp": "127.0.0.1", "HostPort": ""}],
                    "3/tcp": [{"HostIp": "", "HostPort": "1"}],
                    "4/tcp": [{"HostIp": "", "HostPort": "2"}],
                },
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
                "Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true}],
            },
        }),
    );
    // Truth values may be spelled out, entry points be taken away, options come after `--`.
    check(
        "--rm=false -i=true --entrypoint= -- img",
        &json!({"OpenStdin": true, "Entrypoint": [""], "HostConfig": {"AutoRemove": false}}),
    );
}

#[test]
fn what_makes_no_sense_is_refused_here() {
    for (line, sentence) in [
        (
            "--ulimit nofile=3:2 img",
            "must be less than or equal to hard limit",
        ),
        ("--mount type=bind,src=/a img", "target is required"),
        ("-p 1:2:3:4 img", "invalid IP address"),
        ("-p 80-70:80 img", "invalid hostPort"),
        (
            "--restart always --rm img",
            "cannot specify both --restart and --rm",
        ),
        (
            "--no-healthcheck --health-cmd x img",
            "conflicts with --health-*",
        ),
        ("-a nothing img", "valid streams are"),
        (
            "--env-file /nonexistent img",
            "open /nonexistent: no such file or directory",
        ),
        ("--nosuch img", "unknown flag: --nosuch"),
        ("-Z img", "unknown shorthand flag: 'Z' in -Z"),
        ("", "'moss run' requires at least 1 argument"),
    ] {
        let error = request(line).expect_err(line);
        assert!(error.contains(sentence), "{line}: {error}");
    }
}

#[test]
fn sizes_and_shares() {
    assert_eq!(bytes("1.5k"), Ok(1536));
    assert_eq!(bytes("2GiB"), Ok(2 << 30));
    assert_eq!(bytes("7b"), Ok(7));
    assert!(bytes("x").is_err() && bytes("").is_err() && bytes("1z").is_err());
    assert_eq!(cpus("0.05"), Ok(50_000_000));
    assert_eq!(cpus("2"), Ok(2_000_000_000));
    assert_eq!(cpus("0.1234567891"), Err("value is too precise".into()));
    assert!(cpus("").is_err() && cpus("-1").is_err());
}

#[test]
fn files_of_variables_and_profiles_are_read() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("env");
    std::fs::write(&file, "# comment\nA=1 2\n\nNOSUCHVARIABLE\n  B=\n").unwrap();
    let profile = root.path().join("seccomp.json");
    std::fs::write(&profile, "{ \"defaultAction\" : \"SCMP_ACT_ALLOW\" }").unwrap();
    let line = format!(
        "--env-file {} -e NOSUCHVARIABLE --security-opt seccomp={} img",
        file.display(),
        profile.display()
    );
    check(
        &line,
        &json!({
            "Env": ["A=1 2", "B=", "NOSUCHVARIABLE"],
            "HostConfig": {"SecurityOpt": ["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"]},
        }),
    );
}
