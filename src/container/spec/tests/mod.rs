//! Tables of what is asked for and what comes of it. Requests are written as the JSON that clients
//! send, so that the wire types take part.

mod merging;
mod plans;
mod refusals;

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
        defaults: &Defaults::default(),
        init: None,
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
                subpath,
            } => {
                let kind = if *recursive { "rbind" } else { "bind" };
                let path = path.join(subpath);
                format!(
                    "{kind} {} {propagation}",
                    path.display().to_string().trim_end_matches('/')
                )
            }
            MountSource::Layers { layers, subpath } => format!("{layers:?} {subpath}"),
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
