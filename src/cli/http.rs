//! HTTP/1.1 as a client needs it for the Docker API: requests on a unix socket, answers with a
//! length, in chunks or to the end of the connection, and connections that leave HTTP.
//!
//! Blocking, without a thread or a library: a verb speaks to one engine on its own machine. One
//! [`Connection`] carries one request at a time; when an answer's body has been read to its end,
//! the connection can be used again. A *hijack* (`Upgrade: tcp`, answered `101 UPGRADED` or, by
//! old engines, a bare `200`) turns it into a plain two-way stream; what came in one packet with
//! the head is not lost, see [`Hijacked`].
//!
//! Parsing is pure and takes any bytes: an engine is trusted no further than its socket.
//!
//! Limits: heads of 64 KiB, chunk heads of 256 bytes.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// The largest head of an answer, in bytes.
const HEAD_LIMIT: usize = 64 * 1024;

/// The longest line before a chunk, in bytes.
const CHUNK_LINE_LIMIT: usize = 256;

/// Bytes read from a connection at once.
const BUFFER: usize = 32 * 1024;

/// The status line and fields of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// `200`
    pub status: u16,
    /// Names in lower case, and values.
    pub fields: Vec<(String, String)>,
}

/// Why an answer makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not `HTTP/1.x NNN`.
    #[error("the engine's answer is not HTTP")]
    StatusLine,
    /// A field without a colon.
    #[error("the engine's answer has a malformed header field")]
    Field,
    /// More than [`HEAD_LIMIT`].
    #[error("the engine's answer has too long a head")]
    TooLong,
    /// A length that is no number.
    #[error("the engine's answer has a malformed length")]
    Length,
    /// A chunk that is none.
    #[error("the engine's answer has a malformed chunk")]
    Chunk,
}

impl From<Malformed> for io::Error {
    fn from(error: Malformed) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

impl Head {
    /// Reads a head, the empty line at its end included.
    pub fn parse(bytes: &[u8]) -> Result<Head, Malformed> {
        let mut lines = bytes
            .split(|&byte| byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let status = lines.next().ok_or(Malformed::StatusLine)?;
        let rest = status
            .strip_prefix(b"HTTP/1.")
            .and_then(|rest| rest.split_first())
            .filter(|(minor, _)| minor.is_ascii_digit())
            .and_then(|(_, rest)| rest.strip_prefix(b" "))
            .ok_or(Malformed::StatusLine)?;
        let digits = rest.get(..3).ok_or(Malformed::StatusLine)?;
        if !digits.iter().all(u8::is_ascii_digit) || rest.get(3).is_some_and(|&next| next != b' ') {
            return Err(Malformed::StatusLine);
        }
        let status = digits
            .iter()
            .fold(0, |sum: u16, digit| sum * 10 + u16::from(digit - b'0'));
        let mut fields = Vec::new();
        for line in lines {
            if line.is_empty() {
                break;
            }
            let colon = line.iter().position(|&byte| byte == b':');
            let (name, value) = line.split_at(colon.ok_or(Malformed::Field)?);
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            fields.push((
                String::from_utf8_lossy(name).to_ascii_lowercase(),
                String::from_utf8_lossy(value).into_owned(),
            ));
        }
        Ok(Head { status, fields })
    }

    /// The value of a field; `name` in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    }

    /// How the body ends.
    fn framing(&self) -> Result<Framing, Malformed> {
        if self.status < 200 || self.status == 204 || self.status == 304 {
            return Ok(Framing::Length(0));
        }
        if let Some(coding) = self.field("transfer-encoding")
            && coding.to_ascii_lowercase().ends_with("chunked")
        {
            return Ok(Framing::Chunked(Chunked::default()));
        }
        match self.field("content-length") {
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                let length = text.parse().map_err(|_| Malformed::Length)?;
                Ok(Framing::Length(length))
            }
            Some(_) => Err(Malformed::Length),
            None => Ok(Framing::ToTheEnd),
        }
    }

