//! One request and its answer, over connections that are kept for the next.
//!
//! The library does HTTP/1.1; redirects, repetitions and errors are done here. Redirects are
//! followed by hand because two things must not be left to a library: `Authorization` goes to the
//! registry's own scheme, host and port and nowhere else, and how far another host is trusted is
//! looked up for that host. A redirect to plain HTTP is followed without credentials, as Docker
//! does: what comes is checked by its digest.
//!
//! An answer of 429 or 503 is waited out when the server says how long and it is not too long
//! ([`WAIT_MAX`]), or a few times with a pause that doubles. A request that can be sent again is
//! sent again once when its connection breaks, which a kept one may have done before: each of them
//! may be repeated, for whoever begins an upload twice has two, of which one is forgotten.
//!
//! A registry that refuses an upload need not read it to its end. Its answer is looked for where the
//! connection breaks, and what was not sent yet is not read either.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ureq::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, LOCATION, PROXY_AUTHORIZATION, RETRY_AFTER,
};
use ureq::http::{HeaderMap, HeaderValue, Method, StatusCode};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector, SocksConnector};
use ureq::{Agent, AsSendBody, Body, BodyReader, Proxy, SendBody};

use super::cancel::Cancel;
use super::config::{Rules, Trust};
use super::error::Error;
use super::failure::{Failure, of_io, of_library};
use super::forward::{self, Forwarder};
use super::proxy::Proxies;
use super::secure::Secure;
use super::tls::{HostRoots, Identity};
use super::transport::{Dialer, Lookup, begin_request, is_unheard};
use super::url::{Scheme, Url};

/// Longest chain of redirects; Go's.
const REDIRECTS: usize = 10;
/// Longest pause that a server may ask for.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often a busy server is asked again.
const BUSY_ATTEMPTS: u32 = 4;
/// First pause where the server names none; doubled each time.
const BUSY_PAUSE: Duration = Duration::from_millis(500);
/// Longest time for connecting, TLS's greetings included.
const CONNECT: Duration = Duration::from_secs(40);
/// Longest wait for an answer to begin.
pub(super) const ANSWER: Duration = Duration::from_secs(60);
/// Longest wait for the answers of Docker's impatient requests: pings and tokens.
pub(super) const SHORT: Duration = Duration::from_secs(15);
/// Longest wait for an upload to be taken in: registries copy it to where it is kept.
pub(super) const COMMIT: Duration = Duration::from_secs(600);
/// Each of a connection's buffers, in bytes.
const BUFFER: usize = 64 << 10;
/// Longest body of an error that is read.
const ERROR_MAX: u64 = 64 << 10;

/// What a request carries.
pub(super) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    Stream {
        reader: &'a mut dyn Read,
        length: Option<u64>,
    },
}

/// A request.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: Vec<(&'static str, String)>,
    /// Sent to the origin of `url` only.
    pub(super) authorization: Option<String>,
    pub(super) payload: Payload<'a>,
    /// The payload is a secret of its receiver's: no redirect takes it anywhere else.
    pub(super) confidential: bool,
    /// Longest wait for the answer to begin.
    pub(super) wait: Duration,
    /// Goes by a connection that nothing went by before, and nothing goes by after.
    pub(super) alone: bool,
}

impl Request<'_> {
    pub(super) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: Vec::new(),
            authorization: None,
            payload: Payload::None,
            confidential: false,
            wait: ANSWER,
            alone: false,
        }
    }
}

/// An answer whose body has not been read.
pub(super) struct Response {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Whose answer it is, after redirects.
    pub(super) url: Url,
    /// As Go names it in errors.
    pub(super) method: String,
    body: Body,
}

