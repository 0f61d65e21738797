//! What daemon and shim say to each other.
//!
//! A `SOCK_SEQPACKET` unix socket, one JSON message a packet, descriptors beside it
//! (`SCM_RIGHTS`). What may be large travels as JSON in a sealed memfd. The daemon sends
//! [`Request`]s, each with a number of its own; the shim answers each with a [`Message::Reply`]
//! that carries that number and, unasked, tells what happened. Every message may grow fields,
//! none may change meaning without a new [`VERSION`].
//!
//! A client's connection (a hijacked HTTP connection) is itself one of the descriptors: the shim
//! reads and writes it directly, so an attached client never notices that the daemon died.

use serde::{Deserialize, Serialize};

/// Version of this protocol.
pub const VERSION: u32 = 1;

/// What the daemon asks of a shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First message after connecting to a running shim; answered with [`Reply::State`].
    Hello {
        /// The sender's [`VERSION`].
        version: u32,
    },
    /// Start the container. Descriptor 0 is a memfd that holds a `Start` as JSON; the descriptors
    /// after it are the connections of `attach`, in order.
    Start {
        /// Clients that attached before the start.
        attach: Vec<Attach>,
    },
    /// One more client for the first process's streams; descriptor 0 is its connection.
    Attach(Attach),
    /// Send a signal to the first process.
    Kill {
        /// Signal number.
        signal: i32,
    },
    /// Set the size of the first process's terminal, or of an exec session's.
    Resize {
        /// Id of the exec session.
        exec: Option<String>,
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Run one more process. Descriptor 0 is a memfd that holds a `userns::plan::Process` as JSON,
    /// descriptor 1 the client's connection unless detached.
    Exec {
        /// Id of the exec session.
        id: String,
        /// The client's streams; `None` when detached.
        attach: Option<Attach>,
    },
    /// The exit is recorded: the shim may leave.
    Release,
}

/// How a client's connection is joined to a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// What the client sends goes to stdin.
    pub stdin: bool,
    /// The client gets stdout.
    pub stdout: bool,
    /// The client gets stderr.
    pub stderr: bool,
    /// Output in Docker's 8-byte-header frames; raw otherwise (terminals).
    pub multiplexed: bool,
    /// The byte sequence that detaches this client (terminals); empty for none.
    pub detach_keys: Vec<u8>,
    /// Bytes that the client sent before its connection was handed over.
    pub early: Vec<u8>,
}

/// What a shim says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The answer to the request with this number.
    Reply {
        /// The request's number.
        seq: u64,
        /// What came of it.
        reply: Reply,
    },
    /// The first process ended. Sent to every connected daemon until [`Request::Release`].
    Exited(Exit),
    /// An exec session's process ended.
    ExecExited {
        /// Id of the exec session.
        id: String,
        /// Exit code as Docker has it: 128 + n after signal n.
        code: i32,
    },
    /// A client left by its detach keys, or its connection ended.
    Detached,
}

/// Answer to a [`Request`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Ok,
    /// Could not be done.
    Failed(Failure),
    /// To [`Request::Hello`].
    State {
        /// The shim's [`VERSION`].
        version: u32,
        /// The first process, once started.
        running: Option<Started>,
        /// How it ended, once it has.
        exit: Option<Exit>,
        /// Exec sessions whose process runs: id and pid on the host.
        execs: Vec<(String, i32)>,
    },
    /// To [`Request::Start`] and [`Request::Exec`].
    Started(Started),
}

/// A process that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Pid on the host.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat.
    pub start_time: u64,
    /// Nanoseconds since the Unix epoch.
    pub at: i128,
}

/// How the first process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code as Docker has it: 128 + n after signal n.
    pub code: i32,
    /// The kernel's out-of-memory killer was seen to act in its cgroup.
    pub oom_killed: bool,
    /// Nanoseconds since the Unix epoch.
    pub at: i128,
}

/// Why a process could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One sentence, as runc words it where clients match on it.
    pub message: String,
    /// Docker's exit code for it: 125, 126 (not executable) or 127 (not found).
    pub code: i32,
}
