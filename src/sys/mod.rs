//! System calls that nix and rustix lack, each wrapped once with its safety argument.
//!
//! The only folder of the crate in which `unsafe` is allowed.
#![allow(unsafe_code)]

pub mod atomic;
pub mod chroot;
pub mod clone;
pub mod copy;
pub mod fdpass;
pub mod fork;
pub mod fuse;
pub mod heap;
pub mod inet;
pub mod landlock;
pub mod localtime;
pub mod lock;
pub mod loopback;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod nsfs;
pub mod paths;
pub mod pidfd;
pub mod pktinfo;
pub mod prctl;
pub mod resolve;
pub mod rlimit;
pub mod sealed;
pub mod seccomp;
pub mod signal;
pub mod spread;
pub mod text;
pub mod transparent;
pub mod trash;
pub mod tree;
pub mod tun;
pub mod unread;
pub mod usage;
