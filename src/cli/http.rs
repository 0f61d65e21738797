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

mod head;
mod target;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use head::{Framing, HEAD_LIMIT};

pub use head::{Head, Malformed};
pub use target::Target;

/// Bytes read from a connection at once.
const BUFFER: usize = 32 * 1024;

/// Bytes of a stream that go at once.
const CHUNK: usize = 256 * 1024;

/// Room for what goes before them: their number, which has five digits at most, and a line's end.
const CHUNK_HEAD: usize = 7;

/// What goes after them.
const CHUNK_END: &[u8] = b"\r\n";

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
                send_chunks(stream, *source).inspect_err(|_| {
                    // Neither side is to wait for the rest.
                    let _ = stream.shutdown(Shutdown::Both);
                })
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
    // A chunk goes with its ends in one write: each write wakes the engine.
    let mut buffer = vec![0; CHUNK_HEAD + CHUNK + CHUNK_END.len()];
    loop {
        let count = match source.read(&mut buffer[CHUNK_HEAD..CHUNK_HEAD + CHUNK]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The client's own error must not be taken for the engine's hanging up.
            Err(error) => return Err(io::Error::other(error)),
        };
        let head = format!("{count:x}\r\n");
        let (start, end) = (CHUNK_HEAD - head.len(), CHUNK_HEAD + count);
        buffer[start..CHUNK_HEAD].copy_from_slice(head.as_bytes());
        buffer[end..end + CHUNK_END.len()].copy_from_slice(CHUNK_END);
        stream.write_all(&buffer[start..end + CHUNK_END.len()])?;
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
    fn a_body_that_cannot_be_read_ends_the_exchange() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::IsADirectory.into())
            }
        }
        // A server that waits for all of the body.
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::over(ours);
        let mut body = Body::Stream(&mut Broken);
        assert!(
            connection
                .send("POST", "/x", &[], &mut body, false)
                .is_err()
        );
        assert!(connection.head().is_err());
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
