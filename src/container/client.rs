//! The daemon's side of all shims.
//!
//! One thread watches every shim's socket ([`Shims`] starts it and [`Shims`]' drop ends it): it hands
//! replies to whoever waits for them and everything else to the callback given at construction. A
//! start is the exception: the thread that asks for it waits for the reply itself and only then
//! leaves the socket to the monitor, which saves two thread switches of `docker run`'s time.
//!
//! **The callback** runs on the monitor thread, in the order in which the shim spoke. It may call
//! [`Shims::release`], which waits for nothing; anything that waits for a reply would wait for ever,
//! since only the monitor could deliver it. Ends ([`Message::Exited`], [`Message::Lost`]) are told on
//! a second thread, one after the other, as recording one may wait for the disk, which must not hold
//! up the replies of others. An exit may reach the callback before [`Shims::start`] has returned to
//! its caller's next statement. A panic in the callback costs the message that it was about.
//!
//! A socket that ends without [`Message::Exited`] becomes [`Message::Lost`]: the shim was killed, and
//! the keeper kills its container.

mod connection;
mod monitor;
mod start;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::protocol::{
    Attach, Failure, Message, Reply, Request, SOCKET, ShimState, Started, VERSION, mismatch,
};
use crate::sys::fdpass::Address;
use crate::types::id::ContainerId;
use crate::userns::plan::Process;
use connection::Shim;
use monitor::{STOP, Shared, tell};

pub use start::{Launched, NotStarted, Prepared};

/// How long a start may take: the slowest disk, not the slowest program, bounds it.
const START: Duration = Duration::from_secs(60);
/// How long any other request may take.
const ANSWER: Duration = Duration::from_secs(15);

/// What is done with a shim's messages.
pub type OnEvent = Box<dyn Fn(ContainerId, Message) + Send + Sync>;

/// All shims that this daemon is connected to.
pub struct Shims {
    shared: Arc<Shared>,
    monitor: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Shims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shims").finish_non_exhaustive()
    }
}

