//! User namespaces: from an ordinary user's rights to a confined process.
//!
//! Three things live here. The *keeper* makes the user's outer user and mount namespaces once and
//! forks shims inside them. The *plan* ([`plan::Plan`]) is a pure description of one container's
//! isolation; it is made from an OCI runtime spec by a pure function. The *stage* turns a plan and
//! a root filesystem into a running process.
//!
//! This folder knows nothing of Docker, images or HTTP.

pub mod caps;
pub mod from_spec;
pub mod idmap;
pub mod init;
pub mod keeper;
mod mapped;
pub mod plan;
pub mod probe;
pub mod seccomp;
pub mod stage;
pub mod subid;
pub mod users;

pub use from_spec::spec_to_plan;
