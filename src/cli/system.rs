//! The engine itself: `info`, `version`, `events`, `system df`.

use std::io::{BufRead, BufReader};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::args;
use super::engine::{Client, Place, address};
use super::filters::filters;
use super::http::{Body, Target};
use super::output::{Format, complain, line};
use super::table::{Shape, binary_size, size};
use crate::api::event::Event;
use crate::api::system::{DiskUsage, Info, Version};
use crate::api::version::ApiVersion;
use crate::types::timestamp::Timestamp;

/// `moss info`.
pub fn info(client: &Client, info: &args::Info) -> Result<()> {
    let target = Target::new("/info", &[]);
    if info.host {
        return line(&format!("export DOCKER_HOST={}", address(&client.socket())));
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
        .with_some("since", &Timestamp::as_sent(&events.since, now))
        .with_some("until", &Timestamp::as_sent(&events.until, now))
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

const USAGE: &[(&str, &str)] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

/// `moss system df`.
pub fn disk_usage(client: &Client, df: &args::Df) -> Result<()> {
    let found: DiskUsage = client.get(&Target::new("/system/df", &[]))?;
    let mut rows = Vec::new();
    let mut row = |name: &str, usage: Option<(i64, i64, i64, i64)>| {
        let (total, active, bytes, reclaimable) = usage.unwrap_or_default();
        let share = if bytes > 0 {
            format!(" ({}%)", reclaimable.saturating_mul(100) / bytes)
        } else {
            String::new()
        };
        rows.push(json!({
            "Type": name,
            "TotalCount": total.to_string(),
            "Active": active.to_string(),
            "Size": size(bytes),
            "Reclaimable": format!("{}{share}", size(reclaimable)),
        }));
    };
    macro_rules! totals {
        ($usage:expr) => {
            $usage
                .as_ref()
                .map(|u| (u.total_count, u.active_count, u.total_size, u.reclaimable))
        };
    }
    row("Images", totals!(found.image_usage));
    row("Containers", totals!(found.container_usage));
    row("Local Volumes", totals!(found.volume_usage));
    row("Build Cache", totals!(found.build_cache_usage));
    let shape = Shape {
        headings: USAGE,
        columns: vec!["Type", "TotalCount", "Active", "Size", "Reclaimable"],
        key: "Type",
        row: "*formatter.diskUsageImagesContext",
    };
    shape.print(&rows, df.format.as_deref(), false)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::event::Actor;

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
