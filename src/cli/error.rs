//! What a verb ends with when it does not end well, and the one place where that becomes a message
//! and an exit status.
//!
//! Verbs return [`anyhow::Error`]; the kinds that matter further up are typed here. A broken pipe
//! is no failure: whoever read our output has had enough of it.

use std::io;

use super::http::Malformed;
use crate::types::errno;

/// The status of `run` and `create` when it is moss or the engine that failed, not the command;
/// also that of a command line that makes no sense.
pub const ENGINE_FAILED: i32 = 125;

/// The engine's own refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Error response from daemon: {message}")]
pub struct Refused {
    /// HTTP's status.
    pub status: u16,
    /// The sentence.
    pub message: String,
}

/// A failure of which all is said: what to print, and the status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Exit {
    /// What to print to standard error; nothing where empty.
    pub message: String,
    /// The exit status.
    pub status: i32,
}

impl Exit {
    /// A status that needs no words: a container's.
    pub fn silent(status: i32) -> anyhow::Error {
        Self::because(status, "")
    }

    /// Words and a status.
    pub fn because(status: i32, message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self {
            message: message.into(),
            status,
        })
    }
}

/// The engine's refusal in an error, if it is one.
pub fn refusal(error: &anyhow::Error) -> Option<&Refused> {
    error.downcast_ref()
}

/// Whether the engine has no such thing.
pub fn is_not_found(error: &anyhow::Error) -> bool {
    refusal(error).is_some_and(|refused| refused.status == 404)
}

/// The message and the status that an error comes to.
pub fn conclude(error: &anyhow::Error) -> (String, i32) {
    if let Some(exit) = error.downcast_ref::<Exit>() {
        return (exit.message.clone(), exit.status);
    }
    let broken = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe);
    if broken {
        return (String::new(), 0);
    }
    (describe(error), 1)
}

/// The whole chain in one line.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let part = match cause.downcast_ref::<io::Error>() {
            Some(io) if io.kind() == io::ErrorKind::UnexpectedEof => {
                "the engine closed the connection".to_owned()
            }
            Some(io) => errno::text(io),
            _ if cause.is::<Malformed>() => continue,
            _ => cause.to_string(),
        };
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&part);
    }
    text
}

/// Docker's hint under a message.
pub fn with_help(message: &str, verb: &str) -> String {
    format!("{message}\n\nRun 'moss {verb} --help' for more information")
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn errors_become_messages_and_statuses() {
        let refused = anyhow::Error::new(Refused {
            status: 404,
            message: "No such container: x".into(),
        });
        assert!(is_not_found(&refused));
        let sentence = "Error response from daemon: No such container: x";
        assert_eq!(conclude(&refused), (sentence.to_owned(), 1));
        assert_eq!(conclude(&Exit::silent(7)), (String::new(), 7));
        let pipe =
            anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing");
        assert_eq!(conclude(&pipe).1, 0);
        let error = Err::<(), _>(io::Error::from_raw_os_error(2))
            .context("cannot open x")
            .unwrap_err();
        assert_eq!(
            conclude(&error).0,
            "cannot open x: no such file or directory"
        );
    }
}
