//! Containers: what is known of one, how it is started, and who looks after it while it runs.

pub mod client;
pub mod copy;
pub mod files;
pub mod logs;
pub mod mounts;
pub mod packet;
pub mod pause;
pub mod processes;
pub mod protocol;
pub mod record;
pub mod shim;
pub mod spec;
pub mod stats;
