//! Networks as users see them: names, addresses, who is in them; and their side in the kernel.
//!
//! | file | what |
//! |---|---|
//! | [`record`] | a network's record, and what a request must be like |
//! | [`store`] | the records on disk, and who has which address |
//! | [`ipam`] | subnets and addresses, pure |
//! | [`unplug`] | removing interfaces, with nobody waiting |
//! | [`kernel`] | namespaces, bridges, interfaces, routes |
//!
//! A record in the data root is all that outlives a boot. Addresses in use follow from the
//! containers that run, which the engine tells at start. A network's namespace is made when its first
//! container starts, and pinned by the keeper: a daemon that comes later takes it over, and where it
//! is gone (the host was restarted, or the keeper died) makes it anew and plugs in again what runs.

pub mod error;
pub mod ipam;
pub mod kernel;
pub mod record;
pub mod store;
pub mod unplug;

pub use error::NetworkError;
pub use record::Record;
pub use store::Store;
