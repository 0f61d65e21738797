//! Making a container: everything that can be known to be wrong is refused here, not at start.
//!
//! The name is reserved first, so of two creates with one name exactly one goes on; whatever fails
//! afterwards takes back what was made, in reverse order. The directory appears under its final
//! name only with its record in it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use crate::api::container::{
    ContainerConfig, CreateRequest, CreateResponse, HostConfig, NetworkingConfig, PortMap,
};
use crate::api::volume::CreateRequest as VolumeRequest;
use crate::container::mounts::{self, MountError};
use crate::container::record::{MountKind, MountPoint, MountedImage, Record, State};
use crate::container::spec::{self, NetworkMode, log};
use crate::engine::containers::Container;
use crate::engine::error::{Error, Kind, Result};
use crate::engine::images::image_error;
use crate::engine::platforms;
use crate::engine::update::{NO_LIMITS, is_limited};
use crate::engine::{Engine, Reloadable};
use crate::engine::{endpoints, fill, rootdir, spare};
use crate::image::{self, Image};
use crate::overlay::Driver;
use crate::types::digest::Digest;
use crate::types::id::ContainerId;
use crate::types::name;
use crate::types::path;
use crate::types::platform::Platform;
use crate::types::timestamp::Timestamp;
use crate::volume;

/// Attempts at finding a free random name.
const NAME_ATTEMPTS: u32 = 50;

impl Engine {
    /// Makes a container. With `read_only_non_recursive`, read-only binds leave the mounts below
    /// them as they are, whatever they say: so it was before API 1.44.
    pub fn container_create(
        &self,
        name: Option<&str>,
        platform: Option<&str>,
        request: CreateRequest,
        read_only_non_recursive: bool,
    ) -> Result<CreateResponse> {
        let CreateRequest {
            mut config,
            mut host_config,
            mut networking_config,
        } = request;
        log::merge(&mut host_config.log_config, &self.settings.containers.log);
        // The client's mistakes come before the image: a client that is told that there is no image
        // pulls it.
        self.validate(&config, &host_config)?;
        let userns = self.asked_userns(&config, &host_config)?;
        self.check_long_mounts(&host_config)?;
        spec::normalise_ports(&mut config, &mut host_config);
        if !config.working_dir.is_empty() {
            config.working_dir = path::clean(&config.working_dir);
        }
        let image_name = config.image.clone();
        if image_name.is_empty() {
            return Err(Error::invalid("no image specified"));
        }
        let image = self.image_to_run(&image_name)?;
        check_platform(&self.images, platform, &image, &image_name)?;
        endpoints::check(&host_config.network_mode, &mut networking_config)?;
        if host_config
            .storage_opt
            .as_ref()
            .is_some_and(|options| !options.is_empty())
        {
            let only =
                "--storage-opt is supported only for overlay over xfs with 'pquota' mount option";
            return Err(Error::new(Kind::System, only));
        }
        let mut warnings = warnings_of(platform, &image, &host_config);
        let defaults: ContainerConfig = serde_json::to_value(&image.config.config)
            .and_then(serde_json::from_value)
            .map_err(|error| Error::system(&error))?;
        spec::merge(&mut config, &defaults).map_err(|error| Error::invalid(error.to_string()))?;
        warnings.extend(not_done(&host_config));
        self.name_by_id(&mut host_config)?;
        fill_defaults(&mut config, &mut host_config, &self.now().settings);
        self.settle_userns(userns, &mut host_config)?;
        let (driver, wrong_owners) = self.driver_of(&host_config)?;
        warnings.extend(wrong_owners);
        let id = ContainerId::random();
        self.settle_networks(&id, &mut host_config, &mut networking_config)?;
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
        let made = self.hold_layers(&image, &image_name).and_then(|()| {
            let made = self.make(
                &id,
                &name,
                &image,
                image_name,
                config,
                host_config,
                networking_config,
                driver,
                read_only_non_recursive,
            );
            if made.is_err() {
                self.release_layers(&image.layers);
            }
            made
        });
        match made {
            Ok(()) => Ok(CreateResponse {
                id: id.as_str().to_owned(),
                warnings,
            }),
            Err(error) => {
                self.containers.release(&name, &id);
                Err(error)
            }
        }
    }

