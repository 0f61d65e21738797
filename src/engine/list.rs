//! `docker ps`: which containers, in which words.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::api::container::{
    HealthSummary, PortSummary, Summary, SummaryHostConfig, SummaryNetworkSettings,
};
use crate::api::filters::Filters;
use crate::container::record::{Record, State};
use crate::engine::Engine;
use crate::engine::containers::Container;
use crate::engine::error::{Error, Kind, Result};
use crate::overlay::Driver;
use crate::types::timestamp::Timestamp;

/// What `GET /containers/json` asks for.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Those that do not run too.
    pub all: bool,
    /// At most this many, newest first, running or not.
    pub limit: Option<usize>,
    /// With sizes.
    pub size: bool,
    /// Only those that match.
    pub filters: Filters,
}

const FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

impl Engine {
    /// The containers that match, newest first.
    pub fn container_list(&self, options: &ListOptions) -> Result<Vec<Summary>> {
        let filters = &options.filters;
        filters
            .validate(FILTERS)
            .map_err(|error| Error::invalid(error.to_string()))?;
        let exited = exit_codes(filters)?;
        one_of(filters, "status", "state", STATES)?;
        let is_task = filters
            .bool_or("is-task", false)
            .map_err(|error| Error::invalid(error.to_string()))?;
        one_of(filters, "health", "health", HEALTH)?;
        let (published, exposed) = (
            port_filter(filters, "publish")?,
            port_filter(filters, "expose")?,
        );
        let by_port = !published.is_empty() || !exposed.is_empty();
        let has_port = |port: &PortSummary| {
            published
                .iter()
                .any(|wanted| wanted.matches(port.public_port, &port.kind))
                || exposed
                    .iter()
                    .any(|wanted| wanted.matches(port.private_port, &port.kind))
        };
        let bound = |name: &str| -> Result<Option<Timestamp>> {
            match filters.values(name).next() {
                Some(container) => Ok(Some(self.containers.find(container)?.data().record.created)),
                None => Ok(None),
            }
        };
        let (before, since) = (bound("before")?, bound("since")?);
        let ancestors: Vec<_> = filters
            .values("ancestor")
            .filter_map(|name| self.find_image(name).ok())
            .map(|image| image.id)
            .collect();
        // Docker does not look at those that do not run for `exited`.
        let all = options.all || options.limit.is_some() || filters.contains("status");
        let matches = |record: &Record| {
            (all || record.state.is_live())
                && !is_task
                && filters.matches_prefix("id", record.id.as_str())
                && (filters.matches_pattern("name", &record.name)
                    || filters.matches_pattern("name", &format!("/{}", record.name)))
                && filters.matches_labels(
                    "label",
                    record.config.labels.as_ref().unwrap_or(&BTreeMap::new()),
                )
                && filters.matches_exactly("status", record.state.as_str())
                && (exited.is_empty()
                    || matches!(record.state, State::Exited { exit, .. } if exited.contains(&exit.code)))
                && before.is_none_or(|bound| record.created < bound)
                && since.is_none_or(|bound| record.created > bound)
                && (!filters.contains("ancestor") || ancestors.contains(&record.image))
                && filters.matches_exactly("health", health_of(record).0)
                && (!by_port || super::networks::summary(record).iter().any(has_port))
                && (!filters.contains("network")
                    || super::networks::shown(record)
                        .iter()
                        .any(|(name, endpoint)| {
                            filters.values("network").any(|wanted| {
                                wanted == name || endpoint.network_id.starts_with(wanted)
                            })
                        }))
                && (!filters.contains("volume")
                    || record.mounts.iter().any(|point| {
                        filters.values("volume").any(|wanted| {
                            wanted == point.destination
                                || match &point.name {
                                    Some(name) => wanted == name,
                                    None => point.source.as_os_str() == wanted,
                                }
                        })
                    }))
        };
        let containers = self.containers.all();
        let found = containers
            .iter()
            .filter(|container| matches(&container.data().record));
        Ok(found
            .take(options.limit.unwrap_or(usize::MAX))
            .map(|container| self.summary(container, options.size))
            .collect())
    }

