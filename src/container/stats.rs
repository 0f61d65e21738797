//! What a container uses, from /proc: where no cgroup is delegated there is nothing else to ask.
//!
//! Time of processors is that of the processes that there are and of those they have waited for;
//! memory is their proportional share (PSS), or what each has where that is not told. Blocks read
//! and written are those of the processes that there are.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use super::processes;
use crate::api::stats::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkStats, PidsStats, Stats,
};

/// Nanoseconds of a clock tick of /proc: always a hundredth of a second to programs.
const TICK: u64 = 10_000_000;

/// Measures the container whose first process is `first`; see [`processes::of`].
///
/// # Errors
/// When it has ended, or /proc cannot be read.
pub fn measure(first: i32, shim: Option<i32>) -> io::Result<Stats> {
    let mut sum = Sum::default();
    for process in processes::of(first, shim)? {
        let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", process.pid));
        // One that ends meanwhile uses nothing.
        if let Ok(stat) = read("stat") {
            sum.stat(&stat);
        }
        sum.memory += match read("smaps_rollup") {
            Ok(text) => field(&text, "Pss:").unwrap_or(0) * 1024,
            Err(_) => resident(&read("statm").unwrap_or_default()),
        };
        if let Ok(text) = read("io") {
            sum.read += field(&text, "read_bytes:").unwrap_or(0);
            sum.written += field(&text, "write_bytes:").unwrap_or(0);
        }
    }
    let host = fs::read_to_string("/proc/stat")?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let interfaces = fs::read_to_string(format!("/proc/{first}/net/dev"))?;
    let entry = |op: &str, value| BlkioEntry {
        op: op.to_owned(),
        value,
        ..BlkioEntry::default()
    };
    Ok(Stats {
        pids_stats: PidsStats {
            current: sum.threads,
            limit: 0,
        },
        blkio_stats: BlkioStats {
            io_service_bytes_recursive: Some(vec![
                entry("read", sum.read),
                entry("write", sum.written),
            ]),
            ..BlkioStats::default()
        },
        cpu_stats: CpuStats {
            cpu_usage: CpuUsage {
                total_usage: (sum.user + sum.system) * TICK,
                usage_in_kernelmode: sum.system * TICK,
                usage_in_usermode: sum.user * TICK,
            },
            ..host_time(&host)
        },
        memory_stats: MemoryStats {
            usage: sum.memory,
            stats: BTreeMap::from([("inactive_file".to_owned(), 0)]),
            limit: field(&memory, "MemTotal:").unwrap_or(0) * 1024,
        },
        networks: networks(&interfaces),
        ..Stats::default()
    })
}

#[derive(Debug, Default, PartialEq)]
struct Sum {
    user: u64,
    system: u64,
    threads: u64,
    memory: u64,
    read: u64,
    written: u64,
}

impl Sum {
    /// Adds a line of /proc/PID/stat: fields 14 to 17 and 20.
    fn stat(&mut self, stat: &str) {
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let fields: Vec<u64> = fields
            .split_ascii_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        if let [user, system, waited_user, waited_system, _, _, threads] =
            fields[..].get(11..18).unwrap_or_default()
        {
            self.user += user + waited_user;
            self.system += system + waited_system;
            self.threads += threads;
        }
    }
}

/// The number after a name at a line's beginning.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Bytes in memory: the second number of /proc/PID/statm, in pages.
fn resident(statm: &str) -> u64 {
    let pages = statm.split_ascii_whitespace().nth(1);
    let pages: u64 = pages.and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// The host's time and processors, from /proc/stat.
fn host_time(stat: &str) -> CpuStats {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    // What guests use is in user time already.
    let ticks = all.unwrap_or("").split_ascii_whitespace().take(8);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    let processors = stat.lines().filter(|line| {
        line.strip_prefix("cpu")
            .is_some_and(|rest| rest.starts_with(|byte: char| byte.is_ascii_digit()))
    });
    CpuStats {
        system_cpu_usage: ticks * TICK,
        online_cpus: u32::try_from(processors.count()).unwrap_or(u32::MAX),
        ..CpuStats::default()
    }
}

/// Traffic of all interfaces but the loopback, from /proc/PID/net/dev.
fn networks(text: &str) -> BTreeMap<String, NetworkStats> {
    let interfaces = text.lines().filter_map(|line| {
        let (name, fields) = line.split_once(':')?;
        let fields: Vec<u64> = fields
            .split_ascii_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, ..] = fields[..] else {
            return None;
        };
        let [tx_bytes, tx_packets, tx_errors, tx_dropped, ..] = *fields.get(8..)? else {
            return None;
        };
        let stats = NetworkStats {
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        };
        Some((name.trim().to_owned(), stats))
    });
    interfaces.filter(|(name, _)| name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc_are_read() {
        let mut sum = Sum::default();
        sum.stat("42 (a) b) S 1 1 1 0 -1 0 0 0 0 0 7 8 9 10 20 0 3 0 4711 1 1");
        assert_eq!((sum.user, sum.system, sum.threads), (16, 18, 3));
        sum.stat("torn");
        let host = host_time("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2\ncpu1 1 2\nintr 1\n");
        assert_eq!((host.system_cpu_usage / TICK, host.online_cpus), (36, 2));
        let text = "Inter-| x\n face |y\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
                    eth0: 10 11 12 13 0 0 0 0 20 21 22 23 0 0 0 0\n";
        let networks = networks(text);
        assert_eq!(networks.len(), 1);
        assert_eq!(
            (networks["eth0"].rx_bytes, networks["eth0"].tx_dropped),
            (10, 23)
        );
        assert_eq!(field("A: 1 kB\nPss:   12 kB\n", "Pss:"), Some(12));
    }

    #[test]
    fn this_process_uses_something() {
        let me = std::process::id().cast_signed();
        // Among its descendants, as the pid namespace is its own.
        let stats = measure(me, None).unwrap();
        assert!(stats.memory_stats.usage > 0 && stats.memory_stats.limit > 0);
        assert!(stats.pids_stats.current >= 1);
        assert!(stats.cpu_stats.online_cpus >= 1);
    }
}
