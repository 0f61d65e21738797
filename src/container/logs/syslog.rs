//! Messages to a syslog server, as Docker's driver sends them.
//!
//! One message a datagram, or a line on a stream. The connection is made before the container
//! starts (that over TLS again for a first message: it cannot be handed over); one that was lost (the server was restarted) is made anew for the next message, and a
//! message for which that fails is lost. (moby: `daemon/logger/syslog`, and the package srslog.)

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, UtcOffset};

use super::message::Message;
use crate::container::protocol::Stream;
use crate::registry::secured::{Files, Secured};
use crate::sys::localtime;

/// The port where an address names none.
const PORT: &str = "514";
/// How long a connection may take to be made: longer than a container's output ever waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where the host's own server listens.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];
/// Of `--log-opt syslog-facility`, by number; 12 to 15 have no names.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];
const DAEMON: u8 = 3;
const SEVERITY_ERROR: u8 = 3;
const SEVERITY_INFO: u8 = 6;

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Address {
    /// The host's own.
    Local,
    /// A stream socket.
    Unix(PathBuf),
    /// A datagram socket.
    Unixgram(PathBuf),
    /// Host and port.
    Udp(String),
    /// Host and port.
    Tcp(String),
    /// Host and port.
    Tls(String),
}

/// What a connection over TLS is secured with, as `--log-opt syslog-tls-…` says it; empty where it
/// is not said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// File of authorities beside the host's.
    pub authorities: PathBuf,
    /// File of a certificate of our own.
    pub certificate: PathBuf,
    /// File of its key.
    pub key: PathBuf,
    /// The server need not prove who it is.
    pub skip_verify: bool,
}

/// What a message looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// RFC 3164 without a host's name.
    #[default]
    Unix,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424, with seconds.
    Rfc5424,
    /// RFC 5424, with microseconds.
    Rfc5424Micro,
}

/// Where a container's messages go, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syslog {
    /// The server.
    pub address: Address,
    /// For a server over TLS.
    #[serde(default)]
    pub tls: Tls,
    /// 0 to 23.
    pub facility: u8,
    /// What a message looks like.
    pub layout: Layout,
    /// What it says of its sender.
    pub tag: String,
    /// What it says of the host.
    pub hostname: String,
}

impl Address {
    /// Reads `--log-opt syslog-address`. A socket's path is looked at.
    ///
    /// # Errors
    /// Docker's sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::Local);
        }
        let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
        let scheme = scheme.to_ascii_lowercase();
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if scheme == "unix" || scheme == "unixgram" {
            if let Err(error) = Path::new(path).metadata() {
                return Err(format!("stat {path}: {}", reason(&error)));
            }
            let path = PathBuf::from(path);
            return Ok(match scheme.as_str() {
                "unix" => Self::Unix(path),
                _ => Self::Unixgram(path),
            });
        }
        let address = match scheme.as_str() {
            "udp" => Self::Udp,
            "tcp" => Self::Tcp,
            "tcp+tls" => Self::Tls,
            _ => return Err(format!("unsupported scheme: '{scheme}'")),
        };
        let bare = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
        match bare.rsplit_once(':') {
            Some((_, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(address(host.to_owned()))
            }
            Some((_, port)) => Err(format!(
                "parse \"{text}\": invalid port \":{port}\" after host"
            )),
            None => Ok(address(format!("{host}:{PORT}"))),
        }
    }
}

impl Layout {
    /// Reads `--log-opt syslog-format`.
    ///
    /// # Errors
    /// Docker's sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Unix),
            "rfc3164" => Ok(Self::Rfc3164),
            "rfc5424" => Ok(Self::Rfc5424),
            "rfc5424micro" => Ok(Self::Rfc5424Micro),
            _ => Err("Invalid syslog format".to_owned()),
        }
    }
}

/// Reads `--log-opt syslog-facility`: a name or a number.
///
/// # Errors
/// Docker's sentence.
pub fn facility(text: &str) -> Result<u8, String> {
    if text.is_empty() {
        return Ok(DAEMON);
    }
    let named = FACILITIES.iter().position(|name| *name == text);
    named
        .or_else(|| text.parse().ok())
        .and_then(|number| u8::try_from(number).ok())
        .filter(|number| usize::from(*number) < FACILITIES.len())
        .ok_or_else(|| "invalid syslog facility".to_owned())
}

