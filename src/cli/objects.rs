//! `inspect` of anything, and volumes.

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

use super::args;
use super::engine::Client;
use super::error::{Exit, describe, is_not_found};
use super::filters::filters;
use super::http::{Body, Target};
use super::images::described;
use super::output::{Format, each, line};
use super::prune::{confirm, pruned};
use super::table::{Shape, human_size, labels};
use crate::api::filters::Filters;
use crate::api::volume::{CreateRequest, ListResponse, PruneResponse, Volume};

/// Where things of each kind are inspected, in the order in which a name is looked up.
const KINDS: &[(&str, &str)] = &[
    ("container", "/containers/{}/json"),
    ("image", "/images/{}/json"),
    ("network", "/networks/{}"),
    ("volume", "/volumes/{}"),
];

/// `moss inspect`, and that of the groups.
pub fn inspect(client: &Client, inspect: &args::Inspect) -> Result<()> {
    let kinds: Vec<_> = KINDS
        .iter()
        .filter(|(kind, _)| inspect.kind.as_deref().is_none_or(|wanted| wanted == *kind))
        .collect();
    if kinds.is_empty() {
        let kind = inspect.kind.as_deref().unwrap_or_default();
        bail!(
            "unknown type: {kind:?}: must be one of \"container\", \"image\", \"network\", \"volume\""
        );
    }
    let format = inspect
        .format
        .as_deref()
        .filter(|format| !format.is_empty());
    // `json` is one list of all.
    let template = format
        .filter(|format| *format != "json")
        .map(|format| Format::parse(format, "template parsing error"))
        .transpose()?;
    let platform = described(&inspect.platform)?.unwrap_or_default();
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for name in &inspect.names {
        match find(client, &kinds, name, inspect.size, &platform) {
            Ok(value) => found.push(value),
            Err(error) => failures.push(describe(&error)),
        }
    }
    match (format, template) {
        (_, Some(template)) => {
            let mut printed = false;
            for value in &found {
                match template.render(value) {
                    Ok(text) => {
                        line(&text)?;
                        printed = true;
                    }
                    Err(error) => failures.push(format!("template parsing error: {error}")),
                }
            }
            if !printed {
                line("")?;
            }
        }
        (Some(_), None) => line(&Value::Array(found).to_string())?,
        (None, None) => line(&indented(&Value::Array(found))?)?,
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Exit::because(1, failures.join("\n")))
    }
}

fn find(
    client: &Client,
    kinds: &[&(&str, &str)],
    name: &str,
    sizes: bool,
    platform: &str,
) -> Result<Value> {
    for (kind, route) in kinds {
        let target = Target::new(route, &[name])
            .with_flag("size", sizes && *kind == "container")
            .with_some("platform", platform);
        match client.get(&target) {
            Err(error) if is_not_found(&error) && kinds.len() > 1 => {}
            other => return other,
        }
    }
    Err(anyhow!("Error: No such object: {name}"))
}

/// JSON with Go's four spaces.
fn indented(value: &Value) -> Result<String> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    serde::Serialize::serialize(value, &mut serializer)?;
    Ok(String::from_utf8(text)?)
}

/// Fields of a volume's row, and their headings.
pub const VOLUME: &[(&str, &str)] = &[
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
];

/// A volume in a list.
pub fn row(volume: &Volume) -> Value {
    let usage = volume.usage_data.as_ref();
    json!({
        "Driver": volume.driver,
        "Name": volume.name,
        "Scope": volume.scope,
        "Mountpoint": volume.mountpoint,
        "Labels": labels(&volume.labels.clone().unwrap_or_default()),
        "Links": usage.map_or("N/A".to_owned(), |usage| usage.ref_count.to_string()),
        "Size": match usage {
            Some(usage) if usage.size >= 0 => human_size(usage.size),
            _ => "N/A".to_owned(),
        },
    })
}

/// `moss volume …`.
pub fn volume(client: &Client, verb: &args::VolumeGroup) -> Result<()> {
    match verb {
        args::VolumeGroup::Create(create) => {
            let pairs = |lines: &[String]| {
                let pair = |line: &String| {
                    let (key, value) = line.split_once('=').unwrap_or((line, ""));
                    (key.to_owned(), value.to_owned())
                };
                Some(lines.iter().map(pair).collect())
            };
            let request = CreateRequest {
                driver: create.driver.clone(),
                driver_opts: pairs(&create.opt),
                labels: pairs(&create.label),
                name: create.name.clone().unwrap_or_default(),
            };
            let volume: Volume = client.post(&Target::new("/volumes/create", &[]), &request)?;
            line(&volume.name)
        }
        args::VolumeGroup::Inspect(verb) => inspect(client, verb),
        args::VolumeGroup::Ls(listing) => {
            let target =
                Target::new("/volumes", &[]).with_some("filters", &filters(&listing.filter)?);
            let mut found: ListResponse = client.get(&target)?;
            found.volumes.sort_by(|a, b| a.name.cmp(&b.name));
            let rows: Vec<Value> = found.volumes.iter().map(row).collect();
            let shape = Shape {
                headings: VOLUME,
                columns: vec!["Driver", "Name"],
                key: "Name",
                row: "*formatter.volumeContext",
            };
            shape.print(&rows, listing.format.as_deref(), listing.quiet)
        }
        args::VolumeGroup::Prune(prune) => {
            let warning = "WARNING! This will remove anonymous local volumes not used by at least one container.";
            if !prune.force && !confirm(warning)? {
                return Ok(());
            }
            let (names, bytes) = clear_volumes(client, prune.all, &prune.filter)?;
            pruned("Deleted Volumes:", &names, bytes)
        }
        args::VolumeGroup::Rm(rm) => each(&rm.names, |name| {
            let target = Target::new("/volumes/{}", &[name]).with_flag("force", rm.force);
            client.bytes("DELETE", &target, Body::Empty)?;
            Ok(name.to_owned())
        }),
    }
}

/// Removes volumes that nothing uses, of those with names too where `all` is set; their names and
/// the bytes that they took.
pub fn clear_volumes(client: &Client, all: bool, given: &[String]) -> Result<(Vec<String>, u64)> {
    let mut filters = Filters::parse(&filters(given)?)?;
    if all {
        filters.add("all", "true");
    }
    let filters = serde_json::to_string(&filters)?;
    let gone: PruneResponse =
        client.post_empty(&Target::new("/volumes/prune", &[]).with("filters", filters))?;
    let names = gone.volumes_deleted.unwrap_or_default();
    Ok((names, gone.space_reclaimed))
}
