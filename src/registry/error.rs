//! What can go wrong with a registry, in the words that Docker's clients know.
//!
//! Three layers, as in Docker: a [`Failure`] is below HTTP (names, sockets, TLS) and worded as Go's
//! standard library words it; a [`Refusal`] is what a registry answers, `code: message`; an
//! [`Error`] is what was being done. [`Error::chain`] joins an error with its causes, which is what
//! a client is shown: `Get "https://r.example/v2/": dial tcp 192.0.2.1:443: connect: connection
//! refused`.

use std::io;

use super::failure::Failure;
use super::refusal::Refusal;
use crate::types::chain::chain;
use crate::types::digest::Digest;
use crate::types::reference::ReferenceError;

/// Anything that this folder answers instead of what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The [`Cancel`](super::Cancel) was used.
    #[error("context canceled")]
    Cancelled,
    /// A request got no answer.
    #[error("{method} {url:?}")]
    Request {
        /// `Get`, `Head`: as Go writes them.
        method: String,
        /// Where to.
        url: String,
        /// What happened.
        #[source]
        source: Failure,
    },
    /// A request was not sent, because the proof that it needs was not to be had.
    #[error("{method} {url:?}")]
    Proof {
        /// `Get`, `Head`.
        method: String,
        /// Where to.
        url: String,
        /// Why not.
        #[source]
        source: Box<Self>,
    },
    /// The registry said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no such tag or digest.
    #[error("manifest for {reference} not found")]
    ManifestUnknown {
        /// What was asked for.
        reference: String,
        /// The registry's words.
        #[source]
        source: Refusal,
    },
    /// A pull is not allowed, or there is nothing to pull: registries do not tell which.
    #[error(
        "pull access denied for {name}, repository does not exist or may require 'docker login'"
    )]
    PullDenied {
        /// The repository.
        name: String,
        /// The registry's words.
        #[source]
        source: Refusal,
    },
    /// There is no such repository.
    #[error("repository {name} not found")]
    NameUnknown {
        /// The repository.
        name: String,
        /// The registry's words.
        #[source]
        source: Refusal,
    },
    /// A blob that a manifest names is not there.
    #[error("unknown blob")]
    BlobUnknown,
    /// A status that the protocol has no place for.
    #[error("received unexpected HTTP status: {0}")]
    Status(String),
    /// An error whose body is not what it claims to be.
    #[error("error parsing HTTP {status} response body: {reason}: {body:?}")]
    Unparsable {
        /// The status.
        status: u16,
        /// What is wrong with the body.
        reason: String,
        /// Its beginning.
        body: String,
    },
    /// An answer lacks what the protocol demands, or has too much of it.
    #[error("invalid answer from registry {registry}: {reason}")]
    Protocol {
        /// The registry's host.
        registry: String,
        /// What is wrong.
        reason: String,
    },
    /// The registry asks for Basic credentials and there are none.
    #[error("no basic auth credentials")]
    NoCredentials,
    /// The token server answered without a token.
    #[error("authorization server did not include a token in the response")]
    NoToken,
    /// The challenge or the token server's answer makes no sense.
    #[error("{0}")]
    Token(String),
    /// `POST /auth` was answered with an odd status.
    #[error("login attempt to {url} failed with status: {status}")]
    Login {
        /// Where to.
        url: String,
        /// The status and its name.
        status: String,
    },
    /// No entry of an index is for the platform.
    #[error("no matching manifest for {0} in the manifest list entries")]
    NoMatch(String),
    /// Schema 1, which Docker removed.
    #[error(
        "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been \
         removed. Suggest the author of {0} to upgrade the image to the OCI Format or Docker Image \
         manifest v2, schema 2. More information at https://docs.docker.com/go/deprecated-image-specs/"
    )]
    Schema1(String),
    /// The manifest of something that is no image, by its config.
    #[error("Encountered remote {media_type:?}({class}) when fetching")]
    Class {
        /// The config's media type.
        media_type: String,
        /// `plugin` or `unknown`.
        class: &'static str,
    },
    /// A config or layer of a kind that cannot be unpacked.
    #[error("unsupported media type {0}")]
    MediaType(String),
    /// Docker's answer to its own model format.
    #[error(
        "AI models are not yet supported by the Engine, please use \"docker model pull/run\" instead"
    )]
    AiModel,
    /// A manifest of no known format.
    #[error("unsupported manifest format")]
    ManifestFormat,
    /// A manifest that cannot be read.
    #[error("invalid manifest {digest}: {reason}")]
    Manifest {
        /// Its digest.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
    /// A manifest is longer than anybody's.
    #[error("manifest is larger than {limit} bytes")]
    ManifestTooLarge {
        /// The bound.
        limit: u64,
    },
    /// Indexes within indexes.
    #[error("manifest list is nested deeper than {limit} levels")]
    Nested {
        /// The bound.
        limit: usize,
    },
    /// A manifest is not what its digest says.
    #[error("manifest verification failed for digest {0}")]
    ManifestDigest(Digest),
    /// A blob is not what its digest says.
    #[error("filesystem layer verification failed for digest {0}")]
    BlobDigest(Digest),
    /// A blob is not as long as it should be.
    #[error("blob {digest} has {actual} bytes, expected {expected}")]
    BlobSize {
        /// The blob.
        digest: Digest,
        /// What was promised.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// A blob is longer than such a blob may be.
    #[error("blob {digest} has more than {limit} bytes")]
    BlobTooLarge {
        /// The blob.
        digest: Digest,
        /// The most that it may have.
        limit: u64,
    },
    /// A file of the web's is not to be had.
    #[error("failed to GET {url} with status {status}: {body}")]
    Download {
        /// Where from.
        url: String,
        /// The status.
        code: u16,
        /// The status and its name.
        status: String,
        /// What the server said.
        body: String,
    },
    /// The source of an upload failed.
    #[error("cannot read what is to be pushed")]
    Source(#[source] io::Error),
    /// A name outside the grammar.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// `scratch` and the like.
    #[error("'{0}' is a reserved name")]
    Reserved(String),
    /// The configuration or a parameter is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Certificates of a registry cannot be read.
    #[error("cannot read {path}")]
    Certificates {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A search was answered with something else.
    #[error("{0}")]
    Search(String),
    /// The file of credentials cannot be read or written.
    #[error("cannot {what} {path}")]
    Credentials {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A credential helper failed.
    #[error("error {action} credentials - err: {reason}, out: `{output}`")]
    Helper {
        /// `getting`, `storing`, `erasing`.
        action: &'static str,
        /// What became of the program.
        reason: String,
        /// What it printed.
        output: String,
    },
}

/// What kind of answer an [`Error`] is, for whoever turns it into a status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such image or repository, or nobody may know.
    NotFound,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// Not allowed.
    Forbidden,
    /// The request, the configuration, or what was asked for is nothing that can be served.
    Invalid,
    /// Too many requests.
    TooManyRequests,
    /// The registry, or something on the way, cannot be reached.
    Unreachable,
    /// The client went away.
    Cancelled,
    /// Anything else: Docker answers 500.
    System,
}

impl Error {
    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Request { source, .. } => match source {
                Failure::Cancelled => ErrorKind::Cancelled,
                _ => ErrorKind::Unreachable,
            },
            Self::ManifestUnknown { .. } | Self::PullDenied { .. } | Self::NameUnknown { .. } => {
                ErrorKind::NotFound
            }
            Self::Refused(refusal) => match refusal.code() {
                "UNAUTHORIZED" => ErrorKind::Unauthorized,
                "DENIED" => ErrorKind::Forbidden,
                "MANIFEST_UNKNOWN" | "NAME_UNKNOWN" => ErrorKind::NotFound,
                "TOOMANYREQUESTS" => ErrorKind::TooManyRequests,
                _ => ErrorKind::System,
            },
            Self::Proof { source, .. } => source.kind(),
            Self::Download { code, .. } => match code {
                400 => ErrorKind::Invalid,
                401 => ErrorKind::Unauthorized,
                403 => ErrorKind::Forbidden,
                404 => ErrorKind::NotFound,
                _ => ErrorKind::System,
            },
            Self::NoCredentials => ErrorKind::Unauthorized,
            Self::Reserved(_) => ErrorKind::Forbidden,
            Self::Schema1(_)
            | Self::Class { .. }
            | Self::MediaType(_)
            | Self::AiModel
            | Self::ManifestFormat
            | Self::Reference(_)
            | Self::Invalid(_) => ErrorKind::Invalid,
            _ => ErrorKind::System,
        }
    }

    /// The registry's own words, where it is the registry that said no.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(source)
            | Self::ManifestUnknown { source, .. }
            | Self::PullDenied { source, .. }
            | Self::NameUnknown { source, .. } => Some(source),
            Self::Proof { source, .. } => source.refusal(),
            _ => None,
        }
    }

    /// The sentence and its causes, joined as Docker's messages are.
    pub fn chain(&self) -> String {
        chain(self)
    }

    /// The same, as what kept a request from being sent.
    pub(super) fn in_request(self, method: &str, url: &str) -> Self {
        match self {
            Self::Cancelled => self,
            other => Self::Proof {
                method: method.to_owned(),
                url: url.to_owned(),
                source: Box::new(other),
            },
        }
    }

    /// Whether another attempt may end otherwise: the network failed, or the registry is busy.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Request { source, .. } => source.is_transient(),
            Self::Proof { source, .. } => source.is_transient(),
            Self::Status(status) => status.starts_with('5'),
            Self::Refused(refusal) => refusal.code() == "UNAVAILABLE",
            _ => false,
        }
    }

    /// The error within what a reader of this folder failed with.
    pub fn from_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast::<Self>()
    }
}

