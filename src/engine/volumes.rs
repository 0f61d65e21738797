//! The verbs of volumes.

use std::collections::BTreeMap;

use crate::api::filters::Filters;
use crate::api::volume::{CreateRequest, ListResponse, PruneResponse, Volume as ApiVolume};
use crate::engine::Engine;
use crate::engine::error::{Error, Result};
use crate::types::id::random_hex;
use crate::volume::{self, Volume, VolumeError};

/// Options of the driver `local` (moby, daemon/volume/local): each wants others beside it, and of
/// what could be mounted there are directories of the host alone.
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
    let unknown = |key: &&String| !matches!(key.as_str(), "type" | "o" | "device");
    if let Some(option) = options.keys().find(unknown) {
        return Err(create(format!("invalid option: {option:?}")));
    }
    match options.get("type") {
        Some(kind) if volume::bound(options).is_none() => Err(Error::not_implemented(format!(
            "this version of moss mounts no volume of type {kind:?}: \
             only directories of the host (type=none, o=bind)"
        ))),
        _ => Ok(()),
    }
}

impl Engine {
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
        let dangling = match filters.contains("dangling") {
            true => Some(
                filters
                    .bool_or("dangling", false)
                    .map_err(|error| Error::invalid(error.to_string()))?,
            ),
            false => None,
        };
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
        self.janitor.discard(path);
        self.events.emit(
            "volume",
            "destroy",
            name,
            [("driver".to_owned(), "local".to_owned())],
        );
        Ok(())
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