    fn summary(&self, container: &Arc<Container>, size: bool) -> Summary {
        let record = container.record();
        let (size_rw, size_root_fs) = if size {
            self.sizes(container, &record)
        } else {
            (0, 0)
        };
        Summary {
            id: record.id.as_str().to_owned(),
            names: vec![format!("/{}", record.name)],
            image: self.shown_image(&record),
            image_id: record.image.to_string(),
            command: command_line(&record),
            created: record.created.seconds(),
            size_rw,
            size_root_fs,
            labels: record.config.labels.clone().unwrap_or_default(),
            state: record.state.as_str().to_owned(),
            status: status(&record, Timestamp::now()),
            host_config: SummaryHostConfig {
                network_mode: record.host_config.network_mode.clone(),
                annotations: record.host_config.annotations.clone(),
            },
            ports: super::networks::summary(&record),
            network_settings: SummaryNetworkSettings {
                networks: super::networks::shown(&record),
            },
            mounts: record
                .mounts
                .iter()
                .map(super::inspect::mount_point)
                .collect(),
            health: Some(HealthSummary {
                status: health_of(&record).0.to_owned(),
                failing_streak: health_of(&record).1,
            }),
            ..Summary::default()
        }
    }

    /// The image as `ps` shows it: the name asked for, unless that name is another image's by now.
    fn shown_image(&self, record: &Record) -> String {
        match self.find_image(&record.image_name) {
            Ok(image) if image.id == record.image => record.image_name.clone(),
            _ => record.image.to_string(),
        }
    }

    /// Bytes in the writable layer, and those with the image's. A copy has the image's in its own
    /// directory, once it was started.
    pub(super) fn sizes(&self, container: &Container, record: &Record) -> (i64, i64) {
        let upper = super::containers::Paths(&container.directory).upper();
        let mut own = crate::sys::usage::disk_usage(&upper).unwrap_or(0);
        let image = self.images.size_of(&record.layers);
        if record.driver == Driver::Copy {
            own = own.saturating_sub(image);
        }
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        (signed(own), signed(own.saturating_add(image)))
    }
}

const STATES: &[&str] = &[
    "created",
    "running",
    "paused",
    "restarting",
    "removing",
    "exited",
    "dead",
];
const HEALTH: &[&str] = &["none", "starting", "healthy", "unhealthy"];

/// Refuses values of a filter that are none of these; `what` is Docker's word for them.
fn one_of(filters: &Filters, name: &str, what: &str, known: &[&str]) -> Result<()> {
    match filters.values(name).find(|value| !known.contains(value)) {
        Some(value) => Err(Error::invalid(format!(
            "invalid filter '{name}={value}': invalid value for {what} ({value}): must be one of {}",
            known.join(", ")
        ))),
        None => Ok(()),
    }
}

/// The exit codes that `exited` asks for.
fn exit_codes(filters: &Filters) -> Result<Vec<i32>> {
    let codes = filters.values("exited").map(|code| {
        code.parse().map_err(|error: std::num::ParseIntError| {
            use std::num::IntErrorKind::{NegOverflow, PosOverflow};
            let why = match error.kind() {
                PosOverflow | NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Error::invalid(format!(
                "invalid filter 'exited={code}': strconv.Atoi: parsing {code:?}: {why}"
            ))
        })
    });
    codes.collect()
}

/// The command as `ps` shows it: entrypoint and arguments, those with blanks quoted.
fn command_line(record: &Record) -> String {
    let (path, arguments) = super::inspect::path_and_arguments(record);
    let mut line = path;
    for argument in arguments {
        line.push(' ');
        if argument.contains(' ') {
            line.push_str(&format!("'{argument}'"));
        } else {
            line.push_str(&argument);
        }
    }
    line
}

/// Health and failures in a row.
fn health_of(record: &Record) -> (&str, i64) {
    match &record.health {
        Some(health) => (&health.status, health.failing_streak),
        None => ("none", 0),
    }
}

/// `Up 5 minutes`, `Exited (0) 3 seconds ago`, `Created` (moby, container/state.go).
fn status(record: &Record, now: Timestamp) -> String {
    let since =
        |nanos: i128| human(u64::try_from((now.nanos() - nanos) / 1_000_000_000).unwrap_or(0));
    match &record.state {
        State::Created { .. } => "Created".to_owned(),
        State::Running {
            started,
            paused: true,
        } => format!("Up {} (Paused)", since(started.at)),
        State::Running { started, .. } => {
            let health = match health_of(record).0 {
                "none" => "",
                "starting" => " (health: starting)",
                "unhealthy" => " (unhealthy)",
                _ => " (healthy)",
            };
            format!("Up {}{health}", since(started.at))
        }
        State::Restarting { exit, .. } => {
            format!("Restarting ({}) {} ago", exit.code, since(exit.at))
        }
        State::Exited { exit, .. } => format!("Exited ({}) {} ago", exit.code, since(exit.at)),
    }
}

/// `units.HumanDuration` of docker/go-units.
pub(super) fn human(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{minutes} minutes"),
        _ => match hours {
            0 | 1 => "About an hour".to_owned(),
            2..48 => format!("{hours} hours"),
            48..336 => format!("{} days", hours / 24),
            336..1440 => format!("{} weeks", hours / 24 / 7),
            1440..17520 => format!("{} months", hours / 24 / 30),
            _ => format!("{} years", hours / 24 / 365),
        },
    }
}

