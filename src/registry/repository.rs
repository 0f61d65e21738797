//! One repository of one registry: tags, manifests and blobs.
//!
//! A [`Repository`] is shared by the threads of a pull or push. Where it asks, and with what proof,
//! is told in [`place`](super::place).

use std::sync::Arc;

use ureq::http::{Method, StatusCode};

use super::answer::refused;
use super::blob::Blob;
use super::error::Error;
use super::http::{Payload, Request, Response};
use super::manifest::{MANIFEST_MAX, RawManifest, accepted};
use super::patience::Retrying;
use super::place::{Inner, Place};
use super::url::Url;
use crate::types::digest::Digest;
use crate::types::reference::Reference;

/// Longest list of a repository's tags, in bytes, and most answers that it comes in.
const TAGS_MAX: u64 = 8 << 20;
const TAG_PAGES: usize = 1000;

/// What a tag means at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The manifest's digest.
    pub digest: Digest,
    /// Its media type, as the registry says.
    pub media_type: String,
    /// Its length, where the registry says.
    pub size: Option<u64>,
}

/// A repository. Cheap to clone; every clone is the same one.
#[derive(Clone)]
pub struct Repository {
    pub(super) inner: Arc<Inner>,
}

impl Repository {
    /// The name that the repository was opened with.
    pub fn reference(&self) -> &Reference {
        &self.inner.reference
    }

    /// Finds the digest that a tag means, without fetching the manifest where that can be avoided.
    pub fn resolve(&self, tag: &str) -> Result<Resolved, Error> {
        let resolved = self.inner.at_places(|place| {
            let url = place.url(&self.inner.path(&format!("manifests/{tag}")));
            let response = place.send(None, || manifest_request(Method::HEAD, url.clone()))?;
            if response.status.is_success()
                && let Some(digest) = content_digest(&response)
            {
                return Ok(Resolved {
                    digest,
                    media_type: media_type(&response),
                    size: response.length(),
                });
            }
            // A registry without HEAD or digests; or an error, which has no body in a HEAD.
            let raw = self.fetch(place, tag, None)?;
            Ok(Resolved {
                digest: raw.digest,
                media_type: raw.media_type,
                size: Some(raw.bytes.len() as u64),
            })
        });
        resolved.map_err(|error| self.about(tag, error))
    }

    /// Fetches the manifest or index of a tag.
    pub fn manifest_by_tag(&self, tag: &str) -> Result<RawManifest, Error> {
        self.inner
            .at_places(|place| self.fetch(place, tag, None))
            .map_err(|error| match self.about(tag, error) {
                // It was not sent. Docker's would have been the first of two, for the digest.
                Error::Proof { url, source, .. } => Error::Proof {
                    method: "Head".to_owned(),
                    url,
                    source,
                },
                error => error,
            })
    }

    /// Fetches the manifest or index of a digest.
    pub fn manifest_by_digest(&self, digest: Digest) -> Result<RawManifest, Error> {
        let name = digest.to_string();
        self.inner
            .at_places(|place| self.fetch(place, &name, Some(digest)))
            .map_err(|error| self.about(&name, error))
    }

    /// Names in an error what was asked for, where that is not what the repository was opened with.
    fn about(&self, asked: &str, error: Error) -> Error {
        let own = self.reference();
        let is_own = own.tag() == Some(asked)
            || own
                .digest()
                .is_some_and(|digest| digest.to_string() == asked);
        match error {
            Error::ManifestUnknown { source, .. } if !is_own => {
                let name = own.familiar_name();
                let separator = if asked.contains(':') { '@' } else { ':' };
                Error::ManifestUnknown {
                    reference: format!("{name}{separator}{asked}"),
                    source,
                }
            }
            other => other,
        }
    }

    fn fetch(
        &self,
        place: &Place,
        name: &str,
        expected: Option<Digest>,
    ) -> Result<RawManifest, Error> {
        let url = place.url(&self.inner.path(&format!("manifests/{name}")));
        let response = place.send(None, || manifest_request(Method::GET, url.clone()))?;
        if !response.status.is_success() {
            return Err(refused(response));
        }
        let too_large = Error::ManifestTooLarge {
            limit: MANIFEST_MAX,
        };
        if response
            .length()
            .is_some_and(|length| length > MANIFEST_MAX)
        {
            return Err(too_large);
        }
        let promised = expected.or_else(|| content_digest(&response));
        let media_type = media_type(&response);
        let (bytes, whole) = response.read(MANIFEST_MAX)?;
        if !whole {
            return Err(too_large);
        }
        if let Some(promised) = promised.filter(|promised| !promised.is_of(&bytes)) {
            return Err(Error::ManifestDigest(promised));
        }
        let digest = expected.unwrap_or_else(|| Digest::of(&bytes));
        Ok(RawManifest {
            bytes,
            digest,
            media_type,
        })
    }

