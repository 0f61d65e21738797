//! System calls that nix and rustix lack, each wrapped once with its safety argument; and, above
//! those, what every folder does the same way with files, sockets and processes. Vector instructions,
//! in [`byteset`], need the same care.
//!
//! `unsafe` is allowed in the modules that say so here, and nowhere else in the crate.

pub mod atomic;
#[allow(unsafe_code)]
pub mod byteset;
pub mod chroot;
#[allow(unsafe_code)]
pub mod clone;
#[allow(unsafe_code)]
pub mod command_line;
pub mod copy;
pub mod fdpass;
#[allow(unsafe_code)]
pub mod fork;
#[allow(unsafe_code)]
pub mod fuse;
#[allow(unsafe_code)]
pub mod heap;
#[allow(unsafe_code)]
pub mod inet;
#[allow(unsafe_code)]
pub mod keyring;
#[allow(unsafe_code)]
pub mod landlock;
#[allow(unsafe_code)]
pub mod localtime;
pub mod lock;
#[allow(unsafe_code)]
pub mod loopback;
#[allow(unsafe_code)]
pub mod mount;
pub mod netlink;
pub mod netns;
#[allow(unsafe_code)]
pub mod nsfs;
pub mod paths;
#[allow(unsafe_code)]
pub mod pidfd;
pub mod pktinfo;
pub mod resolve;
#[allow(unsafe_code)]
pub mod rlimit;
pub mod sealed;
#[allow(unsafe_code)]
pub mod seccomp;
#[allow(unsafe_code)]
pub mod signal;
pub mod spread;
#[allow(unsafe_code)]
pub mod text;
pub mod trash;
pub mod tree;
#[allow(unsafe_code)]
pub mod tun;
#[allow(unsafe_code)]
pub mod unread;
pub mod usage;
