//! From the flags of `run` and `create` to the body of `POST /containers/create`.
//!
//! The rules are the docker CLI's (cli/command/container/opts.go): what a flag that was not given
//! leaves to the image, which values are checked here and which by the engine, what of the user's
//! own environment and files is read. Reading files is the only thing here that is not pure.

pub mod blkio;
pub mod devices;
mod flags;
pub mod network;
mod update;
pub mod values;

use std::collections::BTreeMap;
use std::env;
use std::path::Path;

use devices::{device, gpus, is_cdi};
pub use flags::ContainerFlags;
use network::networks;
pub use update::update;
pub use values::read_environment;
use values::{bytes, cpus, duration, extra_host, label_file, limit, mount, pairs, ports, restart};

use crate::api::Empty;
use crate::api::container::{
    BindOptions, ContainerConfig, CreateRequest, DeviceRequest, HealthConfig, HostConfig,
    LogConfig, Mount,
};
use crate::types::errno;

/// A list that is absent where nothing was said.
fn list(values: &[String]) -> Option<Vec<String>> {
    (!values.is_empty()).then(|| values.to_vec())
}

fn text(value: Option<&String>) -> String {
    value.cloned().unwrap_or_default()
}

/// The request that the flags describe.
///
/// # Errors
/// A sentence, as docker words it.
pub fn request(flags: &ContainerFlags) -> Result<CreateRequest, String> {
    let (image, command) = flags.words.split_first().ok_or("no image was named")?;
    let attached = Attached::of(flags)?;
    let (binds, volumes) = volumes(flags)?;
    let (exposed, published) = ports(&flags.publish, &flags.expose)?;
    let (networking, network_mode) = networks(flags)?;
    modes(flags)?;
    let config = ContainerConfig {
        hostname: text(flags.hostname.as_ref()),
        domainname: text(flags.domainname.as_ref()),
        user: text(flags.user.as_ref()),
        attach_stdin: attached.stdin,
        attach_stdout: attached.stdout,
        attach_stderr: attached.stderr,
        exposed_ports: (!exposed.is_empty()).then_some(exposed),
        tty: flags.tty,
        open_stdin: flags.interactive,
        stdin_once: flags.interactive && attached.stdin,
        env: Some(read_environment(&flags.env_file, &flags.env)?).filter(|env| !env.is_empty()),
        cmd: list(command),
        healthcheck: health(flags)?,
        image: image.clone(),
        volumes: (!volumes.is_empty()).then_some(volumes),
        working_dir: text(flags.workdir.as_ref()),
        entrypoint: flags.entrypoint.clone().map(|program| vec![program]),
        labels: Some(labels(flags)?),
        stop_signal: text(flags.stop_signal.as_ref()),
        stop_timeout: flags.stop_timeout,
        ..ContainerConfig::default()
    };
    let mut host_config = resources(flags)?;
    let (security_opt, unconfined_paths) = security(&flags.security_opt)?;
    host_config.binds = list(&binds);
    host_config.port_bindings = Some(published).filter(|ports| !ports.is_empty());
    host_config.network_mode = network_mode;
    host_config.security_opt = list(&security_opt);
    if unconfined_paths {
        host_config.masked_paths = Some(Vec::new());
        host_config.readonly_paths = Some(Vec::new());
    }
    if flags.rm && !matches!(host_config.restart_policy.name.as_str(), "" | "no") {
        return Err("conflicting options: cannot specify both --restart and --rm".into());
    }
    Ok(CreateRequest {
        config,
        host_config,
        networking_config: networking,
    })
}

