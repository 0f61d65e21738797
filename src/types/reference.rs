//! Names of images as people write them: `debian`, `host:5000/team/app:1.2`, `app@sha256:…`.
//!
//! Docker's normalisation, with its errors word for word. A name without a registry means
//! `docker.io`, a single word there means `library/` and the word; the first part is a registry
//! only if it holds a dot or a colon, is `localhost`, or has an upper-case letter. The grammar is
//! that of the distribution project's reference package:
//!
//! ```text
//! reference  = name [":" tag] ["@" digest]
//! name       = [domain "/"] path          domain = host [":" port]
//! host       = label *("." label) | "[" ipv6 "]"
//! path       = part *("/" part)           part = alnum *(separator alnum), lower case
//! separator  = "." | "_" | "__" | 1*"-"    tag = word *127(word | "." | "-")
//! ```

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, DigestError};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// Longest path of a repository.
const PATH_MAX: usize = 255;
/// Longest tag.
const TAG_MAX: usize = 128;

/// A normalised name of an image: repository with a tag, a digest, both, or neither.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a string names no image. The wording is Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// Upper-case letters in the repository.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// It is an image's id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// The repository is too long.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// The digest is wrong.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Reference {
    /// Parses and normalises; without tag and digest the tag is `latest`.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        Ok(Self::parse_named(text)?.with_default_tag())
    }

    /// Parses and normalises, adding no tag.
    pub fn parse_named(text: &str) -> Result<Self, ReferenceError> {
        if text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::Identifier(text.to_owned()));
        }
        let (domain, remainder) = split_domain(text);
        let repository = remainder.split(':').next().unwrap_or_default();
        if repository.chars().any(char::is_uppercase) {
            return Err(ReferenceError::Uppercase(repository.to_owned()));
        }
        let (name, digest) = match remainder.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (remainder.as_str(), None),
        };
        let (path, tag) = match name.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (name, None),
        };
        if !is_path(path) || !tag.is_none_or(is_tag) || !digest.is_none_or(is_digest) {
            return Err(ReferenceError::Format);
        }
        // A first part that is no host may still be the first part of a path (`a_b.c/d`): Docker
        // then has a repository without a domain.
        let (domain, path) = if is_domain(&domain) {
            (domain, path.to_owned())
        } else {
            let path = format!("{domain}/{path}");
            if !is_path(&path) {
                return Err(ReferenceError::Format);
            }
            (String::new(), path)
        };
        if path.len() > PATH_MAX {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self {
            domain,
            path,
            tag: tag.map(str::to_owned),
            digest: digest.map(str::parse).transpose()?,
        })
    }

    /// Adds `latest` where there is neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.is_name_only() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository with this tag alone.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Format);
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository with this digest alone.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The repository alone, without tag and digest.
    #[must_use]
    pub fn bare(&self) -> Self {
        Self {
            tag: None,
            digest: None,
            ..self.clone()
        }
    }

    /// The registry's host and port: `docker.io`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within its registry: `library/debian`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The repository with its registry: `docker.io/library/debian`.
    pub fn repository(&self) -> String {
        if self.domain.is_empty() {
            self.path.clone()
        } else {
            format!("{}/{}", self.domain, self.path)
        }
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Whether there is neither tag nor digest.
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// The repository as people write it: `debian`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(name) if !name.contains('/') => name.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole as people write it: `debian:latest`.
    pub fn familiar(&self) -> String {
        self.written(self.familiar_name())
    }

    fn written(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

fn split_domain(text: &str) -> (String, String) {
    let (domain, remainder) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    let domain = if domain == LEGACY_DOMAIN {
        DEFAULT_DOMAIN
    } else {
        domain
    };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        (domain.to_owned(), format!("{OFFICIAL}{remainder}"))
    } else {
        (domain.to_owned(), remainder.to_owned())
    }
}

fn is_domain(text: &str) -> bool {
    let (host, port) = if text.starts_with('[') {
        match text.split_once(']') {
            Some((address, rest)) => {
                let address = &address[1..];
                if address.is_empty()
                    || !address.bytes().all(|c| c.is_ascii_hexdigit() || c == b':')
                {
                    return false;
                }
                ("", rest)
            }
            None => return false,
        }
    } else {
        text.find(':').map_or((text, ""), |at| text.split_at(at))
    };
    let port_ok = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    port_ok && (text.starts_with('[') || host.split('.').all(label))
}

fn is_path(text: &str) -> bool {
    text.split('/').all(is_part)
}

/// Lower-case letters and digits, with separators only between them.
fn is_part(part: &str) -> bool {
    let alnum = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = part.as_bytes();
    if !bytes.first().is_some_and(|c| alnum(*c)) || !bytes.last().is_some_and(|c| alnum(*c)) {
        return false;
    }
    bytes.split(|c| alnum(*c)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|c| *c == b'-')
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    tag.len() <= TAG_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|c| word(c) || matches!(c, b'.' | b'-'))
}

