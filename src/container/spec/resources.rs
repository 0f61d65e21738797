//! Limits that contradict each other or themselves: moby's `verifyPlatformContainerResources`.
//!
//! Only what is wrong on any host is refused here. What this host cannot do is discarded with a
//! warning, elsewhere.

use super::Error;
use crate::api::container::HostConfig;

/// Least memory that a container can be limited to, in bytes.
const LEAST_MEMORY: i64 = 6 << 20;

/// Refuses limits that mean nothing on a host with so many processors.
pub(super) fn check(host: &HostConfig, cpus: u32) -> Result<(), Error> {
    memory(host)?;
    processors(host, cpus)?;
    let weight = host.blkio_weight;
    refuse(
        weight > 0 && !(10..=1000).contains(&weight),
        || "Range of blkio weight is from 10 to 1000",
    )
}

fn refuse<T: Into<String>>(wrong: bool, why: impl FnOnce() -> T) -> Result<(), Error> {
    if wrong {
        return Err(Error::Invalid(why().into()));
    }
    Ok(())
}

fn memory(host: &HostConfig) -> Result<(), Error> {
    let (memory, swap, reserved) = (host.memory, host.memory_swap, host.memory_reservation);
    refuse(
        memory != 0 && memory < LEAST_MEMORY,
        || "Minimum memory limit allowed is 6MB",
    )?;
    refuse(
        memory > 0 && swap > 0 && swap < memory,
        || "Minimum memoryswap limit should be larger than memory limit, see usage",
    )?;
    refuse(
        memory == 0 && swap > 0,
        || "You should always set the Memory limit when using Memoryswap limit, see usage",
    )?;
    // -1 is "not said".
    if let Some(value) = host.memory_swappiness.filter(|value| *value != -1) {
        refuse(!(0..=100).contains(&value), || {
            format!("Invalid value: {value}, valid memory swappiness range is 0-100")
        })?;
    }
    refuse(
        reserved > 0 && reserved < LEAST_MEMORY,
        || "Minimum memory reservation allowed is 6MB",
    )?;
    refuse(
        memory > 0 && reserved > 0 && memory < reserved,
        || "Minimum memory limit can not be less than memory reservation limit, see usage",
    )
}

fn processors(host: &HostConfig, cpus: u32) -> Result<(), Error> {
    let (nano, period, quota) = (host.nano_cpus, host.cpu_period, host.cpu_quota);
    refuse(
        nano > 0 && period > 0,
        || "Conflicting options: Nano CPUs and CPU Period cannot both be set",
    )?;
    refuse(
        nano > 0 && quota > 0,
        || "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
    )?;
    refuse(
        !(0..=i64::from(cpus) * 1_000_000_000).contains(&nano),
        || {
            format!(
                "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            )
        },
    )?;
    refuse(
        period != 0 && !(1000..=1_000_000).contains(&period),
        || "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
    )?;
    refuse(
        (1..1000).contains(&quota),
        || "CPU cfs quota can not be less than 1ms (i.e. 1000)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_in_dockers_words() {
        for (json, message) in [
            (r#"{"Memory":1}"#, "Minimum memory limit allowed is 6MB"),
            (r#"{"Memory":-1}"#, "Minimum memory limit allowed is 6MB"),
            (
                r#"{"Memory":10000000,"MemorySwap":1}"#,
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ),
            (
                r#"{"MemorySwap":1}"#,
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            ),
            (
                r#"{"MemorySwappiness":101}"#,
                "Invalid value: 101, valid memory swappiness range is 0-100",
            ),
            (
                r#"{"NanoCpus":1,"CpuPeriod":1000}"#,
                "Conflicting options: Nano CPUs and CPU Period cannot both be set",
            ),
            (
                r#"{"NanoCpus":3000000000}"#,
                "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
            ),
            (
                r#"{"CpuQuota":1}"#,
                "CPU cfs quota can not be less than 1ms (i.e. 1000)",
            ),
            (
                r#"{"BlkioWeight":5}"#,
                "Range of blkio weight is from 10 to 1000",
            ),
        ] {
            let host: HostConfig = serde_json::from_str(json).unwrap();
            assert_eq!(check(&host, 2).unwrap_err().to_string(), message, "{json}");
        }
        let usual = r#"{"Memory":10000000,"MemorySwap":-1,"MemorySwappiness":-1,"CpuQuota":-1}"#;
        check(&serde_json::from_str(usual).unwrap(), 2).unwrap();
    }
}
