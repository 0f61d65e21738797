//! Making a container: everything that can be known to be wrong is refused here, not at start.
//!
//! The name is reserved first, so of two creates with one name exactly one goes on; whatever fails
//! afterwards takes back what was made, in reverse order. The directory appears under its final
//! name only with its record in it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::api::container::{
    ContainerConfig, CreateRequest, CreateResponse, HostConfig, NetworkingConfig,
};
use crate::container::mounts;
use crate::container::record::{MountKind, MountPoint, Record, State};
use crate::container::spec;
use crate::engine::Engine;
use crate::engine::containers::{Container, Paths};
use crate::engine::error::{Error, Kind, Result};
use crate::image::Image;
use crate::types::id::{ContainerId, random_hex};
use crate::types::name;
use crate::types::platform::Platform;
use crate::types::timestamp::Timestamp;

/// Attempts at finding a free random name.
const NAME_ATTEMPTS: u32 = 50;

impl Engine {
    /// Makes a container.
    pub fn container_create(
        &self,
        name: Option<&str>,
        platform: Option<&str>,
        request: CreateRequest,
    ) -> Result<CreateResponse> {
        let CreateRequest {
            mut config,
            mut host_config,
            networking_config,
        } = request;
        let image_name = config.image.clone();
        if image_name.is_empty() {
            return Err(Error::invalid("no image specified"));
        }
        let image = self.find_image(&image_name)?;
        check_platform(platform, &image, &image_name)?;
        let defaults: ContainerConfig = serde_json::to_value(&image.config.config)
            .and_then(serde_json::from_value)
            .map_err(|error| Error::system(&error))?;
        spec::merge(&mut config, &defaults).map_err(|error| Error::invalid(error.to_string()))?;
        fill_defaults(&mut host_config);
        // Before the host name is filled in: only one that was asked for can conflict.
        self.validate(&config, &host_config)?;
        let id = ContainerId::random();
        let joined = match host_config.network_mode.strip_prefix("container:") {
            // One that is not there is found out at the start, as in Docker.
            Some(other) => self
                .containers
                .find(other)
                .ok()
                .map(|other| other.data().record.config.hostname.clone()),
            None => None,
        };
        config.hostname = spec::hostname(
            &config,
            &host_config,
            id.as_str(),
            &self.facts.hostname,
            joined.as_deref(),
        );
        let name = self.reserve_name(name, &id)?;
        let made = self.make(
            &id,
            &name,
            &image,
            image_name,
            config,
            host_config,
            networking_config,
        );
        match made {
            Ok(warnings) => Ok(CreateResponse {
                id: id.as_str().to_owned(),
                warnings,
            }),
            Err(error) => {
                self.containers.release(&name);
                Err(error)
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one record, on their way into it"
    )]
    fn make(
        &self,
        id: &ContainerId,
        name: &str,
        image: &Image,
        image_name: String,
        config: ContainerConfig,
        host_config: HostConfig,
        networking: NetworkingConfig,
    ) -> Result<Vec<String>> {
        let mut mounts = mounts::resolve(&config, &host_config)
            .map_err(|error| Error::invalid(error.to_string()))?;
        for point in &mounts {
            if point.kind == MountKind::Bind
                && !point.create_source
                && std::fs::metadata(&point.source).is_err()
            {
                return Err(Error::invalid(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    point.source.display()
                )));
            }
        }
        self.mounts_of_others(&host_config, &mut mounts)?;
        let mut record = Record {
            id: *id,
            name: name.to_owned(),
            created: Timestamp::now(),
            image: image.id,
            image_name,
            os: image.os.clone(),
            layers: image.layers.clone(),
            driver: self.settings.storage_driver,
            config,
            host_config,
            networking,
            mounts,
            state: State::Created { failure: None },
            finished: None,
            restart_count: 0,
            boot_id: self.facts.boot_id.clone(),
        };

        let made = self.make_volumes(&mut record);
        let result = made
            .as_ref()
            .map(drop)
            .map_err(Clone::clone)
            .and_then(|()| self.store(&record));
        if let Err(error) = result {
            for name in made.unwrap_or_default() {
                if let Ok(path) = self.volumes.remove(&name) {
                    self.janitor.discard(path);
                }
            }
            return Err(error);
        }
        let warnings = self.create_warnings(&record);
        self.container_event(&record, "create", []);
        Ok(warnings)
    }