/// Which of the container's streams its creator attaches to.
#[derive(Debug, Clone, Copy, Default)]
struct Attached {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl Attached {
    fn of(flags: &ContainerFlags) -> Result<Self, String> {
        let mut attached = Self::default();
        for stream in &flags.attach {
            match stream.to_ascii_lowercase().as_str() {
                "stdin" => attached.stdin = true,
                "stdout" => attached.stdout = true,
                _ => attached.stderr = true,
            }
        }
        if flags.attach.is_empty() {
            attached = Self {
                stdout: true,
                stderr: true,
                ..attached
            };
        }
        attached.stdin |= flags.interactive;
        Ok(attached)
    }
}

/// `-v`: binds with a source, and anonymous volumes.
fn volumes(flags: &ContainerFlags) -> Result<(Vec<String>, BTreeMap<String, Empty>), String> {
    let mut binds = Vec::new();
    let mut volumes = BTreeMap::new();
    for volume in &flags.volume {
        match volume.split_once(':') {
            // A source that starts with a dot is a path of the client's.
            Some((source, rest)) if source.starts_with('.') => {
                let source = std::path::absolute(source).map_or_else(
                    |_| source.to_owned(),
                    |path| tidy(&path).to_string_lossy().into_owned(),
                );
                binds.push(format!("{source}:{rest}"));
            }
            Some(_) => binds.push(volume.clone()),
            None if volume.is_empty() => return Err("invalid empty volume spec".into()),
            None => drop(volumes.insert(volume.clone(), Empty {})),
        }
    }
    Ok((binds, volumes))
}

/// Takes `..` out of an absolute path by its text, as Go's `filepath.Abs` does.
fn tidy(path: &Path) -> std::path::PathBuf {
    let mut tidy = std::path::PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(tidy.pop()),
            part => tidy.push(part),
        }
    }
    tidy
}

fn labels(flags: &ContainerFlags) -> Result<BTreeMap<String, String>, String> {
    let mut lines = Vec::new();
    for file in &flags.label_file {
        lines.extend(label_file(file)?);
    }
    lines.extend(flags.label.iter().cloned());
    Ok(pairs(&lines))
}

fn health(flags: &ContainerFlags) -> Result<Option<HealthConfig>, String> {
    let time = |text: &Option<String>, name: &str| -> Result<i64, String> {
        let nanos = text.as_deref().map_or(Ok(0), duration)?;
        if nanos < 0 {
            return Err(format!("--health-{name} cannot be negative"));
        }
        Ok(nanos)
    };
    let config = HealthConfig {
        test: flags
            .health_cmd
            .as_ref()
            .map(|command| vec!["CMD-SHELL".to_owned(), command.clone()]),
        interval: time(&flags.health_interval, "interval")?,
        timeout: time(&flags.health_timeout, "timeout")?,
        start_period: time(&flags.health_start_period, "start-period")?,
        start_interval: time(&flags.health_start_interval, "start-interval")?,
        retries: flags.health_retries.unwrap_or(0),
    };
    let given = config != HealthConfig::default();
    if flags.no_healthcheck {
        if given {
            return Err("--no-healthcheck conflicts with --health-* options".into());
        }
        return Ok(Some(HealthConfig {
            test: Some(vec!["NONE".into()]),
            ..HealthConfig::default()
        }));
    }
    if config.retries < 0 {
        return Err("--health-retries cannot be negative".into());
    }
    Ok(given.then_some(config))
}

/// `--security-opt`: profiles are read here; whether the paths of /proc are left open.
fn security(options: &[String]) -> Result<(Vec<String>, bool), String> {
    let mut unconfined_paths = false;
    let mut sent = Vec::new();
    for option in options {
        let (name, value) = option
            .split_once('=')
            .or_else(|| option.split_once(':'))
            .unwrap_or((option, ""));
        match (name, value) {
            ("systempaths", "unconfined") => unconfined_paths = true,
            ("seccomp", "unconfined" | "builtin") => sent.push(option.clone()),
            ("seccomp", file) => {
                let profile = std::fs::read(file).map_err(|error| {
                    let why = errno::text(&error);
                    format!("opening seccomp profile ({file}) failed: open {file}: {why}")
                })?;
                let profile: serde_json::Value =
                    serde_json::from_slice(&profile).map_err(|error| {
                        format!("compacting json for seccomp profile ({file}) failed: {error}")
                    })?;
                sent.push(format!("seccomp={profile}"));
            }
            ("no-new-privileges", _) | (_, "disable") => sent.push(option.clone()),
            (_, "") => return Err(format!("Invalid --security-opt: {option:?}")),
            _ => sent.push(option.clone()),
        }
    }
    Ok((sent, unconfined_paths))
}

