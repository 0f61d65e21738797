//! How much space things take: `system df`.

use anyhow::Result;
use serde_json::{Value, json};

use super::args;
use super::containers;
use super::engine::Client;
use super::http::Target;
use super::images;
use super::objects;
use super::output::{Format, line};
use super::table::{Shape, human_size};
use crate::api::system::DiskUsage;

const USAGE: &[(&str, &str)] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

/// `moss system df`.
pub fn show(client: &Client, df: &args::Df) -> Result<()> {
    if df.verbose {
        return show_each(client, df.format.as_deref());
    }
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
            "Size": human_size(bytes),
            "Reclaimable": format!("{}{share}", human_size(reclaimable)),
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

/// Headings of the build cache, of which there is none.
const BUILD_CACHE: &[(&str, &str)] = &[
    ("ID", "CACHE ID"),
    ("CacheType", "CACHE TYPE"),
    ("Size", "SIZE"),
    ("CreatedSince", "CREATED"),
    ("LastUsedSince", "LAST USED"),
    ("UsageCount", "USAGE"),
    ("Shared", "SHARED"),
];

/// `moss system df -v`: each thing by itself.
fn show_each(client: &Client, format: Option<&str>) -> Result<()> {
    let target = Target::new("/system/df", &[]).with("verbose", 1);
    let found: DiskUsage = client.get(&target)?;
    // As docker: ids are whole wherever a program may read them.
    let full = format.is_some_and(|format| format != "table");
    let images = found.image_usage.unwrap_or_default().items;
    // Only by its first name.
    let images: Vec<Value> = images
        .iter()
        .filter_map(|image| images::rows(image, full, false).into_iter().next())
        .collect();
    let mut containers = found.container_usage.unwrap_or_default().items;
    for container in &mut containers {
        container.size_root_fs = 0;
    }
    let containers: Vec<Value> = containers
        .iter()
        .map(|container| containers::row(container, full))
        .collect();
    let volumes = found.volume_usage.unwrap_or_default().items;
    let volumes: Vec<Value> = volumes.iter().map(objects::row).collect();
    if let Some(format) = format.filter(|_| full) {
        return Format::parse(format, "template parsing error")?.print(&json!({
            "Images": images,
            "Containers": containers,
            "Volumes": volumes,
            "BuildCache": [],
        }));
    }
    let of = |headings, columns: &[&'static str]| Shape {
        headings,
        columns: columns.to_vec(),
        key: "ID",
        row: "*formatter.diskUsageContext",
    };
    line("Images space usage:\n")?;
    of(
        images::HEADINGS,
        &[
            "Repository",
            "Tag",
            "ID",
            "CreatedSince",
            "Size",
            "SharedSize",
            "UniqueSize",
            "Containers",
        ],
    )
    .print(&images, None, false)?;
    line("\nContainers space usage:\n")?;
    of(
        containers::HEADINGS,
        &[
            "ID",
            "Image",
            "Command",
            "LocalVolumes",
            "Size",
            "RunningFor",
            "Status",
            "Names",
        ],
    )
    .print(&containers, None, false)?;
    line("\nLocal Volumes space usage:\n")?;
    of(objects::VOLUME, &["Name", "Links", "Size"]).print(&volumes, None, false)?;
    line("\nBuild cache usage: 0B\n")?;
    let columns: Vec<&str> = BUILD_CACHE.iter().map(|(field, _)| *field).collect();
    of(BUILD_CACHE, &columns).print(&[], None, false)
}