    fn keeps_alive(&self) -> bool {
        !self
            .field("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// How a body ends.
#[derive(Debug)]
enum Framing {
    /// After so many more bytes.
    Length(u64),
    /// With an empty chunk.
    Chunked(Chunked),
    /// With the connection.
    ToTheEnd,
}

/// Where in a chunked body a reader is.
#[derive(Debug, Default)]
struct Chunked {
    /// Bytes left of the current chunk.
    left: u64,
    /// The current chunk's data has a line end after it that is still to be read.
    inside: bool,
    /// The last chunk has been read.
    done: bool,
}

impl Chunked {
    fn read(&mut self, source: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
        if self.done || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            if self.inside && !line(source)?.is_empty() {
                return Err(Malformed::Chunk.into());
            }
            self.left = chunk_size(&line(source)?)?;
            self.inside = true;
            if self.left == 0 {
                // Trailers, of which there are none that anybody reads, then an empty line.
                while !line(source)?.is_empty() {}
                self.done = true;
                return Ok(0);
            }
        }
        let wanted = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = source.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// One short line without its end.
fn line(source: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    source
        .by_ref()
        .take(CHUNK_LINE_LIMIT as u64)
        .read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\n") {
        Some(rest) => Ok(rest.strip_suffix(b"\r").unwrap_or(rest).to_vec()),
        None if line.len() >= CHUNK_LINE_LIMIT => Err(Malformed::Chunk.into()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// `1a2b;extension`
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
    let digits = digits.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Malformed::Chunk);
    }
    let text = std::str::from_utf8(digits).map_err(|_| Malformed::Chunk)?;
    u64::from_str_radix(text, 16).map_err(|_| Malformed::Chunk)
}

/// What a request carries.
pub enum Body<'a> {
    /// Nothing.
    Empty,
    /// JSON text.
    Json(Vec<u8>),
    /// A stream of unknown length, sent in chunks.
    Stream(&'a mut dyn Read),
}

/// A connection to an engine.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<UnixStream>,
    /// Requests sent on it.
    used: usize,
}

impl Connection {
    /// Connects.
    pub fn open(path: &Path) -> io::Result<Connection> {
        let stream = crate::sys::fdpass::Address::of(path)
            .and_then(|address| UnixStream::connect(address.path()))?;
        Ok(Connection::over(stream))
    }

    /// Speaks HTTP on a stream that is connected already.
    pub fn over(stream: UnixStream) -> Connection {
        Connection {
            stream: BufReader::with_capacity(BUFFER, stream),
            used: 0,
        }
    }

    /// Whether an answer has been read on it before, so that the engine may have hung up since.
    pub fn is_used(&self) -> bool {
        self.used > 1
    }

    /// Sends a request with these fields in its head besides the usual ones. `hijack` asks to leave
    /// HTTP.
    ///
    /// # Errors
    /// The socket's; where the engine hung up while a stream was sent, its answer may still be
    /// there to read. Never a broken pipe, by which verbs know that nobody reads their output.
    pub fn send(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &mut Body<'_>,
        hijack: bool,
    ) -> io::Result<()> {
        self.used += 1;
        let sent = self.write(method, target, fields, body, hijack);
        sent.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => io::ErrorKind::UnexpectedEof.into(),
            _ => error,
        })
    }

