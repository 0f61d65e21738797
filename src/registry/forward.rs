//! Plain HTTP through a proxy: a request line with the whole URL (RFC 9112 §3.2.2).
//!
//! The HTTP library opens a tunnel (`CONNECT`) to whatever it speaks to, and many proxies allow that
//! to port 443 alone. Go tunnels TLS and nothing else. So for `http` [`Forwarder`] takes the place of
//! the library's connector: it connects to the proxy, over TLS where the proxy's own URL says so,
//! and puts scheme and host before the path of each request that passes. What a proxy wants to be
//! told of who asks ([`proof`]) is then a field of the request itself; with a tunnel it is the
//! library's business. A connection serves one host, as the library keeps them by host.
//!
//! Requests are told apart by what follows them: a connection is written to again only once an
//! answer was read. The library writes the request line, whole, before anything else.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ureq::config::Config;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, NextTimeout, Transport,
};
use ureq::{Proxy, ProxyProtocol};

use super::failure::{Failure, of_library};

/// Connects to a proxy that is to fetch what is asked for by plain HTTP.
#[derive(Debug)]
pub(super) struct Forwarder {
    /// How the proxy itself is reached: the connection's configuration without a proxy.
    pub(super) direct: Config,
}

impl<In: Transport> Connector<In> for Forwarder {
    type Out = Either<In, Forwarded>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        if let Some(transport) = chained {
            return Ok(Some(Either::A(transport)));
        }
        let proxy = details.config.proxy().filter(|proxy| forwards(proxy));
        let (Some(proxy), false) = (proxy, details.needs_tls()) else {
            return Ok(None);
        };
        let (uri, timeout) = (proxy.uri(), details.timeout);
        let found = details.resolver.resolve(uri, &self.direct, timeout);
        let to_proxy = ConnectionDetails {
            uri,
            addrs: found.map_err(by_proxy)?,
            config: &self.direct,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        let connection = (details.run_connector)(&to_proxy).map_err(by_proxy)?;
        let host = details.uri.authority().map_or("", |host| host.as_str());
        Ok(Some(Either::B(Forwarded {
            connection,
            origin: format!("http://{host}"),
            begins: true,
        })))
    }
}

/// Whether a proxy speaks HTTP, so that it can be asked to fetch something.
fn forwards(proxy: &Proxy) -> bool {
    matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https)
}

/// As Go tells that the proxy itself cannot be reached.
fn by_proxy(error: ureq::Error) -> ureq::Error {
    let failure = match of_library(error) {
        Failure::Cancelled => Failure::Cancelled,
        other => Failure::Proxy(other.to_string()),
    };
    ureq::Error::Other(Box::new(failure))
}

/// The value of `Proxy-Authorization`, where the proxy's URL names somebody.
pub(super) fn proof(proxy: &Proxy) -> Option<String> {
    let (user, password) = (proxy.username(), proxy.password());
    if !forwards(proxy) || (user.is_none() && password.is_none()) {
        return None;
    }
    let text = format!("{}:{}", user.unwrap_or(""), password.unwrap_or(""));
    Some(format!("Basic {}", BASE64_STANDARD.encode(text)))
}

/// A connection to a proxy.
#[derive(Debug)]
pub(super) struct Forwarded {
    connection: Box<dyn Transport>,
    /// `http://HOST:PORT`.
    origin: String,
    /// Whether what is written next begins with a request line.
    begins: bool,
}

impl Forwarded {
    /// Writes `bytes` by way of the connection's buffer, which may be smaller.
    fn write(&mut self, mut bytes: &[u8], timeout: NextTimeout) -> Result<(), ureq::Error> {
        while !bytes.is_empty() {
            let buffer = self.connection.buffers().output();
            let amount = bytes.len().min(buffer.len());
            let (now, rest) = bytes.split_at(amount);
            buffer[..amount].copy_from_slice(now);
            self.connection.transmit_output(amount, timeout)?;
            bytes = rest;
        }
        Ok(())
    }
}

impl Transport for Forwarded {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.connection.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        if !std::mem::take(&mut self.begins) {
            return self.connection.transmit_output(amount, timeout);
        }
        let written = self.connection.buffers().output()[..amount].to_vec();
        let method = written.iter().position(|byte| *byte == b' ');
        let (method, rest) = written.split_at(method.map_or(0, |space| space + 1));
        self.write(&[method, self.origin.as_bytes(), rest].concat(), timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.begins = true;
        self.connection.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.connection.is_open()
    }
}