impl Shims {
    /// Starts the threads. `on_event` gets every message that is no reply.
    pub fn new(on_event: OnEvent) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &stop, EventData::new_u64(STOP), EventFlags::IN)?;
        let table = Mutex::default();
        let on_event = Arc::new(on_event);
        let told = Arc::clone(&on_event);
        let (ends, queue) = channel();
        std::thread::Builder::new()
            .name("ends".to_owned())
            .spawn(move || {
                for (id, message) in queue {
                    tell(&told, id, message);
                }
            })?;
        let shared = Arc::new(Shared {
            epoll,
            stop,
            table,
            next: AtomicU64::new(1),
            on_event,
            ends,
        });
        let monitor = Arc::clone(&shared);
        let monitor = std::thread::Builder::new()
            .name("shims".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || monitor.watch())?;
        Ok(Self {
            shared,
            monitor: Some(monitor),
        })
    }

    /// Connects to the shim of a container that an earlier daemon started; `runtime_dir` is the
    /// container's, where `shim.sock` is. It is waited for for as long as `patience`.
    ///
    /// # Errors
    /// `Unsupported` where it lives but speaks another version of the protocol; otherwise it is
    /// gone, or as good as that.
    pub fn adopt(
        &self,
        id: ContainerId,
        runtime_dir: &Path,
        patience: Duration,
    ) -> io::Result<ShimState> {
        // One that hangs, and whose queue is full of connections, is not waited for.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let address = Address::of(&runtime_dir.join(SOCKET))?;
        rustix::net::connect(&socket, &address.socket()?)?;
        let shim = Shim::new(id, self.shared.next.fetch_add(1, Ordering::Relaxed), socket);
        let deadline = Instant::now() + patience.min(ANSWER);
        let seq = shim.send(Request::Hello { version: VERSION }, Vec::new(), deadline)?;
        let unsupported = |reason| io::Error::new(io::ErrorKind::Unsupported, reason);
        let state = match shim.wait_alone(seq, deadline)? {
            Reply::State(state) => state,
            Reply::Failed(failure) => return Err(unsupported(failure.message)),
            _ => return Err(unsupported("not a shim's answer".to_owned())),
        };
        // One that did not look at ours.
        if let Some(reason) = mismatch(state.version, VERSION) {
            return Err(unsupported(reason));
        }
        let runs = state.running.is_some() && state.exit.is_none();
        shim.exited.store(!runs, Ordering::SeqCst);
        self.shared.add(shim)?;
        Ok(state)
    }

    /// Has [`Message::Lost`] told when the shim of a container, which cannot be reached, ends;
    /// until it is reached after all.
    pub fn await_end(&self, id: ContainerId, process: OwnedFd) -> io::Result<()> {
        let token = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let shim = Arc::new(Shim::new(id, token, process));
        let mut table = self.shared.table();
        table.by_token.insert(token, Arc::clone(&shim));
        table.watched.insert(id, token);
        drop(table);
        // A pidfd is readable once its process has ended; that it is no socket to be read from is
        // to the monitor as good as a connection's end.
        epoll::add(
            &self.shared.epoll,
            &shim.socket,
            EventData::new_u64(token),
            EventFlags::IN,
        )?;
        Ok(())
    }

    /// Joins a client to the first process's streams.
    pub fn attach(&self, id: &ContainerId, attach: Attach, fd: OwnedFd) -> Result<(), Failure> {
        self.ask(id, Request::Attach(attach), vec![fd], ANSWER)
            .map(drop)
    }

    /// Sends a signal to the first process.
    pub fn kill(&self, id: &ContainerId, signal: i32) -> Result<(), Failure> {
        self.ask(id, Request::Kill { signal }, Vec::new(), ANSWER)
            .map(drop)
    }

    /// Sets the size of the first process's terminal, or of an exec session's.
    pub fn resize(
        &self,
        id: &ContainerId,
        exec: Option<&str>,
        rows: u16,
        cols: u16,
    ) -> Result<(), Failure> {
        let exec = exec.map(str::to_owned);
        self.ask(id, Request::Resize { exec, rows, cols }, Vec::new(), ANSWER)
            .map(drop)
    }

    /// Runs one more process in the container, with a client or detached. The client's stream ends
    /// after the callback has returned from [`Message::ExecExited`].
    ///
    /// # Errors
    ///
    /// Docker's whole sentence, which the client, if there is one, has been told already.
    pub fn exec(
        &self,
        id: &ContainerId,
        exec: &str,
        process: &Process,
        client: Option<(Attach, OwnedFd)>,
    ) -> Result<Started, Failure> {
        let (attach, fd) = client.unzip();
        let request = Request::Exec {
            id: exec.to_owned(),
            process: Box::new(process.clone()),
            attach,
        };
        match self.ask(id, request, fd.into_iter().collect(), START)? {
            Reply::Started { started, .. } => Ok(started),
            _ => Err(Failure::own("the shim gave an answer to another question")),
        }
    }

    /// Lets a container's shim leave: its exit is recorded. Waits for nothing. A shim whose container
    /// runs, because it has been started again meanwhile, is not meant.
    pub fn release(&self, id: &ContainerId) {
        if let Some(shim) = self.shared.table().by_container.get(id)
            && shim.exited.load(Ordering::SeqCst)
        {
            // A shim that is gone, or so far behind that its queue is full, leaves by itself
            // when this connection ends.
            let _ = shim.send(Request::Release, Vec::new(), Instant::now());
        }
    }

    /// Whether there is a connection to the container's shim.
    pub fn is_connected(&self, id: &ContainerId) -> bool {
        self.shared.table().by_container.contains_key(id)
    }

    fn ask(
        &self,
        id: &ContainerId,
        request: Request,
        fds: Vec<OwnedFd>,
        limit: Duration,
    ) -> Result<Reply, Failure> {
        let shim = self.shared.table().by_container.get(id).cloned();
        let shim = shim.ok_or_else(|| Failure::own("the container's shim cannot be reached"))?;
        let failed = |e: io::Error| Failure::own(format!("the container's shim: {e}"));
        let deadline = Instant::now() + limit;
        let (seq, packet) = shim.packet(request, fds).map_err(failed)?;
        let (sender, receiver) = sync_channel(1);
        shim.waiting().insert(seq, sender);
        let sent = packet
            .send_until(shim.socket.as_fd(), deadline)
            .map_err(failed);
        let left = deadline.saturating_duration_since(Instant::now());
        let reply = sent.and_then(|()| {
            receiver.recv_timeout(left).map_err(|e| match e {
                RecvTimeoutError::Timeout => Failure::own(format!(
                    "the container's shim did not answer within {} seconds",
                    limit.as_secs()
                )),
                RecvTimeoutError::Disconnected => Failure::own("the container's shim is gone"),
            })
        });
        shim.waiting().remove(&seq);
        match reply? {
            Reply::Failed(failure) => Err(failure),
            reply => Ok(reply),
        }
    }
}

impl Drop for Shims {
    fn drop(&mut self) {
        // An eventfd takes this unless its counter is full, and then it is readable already.
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        if let Some(monitor) = self.monitor.take() {
            let _ = monitor.join();
        }
    }
}
