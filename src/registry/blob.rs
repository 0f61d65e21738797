//! A blob as a stream: what a pull spends its time on.
//!
//! Nothing is kept: bytes go from the socket's buffer to the reader. When a connection breaks or
//! goes silent, another is opened for the rest (`Range`), after a pause (`patience`). What a server
//! sends that ignores the range is thrown away up to where it matters. Attempts are counted anew
//! after every [`PROGRESS`] bytes, so a long blob over a bad line arrives, and a server that sends
//! one byte a connection is given up.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use ureq::BodyReader;
use ureq::http::{Method, StatusCode};

use super::answer::refused;
use super::error::Error;
use super::failure::{Failure, of_io};
use super::http::Request;
use super::patience::{self, Retrying, pause_after};
use super::place::{Inner, Place};
use super::url::Url;
use crate::types::digest::Digest;

/// The second pause; doubled each time.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// Bytes after which a line counts as good again.
pub(super) const PROGRESS: u64 = 1 << 20;

/// The bytes of a blob. Its errors are this folder's: [`Error::from_io`] gets them back.
pub struct Blob {
    inner: Arc<Inner>,
    digest: Digest,
    size: Option<u64>,
    offset: u64,
    /// Which place it comes from.
    place: usize,
    body: Option<BodyReader<'static>>,
    /// Where it comes from, for errors.
    url: Option<Url>,
    failures: u32,
    failed_at: u64,
}

struct Opened {
    body: BodyReader<'static>,
    url: Url,
    size: Option<u64>,
}

impl Blob {
    pub(super) fn open(
        inner: Arc<Inner>,
        digest: Digest,
        size: Option<u64>,
        retrying: Retrying<'_>,
    ) -> Result<Self, Error> {
        let first = inner.first();
        let mut blob = Self {
            inner,
            digest,
            size,
            offset: 0,
            place: first,
            body: None,
            url: None,
            failures: 0,
            failed_at: 0,
        };
        blob.reopen_patiently(retrying)?;
        Ok(blob)
    }

    /// The blob's length, where it is known.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The blob's digest, which the bytes may yet belie.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Opens a connection for the rest, as often as is allowed.
    fn reopen_patiently(&mut self, retrying: Retrying<'_>) -> Result<(), Error> {
        loop {
            match self.reopen() {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() => self.pause(error, retrying)?,
                Err(error) => return Err(error),
            }
        }
    }

    fn reopen(&mut self) -> Result<(), Error> {
        let (digest, offset, expected) = (self.digest, self.offset, self.size);
        let inner = Arc::clone(&self.inner);
        let (place, opened) = inner.places_from(self.place, |place| {
            request(&inner, place, digest, offset, expected)
        })?;
        self.place = place;
        self.size = expected.or(opened.size);
        self.body = Some(opened.body);
        self.url = Some(opened.url);
        Ok(())
    }

    /// Waits before another attempt, or gives up with what went wrong last.
    fn pause(&mut self, error: Error, retrying: Retrying<'_>) -> Result<(), Error> {
        self.body = None;
        if self.offset >= self.failed_at + PROGRESS {
            self.failures = 0;
        }
        self.failed_at = self.offset;
        self.failures += 1;
        if self.failures >= self.inner.attempts {
            return Err(error);
        }
        tracing::info!(
            digest = %self.digest,
            offset = self.offset,
            attempt = self.failures,
            error = error.chain(),
            "download interrupted, retrying"
        );
        let pause = pause_after(self.failures, PAUSE, PAUSE_MAX);
        patience::wait(pause, &self.inner.cancel, retrying)
    }

