//! Messages of long operations (pull, load, import, build): one JSON object a line.

use serde::{Deserialize, Serialize};

use super::json::is_default;

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JsonMessage {
    /// Text to print as it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stream: String,
    /// What is being done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// How far it is.
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    pub progress_detail: Option<ProgressDetail>,
    /// The same as a bar of text, for old clients.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// What it is done to (a layer's short id).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// What went wrong; the last message of its operation.
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ErrorDetail>,
    /// The same as plain text, for old clients.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Something for programs, such as the id of a built image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<serde_json::Value>,
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressDetail {
    /// Done so far.
    #[serde(skip_serializing_if = "is_default")]
    pub current: i64,
    /// All there is to do; 0 where that is not known.
    #[serde(skip_serializing_if = "is_default")]
    pub total: i64,
    /// When it began, in seconds since the epoch.
    #[serde(skip_serializing_if = "is_default")]
    pub start: i64,
}

/// What went wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorDetail {
    /// A number for it; rarely there.
    #[serde(skip_serializing_if = "is_default")]
    pub code: i64,
    /// The sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl JsonMessage {
    /// Text to print as it is.
    pub fn stream(text: impl Into<String>) -> Self {
        Self {
            stream: text.into(),
            ..Self::default()
        }
    }

    /// What is being done, with an id where it is done to one thing of several.
    pub fn status(id: &str, status: impl Into<String>) -> Self {
        Self {
            id: id.to_owned(),
            status: status.into(),
            ..Self::default()
        }
    }

    /// What is being done, and how far it is.
    pub fn progress(id: &str, status: &str, current: i64, total: i64) -> Self {
        Self {
            progress_detail: Some(ProgressDetail {
                current,
                total,
                start: 0,
            }),
            ..Self::status(id, status)
        }
    }

    /// What went wrong.
    pub fn error(message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            error_detail: Some(ErrorDetail {
                code: 0,
                message: message.clone(),
            }),
            error: message,
            ..Self::default()
        }
    }

    /// The message as Docker sends it: one line, ended by CR LF.
    pub fn to_line(&self) -> Vec<u8> {
        // Strings, numbers and JSON values always serialise.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.extend_from_slice(b"\r\n");
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = |message: JsonMessage| String::from_utf8(message.to_line()).unwrap_or_default();
        assert_eq!(
            line(JsonMessage::stream("Loaded image: a:latest\n")),
            "{\"stream\":\"Loaded image: a:latest\\n\"}\r\n"
        );
        assert_eq!(
            line(JsonMessage::error("no")),
            "{\"errorDetail\":{\"message\":\"no\"},\"error\":\"no\"}\r\n"
        );
        assert_eq!(
            line(JsonMessage::progress("abc", "Loading layer", 5, 0)),
            "{\"status\":\"Loading layer\",\"progressDetail\":{\"current\":5},\"id\":\"abc\"}\r\n"
        );
    }
}
