//! Verbs on containers that answer at once: `ps`, `stop`, `kill`, `rm`, `logs`, `top` and the like.

use std::io::{self, Read};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::args;
use super::create::values;
use super::engine::Client;
use super::error::{describe, is_not_found};
use super::filters::filters;
use super::http::{Body, Target};
use super::output::{each, line};
use super::prune::{confirm, pruned};
use super::streams::Demux;
use super::table::{Shape, ago, align, date, ellipsis, labels, natural, short, size, span};
use crate::api::container::{
    HostConfig, Inspect, PortBinding, PortSummary, PruneResponse, Summary, TopResponse,
    UpdateResponse,
};
use crate::api::descriptor::Descriptor;
use crate::api::stream::MULTIPLEXED;
use crate::template::{Missing, Template};
use crate::types::timestamp::Timestamp;

/// Fields of a container's row, and their headings.
pub const HEADINGS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

/// `moss ps`.
pub fn ps(client: &Client, ps: &args::Ps) -> Result<()> {
    let last = if ps.latest { Some(1) } else { ps.last };
    let format = ps.listing.format.as_deref();
    try_out(format.unwrap_or_default())?;
    let sizes = ps.size || format.is_some_and(|format| format.contains(".Size"));
    let mut target = Target::new("/containers/json", &[])
        .with_flag("all", ps.all)
        .with_flag("size", sizes)
        .with_some("filters", &filters(&ps.listing.filter)?);
    if let Some(last) = last.filter(|last| *last > 0) {
        target = target.with("limit", last);
    }
    let containers: Vec<Summary> = client.get(&target)?;
    let rows: Vec<Value> = containers
        .iter()
        .map(|c| row(c, ps.listing.no_trunc))
        .collect();
    let mut columns = vec![
        "ID",
        "Image",
        "Command",
        "RunningFor",
        "Status",
        "Ports",
        "Names",
    ];
    if ps.size {
        columns.push("Size");
    }
    let shape = Shape {
        headings: HEADINGS,
        columns,
        key: "ID",
        row: ROW,
    };
    shape.print(&rows, format, ps.listing.quiet)
}

/// Docker's type of a row.
const ROW: &str = "*formatter.ContainerContext";

/// Fills a template in for a container that is not there, as docker does before it asks.
fn try_out(format: &str) -> Result<()> {
    let template =
        Template::parse(format).map_err(|error| anyhow!("failed to parse template: {error}"))?;
    template
        .render(&row(&Summary::default(), false), Missing::Field(ROW))
        .map(drop)
        .map_err(|error| anyhow!("failed to execute template: {error}"))
}

/// A container in a list.
pub fn row(container: &Summary, full: bool) -> Value {
    let cut = |text: &str, length| {
        if full {
            text.to_owned()
        } else {
            ellipsis(text, length)
        }
    };
    let names: Vec<&str> = container
        .names
        .iter()
        .map(|name| name.strip_prefix('/').unwrap_or(name))
        // Names by way of a link hold another slash.
        .filter(|name| full || !name.contains('/'))
        .collect();
    let mounts: Vec<String> = container
        .mounts
        .iter()
        .map(|mount| {
            if mount.name.is_empty() {
                &mount.source
            } else {
                &mount.name
            }
        })
        .map(|name| cut(name, 15))
        .collect();
    let volumes = container
        .mounts
        .iter()
        .filter(|mount| mount.driver == "local")
        .count();
    let networks: Vec<&str> = container
        .network_settings
        .networks
        .keys()
        .map(String::as_str)
        .collect();
    let image = match container.image.strip_prefix("sha256:") {
        Some(id) if !full => short(id),
        _ if container.image.is_empty() => "<no image>",
        _ => &container.image,
    };
    let command = format!("\"{}\"", cut(&container.command, 20));
    let mut sizes = size(container.size_rw);
    if container.size_root_fs > 0 {
        sizes.push_str(&format!(" (virtual {})", size(container.size_root_fs)));
    }
    json!({
        "ID": if full { &container.id } else { short(&container.id) },
        "Names": names.join(","),
        "Image": image,
        "Command": command,
        "CreatedAt": date(container.created),
        "RunningFor": format!("{} ago", span(ago(container.created))),
        "Ports": ports(container),
        "State": container.state,
        "Status": container.status,
        "Size": sizes,
        "Labels": labels(&container.labels),
        "Mounts": mounts.join(","),
        "LocalVolumes": volumes.to_string(),
        "Networks": networks.join(","),
        // Of the image's manifest, where there is one.
        "Platform": container.image_manifest_descriptor.as_ref().map(platform),
    })
}

