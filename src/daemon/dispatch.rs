//! From an HTTP request to an endpoint and back: what every route has in common.
//!
//! ```text
//! host? ─▶ path ─▶ canonical? ─▶ endpoint? ─▶ version? ─▶ parameters ─▶ handler ─▶ answer
//!  │ 400            │ 301         │ 404        │ 400       │ 400          │ panic: 500
//! ```
//!
//! In this order, which is Docker's: a path that does not exist is "page not found" under any
//! version. Every answer carries the header fields by which clients recognise an engine and
//! negotiate (`Api-Version`, `Ostype`, `Server` …), the head of a hijacked connection too. A
//! handler that panics costs its client a 500 and nobody anything else.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, StatusCode, Version};

use crate::api::version::ApiVersion;

use super::answer::{self, Answer, Failure, Response};
use super::peer::Client;
use super::query::{self, Query};
use super::request::{Request, Unread};
use super::router::{self, Table};
use super::server::Service;
use super::version;

/// The endpoints behind the table.
pub trait Endpoints: Send + Sync + 'static {
    /// Names an endpoint.
    type Target: Copy + Send + Sync + 'static;

    /// Whether the endpoint's body is a stream that only its handler may read, so that no form is
    /// looked for in it.
    fn reads_stream(&self, target: Self::Target) -> bool;

    /// Answers a request.
    fn call(
        &self,
        target: Self::Target,
        request: Request,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send;
}

/// A table and its endpoints, as one service.
#[derive(Debug)]
pub struct Dispatcher<E: Endpoints> {
    table: Table<E::Target>,
    endpoints: E,
    /// The product and version in the `Server` field.
    server: HeaderValue,
}

impl<E: Endpoints> Dispatcher<E> {
    /// A service; `engine_version` is what `docker version` shows.
    pub fn new(table: Table<E::Target>, endpoints: E, engine_version: &str) -> Dispatcher<E> {
        let server = HeaderValue::try_from(format!("Docker/{engine_version} (linux)"));
        Dispatcher {
            table,
            endpoints,
            server: server.unwrap_or(HeaderValue::from_static("Docker")),
        }
    }

    /// The fields that every answer has.
    fn common_fields(&self) -> [(HeaderName, HeaderValue); 4] {
        let newest = HeaderValue::try_from(ApiVersion::MAX.to_string());
        [
            (
                HeaderName::from_static("api-version"),
                newest.unwrap_or(HeaderValue::from_static("")),
            ),
            (
                HeaderName::from_static("docker-experimental"),
                HeaderValue::from_static("false"),
            ),
            (
                HeaderName::from_static("ostype"),
                HeaderValue::from_static("linux"),
            ),
            (hyper::header::SERVER, self.server.clone()),
        ]
    }

    async fn route(
        &self,
        request: hyper::Request<Incoming>,
        client: Client,
    ) -> Result<Answer, (Failure, bool)> {
        let (parts, body) = request.into_parts();
        let body = Unread::new(body);
        let result = self.find_and_call(parts, body.clone(), client).await;
        body.discard().await;
        result
    }

    async fn find_and_call(
        &self,
        parts: hyper::http::request::Parts,
        body: Unread,
        client: Client,
    ) -> Result<Answer, (Failure, bool)> {
        let path = query::decode(parts.uri.path(), false).map_err(|failure| (failure, true))?;
        if let Some(canonical) = router::canonical(&path) {
            return Ok(redirection(&canonical, parts.uri.query()).into());
        }
        let Some(found) = self.table.find(&parts.method, &path) else {
            return Err((Failure::page_not_found(), false));
        };
        let plain = found.version.is_some_and(version::wants_plain_errors);
        let label = format!("{} {path}", parts.method);
        let run = async {
            let version = version::negotiate(found.version)?;
            let query = Query::parse(parts.uri.query().unwrap_or(""))?;
            let content = (parts.headers, body);
            let method = parts.method.clone();
            let name = found.name.to_owned();
            let mut request = Request::new(method, version, name, query, content, client);
            if parts.method == Method::POST && !self.endpoints.reads_stream(found.target) {
                request.read_form().await?;
            }
            caught(self.endpoints.call(found.target, request)).await
        };
        let result = run.await;
        if let Err(failure) = &result
            && failure.status.is_server_error()
            && failure.status != StatusCode::NOT_IMPLEMENTED
        {
            tracing::error!("{label}: {failure}");
        }
        result.map_err(|failure| (failure, plain))
    }
}

impl<E: Endpoints> Service for Dispatcher<E> {
    async fn answer(&self, request: hyper::Request<Incoming>, client: Client) -> Answer {
        if let Some(response) = without_one_host(&request) {
            return response.into();
        }
        let mut answer = match self.route(request, client).await {
            Ok(answer) => answer,
            Err((failure, plain)) => failure.response(plain).into(),
        };
        match &mut answer {
            Answer::Http(response) => add(response.headers_mut(), self.common_fields()),
            Answer::Hijack(hijack) => {
                for (name, value) in self.common_fields() {
                    let value = value.to_str().unwrap_or("");
                    hijack.head.push_str(title_case(name.as_str()).as_str());
                    hijack.head.push_str(": ");
                    hijack.head.push_str(value);
                    hijack.head.push_str("\r\n");
                }
                hijack.head.push_str("\r\n");
            }
        }
        answer
    }
}

/// What Go's server answers, before any of Docker's, to a request that does not name one host
/// (RFC 9112, section 3.2): text, and the end of the connection.
fn without_one_host(request: &hyper::Request<Incoming>) -> Option<Response> {
    let hosts = request.headers().get_all(HOST).iter().count();
    let text = match hosts {
        0 if request.version() == Version::HTTP_11 && request.method() != Method::CONNECT => {
            "400 Bad Request: missing required Host header"
        }
        0 | 1 => return None,
        _ => "400 Bad Request",
    };
    let mut response = answer::bytes(StatusCode::BAD_REQUEST, "text/plain; charset=utf-8", text);
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    Some(response)
}

fn add(headers: &mut HeaderMap, fields: impl IntoIterator<Item = (HeaderName, HeaderValue)>) {
    for (name, value) in fields {
        headers.insert(name, value);
    }
}

/// `api-version` as `Api-Version`.
fn title_case(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    words.collect::<Vec<_>>().join("-")
}

/// 301 to the canonical form of a path.
fn redirection(path: &str, query: Option<&str>) -> Response {
    let mut location = String::new();
    for byte in path.bytes() {
        match byte {
            b'/' | b':' | b'@' | b'-' | b'.' | b'_' | b'~' => location.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => location.push(char::from(byte)),
            _ => location.push_str(&format!("%{byte:02X}")),
        }
    }
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    let mut response = answer::empty(StatusCode::MOVED_PERMANENTLY);
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Runs a handler; a panic becomes a failure.
fn caught<F: Future<Output = Result<Answer, Failure>>>(handler: F) -> Caught<F> {
    Caught(Box::pin(handler))
}

struct Caught<F>(Pin<Box<F>>);

impl<F: Future<Output = Result<Answer, Failure>>> Future for Caught<F> {
    type Output = Result<Answer, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context)));
        // The panic hook has told the log what and where.
        polled.unwrap_or_else(|_| {
            Poll::Ready(Err(Failure::internal(
                "the engine failed to answer this request; its log says where",
            )))
        })
    }
}
