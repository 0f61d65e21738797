//! `docker stats`: what a container uses, every second or once.

use std::time::Duration;

use crate::api::stats::{CpuStats, Stats};
use crate::container::stats;
use crate::engine::Engine;
use crate::engine::error::Result;
use crate::types::timestamp::Timestamp;
use crate::userns::keeper::ShimIdentity;

/// Between two frames.
pub const PACE: Duration = Duration::from_secs(1);

/// Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The frame before, against which use of processors is counted.
#[derive(Debug, Clone, Default)]
pub struct Before(Option<(String, CpuStats)>);

impl Engine {
    /// One frame, and what the next counts from. A container that does not run uses nothing.
    pub fn container_stats(&self, name: &str, before: &mut Before) -> Result<Stats> {
        let container = self.containers.find(name)?;
        let record = container.settled().record.clone();
        let mut frame = Stats {
            read: NEVER.to_owned(),
            ..Stats::default()
        };
        if let Some(started) = record.state.started() {
            let shim = ShimIdentity::living(&container.directory).map(|(pid, _)| pid);
            // One that has ended just now uses nothing.
            if let Ok(measured) = stats::measure(started.pid, shim) {
                frame = measured;
                frame.read = Timestamp::now().to_string();
                if record.host_config.network_mode == "host" || record.config.network_disabled {
                    frame.networks.clear();
                }
            }
        }
        frame.id = record.id.to_string();
        frame.name = format!("/{}", record.name);
        let now = (frame.read.clone(), frame.cpu_stats.clone());
        (frame.preread, frame.precpu_stats) = before
            .0
            .replace(now)
            .unwrap_or_else(|| (NEVER.to_owned(), CpuStats::default()));
        Ok(frame)
    }

    /// Whether a container uses anything: it runs.
    pub fn container_is_running(&self, name: &str) -> Result<bool> {
        let container = self.containers.find(name)?;
        let data = container.data();
        Ok(data.record.state.is_running())
    }
}
