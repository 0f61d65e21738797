//! Container logs in Docker's json-file format.
//!
//! One record a line: `{"log":"text\n","stream":"stdout","time":"2026-01-02T03:04:05.6Z"}`, with
//! `"attrs":{…}` before the time where `--log-opt labels` or `env` selected some. A record is a
//! line of the container's output, newline included; a line longer than [`PARTIAL`] bytes becomes
//! several records, of which only the last ends in a newline, all with the time of the first.
//! Bytes that are no UTF-8 become U+FFFD, as in Docker's own files: JSON cannot hold them.
//!
//! The [`Writer`] lives in the shim, the [`Reader`] in the daemon, and other programs (Docker's
//! own readers, log shippers) may read the file too. Nothing but the file is between them: a
//! record is visible as soon as it is written, and the last line may be torn, by a full disk or a
//! killed shim. The reader takes a line without its newline for not yet written.
//!
//! Rotated files are `path.1`, `path.2` …, the newest first.

mod reader;
mod record;
mod tail;
mod watch;
mod writer;

pub use reader::{Follow, Query, Reader};
pub use record::Record;
pub use writer::{PARTIAL, Writer};
