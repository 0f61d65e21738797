//! From the flags of `update` to the body of `POST /containers/{id}/update`.

use super::text;
use super::values::{bytes, cpus, restart};
use crate::api::container::HostConfig;
use crate::cli::args::Update;

/// The limits and the restart policy that the flags describe.
///
/// # Errors
/// A sentence, as docker words it.
pub fn update(flags: &Update) -> Result<HostConfig, String> {
    let size = |value: &Option<String>| value.as_deref().map_or(Ok(0), bytes);
    let memory_swap = match flags.memory_swap.as_deref() {
        Some("-1") => -1,
        _ => size(&flags.memory_swap)?,
    };
    let restart_policy = flags.restart.as_deref().map(restart).transpose()?;
    Ok(HostConfig {
        blkio_weight: flags.blkio_weight.unwrap_or(0),
        cpu_period: flags.cpu_period.unwrap_or(0),
        cpu_quota: flags.cpu_quota.unwrap_or(0),
        cpu_realtime_period: flags.cpu_rt_period.unwrap_or(0),
        cpu_realtime_runtime: flags.cpu_rt_runtime.unwrap_or(0),
        cpu_shares: flags.cpu_shares.unwrap_or(0),
        nano_cpus: flags.cpus.as_deref().map_or(Ok(0), cpus)?,
        cpuset_cpus: text(flags.cpuset_cpus.as_ref()),
        cpuset_mems: text(flags.cpuset_mems.as_ref()),
        memory: size(&flags.memory)?,
        memory_reservation: size(&flags.memory_reservation)?,
        memory_swap,
        pids_limit: flags.pids_limit,
        restart_policy: restart_policy.unwrap_or_default(),
        ..HostConfig::default()
    })
}
