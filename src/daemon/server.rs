//! HTTP/1.1 over unix sockets: accepting, serving and letting go of connections.
//!
//! One task per connection, hyper inside it. A [`Service`] answers requests; where it answers with
//! a hijack, hyper is made to give the connection up untouched (its service fails, nothing has
//! been written for this request), the head is written here as Docker writes it, and the
//! descriptor goes on with the bytes that hyper had already read. This serves `101 UPGRADED` and
//! the old raw `200 OK` alike; hyper's own upgrades know only the former. `half_close` is on:
//! clients shut their sending side down and go on reading.
//!
//! ```text
//! accepted ─▶ peer is us? ─▶ request ─▶ answer ─▶ request … ─▶ closed
//!                 │ no                     └─ hijack ─▶ head ─▶ descriptor handed over
//!                 └▶ 403, closed
//! ```
//!
//! To stop: the listeners close, idle connections close, answers in flight are finished for up to
//! [`GRACE`]; endless ones break off by themselves (`peer.rs`).
//!
//! Limits: heads of 256 KiB and 256 fields, beyond which hyper answers 431.

use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};

use super::STACK;
use super::answer::{Answer, Hijack};
use super::peer::{Client, Socket};

/// How long answers in flight may take once the daemon is asked to stop.
pub const GRACE: Duration = Duration::from_secs(5);

/// The largest request head, and hyper's largest buffer, in bytes.
const HEAD_LIMIT: usize = 256 * 1024;

/// The most header fields of a request.
const FIELDS_LIMIT: usize = 256;

/// How long a client that is refused has to hang up.
const REFUSED: Duration = Duration::from_secs(1);

/// How long accepting pauses when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What answers requests.
pub trait Service: Send + Sync + 'static {
    /// Answers one request. Must not panic.
    fn answer(
        &self,
        request: hyper::Request<Incoming>,
        client: Client,
    ) -> impl Future<Output = Answer> + Send;
}

/// What all connections share: how many there are, and whether to stop.
#[derive(Debug)]
pub struct Connections {
    counts: watch::Sender<Counts>,
    stop: watch::Sender<bool>,
}

/// Numbers of connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Served now.
    pub open: usize,
    /// Accepted since the start.
    pub accepted: u64,
}

impl Default for Connections {
    fn default() -> Connections {
        Connections {
            counts: watch::Sender::new(Counts::default()),
            stop: watch::Sender::new(false),
        }
    }
}

impl Connections {
    /// The numbers now.
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Asks every listener and connection to end.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Resolves when [`Connections::stop`] was called.
    pub async fn stopped(&self) {
        // The sender is ours, so waiting cannot fail.
        let _ = self.stop.subscribe().wait_for(|&stop| stop).await;
    }

    /// Resolves when so many connections have been accepted.
    pub async fn accepted(&self, count: u64) {
        // The sender is ours, so waiting cannot fail.
        let mut counts = self.counts.subscribe();
        let _ = counts.wait_for(|counts| counts.accepted >= count).await;
    }

    /// Waits until every connection has ended, for at most [`GRACE`]; whether they did.
    pub async fn drained(&self) -> bool {
        let mut counts = self.counts.subscribe();
        let drained = counts.wait_for(|counts| counts.open == 0);
        tokio::time::timeout(GRACE, drained).await.is_ok()
    }
}

/// Counts a connection while it lives.
struct Open(Arc<Connections>);

impl Open {
    fn new(connections: &Arc<Connections>) -> Open {
        connections.counts.send_modify(|counts| {
            counts.open += 1;
            counts.accepted += 1;
        });
        Open(Arc::clone(connections))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.open -= 1);
    }
}

/// Accepts connections until asked to stop. Only processes of `uid` are served: root of the host is
/// nobody in particular in the daemon's user namespace.
pub async fn serve<S: Service>(
    listener: UnixListener,
    uid: u32,
    service: Arc<S>,
    connections: Arc<Connections>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.stopped() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let open = Open::new(&connections);
                let service = Arc::clone(&service);
                tokio::spawn(async move {
                    let stop = open.0.stop.subscribe();
                    connection(stream, uid, service, stop).await;
                    drop(open);
                });
            }
            // The client left before it was accepted, or descriptors ran out: both pass.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end.