    /// Keeps an image's layers for a container, if they are all there yet.
    fn hold_layers(&self, image: &Image, name: &str) -> Result<()> {
        if self.images.hold(&image.layers) {
            return Ok(());
        }
        self.release_layers(&image.layers);
        let gone = image::Error::NoSuchImage(name.to_owned());
        Err(image_error(&gone))
    }

    /// Finds the images that are to be mounted, and keeps their layers, which it returns.
    fn hold_mounted(&self, mounts: &mut [MountPoint]) -> Result<Vec<Digest>> {
        let mut held = Vec::new();
        for point in mounts {
            if point.kind != MountKind::Image {
                continue;
            }
            // Another container's is known already.
            let layers = match &point.image {
                Some(image) => Ok(image.layers.clone()),
                None => self.mounted_image(point),
            };
            let name = point.name.as_deref().unwrap_or_default();
            let kept = layers.and_then(|layers| match self.images.hold(&layers) {
                true => Ok(layers),
                false => {
                    self.release_layers(&layers);
                    Err(image_error(&image::Error::NoSuchImage(name.to_owned())))
                }
            });
            match kept {
                Ok(layers) => held.extend(layers),
                Err(error) => {
                    self.release_layers(&held);
                    return Err(error);
                }
            }
        }
        Ok(held)
    }

    /// Notes which image is meant by a name now. Its layers.
    fn mounted_image(&self, point: &mut MountPoint) -> Result<Vec<Digest>> {
        let image = self.image_to_run(point.name.as_deref().unwrap_or_default())?;
        let layers = image.layers.clone();
        point.image = Some(MountedImage {
            id: image.id,
            layers: layers.clone(),
        });
        Ok(layers)
    }