impl Response {
    /// A field's value, if it is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body's length, where the server tells.
    pub(super) fn length(&self) -> Option<u64> {
        self.headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok())
    }

    /// `404 Not Found`.
    pub(super) fn status_text(&self) -> String {
        status_text(self.status)
    }

    /// The body's beginning: all of it unless it is longer than `limit`.
    pub(super) fn read(self, limit: u64) -> Result<(Vec<u8>, bool), Error> {
        let (method, url) = (self.method.clone(), self.url.to_string());
        let mut bytes = Vec::new();
        self.into_reader()
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::Request {
                method,
                url,
                source: of_io(error),
            })?;
        let whole = bytes.len() as u64 <= limit;
        bytes.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok((bytes, whole))
    }

    /// The body's beginning, as much as an error needs, whatever becomes of the connection.
    pub(super) fn read_error(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A body that breaks off says what it said.
        let _ = self.into_reader().take(ERROR_MAX).read_to_end(&mut bytes);
        bytes
    }

    /// The body as a stream.
    pub(super) fn into_reader(self) -> BodyReader<'static> {
        self.body.into_with_config().limit(u64::MAX).reader()
    }
}

pub(super) fn status_text(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

/// The connections of one repository's or one login's requests.
pub(super) struct Http {
    shared: Arc<Shared>,
    cancel: Cancel,
    /// The registry that this is about: the host that client certificates are for.
    own: String,
    identity: Identity,
    ways: Mutex<HashMap<Goal, Way>>,
}

/// A host, and whether each request has a connection of its own.
type Goal = (Scheme, String, bool);

/// How a host is reached.
#[derive(Clone)]
struct Way {
    agent: Agent,
    /// What a proxy that is sent whole requests is told of who asks.
    proxy_proof: Option<String>,
}

/// What all of a configuration's connections have in common.
pub(super) struct Shared {
    pub(super) rules: Rules,
    pub(super) proxies: Proxies,
    pub(super) user_agent: String,
    pub(super) roots: HostRoots,
}

impl Http {
    pub(super) fn new(shared: Arc<Shared>, identity: Identity, own: &str, cancel: Cancel) -> Self {
        Self {
            shared,
            cancel,
            own: own.to_ascii_lowercase(),
            identity,
            ways: Mutex::default(),
        }
    }

    /// Sends a request until there is an answer worth having.
    pub(super) fn send(&self, mut request: Request<'_>) -> Result<Response, Error> {
        let mut pause = BUSY_PAUSE;
        let mut attempt = 1;
        loop {
            let response = self.follow(&mut request)?;
            let busy = matches!(
                response.status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            );
            let repeatable = !matches!(request.payload, Payload::Stream { .. });
            if !busy || !repeatable || attempt == BUSY_ATTEMPTS {
                return Ok(response);
            }
            let asked = response
                .headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.trim().parse().ok())
                .map(Duration::from_secs);
            if asked.is_some_and(|asked| asked > WAIT_MAX) {
                return Ok(response);
            }
            drop(response);
            self.cancel
                .sleep(asked.unwrap_or_else(|| jittered(pause)))?;
            pause *= 2;
            attempt += 1;
        }
    }

    fn follow(&self, request: &mut Request<'_>) -> Result<Response, Error> {
        let origin = request.url.clone();
        let mut url = origin.clone();
        let method = go_name(&request.method);
        for _ in 0..=REDIRECTS {
            let failed = |source: Failure| match source {
                Failure::Cancelled => Error::Cancelled,
                source => Error::Request {
                    method: method.clone(),
                    url: url.to_string(),
                    source,
                },
            };
            let credentials = url.same_origin(&origin);
            let response = self.once(request, &url, credentials)?;
            let follows = match response.status {
                StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
                    matches!(request.method, Method::GET | Method::HEAD)
                }
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
                    !matches!(request.payload, Payload::Stream { .. })
                }
                _ => false,
            };
            let location = response.headers.get(LOCATION).filter(|_| follows);
            let Some(location) = location else {
                return Ok(response);
            };
            let text = String::from_utf8_lossy(location.as_bytes());
            let next = url
                .join(&text)
                .filter(|next| !request.confidential || next.same_origin(&origin))
                .ok_or_else(|| failed(Failure::Redirect(text.chars().take(200).collect())))?;
            url = next;
        }
        Err(Error::Request {
            method,
            url: url.to_string(),
            source: Failure::Redirects(REDIRECTS),
        })
    }

    fn once(
        &self,
        request: &mut Request<'_>,
        url: &Url,
        credentials: bool,
    ) -> Result<Response, Error> {
        let method = go_name(&request.method);
        let mut again = !matches!(request.payload, Payload::Stream { .. });
        loop {
            self.cancel.check()?;
            let mut source_error = None;
            let sent = self.attempt(request, url, credentials, &mut source_error);
            if let Some(error) = source_error {
                return Err(Error::Source(error));
            }
            let source = match sent {
                Ok(response) => return Ok(response),
                Err(Failure::Cancelled) => return Err(Error::Cancelled),
                Err(failure) => failure,
            };
            if again && matches!(source, Failure::Eof | Failure::Broken(_)) {
                again = false;
                continue;
            }
            return Err(Error::Request {
                method,
                url: url.to_string(),
                source,
            });
        }
    }

    fn attempt(
        &self,
        request: &mut Request<'_>,
        url: &Url,
        credentials: bool,
        source_error: &mut Option<io::Error>,
    ) -> Result<Response, Failure> {
        let invalid = || Failure::Redirect(url.to_string());
        let mut head = ureq::http::Request::builder()
            .method(request.method.clone())
            .uri(url.uri().ok_or_else(invalid)?);
        for (name, value) in &request.headers {
            head = head.header(*name, value);
        }
        if let Some(authorization) = request.authorization.as_ref().filter(|_| credentials) {
            head = head.header(AUTHORIZATION, secret(authorization)?);
        }
        let Way { agent, proxy_proof } = self.way(url, request.alone)?;
        if request.alone {
            head = head.header(CONNECTION, "close");
        }
        if let Some(proof) = proxy_proof {
            head = head.header(PROXY_AUTHORIZATION, secret(&proof)?);
        }
        let (reader, length): (&mut dyn Read, _) = match &mut request.payload {
            Payload::None => return answered(run(&agent, head, (), request.wait)?, request, url),
            Payload::Bytes(bytes) => {
                let length = bytes.len() as u64;
                (&mut { *bytes }, Some(length))
            }
            Payload::Stream { reader, length } => (*reader, *length),
        };
        if let Some(length) = length {
            head = head.header(CONTENT_LENGTH, length);
        }
        let mut watched = Watched {
            reader,
            left: length,
            error: source_error,
        };
        let response = run(
            &agent,
            head,
            SendBody::from_reader(&mut watched),
            request.wait,
        )?;
        if is_unheard() && response.status().is_success() {
            return Err(Failure::Eof);
        }
        answered(response, request, url)
    }

    /// The way to a host: its connections, its trust, its proxy.
    fn way(&self, url: &Url, alone: bool) -> Result<Way, Failure> {
        let key = (url.scheme, url.authority.clone(), alone);
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(way) = ways.get(&key) {
            return Ok(way.clone());
        }
        let trust = self.shared.rules.trust(&url.authority, |host| {
            Lookup::new(self.cancel.clone(), Vec::new()).of(host)
        });
        let proxy = match self.shared.proxies.of(url) {
            Some(text) => {
                // It looks names up itself, as Go has it.
                let text = match text.strip_prefix("socks5://") {
                    Some(rest) => format!("socks5h://{rest}"),
                    None => text,
                };
                Some(Proxy::new(&text).map_err(|error| Failure::Proxy(error.to_string()))?)
            }
            None => None,
        };
        let only = match &trust {
            Trust::InsecureAddress(networks) if proxy.is_none() => networks.clone(),
            _ => Vec::new(),
        };
        let verify = trust == Trust::Verified;
        let own = url.authority == self.own;
        let tls = self.identity.config(&self.shared.roots, verify, own);
        let tls = tls.map_err(|error| Failure::Tls(error.to_string()))?;
        let forwarded = proxy.as_ref().filter(|_| url.scheme == Scheme::Http);
        let proxy_proof = forwarded.and_then(forward::proof);
        let connector = ()
            .chain(SocksConnector::default())
            .chain(Forwarder {
                direct: self.config(None),
            })
            .chain(ConnectProxyConnector::default())
            .chain(Dialer {
                cancel: self.cancel.clone(),
            })
            .chain(Secure(tls));
        let resolver = Lookup::new(self.cancel.clone(), only);
        let agent = Agent::with_parts(self.config(proxy), connector, resolver);
        let way = Way { agent, proxy_proof };
        ways.insert(key, way.clone());
        Ok(way)
    }

    fn config(&self, proxy: Option<Proxy>) -> ureq::config::Config {
        Agent::config_builder()
            .proxy(proxy)
            .user_agent(self.shared.user_agent.clone())
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(16)
            .max_idle_connections_per_host(8)
            .max_idle_age(Duration::from_secs(30))
            .max_response_header_size(64 << 10)
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .timeout_connect(Some(CONNECT))
            .build()
    }
}