/// A platform as `os(version)/architecture/variant`.
fn platform(of: &Descriptor) -> String {
    let Some(platform) = &of.platform else {
        return String::new();
    };
    let mut text = platform.os.clone();
    if !platform.os_version.is_empty() {
        text.push_str(&format!("({})", platform.os_version));
    }
    for part in [&platform.architecture, &platform.variant] {
        if !part.is_empty() {
            text.push_str(&format!("/{part}"));
        }
    }
    text
}

/// Ports as docker lists them: first those that are the same on both sides or not published, in
/// runs, then the mapped ones.
fn ports(container: &Summary) -> String {
    let mut ports: Vec<&PortSummary> = container.ports.iter().collect();
    ports.sort_by_key(|port| (port.private_port, &port.ip, port.public_port, &port.kind));
    let address = |ip: &str, ports: &str| match ip.contains(':') {
        true => format!("[{ip}]:{ports}"),
        false => format!("{ip}:{ports}"),
    };
    let run = |(ip, kind, first, last): &(&str, &str, u16, u16)| {
        let numbers = match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        match ip.is_empty() {
            true => format!("{numbers}/{kind}"),
            false => format!("{}->{numbers}/{kind}", address(ip, &numbers)),
        }
    };
    let (mut runs, mut listed, mut mapped) = (Vec::new(), Vec::new(), Vec::new());
    for port in ports {
        let (number, ip, kind) = (port.private_port, port.ip.as_str(), port.kind.as_str());
        if !ip.is_empty() && port.public_port != number {
            let outside = address(ip, &port.public_port.to_string());
            mapped.push(format!("{outside}->{number}/{kind}"));
            continue;
        }
        let known = runs
            .iter_mut()
            .find(|(of, its, ..): &&mut (&str, &str, u16, u16)| (*of, *its) == (ip, kind));
        match known {
            None => runs.push((ip, kind, number, number)),
            Some((.., last)) if number == last.saturating_add(1) => *last = number,
            Some(ended) => {
                listed.push(run(ended));
                *ended = (ip, kind, number, number);
            }
        }
    }
    listed.extend(runs.iter().map(run));
    listed.extend(mapped);
    listed.join(", ")
}

/// `moss stop` and `moss restart`: `verb` is the route's.
pub fn stop(client: &Client, stop: &args::Stop, verb: &str) -> Result<()> {
    each(&stop.names, |name| {
        let mut target = Target::new(&format!("/containers/{{}}/{verb}"), &[name])
            .with_some("signal", stop.signal.as_deref().unwrap_or_default());
        if let Some(timeout) = stop.timeout {
            target = target.with("t", timeout);
        }
        client.act(&target)?;
        Ok(name.to_owned())
    })
}

/// `moss kill`.
pub fn kill(client: &Client, kill: &args::Kill) -> Result<()> {
    each(&kill.names, |name| {
        let signal = kill.signal.as_deref().unwrap_or_default();
        client.act(&Target::new("/containers/{}/kill", &[name]).with_some("signal", signal))?;
        Ok(name.to_owned())
    })
}

/// `moss rm`.
pub fn remove(client: &Client, rm: &args::Rm) -> Result<()> {
    each(&rm.names, |name| {
        let name = name.trim_matches('/');
        let target = Target::new("/containers/{}", &[name])
            .with_flag("force", rm.force)
            .with_flag("link", rm.link)
            .with_flag("v", rm.volumes);
        match client.bytes("DELETE", &target, Body::Empty) {
            // What is to be gone by force is gone.
            Err(error) if rm.force && is_not_found(&error) => {
                super::output::complain(&describe(&error));
                Ok(String::new())
            }
            Err(error) => Err(error),
            Ok(_) => Ok(name.to_owned()),
        }
    })
}