impl Syslog {
    /// One message's text, with the newline that ends it.
    fn format(&self, message: &Message<'_>, pid: u32, out: &mut Vec<u8>) {
        let severity = match message.stream {
            Stream::Stdout => SEVERITY_INFO,
            Stream::Stderr => SEVERITY_ERROR,
        };
        let offset = UtcOffset::from_whole_seconds(localtime::offset(message.time.seconds()));
        let time = message
            .time
            .utc()
            .to_offset(offset.unwrap_or(UtcOffset::UTC));
        let (tag, host) = (&self.tag, &self.hostname);
        let mut head = format!("<{}>", self.facility << 3 | severity);
        // Writing to a String does not fail.
        let _ = match self.layout {
            Layout::Unix => write!(head, "{} {tag}[{pid}]: ", stamp(time)),
            Layout::Rfc3164 => write!(head, "{} {host} {tag}[{pid}]: ", stamp(time)),
            Layout::Rfc5424 => {
                let time = rfc3339(time, "");
                write!(head, "1 {time} {host} {tag} {pid} {tag} - ")
            }
            Layout::Rfc5424Micro => {
                let time = rfc3339(time, &format!(".{:06}", time.microsecond()));
                write!(head, "1 {time} {host} {tag} {pid} {tag} - ")
            }
        };
        let length = head.len() + message.line.len() + 1;
        if self.is_counted() {
            // Writing to a Vec does not fail either.
            let _ = write!(out, "{length} ");
        }
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(message.line);
        out.push(b'\n');
    }

    /// Whether messages are told apart by their lengths (RFC 5425).
    fn is_counted(&self) -> bool {
        let is_new = matches!(self.layout, Layout::Rfc5424 | Layout::Rfc5424Micro);
        is_new && matches!(self.address, Address::Tls(_))
    }

    /// Connects to the server, for a process that the connection can be given to. One that is
    /// secured cannot be: it is tried, and ended.
    ///
    /// # Errors
    /// Go's sentence.
    pub fn try_connect(&self) -> Result<Option<OwnedFd>, String> {
        Ok(match self.connect()? {
            Connection::Plain(socket) => Some(socket),
            Connection::Secured(_) => None,
        })
    }

    fn connect(&self) -> Result<Connection, String> {
        match &self.address {
            Address::Tls(server) => self.secured(server),
            _ => self.socket().map(Connection::Plain),
        }
    }

    fn secured(&self, server: &str) -> Result<Connection, String> {
        let some = |path: &PathBuf| (!path.as_os_str().is_empty()).then_some(path.clone());
        let Tls {
            authorities,
            certificate,
            key,
            skip_verify,
        } = &self.tls;
        let is_own = some(certificate).is_some() || some(key).is_some();
        let files = Files {
            authorities: some(authorities).is_some().then_some(authorities),
            own: is_own.then_some((certificate, key)),
            verify: !skip_verify,
        };
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
        let connection = Secured::begin(tcp(server)?, host, &files, PATIENCE)?;
        Ok(Connection::Secured(Box::new(connection)))
    }

    fn socket(&self) -> Result<OwnedFd, String> {
        match &self.address {
            Address::Local => {
                let datagram = LOCAL.iter().find_map(|path| datagram(Path::new(path)).ok());
                let stream = || LOCAL.iter().find_map(|path| UnixStream::connect(path).ok());
                let socket = datagram.or_else(|| stream().map(OwnedFd::from));
                socket.ok_or_else(|| "Unix syslog delivery error".to_owned())
            }
            Address::Unix(path) => UnixStream::connect(path)
                .map(OwnedFd::from)
                .map_err(|error| failed("unix", &path.display().to_string(), &error)),
            Address::Unixgram(path) => datagram(path)
                .map_err(|error| failed("unixgram", &path.display().to_string(), &error)),
            Address::Udp(server) => {
                // Only a name that there is not makes it fail.
                let address = resolve("udp", server)?;
                let any = if address.is_ipv4() {
                    "0.0.0.0:0"
                } else {
                    "[::]:0"
                };
                let socket = UdpSocket::bind(any);
                socket
                    .and_then(|socket| socket.connect(address).map(|()| socket.into()))
                    .map_err(|error| failed("udp", &address.to_string(), &error))
            }
            Address::Tcp(server) | Address::Tls(server) => tcp(server).map(OwnedFd::from),
        }
    }

    fn is_stream(&self) -> bool {
        !matches!(self.address, Address::Unixgram(_) | Address::Udp(_))
    }
}

fn failed(network: &str, place: &str, error: &io::Error) -> String {
    format!("dial {network} {place}: connect: {}", reason(error))
}

