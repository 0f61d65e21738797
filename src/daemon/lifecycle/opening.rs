//! From a configuration to an open engine.
//!
//! Done once, within the keeper's namespaces and before any other thread: a driver is tried, facts
//! of the host are read, and the engine repairs and opens its stores. What SIGHUP may change is put
//! together here too.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DaemonError, Places, failed};
use crate::container::spec::Defaults;
use crate::engine::config::Config;
use crate::engine::facts::Facts;
use crate::engine::{Engine, Reloadable, Settings};
use crate::image::{Format, Limits};
use crate::overlay::{self, Driver};
use crate::sys::paths::Paths;
use crate::userns::idmap::{IdMap, Origin};
use crate::userns::keeper::Keeper;

/// Layers that are fetched at the same time where daemon.json does not say; Docker's number.
const CONCURRENT_DOWNLOADS: usize = 3;
/// The same of layers that are sent.
const CONCURRENT_UPLOADS: usize = 5;

/// Seconds that containers are given together to stop; Docker's number.
const SHUTDOWN_TIMEOUT: i64 = 15;

/// Names the engine for ever, in its data root.
const ENGINE_ID: &str = "engine-id";

/// Opens the engine, from within the keeper's namespaces.
pub(super) fn open(
    places: &Places,
    config: &Config,
    defaults: Defaults,
    user: &Paths,
    socket: Option<PathBuf>,
    keeper: Keeper,
    uid: u32,
) -> Result<Arc<Engine>, DaemonError> {
    let maps = keeper.maps();
    let mut warnings = warnings(&maps);
    let found = overlay::probe(&places.data_root);
    let (driver, reason) = match (places.driver, found.driver) {
        (Some(driver), _) => (driver, "asked for by name".to_owned()),
        (None, Some(driver)) => (driver, found.reason),
        (None, None) => {
            warnings.push(format!(
                "WARNING: no storage driver works in {}, so no container can start: {}",
                places.data_root.display(),
                found.reason
            ));
            (Driver::Overlay2, found.reason)
        }
    };
    let facts = Facts::read(maps, uid, warnings).map_err(failed("read facts of the host"))?;
    let facts = Facts {
        engine_id: engine_id(&places.data_root).map_err(failed("read the engine's id"))?,
        storage: vec![("Reason".to_owned(), reason)],
        ..facts
    };
    let limits = Limits::default();
    let settings = Settings {
        data_root: places.data_root.clone(),
        exec_root: places.exec_root.clone(),
        socket: socket.filter(|_| !config.host_socket),
        storage_driver: driver,
        push_compression: config.push_compression.unwrap_or(Format::Gzip),
        keep_blobs: config.keep_blobs,
        host_loopback: config.host_loopback,
        layer_limits: Limits {
            entries: config.layer_entries.unwrap_or(limits.entries),
            ..limits
        },
        containers: config.containers.clone(),
        defaults,
        reloadable: reloadable(config, user),
    };
    Ok(Engine::open(settings, keeper, facts)?)
}

/// What SIGHUP may change.
pub(super) fn reloadable(config: &Config, user: &Paths) -> Reloadable {
    Reloadable {
        labels: config.labels.clone(),
        debug: config.debug,
        registry: config.registries(user),
        concurrent_downloads: config.concurrent_downloads.unwrap_or(CONCURRENT_DOWNLOADS),
        concurrent_uploads: config.concurrent_uploads.unwrap_or(CONCURRENT_UPLOADS),
        shm_size: config.containers.shm_size,
        ipc_mode: config.containers.ipc_mode.clone(),
        cgroupns_mode: config.containers.cgroupns_mode.clone(),
        userns_mode: config.containers.userns_mode.clone(),
        shutdown_timeout: config.shutdown_timeout.unwrap_or(SHUTDOWN_TIMEOUT),
    }
}

/// What `docker info` warns of where ids are concerned.
pub(super) fn warnings(maps: &IdMap) -> Vec<String> {
    match &maps.origin {
        Origin::Subordinate => Vec::new(),
        Origin::Identity => vec![
            "WARNING: this engine runs as root without subordinate ids: root in a container is \
             root on bind mounts"
                .to_owned(),
        ],
        Origin::Single { reason } => vec![format!(
            "WARNING: only one id is mapped, so containers have no users but root: {reason}"
        )],
    }
}

/// The engine's id, made at the first start: a UUID as Docker's is.
fn engine_id(data_root: &Path) -> io::Result<String> {
    let path = data_root.join(ENGINE_ID);
    if let Ok(text) = std::fs::read_to_string(&path)
        && text.trim().len() == 36
    {
        return Ok(text.trim().to_owned());
    }
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let temporary = data_root.join(format!(".{ENGINE_ID}"));
    std::fs::write(&temporary, &id)?;
    File::open(&temporary)?.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    Ok(id.trim().to_owned())
}
