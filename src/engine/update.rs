//! `docker update`: other limits and another restart policy for a container that there is.
//!
//! Limits are written down for inspect and for the next moss that can enforce them; the answer says
//! that nothing does. A restart policy counts from the container's next end on.

use crate::api::container::{ContainerConfig, HostConfig, UpdateResponse};
use crate::engine::Engine;
use crate::engine::error::{Error, Result};

/// What is said where limits are asked for.
pub(super) const NO_LIMITS: &str =
    "This version of moss sets no cgroup limits. Limitation discarded.";

impl Engine {
    /// Changes limits and restart policy; of `asked` nothing else counts.
    pub fn container_update(&self, name: &str, asked: &HostConfig) -> Result<UpdateResponse> {
        self.validate(&ContainerConfig::default(), asked)?;
        let container = self.containers.find(name)?;
        let cannot =
            |error: Error| error.during(format!("Cannot update container {}", container.id));
        let record = {
            let mut data = container.data();
            if data.removing {
                return Err(cannot(Error::conflict(
                    "container is marked for removal and cannot be \"update\"",
                )));
            }
            let changed = changed(&data.record.host_config, asked).map_err(cannot)?;
            data.record.host_config = changed;
            // It was made from what was asked for before.
            data.discard_prepared();
            data.record.clone()
        };
        container
            .save(true)
            .map_err(|error| cannot(Error::system(&error)))?;
        self.container_event(&record, "update", []);
        let warnings = is_limited(asked).then(|| vec![NO_LIMITS.to_owned()]);
        Ok(UpdateResponse { warnings })
    }
}

/// Whether limits are asked for that take a cgroup.
pub(super) fn is_limited(host: &HostConfig) -> bool {
    host.memory > 0
        || host.memory_reservation > 0
        || host.nano_cpus > 0
        || host.cpu_quota > 0
        || host.cpu_shares > 0
        || host.blkio_weight > 0
        || !host.cpuset_cpus.is_empty()
        || !host.cpuset_mems.is_empty()
        || host.pids_limit.is_some_and(|limit| limit > 0)
}

/// `now` with what `asked` says (moby, container/container_unix.go, `UpdateContainer`).
fn changed(now: &HostConfig, asked: &HostConfig) -> Result<HostConfig> {
    let options = |what: &str| Err(Error::conflict(format!("Conflicting options: {what}")));
    if asked.nano_cpus > 0 && now.cpu_period > 0 {
        return options("Nano CPUs cannot be updated as CPU Period has already been set");
    }
    if asked.nano_cpus > 0 && now.cpu_quota > 0 {
        return options("Nano CPUs cannot be updated as CPU Quota has already been set");
    }
    if asked.cpu_period > 0 && now.nano_cpus > 0 {
        return options("CPU Period cannot be updated as NanoCPUs has already been set");
    }
    if asked.cpu_quota > 0 && now.nano_cpus > 0 {
        return options("CPU Quota cannot be updated as NanoCPUs has already been set");
    }
    if asked.memory != 0 && asked.memory > now.memory_swap && asked.memory_swap == 0 {
        return Err(Error::conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the \
             memoryswap at the same time",
        ));
    }
    let mut host = now.clone();
    let number = |to: &mut i64, from: i64| {
        if from != 0 {
            *to = from;
        }
    };
    number(&mut host.cpu_shares, asked.cpu_shares);
    number(&mut host.nano_cpus, asked.nano_cpus);
    number(&mut host.cpu_period, asked.cpu_period);
    number(&mut host.cpu_quota, asked.cpu_quota);
    number(&mut host.memory, asked.memory);
    number(&mut host.memory_swap, asked.memory_swap);
    number(&mut host.memory_reservation, asked.memory_reservation);
    if asked.blkio_weight != 0 {
        host.blkio_weight = asked.blkio_weight;
    }
    for (to, from) in [
        (&mut host.cpuset_cpus, &asked.cpuset_cpus),
        (&mut host.cpuset_mems, &asked.cpuset_mems),
    ] {
        if !from.is_empty() {
            to.clone_from(from);
        }
    }
    if asked.pids_limit.is_some() {
        host.pids_limit = asked.pids_limit;
    }
    if !asked.restart_policy.name.is_empty() {
        if host.auto_remove && asked.restart_policy.name != "no" {
            return Err(Error::conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        host.restart_policy = asked.restart_policy.clone();
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(json: &str) -> HostConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_not_said_stays() {
        let now = host(r#"{"Memory":10,"MemorySwap":20,"CpuShares":5,"CpusetCpus":"0"}"#);
        let asked = host(r#"{"Memory":15,"RestartPolicy":{"Name":"always"},"PidsLimit":7}"#);
        let changed = changed(&now, &asked).unwrap();
        assert_eq!((changed.memory, changed.memory_swap), (15, 20));
        assert_eq!((changed.cpu_shares, &*changed.cpuset_cpus), (5, "0"));
        assert_eq!(changed.pids_limit, Some(7));
        assert_eq!(changed.restart_policy.name, "always");
    }

    #[test]
    fn what_contradicts_is_refused_in_dockers_words() {
        for (now, asked, message) in [
            (
                r#"{"NanoCpus":1}"#,
                r#"{"CpuQuota":1000}"#,
                "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set",
            ),
            (
                r#"{"MemorySwap":20}"#,
                r#"{"Memory":30}"#,
                "Memory limit should be smaller than already set memoryswap limit, update the \
                 memoryswap at the same time",
            ),
            (
                r#"{"AutoRemove":true}"#,
                r#"{"RestartPolicy":{"Name":"always"}}"#,
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ),
        ] {
            assert_eq!(
                changed(&host(now), &host(asked)).unwrap_err(),
                Error::conflict(message)
            );
        }
    }
}
