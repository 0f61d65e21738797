//! Answers: what a handler gives back, and how it is written.
//!
//! A handler returns `Result<Answer, Failure>`. A [`Failure`] is a status and a sentence, written
//! as Docker writes it: `{"message":"…"}` and a newline. An [`Answer`] is an ordinary response or
//! a [`Hijack`]: the connection stops being HTTP and its descriptor goes to someone else.
//!
//! Bodies are of three kinds: nothing, bytes that are at hand, and a stream that another thread
//! feeds through a bounded channel. An endless stream (followed logs, events, a wait) also ends
//! when its client leaves or the daemon does: it is then broken off rather than finished, so that
//! the client can tell. See `peer.rs` for how leaving is noticed.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::StatusCode;
use hyper::body::{Bytes, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::api::error::ErrorBody;

use super::peer::Ended;

/// An HTTP response of ours.
pub type Response = hyper::Response<Body>;

/// How many pieces of an ordinary stream may wait for the client.
pub const STREAM_DEPTH: usize = 16;

/// What a handler gives back when all is well.
#[derive(Debug)]
pub enum Answer {
    /// An HTTP response.
    Http(Response),
    /// The connection leaves HTTP.
    Hijack(Hijack),
}

impl From<Response> for Answer {
    fn from(response: Response) -> Answer {
        Answer::Http(response)
    }
}

/// What a handler gives back when something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The status code.
    pub status: StatusCode,
    /// One sentence, as Docker words it.
    pub message: String,
}

impl Failure {
    /// A failure of any status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Failure {
        Failure {
            status,
            message: message.into(),
        }
    }

    /// 400: the client's mistake.
    pub fn bad_request(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404 for a path that does not exist, or not for this method.
    pub fn page_not_found() -> Failure {
        Failure::new(StatusCode::NOT_FOUND, "page not found")
    }

    /// 501 for a part of the API that moss does not have.
    pub fn not_implemented(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// 500.
    pub fn internal(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The response: JSON, or plain text for clients that would show JSON as it is.
    pub fn response(&self, plain: bool) -> Response {
        // 304 has no body by definition.
        if self.status == StatusCode::NOT_MODIFIED {
            return empty(self.status);
        }
        if plain {
            let mut response = bytes(
                self.status,
                "text/plain; charset=utf-8",
                format!("{}\n", self.message),
            );
            response.headers_mut().insert(
                "X-Content-Type-Options",
                HeaderValue::from_static("nosniff"),
            );
            return response;
        }
        json(self.status, &ErrorBody::new(&self.message))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status.as_u16(), self.message)
    }
}

/// A connection that leaves HTTP: these bytes are written to the client, then `take` gets its
/// descriptor (non-blocking) and whatever the client sent early.
pub struct Hijack {
    /// Status line and headers.
    pub head: String,
    /// Whoever speaks with the client from here on; called on a thread of its own.
    pub take: Box<dyn FnOnce(OwnedFd, Vec<u8>) + Send>,
}

impl fmt::Debug for Hijack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hijack")
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

/// A response's body.
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    Empty,
    /// Bytes at hand; taken when sent.
    Full(Bytes),
    /// Bytes to come.
    Stream(Stream),
}

/// A body that is fed from elsewhere.
#[derive(Debug)]
pub struct Stream {
    /// Taken out of the queue already.
    first: Option<io::Result<Bytes>>,
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    ended: Option<Ended>,
    on_end: OnEnd,
}

/// Runs a function once, when dropped.
#[derive(Default)]
struct OnEnd(Option<Box<dyn FnOnce() + Send>>);

impl fmt::Debug for OnEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnEnd")
    }
}

impl Drop for OnEnd {
    fn drop(&mut self) {
        if let Some(run) = self.0.take() {
            run();
        }
    }
}

/// The feeding end of a [`Stream`]. Sending fails once the client is gone.
#[derive(Debug, Clone)]
pub struct Feed {
    pieces: mpsc::Sender<io::Result<Bytes>>,
}

