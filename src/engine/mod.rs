//! The engine: one function for each thing a user can ask for.
//!
//! [`Engine`] joins the folders below it: images, containers and volumes know nothing of each
//! other. Its functions are ordinary blocking code, called on whatever thread the caller has; none
//! blocks for long. What takes a user's time — waiting for an exit, following events — is a
//! function that the caller hands in and the engine calls. Requests come in as the API's types and
//! go out as the API's types at their newest version; `daemon` shapes them for older clients.
//!
//! | file | verbs |
//! |---|---|
//! | `create`, `spare`; `endpoints`, `rootdir` for what it refuses, `fill` for volumes | create |
//! | `start`, `ahead`; `plan`, `files`, `joined`, `devices`, `init` for what it starts | start; what happens at exit |
//! | `stop` | stop, kill, restart, wait, resize, rename |
//! | `userns` | whose files are whose |
//! | `pause`, `update` | theirs |
//! | `restart`, `health` | restart policies, health checks; both by `timers` |
//! | `copy` | cp, export, diff, commit |
//! | `attach` | attach, logs |
//! | `exec` | exec create, start, inspect, resize |
//! | `remove` | rm, prune, the janitor |
//! | `list`, `inspect` | ps, inspect, top |
//! | `pull`, `push` | pull, push |
//! | `registries` | login, search, looking up a name |
//! | `images`, `volumes`, `networks`, `system` | theirs |
//! | `reload` | what daemon.json may change while the engine runs |
//! | `restore` | finding again what runs, at start |
//!
//! Which state may be changed by whom is told in [`containers`].

mod ahead;
pub mod attach;
pub mod config;
pub mod containers;
pub mod copy;
mod create;
mod devices;
mod endpoints;
pub mod error;
pub mod events;
pub mod exec;
pub mod facts;
mod files;
mod fill;
mod health;
pub mod images;
mod import;
mod init;
mod inspect;
mod joined;
mod last_run;
pub mod leaks;
pub mod list;
mod logging;
mod networks;
mod pattern;
mod pause;
mod plan;
mod platforms;
mod prune;
pub mod pull;
pub mod push;
mod registries;
mod reload;
mod remove;
mod restart;
mod restore;
mod rootdir;
mod sources;
mod spare;
mod start;
pub mod stats;
mod stop;
pub mod system;
mod timers;
mod update;
mod userns;
mod volumes;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::container::client::Shims;
use crate::container::record::{MountKind, Record};
use crate::container::spec::Defaults;
use crate::engine::config::Containers;
use crate::engine::containers::Index;
use crate::engine::events::Events;
use crate::engine::facts::Facts;
use crate::engine::reload::Reloaded;
use crate::engine::remove::Janitor;
use crate::engine::timers::Timers;
use crate::image;
use crate::network;
use crate::overlay::{self, Driver};
use crate::types::id::ContainerId;
use crate::userns::keeper::Keeper;
use crate::userns::seccomp;
use crate::volume;

pub use error::{Error, Kind, Result};
pub use reload::Reloadable;

/// In the data root: the layer beneath every container's image.
const INIT_LAYER: &str = "init-layer";

/// Where the engine keeps things, and what it was told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Images, containers, volumes.
    pub data_root: PathBuf,
    /// What does not outlive a boot.
    pub exec_root: PathBuf,
    /// What a bind of Docker's usual socket means; `None` leaves it alone.
    pub socket: Option<PathBuf>,
    /// How new containers' root filesystems are made.
    pub storage_driver: Driver,
    /// How layers are compressed that are sent.
    pub push_compression: image::Format,
    /// Whether the compressed blobs of pulled layers stay.
    pub keep_blobs: bool,
    /// Whether containers reach the host's loopback by their gateway's address.
    pub host_loopback: bool,
    /// What an image's layer may be.
    pub layer_limits: image::Limits,
    /// What holds for containers that do not say themselves.
    pub containers: Containers,
    /// The part of it that takes hold when they start, with what it refers to read.
    pub defaults: Defaults,
    /// What may change later.
    pub reloadable: Reloadable,
}

/// The engine.
pub struct Engine {
    pub(crate) settings: Settings,
    pub(crate) facts: Facts,
    images: image::Store,
    reloaded: Reloaded,
    downloads: image::Downloads,
    pruning: images::Pruning,
    uploads: image::Uploads,
    volumes: volume::Store,
    mounted_volumes: volume::mounted::Mounted,
    networks: Arc<network::Store>,
    unplugger: network::unplug::Unplugger,
    ports: networks::Memory,
    /// Held while the kernel's side of a network is made.
    bridging: Mutex<()>,
    /// Held while slirp is told of a network: pid of the keeper that holds the namespaces.
    telling: Mutex<i32>,
    containers: Index,
    execs: ExecIndex,
    shims: Shims,
    keeper: Keeper,
    events: Events,
    filters: seccomp::Filters,
    janitor: Janitor,
    timers: Timers,
    /// For what is done later, when the engine may be gone.
    me: Weak<Self>,
    ahead: containers::Places,
    /// Whether the FUSE driver works here, once somebody wants to know.
    fuse: OnceLock<std::result::Result<(), String>>,
}

/// Which container an exec session belongs to.
#[derive(Default)]
struct ExecIndex(Mutex<HashMap<String, ContainerId>>);

