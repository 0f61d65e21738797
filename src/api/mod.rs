//! The Docker Engine API's wire types: what requests say and answers look like. No I/O.
//!
//! Structs are named as in Docker's OpenAPI, fields are the snake case of the JSON names. Answers
//! serialise to what Docker's daemon emits, down to which empty things are `null`, `[]`, `""` or
//! absent: plain fields are always there, what Docker emits as `null` is an `Option` here, what it
//! leaves out is skipped. Requests are read with [`json::from_slice`], which is as tolerant as Go.
//!
//! Answers are made in the shape of the newest version; [`shape`] makes them look as an older
//! version had them.

pub mod auth;
pub mod container;
pub mod descriptor;
pub mod error;
pub mod event;
pub mod exec;
pub mod filters;
pub mod image;
pub mod json;
pub mod network;
pub mod progress;
pub mod registry;
pub mod shape;
pub mod stats;
pub mod storage;
pub mod stream;
pub mod system;
pub mod version;
pub mod volume;

use serde::{Deserialize, Serialize};

/// `{}`: the value of a JSON object that is a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Empty {}

/// `{"Id": …}`: the answer to requests that make something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IdResponse {
    /// The new object's id.
    pub id: String,
}
