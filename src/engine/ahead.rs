//! Starts that are prepared before anybody asks for them.
//!
//! ```text
//! create ─▶ answered ─▶┐                 ┌─ start: takes it, and only lets it go
//! attach ─▶ joined ───▶┴ prepared ahead ─┼─ a change, rm: discarded
//!                                        └─ nobody: the shim leaves after some seconds
//! ```
//!
//! Whoever creates a container mostly starts it next, and whoever attaches to one that does not run
//! does so too. What a client is busy with in between is time in which the first half of the start
//! (`start`) can be done: files, spec, plan, shim, root filesystem, namespaces, mounts.
//!
//! Nothing of it is to be seen from outside, and it makes no difference but to the time. A container
//! stays "created". What the first half is made from must not change in between: whoever changes it
//! calls [`Data::discard_prepared`](super::containers::Data::discard_prepared), and what the host may
//! change is never prepared. What could not be prepared is tried again, and told, by the start. At
//! most sixteen are prepared at a time, whatever is created, as each is a process and some
//! namespaces; a place is free again with the start, the change, or the lapse of what had it.

use crate::container::client::Prepared;
use crate::container::record::{MountKind, MountPoint, Record};
use crate::engine::Engine;
use crate::engine::containers::Container;
use crate::engine::error::{Error, Result};
use crate::engine::networks::Surroundings;
use crate::overlay::Driver;
use crate::types::id::ContainerId;

impl Engine {
    /// Prepares the start of a container that was just created.
    pub fn container_prepare(&self, id: &str) {
        let id = id.parse::<ContainerId>().ok();
        if let Some(container) = id.and_then(|id| self.containers.by_id(&id)) {
            self.prepare_ahead(&container);
        }
    }

    /// Prepares the start that somebody is about to ask for, unless the container is busy with
    /// something else.
    pub(super) fn prepare_ahead(&self, container: &Container) {
        let Ok(_operation) = container.operation.try_lock() else {
            return;
        };
        let (record, changes) = {
            let data = container.data();
            if data.is_busy() || data.removing || data.ahead.prepared.is_some() {
                return;
            }
            (data.record.clone(), data.ahead.changes)
        };
        let is_plain = |point: &MountPoint| self.is_plain_volume(point);
        if !can_be_ahead(&record, is_plain) {
            return;
        }
        let Some(place) = self.ahead.take() else {
            return;
        };
        match self.prepared(container, &record) {
            Ok(prepared) => {
                let mut data = container.data();
                if data.ahead.changes == changes {
                    data.ahead.prepared = Some((prepared, place));
                    // It may have lapsed before there was anything to forget.
                    data.ahead.forget_lapsed();
                }
            }
            Err(error) => tracing::debug!(id = container.id.short(), "not prepared: {error}"),
        }
    }

    fn prepared(&self, container: &Container, record: &Record) -> Result<Prepared> {
        let start = self.prepare(container, record)?;
        let prepared = self.shim(start).map_err(|error| Error::system(&error))?;
        self.write_files(record, &container.directory, &Surroundings::default())?;
        let watched = self.shims.watch(&prepared);
        watched.map_err(|error| Error::io("cannot watch a shim", &error))?;
        Ok(prepared)
    }
}

/// Whether a start may be prepared before it is asked for: where all that it is made from is the
/// record's, the image's and its volumes' (those that are plain directories). Directories of the host,
/// and those in volumes, are bound as they are at the start, and other containers' namespaces joined as
/// they are then. Overlays are mounted in no time: the copy driver would copy an image for a start that may
/// never come.
fn can_be_ahead(record: &Record, is_plain: impl Fn(&MountPoint) -> bool) -> bool {
    let host = &record.host_config;
    let modes = [&host.network_mode, &host.ipc_mode, &host.pid_mode];
    let is_theirs = |point: &MountPoint| match point.kind {
        MountKind::Bind => false,
        MountKind::Volume => point.subpath.is_empty() && is_plain(point),
        MountKind::Tmpfs | MountKind::Image => true,
    };
    record.driver != Driver::Copy
        && record.mounts.iter().all(is_theirs)
        && record.links.is_empty()
        && !modes.iter().any(|mode| mode.starts_with("container:"))
}
