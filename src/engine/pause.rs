//! Pausing a container, and letting it go on.
//!
//! The record says so before the first process is stopped: a daemon that dies in between leaves a
//! container that is called paused, and whatever of it is stopped goes on when it is unpaused.

use std::sync::Arc;

use crate::container::pause;
use crate::container::protocol::Started;
use crate::container::record::State;
use crate::engine::Engine;
use crate::engine::containers::{Container, Data};
use crate::engine::error::{Error, Kind, Result};
use crate::types::id::ContainerId;
use crate::userns::keeper::ShimIdentity;

impl Engine {
    /// Stops all processes of a running container.
    pub fn container_pause(&self, name: &str) -> Result<()> {
        self.pause(&self.containers.find(name)?)
    }

    pub(super) fn pause(&self, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operate();
        let started = {
            let mut data = container.settled();
            if data.record.state.is_paused() {
                return Err(Error::conflict(format!(
                    "container {} is already paused",
                    container.id
                )));
            }
            let started = running(container, &data)?;
            data.record.state.set_paused(true);
            started
        };
        self.save_lazily(container);
        let shim = ShimIdentity::living(&container.directory).map(|(pid, _)| pid);
        if let Err(error) = pause::pause(started.pid, shim) {
            let is_over = {
                let mut data = container.data();
                let is_over = data.is_over(Some(started));
                if !is_over {
                    data.record.state.set_paused(false);
                }
                is_over
            };
            if is_over {
                return Err(Error::not_running(container.id.as_str()));
            }
            self.save_lazily(container);
            return Err(Error::io(
                format!("cannot pause container {}", container.id),
                &error,
            ));
        }
        self.stop_checking(container);
        self.container_event(&container.record(), "pause", []);
        Ok(())
    }

    /// Lets a paused container go on.
    pub fn container_unpause(&self, name: &str) -> Result<()> {
        self.unpause(&self.containers.find(name)?)
    }

    pub(super) fn unpause(&self, container: &Arc<Container>) -> Result<()> {
        let started = {
            let data = container.data();
            match data.record.state {
                State::Running {
                    started,
                    paused: true,
                } => started,
                _ => {
                    return Err(Error::new(
                        Kind::System,
                        format!("Container {} is not paused", container.id),
                    ));
                }
            }
        };
        let shim = ShimIdentity::living(&container.directory).map(|(pid, _)| pid);
        if let Err(error) = pause::resume(started.pid, shim) {
            if container.data().is_over(Some(started)) {
                return Err(Error::not_running(container.id.as_str()));
            }
            return Err(Error::io(
                format!("Cannot unpause container {}", container.id),
                &error,
            ));
        }
        {
            let mut data = container.data();
            if data.is_over(Some(started)) {
                return Ok(());
            }
            data.record.state.set_paused(false);
        }
        self.save_lazily(container);
        self.go_on_checking(container);
        self.container_event(&container.record(), "unpause", []);
        Ok(())
    }

    /// Writes the record where a power cut may take it back.
    pub(super) fn save_lazily(&self, container: &Container) {
        if let Err(error) = container.save(false) {
            tracing::error!("{}", Error::system(&error));
        }
    }
}

/// The first process of a container that runs, and is not about to run again.
fn running(container: &Container, data: &Data) -> Result<Started> {
    if data.record.state.is_restarting() {
        return Err(restarting(&container.id));
    }
    let started = data.record.state.started();
    started.ok_or_else(|| Error::not_running(container.id.as_str()))
}

/// Nothing can be done with it until it runs again.
pub(super) fn restarting(id: &ContainerId) -> Error {
    Error::conflict(format!(
        "Container {id} is restarting, wait until the container is running"
    ))
}