    fn write(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &mut Body<'_>,
        hijack: bool,
    ) -> io::Result<()> {
        let mut head = format!(
            "{method} {target} HTTP/1.1\r\nHost: api.moss.localhost\r\nUser-Agent: moss/{} (linux)\r\n",
            env!("CARGO_PKG_VERSION")
        );
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if hijack {
            head.push_str("Connection: Upgrade\r\nUpgrade: tcp\r\n");
        }
        match body {
            Body::Empty if method == "GET" || method == "HEAD" => {}
            Body::Empty => head.push_str("Content-Length: 0\r\n"),
            Body::Json(text) => {
                head.push_str(&format!(
                    "Content-Type: application/json\r\nContent-Length: {}\r\n",
                    text.len()
                ));
            }
            Body::Stream(_) => {
                head.push_str("Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n");
            }
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        let stream = self.stream.get_mut();
        match body {
            Body::Empty => stream.write_all(&bytes),
            Body::Json(text) => {
                bytes.extend_from_slice(text);
                stream.write_all(&bytes)
            }
            Body::Stream(source) => {
                stream.write_all(&bytes)?;
                send_chunks(stream, *source)
            }
        }
    }

    /// Reads the head of the answer.
    pub fn head(&mut self) -> io::Result<Head> {
        loop {
            let mut bytes = Vec::new();
            loop {
                let start = bytes.len();
                let room = (HEAD_LIMIT - start) as u64;
                self.stream
                    .by_ref()
                    .take(room)
                    .read_until(b'\n', &mut bytes)?;
                let line = &bytes[start..];
                if line == b"\r\n" || line == b"\n" {
                    break;
                }
                if bytes.len() >= HEAD_LIMIT {
                    return Err(Malformed::TooLong.into());
                }
                if !line.ends_with(b"\n") {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            let head = Head::parse(&bytes)?;
            // 100 and its like announce the answer; 101 is one.
            if head.status >= 200 || head.status == 101 {
                return Ok(head);
            }
        }
    }

    /// The body that follows `head`.
    pub fn body(self, head: &Head) -> io::Result<BodyReader> {
        Ok(BodyReader {
            framing: head.framing()?,
            reusable: head.keeps_alive(),
            connection: self,
        })
    }

    /// The answer to a `HEAD`, which has no body whatever its head says.
    pub fn no_body(self, head: &Head) -> BodyReader {
        BodyReader {
            framing: Framing::Length(0),
            reusable: head.keeps_alive(),
            connection: self,
        }
    }

    /// Leaves HTTP.
    pub fn hijacked(self) -> Hijacked {
        Hijacked {
            early: self.stream.buffer().to_vec(),
            stream: self.stream.into_inner(),
        }
    }
}

fn send_chunks(stream: &mut UnixStream, source: &mut dyn Read) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match source.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The client's own error must not be taken for the engine's hanging up.
            Err(error) => return Err(io::Error::other(error)),
        };
        stream.write_all(format!("{count:x}\r\n").as_bytes())?;
        stream.write_all(&buffer[..count])?;
        stream.write_all(b"\r\n")?;
        if count == 0 {
            return Ok(());
        }
    }
}

/// A connection that has left HTTP.
#[derive(Debug)]
pub struct Hijacked {
    /// The socket.
    pub stream: UnixStream,
    /// What has been read of it already.
    pub early: Vec<u8>,
}

/// The body of an answer.
#[derive(Debug)]
pub struct BodyReader {
    connection: Connection,
    framing: Framing,
    reusable: bool,
}

impl BodyReader {
    /// The socket, to wait for it.
    pub fn socket(&self) -> &UnixStream {
        self.connection.stream.get_ref()
    }

    /// Whether bytes of it have been read already, which the socket does not tell.
    pub fn has_early(&self) -> bool {
        !self.connection.stream.buffer().is_empty()
    }

    /// The connection for another request, where the body has been read to its end.
    pub fn finish(self) -> Option<Connection> {
        let ended = match self.framing {
            Framing::Length(left) => left == 0,
            Framing::Chunked(chunked) => chunked.done,
            Framing::ToTheEnd => false,
        };
        (ended && self.reusable).then_some(self.connection)
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let source = &mut self.connection.stream;
        match &mut self.framing {
            Framing::ToTheEnd => source.read(buffer),
            Framing::Chunked(chunked) => chunked.read(source, buffer),
            Framing::Length(0) => Ok(0),
            Framing::Length(left) => {
                let wanted = buffer
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                let count = source.read(&mut buffer[..wanted])?;
                if count == 0 && wanted > 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *left -= count as u64;
                Ok(count)
            }
        }
    }
}

/// A path and query under construction; names and values may hold anything.
#[derive(Debug, Clone)]
pub struct Target(String, char);

impl Target {
    /// `/containers/{name}/json`: every `{}` of the pattern is replaced by the next name.
    pub fn new(pattern: &str, names: &[&str]) -> Target {
        let mut names = names.iter();
        let mut path = String::new();
        for (index, part) in pattern.split("{}").enumerate() {
            if index > 0 {
                path.push_str(&escape(names.next().copied().unwrap_or_default(), true));
            }
            path.push_str(part);
        }
        Target(path, '?')
    }

    /// Adds a parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Target {
        self.0.push(self.1);
        self.1 = '&';
        self.0.push_str(name);
        self.0.push('=');
        self.0.push_str(&escape(&value.to_string(), false));
        self
    }

