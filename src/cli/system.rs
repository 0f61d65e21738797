//! The engine itself: `info`, `version`, `events`, `system prune`.

use std::io::{BufRead, BufReader};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::args;
use super::containers::{self, moment};
use super::engine::{Client, Place, address};
use super::filters::filters;
use super::http::{Body, Target};
use super::images;
use super::networks;
use super::objects;
use super::output::{Format, complain, line};
use super::prune::{confirm, list_removed};
use super::table::{binary_size, human_size, natural};
use crate::api::event::Event;
use crate::api::system::{Info, Version};
use crate::api::version::ApiVersion;
use crate::types::timestamp::Timestamp;

/// `moss info`.
pub fn info(client: &Client, info: &args::Info) -> Result<()> {
    let target = Target::new("/info", &[]);
    if info.host {
        let address = quoted(&address(&client.socket()));
        return line(&format!("export DOCKER_HOST={address}"));
    }
    if let Some(format) = &info.format {
        let format = Format::parse(format, "template parsing error")?;
        return format.print(&client.get(&target)?);
    }
    let found: Info = client.get(&target)?;
    line(&described(&found, &address(&client.socket())))?;
    for warning in found.warnings.iter().flatten() {
        complain(warning);
    }
    Ok(())
}

/// A word that a shell reads as it is.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:._-+=@%,".contains(c);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

fn described(info: &Info, address: &str) -> String {
    let mut lines = vec![
        "Client:".to_owned(),
        format!(" Version:    {}", env!("CARGO_PKG_VERSION")),
        format!(" Engine:     {address}"),
        String::new(),
        "Server:".to_owned(),
        format!(" Containers: {}", info.containers),
        format!("  Running: {}", info.containers_running),
        format!("  Paused: {}", info.containers_paused),
        format!("  Stopped: {}", info.containers_stopped),
        format!(" Images: {}", info.images),
        format!(" Server Version: {}", info.server_version),
        format!(" Storage Driver: {}", info.driver),
    ];
    let more = |(name, value): &(String, String)| format!("  {name}: {value}");
    lines.extend(info.driver_status.iter().map(more));
    lines.push(format!(" Logging Driver: {}", info.logging_driver));
    lines.push(format!(" Cgroup Driver: {}", info.cgroup_driver));
    lines.push(format!(" Cgroup Version: {}", info.cgroup_version));
    lines.push(" Plugins:".to_owned());
    let list = |names: &Option<Vec<String>>| names.clone().unwrap_or_default().join(" ");
    lines.push(format!("  Volume: {}", list(&info.plugins.volume)));
    lines.push(format!("  Network: {}", list(&info.plugins.network)));
    lines.push(format!("  Log: {}", list(&info.plugins.log)));
    lines.push(" Security Options:".to_owned());
    lines.extend(info.security_options.iter().map(|option| {
        let option = option
            .replace("name=", "")
            .replace(",profile=", "\n   Profile: ");
        format!("  {option}")
    }));
    for (name, value) in [
        ("Kernel Version", info.kernel_version.clone()),
        ("Operating System", info.operating_system.clone()),
        ("OSType", info.os_type.clone()),
        ("Architecture", info.architecture.clone()),
        ("CPUs", info.n_cpu.to_string()),
        ("Total Memory", binary_size(info.mem_total)),
        ("Name", info.name.clone()),
        ("ID", info.id.clone()),
        ("Docker Root Dir", info.docker_root_dir.clone()),
        ("Debug Mode", info.debug.to_string()),
        ("Experimental", info.experimental_build.to_string()),
        (
            "Live Restore Enabled",
            info.live_restore_enabled.to_string(),
        ),
    ] {
        lines.push(format!(" {name}: {value}"));
    }
    if !info.labels.is_empty() {
        lines.push(" Labels:".to_owned());
        lines.extend(info.labels.iter().map(|label| format!("  {label}")));
    }
    lines.join("\n")
}

/// `moss version`; the client's part needs no engine, and none is started for it.
pub fn version(place: &Place, version: &args::Version) -> Result<()> {
    let client = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": ApiVersion::MAX.to_string(),
        "Os": std::env::consts::OS,
        "Arch": std::env::consts::ARCH,
    });
    let found = Client::find(place).and_then(|engine| {
        let version: Value = engine.get(&Target::new("/version", &[]))?;
        Ok(version)
    });
    if let Some(format) = &version.format {
        let format = Format::parse(format, "template parsing error")?;
        let server = found.as_ref().map_or(Value::Null, Value::clone);
        format.print(&json!({"Client": client, "Server": server}))?;
        return found.map(drop);
    }
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    line(&format!(
        "Client: moss\n Version:           {}\n API version:       {}\n OS/Arch:           {}/{}",
        text(&client, "Version"),
        text(&client, "ApiVersion"),
        text(&client, "Os"),
        text(&client, "Arch"),
    ))?;
    let server: Version = serde_json::from_value(found?)?;
    let mut lines = vec![String::new(), format!("Server: {}", server.platform.name)];
    for component in &server.components {
        lines.push(format!(" {}:", component.name));
        lines.push(format!("  Version:          {}", component.version));
        for (key, name) in [
            ("ApiVersion", "API version:"),
            ("MinAPIVersion", "Minimum API:"),
            ("GitCommit", "Git commit:"),
            ("KernelVersion", "Kernel:"),
        ] {
            if let Some(value) = component.details.get(key).filter(|value| !value.is_empty()) {
                lines.push(format!("  {name:<17} {value}"));
            }
        }
    }
    lines.push(format!(" OS/Arch:           {}/{}", server.os, server.arch));
    line(&lines.join("\n"))
}

