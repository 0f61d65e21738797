//! What can be refused when a container is made, without a look at the host or other containers.
//!
//! The checks, in moby's order: `runconfig/hostconfig_unix.go`, `verifyContainerSettings`,
//! `validateHostConfig`, `verifyPlatformContainerSettings`, `mergeAndVerifyLogConfig`. What the
//! client sent is judged, before the image's configuration is under it. Volumes and binds are judged
//! where they are resolved.

use std::net::IpAddr;
use std::str::FromStr;

use super::modes::{Mode, NetworkMode};
use super::{Error, HostFacts, SecurityOptions, log, ports, resources, rlimit};
use crate::api::container::{ContainerConfig, HealthConfig, HostConfig, RestartPolicy};
use crate::types::signal::Signal;
use crate::userns::caps;

/// Names by which clients ask for the one runtime that there is.
const RUNTIMES: [&str; 4] = ["", "moss", "runc", "io.containerd.runc.v2"];

/// Shortest time between health checks and the like, in nanoseconds.
const SHORTEST: i64 = 1_000_000;

/// Longest host name that Linux has, in bytes.
const HOSTNAME_MAX: usize = 64;

/// Refuses what makes no container.
pub fn validate(
    config: &ContainerConfig,
    host: &HostConfig,
    facts: HostFacts,
) -> Result<(), Error> {
    ports::check_names(config, host)?;
    conflicts(config, host)?;
    foreign(host)?;
    configuration(config)?;
    common(host, facts)?;
    if config.hostname.len() > HOSTNAME_MAX {
        return invalid(format!(
            "hostname {:?} is too long (maximum {HOSTNAME_MAX} bytes)",
            config.hostname
        ));
    }
    of_this_platform(host, facts)
}

fn invalid<T>(text: impl Into<String>) -> Result<T, Error> {
    Err(Error::Invalid(text.into()))
}

/// Options that contradict each other.
fn conflicts(config: &ContainerConfig, host: &HostConfig) -> Result<(), Error> {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let undefined = "can't be used with links. This would result in undefined behavior";
    let network = NetworkMode::parse(&host.network_mode);
    if let NetworkMode::Container(name) = network {
        if name.is_empty() {
            return invalid("invalid network mode: invalid container format container:<name|id>");
        }
        let published = host.publish_all_ports
            || host
                .port_bindings
                .as_ref()
                .is_some_and(|map| !map.is_empty());
        let exposed = config
            .exposed_ports
            .as_ref()
            .is_some_and(|map| !map.is_empty());
        for (conflict, text) in [
            (!config.hostname.is_empty(), "hostname and the network mode"),
            (
                some(&host.links),
                "container type network can't be used with links. This would result in undefined \
                 behavior",
            ),
            (some(&host.dns), "dns and the network mode"),
            (
                some(&host.extra_hosts),
                "custom host-to-IP mapping and the network mode",
            ),
            (
                published,
                "port publishing and the container type network mode",
            ),
            (exposed, "port exposing and the container type network mode"),
        ] {
            if conflict {
                return invalid(format!("conflicting options: {text}"));
            }
        }
    }
    if host.uts_mode == "host" && !config.hostname.is_empty() {
        return invalid("conflicting options: hostname and the UTS mode");
    }
    if network == NetworkMode::Host && some(&host.links) {
        return invalid(format!(
            "conflicting options: host type networking {undefined}"
        ));
    }
    Ok(())
}

/// What only other systems have.
fn foreign(host: &HostConfig) -> Result<(), Error> {
    let quality = |what| {
        invalid(format!(
            "invalid option: QoS maximum {what} configuration is not supported on linux"
        ))
    };
    if !matches!(host.isolation.to_lowercase().as_str(), "" | "default") {
        return invalid(format!(
            "invalid isolation ({}): linux only supports 'default'",
            host.isolation
        ));
    }
    if host.io_maximum_bandwidth != 0 {
        return quality("bandwidth");
    }
    if host.io_maximum_iops != 0 {
        return quality("IOPs");
    }
    // The kernel has none in a cgroup of version 2.
    if host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0 {
        return invalid("kernel does not support CPU real-time scheduler");
    }
    if host.cpu_shares < 0 {
        return invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            host.cpu_shares
        ));
    }
    Ok(())
}

