//! The image's configuration under the client's: moby's `daemon/commit.go`, `merge`, and what
//! follows from the result: arguments, environment, host name.

use std::collections::{HashMap, HashSet};

use super::{DEFAULT_PATH, Error};
use crate::api::container::{ContainerConfig, HealthConfig, HostConfig};
use crate::container::spec::modes::NetworkMode;

/// Puts the image's configuration under the client's. An entry point of the client's drops the
/// image's command; a list with one empty string drops the image's entry point.
pub fn merge(config: &mut ContainerConfig, image: &ContainerConfig) -> Result<(), Error> {
    inherit(&mut config.user, &image.user);
    inherit(&mut config.working_dir, &image.working_dir);
    inherit(&mut config.stop_signal, &image.stop_signal);
    for (port, empty) in image.exposed_ports.iter().flatten() {
        let ports = config.exposed_ports.get_or_insert_default();
        ports.entry(port.clone()).or_insert(*empty);
    }
    for (path, empty) in image.volumes.iter().flatten() {
        let volumes = config.volumes.get_or_insert_default();
        volumes.entry(path.clone()).or_insert(*empty);
    }
    let labels = config.labels.get_or_insert_default();
    for (label, value) in image.labels.iter().flatten() {
        labels.entry(label.clone()).or_insert_with(|| value.clone());
    }
    merge_environment(config, image);

    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&image.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    if config.entrypoint.as_deref() == Some(&[String::new()]) {
        config.entrypoint = None;
    }
    merge_health(&mut config.healthcheck, image.healthcheck.as_ref());
    if arguments(config).is_empty() {
        return Err(Error::NoCommand);
    }
    Ok(())
}

fn inherit(value: &mut String, from: &String) {
    if value.is_empty() {
        value.clone_from(from);
    }
}

/// The client's variables come first, in their order, then the image's that it did not name.
fn merge_environment(config: &mut ContainerConfig, image: &ContainerConfig) {
    let own = config.env.get_or_insert_default();
    let named: HashSet<String> = own.iter().map(|entry| key(entry).to_owned()).collect();
    let more = image.env.iter().flatten();
    own.extend(more.filter(|entry| !named.contains(key(entry))).cloned());
}

fn merge_health(own: &mut Option<HealthConfig>, image: Option<&HealthConfig>) {
    let Some(image) = image else { return };
    let Some(own) = own else {
        *own = Some(image.clone());
        return;
    };
    if own.test.as_ref().is_none_or(Vec::is_empty) {
        own.test.clone_from(&image.test);
    }
    for (value, from) in [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
        (&mut own.retries, image.retries),
    ] {
        if *value == 0 {
            *value = from;
        }
    }
}

/// Returns the program and its arguments.
pub(super) fn arguments(config: &ContainerConfig) -> Vec<String> {
    let entrypoint = config.entrypoint.iter().flatten();
    entrypoint
        .chain(config.cmd.iter().flatten())
        .cloned()
        .collect()
}

/// Returns the environment of a process with or without a terminal; an exec session has `more` over
/// the configuration's. Defaults come first and are replaced in place; a bare name takes one away.
pub fn environment(config: &ContainerConfig, tty: bool, more: &[String]) -> Vec<String> {
    let mut env = vec![
        format!("PATH={DEFAULT_PATH}"),
        format!("HOSTNAME={}", config.hostname),
    ];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    let overrides = config.env.iter().flatten().chain(more);
    // An image may have any number of them, so each is found by its name and not by search.
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut merged: Vec<Option<&String>> = Vec::new();
    for entry in env.iter().chain(overrides) {
        let place = *places.entry(key(entry).to_owned()).or_insert_with(|| {
            merged.push(None);
            merged.len() - 1
        });
        merged[place] = entry.contains('=').then_some(entry);
    }
    merged.into_iter().flatten().cloned().collect()
}

fn key(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(key, _)| key)
}

/// Returns the host name of a container: the one asked for, the host's on the host's network, that
/// of the container whose network is joined (`joined`), or the first 12 digits of its id.
pub fn hostname(
    config: &ContainerConfig,
    host: &HostConfig,
    id: &str,
    hosts_own: &str,
    joined: Option<&str>,
) -> String {
    if !config.hostname.is_empty() {
        return config.hostname.clone();
    }
    let short = id.get(..12).unwrap_or(id);
    match NetworkMode::parse(&host.network_mode) {
        NetworkMode::Host => hosts_own,
        NetworkMode::Container(_) => joined.unwrap_or(short),
        _ => short,
    }
    .to_owned()
}