async fn connection<S: Service>(
    stream: UnixStream,
    uid: u32,
    service: Arc<S>,
    mut stop: watch::Receiver<bool>,
) {
    let peer = stream.peer_cred().map(|peer| peer.uid());
    let socket = Socket::new(stream);
    if !matches!(peer, Ok(peer) if peer == uid) {
        tracing::warn!(?peer, "refused a connection of another user");
        refuse(&socket).await;
        return;
    }
    let hijack: Arc<Mutex<Option<Hijack>>> = Arc::default();
    let client = Client::new(socket.clone(), stop.clone());
    let handler = {
        let hijack = Arc::clone(&hijack);
        service_fn(move |request| {
            let (service, client) = (Arc::clone(&service), client.clone());
            let hijack = Arc::clone(&hijack);
            Box::pin(async move {
                match service.answer(request, client).await {
                    Answer::Http(response) => Ok(response),
                    Answer::Hijack(wanted) => {
                        *hijack.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
                        Err(LeavesHttp)
                    }
                }
            })
        })
    };
    let mut http = http1::Builder::new()
        .half_close(true)
        .title_case_headers(true)
        .header_read_timeout(None)
        .max_headers(FIELDS_LIMIT)
        .max_buf_size(HEAD_LIMIT)
        .serve_connection(TokioIo::new(socket), handler);
    let mut stopping = false;
    let result = loop {
        tokio::select! {
            result = poll_fn(|context| http.poll_without_shutdown(context)) => break result,
            _ = stop.wait_for(|&stop| stop), if !stopping => {
                stopping = true;
                std::pin::Pin::new(&mut http).graceful_shutdown();
            }
        }
    };
    let wanted = hijack.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (wanted, result) {
        (Some(hijack), _) => {
            let parts = http.into_parts();
            // The handler holds a share of the socket.
            drop(parts.service);
            hand_over(parts.io.into_inner(), parts.read_buf.to_vec(), hijack).await;
        }
        (None, Err(error)) => tracing::debug!(%error, "connection ended"),
        (None, Ok(())) => {}
    }
}

/// Ends hyper's part in a connection that is hijacked.
#[derive(Debug, thiserror::Error)]
#[error("the connection leaves HTTP")]
struct LeavesHttp;

/// Writes the head and gives the descriptor away.
async fn hand_over(socket: Socket, early: Vec<u8>, hijack: Hijack) {
    if let Err(error) = socket.write_all(hijack.head.as_bytes()).await {
        tracing::debug!(%error, "the client left before its connection was handed over");
        return;
    }
    let descriptor = match socket.into_descriptor() {
        Ok(descriptor) => descriptor,
        Err(error) => {
            tracing::error!(%error, "cannot take a connection over");
            return;
        }
    };
    // Not on the pool: it waits for a container's start or shim, and other requests for the pool.
    let (end, ended) = oneshot::channel();
    let take = move || {
        (hijack.take)(descriptor, early);
        // Nobody waits for it any more where the daemon ends.
        let _ = end.send(());
    };
    let thread = std::thread::Builder::new().name("hijack".to_owned());
    if let Err(error) = thread.stack_size(STACK).spawn(take) {
        tracing::error!(%error, "cannot start a thread to take a connection over");
    }
    if ended.await.is_err() {
        tracing::error!("taking a connection over failed");
    }
}

/// Answers a process of another user. The socket's mode keeps others out already; this holds
/// where it was loosened by hand or the socket came from outside.
async fn refuse(socket: &Socket) {
    const ANSWER: &str = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n\
        Content-Length: 60\r\nConnection: close\r\n\r\n\
        {\"message\":\"this engine serves only the user that runs it\"}\n";
    if let Err(error) = socket.write_all(ANSWER.as_bytes()).await {
        tracing::debug!(%error, "a refused client left");
        return;
    }
    // Were its request still unread when the socket closes, the client would see a reset first.
    let drained = async { while matches!(socket.skip().await, Ok(read) if read > 0) {} };
    let _ = tokio::time::timeout(REFUSED, drained).await;
}