    /// Reads as [`Read`] does; `retrying` is told of every pause.
    pub fn read_patiently(
        &mut self,
        buffer: &mut [u8],
        retrying: Retrying<'_>,
    ) -> Result<usize, Error> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            self.inner.cancel.check()?;
            if self.size.is_some_and(|size| self.offset == size) {
                return self.ended();
            }
            let Some(body) = &mut self.body else {
                self.reopen_patiently(retrying)?;
                continue;
            };
            let source = match body.read(buffer) {
                Ok(0) if self.size.is_none() => return Ok(0),
                Ok(0) => Failure::Eof,
                Ok(length) => {
                    self.offset += length as u64;
                    return match self.size {
                        Some(size) if self.offset > size => Err(self.too_long(size)),
                        _ => Ok(length),
                    };
                }
                Err(error) => of_io(error),
            };
            if matches!(source, Failure::Cancelled) {
                return Err(Error::Cancelled);
            }
            let url = self.url.as_ref().map(Url::to_string).unwrap_or_default();
            let error = Error::Request {
                method: "Get".into(),
                url,
                source,
            };
            self.pause(error, retrying)?;
        }
    }

    /// At the end: the server may have more than it should, and the connection is to be used again.
    fn ended(&mut self) -> Result<usize, Error> {
        let Some(mut body) = self.body.take() else {
            return Ok(0);
        };
        match body.read(&mut [0; 1]) {
            Ok(more) if more > 0 => {
                self.offset += 1;
                Err(self.too_long(self.offset - 1))
            }
            // Everything is here, so it does not matter how the connection ended.
            _ => Ok(0),
        }
    }

    fn too_long(&self, expected: u64) -> Error {
        Error::BlobSize {
            digest: self.digest,
            expected,
            actual: self.offset,
        }
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_patiently(buffer, &mut |_| ())
            .map_err(io::Error::from)
    }
}

fn request(
    inner: &Inner,
    place: &Place,
    digest: Digest,
    offset: u64,
    expected: Option<u64>,
) -> Result<Opened, Error> {
    let url = place.url(&inner.path(&format!("blobs/{digest}")));
    let response = place.send(None, || {
        let mut request = Request::new(Method::GET, url.clone());
        if offset > 0 {
            request.headers.push(("range", format!("bytes={offset}-")));
        }
        request
    })?;
    let begins_at = match response.status {
        StatusCode::PARTIAL_CONTENT => {
            let begin = response.header("content-range").and_then(range_begin);
            if begin != Some(offset) {
                return Err(Error::Protocol {
                    registry: response.url.authority.clone(),
                    reason: format!("it sent another part of blob {digest} than was asked for"),
                });
            }
            offset
        }
        StatusCode::OK => 0,
        StatusCode::NOT_FOUND => return Err(Error::BlobUnknown),
        _ => return Err(refused(response)),
    };
    let size = match response.length().map(|left| left.checked_add(begins_at)) {
        Some(None) => {
            return Err(Error::Protocol {
                registry: response.url.authority.clone(),
                reason: "it sent a blob without an end".into(),
            });
        }
        length => length.flatten(),
    };
    if let (Some(expected), Some(actual)) = (expected, size)
        && expected != actual
    {
        return Err(Error::BlobSize {
            digest,
            expected,
            actual,
        });
    }
    let (method, url) = (response.method.clone(), response.url.clone());
    let mut body = response.into_reader();
    if begins_at < offset {
        let skipped = io::copy(&mut body.by_ref().take(offset), &mut io::sink());
        let source = match skipped {
            Ok(skipped) if skipped == offset => None,
            Ok(_) => Some(Failure::Eof),
            Err(error) => Some(of_io(error)),
        };
        if let Some(source) = source {
            return Err(Error::Request {
                method,
                url: url.to_string(),
                source,
            });
        }
    }
    Ok(Opened { body, url, size })
}

/// The first byte of `bytes 10-19/20`.
fn range_begin(value: &str) -> Option<u64> {
    let (begin, _) = value.trim().strip_prefix("bytes ")?.split_once('-')?;
    begin.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(range_begin("bytes 10-19/20"), Some(10));
        assert_eq!(range_begin("bytes */20"), None);
        assert_eq!(range_begin("10-19/20"), None);
    }
}
