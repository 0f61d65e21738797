//! Whose files a container's are: the map of its user namespace.
//!
//! As with rootless Docker, root inside is the user, and all other ids are the user's subordinate
//! ones. `keep-id[:uid=N,gid=N]`, as podman has it, makes another id inside the user's: a directory of
//! theirs, bound into an image that runs as uid 1000, is then that user's there, and what it writes is
//! theirs. It is asked for, in this order, by `HostConfig.UsernsMode`, by a label of the container's
//! (the docker CLI sends no mode but `host`), or by daemon.json; one that joins another's namespaces
//! and asks for nothing has the other's. What it comes to is noted in the record once and for all.
//!
//! | what has owners | with a map of its own |
//! |---|---|
//! | the image's files, what is written over them | as they are in the image: the FUSE overlay maps them, which is why such a container has that driver; on disk ids are those inside |
//! | binds, volumes | ids are the host's: what the container calls N is the user's |
//! | archives of `cp`, `export`, `commit` | ids inside |
//!
//! Who runs in it, where neither image nor client say: the user, as in podman.

use crate::api::container::{ContainerConfig, HostConfig};
use crate::container::record::Record;
use crate::container::spec::NetworkMode;
use crate::engine::Engine;
use crate::engine::error::{Error, Result};
use crate::overlay::{self, Driver};
use crate::types::chain::chain;
use crate::types::idmap::IdMapping;
use crate::types::keep_id::KeepId;
use crate::userns::idmap;

/// Asks for a mode where the client cannot.
const LABEL: &str = "moss.userns";

impl Engine {
    /// What is asked for, if anything is. The labels are the client's alone: an image is not asked whose
    /// files are whose.
    pub(super) fn asked_userns(
        &self,
        config: &ContainerConfig,
        host: &HostConfig,
    ) -> Result<Option<String>> {
        let label = config.labels.as_ref().and_then(|labels| labels.get(LABEL));
        if let Some(mode) = label {
            KeepId::of_mode(mode).map_err(|error| {
                Error::invalid(format!("invalid label {LABEL}={mode}: {error}"))
            })?;
        }
        let asked = match host.userns_mode.as_str() {
            "" => label.filter(|mode| !mode.is_empty()).cloned(),
            mode => Some(mode.to_owned()),
        };
        if let Some(mode) = &asked {
            self.map_of(mode)?;
        }
        Ok(asked)
    }

    /// Settles the mode of a container to be made.
    pub(super) fn settle_userns(&self, asked: Option<String>, host: &mut HostConfig) -> Result<()> {
        let mode = match asked {
            Some(mode) => mode,
            None => match self.joined_first(host) {
                Some(other) => other.host_config.userns_mode,
                None => self.now().settings.userns_mode.clone(),
            },
        };
        self.map_of(&mode)?;
        host.userns_mode = mode;
        Ok(())
    }

    /// The container whose user namespace is joined with another of its namespaces.
    fn joined_first(&self, host: &HostConfig) -> Option<Record> {
        let network = match NetworkMode::parse(&host.network_mode) {
            NetworkMode::Container(name) => Some(name),
            _ => None,
        };
        let others = [&host.pid_mode, &host.ipc_mode].map(|mode| mode.strip_prefix("container:"));
        let mut names = [network].into_iter().chain(others).flatten();
        names.find_map(|name| Some(self.containers.find(name).ok()?.record()))
    }

    /// How the root filesystem of a container to be made is mounted, and what is amiss with it: a map
    /// of its own wants the FUSE overlay.
    pub(super) fn driver_of(&self, host: &HostConfig) -> Result<(Driver, Option<String>)> {
        let driver = self.settings.storage_driver;
        if driver == Driver::Fuse || self.map_of(&host.userns_mode)?.is_plain() {
            return Ok((driver, None));
        }
        let tried = self.fuse.get_or_init(|| {
            overlay::try_fuse(&self.settings.data_root).map_err(|error| chain(&error))
        });
        Ok(match tried {
            Ok(()) => (Driver::Fuse, None),
            Err(why) => (
                driver,
                Some(format!(
                    "With userns mode {:?} the image's own files have wrong owners in the \
                     container: the FUSE overlay, which maps them, cannot be used: {why}",
                    host.userns_mode
                )),
            ),
        })
    }

    /// The map of a container's user namespace, in terms of the keeper's.
    pub(super) fn map_of(&self, mode: &str) -> Result<IdMapping> {
        let outer = &self.facts.id_map;
        let keep = KeepId::of_mode(mode).map_err(|error| {
            Error::invalid(format!("invalid user namespace mode: {mode}: {error}"))
        })?;
        match keep {
            None => Ok(idmap::nested(outer)),
            Some(keep) => {
                idmap::keep_id(outer, keep).map_err(|error| Error::invalid(error.to_string()))
            }
        }
    }

    /// A container's map where it has one of its own.
    pub(super) fn owners(&self, record: &Record) -> Result<Option<IdMapping>> {
        let map = self.map_of(&record.host_config.userns_mode)?;
        Ok((!map.is_plain()).then_some(map))
    }

    /// As whom a container's processes run that are not told otherwise.
    pub(super) fn user_of(&self, record: &Record) -> String {
        match KeepId::of_mode(&record.host_config.userns_mode) {
            Ok(Some(keep)) if record.config.user.is_empty() => {
                let (uid, gid) = idmap::kept_ids(&self.facts.id_map, keep);
                format!("{uid}:{gid}")
            }
            _ => record.config.user.clone(),
        }
    }

    /// Refuses to join the user namespace of a container with another map.
    pub(super) fn check_same_map(&self, record: &Record, other: &Record) -> Result<()> {
        let (own, theirs) = (
            &record.host_config.userns_mode,
            &other.host_config.userns_mode,
        );
        if own == theirs || self.map_of(own)? == self.map_of(theirs)? {
            return Ok(());
        }
        let shown = |mode: &str| match mode {
            "" => "host".to_owned(),
            mode => mode.to_owned(),
        };
        Err(Error::conflict(format!(
            "cannot join a namespace of container {}, whose user namespace mode is {}: this one's is {}",
            other.name,
            shown(theirs),
            shown(own),
        )))
    }
}
