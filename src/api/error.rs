//! The body of every answer that is an error: `{"message": "…"}`.

use serde::{Deserialize, Serialize};

/// What went wrong, in one sentence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorBody {
    /// The sentence.
    pub message: String,
}

impl ErrorBody {
    /// Wraps a sentence.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}
