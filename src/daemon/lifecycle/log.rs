//! A daemon's log: where it goes, and how much of it.
//!
//! In the foreground it goes to stderr; of a daemon that was started on demand to a file in the data
//! root, which is begun anew at a start that finds it large. How much is logged can be changed while
//! the daemon runs.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use super::{DaemonError, Places, failed};
use crate::engine::config::{Config, Options};

/// The log of a daemon that was started on demand, in its data root.
pub const LOG: &str = "daemon.log";

/// A log that is larger than this many bytes at the start is begun anew.
const LOG_LIMIT: u64 = 4 * 1024 * 1024;

/// Changes how much is logged.
pub(super) type Levels = Box<dyn Fn(LevelFilter) + Send + Sync>;

/// Begins the log.
pub(super) fn log(
    places: &Places,
    config: &Config,
    options: &Options,
) -> Result<Levels, DaemonError> {
    let writer = if options.on_demand || options.revived.is_some() {
        let path = places.data_root.join(LOG);
        let large = std::fs::metadata(&path).is_ok_and(|found| found.len() > LOG_LIMIT);
        let file = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .and_then(|file| {
                if large {
                    file.set_len(0).map(|()| file)
                } else {
                    Ok(file)
                }
            });
        let doing = format!("open the log {}", path.display());
        BoxMakeWriter::new(Mutex::new(file.map_err(failed(doing))?))
    } else {
        BoxMakeWriter::new(io::stderr)
    };
    let (filter, handle) = reload::Layer::new(level(config));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_target(false);
    // Fails only where this process logs already, as in tests.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init();
    Ok(Box::new(move |level| {
        if let Err(error) = handle.reload(level) {
            tracing::warn!(%error, "cannot change the log level");
        }
    }))
}

pub(super) fn level(config: &Config) -> LevelFilter {
    match config.log_level.as_str() {
        _ if config.debug => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "warn" => LevelFilter::WARN,
        "error" | "fatal" | "panic" => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    }
}