    /// Writes the container's directory and makes it known.
    fn store(&self, record: &Record) -> Result<()> {
        let containers = self.settings.data_root.join("containers");
        let temporary = containers.join(format!(".{}", record.id));
        let directory = containers.join(record.id.as_str());
        let failed =
            |error: std::io::Error| Error::io("cannot make the container's directory", &error);
        let built = (|| {
            let make =
                |path: &std::path::Path, mode| std::fs::DirBuilder::new().mode(mode).create(path);
            make(&temporary, 0o710).map_err(failed)?;
            make(&Paths(&temporary).upper(), 0o755).map_err(failed)?;
            make(&Paths(&temporary).work(), 0o700).map_err(failed)?;
            record
                .write(&temporary, true)
                .map_err(|error| Error::system(&error))?;
            std::fs::rename(&temporary, &directory).map_err(failed)
        })();
        if let Err(error) = built {
            // The next start would remove it too; the first error is the one that matters.
            let _ = std::fs::remove_dir_all(&temporary);
            return Err(error);
        }
        self.containers
            .insert(Container::new(record.clone(), directory));
        Ok(())
    }

    fn reserve_name(&self, wanted: Option<&str>, id: &ContainerId) -> Result<String> {
        if let Some(wanted) = wanted.filter(|name| !name.is_empty()) {
            let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
            name::container(wanted).map_err(|error| Error::invalid(error.to_string()))?;
            self.containers.reserve(wanted, id)?;
            return Ok(wanted.to_owned());
        }
        for attempt in 0..NAME_ATTEMPTS {
            let name = name::random(attempt);
            if self.containers.reserve(&name, id).is_ok() {
                return Ok(name);
            }
        }
        self.containers.reserve(id.short(), id)?;
        Ok(id.short().to_owned())
    }

    /// `--volumes-from`: the mounts of other containers, unless something is there already.
    fn mounts_of_others(&self, host: &HostConfig, mounts: &mut Vec<MountPoint>) -> Result<()> {
        for source in host.volumes_from.iter().flatten() {
            let (name, mode) = source.split_once(':').unwrap_or((source, "rw"));
            if !matches!(mode, "ro" | "rw" | "z" | "Z") {
                return Err(Error::invalid(format!("invalid mode: {mode}")));
            }
            for mut point in self.containers.find(name)?.record().mounts {
                // A bare image volume gives way to another container's.
                mounts.retain(|own| {
                    !(own.anonymous && own.name.is_none() && own.destination == point.destination)
                });
                if mounts
                    .iter()
                    .any(|own| own.destination == point.destination)
                {
                    continue;
                }
                point.writable &= mode != "ro";
                point.anonymous = false;
                point.populate = false;
                mounts.push(point);
            }
        }
        Ok(())
    }

    /// Makes the volumes that are not there, fills new ones from the image, and notes their paths.
    /// Returns the names of those made here.
    fn make_volumes(&self, record: &mut Record) -> Result<Vec<String>> {
        let mut made = Vec::new();
        let result = self.make_each_volume(record, &mut made);
        if let Err(error) = result {
            for name in &made {
                if let Ok(path) = self.volumes.remove(name) {
                    self.janitor.discard(path);
                }
            }
            return Err(error);
        }
        Ok(made)
    }

