//! Names, sockets and waiting: what the HTTP library stands on.
//!
//! The library's own connector blocks in the kernel until a time-out; this one waits in slices and
//! asks the [`Cancel`] between them, bounds the silence in the middle of a body ([`IDLE`]) rather
//! than its duration, and says what went wrong in Go's words, which clients match on. Sockets are
//! non-blocking and `poll` is called only when nothing is there, so a busy transfer costs one
//! system call a buffer. Names are looked up by the C library, on a thread that is left behind if
//! it is not heard of in time: there is no way to interrupt it.
//!
//! A server that answers HTTPS with HTTP is told by its first bytes, before TLS sees them. One that
//! stops reading a request and closes the connection may have said why: what is left of the request
//! goes nowhere then ([`is_unheard`]), and the answer is looked for.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, time,
};

use super::cancel::{Cancel, SLICE};
use super::failure::{Failure, words};
use super::net::Network;

/// Longest time for any of a name's addresses to accept.
const CONNECT: Duration = Duration::from_secs(30);
/// How long an address is waited for before the next is tried beside it; Go's.
const HEAD_START: Duration = Duration::from_millis(300);
/// Longest time for a name to be looked up.
const LOOKUP: Duration = Duration::from_secs(20);
/// Longest silence in the middle of a body, or while the other side does not read.
const IDLE: Duration = Duration::from_secs(60);

/// How long a host's addresses are not looked up again: the library asks before each request, of a
/// kept connection too.
const KNOWN: Duration = Duration::from_secs(30);

/// Looks names up, for as long as nobody cancels.
#[derive(Debug)]
pub(super) struct Lookup {
    cancel: Cancel,
    /// The only addresses that may be connected to; all if empty.
    only: Vec<Network>,
    /// What was found last, and when.
    known: Mutex<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    host: String,
    port: u16,
    addresses: Vec<SocketAddr>,
    at: Instant,
}

impl Lookup {
    pub(super) fn new(cancel: Cancel, only: Vec<Network>) -> Self {
        let known = Mutex::default();
        Self {
            cancel,
            only,
            known,
        }
    }

    /// The addresses that were found of late; or what `look` finds, or what was found once, where
    /// it finds nothing: in the middle of a transfer a network that is away for a moment is no
    /// reason to end it.
    fn remembered(
        &self,
        (host, port): (&str, u16),
        now: Instant,
        look: impl FnOnce() -> Result<Vec<SocketAddr>, Failure>,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |oldest: Option<Instant>| {
            let known = lock();
            let known = known.as_ref()?;
            let fits = known.host == host && known.port == port;
            (fits && oldest.is_none_or(|oldest| known.at >= oldest))
                .then(|| known.addresses.clone())
        };
        if let Some(addresses) = now
            .checked_sub(KNOWN)
            .and_then(|oldest| known(Some(oldest)))
        {
            return Ok(addresses);
        }
        let addresses = match look() {
            Ok(addresses) => addresses,
            Err(Failure::Cancelled) => return Err(Failure::Cancelled),
            Err(failure) => return known(None).ok_or(failure),
        };
        *lock() = Some(Known {
            host: host.to_owned(),
            port,
            addresses: addresses.clone(),
            at: now,
        });
        Ok(addresses)
    }

    /// The addresses of a name.
    fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let failed = |reason: &str| Failure::Lookup {
            host: host.to_owned(),
            reason: reason.to_owned(),
        };
        let (sender, receiver) = mpsc::sync_channel(1);
        let name = host.to_owned();
        std::thread::Builder::new()
            .name("lookup".into())
            .spawn(move || {
                // Nobody may be listening any more.
                let _ = sender.send((name.as_str(), port).to_socket_addrs());
            })
            .map_err(|error| failed(&words(&error)))?;
        let end = Instant::now() + LOOKUP;
        loop {
            match receiver.recv_timeout(SLICE) {
                Ok(Ok(addresses)) => return Ok(addresses.collect()),
                Ok(Err(_)) => return Err(failed("no such host")),
                Err(_) if self.cancel.is_cancelled() => return Err(Failure::Cancelled),
                Err(_) if Instant::now() >= end => return Err(failed("i/o timeout")),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(failed("no such host")),
            }
        }
    }

    /// The addresses of a name; none if there are none.
    pub(super) fn of(&self, host: &str) -> Vec<IpAddr> {
        self.addresses(host, 0)
            .map(|found| found.iter().map(SocketAddr::ip).collect())
            .unwrap_or_default()
    }
}

