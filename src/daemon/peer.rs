//! The client's end of a connection: the socket that HTTP runs on, and whether anyone is there.
//!
//! hyper gets a [`Socket`], which shares the unix stream with the request being answered. That is
//! needed for two things. A hijacked connection's descriptor is taken out of it. And an endless
//! answer must notice that its client has left while nothing is being written: clients of the
//! Docker API half-close their side and go on reading, so end of file means nothing; only a hang-up
//! (`EPOLLHUP`: both directions shut) does. [`Ended`] waits for that on a descriptor of its own,
//! made only for answers that need it, or for the daemon to stop.

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
pub struct Socket(Arc<UnixStream>);

impl Socket {
    /// Shares a stream.
    pub fn new(stream: UnixStream) -> Socket {
        Socket(Arc::new(stream))
    }

    /// The descriptor, still non-blocking.
    pub fn into_descriptor(self) -> io::Result<OwnedFd> {
        match Arc::try_unwrap(self.0) {
            Ok(stream) => Ok(stream.into_std()?.into()),
            Err(shared) => shared.as_fd().try_clone_to_owned(),
        }
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.0.writable().await?;
            match self.0.try_write(bytes) {
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
            self.0.readable().await?;
            match self.0.try_read(&mut [0; 4096]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Something that resolves when the client hangs up or the daemon stops.
    pub fn ended(&self, stop: &watch::Receiver<bool>) -> io::Result<Ended> {
        let watched = self.0.as_fd().try_clone_to_owned()?;
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
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            // Filled through the initialised part: safe, and hyper's buffers are reused.
            match self.0.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
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
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write_vectored(slices) {
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
        let result = rustix::net::shutdown(self.0.as_fd(), rustix::net::Shutdown::Write);
        Poll::Ready(result.map_err(io::Error::from))
    }
}