    /// Adds a parameter unless its value is empty.
    #[must_use]
    pub fn with_some(self, name: &str, value: &str) -> Target {
        if value.is_empty() {
            self
        } else {
            self.with(name, value)
        }
    }

    /// Adds `name=1` where `flag` is set.
    #[must_use]
    pub fn with_flag(self, name: &str, flag: bool) -> Target {
        if flag { self.with(name, 1) } else { self }
    }

    /// The text, without a version before it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Percent-encodes what is not unreserved (RFC 3986 2.3); names keep their slashes.
fn escape(text: &str, slashes: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                escaped.push(byte as char);
            }
            b'/' if slashes => escaped.push('/'),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// What a client makes of these bytes: the head, the body, and whether it would go on.
    fn exchange(bytes: &[u8]) -> io::Result<(Head, Vec<u8>, bool)> {
        let (ours, mut theirs) = UnixStream::pair()?;
        let bytes = bytes.to_vec();
        // A writer of its own: the bytes may be more than the socket holds.
        let writer = thread::spawn(move || theirs.write_all(&bytes));
        let mut connection = Connection::over(ours);
        let read = connection.head().and_then(|head| {
            let mut body = connection.body(&head)?;
            let mut text = Vec::new();
            body.read_to_end(&mut text)?;
            Ok((head, text, body.finish().is_some()))
        });
        let _ = writer.join();
        read
    }

    #[test]
    fn bodies_end_in_three_ways() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a: b \r\n\r\n{}";
        let (head, body, reusable) = exchange(answer).unwrap();
        assert_eq!((head.status, head.field("x")), (200, Some("a: b")));
        assert_eq!((body.as_slice(), reusable), (b"{}".as_slice(), true));

        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n";
        let (_, body, reusable) = exchange(answer).unwrap();
        assert_eq!(
            (body.as_slice(), reusable),
            (b"abc0123456789".as_slice(), true)
        );

        let (_, body, reusable) = exchange(b"HTTP/1.0 200\r\n\r\nrest").unwrap();
        assert_eq!((body.as_slice(), reusable), (b"rest".as_slice(), false));
        let (head, body, _) =
            exchange(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\nxx").unwrap();
        assert_eq!((head.status, body.len()), (204, 0));
    }

    #[test]
    fn what_is_cut_short_or_wrong_is_an_error() {
        for bytes in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        ] {
            assert!(exchange(bytes.as_bytes()).is_err(), "{bytes:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HEAD_LIMIT));
        assert!(exchange(long.as_bytes()).is_err());
    }

    #[test]
    fn a_hijack_keeps_what_came_with_the_head() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs
            .write_all(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nearly")
            .unwrap();
        let mut connection = Connection::over(ours);
        assert_eq!(connection.head().unwrap().status, 101);
        let mut hijacked = connection.hijacked();
        theirs.write_all(b"late").unwrap();
        drop(theirs);
        let mut rest = String::new();
        hijacked.stream.read_to_string(&mut rest).unwrap();
        assert_eq!(
            (hijacked.early.as_slice(), &*rest),
            (b"early".as_slice(), "late")
        );
    }

    #[test]
    fn targets_are_escaped() {
        let target = Target::new("/images/{}/json", &["a/b:c d?"])
            .with("filters", "{\"a\":[\"b\"]}")
            .with_some("empty", "")
            .with_flag("all", true);
        assert_eq!(
            target.as_str(),
            "/images/a/b:c%20d%3F/json?filters=%7B%22a%22:%5B%22b%22%5D%7D&all=1"
        );
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
            start in prop::sample::select(vec![
                "",
                "HTTP/1.1 200 OK\r\n",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
            ]),
        ) {
            let _ = Head::parse(&bytes);
            let _ = exchange(&[start.as_bytes(), &bytes].concat());
        }

        #[test]
        fn chunks_read_back(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8)) {
            let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for part in &parts {
                answer.extend(format!("{:X}\r\n", part.len()).bytes());
                answer.extend(part);
                answer.extend(b"\r\n");
            }
            answer.extend(b"0\r\n\r\n");
            let (_, body, reusable) = exchange(&answer).unwrap();
            prop_assert_eq!(body, parts.concat());
            prop_assert!(reusable);
        }
    }
}
