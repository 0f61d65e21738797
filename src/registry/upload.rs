//! Uploads of blobs: the other half of a push.
//!
//! ```text
//!  POST uploads/ ─202─▶ Upload ──append (PATCH)──▶ … ──commit (PUT ?digest=)──▶ stored
//!       │ ?mount=                 │ broken: status (GET) tells how far it came
//!       └─201─▶ mounted           └ unknown by now: begun anew
//! ```
//!
//! The registry names the next address in every answer (`Location`), which may be on another host;
//! proof goes only to the registry itself. Nothing of a blob is kept: whoever pushes says how to
//! read it from an offset on ([`Content`]), so that an interrupted upload goes on from where the
//! registry is. Length and digest may be unknown until the end, as of what is compressed on the way.
//! In how many requests the bytes go, and what is done when one fails, is told in `sending`.

mod sending;

use std::io::{self, Read};
use std::sync::Arc;

use ureq::http::{Method, StatusCode};

use super::answer::refused;
use super::error::Error;
use super::http::{COMMIT, Payload, Request, Response};
use super::patience::Retrying;
use super::place::{Inner, Place};
use super::repository::{Repository, content_digest};
use super::url::Url;
use crate::types::digest::Digest;
use crate::types::reference::Reference;

/// What became of the wish to take a blob over from another repository of the registry.
pub enum Mount {
    /// It is there now.
    Mounted,
    /// The registry would rather have the bytes.
    Upload(Upload),
}

/// What is uploaded: bytes that can be read more than once, and are the same each time.
pub trait Content {
    /// How many they are, where that is known before they have been read.
    fn size(&self) -> Option<u64>;

    /// Reads them from `offset` on, which is never beyond what was read before.
    fn open(&mut self, offset: u64) -> io::Result<Box<dyn Read + '_>>;

    /// Their digest, once they have been read to their end.
    fn digest(&mut self) -> Result<Digest, Error>;
}

/// Bytes whose digest and number are known.
struct Known<F> {
    digest: Digest,
    size: u64,
    open: F,
}

impl<F: FnMut(u64) -> io::Result<Box<dyn Read>>> Content for Known<F> {
    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    fn open(&mut self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        (self.open)(offset).map(|reader| reader as Box<dyn Read>)
    }

    fn digest(&mut self) -> Result<Digest, Error> {
        Ok(self.digest)
    }
}

/// A blob that is being uploaded.
pub struct Upload {
    inner: Arc<Inner>,
    place: usize,
    location: Url,
    /// What the registry is known to have.
    offset: u64,
    /// The smallest piece that the registry takes (`OCI-Chunk-Min-Length`).
    least: u64,
}

impl Repository {
    /// Begins an upload.
    pub fn upload(&self) -> Result<Upload, Error> {
        match self.begin(None)? {
            Mount::Upload(upload) => Ok(upload),
            Mount::Mounted => Err(self.odd("it stored a blob that nobody sent")),
        }
    }

    /// Takes a blob over from another repository of the same registry, if the registry lets us.
    pub fn mount(&self, digest: Digest, from: &Reference) -> Result<Mount, Error> {
        self.begin(Some((digest, from.path())))
    }

    /// Stores a blob whose bytes can be read from any offset on, resuming as often as is needed.
    pub fn push_blob(
        &self,
        digest: Digest,
        size: u64,
        open: impl FnMut(u64) -> io::Result<Box<dyn Read>>,
    ) -> Result<(), Error> {
        let mut content = Known { digest, size, open };
        self.upload()?.send(&mut content, &mut |_| ()).map(drop)
    }

    fn begin(&self, mount: Option<(Digest, &str)>) -> Result<Mount, Error> {
        let first = self.inner.first();
        let (place, (response, url)) = self.inner.places_from(first, |place| {
            let mut url = place.url(&self.inner.path("blobs/uploads/"));
            if let Some((digest, from)) = mount {
                // Docker's order, and its encoder's.
                url = url
                    .with_query("from", from)
                    .with_query("mount", &digest.to_string());
            }
            let response = place.send(mount.map(|(_, from)| from), || {
                let mut request = Request::new(Method::POST, url.clone());
                request.payload = Payload::Bytes(&[]);
                request
            })?;
            match response.status {
                StatusCode::CREATED if mount.is_some() => Ok((response, url)),
                StatusCode::ACCEPTED => Ok((response, url)),
                _ => Err(refused(response)),
            }
        })?;
        if response.status == StatusCode::CREATED {
            return Ok(Mount::Mounted);
        }
        let mut upload = Upload {
            inner: Arc::clone(&self.inner),
            place,
            location: url,
            offset: 0,
            least: response
                .header("oci-chunk-min-length")
                .and_then(|length| length.trim().parse().ok())
                .unwrap_or_default(),
        };
        if !upload.moves(&response) {
            return Err(self.odd("it gave no address for an upload"));
        }
        Ok(Mount::Upload(upload))
    }

    fn odd(&self, reason: &str) -> Error {
        Error::Protocol {
            registry: self.reference().domain().to_owned(),
            reason: reason.to_owned(),
        }
    }
}

impl Upload {
    fn place(&self) -> &Place {
        &self.inner.places[self.place]
    }

    /// Takes the next address from an answer; whether there was one.
    fn moves(&mut self, response: &Response) -> bool {
        let next = response
            .header("location")
            .and_then(|location| response.url.join(location));
        let moved = next.is_some();
        if let Some(next) = next {
            self.location = next;
        }
        moved
    }

