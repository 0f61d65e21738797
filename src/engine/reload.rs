//! What daemon.json may change while the engine runs: SIGHUP.
//!
//! All of it at once or, where something in it is wrong, nothing. What is under way goes on as it
//! began: a pull keeps its registries. dockerd keeps the old value of a directive that is no longer
//! in the file; here it is back at its default, as it would be after a restart: who takes a registry
//! off the list of insecure ones means it.

use std::sync::{Arc, PoisonError, RwLock};

use crate::engine::Engine;
use crate::engine::error::{Error, Result};
use crate::engine::stop::STOP_TIMEOUT;
use crate::registry::{self, Registries};

/// What may change.
#[derive(Debug, Clone)]
pub struct Reloadable {
    /// Labels of this daemon (`docker info`).
    pub labels: Vec<String>,
    /// Serving with debug messages.
    pub debug: bool,
    /// How registries are reached.
    pub registry: registry::Config,
    /// How many layers are fetched at the same time.
    pub concurrent_downloads: usize,
    /// How many layers are sent at the same time.
    pub concurrent_uploads: usize,
    /// The size of /dev/shm of containers to be made that do not say, in bytes.
    pub shm_size: i64,
    /// Their IPC mode.
    pub ipc_mode: String,
    /// Their cgroup namespace's mode.
    pub cgroupns_mode: String,
    /// The mode of their user namespace.
    pub userns_mode: String,
    /// Seconds that containers are given to stop when the daemon ends and takes them along. As
    /// under `live-restore` it never does, this is shown and no more.
    pub shutdown_timeout: i64,
}

/// What holds at the moment.
pub(super) struct Reloaded(RwLock<Arc<Now>>);

/// A configuration and what was made from it.
pub(super) struct Now {
    pub(super) settings: Reloadable,
    registries: Registries,
}

impl Reloaded {
    pub(super) fn new(settings: Reloadable) -> Result<Self> {
        Ok(Self(RwLock::new(Arc::new(Now::of(settings)?))))
    }
}

impl Now {
    fn of(settings: Reloadable) -> Result<Self> {
        let registries = Registries::new(settings.registry.clone())
            .map_err(|error| Error::invalid(error.chain()))?;
        Ok(Self {
            settings,
            registries,
        })
    }
}

impl Engine {
    /// What holds at the moment.
    pub(super) fn now(&self) -> Arc<Now> {
        let now = self.reloaded.0.read();
        Arc::clone(&now.unwrap_or_else(PoisonError::into_inner))
    }

    /// The registries as they are reached at the moment.
    pub(super) fn registries(&self) -> Registries {
        self.now().registries.clone()
    }

    /// Goes on with another configuration.
    ///
    /// # Errors
    /// Where it makes no sense; then nothing has changed.
    pub fn reload(&self, settings: Reloadable) -> Result<()> {
        let now = Arc::new(Now::of(settings)?);
        let holds = self.reloaded.0.write();
        *holds.unwrap_or_else(PoisonError::into_inner) = Arc::clone(&now);
        let settings = &now.settings;
        self.downloads.set_limit(settings.concurrent_downloads);
        self.uploads.set_limit(settings.concurrent_uploads);
        let list = |items: &[String]| serde_json::to_string(items).unwrap_or_default();
        let attempts = settings.registry.attempts();
        let attributes = [
            ("debug", settings.debug.to_string()),
            ("default-cgroupns-mode", settings.cgroupns_mode.clone()),
            ("default-ipc-mode", settings.ipc_mode.clone()),
            ("default-runtime", "moss".to_owned()),
            ("default-shm-size", settings.shm_size.to_string()),
            ("default-stop-timeout", STOP_TIMEOUT.to_string()),
            ("default-userns", settings.userns_mode.clone()),
            // As Go prints a map that is empty: there are none to be chosen.
            ("features", "map[]".to_owned()),
            (
                "insecure-registries",
                list(&settings.registry.insecure_registries),
            ),
            ("labels", list(&settings.labels)),
            ("live-restore", "true".to_owned()),
            (
                "max-concurrent-downloads",
                settings.concurrent_downloads.to_string(),
            ),
            (
                "max-concurrent-uploads",
                settings.concurrent_uploads.to_string(),
            ),
            ("max-download-attempts", attempts.to_string()),
            ("name", self.facts.hostname.clone()),
            ("registry-mirrors", list(&settings.registry.mirrors)),
            ("runtimes", String::new()),
            ("shutdown-timeout", settings.shutdown_timeout.to_string()),
        ];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value));
        self.events
            .emit("daemon", "reload", &self.facts.engine_id, attributes);
        Ok(())
    }
}
