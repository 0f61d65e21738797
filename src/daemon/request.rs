//! A request as handlers see it: version, name, parameters, and the body in the forms they need.
//!
//! JSON bodies are held to Docker's rules: an absent body needs no `Content-Type` and is no error;
//! any other must be `application/json`; what follows the value is refused. They are bounded
//! ([`JSON_LIMIT`]). Archives are read by a thread of its own through [`BodyReader`].

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use crate::api::json;
use crate::api::version::ApiVersion;

use super::answer::Failure;
use super::peer::{Client, Ended};
use super::query::Query;

/// The largest JSON body or form, in bytes. Docker's create requests are a few KiB.
pub const JSON_LIMIT: usize = 16 * 1024 * 1024;

/// At most this many bytes of a body that nobody wants are read.
pub const DISCARD_LIMIT: u64 = 1 << 30;

/// How long reading such a body may take.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// One request.
#[derive(Debug)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// The version of the API that it speaks.
    pub version: ApiVersion,
    /// The variable part of its path: a container, an image.
    pub name: String,
    /// Its parameters.
    pub query: Query,
    /// Its header.
    pub headers: HeaderMap,
    body: Unread,
    client: Client,
}

/// A request's body until somebody reads it. The dispatcher keeps a share, as what a handler left
/// unread must be read before the answer: the client may still be sending it, and would be cut
/// off before it learns why.
#[derive(Debug, Clone)]
pub struct Unread(Arc<Mutex<Option<Incoming>>>);

impl Unread {
    /// Shares a body.
    pub fn new(body: Incoming) -> Unread {
        Unread(Arc::new(Mutex::new(Some(body))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Incoming>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Incoming> {
        self.lock().take()
    }

    /// Reads what nobody has read, within [`DISCARD_LIMIT`] and [`DISCARD_TIME`].
    pub async fn discard(&self) {
        let Some(mut body) = self.take() else { return };
        let mut left = DISCARD_LIMIT;
        let reading = async {
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                left = left.saturating_sub(length);
                if left == 0 {
                    return;
                }
            }
        };
        if tokio::time::timeout(DISCARD_TIME, reading).await.is_err() {
            tracing::debug!("gave up on a body that nobody wants");
        }
    }
}

impl Request {
    /// Puts a request together.
    pub fn new(
        method: Method,
        version: ApiVersion,
        name: String,
        query: Query,
        (headers, body): (HeaderMap, Unread),
        client: Client,
    ) -> Request {
        Request {
            method,
            version,
            name,
            query,
            headers,
            body,
            client,
        }
    }

    /// Whether this is at least version 1.`minor`.
    pub fn since(&self, minor: u16) -> bool {
        self.version.at_least(minor)
    }

    /// Whether the client asks to leave HTTP properly (`Upgrade: tcp`).
    pub fn wants_upgrade(&self) -> bool {
        self.headers.contains_key(UPGRADE)
    }

    /// Something that resolves when the client hangs up or the daemon stops.
    pub fn ended(&self) -> Result<Ended, Failure> {
        self.client
            .ended()
            .map_err(|error| Failure::internal(format!("cannot watch the connection: {error}")))
    }

    /// Adds the parameters of a form in the body, if there is one, in front of the others.
    pub async fn read_form(&mut self) -> Result<(), Failure> {
        let kind = self.content_type().unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Ok(());
        }
        let body = self.bytes().await?;
        let mut query = Query::parse(&String::from_utf8_lossy(&body))?;
        query.append(std::mem::take(&mut self.query));
        self.query = query;
        Ok(())
    }

    /// The body as JSON; `None` where there is no body.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        self.check_json()?;
        if self.is_empty() {
            return Ok(None);
        }
        let body = self.bytes().await?;
        parse(&body).map(Some)
    }

    /// The body as JSON, which must be there: a body with nothing in it is no JSON.
    pub async fn required_json<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        self.check_json()?;
        let body = self.bytes().await?;
        if body.trim_ascii().is_empty() {
            return Err(Failure::bad_request("invalid JSON: EOF"));
        }
        parse(&body)
    }

    /// The whole body.
    pub async fn bytes(&mut self) -> Result<Bytes, Failure> {
        let Some(body) = self.body.take() else {
            return Ok(Bytes::new());
        };
        let body = http_body_util::Limited::new(body, JSON_LIMIT);
        match body.collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Failure::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("request body is larger than {JSON_LIMIT} bytes"),
            )),
            Err(error) => Err(Failure::bad_request(format!(
                "cannot read the request body: {error}"
            ))),
        }
    }

    /// The body for a thread of its own.
    pub fn reader(&mut self) -> BodyReader {
        BodyReader {
            body: self.body.take(),
            piece: Bytes::new(),
            runtime: Handle::current(),
        }
    }

    /// The body's length, where the header tells it.
    pub fn length(&self) -> Option<u64> {
        let body = self.body.lock();
        body.as_ref()?.size_hint().exact()
    }

    /// Whether the header says that there is no body.
    fn is_empty(&self) -> bool {
        let chunked = self.headers.contains_key(TRANSFER_ENCODING);
        !chunked && self.length().unwrap_or(0) == 0
    }

    fn content_type(&self) -> Option<&str> {
        self.headers.get(CONTENT_TYPE)?.to_str().ok()
    }

    /// Refuses a body that does not say that it is JSON.
    fn check_json(&self) -> Result<(), Failure> {
        let kind = self.content_type().unwrap_or("");
        if kind.is_empty() && self.is_empty() {
            return Ok(());
        }
        if kind.trim().is_empty() {
            return Err(Failure::bad_request(
                "malformed Content-Type header (): mime: no media type",
            ));
        }
        let media = kind.split(';').next().unwrap_or("").trim();
        if media.eq_ignore_ascii_case("application/json") {
            return Ok(());
        }
        Err(Failure::bad_request(format!(
            "unsupported Content-Type header ({kind}): must be 'application/json'"
        )))
    }
}

/// Reads one JSON value and nothing behind it.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    if body.trim_ascii().is_empty() {
        return Err(Failure::bad_request(
            "invalid JSON: got EOF while reading request body",
        ));
    }
    json::from_slice(body).map_err(|error| Failure::bad_request(error.to_string()))
}

/// A request's body for blocking code. Must be read on a thread that is none of the runtime's
/// workers.
#[derive(Debug)]
pub struct BodyReader {
    body: Option<Incoming>,
    piece: Bytes,
    runtime: Handle,
}

impl io::Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let Some(body) = self.body.as_mut() else {
                return Ok(0);
            };
            match self.runtime.block_on(body.frame()) {
                None => self.body = None,
                Some(Ok(frame)) => self.piece = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    self.body = None;
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, error));
                }
            }
        }
        let count = self.piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn message(body: &str) -> String {
        parse::<Value>(body.as_bytes())
            .expect_err("must be refused")
            .message
    }

    #[test]
    fn one_value_and_no_more() {
        assert_eq!(
            parse::<Value>(b" {\"a\": 1} \n").expect("valid"),
            serde_json::json!({"a": 1})
        );
        assert_eq!(message("{} {}"), "unexpected content after JSON");
        assert_eq!(message("{}x"), "unexpected content after JSON");
        assert_eq!(message("{"), "invalid JSON: unexpected EOF");
        assert_eq!(
            message(""),
            "invalid JSON: got EOF while reading request body"
        );
        assert_eq!(
            message(" \n"),
            "invalid JSON: got EOF while reading request body"
        );
        assert_eq!(
            message("{x}"),
            "invalid JSON: invalid character 'x' looking for beginning of object key string"
        );
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse::<Value>(&body);
        }
    }
}