    /// Sends bytes after those that the registry has; `length` where it is known. A `piece` is one of
    /// several: it says where it belongs, and goes by a connection of its own.
    fn append(
        &mut self,
        reader: &mut dyn Read,
        length: Option<u64>,
        piece: bool,
    ) -> Result<(), Stop> {
        let mut counted = Counted { reader, count: 0 };
        let mut request = Request::new(Method::PATCH, self.location.clone());
        request
            .headers
            .push(("content-type", "application/octet-stream".into()));
        if let Some(length) = length.filter(|length| *length > 0 && (piece || self.offset > 0)) {
            let end = self.offset + length - 1;
            request
                .headers
                .push(("content-range", format!("{}-{end}", self.offset)));
        }
        request.payload = Payload::Stream {
            reader: &mut counted,
            length,
        };
        request.wait = COMMIT;
        request.alone = piece;
        let response = self.inner.places[self.place].send_once(request);
        let response = response.map_err(|error| match error.is_transient() {
            true => Stop::Cut(error),
            false => Stop::Other(error),
        })?;
        match response.status {
            status if status.is_success() => {}
            StatusCode::PAYLOAD_TOO_LARGE => return Err(Stop::TooLarge(refused(response))),
            // A proxy's word for a slow body is no refusal.
            StatusCode::REQUEST_TIMEOUT => return Err(Stop::Cut(refused(response))),
            status if status.is_server_error() => return Err(Stop::Cut(refused(response))),
            _ => return Err(Stop::Refused(refused(response))),
        }
        self.moves(&response);
        let sent = self.offset + counted.count;
        // `0-0` is none or one (see `range_end`).
        let has = match response.header("range").and_then(range_end) {
            Some(end) if end > 0 || sent > 1 => end,
            _ => sent,
        };
        if has != sent {
            // What it has after all is for its status to say.
            self.offset = 0;
            let text = format!("500 upload at {has} of {sent} bytes");
            return Err(Stop::Other(Error::Status(text)));
        }
        self.offset = sent;
        Ok(())
    }

    /// Asks the registry how far it is. What it has acknowledged it has: docker-registry 2 knows no
    /// better than to say that it has nothing, and names an address that it would not take then.
    fn status(&mut self) -> Result<(), Error> {
        let response = self
            .place()
            .send(None, || Request::new(Method::GET, self.location.clone()))?;
        if !response.status.is_success() {
            return Err(refused(response));
        }
        let offset = response.header("range").and_then(range_end);
        let offset = offset.unwrap_or_default();
        if offset >= self.offset {
            self.moves(&response);
            self.offset = offset;
        }
        Ok(())
    }

    /// Finishes: the registry checks the digest and stores the blob.
    fn commit(&self, digest: Digest) -> Result<(), Error> {
        let url = self.location.with_query("digest", &digest.to_string());
        let mut request = Request::new(Method::PUT, url);
        request
            .headers
            .push(("content-type", "application/octet-stream".into()));
        request.payload = Payload::Bytes(&[]);
        request.wait = COMMIT;
        let response = self.place().send_once(request)?;
        if !response.status.is_success() {
            return Err(refused(response));
        }
        match content_digest(&response) {
            Some(stored) if stored.algorithm() == digest.algorithm() && stored != digest => {
                Err(Error::BlobDigest(digest))
            }
            _ => Ok(()),
        }
    }

    /// Gives the upload up; the registry forgets it.
    pub fn abandon(self) -> Result<(), Error> {
        let response = self
            .place()
            .send(None, || Request::new(Method::DELETE, self.location.clone()))?;
        if response.status.is_success() || response.status == StatusCode::NOT_FOUND {
            Ok(())
        } else {
            Err(refused(response))
        }
    }

    /// Sends everything and finishes, resuming as often as is needed; the digest. `retrying` is told
    /// of every pause before another attempt.
    pub fn send(self, content: &mut dyn Content, retrying: Retrying<'_>) -> Result<Digest, Error> {
        sending::send(self, content, retrying)
    }
}

/// Why something of an upload was not done.
enum Stop {
    /// The connection broke under a body, or whoever took it failed.
    Cut(Error),
    /// A body is longer than somebody on the way lets through.
    TooLarge(Error),
    /// A body was refused for another reason.
    Refused(Error),
    /// It was not a body.
    Other(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

struct Counted<'a> {
    reader: &'a mut dyn Read,
    count: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.count += length as u64;
        Ok(length)
    }
}

/// The number of bytes that `0-9` means. `0-0` is written for no bytes and for one: taken for none,
/// and the one is sent again.
fn range_end(value: &str) -> Option<u64> {
    let value = value.trim();
    let value = value.strip_prefix("bytes=").unwrap_or(value);
    let (begin, end) = value.split_once('-')?;
    let end: u64 = end.parse().ok()?;
    match (begin, end) {
        ("0", 0) => Some(0),
        ("0", end) => end.checked_add(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(range_end("0-0"), Some(0));
        assert_eq!(range_end("0-9"), Some(10));
        assert_eq!(range_end("bytes=0-9"), Some(10));
        assert_eq!(range_end("5-9"), None);
        assert_eq!(range_end(&format!("0-{}", u64::MAX)), None);
        assert_eq!(range_end("x"), None);
    }
}
