//! `moss stats`: what containers use, every second.
//!
//! Each round asks for one frame of each container; use of processors is counted between rounds.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::args;
use super::engine::Client;
use super::http::Target;
use super::table::{Shape, binary_size, short, size};
use crate::api::container::Summary;
use crate::api::stats::{CpuStats, Stats};

/// Between two rounds.
const PACE: Duration = Duration::from_secs(1);

const HEADINGS: &[(&str, &str)] = &[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

/// `moss stats`.
pub fn stats(client: &Client, stats: &args::Stats) -> Result<()> {
    let shape = Shape {
        headings: HEADINGS,
        columns: HEADINGS[1..].iter().map(|(field, _)| *field).collect(),
        key: "ID",
        row: "*stats.statsContext",
    };
    let mut before: HashMap<String, CpuStats> = HashMap::new();
    round(client, stats, &mut before)?;
    loop {
        std::thread::sleep(PACE);
        let rows = round(client, stats, &mut before)?;
        if !stats.no_stream && io::stdout().is_terminal() {
            let mut out = io::stdout().lock();
            // Home, and everything below it away.
            out.write_all(b"\x1b[H\x1b[J")?;
        }
        shape.print(&rows, stats.format.as_deref(), false)?;
        if stats.no_stream {
            return Ok(());
        }
    }
}

/// A row for each container.
fn round(
    client: &Client,
    stats: &args::Stats,
    before: &mut HashMap<String, CpuStats>,
) -> Result<Vec<Value>> {
    let mut names = stats.names.clone();
    if names.is_empty() {
        let target = Target::new("/containers/json", &[]).with_flag("all", stats.all);
        let running: Vec<Summary> = client.get(&target)?;
        names.extend(running.into_iter().map(|container| container.id));
    }
    let mut rows = Vec::new();
    for name in &names {
        let target = Target::new("/containers/{}/stats", &[name])
            .with("stream", 0)
            .with("one-shot", 1);
        let frame: Stats = match client.get(&target) {
            Ok(frame) => frame,
            // One of all that was removed meanwhile.
            Err(_) if stats.names.is_empty() => continue,
            Err(error) => return Err(error),
        };
        let last = before.insert(frame.id.clone(), frame.cpu_stats.clone());
        rows.push(row(name, &frame, &last.unwrap_or_default(), stats.no_trunc));
    }
    Ok(rows)
}

fn row(name: &str, frame: &Stats, before: &CpuStats, full: bool) -> Value {
    let bytes = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let percent = |part: f64, whole: f64| {
        if whole > 0.0 {
            part / whole * 100.0
        } else {
            0.0
        }
    };
    let used = |now: u64, before: u64| now.saturating_sub(before) as f64;
    let processors = f64::from(frame.cpu_stats.online_cpus);
    let cpu = percent(
        used(
            frame.cpu_stats.cpu_usage.total_usage,
            before.cpu_usage.total_usage,
        ) * processors,
        used(frame.cpu_stats.system_cpu_usage, before.system_cpu_usage),
    );
    let memory = &frame.memory_stats;
    let traffic = frame.networks.values();
    let (received, sent) = traffic.fold((0, 0), |(received, sent), interface| {
        (received + interface.rx_bytes, sent + interface.tx_bytes)
    });
    let blocks = |op: &str| -> u64 {
        let entries = frame
            .blkio_stats
            .io_service_bytes_recursive
            .iter()
            .flatten();
        entries
            .filter(|entry| entry.op == op)
            .map(|entry| entry.value)
            .sum()
    };
    json!({
        "Container": name,
        "ID": if full { &frame.id } else { short(&frame.id) },
        "Name": frame.name.trim_start_matches('/'),
        "CPUPerc": format!("{cpu:.2}%"),
        "MemUsage": format!("{} / {}", binary_size(bytes(memory.usage)), binary_size(bytes(memory.limit))),
        "MemPerc": format!("{:.2}%", percent(memory.usage as f64, memory.limit as f64)),
        "NetIO": format!("{} / {}", size(bytes(received)), size(bytes(sent))),
        "BlockIO": format!("{} / {}", size(bytes(blocks("read"))), size(bytes(blocks("write")))),
        "PIDs": frame.pids_stats.current.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_in_a_row() {
        let mut frame = Stats {
            id: "0123456789abcdef".to_owned(),
            name: "/web".to_owned(),
            ..Stats::default()
        };
        frame.cpu_stats.online_cpus = 2;
        frame.cpu_stats.system_cpu_usage = 3_000;
        frame.cpu_stats.cpu_usage.total_usage = 600;
        frame.memory_stats.usage = 1 << 20;
        frame.memory_stats.limit = 1 << 30;
        let mut before = CpuStats {
            system_cpu_usage: 1_000,
            ..CpuStats::default()
        };
        before.cpu_usage.total_usage = 100;
        let row = row("web", &frame, &before, false);
        assert_eq!(row["CPUPerc"], "50.00%");
        assert_eq!(row["MemUsage"], "1MiB / 1GiB");
        assert_eq!(row["MemPerc"], "0.10%");
        assert_eq!(
            (&row["ID"], &row["Name"]),
            (&"0123456789ab".into(), &"web".into())
        );
        let fields = row.as_object().unwrap().keys();
        assert!(
            fields
                .into_iter()
                .all(|name| HEADINGS.iter().any(|(field, _)| field == name))
        );
    }
}
