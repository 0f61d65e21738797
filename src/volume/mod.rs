//! Volumes: named directories that outlive containers.
//!
//! [`store`] keeps them under `volumes/NAME/` of the data root: `_data` is the volume,
//! `volume.json` what the API shows of it. [`populate`] fills a new volume with what the image has
//! at its mount point; [`mounted`] mounts those that are filesystems of their own. Which volumes are
//! in use is not known here: the engine knows.

pub mod mounted;
pub mod populate;
pub mod store;

pub use store::{Store, Volume, VolumeError, bound};