/// `moss pause` and `moss unpause`: `verb` is the route's.
pub fn pause(client: &Client, names: &args::Names, verb: &str) -> Result<()> {
    each(&names.names, |name| {
        client.act(&Target::new(&format!("/containers/{{}}/{verb}"), &[name]))?;
        Ok(name.to_owned())
    })
}

/// `moss port`: where a container's ports are published.
pub fn port(client: &Client, port: &args::Port) -> Result<()> {
    let found: Inspect = client.get(&Target::new("/containers/{}/json", &[&port.container]))?;
    let ports = found.network_settings.ports;
    let address = |place: &PortBinding| match place.host_ip.contains(':') {
        true => format!("[{}]:{}", place.host_ip, place.host_port),
        false => format!("{}:{}", place.host_ip, place.host_port),
    };
    let places = |port: &str| ports.get(port).cloned().flatten().unwrap_or_default();
    let mut lines: Vec<String> = match &port.port {
        Some(wanted) => {
            let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, ""));
            values::port(number)
                .map_err(|error| anyhow!("Error: invalid port ({number}): {error}"))?;
            let protocol = if protocol.is_empty() { "tcp" } else { protocol };
            let places = places(&format!("{number}/{protocol}"));
            if places.is_empty() {
                bail!(
                    "Error: No public port '{wanted}' published for {}",
                    port.container
                );
            }
            places.iter().map(address).collect()
        }
        None => ports
            .keys()
            .flat_map(|port| {
                let places = places(port).into_iter();
                places.map(move |place| format!("{port} -> {}", address(&place)))
            })
            .collect(),
    };
    lines.sort_by(|a, b| natural(a, b));
    match lines.is_empty() {
        true => Ok(()),
        false => line(&lines.join("\n")),
    }
}

/// `moss update`.
pub fn update(client: &Client, update: &args::Update) -> Result<()> {
    let asked = super::create::update(update).map_err(anyhow::Error::msg)?;
    if asked == HostConfig::default() {
        bail!("you must provide one or more flags when using this command");
    }
    let mut warnings = Vec::new();
    let updated = each(&update.names, |name| {
        let target = Target::new("/containers/{}/update", &[name]);
        let answer: UpdateResponse = client.post(&target, &asked)?;
        warnings.extend(answer.warnings.unwrap_or_default());
        Ok(name.to_owned())
    });
    for warning in warnings {
        super::output::complain(&format!("WARNING: {warning}"));
    }
    updated
}

/// `moss rename`.
pub fn rename(client: &Client, rename: &args::Rename) -> Result<()> {
    let (old, new) = (rename.container.trim(), rename.name.trim());
    if old.is_empty() || new.is_empty() {
        bail!("Error: Neither old nor new names may be empty");
    }
    let target = Target::new("/containers/{}/rename", &[old]).with("name", new);
    client.act(&target).map_err(|error| {
        let why = describe(&error);
        anyhow!("{why}\nError: failed to rename container named {old}")
    })
}

/// A moment that a person named, as the engine is sent it; empty where none was.
pub fn moment(text: &str, now: Timestamp) -> Result<String> {
    if !text.is_empty() && Timestamp::parse(text, now).is_err() {
        bail!("failed to parse value as time or duration: {text:?}");
    }
    Ok(Timestamp::as_sent(text, now))
}

/// `moss logs`.
pub fn logs(client: &Client, logs: &args::Logs) -> Result<()> {
    let now = Timestamp::now();
    let invalid = |name, error| anyhow!("invalid value for {name:?}: {error}");
    let since = moment(&logs.since, now).map_err(|error| invalid("since", error))?;
    let until = moment(&logs.until, now).map_err(|error| invalid("until", error))?;
    let target = Target::new("/containers/{}/logs", &[&logs.container])
        .with("stdout", 1)
        .with("stderr", 1)
        .with_flag("details", logs.details)
        .with_flag("follow", logs.follow)
        .with_flag("timestamps", logs.timestamps)
        .with("tail", &logs.tail)
        .with_some("since", &since)
        .with_some("until", &until);
    let mut answer = client.ask("GET", &target, Body::Empty)?;
    let raw = answer.head.field("content-type") != Some(MULTIPLEXED);
    let mut demux = Demux::new(raw, io::stdout(), io::stderr());
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let count = answer
            .body
            .read(&mut buffer)
            .context("cannot read the logs")?;
        if count == 0 {
            return Ok(demux.finish()?);
        }
        demux.feed(&buffer[..count])?;
    }
}

