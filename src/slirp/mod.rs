//! The user's own network process: what leaves the machine's namespaces, and what comes in.
//!
//! [`egress`] is the way out: packets of a network's TUN device become ordinary host sockets.

pub mod egress;