    /// Lets go of a container's layers.
    pub(super) fn release_layers(&self, layers: &[Digest]) {
        if let Err(error) = self.images.release(layers) {
            tracing::error!("cannot remove a container's layers: {}", error.chain());
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
        mut host_config: HostConfig,
        networking: NetworkingConfig,
        driver: Driver,
        read_only_non_recursive: bool,
    ) -> Result<()> {
        let layers = self.images.layer_paths_of(&image.layers);
        rootdir::check_working_directory(&layers, &config.working_dir)?;
        let mut mounts =
            mounts::resolve(&config, &host_config).map_err(|error| mount_error(&error))?;
        for point in &mut mounts {
            point.readonly_non_recursive |=
                read_only_non_recursive && point.kind == MountKind::Bind && !point.writable;
        }
        self.spread_from_data_root(&mut mounts)?;
        self.mounts_of_others(&host_config, &mut mounts)?;
        let links = self.settle_links(&host_config)?;
        host_config.links = None;
        let mounted = self.hold_mounted(&mut mounts)?;
        let mut record = Record {
            id: *id,
            name: name.to_owned(),
            created: Timestamp::now(),
            image: image.id,
            image_name,
            os: image.os.clone(),
            layers: image.layers.clone(),
            driver,
            config,
            host_config,
            networking,
            mounts,
            state: State::Created { failure: None },
            links,
            endpoints: BTreeMap::new(),
            ports: PortMap::new(),
            finished: None,
            restart_count: 0,
            stopped_by_user: false,
            health: None,
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
            self.release_layers(&mounted);
            return Err(error);
        }
        self.container_event(&record, "create", []);
        Ok(())
    }

    /// Writes the container's directory and makes it known.
    fn store(&self, record: &Record) -> Result<()> {
        let containers = self.settings.data_root.join("containers");
        let temporary = containers.join(format!(".{}", record.id));
        let directory = containers.join(record.id.as_str());
        let failed =
            |error: std::io::Error| Error::io("cannot make the container's directory", &error);
        let built = (|| {
            spare::take(&containers, &temporary).map_err(failed)?;
            record
                .fill(&temporary)
                .map_err(|error| Error::system(&error))?;
            std::fs::rename(&temporary, &directory).map_err(failed)
        })();
        if let Err(error) = built {
            // Renamed away first, which needs no descriptor: there may be none left.
            if temporary.exists() {
                self.trash("half-container", &temporary);
            }
            return Err(error);
        }
        self.containers
            .insert(Container::new(record.clone(), directory));
        Ok(())
    }

    fn reserve_name(&self, wanted: Option<&str>, id: &ContainerId) -> Result<String> {
        if let Some(wanted) = wanted.filter(|name| !name.is_empty()) {
            let wanted =
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

    /// Names the containers whose namespaces are joined by their ids, which renaming does not
    /// change. One whose network is joined and that is not there is found out at the start; of the
    /// others dockerd wants to know the labels, unless they are said.
    fn name_by_id(&self, host: &mut HostConfig) -> Result<()> {
        let labelled = host.security_opt.iter().flatten();
        let labelled = labelled.clone().any(|option| is_label(option));
        for (mode, late) in [
            (&mut host.network_mode, true),
            (&mut host.ipc_mode, labelled || host.privileged),
            (&mut host.pid_mode, labelled || host.privileged),
        ] {
            let Some(name) = mode.strip_prefix("container:") else {
                continue;
            };
            match self.containers.find(name) {
                Ok(other) => *mode = format!("container:{}", other.id),
                Err(_) if late => {}
                Err(error) => return Err(Error::invalid(error.message)),
            }
        }
        Ok(())
    }

    /// `--volumes-from`: the mounts of other containers, unless something is there already.
    fn mounts_of_others(&self, host: &HostConfig, mounts: &mut Vec<MountPoint>) -> Result<()> {
        for source in host.volumes_from.iter().flatten() {
            let (name, mode) = source.split_once(':').unwrap_or((source, "rw"));
            if !matches!(mode, "ro" | "rw" | "z" | "Z") {
                return Err(Error::invalid(format!("invalid mode: {mode}")));
            }
            let other = self
                .containers
                .find(name)
                .map_err(|error| Error::invalid(error.message))?;
            for mut point in other.record().mounts {
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

    /// Refuses mounts of the long form that make no sense, or whose source is missing.
    fn check_long_mounts(&self, host: &HostConfig) -> Result<()> {
        for mount in host.mounts.iter().flatten() {
            let point = mounts::from_mount(mount).map_err(|error| mount_error(&error))?;
            if point.kind == MountKind::Bind
                && !point.create_source
                && std::fs::metadata(self.source_of(&point).0).is_err()
            {
                return Err(Error::invalid(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    mount.source
                )));
            }
        }
        Ok(())
    }

    fn make_each_volume(&self, record: &mut Record, made: &mut Vec<String>) -> Result<()> {
        let layers = self.images.layer_paths_of(&record.layers);
        let owners = self.owners(record)?;
        let owners = owners.filter(|_| record.driver == Driver::Fuse);
        for point in &mut record.mounts {
            if point.kind != MountKind::Volume || !point.source.as_os_str().is_empty() {
                continue;
            }
            let asked = volume_of(&record.host_config, point);
            let (made_volume, new) = self.make_volume(asked)?;
            let name = made_volume.name.clone();
            point.name = Some(name.clone());
            if new {
                made.push(name.clone());
            }
            point.source = self.volumes.data_path(&name);
            let bound = volume::bound(&made_volume.options).map(|(directory, _)| directory);
            let root = bound.unwrap_or(&point.source);
            // A path in it that is not there is found out at the start.
            if point.populate
                && !volume::mounted::is_wanted(&made_volume.options)
                && let Some(target) = fill::empty_part(root, &point.subpath)
            {
                let scratch = self.settings.data_root.join("containers");
                let scratch = scratch.join(format!(".fill-{}", record.id));
                let place = &point.destination;
                fill::fill(&layers, owners.as_ref(), &scratch, place, target.as_fd()).map_err(
                    |error| Error::io(format!("cannot fill volume {name} from the image"), &error),
                )?;
            }
        }
        Ok(())
    }
}

/// What was asked for and is not done, a sentence each.
fn not_done(host: &HostConfig) -> Vec<String> {
    let all = is_limited(host).then_some(NO_LIMITS);
    all.into_iter().map(str::to_owned).collect()
}

/// What is asked of the volume at this place: `--mount` can say more than a name.
fn volume_of(host: &HostConfig, point: &MountPoint) -> VolumeRequest {
    let mut asked = VolumeRequest {
        name: point.name.clone().unwrap_or_default(),
        ..VolumeRequest::default()
    };
    let long =
        host.mounts.iter().flatten().find(|mount| {
            mount.kind == "volume" && path::clean(&mount.target) == point.destination
        });
    match long {
        None => asked.driver.clone_from(&host.volume_driver),
        Some(mount) => {
            let options = mount.volume_options.clone().unwrap_or_default();
            asked.labels = options.labels;
            let driver = options.driver_config.unwrap_or_default();
            asked.driver = driver.name;
            asked.driver_opts = driver.options;
        }
    }
    asked
}

/// dockerd forgets whose mistake it is where `-v` means something that cannot be.
fn mount_error(error: &MountError) -> Error {
    let kind = match error {
        MountError::Because { .. } => Kind::System,
        _ => Kind::InvalidParameter,
    };
    Error::new(kind, error.to_string())
}

/// What is odd about a request, in Docker's words.
fn warnings_of(platform: Option<&str>, image: &Image, host: &HostConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    let published = host.port_bindings.as_ref();
    if host.network_mode == "host" && published.is_some_and(|map| !map.is_empty()) {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    let linked = host.links.as_ref().is_some_and(|links| !links.is_empty());
    if linked && NetworkMode::parse(&host.network_mode) == NetworkMode::Default {
        let sentence = "Links on the default bridge network are deprecated and will be removed in \
                        a future release. Use a custom network instead.";
        warnings.push(sentence.to_owned());
    }
    let have = Platform::new(&image.os, &image.architecture, &image.variant);
    if platform.is_none_or(str::is_empty) && !Platform::host().runs(&have) {
        // As the image says it.
        let have = Platform {
            os: image.os.clone(),
            architecture: image.architecture.clone(),
            variant: image.variant.clone(),
        };
        let here = Platform::host_in_full();
        warnings.push(format!(
            "The requested image's platform ({have}) does not match the detected host platform \
             ({here}) and no specific platform was requested"
        ));
    }
    warnings
}

/// What Docker fills in and `inspect` then shows.
fn fill_defaults(config: &mut ContainerConfig, host: &mut HostConfig, daemons: &Reloadable) {
    config.volumes.get_or_insert_default();
    host.port_bindings.get_or_insert_default();
    // Neither is to be had in a cgroup of version 2; -1 is how clients leave the one unsaid.
    host.memory_swappiness = None;
    host.oom_kill_disable = None;
    if host.memory > 0 && host.memory_swap == 0 {
        host.memory_swap = host.memory.saturating_mul(2);
    }
    if !host.privileged {
        let list = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        host.masked_paths
            .get_or_insert_with(|| list(&spec::MASKED_PATHS));
        host.readonly_paths
            .get_or_insert_with(|| list(&spec::READONLY_PATHS));
    }
    let shares_the_hosts = host.privileged || host.ipc_mode == "host" || host.pid_mode == "host";
    if shares_the_hosts
        && !host
            .security_opt
            .iter()
            .flatten()
            .any(|option| is_label(option))
    {
        let options = host.security_opt.get_or_insert_default();
        options.push("label=disable".to_owned());
    }
    if matches!(host.network_mode.as_str(), "" | "default") {
        "bridge".clone_into(&mut host.network_mode);
    }
    if host.ipc_mode.is_empty() {
        host.ipc_mode.clone_from(&daemons.ipc_mode);
    }
    if host.cgroupns_mode.is_empty() {
        host.cgroupns_mode.clone_from(&daemons.cgroupns_mode);
    }
    if host.shm_size == 0 {
        host.shm_size = daemons.shm_size;
    }
    if host.runtime.is_empty() {
        "moss".clone_into(&mut host.runtime);
    }
    if host.restart_policy.name.is_empty() {
        "no".clone_into(&mut host.restart_policy.name);
    }
}

/// Whether a security option is of SELinux.
fn is_label(option: &str) -> bool {
    option.split('=').next() == Some("label")
}

/// Refuses an image for another platform than the one asked for.
fn check_platform(
    store: &image::Store,
    wanted: Option<&str>,
    image: &Image,
    name: &str,
) -> Result<()> {
    let Some(wanted) = wanted.filter(|text| !text.is_empty()) else {
        return Ok(());
    };
    let wanted: Platform =
        wanted
            .parse()
            .map_err(|error: crate::types::platform::PlatformError| {
                Error::invalid(error.to_string())
            })?;
    platforms::check(store, image, &wanted, name)
}