/// Whether namespaces and the like are asked for in words that docker knows.
fn modes(flags: &ContainerFlags) -> Result<(), String> {
    let wrong = |given: &Option<String>, known: &[&str]| {
        given
            .as_deref()
            .is_some_and(|mode| !mode.is_empty() && !known.contains(&mode))
    };
    let of_another = |mode: &String| {
        mode.strip_prefix("container:")
            .is_some_and(|name| !name.is_empty())
    };
    if wrong(&flags.pid, &["host"]) && !flags.pid.as_ref().is_some_and(of_another) {
        return Err("--pid: invalid PID mode".into());
    }
    if wrong(&flags.uts, &["host"]) {
        return Err("--uts: invalid UTS mode".into());
    }
    // Those of ours that docker has not are the engine's to read.
    let ours = flags
        .userns
        .as_ref()
        .is_some_and(|mode| mode.starts_with("keep-id"));
    if wrong(&flags.userns, &["host"]) && !ours {
        return Err("--userns: invalid USER mode".into());
    }
    if wrong(&flags.cgroupns, &["host", "private"]) {
        return Err("--cgroupns: invalid CGROUP mode".into());
    }
    if let Some(swappiness) = flags.memory_swappiness
        && !(-1..=100).contains(&swappiness)
    {
        return Err(format!(
            "invalid value: {swappiness}. Valid memory swappiness range is 0-100"
        ));
    }
    if flags.log_driver.as_deref() == Some("none") && !flags.log_opt.is_empty() {
        return Err("invalid logging opts for driver none".into());
    }
    match flags.storage_opt.iter().all(|option| option.contains('=')) {
        true => Ok(()),
        false => Err("invalid storage option".into()),
    }
}

/// Where docker's command line has an engine's socket; the engine puts its own there.
const API_SOCKET: &str = "/var/run/docker.sock";

/// `--mount`, and what `--use-api-socket` adds.
fn mounts(flags: &ContainerFlags) -> Result<Option<Vec<Mount>>, String> {
    let mut mounts: Vec<Mount> = all(&flags.mount, mount)?.unwrap_or_default();
    if flags.use_api_socket {
        mounts.push(Mount {
            kind: "bind".into(),
            source: API_SOCKET.into(),
            target: API_SOCKET.into(),
            bind_options: Some(BindOptions::default()),
            ..Mount::default()
        });
    }
    Ok((!mounts.is_empty()).then_some(mounts))
}

/// Devices that are asked for by what they can do or by name.
fn device_requests(flags: &ContainerFlags) -> Result<Option<Vec<DeviceRequest>>, String> {
    let mut requests = all(&flags.gpus, gpus)?.unwrap_or_default();
    let named: Vec<String> = flags
        .device
        .iter()
        .filter(|it| is_cdi(it))
        .cloned()
        .collect();
    if !named.is_empty() {
        requests.push(DeviceRequest {
            driver: "cdi".into(),
            device_ids: Some(named),
            ..DeviceRequest::default()
        });
    }
    Ok((!requests.is_empty()).then_some(requests))
}