    /// Opens a blob. `size` is what its descriptor says; a blob of another length is refused.
    ///
    /// The stream goes on by itself after a broken connection. Its digest is the reader's business.
    pub fn blob(&self, digest: Digest, size: Option<u64>) -> Result<Blob, Error> {
        self.blob_patiently(digest, size, &mut |_| ())
    }

    /// The same; `retrying` is told of every pause before another attempt.
    pub fn blob_patiently(
        &self,
        digest: Digest,
        size: Option<u64>,
        retrying: Retrying<'_>,
    ) -> Result<Blob, Error> {
        Blob::open(Arc::clone(&self.inner), digest, size, retrying)
    }

    /// Reads a small blob, a config, whole; it is verified.
    pub fn small_blob(&self, digest: Digest, limit: u64) -> Result<Vec<u8>, Error> {
        use std::io::Read as _;

        let mut bytes = Vec::new();
        self.blob(digest, None)?
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::from_io(error).unwrap_or_else(Error::Source))?;
        if bytes.len() as u64 > limit {
            return Err(Error::BlobTooLarge { digest, limit });
        }
        if digest.is_of(&bytes) {
            Ok(bytes)
        } else {
            Err(Error::BlobDigest(digest))
        }
    }

    /// The length of a blob, if the repository has it.
    pub fn blob_size(&self, digest: Digest) -> Result<Option<u64>, Error> {
        self.inner.at_places(|place| {
            let url = place.url(&self.inner.path(&format!("blobs/{digest}")));
            let response = place.send(None, || Request::new(Method::HEAD, url.clone()))?;
            match response.status {
                StatusCode::NOT_FOUND => Ok(None),
                status if status.is_success() => Ok(Some(response.length().unwrap_or_default())),
                _ => Err(refused(response)),
            }
        })
    }

    /// Stores a manifest under a tag, or under its digest if there is none.
    pub fn put_manifest(
        &self,
        tag: Option<&str>,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let name = tag.map_or_else(|| digest.to_string(), str::to_owned);
        self.inner.at_places(|place| {
            let url = place.url(&self.inner.path(&format!("manifests/{name}")));
            let response = place.send(None, || {
                let mut request = Request::new(Method::PUT, url.clone());
                request
                    .headers
                    .push(("content-type", media_type.to_owned()));
                request.payload = Payload::Bytes(bytes);
                request.wait = super::http::COMMIT;
                request
            })?;
            if !response.status.is_success() {
                return Err(refused(response));
            }
            match content_digest(&response) {
                Some(stored) if !stored.is_of(bytes) => Err(Error::ManifestDigest(digest)),
                _ => Ok(digest),
            }
        })
    }

    /// All tags.
    pub fn tags(&self) -> Result<Vec<String>, Error> {
        #[derive(serde::Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }

        self.inner.at_places(|place| {
            let mut url = place.url(&self.inner.path("tags/list"));
            let mut tags = Vec::new();
            let mut left = TAGS_MAX;
            let protocol = |reason: String| Error::Protocol {
                registry: place.endpoint.url.authority.clone(),
                reason,
            };
            let too_long = || protocol("the list of tags is too long".into());
            for _ in 0..TAG_PAGES {
                let response = place.send(None, || Request::new(Method::GET, url.clone()))?;
                if !response.status.is_success() {
                    return Err(refused(response));
                }
                let next = response
                    .header("link")
                    .and_then(next_link)
                    .map(|link| {
                        url.join(link)
                            .filter(|next| next.same_origin(&place.endpoint.url))
                            .ok_or_else(|| protocol("the next page of tags is elsewhere".into()))
                    })
                    .transpose()?;
                let (body, whole) = response.read(left)?;
                if !whole {
                    return Err(too_long());
                }
                left -= body.len() as u64;
                let page: Page = serde_json::from_slice(&body)
                    .map_err(|error| protocol(format!("the list of tags: {error}")))?;
                tags.extend(page.tags.unwrap_or_default());
                match next {
                    Some(next) => url = next,
                    None => return Ok(tags),
                }
            }
            Err(too_long())
        })
    }
}

fn manifest_request<'a>(method: Method, url: Url) -> Request<'a> {
    let mut request = Request::new(method, url);
    request.headers.push(("accept", accepted()));
    request
}

pub(super) fn content_digest(response: &Response) -> Option<Digest> {
    response.header("docker-content-digest")?.parse().ok()
}

fn media_type(response: &Response) -> String {
    let value = response.header("content-type").unwrap_or_default();
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// The target of `<…>; rel="next"`.
fn next_link(value: &str) -> Option<&str> {
    value.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters
            .split(';')
            .any(|one| matches!(one.trim(), "rel=\"next\"" | "rel=next"));
        next.then_some(target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        assert_eq!(
            next_link("</v2/a/tags/list?last=x&n=2>; rel=\"next\""),
            Some("/v2/a/tags/list?last=x&n=2")
        );
        assert_eq!(next_link("</x>; rel=\"prev\", </y>; rel=next"), Some("/y"));
        assert_eq!(next_link("nonsense"), None);
    }
}