/// The grammar's shape only; what is wrong with a digest of this shape is said by [`Digest`].
fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    let word = |word: &str| {
        word.bytes().next().is_some_and(|c| c.is_ascii_alphabetic())
            && word.bytes().all(|c| c.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(word)
        && hex.len() >= 32
        && hex.bytes().all(|c| c.is_ascii_hexdigit())
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// As [`Reference::parse_named`], so that what was printed reads back unchanged.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse_named(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written(self.repository()))
    }
}

super::serde_as_string!(Reference);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn normalises() {
        let long = format!("a@sha512:{HEX}{HEX}");
        let named = Reference::parse(&long).map(|name| name.familiar());
        assert_eq!(named, Ok(long));
        let digest = format!("@sha256:{HEX}");
        for (text, full, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("team/app", "docker.io/team/app:latest", "team/app:latest"),
            (
                "docker.io/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            (
                "index.docker.io/debian",
                "docker.io/library/debian:latest",
                "debian:latest",
            ),
            (
                "localhost/app",
                "localhost/app:latest",
                "localhost/app:latest",
            ),
            (
                "host:5000/a/b:1.2",
                "host:5000/a/b:1.2",
                "host:5000/a/b:1.2",
            ),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("HOST/app", "HOST/app:latest", "HOST/app:latest"),
            (
                "a__b/c-d---e.f_g",
                "docker.io/a__b/c-d---e.f_g:latest",
                "a__b/c-d---e.f_g:latest",
            ),
            ("a_b.c/d", "a_b.c/d:latest", "a_b.c/d:latest"),
            (
                &format!("debian{digest}"),
                &format!("docker.io/library/debian{digest}"),
                &format!("debian{digest}"),
            ),
            (
                &format!("x.io/a:t{digest}"),
                &format!("x.io/a:t{digest}"),
                &format!("x.io/a:t{digest}"),
            ),
        ] {
            let parsed = Reference::parse(text);
            assert_eq!(
                parsed.as_ref().map(Reference::to_string),
                Ok(full.to_owned()),
                "{text}"
            );
            assert_eq!(
                parsed.map(|r| r.familiar()),
                Ok(familiar.to_owned()),
                "{text}"
            );
        }
        let named = Reference::parse_named("debian").map(|r| (r.is_name_only(), r.repository()));
        assert_eq!(named, Ok((true, "docker.io/library/debian".into())));
    }

    #[test]
    fn refuses_in_dockers_words() {
        let identifier =
            format!("invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings");
        for (text, message) in [
            ("", "invalid reference format"),
            (":tag", "invalid reference format"),
            ("a:", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a/", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("a@sha256:abc", "invalid reference format"),
            ("a:b:c", "invalid reference format"),
            (
                "Debian",
                "invalid reference format: repository name (library/Debian) must be lowercase",
            ),
            (
                "x.io/A",
                "invalid reference format: repository name (A) must be lowercase",
            ),
            (HEX, &identifier),
            (
                &format!("a@sha256:{}", &HEX[..40]),
                "invalid checksum digest length",
            ),
            (&format!("a@sha512:{HEX}"), "invalid checksum digest length"),
            (&format!("a@md5:{HEX}"), "unsupported digest algorithm"),
            (
                &"a".repeat(256),
                "repository name must not be more than 255 characters",
            ),
        ] {
            let error = Reference::parse(text).map_err(|e| e.to_string());
            assert_eq!(error, Err(message.to_owned()), "{text}");
        }
        assert!(Reference::parse(&format!("a:{}", "t".repeat(128))).is_ok());
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
    }

    proptest! {
        #[test]
        fn reads_back(text in "([a-zA-Z0-9.-]{1,9}(:[0-9]{1,4})?/)?[a-z0-9._/-]{1,12}(:[a-zA-Z0-9_.-]{1,9})?(@sha256:[0-9a-f]{64})?") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(reference.to_string().parse(), Ok(reference));
            }
        }

        #[test]
        fn never_panics(text in "\\PC*|[a-zA-Z0-9\\[\\]:/@._é-]{0,80}") {
            let _ = Reference::parse(&text);
        }
    }
}