/// Ports of a filter: `80`, `80/udp`, `8000-8999/tcp`. A port that is not published has number 0.
struct WantedPorts {
    numbers: RangeInclusive<u16>,
    protocol: String,
}

impl WantedPorts {
    fn matches(&self, number: u16, protocol: &str) -> bool {
        self.numbers.contains(&number) && self.protocol == protocol
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let number = |digits: &str| match digits {
            "" => Err("value is empty"),
            // A sign is none of Go's.
            _ if !digits.bytes().all(|c| c.is_ascii_digit()) => Err("invalid syntax"),
            _ => digits.parse::<u16>().map_err(|_| "value out of range"),
        };
        if text.is_empty() {
            return Err("invalid port range: value is empty".to_owned());
        }
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, ""));
        let (start, end) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let first = number(start).map_err(|why| format!("invalid start port '{start}': {why}"))?;
        let last = number(end).map_err(|why| format!("invalid end port '{end}': {why}"))?;
        if last < first {
            return Err(format!("invalid port range: {text}"));
        }
        let protocol = match protocol {
            "" => "tcp".to_owned(),
            protocol => protocol.to_ascii_lowercase(),
        };
        Ok(Self {
            numbers: first..=last,
            protocol,
        })
    }
}

fn port_filter(filters: &Filters, name: &str) -> Result<Vec<WantedPorts>> {
    let parse = |value: &str| {
        if value.contains(':') {
            return Err(format!(
                "filter for '{name}' should not contain ':': {value}"
            ));
        }
        WantedPorts::parse(value)
            .map_err(|error| format!("error while looking up for {name} {value}: {error}"))
    };
    filters
        .values(name)
        .map(|value| parse(value).map_err(|error| Error::new(Kind::System, error)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_docker_writes_them() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (119, "About a minute"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (3 * 86400, "3 days"),
            (21 * 86400, "3 weeks"),
            (70 * 86400, "2 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(human(seconds), text);
        }
    }

    #[test]
    fn ports_of_a_filter() {
        let matches = |text: &str, number, protocol: &str| {
            WantedPorts::parse(text).map(|wanted| wanted.matches(number, protocol))
        };
        assert_eq!(matches("80", 80, "tcp"), Ok(true));
        assert_eq!(matches("80", 80, "udp"), Ok(false));
        assert_eq!(matches("80-90/UDP", 90, "udp"), Ok(true));
        assert_eq!(matches("80-90", 91, "tcp"), Ok(false));
        for (text, error) in [
            ("", "invalid port range: value is empty"),
            ("-1", "invalid start port '': value is empty"),
            ("+1", "invalid start port '+1': invalid syntax"),
            ("1-70000", "invalid end port '70000': value out of range"),
            ("9-8/tcp", "invalid port range: 9-8/tcp"),
        ] {
            assert_eq!(matches(text, 1, "tcp"), Err(error.to_owned()));
        }
    }
}
