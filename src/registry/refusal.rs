//! A registry's codes and messages, as Docker's client shows them.

use std::fmt;

/// What a registry answers to what it does not do: codes and messages.
///
/// A message that is missing, or that says no more than the code does, is left out where the answer
/// also has no detail, as in Docker's client: `denied: requested access to the resource is denied`
/// comes from a detail or from another message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refusal {
    errors: Vec<(String, Option<String>)>,
}

impl std::error::Error for Refusal {}

/// Codes with the messages that say no more than they do.
const CODES: &[(&str, &str)] = &[
    ("UNKNOWN", "unknown error"),
    ("UNSUPPORTED", "The operation is unsupported."),
    ("UNAUTHORIZED", "authentication required"),
    ("DENIED", "requested access to the resource is denied"),
    ("UNAVAILABLE", "service unavailable"),
    ("TOOMANYREQUESTS", "too many requests"),
    (
        "DIGEST_INVALID",
        "provided digest did not match uploaded content",
    ),
    (
        "SIZE_INVALID",
        "provided length did not match content length",
    ),
    ("NAME_INVALID", "invalid repository name"),
    ("TAG_INVALID", "manifest tag did not match URI"),
    ("NAME_UNKNOWN", "repository name not known to registry"),
    ("MANIFEST_UNKNOWN", "manifest unknown"),
    ("MANIFEST_INVALID", "manifest invalid"),
    (
        "MANIFEST_UNVERIFIED",
        "manifest failed signature verification",
    ),
    ("MANIFEST_BLOB_UNKNOWN", "blob unknown to registry"),
    ("BLOB_UNKNOWN", "blob unknown to registry"),
    ("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"),
    ("BLOB_UPLOAD_INVALID", "blob upload invalid"),
    ("RANGE_INVALID", "invalid content range"),
    (
        "PAGINATION_NUMBER_INVALID",
        "invalid number of results requested",
    ),
];

/// Longest message that is passed on, in bytes: what a person can read, not what a registry can send.
const MESSAGE_MAX: usize = 4096;

impl Refusal {
    /// One error, whose message may add nothing.
    pub(super) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            errors: vec![(known(code).0.to_owned(), Some(clipped(message.into())))],
        }
    }

    /// One error in its own words.
    pub(super) fn of_code(code: &str) -> Self {
        let (code, message) = known(code);
        Self::new(code, message)
    }

    /// The errors of a JSON body; none of them if there are none.
    pub(super) fn from_json(body: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(serde::Deserialize)]
        struct Body {
            #[serde(default)]
            errors: Option<Vec<One>>,
        }
        #[derive(serde::Deserialize)]
        struct One {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
            #[serde(default)]
            detail: Option<serde_json::Value>,
        }
        let body: Body = serde_json::from_slice(body)?;
        let errors = body.errors.unwrap_or_default();
        Ok(Self {
            errors: errors
                .into_iter()
                .map(|one| {
                    let (code, default) = known(&one.code);
                    let plain =
                        one.detail.is_none() && (one.message.is_empty() || one.message == default);
                    (code.to_owned(), (!plain).then(|| clipped(one.message)))
                })
                .collect(),
        })
    }

    /// Both, these first.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.errors.extend(other.errors);
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// The first error's code: `MANIFEST_UNKNOWN`; `UNKNOWN` for what Docker does not know.
    pub fn code(&self) -> &str {
        self.errors.first().map_or("UNKNOWN", |(code, _)| code)
    }

    /// Only the first error, as Docker reports a pull; nothing if it is a bare code, which Docker
    /// takes for something else.
    pub(super) fn first_with_message(&self) -> Option<Self> {
        let first = self.errors.first()?;
        first.1.as_ref()?;
        Some(Self {
            errors: vec![first.clone()],
        })
    }
}

fn known(code: &str) -> (&'static str, &'static str) {
    CODES
        .iter()
        .find(|(name, _)| *name == code)
        .copied()
        .unwrap_or(CODES[0])
}

fn clipped(mut message: String) -> String {
    if message.len() > MESSAGE_MAX {
        let end = (0..=MESSAGE_MAX)
            .rev()
            .find(|&at| message.is_char_boundary(at))
            .unwrap_or_default();
        message.truncate(end);
    }
    message
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |f: &mut fmt::Formatter<'_>, (code, message): &(String, Option<String>)| {
            f.write_str(&code.to_lowercase().replace('_', " "))?;
            match message {
                Some(message) => write!(f, ": {message}"),
                None => Ok(()),
            }
        };
        match &self.errors[..] {
            [] => f.write_str("unknown"),
            [single] => one(f, single),
            several => {
                f.write_str("errors:\n")?;
                for error in several {
                    one(f, error)?;
                    f.write_str("\n")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_dockers() {
        let text = |body: &str| {
            Refusal::from_json(body.as_bytes())
                .map(|r| r.to_string())
                .ok()
        };
        assert_eq!(
            text(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#).as_deref(),
            Some("manifest unknown: manifest unknown")
        );
        assert_eq!(
            text(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#)
                .as_deref(),
            Some("manifest unknown")
        );
        assert_eq!(
            text(r#"{"errors":[{"code":"ODD","message":"strange"}]}"#).as_deref(),
            Some("unknown: strange")
        );
        assert_eq!(
            text(r#"{"errors":[{"code":"DENIED","message":"a"},{"code":"UNAUTHORIZED"}]}"#)
                .as_deref(),
            Some("errors:\ndenied: a\nunauthorized\n")
        );
        assert_eq!(text("<html>"), None);
        assert!(Refusal::from_json(b"{}").is_ok_and(|refusal| refusal.is_empty()));
    }

    #[test]
    fn long_messages_are_clipped() {
        let refusal = Refusal::new("DENIED", "é".repeat(MESSAGE_MAX));
        assert!(refusal.to_string().len() <= MESSAGE_MAX + 16);
    }
}