/// The client of a stream is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl Feed {
    /// Sends a piece from a thread, waiting for room.
    pub fn send(&self, piece: impl Into<Bytes>) -> Result<(), Gone> {
        self.pieces
            .blocking_send(Ok(piece.into()))
            .map_err(|_| Gone)
    }

    /// Sends a piece if there is room, without ever waiting. A client so slow that the channel is
    /// full is given up, as its sender may be under somebody's lock.
    pub fn try_send(&self, piece: impl Into<Bytes>) -> Result<(), Gone> {
        self.pieces.try_send(Ok(piece.into())).map_err(|_| Gone)
    }

    /// Breaks the answer off, so that the client sees that it is not whole.
    pub fn break_off(&self, error: io::Error) {
        // Where the client is gone there is nobody to tell.
        let _ = self.pieces.blocking_send(Err(error));
    }

    /// Whether a piece could be sent without waiting; where nobody else sends, it can be then.
    pub fn has_room(&self) -> bool {
        self.pieces.capacity() > 0
    }

    /// Whether the client is gone.
    pub fn is_gone(&self) -> bool {
        self.pieces.is_closed()
    }
}

impl io::Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.send(Bytes::copy_from_slice(bytes)) {
            Ok(()) => Ok(bytes.len()),
            Err(Gone) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream of which `depth` pieces may wait, and its feed.
pub fn stream(depth: usize) -> (Feed, Stream) {
    let (sender, pieces) = mpsc::channel(depth);
    let stream = Stream {
        first: None,
        pieces,
        ended: None,
        on_end: OnEnd::default(),
    };
    (Feed { pieces: sender }, stream)
}

impl Stream {
    /// Breaks off when `ended` resolves.
    pub fn until(mut self, ended: Ended) -> Stream {
        self.ended = Some(ended);
        self
    }

    /// Waits for the first piece, so that the answer's head goes out with it and not before: as in
    /// dockerd, whose clients may take the head for the end of what was asked.
    pub async fn begun(mut self) -> Stream {
        self.first = poll_fn(|context| self.poll_piece(context)).await;
        self
    }

    /// The next piece; `None` at the end, and where the stream breaks off.
    pub async fn next(&mut self) -> Option<Bytes> {
        poll_fn(|context| self.poll_piece(context)).await?.ok()
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        if let Poll::Ready(piece) = self.pieces.poll_recv(context) {
            return Poll::Ready(piece);
        }
        match self.ended.as_mut().map(|ended| ended.poll(context)) {
            Some(Poll::Ready(error)) => Poll::Ready(Some(Err(error))),
            _ => Poll::Pending,
        }
    }

    /// Calls `run` when the stream ends, in whatever way: its feed's thread may be asleep.
    pub fn on_end(mut self, run: impl FnOnce() + Send + 'static) -> Stream {
        self.on_end = OnEnd(Some(Box::new(run)));
        self
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Body::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Body::Stream(stream) => stream
                .poll_piece(context)
                .map(|piece| piece.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(bytes) => bytes.is_empty(),
            Body::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Stream(_) => SizeHint::default(),
        }
    }
}

/// A response with no body.
pub fn empty(status: StatusCode) -> Response {
    with_body(status, Body::Empty)
}

/// 204.
pub fn no_content() -> Answer {
    empty(StatusCode::NO_CONTENT).into()
}

/// A response with these bytes.
pub fn bytes(status: StatusCode, kind: &'static str, bytes: impl Into<Bytes>) -> Response {
    let mut response = with_body(status, Body::Full(bytes.into()));
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// A response with a value as JSON and a newline, as Go's encoder writes it.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match line(value) {
        Ok(text) => bytes(status, "application/json", text),
        Err(failure) => failure.response(false),
    }
}

/// 200 with a value as JSON.
pub fn ok(value: &impl Serialize) -> Answer {
    json(StatusCode::OK, value).into()
}

/// A streamed 200.
pub fn streamed(kind: &'static str, stream: Stream) -> Answer {
    let mut response = with_body(StatusCode::OK, Body::Stream(stream));
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response.into()
}

/// A value as one line of JSON.
pub fn line(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    let mut text = serde_json::to_vec(value)
        .map_err(|error| Failure::internal(format!("cannot write the answer as JSON: {error}")))?;
    text.push(b'\n');
    Ok(text)
}

fn with_body(status: StatusCode, body: Body) -> Response {
    let mut response = hyper::Response::new(body);
    *response.status_mut() = status;
    response
}