/// What is wrong with a document that holds secrets: the library's sentence without the value that
/// it quotes.
pub(super) fn without_value(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match (text.find(" \""), text.rfind("\", expected")) {
        (Some(begin), Some(end)) if begin < end => text[..begin].to_owned() + &text[end + 1..],
        _ => text,
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::super::failure::words;
    use super::*;

    #[test]
    fn what_a_document_holds_is_not_told() {
        let text = |json: &str| {
            let error = serde_json::from_str::<Vec<u8>>(json).expect_err("no list of numbers");
            without_value(&error)
        };
        assert_eq!(
            text(r#"["a \"b\", expected c"]"#),
            "invalid type: string, expected u8 at line 1 column 22"
        );
        assert_eq!(text("[1"), "EOF while parsing a list at line 1 column 2");
    }

    #[test]
    fn chains() {
        let error = Error::ManifestUnknown {
            reference: "busybox:nope".into(),
            source: Refusal::of_code("MANIFEST_UNKNOWN"),
        };
        assert_eq!(
            error.chain(),
            "manifest for busybox:nope not found: manifest unknown: manifest unknown"
        );
        let error = Error::Request {
            method: "Get".into(),
            url: "https://localhost:1/v2/".into(),
            source: Failure::Connect {
                address: "127.0.0.1:1".into(),
                reason: words(&io::Error::from_raw_os_error(111)),
            },
        };
        assert_eq!(
            error.chain(),
            "Get \"https://localhost:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused"
        );
        assert_eq!(error.kind(), ErrorKind::Unreachable);
    }
}
