//! What daemon and shim say to each other.
//!
//! A `SOCK_SEQPACKET` unix socket, one JSON message a packet, descriptors beside it
//! (`SCM_RIGHTS`); [`packet`](super::packet) carries them. The daemon sends [`Envelope`]s, each
//! with a number of its own; the shim answers each with a [`Message::Reply`] that carries that
//! number and, unasked, tells what happened. Every message may grow fields, none may change
//! meaning without a new [`VERSION`].
//!
//! A client's connection (a hijacked HTTP connection) is itself one of the descriptors: the shim
//! reads and writes it directly, so an attached client never notices that the daemon died.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::container::logs::{Delivery, Format};
use crate::overlay::Rootfs;
use crate::types::id::ContainerId;
use crate::userns::plan::{Plan, Process, ProcessIdentity};
use crate::userns::stage::{Origin, StageError};

/// Version of this protocol.
pub const VERSION: u32 = 1;

/// What a shim answers that is to signal a process which has ended: its exit is on the way.
pub const FINISHED: &str = "process already finished";

/// Why daemon and shim do not understand each other; `None` where they do.
pub fn mismatch(shim: u32, daemon: u32) -> Option<String> {
    (shim != daemon).then(|| {
        format!("the shim speaks version {shim} of its protocol, the daemon version {daemon}")
    })
}

/// Name of a shim's socket in its container's runtime directory.
pub const SOCKET: &str = "shim.sock";

/// Name of the exit there, where [`Start::exit_file`] cannot be written.
pub const EXIT: &str = "exit.json";

/// A request and its number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
    /// Unique among this connection's requests; comes back with the reply.
    pub seq: u64,
    /// What is asked.
    pub request: Request,
}

/// What the daemon asks of a shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First message after connecting to a running shim; answered with [`Reply::State`], or, where
    /// the versions differ, with a failure that names both.
    Hello {
        /// The sender's [`VERSION`].
        version: u32,
    },
    /// Take the start up to its last step. Answered with [`Reply::Prepared`], or with what went wrong,
    /// which is then the answer to `Start` as well. A shim that is not told to start soon after
    /// leaves. Like `Start` this is said only to a shim just forked for it, of the sender's build.
    Prepare(Box<Start>),
    /// Start what is prepared; the descriptors are the connections of `attach`, in order.
    Start {
        /// Clients that attached before the start.
        attach: Vec<Attach>,
    },
    /// One more client for the first process's streams; descriptor 0 is its connection. Sent
    /// before `Start` it joins the clients that attached before the start, and is answered all
    /// the same.
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
    /// Run one more process; descriptor 0 is the client's connection unless detached.
    Exec {
        /// Id of the exec session.
        id: String,
        /// What to run.
        process: Box<Process>,
        /// The client's streams; `None` when detached.
        attach: Option<Attach>,
    },
    /// [`Message::ExecExited`] was acted upon: the session's clients may now be told of the end
    /// (a client asks for the exit code as soon as its stream ends). Not answered.
    ExecSeen {
        /// Id of the exec session.
        id: String,
    },
    /// The exit is recorded: the shim may leave. Not answered.
    Release,
}

/// Everything that a shim must know to run a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// The container.
    pub id: ContainerId,
    /// Its root filesystem, made by the shim.
    pub rootfs: Rootfs,
    /// Its isolation and first process; `plan.process.terminal` says whether it has a terminal.
    pub plan: Plan,
    /// Stdin is a pipe that clients may attach to; else it is `/dev/null`.
    pub open_stdin: bool,
    /// Stdin is closed when the first client attached to it leaves.
    pub stdin_once: bool,
    /// Where the output is logged; `None` where it is kept nowhere.
    pub log: Option<LogTarget>,
    /// How it gets there, and where else it goes; `None` where the shim just writes it.
    #[serde(default)]
    pub delivery: Option<Delivery>,
    /// The container's directory under the exec root; [`SOCKET`] is made in it.
    pub runtime_dir: PathBuf,
    /// Where an [`Exit`] is written, as JSON, before anyone is told of it; where that fails, as on a
    /// full disk, it is [`EXIT`] in `runtime_dir`.
    pub exit_file: PathBuf,
    /// Where the shim writes its own identity before it starts anything; in the data root, as the
    /// exec root may be deleted.
    pub identity_file: PathBuf,
}