fn tcp(server: &str) -> Result<TcpStream, String> {
    let address = resolve("tcp", server)?;
    TcpStream::connect_timeout(&address, PATIENCE)
        .map_err(|error| failed("tcp", &address.to_string(), &error))
}

fn datagram(path: &Path) -> io::Result<OwnedFd> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    Ok(socket.into())
}

fn resolve(network: &str, server: &str) -> Result<std::net::SocketAddr, String> {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let found = server
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next());
    found.ok_or_else(|| format!("dial {network}: lookup {host}: no such host"))
}

/// The kernel's words, as Go has them.
fn reason(error: &io::Error) -> String {
    crate::types::errno::text(error)
}

/// `Jan  2 15:04:05`.
fn stamp(time: OffsetDateTime) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = MONTHS[usize::from(u8::from(time.month()) - 1)];
    let (hour, minute, second) = time.to_hms();
    format!(
        "{month} {:>2} {hour:02}:{minute:02}:{second:02}",
        time.day()
    )
}

/// `2006-01-02T15:04:05Z`, or with an offset in place of the `Z`.
fn rfc3339(time: OffsetDateTime, fraction: &str) -> String {
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second) = time.to_hms();
    let zone = match time.offset().as_hms() {
        (0, 0, _) => "Z".to_owned(),
        (hours, minutes, _) => {
            let sign = if time.offset().is_negative() {
                '-'
            } else {
                '+'
            };
            format!("{sign}{:02}:{:02}", hours.abs(), minutes.abs())
        }
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}")
}

/// The way to a server.
#[derive(Debug)]
enum Connection {
    Plain(OwnedFd),
    Secured(Box<Secured>),
}

impl Connection {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => write(socket, bytes),
            Self::Secured(secured) => secured.send(bytes),
        }
    }

    /// Whether the server has closed a stream.
    fn has_ended(&mut self) -> bool {
        match self {
            Self::Plain(socket) => has_ended(socket),
            Self::Secured(secured) => secured.has_ended(),
        }
    }
}

/// Sends messages.
#[derive(Debug)]
pub struct Sender {
    syslog: Syslog,
    connection: Option<Connection>,
    pid: u32,
    text: Vec<u8>,
}

impl Sender {
    /// Sends by `connection` for as long as it lasts.
    pub fn new(syslog: Syslog, connection: Option<OwnedFd>) -> Self {
        Self {
            syslog,
            connection: connection.map(Connection::Plain),
            pid: std::process::id(),
            text: Vec::new(),
        }
    }

    /// Sends one message; waits as long as the server takes. Empty ones are not sent.
    ///
    /// # Errors
    /// Why it is lost.
    pub fn send(&mut self, message: &Message<'_>) -> Result<(), String> {
        if message.line.is_empty() {
            return Ok(());
        }
        self.text.clear();
        self.syslog.format(message, self.pid, &mut self.text);
        // What a server that was restarted left behind takes a first message, and loses it.
        let is_stream = self.syslog.is_stream();
        let alive = self
            .connection
            .take_if(|connection| !is_stream || !connection.has_ended());
        if let Some(mut connection) = alive
            && connection.send(&self.text).is_ok()
        {
            self.connection = Some(connection);
            return Ok(());
        }
        self.connection = None;
        let mut connection = self.syslog.connect()?;
        let sent = connection.send(&self.text);
        sent.map_err(|error| reason(&error))?;
        self.connection = Some(connection);
        Ok(())
    }
}

/// Whether the server has closed a stream; it never says anything.
fn has_ended(connection: &OwnedFd) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match recv(connection, &mut [0_u8; 1], flags) {
        Ok((_, length)) => length == 0,
        Err(error) => error != rustix::io::Errno::AGAIN,
    }
}

