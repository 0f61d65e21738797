//! The containers whose namespaces another one joins (`--network`, `--ipc`, `--pid container:…`).

use crate::container::protocol::Started;
use crate::container::record::Record;
use crate::container::spec::Joined;
use crate::engine::Engine;
use crate::engine::error::{Error, Kind, Result};
use crate::userns::plan::{Namespace, ProcessIdentity};

impl Engine {
    /// The processes whose namespaces the container joins; they must run, which Docker finds out at
    /// the start.
    pub(super) fn joined(&self, record: &Record) -> Result<Identities> {
        // In dockerd's order: of several that cannot be joined the first is told of.
        let (net, ipc, pid) = (
            self.joined_network(record)?,
            self.joined_ipc(record)
                .map_err(|error| error.during("failed to join IPC namespace"))?,
            // Found out while the spec is made, where whatever goes wrong is the host's failure.
            self.joined_pid(record)
                .map_err(|error| error.during("failed to join PID namespace").hidden())?,
        );
        Ok(Identities { net, pid, ipc })
    }

    fn joined_network(&self, record: &Record) -> Result<Option<ProcessIdentity>> {
        let Some(name) = record.host_config.network_mode.strip_prefix("container:") else {
            return Ok(None);
        };
        let other = self.containers.find(name).map_err(|error| {
            error
                .during("joining network namespace of container")
                .hidden()
        })?;
        if other.id == record.id {
            return Err(Error::new(
                Kind::System,
                "cannot join own network namespace",
            ));
        }
        let other = other.record();
        let process = identity(&other).ok_or_else(|| {
            Error::conflict(format!(
                "cannot join network namespace of a non running container: container {} is {}",
                other.name,
                other.state.as_str()
            ))
        })?;
        self.check_same_map(record, &other)?;
        Ok(Some(process))
    }

    fn joined_ipc(&self, record: &Record) -> Result<Option<ProcessIdentity>> {
        let Some(name) = record.host_config.ipc_mode.strip_prefix("container:") else {
            return Ok(None);
        };
        let other = self
            .containers
            .find(name)
            .map_err(|error| Error::invalid(error.message))?
            .record();
        let process = identity(&other).ok_or_else(|| Error::not_running(name))?;
        if other.host_config.ipc_mode != "shareable" {
            return Err(Error::invalid(format!(
                "container {name}: non-shareable IPC (hint: use IpcMode:shareable for the donor \
                 container)"
            )));
        }
        self.check_same_map(record, &other)?;
        Ok(Some(process))
    }

    fn joined_pid(&self, record: &Record) -> Result<Option<ProcessIdentity>> {
        let Some(name) = record.host_config.pid_mode.strip_prefix("container:") else {
            return Ok(None);
        };
        let other = self.containers.find(name)?.record();
        let process = identity(&other).ok_or_else(|| Error::not_running(name))?;
        self.check_same_map(record, &other)?;
        Ok(Some(process))
    }
}

/// The first process of a container, if it runs.
fn identity(record: &Record) -> Option<ProcessIdentity> {
    record.state.started().map(Started::process)
}

/// First processes of the containers whose namespaces are joined.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Identities {
    net: Option<ProcessIdentity>,
    pid: Option<ProcessIdentity>,
    ipc: Option<ProcessIdentity>,
}

impl Identities {
    pub(super) fn namespaces(&self) -> Joined {
        Joined {
            pid: self.pid.map(Namespace::Join),
            ipc: self.ipc.map(Namespace::Join),
            net: self.net.map(Namespace::Join),
        }
    }

    pub(super) fn all(&self) -> Vec<ProcessIdentity> {
        [self.net, self.pid, self.ipc]
            .into_iter()
            .flatten()
            .collect()
    }
}
