//! The daemon: the Docker Engine API over unix sockets.
//!
//! tokio and hyper live here and nowhere else. What a request means is the engine's business;
//! routes only translate between it and the wire.
//!
//! | module | what it does |
//! |---|---|
//! | [`lifecycle`] | from what was typed to serving, and to the end |
//! | [`routes`] | what each endpoint asks of the engine |
//! | [`server`] | accepts connections, runs HTTP/1.1 on them, gives hijacked ones away |
//! | [`dispatch`] | from a request to an endpoint and back; what all answers have in common |
//! | [`router`], [`version`], [`query`], [`request`], [`answer`] | the parts of that, pure where they can be |
//! | [`listen`], [`notify`], [`pidfile`] | the sockets it makes or is given, telling that it serves |
//! | [`presence`] | making sockets anew that were deleted |
//! | [`hijack`], [`websocket`], [`peer`] | connections that leave HTTP; noticing that a client has left |
//! | [`backlog`] | what slow clients have yet to be told of pulls and pushes |

pub mod answer;
pub mod backlog;
pub mod dispatch;
pub mod hijack;
pub mod lifecycle;
pub mod listen;
pub mod notify;
pub mod peer;
pub mod pidfile;
pub mod presence;
pub mod query;
pub mod request;
pub mod router;
pub mod routes;
pub mod server;
pub mod version;
pub mod websocket;

pub use lifecycle::{DaemonError, run};

/// Stack of a thread that runs engine code, in bytes. Only touched pages cost memory.
const STACK: usize = 1024 * 1024;
