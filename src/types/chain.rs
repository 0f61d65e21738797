//! An error with its causes, as one sentence.

use std::error::Error;

/// The error's text and that of each of its sources, joined by `: ` as Go programs, and so Docker,
/// join theirs.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