impl Resolver for Lookup {
    fn resolve(
        &self,
        uri: &ureq::http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let default = if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let port = uri.port_u16().unwrap_or(default);
        let look = || self.addresses(host, port);
        let found = self.remembered((host, port), Instant::now(), look);
        let mut found = found.map_err(failed)?;
        if !self.only.is_empty() {
            found.retain(|address| self.only.iter().any(|net| net.contains(address.ip())));
        }
        if found.is_empty() {
            return Err(failed(Failure::Lookup {
                host: host.to_owned(),
                reason: "no such host".into(),
            }));
        }
        let mut addresses = self.empty();
        for address in found.into_iter().take(16) {
            addresses.push(address);
        }
        Ok(addresses)
    }
}

/// Hands a failure through the HTTP library.
fn failed(failure: Failure) -> ureq::Error {
    ureq::Error::Other(Box::new(failure))
}

/// Opens sockets, for as long as nobody cancels.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) cancel: Cancel,
}

impl<In: Transport> Connector<In> for Dialer {
    type Out = Either<In, Wire>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        // A proxy's tunnel.
        if let Some(transport) = chained {
            return Ok(Some(Either::A(transport)));
        }
        let most = match details.timeout.after {
            time::Duration::Exact(left) => left.min(CONNECT),
            time::Duration::NotHappening => CONNECT,
        };
        let addresses = interleaved(&details.addrs);
        let stream = self.dial(&addresses, most).map_err(failed)?;
        Ok(Some(Either::B(Wire {
            stream,
            buffers: LazyBuffers::new(
                details.config.input_buffer_size(),
                details.config.output_buffer_size(),
            ),
            cancel: self.cancel.clone(),
            greeting: details.needs_tls().then(Vec::new),
        })))
    }
}

impl Dialer {
    /// Connects to whichever address answers first (RFC 8305): each is tried when the one before has
    /// failed, or has been silent for [`HEAD_START`], and all are waited for together. Where none
    /// answers, what is wrong with the first is told, as Go does.
    fn dial(&self, addresses: &[SocketAddr], most: Duration) -> Result<TcpStream, Failure> {
        let mut now = Instant::now();
        let (end, mut next_at) = (now + most, now);
        let mut rest = addresses.iter();
        let mut dialled: Vec<(SocketAddr, OwnedFd)> = Vec::new();
        let mut first = None;
        loop {
            if self.cancel.is_cancelled() {
                return Err(Failure::Cancelled);
            }
            while (dialled.is_empty() || now >= next_at)
                && let Some(address) = rest.next()
            {
                match begin(*address) {
                    Ok((socket, true)) => return Ok(connected(socket)),
                    Ok((socket, false)) => {
                        dialled.push((*address, socket));
                        next_at = now + HEAD_START;
                    }
                    Err(error) => drop(first.get_or_insert_with(|| refused(*address, error))),
                }
            }
            let Some((oldest, _)) = dialled.first() else {
                return Err(first.unwrap_or(Failure::Eof));
            };
            if now >= end {
                let silent = Failure::ConnectTimeout(oldest.to_string());
                return Err(first.unwrap_or(silent));
            }
            let mut until = end.min(now + SLICE);
            if rest.len() > 0 {
                until = until.min(next_at);
            }
            let ready = ready(&dialled, until.saturating_duration_since(now));
            now = Instant::now();
            for at in ready.into_iter().rev() {
                let (address, socket) = dialled.remove(at);
                match rustix::net::sockopt::socket_error(&socket).and_then(|outcome| outcome) {
                    Ok(()) => return Ok(connected(socket)),
                    Err(error) => drop(first.get_or_insert_with(|| refused(address, error))),
                }
                next_at = now;
            }
        }
    }
}

/// Addresses of both families in turn, the first one's first: where one family leads nowhere, the
/// other is tried soon.
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (same, other): (Vec<_>, Vec<_>) = addresses
        .iter()
        .copied()
        .partition(|it| it.is_ipv6() == is_v6);
    let (mut same, mut other) = (same.into_iter(), other.into_iter());
    let mut all = Vec::new();
    loop {
        let pair = [same.next(), other.next()];
        if pair == [None, None] {
            return all;
        }
        all.extend(pair.into_iter().flatten());
    }
}

