//! moss runs Docker and OCI images for people who have no root.
//!
//! This is the crate's front page: where everything is, and who may call whom. A level may use
//! the levels below it; folders of one level do not use each other, except that `engine` (L3)
//! joins those of L2 and `cli` and `daemon` (L4) talk over the socket only. `ARCHITECTURE.md`
//! holds the same table with its reasons, and `tests/layering.rs` holds the code to it.
//!
//! | level | folder | what it owns |
//! |---|---|---|
//! | L0 | [`sys`] | system calls that nix and rustix lack, descriptors over sockets, atomic files |
//! | L0 | [`types`] | ids, digests, references, signals, times: parsed once, pure, no I/O |
//! | L1 | [`api`] | the Docker Engine API's wire types, filters, error bodies, stream frames |
//! | L1 | [`userns`] | id maps, the keeper, host probes; from a plan to a confined process |
//! | L1 | [`dockerfile`] | the language of Dockerfiles: lines, instructions, words |
//! | L1 | [`template`] | the language of Go's templates, over JSON values |
//! | L1 | [`overlay`] | a root filesystem from layers |
//! | L1 | [`tarball`] | tar archives that nobody vouches for, read and written |
//! | L1 | [`registry`] | the distribution protocol: proof, manifests, blobs, uploads |
//! | L1 | [`slirp`] | the networks' process: names, published ports, the way out |
//! | L2 | [`image`] | content store, unpack of layers, load, import, removal |
//! | L2 | [`network`] | networks and their addresses; namespaces, bridges, interfaces |
//! | L2 | [`volume`] | named volumes, filling them from an image |
//! | L2 | [`container`] | records, HostConfig → spec → plan, the shim and its protocol, logs |
//! | L3 | [`engine`] | one function per thing a user can ask for; events, configuration |
//! | L4 | [`daemon`] | socket, HTTP, router, hijack; routes only translate |
//! | L4 | [`cli`] | what a person types |
//!
//! `unsafe` is denied for the whole crate. The exceptions, all of them: modules of [`sys`], each
//! named in its `mod.rs`, and outside the crate the program of the built-in image (`src/hello`),
//! which has no library to call.
#![deny(unsafe_code)]

pub mod api;
pub mod cli;
pub mod container;
pub mod daemon;
pub mod dockerfile;
pub mod engine;
pub mod image;
pub mod network;
pub mod overlay;
pub mod registry;
pub mod slirp;
pub mod sys;
pub mod tarball;
pub mod template;
pub mod types;
pub mod userns;
pub mod volume;
