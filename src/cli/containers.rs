//! Verbs on containers that answer at once: `ps`, `stop`, `kill`, `rm`, `logs`, `top` and the like.

use std::io::{self, Read};

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use super::args;
use super::engine::Client;
use super::error::is_not_found;
use super::filters::filters;
use super::http::{Body, Target};
use super::output::{each, line};
use super::prune::{confirm, pruned};
use super::streams::Demux;
use super::table::{Shape, ago, align, date, ellipsis, labels, short, size, span};
use super::template::{Missing, Template};
use crate::api::container::{PruneResponse, Summary, TopResponse, UpdateResponse};
use crate::api::stream::MULTIPLEXED;
use crate::types::timestamp::Timestamp;

const HEADINGS: &[(&str, &str)] = &[
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

fn row(container: &Summary, full: bool) -> Value {
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
    })
}

fn ports(container: &Summary) -> String {
    let mut ports = container.ports.clone();
    ports.sort();
    let ports: Vec<String> = ports
        .iter()
        .map(|port| {
            let address = if port.ip.contains(':') {
                format!("[{}]", port.ip)
            } else {
                port.ip.clone()
            };
            if address.is_empty() {
                format!("{}/{}", port.private_port, port.kind)
            } else {
                format!(
                    "{address}:{}->{}/{}",
                    port.public_port, port.private_port, port.kind
                )
            }
        })
        .collect();
    ports.join(", ")
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
                super::output::complain(&super::error::describe(&error));
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

/// `moss update`.
pub fn update(client: &Client, update: &args::Update) -> Result<()> {
    let asked = super::create::update(update).map_err(anyhow::Error::msg)?;
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
    client
        .act(&Target::new("/containers/{}/rename", &[&rename.container]).with("name", &rename.name))
}

/// `moss logs`.
pub fn logs(client: &Client, logs: &args::Logs) -> Result<()> {
    let now = Timestamp::now();
    let target = Target::new("/containers/{}/logs", &[&logs.container])
        .with("stdout", 1)
        .with("stderr", 1)
        .with_flag("details", logs.details)
        .with_flag("follow", logs.follow)
        .with_flag("timestamps", logs.timestamps)
        .with("tail", &logs.tail)
        .with_some("since", &Timestamp::as_sent(&logs.since, now))
        .with_some("until", &Timestamp::as_sent(&logs.until, now));
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
    let target =
        Target::new("/containers/prune", &[]).with_some("filters", &filters(&prune.filter)?);
    let gone: PruneResponse = client.post_empty(&target)?;
    pruned(
        "Deleted Containers:",
        &gone.containers_deleted.unwrap_or_default(),
        gone.space_reclaimed,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::container::{MountPoint, PortSummary};

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
