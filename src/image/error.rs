//! What can go wrong with images.

use std::io;
use std::path::PathBuf;

use crate::tarball::TarError;
use crate::types::chain::chain;
use crate::types::digest::Digest;
use crate::types::platform::Platform;

/// Anything that this folder answers instead of what was asked for.
///
/// `Display` is one sentence without its source; [`Error::chain`] joins both, which is what a
/// client is shown. Texts that clients match on are Docker's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name, id or digest that no image has.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// A name outside the grammar.
    #[error(transparent)]
    Reference(#[from] crate::types::reference::ReferenceError),
    /// Something stands in the way of a removal; Docker's sentence.
    #[error("conflict: {0}")]
    Conflict(String),
    /// What an archive or a request holds makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// An image that is to be saved is for another platform; Docker's sentence.
    #[error("no suitable export target found for platform {0}")]
    NotForPlatform(Platform),
    /// An archive's framing is wrong.
    #[error("cannot read the tar archive")]
    Tar(#[from] TarError),
    /// An entry of a layer that must not or cannot be unpacked.
    #[error("invalid entry {path:?}: {reason}")]
    Entry {
        /// The entry's name.
        path: String,
        /// Why.
        reason: String,
    },
    /// A system call for an entry failed.
    #[error("cannot {what} {path:?} of the layer")]
    Unpack {
        /// What was tried.
        what: &'static str,
        /// The entry's name.
        path: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The filesystem is nearly full.
    #[error("no space left on device: unpacking stops while there is room for the rest")]
    NearlyFull,
    /// The filesystem cannot hold even the compressed layers.
    #[error("no space left on device: the layers take at least {needed} bytes and {free} are free")]
    NoRoom {
        /// Their compressed size.
        needed: u64,
        /// What may be written.
        free: u64,
    },
    /// More than an image may have.
    #[error("the layer is refused: it has more than {0}")]
    Limit(String),
    /// More than an archive of images may have.
    #[error("the archive is refused: it has more than {0}")]
    Archive(String),
    /// The compressed stream is broken.
    #[error("cannot decompress the layer")]
    Decompress(#[source] io::Error),
    /// The source of the data failed.
    #[error("cannot read the archive")]
    Source(#[source] io::Error),
    /// Content is not what its digest says.
    #[error("{what} has digest {actual}, expected {expected}")]
    DigestMismatch {
        /// Which content.
        what: String,
        /// What was promised.
        expected: Box<Digest>,
        /// What came.
        actual: Box<Digest>,
    },
    /// A file of the store cannot be read, written or moved.
    #[error("cannot {what} {path}")]
    Store {
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file of the store does not hold what it should.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// In what way.
        reason: String,
    },
    /// A registry, or the way to it, failed.
    #[error(transparent)]
    Registry(#[from] crate::registry::Error),
    /// A registry has an image's manifest but not its config.
    #[error("error pulling image configuration")]
    PullConfig(#[source] crate::registry::Error),
    /// An image's config is not what its manifest says.
    #[error("image config verification failed for digest {0}")]
    ConfigDigest(Digest),
    /// A manifest and its config name different layers.
    #[error("layers from manifest don't match image configuration")]
    RootFsMismatch,
    /// A thread of the unpacking pipeline ended without an answer.
    #[error("the unpacking of a layer was cut short")]
    Interrupted,
}

/// What kind of answer an [`Error`] is, for whoever turns it into a status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such thing.
    NotFound,
    /// Something else stands in the way.
    Conflict,
    /// The request, or the archive in it, is wrong.
    Invalid,
    /// This machine failed.
    System,
}

impl Error {
    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchImage(_) => ErrorKind::NotFound,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::Reference(_) | Self::Invalid(_) => ErrorKind::Invalid,
            _ => ErrorKind::System,
        }
    }

    /// The sentence and its causes, joined as Docker's messages are.
    pub fn chain(&self) -> String {
        chain(self)
    }

    /// Whether the filesystem, or the user's share of it, is full.
    pub(super) fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};

        let Self::Store { source, .. } = self else {
            return false;
        };
        matches!(source.kind(), QuotaExceeded | StorageFull)
    }

    pub(crate) fn entry(path: &[u8], reason: impl Into<String>) -> Self {
        Self::Entry {
            path: String::from_utf8_lossy(path).into_owned(),
            reason: reason.into(),
        }
    }
}

/// Names the operation and the file of a failed system call.
pub(crate) fn store(
    what: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Store { what, path, source }
}
