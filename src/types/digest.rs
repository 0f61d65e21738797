//! Content addresses: an algorithm's name, a colon and hexadecimal digits.
//!
//! sha256 is what Docker makes and nearly all that it meets; sha384 and sha512, which OCI registers
//! too, are verified where a reference, a manifest or a registry names content by them, as Go's
//! digest library does. Anything else is refused here, once, with that library's words. A digest is
//! 65 bytes and `Copy`, so tables of blobs and layers cost little to key by it.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// The hash of some content, and by which algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// As many as the algorithm makes; the rest is zero.
    bytes: [u8; 64],
}

/// How content is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// What everybody uses.
    Sha256,
    /// Between the two.
    Sha384,
    /// What OCI allows besides.
    Sha512,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// As a digest begins, and as OCI layouts name a directory.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Bytes of a hash.
    const fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Begins to hash.
    pub fn hasher(self) -> Hasher {
        match self {
            Self::Sha256 => Hasher::Sha256(Sha256::new()),
            Self::Sha384 => Hasher::Sha384(Sha384::new()),
            Self::Sha512 => Hasher::Sha512(Sha512::new()),
        }
    }
}

/// A hash under way.
#[derive(Clone)]
pub enum Hasher {
    /// By sha256.
    Sha256(Sha256),
    /// By sha384.
    Sha384(Sha384),
    /// By sha512.
    Sha512(Sha512),
}

impl Hasher {
    /// Takes some more of the content.
    pub fn update(&mut self, content: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(content),
            Self::Sha384(hash) => hash.update(content),
            Self::Sha512(hash) => hash.update(content),
        }
    }

    /// The digest of all that was taken.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest::new(Algorithm::Sha256, &hash.finalize()),
            Self::Sha384(hash) => Digest::new(Algorithm::Sha384, &hash.finalize()),
            Self::Sha512(hash) => Digest::new(Algorithm::Sha512, &hash.finalize()),
        }
    }
}

/// Why a string is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Not `algorithm:hex`.
    #[error("invalid checksum digest format")]
    Format,
    /// The right shape, the wrong number of digits.
    #[error("invalid checksum digest length")]
    Length,
    /// None that is known.
    #[error("unsupported digest algorithm")]
    Algorithm,
}

impl Digest {
    fn new(algorithm: Algorithm, hash: &[u8]) -> Self {
        let mut bytes = [0; 64];
        for (byte, hashed) in bytes.iter_mut().zip(hash) {
            *byte = *hashed;
        }
        Self { algorithm, bytes }
    }

    /// The sha256 of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self::new(Algorithm::Sha256, &Sha256::digest(content))
    }

    /// Wraps a finished sha256.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self::new(Algorithm::Sha256, &bytes)
    }

    /// Whether this is `content`'s digest, by the algorithm that it names.
    pub fn is_of(&self, content: &[u8]) -> bool {
        let mut hash = self.algorithm.hasher();
        hash.update(content);
        hash.finish() == *self
    }

    /// Parses the 64 lowercase hexadecimal digits of a sha256, without `sha256:`.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        Self::parse(Algorithm::Sha256, hex)
    }

    /// Parses digits of an algorithm's digest.
    pub fn parse(algorithm: Algorithm, hex: &str) -> Result<Self, DigestError> {
        if hex.len() != 2 * algorithm.length() {
            return Err(DigestError::Length);
        }
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self { algorithm, bytes })
    }

    /// By which algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash itself.
    pub fn as_bytes(&self) -> &[u8] {
        let (hash, _) = self.bytes.split_at(self.algorithm.length());
        hash
    }

    /// The digits without the algorithm: what files are called.
    pub fn hex(&self) -> String {
        to_hex(self.as_bytes())
    }

    /// The first twelve digits: what people see.
    pub fn short(&self) -> String {
        to_hex(&self.bytes[..6])
    }
}

/// Writes bytes as lowercase hexadecimal digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| DIGITS[usize::from(digit)] as char)
        .collect()
}

fn nibble(digit: u8) -> Result<u8, DigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(DigestError::Format),
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, hex) = text.split_once(':').ok_or(DigestError::Format)?;
        if name.is_empty() || hex.is_empty() {
            return Err(DigestError::Format);
        }
        let known = Algorithm::ALL.into_iter().find(|it| it.name() == name);
        Self::parse(known.ok_or(DigestError::Algorithm)?, hex)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

super::serde_as_string!(Digest);

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digests_and_reads_back() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(digest));
        assert_eq!(digest.short(), "e3b0c44298fc");
        assert_eq!(serde_json::to_value(digest).ok(), Some(EMPTY.into()));
    }

    #[test]
    fn other_algorithms_are_verified_by_their_own() {
        for algorithm in Algorithm::ALL {
            let mut hash = algorithm.hasher();
            hash.update(b"a");
            hash.update(b"bc");
            let digest = hash.finish();
            assert!(digest.is_of(b"abc") && !digest.is_of(b"abd"));
            assert_eq!(digest.to_string().parse(), Ok(digest));
            assert_eq!(digest.hex().len(), 2 * digest.as_bytes().len());
            assert_eq!(digest == Digest::of(b"abc"), algorithm == Algorithm::Sha256);
        }
        // FIPS 180-2, C.1.
        let known = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                     2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
        assert!(
            known
                .parse::<Digest>()
                .is_ok_and(|digest| digest.is_of(b"abc"))
        );
    }

    #[test]
    fn refuses() {
        for (text, error) in [
            ("", DigestError::Format),
            ("sha256", DigestError::Format),
            ("sha256:", DigestError::Format),
            ("sha256:abc", DigestError::Length),
            (&EMPTY.replace('e', "E"), DigestError::Format),
            (&EMPTY.replace("sha256", "sha512"), DigestError::Length),
            (&EMPTY.replace("sha256", "md5"), DigestError::Algorithm),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(error), "{text}");
        }
    }
}
