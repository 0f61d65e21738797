//! The verbs of volumes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::api::filters::Filters;
use crate::api::volume::{CreateRequest, ListResponse, PruneResponse, Volume as ApiVolume};
use crate::container::record::{MountPoint, Record};
use crate::engine::Engine;
use crate::engine::error::{Error, Kind, Result};
use crate::types::id::{ContainerId, random_hex};
use crate::volume::{Volume, VolumeError, mounted};

/// Options of the driver `local` (moby, daemon/volume/local): each wants others beside it. What they
/// mean shows when the volume is mounted.
fn check_options(name: &str, options: &BTreeMap<String, String>) -> Result<()> {
    let create = |what: String| Error::invalid(format!("create {name}: {what}"));
    for (option, wanted) in [
        ("device", &["type"][..]),
        ("o", &["device", "type"]),
        ("type", &["device"]),
    ] {
        let missing = wanted.iter().find(|wanted| !options.contains_key(**wanted));
        if let Some(missing) = missing.filter(|_| options.contains_key(option)) {
            return Err(create(format!("missing required option: {missing:?}")));
        }
    }
    let unknown = |key: &&String| !matches!(key.as_str(), "type" | "o" | "device" | "size");
    if let Some(option) = options.keys().find(unknown) {
        return Err(create(format!("invalid option: {option:?}")));
    }
    match options.get("size") {
        Some(_) => Err(create(
            "quota size requested but no quota support".to_owned(),
        )),
        None => Ok(()),
    }
}

impl Engine {
    /// Mounts a volume for a container, if it is a filesystem of its own.
    pub(super) fn mount_volume(&self, volume: &Volume, user: &ContainerId) -> Result<()> {
        if !mounted::is_wanted(&volume.options) {
            return Ok(());
        }
        let at = self.volumes.data_path(&volume.name);
        let mounted = &self.mounted_volumes;
        mounted
            .mount(&volume.name, &volume.options, &at, user.as_str())
            .map_err(|error| {
                let what = format!("error while mounting volume '{}'", at.display());
                Error::new(Kind::System, format!("{what}: {error}"))
            })
    }

    /// Whether a mount is of a volume that is a directory of its own.
    pub(super) fn is_plain_volume(&self, point: &MountPoint) -> bool {
        let volume = point.name.as_deref().map(|name| self.volumes.get(name));
        matches!(volume, Some(Ok(volume)) if !mounted::is_wanted(&volume.options))
    }