fn secret(text: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Failure::Malformed("invalid credentials".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn run(
    agent: &Agent,
    head: ureq::http::request::Builder,
    body: impl AsSendBody,
    wait: Duration,
) -> Result<ureq::http::Response<Body>, Failure> {
    let head = head
        .body(body)
        .map_err(|error| Failure::Malformed(error.to_string()))?;
    let head = agent
        .configure_request(head)
        .timeout_recv_response(Some(wait))
        .build();
    begin_request();
    agent.run(head).map_err(of_library)
}

fn answered(
    response: ureq::http::Response<Body>,
    request: &Request<'_>,
    url: &Url,
) -> Result<Response, Failure> {
    let (parts, body) = response.into_parts();
    Ok(Response {
        status: parts.status,
        headers: parts.headers,
        url: url.clone(),
        method: go_name(&request.method),
        body,
    })
}

/// Tells a source that fails, or ends before its length, from a connection that does. Once nobody
/// listens it is not read any more; what was promised of it is zeros, which go nowhere.
struct Watched<'a> {
    reader: &'a mut dyn Read,
    left: Option<u64>,
    error: &'a mut Option<io::Error>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = self.left.map_or(buffer.len(), |left| {
            buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX))
        });
        if is_unheard() {
            let rest = self.left.map_or(0, |_| most);
            buffer[..rest].fill(0);
            self.left = self.left.map(|left| left.saturating_sub(rest as u64));
            return Ok(rest);
        }
        let outcome = match self.reader.read(&mut buffer[..most]) {
            Ok(0) if most > 0 && self.left.is_some() => Err(io::ErrorKind::UnexpectedEof.into()),
            outcome => outcome,
        };
        match outcome {
            Ok(length) => {
                self.left = self.left.map(|left| left.saturating_sub(length as u64));
                Ok(length)
            }
            Err(error) => {
                let kind = error.kind();
                *self.error = Some(error);
                Err(kind.into())
            }
        }
    }
}

/// `Get`, `Head`.
pub(super) fn go_name(method: &Method) -> String {
    let lower = method.as_str().to_ascii_lowercase();
    let mut name = lower;
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    name
}

/// A pause between half of `pause` and all of it, so that many clients do not come back at once.
pub(super) fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without random numbers the pause is merely as long as everybody's.
    let _ = getrandom::fill(&mut byte);
    pause / 2 + pause / 2 * u32::from(byte[0]) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_within_bounds() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(2));
            assert!((Duration::from_secs(1)..=Duration::from_secs(2)).contains(&pause));
        }
        assert_eq!(go_name(&Method::HEAD), "Head");
    }
}
