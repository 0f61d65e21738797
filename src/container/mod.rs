//! Containers: what is known of one, how it is started, and who looks after it while it runs.

pub mod files;
pub mod protocol;