/// `moss events`.
pub fn events(client: &Client, events: &args::Events) -> Result<()> {
    let now = Timestamp::now();
    let target = Target::new("/events", &[])
        .with_some("since", &moment(&events.since, now)?)
        .with_some("until", &moment(&events.until, now)?)
        .with_some("filters", &filters(&events.filter)?);
    let format = events.format.as_deref().filter(|format| !format.is_empty());
    let format = format
        .map(|format| Format::parse(format, "Error parsing format"))
        .transpose()?;
    let answer = client.ask("GET", &target, Body::Empty)?;
    for event in BufReader::new(answer.body).split(b'\n') {
        let event = event.context("cannot read the events")?;
        if event.trim_ascii().is_empty() {
            continue;
        }
        match &format {
            Some(format) => format.print(&serde_json::from_slice(&event)?)?,
            None => line(&event_line(&serde_json::from_slice(&event)?))?,
        }
    }
    Ok(())
}

/// `2026-11-24T10:00:00.000000000Z container start ID (image=debian, name=x)`
fn event_line(event: &Event) -> String {
    let seconds = Timestamp::from_seconds(event.time_nano.div_euclid(1_000_000_000)).to_string();
    let mut text = format!(
        "{}.{:09}Z {} {} {}",
        seconds.trim_end_matches('Z'),
        event.time_nano.rem_euclid(1_000_000_000),
        event.kind,
        event.action,
        event.actor.id
    );
    let attributes = event.actor.attributes.iter();
    let attributes: Vec<String> = attributes
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if !attributes.is_empty() {
        text.push_str(&format!(" ({})", attributes.join(", ")));
    }
    text
}

/// `moss system prune`.
pub fn prune(client: &Client, prune: &args::SystemPrune) -> Result<()> {
    let by_time = |filter: &String| filter.split('=').next().map(str::trim) == Some("until");
    if prune.volumes && prune.filter.iter().any(by_time) {
        bail!("ERROR: The \"until\" filter is not supported with \"--volumes\"");
    }
    if !prune.force && !confirm(&warning(prune))? {
        return Ok(());
    }
    let filter = &prune.filter;
    let (names, mut bytes) = containers::clear(client, filter)?;
    list_removed("Deleted Containers:", &names)?;
    list_removed("Deleted Networks:", &networks::clear(client, filter)?)?;
    if prune.volumes {
        let (names, freed) = objects::clear_volumes(client, false, filter)?;
        list_removed("Deleted Volumes:", &names)?;
        bytes = bytes.saturating_add(freed);
    }
    let (names, freed) = images::clear(client, prune.all, filter)?;
    list_removed("Deleted Images:", &names)?;
    let bytes = i64::try_from(bytes.saturating_add(freed)).unwrap_or(i64::MAX);
    line(&format!("Total reclaimed space: {}", human_size(bytes)))
}

/// What a system's prune would remove, in docker's words.
fn warning(prune: &args::SystemPrune) -> String {
    let mut lines = vec![
        "WARNING! This will remove:",
        "  - all stopped containers",
        "  - all networks not used by at least one container",
    ];
    if prune.volumes {
        lines.push("  - all anonymous volumes not used by at least one container");
    }
    lines.extend(match prune.all {
        true => [
            "  - all images without at least one container associated to them",
            "  - all build cache",
        ],
        false => ["  - all dangling images", "  - unused build cache"],
    });
    lines.push("");
    let mut filters: Vec<String> = prune
        .filter
        .iter()
        .filter_map(|filter| filter.split_once('='))
        .map(|(name, value)| format!("{}={}", name.trim().to_lowercase(), value.trim()))
        .filter(|filter| {
            ["label=", "label!=", "until="]
                .iter()
                .any(|known| filter.starts_with(known))
        })
        .collect();
    filters.sort_by(|a, b| natural(a, b));
    let filters: Vec<String> = filters.iter().map(|it| format!("  - {it}")).collect();
    if !filters.is_empty() {
        lines.push("  Items to be pruned will be filtered with:");
        lines.extend(filters.iter().map(String::as_str));
        lines.push("");
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::event::Actor;

    #[test]
    fn what_a_prune_would_remove() {
        let prune = args::SystemPrune {
            all: true,
            filter: vec!["label=b".into(), "Label!=a".into(), "x=y".into()],
            force: false,
            volumes: true,
        };
        assert_eq!(
            warning(&prune),
            "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at \
             least one container\n  - all anonymous volumes not used by at least one container\n  - \
             all images without at least one container associated to them\n  - all build cache\n\n  \
             Items to be pruned will be filtered with:\n  - label!=a\n  - label=b\n"
        );
    }

    #[test]
    fn a_shell_reads_the_address_as_it_is() {
        assert_eq!(
            quoted("unix:///run/user/1/m.sock"),
            "unix:///run/user/1/m.sock"
        );
        assert_eq!(quoted("unix:///a b;$x"), "'unix:///a b;$x'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }

    #[test]
    fn an_event_is_a_line() {
        let event = Event {
            kind: "container".into(),
            action: "die".into(),
            actor: Actor {
                id: "abc".into(),
                attributes: BTreeMap::from([
                    ("exitCode".into(), "0".into()),
                    ("name".into(), "x,y".into()),
                ]),
            },
            time_nano: 1_500_000_000,
            ..Event::default()
        };
        let line = event_line(&event);
        assert_eq!(
            line,
            "1970-01-01T00:00:01.500000000Z container die abc (exitCode=0, name=x,y)"
        );
    }
}