    /// Learns, when the daemon starts, which volumes are mounted for the containers that run, and
    /// unmounts those of containers that have ended meanwhile.
    pub(super) fn adopt_mounts<'a>(&self, running: impl Iterator<Item = &'a Record>) {
        for record in running {
            let names = record
                .mounts
                .iter()
                .filter_map(|point| point.name.as_deref());
            names.for_each(|name| self.mounted_volumes.keep(name, record.id.as_str()));
        }
        for volume in self.volumes.list() {
            self.unmount_volume(&volume.name, "");
        }
    }

    /// A container has the volume no more.
    pub(super) fn unmount_volume(&self, name: &str, user: &str) {
        let Ok(volume) = self.volumes.get(name) else {
            return;
        };
        if mounted::is_wanted(&volume.options)
            && let Err(error) =
                self.mounted_volumes
                    .unmount(name, &self.volumes.data_path(name), user)
        {
            tracing::error!("cannot unmount volume {name}: {error}");
        }
    }

    /// Makes a volume; one that is there already is no error.
    pub fn volume_create(&self, options: CreateRequest) -> Result<ApiVolume> {
        let (volume, _) = self.make_volume(options)?;
        Ok(self.shape(&volume))
    }

    /// The volume that is asked for, and whether it was made just now.
    pub(super) fn make_volume(&self, options: CreateRequest) -> Result<(Volume, bool)> {
        if !matches!(options.driver.as_str(), "" | "local") {
            return Err(Error::not_found(format!(
                "create {0}: error looking up volume plugin {1}: plugin \"{1}\" not found",
                options.name, options.driver
            )));
        }
        let anonymous = options.name.is_empty();
        let name = if anonymous {
            random_hex()
        } else {
            options.name
        };
        let mut labels = options.labels.unwrap_or_default();
        if anonymous {
            labels.insert("com.docker.volume.anonymous".to_owned(), String::new());
        }
        let driver_options = options.driver_opts.unwrap_or_default();
        check_options(&name, &driver_options)?;
        let (volume, new) = self
            .volumes
            .ensure(&name, &labels, &driver_options, anonymous)
            .map_err(|error| volume_error(&error))?;
        if new {
            self.events.emit(
                "volume",
                "create",
                &name,
                [("driver".to_owned(), "local".to_owned())],
            );
        }
        Ok((volume, new))
    }

    /// One volume.
    pub fn volume_inspect(&self, name: &str) -> Result<ApiVolume> {
        Ok(self.shape(
            &self
                .volumes
                .get(name)
                .map_err(|error| volume_error(&error))?,
        ))
    }

    /// All volumes that pass the filters.
    pub fn volume_list(&self, filters: &Filters) -> Result<ListResponse> {
        filters
            .validate(&["dangling", "driver", "label", "name"])
            .map_err(|error| Error::invalid(error.to_string()))?;
        let dangling = filters
            .bool("dangling")
            .map_err(|error| Error::invalid(error.to_string()))?;
        let volumes = self
            .volumes
            .list()
            .iter()
            .filter(|volume| filters.matches_pattern("name", &volume.name))
            .filter(|_| filters.matches_exactly("driver", "local"))
            .filter(|volume| filters.matches_labels("label", &volume.labels))
            .filter(|volume| {
                dangling.is_none_or(|wanted| self.volume_users(&volume.name).is_empty() == wanted)
            })
            .map(|volume| self.shape(volume))
            .collect();
        Ok(ListResponse {
            volumes,
            warnings: None,
        })
    }

    /// Removes a volume that no container has.
    pub fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        match self.volumes.get(name) {
            Err(VolumeError::NotFound(_)) if force => return Ok(()),
            other => other.map_err(|error| volume_error(&error))?,
        };
        let users = self.volume_users(name);
        if !users.is_empty() {
            let users: Vec<&str> = users.iter().map(|id| id.as_str()).collect();
            return Err(Error::conflict(format!(
                "remove {name}: volume is in use - [{}]",
                users.join(", ")
            )));
        }
        let path = self
            .volumes
            .remove(name)
            .map_err(|error| volume_error(&error))?;
        self.discard_volume(name, path);
        Ok(())
    }

    /// Deletes what a volume that is removed held, and says that it is gone.
    pub(super) fn discard_volume(&self, name: &str, path: Option<PathBuf>) {
        self.janitor.discard(path);
        self.events.emit(
            "volume",
            "destroy",
            name,
            [("driver".to_owned(), "local".to_owned())],
        );
    }

    /// Removes the volumes that no container has: anonymous ones, or all with `all=true`.
    pub fn volume_prune(&self, filters: &Filters) -> Result<PruneResponse> {
        filters
            .validate(&["all", "label", "label!"])
            .map_err(|error| Error::invalid(error.to_string()))?;
        let all = filters
            .bool_or("all", false)
            .map_err(|error| Error::invalid(error.to_string()))?;
        let mut removed = Vec::new();
        let mut reclaimed = 0;
        for volume in self.volumes.list() {
            if (all || volume.anonymous)
                && filters.matches_labels("label", &volume.labels)
                && filters.excludes_labels("label!", &volume.labels)
                && self.volume_users(&volume.name).is_empty()
            {
                reclaimed += crate::sys::usage::disk_usage(&self.volumes.data_path(&volume.name))
                    .unwrap_or(0);
                self.volume_remove(&volume.name, false)?;
                removed.push(volume.name);
            }
        }
        self.prune_event("volume", reclaimed);
        Ok(PruneResponse {
            volumes_deleted: Some(removed),
            space_reclaimed: reclaimed,
        })
    }

    pub(super) fn shape(&self, volume: &Volume) -> ApiVolume {
        let some = |map: &BTreeMap<String, String>| (!map.is_empty()).then(|| map.clone());
        ApiVolume {
            name: volume.name.clone(),
            driver: "local".to_owned(),
            mountpoint: self.volumes.data_path(&volume.name).display().to_string(),
            created_at: volume.created.to_string(),
            labels: some(&volume.labels),
            options: some(&volume.options),
            scope: "local".to_owned(),
            ..ApiVolume::default()
        }
    }
}

fn volume_error(error: &VolumeError) -> Error {
    match error {
        VolumeError::NotFound(_) => Error::not_found(error.to_string()),
        VolumeError::Io { .. } => Error::system(error),
        _ => Error::invalid(error.to_string()),
    }
}