/// Every value of a flag; `None` where it was not given.
fn all<T>(
    values: &[String],
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<Vec<T>>, String> {
    let read: Vec<T> = values
        .iter()
        .map(|value| read(value))
        .collect::<Result<_, _>>()?;
    Ok((!read.is_empty()).then_some(read))
}

/// The rest: limits, namespaces, rights.
fn resources(flags: &ContainerFlags) -> Result<HostConfig, String> {
    let size = |value: &Option<String>| value.as_deref().map_or(Ok(0), bytes);
    let optional = |values: &[String]| (!values.is_empty()).then(|| pairs(values));
    let mut tmpfs = BTreeMap::new();
    for place in &flags.tmpfs {
        let (path, options) = place.split_once(':').unwrap_or((place, ""));
        tmpfs.insert(path.to_owned(), options.to_owned());
    }
    let devices = flags.device.iter().filter(|text| !is_cdi(text));
    let devices: Vec<_> = devices.map(|text| device(text)).collect::<Result<_, _>>()?;
    let memory_swap = match flags.memory_swap.as_deref() {
        Some("-1") => -1,
        _ => size(&flags.memory_swap)?,
    };
    Ok(HostConfig {
        container_id_file: text(flags.cidfile.as_ref()),
        log_config: LogConfig {
            kind: text(flags.log_driver.as_ref()),
            config: Some(pairs(&flags.log_opt)),
        },
        restart_policy: restart(flags.restart.as_deref().unwrap_or("no"))?,
        auto_remove: flags.rm,
        volume_driver: text(flags.volume_driver.as_ref()),
        volumes_from: list(&flags.volumes_from),
        annotations: optional(&flags.annotation),
        cap_add: list(&flags.cap_add),
        cap_drop: list(&flags.cap_drop),
        cgroupns_mode: text(flags.cgroupns.as_ref()),
        dns: list(&flags.dns),
        dns_options: list(&flags.dns_option),
        dns_search: list(&flags.dns_search),
        extra_hosts: all(&flags.add_host, extra_host)?,
        group_add: list(&flags.group_add),
        ipc_mode: text(flags.ipc.as_ref()),
        links: list(&flags.link),
        oom_score_adj: flags.oom_score_adj.unwrap_or(0),
        pid_mode: text(flags.pid.as_ref()),
        privileged: flags.privileged,
        publish_all_ports: flags.publish_all,
        readonly_rootfs: flags.read_only,
        storage_opt: optional(&flags.storage_opt),
        tmpfs: Some(tmpfs).filter(|places| !places.is_empty()),
        uts_mode: text(flags.uts.as_ref()),
        userns_mode: text(flags.userns.as_ref()),
        shm_size: size(&flags.shm_size)?,
        sysctls: optional(&flags.sysctl),
        runtime: text(flags.runtime.as_ref()),
        isolation: text(flags.isolation.as_ref()),
        blkio_weight: flags.blkio_weight.unwrap_or(0),
        blkio_weight_device: all(&flags.blkio_weight_device, blkio::weight)?,
        blkio_device_read_bps: all(&flags.device_read_bps, blkio::bytes_rate)?,
        blkio_device_write_bps: all(&flags.device_write_bps, blkio::bytes_rate)?,
        blkio_device_read_iops: all(&flags.device_read_iops, blkio::operations_rate)?,
        blkio_device_write_iops: all(&flags.device_write_iops, blkio::operations_rate)?,
        cpu_realtime_period: flags.cpu_rt_period.unwrap_or(0),
        cpu_realtime_runtime: flags.cpu_rt_runtime.unwrap_or(0),
        device_requests: device_requests(flags)?,
        cpu_shares: flags.cpu_shares.unwrap_or(0),
        memory: size(&flags.memory)?,
        nano_cpus: flags.cpus.as_deref().map_or(Ok(0), cpus)?,
        cgroup_parent: text(flags.cgroup_parent.as_ref()),
        cpu_period: flags.cpu_period.unwrap_or(0),
        cpu_quota: flags.cpu_quota.unwrap_or(0),
        cpuset_cpus: text(flags.cpuset_cpus.as_ref()),
        cpuset_mems: text(flags.cpuset_mems.as_ref()),
        devices: Some(devices).filter(|devices| !devices.is_empty()),
        device_cgroup_rules: list(&flags.device_cgroup_rule),
        memory_reservation: size(&flags.memory_reservation)?,
        memory_swap,
        memory_swappiness: flags.memory_swappiness,
        oom_kill_disable: flags.oom_kill_disable.then_some(true),
        pids_limit: flags.pids_limit,
        ulimits: all(&flags.ulimit, limit)?,
        mounts: mounts(flags)?,
        init: flags.init.then_some(true),
        ..HostConfig::default()
    })
}

/// The value of a variable of the user's own environment.
fn own_variable(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