/// A log's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogTarget {
    /// The file, appended to.
    pub path: PathBuf,
    /// What its records look like.
    pub format: Format,
    /// What `--log-opt labels=…,env=…` selected, written with every record.
    pub attrs: BTreeMap<String, String>,
    /// How its files are bounded.
    pub rotation: Rotation,
}

/// How a log's files are bounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rotation {
    /// Most bytes of one file.
    pub max_size: Option<u64>,
    /// Most files.
    pub max_files: u32,
    /// All but the current one are compressed.
    pub compress: bool,
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

/// One of a process's output streams; the number is that of Docker's frame headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or everything where the process has a terminal.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
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
    /// The first process ended. Sent to every connected daemon; the shim stays until
    /// [`Request::Release`], or leaves when no daemon is connected.
    Exited(Exit),
    /// An exec session's process ended.
    ExecExited {
        /// Id of the exec session.
        id: String,
        /// Exit code as Docker has it: 128 + n after signal n.
        code: i32,
    },
    /// A client left by its detach keys.
    Detached {
        /// The exec session that it was attached to; `None` for the first process.
        exec: Option<String>,
    },
    /// The log could not be written: output is missing from it. The container goes on. Sent for
    /// the first failure, and again for the first after one that worked.
    LogFailed {
        /// What the kernel said.
        reason: String,
    },
    /// Never sent: what the daemon's side makes of a connection that ended with no
    /// [`Message::Exited`]. The keeper has killed the container by then, or is about to.
    Lost,
    /// Never sent: the shim that had prepared a start has left, as nobody asked for it.
    Lapsed,
}

/// Answer to a [`Request`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Ok,
    /// Could not be done.
    Failed(Failure),
    /// To [`Request::Prepare`]: the process that waits, whose namespaces are there.
    Prepared(ProcessIdentity),
    /// To [`Request::Hello`].
    State(ShimState),
    /// To [`Request::Start`] and [`Request::Exec`].
    Started {
        /// The process.
        started: Started,
        /// What each phase of the start took, in nanoseconds, in order.
        phases: Vec<(String, u64)>,
        /// What was left out or replaced because this host refuses it, one sentence each.
        #[serde(default)]
        notes: Vec<String>,
    },
}

/// What a shim knows of its container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimState {
    /// The shim's [`VERSION`].
    pub version: u32,
    /// The shim's own pid on the host.
    pub pid: i32,
    /// The first process, once started.
    pub running: Option<Started>,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
    /// Exec sessions whose process runs: id and pid on the host.
    pub execs: Vec<(String, i32)>,
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

impl Started {
    /// Which process it is, to whom it does not matter since when.
    pub fn process(self) -> ProcessIdentity {
        ProcessIdentity {
            pid: self.pid,
            start_time: self.start_time,
        }
    }
}

/// How the first process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code as Docker has it: 128 + n after signal n.
    pub code: i32,
    /// The kernel's out-of-memory killer was seen to act in its cgroup.
    pub oom_killed: bool,
    /// The process that served its root filesystem, where that ended before the container did.
    #[serde(default)]
    pub lost_server: Option<i32>,
    /// Nanoseconds since the Unix epoch.
    pub at: i128,
}

/// Why a process could not be started, or a request not be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// One sentence, as runc words it where clients match on it. For an exec it is Docker's whole
    /// sentence (`OCI runtime exec failed: …: unknown`).
    pub message: String,
    /// Docker's exit code for it: 125, 126 (not executable) or 127 (not found).
    pub code: i32,
    /// Whose words they are: runc's get Docker's "failed to create task …" before them.
    pub origin: Origin,
}

impl Failure {
    /// A failure in moss's own words.
    pub fn own(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 125,
            origin: Origin::Daemon,
        }
    }
}

impl From<StageError> for Failure {
    fn from(error: StageError) -> Self {
        Self {
            message: error.message,
            code: error.code,
            origin: error.origin,
        }
    }
}
