//! Images: a content store on disk, and what goes in and out of it.
//!
//! The engine calls a [`Store`]; nothing else uses this folder. All of it is blocking code, meant
//! for plain threads; the store may be shared between them. It runs as uid 0 of the keeper's user
//! namespace, where every mapped id can be given to a file, but works as any user: what cannot be
//! given is remembered (`owner`).
//!
//! ```text
//! docker load ──▶ load ──▶ pipeline ──▶ unpack ──▶ layers/DIFFID/fs
//!                  │        (threads)      └─────▶ layers/DIFFID/split.zst
//!                  ▼
//!                store  (records, names)  ◀── query, remove, tag
//!                  │
//! docker save ◀── save ◀── checked ◀── split (the tar, byte for byte)
//!
//! docker pull ──▶ pull ──▶ transfer (a layer once, however many want it) ──▶ pipeline
//!
//! docker push ◀── push ◀── supply (what a layer is sent as) ◀── split, gzip, a registry
//!                   └────── origin (where its blobs are already)
//! ```
//!
//! An image is its config: its id is the config's digest, its layers are named by the digests of
//! their uncompressed tars, which the config lists. So whatever way an image came, the layers are
//! checked against the config before a name or a record refers to them, and archives need not be
//! believed in anything else.
//!
//! Not here: what registries say and how (`registry`), file-level sharing
//! between layers (a layer's tree is its own directory, so that one can later be made of links
//! into a pool without anybody above noticing).

pub mod hello;

mod attributes;
mod changes;
mod checked;
mod commit;
mod compression;
mod config;
mod create;
mod error;
mod frames;
mod gzip;
mod janitor;
mod layer;
mod layout;
mod ledger;
mod load;
mod notes;
mod origin;
mod owner;
mod pins;
mod pipeline;
mod pull;
mod push;
mod query;
mod refs;
mod remove;
mod reserve;
mod room;
mod save;
mod schema;
mod scratch;
mod slots;
mod split;
mod store;
mod supply;
mod transfer;
mod turn;
mod unpack;

pub use compression::Format;
pub(crate) use compression::decompress;
pub use config::{Config, Healthcheck, History, ImageConfig, RootFs, chain_ids};
pub use create::{Commit, Import};
pub use error::{Error, ErrorKind};
pub use load::{Loaded, Progress};
pub use pull::{Pull, Pulled, Step};
pub use push::{Push, Pushed, UploadStep, Uploads};
pub use query::{HistoryLine, Image};
pub use remove::{Removed, User};
pub use split::LayerTar;
pub use store::Store;
pub use transfer::{Downloads, LayerStep};
pub use unpack::Limits;

#[cfg(test)]
mod tests;