/// `moss top`.
pub fn top(client: &Client, top: &args::Top) -> Result<()> {
    let (name, options) = top.words.split_first().context("no container was named")?;
    let target =
        Target::new("/containers/{}/top", &[name]).with_some("ps_args", &options.join(" "));
    let found: TopResponse = client.get(&target)?;
    let rows = std::iter::once(&found.titles).chain(&found.processes);
    let lines: Vec<String> = rows.map(|row| row.join("\t")).collect();
    line(align(&lines).trim_end_matches('\n'))
}

/// `moss container prune`.
pub fn prune(client: &Client, prune: &args::Prune) -> Result<()> {
    if !prune.force && !confirm("WARNING! This will remove all stopped containers.")? {
        return Ok(());
    }
    let (names, bytes) = clear(client, &prune.filter)?;
    pruned("Deleted Containers:", &names, bytes)
}

/// Removes containers that do not run; their ids and the bytes that they took.
pub fn clear(client: &Client, given: &[String]) -> Result<(Vec<String>, u64)> {
    let target = Target::new("/containers/prune", &[]).with_some("filters", &filters(given)?);
    let gone: PruneResponse = client.post_empty(&target)?;
    let names = gone.containers_deleted.unwrap_or_default();
    Ok((names, gone.space_reclaimed))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::container::MountPoint;

    #[test]
    fn a_container_in_a_row() {
        let container = Summary {
            id: "0123456789abcdef".into(),
            names: vec!["/web".into(), "/other/alias".into()],
            image: "debian:12".into(),
            command: "/bin/sh -c 'sleep 1000'".into(),
            created: Timestamp::now().seconds() - 120,
            state: "running".into(),
            status: "Up 2 minutes".into(),
            labels: BTreeMap::from([("a".into(), "1".into()), ("b".into(), "2".into())]),
            ports: vec![
                PortSummary {
                    ip: "0.0.0.0".into(),
                    private_port: 80,
                    public_port: 8080,
                    kind: "tcp".into(),
                },
                PortSummary {
                    private_port: 53,
                    kind: "udp".into(),
                    ..PortSummary::default()
                },
            ],
            mounts: vec![MountPoint {
                name: "volume".into(),
                driver: "local".into(),
                ..MountPoint::default()
            }],
            ..Summary::default()
        };
        let row = row(&container, false);
        let field = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(field("ID"), "0123456789ab");
        assert_eq!(field("Names"), "web");
        assert_eq!(field("Command"), "\"/bin/sh -c 'sleep 1…\"");
        assert_eq!(field("RunningFor"), "2 minutes ago");
        assert_eq!(field("Ports"), "53/udp, 0.0.0.0:8080->80/tcp");
        assert_eq!(field("Labels"), "a=1,b=2");
        let ports_of = |given: &[(&str, u16, u16)]| {
            let port = |(ip, private_port, public_port): &(&str, u16, u16)| PortSummary {
                ip: (*ip).to_owned(),
                private_port: *private_port,
                public_port: *public_port,
                kind: "tcp".into(),
            };
            ports(&Summary {
                ports: given.iter().map(port).collect(),
                ..Summary::default()
            })
        };
        assert_eq!(
            ports_of(&[
                ("::", 80, 8080),
                ("0.0.0.0", 80, 8080),
                ("", 2, 0),
                ("", 1, 0)
            ]),
            "1-2/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
        );
        assert_eq!(
            ports_of(&[("::", 5, 5), ("::", 6, 6), ("::", 8, 8), ("1.2.3.4", 5, 5)]),
            "[::]:5-6->5-6/tcp, 1.2.3.4:5->5/tcp, [::]:8->8/tcp"
        );
        assert_eq!(
            (field("Mounts"), field("LocalVolumes")),
            ("volume".into(), "1".into())
        );
        // Every field of the row has a heading, so that `table` can show it.
        let fields = row.as_object().unwrap();
        assert!(
            fields
                .keys()
                .all(|name| HEADINGS.iter().any(|(field, _)| field == name))
        );
    }
}
