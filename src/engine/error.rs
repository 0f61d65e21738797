//! The engine's errors: a kind that the HTTP edge turns into a status, and Docker's words.
//!
//! Clients match on these texts, so those they match on are made by functions here and nowhere
//! else. Errors of the folders below are turned into one of these where they are met: only that
//! place knows whether "not found" is the client's fault or the store's.

use std::fmt;

use crate::types::chain::chain;

/// What went wrong, as the API's status codes distinguish it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 304: nothing to do.
    NotModified,
    /// 400: the request makes no sense.
    InvalidParameter,
    /// 401: credentials are missing or wrong.
    Unauthorized,
    /// 403: not allowed.
    Forbidden,
    /// 404: no such object.
    NotFound,
    /// 409: the object's state forbids it.
    Conflict,
    /// 429: a registry wants to be left alone for a while.
    TooManyRequests,
    /// 500: the host failed us.
    System,
    /// 501: not part of this version.
    NotImplemented,
    /// 503: not in the present state of the engine.
    Unavailable,
}

/// An error of the engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Which status it is.
    pub kind: Kind,
    /// One sentence, as Docker words it where Docker has it.
    pub message: String,
}

/// What the engine's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// A sentence may hold what a registry or an image said: a terminal is not to act on it.
fn printable(message: String) -> String {
    let acts = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !message.contains(acts) {
        return message;
    }
    let mut printable = String::with_capacity(message.len());
    for c in message.chars() {
        match acts(c) {
            true => printable.extend(c.escape_unicode()),
            false => printable.push(c),
        }
    }
    printable
}

impl Error {
    /// An error of any kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: printable(message.into()),
        }
    }

    /// 400.
    pub fn invalid(message: impl fmt::Display) -> Self {
        Self::new(Kind::InvalidParameter, message.to_string())
    }

    /// 404.
    pub fn not_found(message: impl fmt::Display) -> Self {
        Self::new(Kind::NotFound, message.to_string())
    }

    /// 409.
    pub fn conflict(message: impl fmt::Display) -> Self {
        Self::new(Kind::Conflict, message.to_string())
    }

    /// 500, with the whole chain of causes in one line.
    pub fn system(error: &dyn std::error::Error) -> Self {
        Self::new(Kind::System, chain(error))
    }

    /// 500 for an operating system error, naming what was being done.
    pub fn io(doing: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::new(Kind::System, format!("{doing}: {error}"))
    }

    /// 501.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(Kind::NotImplemented, message)
    }

    /// The same error, with what was being done before its text.
    #[must_use]
    pub fn during(self, doing: impl fmt::Display) -> Self {
        Self::new(self.kind, format!("{doing}: {}", self.message))
    }

    /// The same text as a failure of the host: dockerd hides some kinds on their way out.
    #[must_use]
    pub fn hidden(self) -> Self {
        Self::new(Kind::System, self.message)
    }

    /// No container of that name or id.
    pub fn no_such_container(name: &str) -> Self {
        Self::new(Kind::NotFound, format!("No such container: {name}"))
    }

    /// No exec session of that id.
    pub fn no_such_exec(id: &str) -> Self {
        Self::new(Kind::NotFound, format!("No such exec instance: {id}"))
    }

    /// The container must run for this.
    pub fn not_running(id: &str) -> Self {
        Self::new(Kind::Conflict, format!("container {id} is not running"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_given_no_orders() {
        let said = "denied:\x1b]0;x\x07\tno\u{9b}2J\n";
        let shown = "denied:\\u{1b}]0;x\\u{7}\tno\\u{9b}2J\n";
        assert_eq!(Error::invalid(said).message, shown);
        assert_eq!(Error::invalid("é \"x\"").message, "é \"x\"");
    }
}
