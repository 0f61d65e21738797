//! What can go wrong with networks, in moby's words.

use std::io;

use super::ipam::IpamError;
use super::record::RequestError;

/// What can go wrong with networks.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is none.
    #[error("network {0} not found")]
    NotFound(String),
    /// Several begin so.
    #[error("network {term} is ambiguous ({count} matches found based on ID prefix)")]
    Ambiguous {
        /// What was looked for.
        term: String,
        /// How many there are.
        count: usize,
    },
    /// The name is taken.
    #[error("network with name {0} already exists")]
    NameTaken(String),
    /// It was there before any user came.
    #[error("{0} is a pre-defined network and cannot be removed")]
    Predefined(String),
    /// Containers are in it.
    #[error("error while removing network: network {name} has active endpoints ({members})")]
    InUse {
        /// The network.
        name: String,
        /// Who is in it.
        members: String,
    },
    /// The request makes no network.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Addresses.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// The gateway's address.
    #[error("failed to allocate gateway ({gateway}): {source}")]
    Gateway {
        /// As it was asked for.
        gateway: String,
        /// Why not.
        source: IpamError,
    },
    /// Another network's bridge has this name.
    #[error(
        "cannot create network {id} ({bridge}): conflicts with network {other} ({bridge}): networks \
         have same bridge name"
    )]
    SameBridge {
        /// The new network.
        id: String,
        /// The bridge.
        bridge: String,
        /// The other network.
        other: String,
    },
    /// A file operation failed.
    #[error("cannot {doing} network {name}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The network.
        name: String,
        /// Why it failed.
        source: io::Error,
    },
}