    fn make_each_volume(&self, record: &mut Record, made: &mut Vec<String>) -> Result<()> {
        let layers = self.images.layer_paths_of(&record.layers);
        for point in &mut record.mounts {
            if point.kind != MountKind::Volume || !point.source.as_os_str().is_empty() {
                continue;
            }
            let anonymous = point.name.is_none();
            let name = point.name.get_or_insert_with(random_hex).clone();
            let empty = BTreeMap::new();
            let labels = if anonymous {
                BTreeMap::from([("com.docker.volume.anonymous".to_owned(), String::new())])
            } else {
                BTreeMap::new()
            };
            let (volume, new) = self
                .volumes
                .ensure(&name, &labels, &empty, anonymous)
                .map_err(|error| Error::invalid(error.to_string()))?;
            if new {
                made.push(name.clone());
                self.events.emit(
                    "volume",
                    "create",
                    &name,
                    [("driver".to_owned(), "local".to_owned())],
                );
            }
            point.source = self.volumes.data_path(&name);
            if point.populate && volume.fresh {
                populate(&layers, &point.destination, &point.source).map_err(|error| {
                    Error::io(format!("cannot fill volume {name} from the image"), &error)
                })?;
            }
        }
        Ok(())
    }

    /// What was asked for and cannot be had here, one sentence each.
    fn create_warnings(&self, record: &Record) -> Vec<String> {
        let mut warnings = Vec::new();
        let host = &record.host_config;
        if matches!(host.network_mode.as_str(), "default" | "bridge") {
            warnings.push(
                "This version of moss has no networks yet: the container gets a loopback interface \
                 alone. Use --network host to reach the network."
                    .to_owned(),
            );
        }
        let limited = host.memory > 0
            || host.nano_cpus > 0
            || host.cpu_quota > 0
            || host.cpu_shares > 0
            || !host.cpuset_cpus.is_empty()
            || host.pids_limit.is_some_and(|limit| limit > 0);
        if limited {
            warnings.push(
                "This version of moss sets no cgroup limits. Limitation discarded.".to_owned(),
            );
        }
        warnings
    }
}

/// What Docker fills in and `inspect` then shows.
fn fill_defaults(host: &mut HostConfig) {
    if matches!(host.network_mode.as_str(), "" | "default") {
        "bridge".clone_into(&mut host.network_mode);
    }
    if host.ipc_mode.is_empty() {
        "private".clone_into(&mut host.ipc_mode);
    }
    if host.cgroupns_mode.is_empty() {
        "private".clone_into(&mut host.cgroupns_mode);
    }
    if host.shm_size == 0 {
        host.shm_size = 64 * 1024 * 1024;
    }
    if host.runtime.is_empty() {
        "moss".clone_into(&mut host.runtime);
    }
    if host.log_config.kind.is_empty() {
        "json-file".clone_into(&mut host.log_config.kind);
    }
    if host.restart_policy.name.is_empty() {
        "no".clone_into(&mut host.restart_policy.name);
    }
}

/// Refuses an image for another platform than the one asked for.
fn check_platform(wanted: Option<&str>, image: &Image, name: &str) -> Result<()> {
    let Some(wanted) = wanted.filter(|text| !text.is_empty()) else {
        return Ok(());
    };
    let wanted: Platform =
        wanted
            .parse()
            .map_err(|error: crate::types::platform::PlatformError| {
                Error::invalid(error.to_string())
            })?;
    let have = Platform::new(&image.os, &image.architecture, &image.variant);
    if wanted.runs(&have) {
        return Ok(());
    }
    Err(Error::new(
        Kind::NotFound,
        format!(
            "image with reference {name} was found but does not provide the specified platform ({wanted})"
        ),
    ))
}

/// Copies what the image has at `destination` into the volume at `volume`. Layers are searched
/// through a read-only overlay of their own, so whiteouts and links mean what they mean there.
fn populate(
    layers: &[std::path::PathBuf],
    destination: &str,
    volume: &std::path::Path,
) -> std::io::Result<()> {
    let root = crate::overlay::mount_readonly(layers)?;
    let source = openat2(
        root.as_fd(),
        destination.trim_start_matches('/'),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let source = match source {
        Ok(source) => source,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let target = std::fs::File::open(volume)?;
    crate::volume::populate::populate(source.as_fd(), target.as_fd())
}