impl ExecIndex {
    fn insert(&self, exec: String, container: ContainerId) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(exec, container);
    }

    fn get(&self, exec: &str) -> Option<ContainerId> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(exec)
            .cloned()
    }

    fn remove(&self, exec: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(exec);
    }

    fn retain(&self, keep: impl Fn(&ContainerId) -> bool) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, container| keep(container));
    }
}

impl Engine {
    /// The keeper that it works with.
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Opens the stores, and joins the containers that run. The caller holds the lock on the data
    /// root and is inside the keeper's namespaces.
    ///
    /// # Errors
    /// When a store cannot be opened.
    pub fn open(settings: Settings, keeper: Keeper, facts: Facts) -> Result<Arc<Self>> {
        let images = image::Store::open_with(&settings.data_root, settings.layer_limits)
            .map_err(|error| Error::system(&error))?;
        let reloaded = Reloaded::new(settings.reloadable.clone())?;
        let downloads = image::Downloads::new(settings.reloadable.concurrent_downloads);
        let uploads = image::Uploads::new(settings.reloadable.concurrent_uploads);
        let opening = |error: std::io::Error| {
            Error::io(
                format!("cannot open the data root {}", settings.data_root.display()),
                &error,
            )
        };
        overlay::init_layer::make(&settings.data_root.join(INIT_LAYER)).map_err(opening)?;
        let volumes = volume::Store::open(&settings.data_root).map_err(opening)?;
        let networks = network::Store::open(
            &settings.data_root,
            &networks::reserved_subnets(),
            &format!("{} {}", facts.uid, facts.engine_id),
        )
        .map_err(opening)?;
        let networks = Arc::new(networks);
        let unplugger =
            network::unplug::Unplugger::start(Arc::clone(&networks)).map_err(opening)?;
        let janitor = Janitor::start(&settings.data_root).map_err(opening)?;
        let timers = Timers::start().map_err(|error| Error::io("cannot start a thread", &error))?;
        // The shims' events find the engine by a reference that is set once it exists: before that
        // there is no shim to tell of anything.
        let target: Arc<OnceLock<Weak<Self>>> = Arc::default();
        let listener = Arc::clone(&target);
        let shims = Shims::new(Box::new(move |id, message| {
            if let Some(engine) = listener.get().and_then(Weak::upgrade) {
                engine.on_message(&id, message);
            }
        }))
        .map_err(|error| Error::io("cannot watch the shims", &error))?;
        let engine = Arc::new_cyclic(|weak: &Weak<Self>| {
            // Set here and nowhere else.
            let _ = target.set(weak.clone());
            Self {
                settings,
                facts,
                images,
                reloaded,
                downloads,
                pruning: images::Pruning::default(),
                uploads,
                volumes,
                mounted_volumes: volume::mounted::Mounted::default(),
                networks,
                unplugger,
                ports: networks::Memory::default(),
                bridging: Mutex::default(),
                telling: Mutex::new(keeper.pid()),
                containers: Index::default(),
                execs: ExecIndex::default(),
                shims,
                keeper,
                events: Events::default(),
                filters: seccomp::Filters::default(),
                janitor,
                timers,
                me: weak.clone(),
                ahead: containers::Places::default(),
                fuse: OnceLock::new(),
            }
        });
        let unreachable = engine
            .restore()
            .map_err(|error| Error::io("cannot read the containers", &error))?;
        engine.restart_wanted();
        restore::keep_trying(&engine, unreachable);
        // A daemon that was killed between a load's layers and its image left them; those of a pull
        // wait for it to be tried again.
        if let Err(error) = engine.images.collect_stale() {
            tracing::error!("cannot remove unused layers: {}", error.chain());
        }
        // Only one image is missing then.
        if let Err(error) = image::hello::renew(&engine.images) {
            tracing::error!(
                "cannot make the image {}: {}",
                image::hello::NAME,
                error.chain()
            );
        }
        Ok(engine)
    }

    /// The layers of a container's root filesystem, topmost first.
    fn layers(&self, record: &Record) -> Vec<PathBuf> {
        let mut layers = self.images.layer_paths_of(&record.layers);
        layers.push(self.settings.data_root.join(INIT_LAYER));
        layers
    }

    /// Where a container's shim has its socket.
    fn runtime_directory(&self, id: &ContainerId) -> PathBuf {
        self.settings.exec_root.join("c").join(id.as_str())
    }

    /// Whether nothing runs, nobody waits for something to run, and nothing would be lost if this
    /// daemon left.
    pub fn is_idle(&self) -> bool {
        self.containers.all().iter().all(|container| {
            let data = container.data();
            !data.record.state.is_live() && !data.starting && !data.is_awaited()
        })
    }

    /// Emits an event of a container, with the attributes that Docker puts on all of them.
    fn container_event(
        &self,
        record: &Record,
        action: &str,
        extra: impl IntoIterator<Item = (String, String)>,
    ) {
        let labels = record.config.labels.iter().flatten();
        let attributes = labels
            .map(|(key, value)| (key.clone(), value.clone()))
            .chain([
                ("image".to_owned(), record.image_name.clone()),
                ("name".to_owned(), record.name.clone()),
            ])
            .chain(extra);
        self.events
            .emit("container", action, record.id.as_str(), attributes);
    }

    /// Ids of the containers that mount the volume.
    fn volume_users(&self, name: &str) -> Vec<ContainerId> {
        self.containers
            .all()
            .iter()
            .filter(|container| {
                container.data().record.mounts.iter().any(|point| {
                    point.kind == MountKind::Volume && point.name.as_deref() == Some(name)
                })
            })
            .map(|container| container.id)
            .collect()
    }
}
