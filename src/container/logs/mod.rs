//! Container logs, in Docker's own files.
//!
//! Output becomes [`Message`]s ([`message`]), and those become records of a file, in one of two
//! [`Format`]s. The driver `json-file` has one record a line:
//! `{"log":"text\n","stream":"stdout","time":"2026-01-02T03:04:05.6Z"}`, with `"attrs":{…}` before
//! the time where `--log-opt labels`, `env` or `tag` selected some. Bytes that are no UTF-8 become
//! U+FFFD, as in Docker's own files: JSON cannot hold them. The driver `local` has protobuf entries
//! ([`local`]); a cache of what goes elsewhere is such a file, too.
//!
//! The [`Writer`] lives in the shim, the [`Reader`] in the daemon, and other programs (Docker's
//! own readers, log shippers) may read the file too. Nothing but the file is between them: a
//! record is visible as soon as it is written, and the last one may be torn, by a full disk or a
//! killed shim. The reader takes it for not yet written.
//!
//! Rotated files are `path.1`, `path.2` …, the newest first, with `.gz` where they are compressed
//! ([`rotate`]).
//!
//! What goes to [`syslog`] or the journal ([`journald`]) is handed to a process of its own
//! ([`mod@deliver`]), and so is what may wait for nobody.

mod deliver;
mod escape;
pub mod journald;
mod lines;
mod local;
mod message;
mod reader;
mod record;
mod rest;
mod rotate;
mod source;
pub mod syslog;
mod tail;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

use serde::{Deserialize, Serialize};

pub use deliver::{Delivery, Remote, Sender, deliver};
pub use local::encode as encode_entry;
pub use message::{Message, PARTIAL, Partial, Splitter};
pub use reader::{Follow, Query, Reader};
pub use record::Record;
pub use writer::Writer;

/// What records look like in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Lines of JSON, of the driver `json-file`.
    #[default]
    Json,
    /// Protobuf entries, of the driver `local`.
    Local,
}
