//! System calls that nix and rustix lack, each wrapped once with its safety argument.
//!
//! The only folder of the crate in which `unsafe` is allowed.
#![allow(unsafe_code)]

pub mod clone;
pub mod mount;
pub mod prctl;
pub mod resolve;
pub mod rlimit;
pub mod seccomp;