/// Begins to connect; whether that is done already.
fn begin(address: SocketAddr) -> Result<(OwnedFd, bool), rustix::io::Errno> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Ok((socket, true)),
        Err(rustix::io::Errno::INPROGRESS) => Ok((socket, false)),
        Err(error) => Err(error),
    }
}

/// Which sockets have connected or failed, in order, within `most`.
fn ready(dialled: &[(SocketAddr, OwnedFd)], most: Duration) -> Vec<usize> {
    let most = Timespec::try_from(most).unwrap_or_default();
    let polled = dialled
        .iter()
        .map(|(_, socket)| PollFd::new(socket, PollFlags::OUT));
    let mut polled: Vec<_> = polled.collect();
    // What fails here is interrupted: it is done again.
    let _ = rustix::event::poll(&mut polled, Some(&most));
    let ready = polled.iter().enumerate();
    ready
        .filter(|(_, polled)| !polled.revents().is_empty())
        .map(|(at, _)| at)
        .collect()
}

fn refused(address: SocketAddr, error: rustix::io::Errno) -> Failure {
    Failure::Connect {
        address: address.to_string(),
        reason: words(&error.into()),
    }
}

fn connected(socket: OwnedFd) -> TcpStream {
    let stream = TcpStream::from(socket);
    // Slower without, never wrong.
    let _ = stream.set_nodelay(true);
    stream
}

enum Waited {
    Cancelled,
    Timeout,
    Failed(rustix::io::Errno),
}

/// Waits until a socket is ready.
fn wait(
    socket: impl AsFd,
    events: PollFlags,
    most: Duration,
    cancel: &Cancel,
) -> Result<(), Waited> {
    let end = Instant::now() + most;
    loop {
        if cancel.is_cancelled() {
            return Err(Waited::Cancelled);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Waited::Timeout);
        }
        let slice = Timespec::try_from(left.min(SLICE)).unwrap_or_default();
        let mut polled = [PollFd::new(&socket, events)];
        match rustix::event::poll(&mut polled, Some(&slice)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(Waited::Failed(error)),
        }
    }
}

thread_local! {
    /// Whether the request that this thread is busy with is sent to nobody any more. The library
    /// reads a request's body on the thread that writes to its connection.
    static UNHEARD: Cell<bool> = const { Cell::new(false) };
}

/// Says that this thread begins a request.
pub(super) fn begin_request() {
    UNHEARD.set(false);
}

/// Whether this thread's request is not read to its end: more of it is of no use.
pub(super) fn is_unheard() -> bool {
    UNHEARD.get()
}

/// A connection.
pub(super) struct Wire {
    stream: TcpStream,
    buffers: LazyBuffers,
    cancel: Cancel,
    /// The first bytes of a connection on which TLS is expected, until there are enough.
    greeting: Option<Vec<u8>>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("peer", &self.stream.peer_addr().ok())
            .finish_non_exhaustive()
    }
}

impl Wire {
    fn wait(&self, events: PollFlags, timeout: &NextTimeout) -> Result<(), ureq::Error> {
        let most = match timeout.after {
            time::Duration::Exact(limit) => limit,
            time::Duration::NotHappening => IDLE,
        };
        wait(&self.stream, events, most, &self.cancel).map_err(|waited| match waited {
            Waited::Cancelled => failed(Failure::Cancelled),
            Waited::Failed(error) => ureq::Error::Io(error.into()),
            Waited::Timeout if timeout.after.is_not_happening() => failed(Failure::Stalled),
            Waited::Timeout => ureq::Error::Timeout(timeout.reason),
        })
    }

    /// Looks at what came first: TLS would only say that it is no TLS.
    fn is_plain_http(&mut self, length: usize) -> bool {
        const HTTP: &[u8] = b"HTTP/";
        let Some(greeting) = &mut self.greeting else {
            return false;
        };
        let input = self.buffers.input();
        let new = &input[input.len().saturating_sub(length)..];
        greeting.extend(new.iter().take(HTTP.len() - greeting.len()));
        let plain = greeting == HTTP;
        if greeting.len() == HTTP.len() {
            self.greeting = None;
        }
        plain
    }
}