fn configuration(config: &ContainerConfig) -> Result<(), Error> {
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        ));
    }
    if !config.stop_signal.is_empty()
        && let Err(error) = Signal::from_str(&config.stop_signal)
    {
        return invalid(error.to_string());
    }
    for entry in config.env.iter().flatten() {
        if entry.split('=').next().is_none_or(str::is_empty) {
            return invalid(format!("invalid environment variable: {entry}"));
        }
    }
    config.healthcheck.as_ref().map_or(Ok(()), health)
}

fn health(health: &HealthConfig) -> Result<(), Error> {
    for (value, name) in [
        (health.interval, "Interval"),
        (health.timeout, "Timeout"),
        (health.start_period, "StartPeriod"),
        (health.start_interval, "StartInterval"),
    ] {
        if value != 0 && value < SHORTEST {
            return invalid(format!("{name} in Healthcheck cannot be less than 1ms"));
        }
    }
    if health.retries < 0 {
        return invalid("Retries in Healthcheck cannot be negative");
    }
    Ok(())
}

/// What is wrong on any system.
fn common(host: &HostConfig, facts: HostFacts) -> Result<(), Error> {
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
        return invalid("can't create 'AutoRemove' container with restart policy");
    }
    for entry in host.extra_hosts.iter().flatten() {
        extra_host(entry)?;
    }
    ports::check_bindings(host)?;
    restart_policy(&host.restart_policy)?;
    caps::tweak(
        host.cap_add.as_deref().unwrap_or_default(),
        host.cap_drop.as_deref().unwrap_or_default(),
        false,
        facts.last_cap,
    )?;
    if host
        .annotations
        .iter()
        .flatten()
        .any(|(key, _)| key.is_empty())
    {
        return invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        );
    }
    Ok(())
}

/// What is wrong on Linux.
fn of_this_platform(host: &HostConfig, facts: HostFacts) -> Result<(), Error> {
    resources::check(host, facts.cpus)?;
    Mode::ipc(&host.ipc_mode)?;
    Mode::pid(&host.pid_mode)?;
    if host.shm_size < 0 {
        return invalid("SHM size can not be less than 0");
    }
    Mode::uts(&host.uts_mode)?;
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        ));
    }
    Mode::user(&host.userns_mode)?;
    if !RUNTIMES.contains(&host.runtime.as_str()) {
        return invalid(format!("unknown or invalid runtime name: {}", host.runtime));
    }
    for destination in host.tmpfs.iter().flat_map(|map| map.keys()) {
        tmpfs_destination(destination)?;
    }
    Mode::cgroup(&host.cgroupns_mode)?;
    log::validate(&host.log_config)?;
    SecurityOptions::parse(host.security_opt.as_deref().unwrap_or_default(), false)?;
    for limit in host.ulimits.iter().flatten() {
        rlimit(limit)?;
    }
    Ok(())
}

fn tmpfs_destination(destination: &str) -> Result<(), Error> {
    let clean = crate::types::path::clean(destination);
    if clean == "/" && destination.starts_with('/') {
        return invalid("invalid specification: destination can't be '/'");
    }
    if !destination.starts_with('/') {
        return invalid(format!(
            "invalid mount path: '{destination}' mount path must be absolute"
        ));
    }
    Ok(())
}

/// `name:address`; clients have made that of whatever their users wrote.
fn extra_host(entry: &str) -> Result<(), Error> {
    let bad = || invalid(format!("bad format for add-host: {entry:?}"));
    let Some((name, address)) = entry.split_once(':') else {
        return bad();
    };
    if name.is_empty() {
        return bad();
    }
    let bare = address.trim();
    if address != "host-gateway" && bare.parse::<IpAddr>().is_err() {
        return invalid(format!("invalid IP address in add-host: {address:?}"));
    }
    Ok(())
}

fn restart_policy(policy: &RestartPolicy) -> Result<(), Error> {
    let retries = policy.maximum_retry_count;
    match policy.name.as_str() {
        "no" | "always" | "unless-stopped" if retries != 0 => {
            let more = if retries < 0 {
                " and cannot be negative"
            } else {
                ""
            };
            invalid(format!(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'{more}"
            ))
        }
        "on-failure" if retries < 0 => {
            invalid("invalid restart policy: maximum retry count cannot be negative")
        }
        "" | "no" | "always" | "unless-stopped" | "on-failure" => Ok(()),
        name => invalid(format!(
            "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', \
             'on-failure', or 'unless-stopped'"
        )),
    }
}
