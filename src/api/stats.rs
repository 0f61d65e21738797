//! What a container uses: the frames of `GET /containers/{id}/stats`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::json::is_default;

/// One frame.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Id of the container.
    pub id: String,
    /// Its name, after a slash.
    pub name: String,
    /// When this was measured, RFC 3339.
    pub read: String,
    /// When `precpu_stats` was.
    pub preread: String,
    /// Processes and threads.
    pub pids_stats: PidsStats,
    /// Reads and writes.
    pub blkio_stats: BlkioStats,
    /// Windows only.
    pub num_procs: u32,
    /// Windows only.
    pub storage_stats: BTreeMap<String, u64>,
    /// Time of processors.
    pub cpu_stats: CpuStats,
    /// The same one frame before.
    pub precpu_stats: CpuStats,
    /// Memory.
    pub memory_stats: MemoryStats,
    /// Traffic by interface.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, NetworkStats>,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PidsStats {
    /// How many there are.
    #[serde(skip_serializing_if = "is_default")]
    pub current: u64,
    /// How many there may be.
    #[serde(skip_serializing_if = "is_default")]
    pub limit: u64,
}

/// Reads and writes; what is `None` is `null`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioStats {
    /// Bytes read and written.
    pub io_service_bytes_recursive: Option<Vec<BlkioEntry>>,
    /// Operations.
    pub io_serviced_recursive: Option<Vec<BlkioEntry>>,
    /// Of cgroup v1.
    pub io_queue_recursive: Option<Vec<BlkioEntry>>,
    /// Of cgroup v1.
    pub io_service_time_recursive: Option<Vec<BlkioEntry>>,
    /// Of cgroup v1.
    pub io_wait_time_recursive: Option<Vec<BlkioEntry>>,
    /// Of cgroup v1.
    pub io_merged_recursive: Option<Vec<BlkioEntry>>,
    /// Of cgroup v1.
    pub io_time_recursive: Option<Vec<BlkioEntry>>,
    /// Of cgroup v1.
    pub sectors_recursive: Option<Vec<BlkioEntry>>,
}

/// Reads or writes of a device; 0:0 is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioEntry {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// `read` or `write`.
    pub op: String,
    /// How much.
    pub value: u64,
}

/// Time of processors, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuStats {
    /// The container's.
    pub cpu_usage: CpuUsage,
    /// The host's, idle time included.
    #[serde(skip_serializing_if = "is_default")]
    pub system_cpu_usage: u64,
    /// How many processors there are.
    #[serde(skip_serializing_if = "is_default")]
    pub online_cpus: u32,
    /// How it was held back.
    pub throttling_data: ThrottlingData,
}

/// A container's time of processors, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    /// All.
    pub total_usage: u64,
    /// In the kernel.
    pub usage_in_kernelmode: u64,
    /// Elsewhere.
    pub usage_in_usermode: u64,
}

/// How a container was held back by its limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThrottlingData {
    /// Periods in which it ran.
    pub periods: u64,
    /// Those in which it was.
    pub throttled_periods: u64,
    /// For how many nanoseconds.
    pub throttled_time: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStats {
    /// How much it has.
    #[serde(skip_serializing_if = "is_default")]
    pub usage: u64,
    /// What of.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stats: BTreeMap<String, u64>,
    /// How much it may have.
    #[serde(skip_serializing_if = "is_default")]
    pub limit: u64,
}

/// Traffic of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStats {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Errors of those.
    pub rx_errors: u64,
    /// Dropped of those.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Errors of those.
    pub tx_errors: u64,
    /// Dropped of those.
    pub tx_dropped: u64,
}