fn write(connection: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(connection, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;
    use crate::types::timestamp::Timestamp;

    fn syslog(address: Address, layout: Layout) -> Syslog {
        Syslog {
            address,
            tls: Tls::default(),
            facility: 16,
            layout,
            tag: "tag".to_owned(),
            hostname: "host".to_owned(),
        }
    }

    fn message(line: &[u8]) -> Message<'_> {
        Message {
            stream: Stream::Stderr,
            time: Timestamp::from_nanos(1_700_000_000_120_000_000),
            line,
            partial: None,
        }
    }

    #[test]
    fn options_are_dockers() {
        assert_eq!(Address::parse(""), Ok(Address::Local));
        assert_eq!(
            Address::parse("udp://h"),
            Ok(Address::Udp("h:514".to_owned()))
        );
        assert_eq!(
            Address::parse("tcp://[::1]:7"),
            Ok(Address::Tcp("[::1]:7".to_owned()))
        );
        assert_eq!(
            Address::parse("unixgram:///dev/null"),
            Ok(Address::Unixgram("/dev/null".into()))
        );
        for (text, expected) in [
            ("foo", "unsupported scheme: ''"),
            ("http://x", "unsupported scheme: 'http'"),
            (
                "unix:///nonexistent",
                "stat /nonexistent: no such file or directory",
            ),
            (
                "tcp://h:x",
                "parse \"tcp://h:x\": invalid port \":x\" after host",
            ),
        ] {
            assert_eq!(Address::parse(text), Err(expected.to_owned()), "{text}");
        }
        assert_eq!(facility(""), Ok(3));
        assert_eq!(facility("local7"), Ok(23));
        assert_eq!(facility("12"), Ok(12));
        assert!(facility("24").is_err() && facility("x").is_err());
        assert!(Layout::parse("rfc1").is_err());
    }

    #[test]
    fn messages_look_as_dockers() {
        let at = message(b"text").time;
        let offset = UtcOffset::from_whole_seconds(localtime::offset(at.seconds())).unwrap();
        let local = at.utc().to_offset(offset);
        let shown = |layout| {
            let mut out = Vec::new();
            syslog(Address::Local, layout).format(&message(b"text"), 7, &mut out);
            String::from_utf8(out).unwrap()
        };
        let (stamp, time) = (stamp(local), rfc3339(local, ""));
        let micro = rfc3339(local, ".120000");
        assert_eq!(shown(Layout::Unix), format!("<131>{stamp} tag[7]: text\n"));
        assert_eq!(
            shown(Layout::Rfc3164),
            format!("<131>{stamp} host tag[7]: text\n")
        );
        assert_eq!(
            shown(Layout::Rfc5424),
            format!("<131>1 {time} host tag 7 tag - text\n")
        );
        assert_eq!(
            shown(Layout::Rfc5424Micro),
            format!("<131>1 {micro} host tag 7 tag - text\n")
        );
        let zone = UtcOffset::from_hms(-3, -30, 0).unwrap();
        let there = at.utc().to_offset(zone);
        assert_eq!(rfc3339(there, ""), "2023-11-14T18:43:20-03:30");
        assert_eq!(super::stamp(there), "Nov 14 18:43:20");
        assert_eq!(rfc3339(at.utc(), ".120000"), "2023-11-14T22:13:20.120000Z");
    }

    #[test]
    fn a_server_that_was_restarted_loses_nothing_that_is_sent_later() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap().to_string());
        let syslog = syslog(address, Layout::Unix);
        let mut sender = Sender::new(syslog.clone(), syslog.try_connect().unwrap());
        for text in ["one", "two"] {
            sender.send(&message(text.as_bytes())).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            let mut got = [0; 100];
            let length = server.read(&mut got).unwrap();
            assert!(got[..length].ends_with(format!("]: {text}\n").as_bytes()));
            drop(server);
            // It has ended, and a new one takes its place.
            let connection = sender.connection.as_mut().unwrap();
            while !connection.has_ended() {
                std::thread::yield_now();
            }
        }
        drop(listener);
        let refused = loop {
            // The end of the last connection may not have been noticed yet.
            if let Err(refused) = sender.send(&message(b"lost")) {
                break refused;
            }
        };
        assert!(
            refused.ends_with("connect: connection refused"),
            "{refused}"
        );
    }

    #[test]
    fn datagrams_reach_a_socket_that_was_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let syslog = syslog(Address::Unixgram(path.clone()), Layout::Unix);
        assert!(syslog.connect().unwrap_err().starts_with("dial unixgram /"));
        let mut sender = None;
        for text in ["one", "two"] {
            let server = UnixDatagram::bind(&path).unwrap();
            let sender = sender
                .get_or_insert_with(|| Sender::new(syslog.clone(), syslog.try_connect().unwrap()));
            sender.send(&message(b"")).unwrap();
            sender.send(&message(text.as_bytes())).unwrap();
            let mut got = [0; 100];
            let length = server.recv(&mut got).unwrap();
            assert!(got[..length].ends_with(format!("]: {text}\n").as_bytes()));
            std::fs::remove_file(&path).unwrap();
        }
    }
}
