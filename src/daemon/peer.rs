//! The client's end of a connection: the socket that HTTP runs on, and whether anyone is there.
//!
//! hyper gets a [`Socket`], which shares the unix stream with the request being answered. That is
//! needed for two things. A hijacked connection's descriptor is taken out of it. And an endless
//! answer must notice that its client has left while nothing is being written: clients of the
//! Docker API half-close their side and go on reading, so end of file means nothing; only a hang-up
//! (`EPOLLHUP`: both directions shut) does. [`Ended`] waits for that on a descriptor of its own,
//! made only for answers that need it, or for the daemon to stop.
//!
//! Where curl is typed by hand, `?filters={"status":["running"]}` comes as it is. Go's server takes
//! that, while hyper's parser of addresses refuses quotes in a query, with a 400 that says nothing. So
//! what looks like a request's first line, where one may come, is escaped on its way to hyper.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;

/// A unix stream that hyper drives while a request's handler may look at it.
#[derive(Debug, Clone)]
pub struct Socket {
    stream: Arc<UnixStream>,
    /// What comes next may be a request: nothing was read yet, or something was answered since.
    expecting: bool,
}

/// Escapes what the address in a request's first line should not hold as it is; `None` for bytes that
/// need nothing, or do not begin with a whole such line.
fn escaped(bytes: &[u8]) -> Option<Vec<u8>> {
    let is_odd = |byte: &u8| matches!(byte, b'"' | b'<' | b'>' | 0x80..);
    let end = memchr::memchr(b'\n', bytes)?;
    let (line, rest) = bytes.split_at(end);
    let address = line.strip_suffix(b"\r").unwrap_or(line);
    let address = address
        .strip_suffix(b" HTTP/1.1")
        .or_else(|| address.strip_suffix(b" HTTP/1.0"))?;
    let space = memchr::memchr(b' ', address)?;
    let is_method = address[..space].iter().all(u8::is_ascii_uppercase);
    if !is_method || !address[space..].starts_with(b" /") || !address.iter().any(is_odd) {
        return None;
    }
    let mut escaped = Vec::with_capacity(bytes.len() + 64);
    for byte in line {
        match is_odd(byte) {
            true => escaped.extend(format!("%{byte:02X}").bytes()),
            false => escaped.push(*byte),
        }
    }
    escaped.extend(rest);
    Some(escaped)
}

/// How many times longer [`escaped`] bytes may be.
const LONGER: usize = 3;

impl Socket {
    /// Shares a stream.
    pub fn new(stream: UnixStream) -> Socket {
        Socket {
            stream: Arc::new(stream),
            expecting: true,
        }
    }

    /// The descriptor, still non-blocking.
    pub fn into_descriptor(self) -> io::Result<OwnedFd> {
        match Arc::try_unwrap(self.stream) {
            Ok(stream) => Ok(stream.into_std()?.into()),
            Err(shared) => shared.as_fd().try_clone_to_owned(),
        }
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads some bytes and forgets them; how many, 0 at the end.
    pub async fn skip(&self) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(&mut [0; 4096]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Something that resolves when the client hangs up or the daemon stops.
    pub fn ended(&self, stop: &watch::Receiver<bool>) -> io::Result<Ended> {
        let watched = self.stream.as_fd().try_clone_to_owned()?;
        let watched = UnixStream::from_std(watched.into())?;
        let mut stop = stop.clone();
        Ok(Ended(Box::pin(async move {
            tokio::select! {
                error = hang_up(watched) => error,
                // An error means that the daemon's side is gone, which is a stop as well.
                _ = stop.wait_for(|&stop| stop) => io::Error::other("the daemon is stopping"),
            }
        })))
    }
}

/// The client of a request.
#[derive(Debug, Clone)]
pub struct Client {
    socket: Socket,
    stop: watch::Receiver<bool>,
}

impl Client {
    /// The one at the other end of `socket`; `stop` tells that the daemon stops.
    pub fn new(socket: Socket, stop: watch::Receiver<bool>) -> Client {
        Client { socket, stop }
    }

    /// Resolves when the client hangs up or the daemon stops.
    pub fn ended(&self) -> io::Result<Ended> {
        self.socket.ended(&self.stop)
    }
}

/// Resolves at a hang-up. Readiness is edge-triggered: each look clears what is not a hang-up.
async fn hang_up(socket: UnixStream) -> io::Error {
    loop {
        match socket.ready(Interest::WRITABLE).await {
            Ok(ready) if ready.is_write_closed() => {
                return io::Error::new(io::ErrorKind::BrokenPipe, "the client left");
            }
            Ok(_) => {}
            Err(error) => return error,
        }
        // An operation that would block is what makes tokio forget that the socket is writable.
        let _ = socket.try_io(Interest::WRITABLE, || -> io::Result<()> {
            Err(io::ErrorKind::WouldBlock.into())
        });
    }
}

/// Resolves when an endless answer has no purpose any more.
pub struct Ended(Pin<Box<dyn Future<Output = io::Error> + Send>>);

impl std::fmt::Debug for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ended")
    }
}

impl Ended {
    /// Ready with the reason once it has ended.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        self.0.as_mut().poll(context)
    }
}

impl Future for Ended {
    type Output = io::Error;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Error> {
        self.0.as_mut().poll(context)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            // Filled through the initialised part: safe, and hyper's buffers are reused.
            let space = buffer.initialize_unfilled();
            let room = match self.expecting && space.len() >= LONGER {
                true => space.len() / LONGER,
                false => space.len(),
            };
            let space = &mut space[..room];
            match self.stream.try_read(space) {
                Ok(count) => {
                    let changed = escaped(&space[..count]).filter(|_| self.expecting);
                    self.expecting = false;
                    match changed {
                        Some(changed) => buffer.put_slice(&changed),
                        None => buffer.advance(count),
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.expecting = true;
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.expecting = true;
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            match self.stream.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = rustix::net::shutdown(self.stream.as_fd(), rustix::net::Shutdown::Write);
        Poll::Ready(result.map_err(io::Error::from))
    }
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn quotes_in_addresses_are_escaped_and_nothing_else() {
        let line = "GET /x?filters={\"a\":[\"ä\"]} HTTP/1.1\r\nA: \"b\"\r\n\r\n";
        let expected = "GET /x?filters={%22a%22:[%22%C3%A4%22]} HTTP/1.1\r\nA: \"b\"\r\n\r\n";
        assert_eq!(
            escaped(line.as_bytes()).as_deref(),
            Some(expected.as_bytes())
        );
        for same in [
            "GET /x HTTP/1.1\r\nA: \"b\"\r\n",
            "GET /\"x\" HTTP/1.1",
            "READ ME \"x\"\n",
            "get /\"x\" HTTP/1.1\r\n",
            "GET x\" HTTP/1.1\r\n",
            "",
        ] {
            assert_eq!(escaped(same.as_bytes()), None, "{same}");
        }
    }
}