/// Whether the other side has closed the connection, which may have said something before.
fn closes(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let mut sent = 0;
        while sent < amount && !is_unheard() {
            if self.cancel.is_cancelled() {
                return Err(failed(Failure::Cancelled));
            }
            match (&self.stream).write(&self.buffers.output()[sent..amount]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(more) => sent += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::OUT, &timeout)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if closes(&error) => UNHEARD.set(true),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(failed(Failure::Cancelled));
            }
            let input = self.buffers.input_append_buf();
            match (&self.stream).read(input) {
                Ok(length) => {
                    self.buffers.input_appended(length);
                    if self.is_plain_http(length) {
                        return Err(failed(Failure::HttpForHttps));
                    }
                    return Ok(length > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::IN, &timeout)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn is_open(&mut self) -> bool {
        // Anything that comes unasked, an end above all, makes the connection useless.
        self.stream
            .peek(&mut [0])
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// An address whose packets go nowhere: a listener's whose queue is full.
    fn silent() -> (TcpListener, Vec<OwnedFd>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        rustix::net::listen(&listener, 0).expect("a shorter queue");
        let address = listener.local_addr().expect("it is bound");
        let mut waiting = Vec::new();
        loop {
            let (socket, _) = begin(address).expect("a socket");
            waiting.push((address, socket));
            // On loopback what is accepted at all is so at once.
            if ready(&waiting[waiting.len() - 1..], Duration::from_millis(200)).is_empty() {
                let waiting = waiting.into_iter().map(|(_, socket)| socket).collect();
                return (listener, waiting, address);
            }
        }
    }

    #[test]
    fn an_address_that_is_silent_keeps_no_other_waiting() {
        let (_listener, _waiting, silent) = silent();
        let live = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = live.local_addr().expect("it is bound");
        let dialer = Dialer {
            cancel: Cancel::new(),
        };
        let dead = SocketAddr::from(([127, 0, 0, 1], 1));
        let minute = Duration::from_secs(60);
        let found = dialer.dial(&[silent, silent, dead, address], minute);
        let peer = found.and_then(|stream| stream.peer_addr().map_err(|_| Failure::Eof));
        assert_eq!(peer.expect("a connection"), address);
        let lost = dialer.dial(&[silent, silent], Duration::from_millis(400));
        assert!(matches!(lost, Err(Failure::ConnectTimeout(at)) if at == silent.to_string()));
        let lost = dialer
            .dial(&[dead, dead], minute)
            .expect_err("nobody is there");
        assert_eq!(
            lost.to_string(),
            "dial tcp 127.0.0.1:1: connect: connection refused"
        );
        let nowhere = dialer.dial(&[], minute);
        assert!(nowhere.is_err());
    }

    #[test]
    fn families_take_turns() {
        let addresses = |all: &[&str]| -> Vec<SocketAddr> {
            all.iter()
                .map(|text| text.parse().expect("an address"))
                .collect()
        };
        let mixed = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1", "10.0.0.2:1"]);
        assert_eq!(
            interleaved(&mixed),
            addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"])
        );
        assert!(interleaved(&[]).is_empty());
    }

    #[test]
    fn what_was_found_once_does_for_a_while_and_where_nothing_is_found() {
        let lookup = Lookup::new(Cancel::new(), Vec::new());
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let found = |ip| Ok(vec![SocketAddr::new(ip, 5000)]);
        let fails = || {
            Err(Failure::Lookup {
                host: "r.example".into(),
                reason: "no such host".into(),
            })
        };
        let name = ("r.example", 5000);
        let begin = Instant::now() + KNOWN;
        let later = begin + KNOWN + Duration::from_secs(1);
        assert!(lookup.remembered(name, begin, fails).is_err());
        let ip = |found: Result<Vec<SocketAddr>, Failure>| found.expect("addresses")[0].ip();
        assert_eq!(ip(lookup.remembered(name, begin, || found(one))), one);
        let unasked = || panic!("it is known");
        assert_eq!(ip(lookup.remembered(name, begin, unasked)), one);
        assert_eq!(ip(lookup.remembered(name, later, fails)), one);
        assert_eq!(ip(lookup.remembered(name, later, || found(other))), other);
        assert!(
            lookup
                .remembered(("other.example", 5000), later, fails)
                .is_err()
        );
    }
}
