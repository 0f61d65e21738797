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

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::packet::{MOST_DESCRIPTORS, Packet, pair, receive, receive_until};
use super::protocol::{
    Attach, Envelope, Failure, Message, Reply, Request, SOCKET, ShimState, Start, Started, VERSION,
    mismatch,
};
use crate::sys::fdpass::Address;
use crate::types::id::ContainerId;
use crate::userns::plan::{Process, ProcessIdentity};

/// How long a start may take: the slowest disk, not the slowest program, bounds it.
const START: Duration = Duration::from_secs(60);
/// How long any other request may take.
const ANSWER: Duration = Duration::from_secs(15);
/// Epoll data of the eventfd that ends the monitor; connections count from 1.
const STOP: u64 = 0;

/// What is done with a shim's messages.
pub type OnEvent = Box<dyn Fn(ContainerId, Message) + Send + Sync>;

/// All shims that this daemon is connected to.
pub struct Shims {
    shared: Arc<Shared>,
    monitor: Option<JoinHandle<()>>,
}

/// A container that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launched {
    /// Its first process.
    pub started: Started,
    /// What each phase of the start took, in nanoseconds, in order.
    pub phases: Vec<(String, u64)>,
    /// What was left out or replaced because this host refuses it, one sentence each.
    pub notes: Vec<String>,
}

/// A container whose start is done up to its last step, in a shim of its own. Dropped, nothing is
/// left of it.
pub struct Prepared {
    shim: Option<Shim>,
    shared: Arc<Shared>,
    /// Number of the request to prepare, whose answer is not read yet.
    seq: u64,
}

/// Why a container was not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotStarted {
    /// What went wrong.
    pub failure: Failure,
    /// Nothing of the container's own has run.
    pub never_ran: bool,
}

impl NotStarted {
    fn never(failure: Failure) -> Self {
        let never_ran = true;
        Self { failure, never_ran }
    }

    fn perhaps(failure: Failure) -> Self {
        let never_ran = false;
        Self { failure, never_ran }
    }
}

struct Shared {
    epoll: OwnedFd,
    stop: OwnedFd,
    table: Mutex<Table>,
    next: AtomicU64,
    on_event: Arc<OnEvent>,
    /// To the thread that tells of ends; it goes when this is dropped.
    ends: Sender<(ContainerId, Message)>,
}

#[derive(Default)]
struct Table {
    by_container: HashMap<ContainerId, Arc<Shim>>,
    by_token: HashMap<u64, Arc<Shim>>,
    /// Processes whose end alone is waited for, by their tokens.
    watched: HashMap<ContainerId, u64>,
    /// Those that have prepared a start which may never be asked for.
    waiting: HashMap<u64, ContainerId>,
}

/// One connection.
#[derive(Debug)]
struct Shim {
    id: ContainerId,
    token: u64,
    socket: OwnedFd,
    seq: AtomicU64,
    waiting: Mutex<HashMap<u64, SyncSender<Reply>>>,
    /// Its container has ended or never began, so its own end is no news.
    exited: AtomicBool,
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

    /// Has `spawn` (the keeper) fork a shim with one end of a socket pair, and the shim take `start`
    /// up to its last step. Waits for nothing: what goes wrong in the shim, [`Shims::start`] tells.
    ///
    /// # Errors
    /// That the shim could not be made (code 125).
    pub fn prepare(
        &self,
        spawn: &dyn Fn(OwnedFd) -> io::Result<()>,
        start: Start,
    ) -> Result<Prepared, Failure> {
        let (ours, theirs) = pair().map_err(|error| unmade(&error))?;
        let token = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let shim = Shim::new(start.id, token, ours);
        // Sent before the shim exists, so that it need not wait for it.
        let prepare = Request::Prepare(Box::new(start));
        let seq = shim
            .send(prepare, Vec::new(), Instant::now() + START)
            .map_err(|error| unmade(&error))?;
        spawn(theirs).map_err(|error| unmade(&error))?;
        Ok(Prepared {
            shim: Some(shim),
            shared: Arc::clone(&self.shared),
            seq,
        })
    }

    /// Has [`Message::Lapsed`] told when the shim has waited long enough for its start, or is gone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch(&self, prepared: &Prepared) -> io::Result<()> {
        let Some(shim) = &prepared.shim else {
            return Ok(());
        };
        self.shared.table().waiting.insert(shim.token, shim.id);
        // An end alone is of interest, which is always told, and once.
        let (data, flags) = (EventData::new_u64(shim.token), EventFlags::ONESHOT);
        Ok(epoll::add(&self.shared.epoll, &shim.socket, data, flags)?)
    }

    /// Waits until a container is prepared, and says which process waits to be let go: its
    /// namespaces are there. To be asked once.
    ///
    /// # Errors
    /// What the stage says, or that the shim does not answer. The container does not run then.
    pub fn process_of(&self, prepared: &Prepared) -> Result<ProcessIdentity, NotStarted> {
        let deadline = Instant::now() + START;
        let gone = || NotStarted::never(Failure::own("the shim is gone"));
        let shim = prepared.shim.as_ref().ok_or_else(gone)?;
        match shim.wait_alone(prepared.seq, deadline) {
            Ok(Reply::Prepared(process)) => Ok(process),
            Ok(Reply::Failed(failure)) => Err(NotStarted::never(failure)),
            Ok(_) => Err(NotStarted::never(Failure::own(
                "the shim gave an answer to another question",
            ))),
            Err(error) => Err(NotStarted::never(unmade(&error))),
        }
    }

    /// Starts the container that is prepared, joined by `clients`.
    ///
    /// # Errors
    /// What the stage says, or that the shim does not answer (code 125). The container does not run
    /// then, and nothing is left of what was prepared.
    pub fn start(
        &self,
        mut prepared: Prepared,
        clients: &[(Attach, OwnedFd)],
    ) -> Result<Launched, NotStarted> {
        let gone = || NotStarted::never(Failure::own("the shim is gone"));
        let shim = prepared.take().ok_or_else(gone)?;
        let deadline = Instant::now() + START;
        let sent = shim.send_start(clients, deadline);
        let seq = sent.map_err(|error| NotStarted::never(unmade(&error)))?;
        match shim.wait_alone(seq, deadline) {
            Ok(Reply::Started {
                started,
                phases,
                notes,
            }) => {
                let added = self.shared.add(shim);
                added.map_err(|error| NotStarted::perhaps(unmade(&error)))?;
                Ok(Launched {
                    started,
                    phases,
                    notes,
                })
            }
            Ok(Reply::Failed(failure)) => Err(NotStarted::never(failure)),
            Ok(_) => Err(NotStarted::perhaps(Failure::own(
                "the shim gave an answer to another question",
            ))),
            Err(error) => {
                // Should it start the container after all, it is to end it at once.
                let kill = Request::Kill {
                    signal: libc::SIGKILL,
                };
                let _ = shim.send(kill, Vec::new(), Instant::now());
                let _ = shim.send(Request::Release, Vec::new(), Instant::now());
                let failure =
                    Failure::own(format!("the shim did not start the container: {error}"));
                // The kernel's word for an end with our request still unread.
                match error.kind() == io::ErrorKind::ConnectionReset {
                    true => Err(NotStarted::never(failure)),
                    false => Err(NotStarted::perhaps(failure)),
                }
            }
        }
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

impl Prepared {
    /// Whether its shim has waited long enough, or is gone.
    pub fn has_lapsed(&self) -> bool {
        let Some(shim) = &self.shim else {
            return true;
        };
        let mut polled = [PollFd::new(&shim.socket, PollFlags::empty())];
        let now = Timespec::default();
        poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
    }

    /// Takes the shim out, which nobody waits for any more.
    fn take(&mut self) -> Option<Shim> {
        let shim = self.shim.take()?;
        if self.shared.table().waiting.remove(&shim.token).is_some() {
            let _ = epoll::delete(&self.shared.epoll, &shim.socket);
        }
        Some(shim)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Prepared").field(&self.shim).finish()
    }
}

impl Shim {
    fn new(id: ContainerId, token: u64, socket: OwnedFd) -> Self {
        let waiting = Mutex::default();
        Self {
            id,
            token,
            socket,
            seq: AtomicU64::new(0),
            waiting,
            exited: false.into(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, SyncSender<Reply>>> {
        // Held only for single operations on the map, which a panic cannot leave half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn packet(&self, request: Request, fds: Vec<OwnedFd>) -> io::Result<(u64, Packet)> {
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        Ok((seq, Packet::new(&Envelope { seq, request }, fds)?))
    }

    fn send(&self, request: Request, fds: Vec<OwnedFd>, deadline: Instant) -> io::Result<u64> {
        let (seq, packet) = self.packet(request, fds)?;
        packet.send_until(self.socket.as_fd(), deadline)?;
        Ok(seq)
    }

    /// Tells a shim to start what it has prepared. A message carries a limited number of
    /// descriptors; more clients go ahead, one by one.
    fn send_start(&self, clients: &[(Attach, OwnedFd)], deadline: Instant) -> io::Result<u64> {
        let (clients, rest) = clients.split_at(clients.len().min(MOST_DESCRIPTORS));
        for (attach, connection) in rest {
            let connection = connection.try_clone()?;
            self.send(Request::Attach(attach.clone()), vec![connection], deadline)?;
        }
        let attach = clients.iter().map(|(attach, _)| attach.clone()).collect();
        let connections = clients.iter().map(|(_, connection)| connection.try_clone());
        let connections = connections.collect::<io::Result<_>>()?;
        self.send(Request::Start { attach }, connections, deadline)
    }

    /// Waits for a reply while the monitor does not know this connection yet.
    fn wait_alone(&self, wanted: u64, deadline: Instant) -> io::Result<Reply> {
        loop {
            match receive_until(self.socket.as_fd(), deadline)? {
                Some((Message::Reply { seq, reply }, _)) if seq == wanted => return Ok(reply),
                // Answers to what went ahead of a start.
                Some(_) => {}
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is gone")),
            }
        }
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Held only for single operations on the maps, which a panic cannot leave half done.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, shim: Shim) -> io::Result<()> {
        let shim = Arc::new(shim);
        let mut table = self.table();
        table.by_token.insert(shim.token, Arc::clone(&shim));
        if let Some(old) = table.by_container.insert(shim.id, Arc::clone(&shim)) {
            // A container that was started again before its former shim had left.
            table.by_token.remove(&old.token);
            let _ = epoll::delete(&self.epoll, &old.socket);
        }
        // Its connection tells more, and a container may have another shim before this one ends.
        let watched = table.watched.remove(&shim.id);
        if let Some(old) = watched.and_then(|token| table.by_token.remove(&token)) {
            let _ = epoll::delete(&self.epoll, &old.socket);
        }
        drop(table);
        epoll::add(
            &self.epoll,
            &shim.socket,
            EventData::new_u64(shim.token),
            EventFlags::IN,
        )?;
        Ok(())
    }

    fn watch(&self) {
        let mut space = [MaybeUninit::<Event>::uninit(); 64];
        loop {
            let tokens: Vec<u64> = match epoll::wait(&self.epoll, &mut space[..], None) {
                Ok((events, _)) => events.iter().map(|event| event.data.u64()).collect(),
                Err(_) => continue,
            };
            for token in tokens {
                if token == STOP {
                    return;
                }
                let mut table = self.table();
                let lapsed = table.waiting.remove(&token);
                let shim = table.by_token.get(&token).cloned();
                drop(table);
                if let Some(shim) = shim {
                    self.listen(&shim);
                }
                if let Some(id) = lapsed {
                    self.tell(id, Message::Lapsed);
                }
            }
        }
    }

    /// Takes all that a shim has said.
    fn listen(&self, shim: &Shim) {
        loop {
            match receive::<Message>(shim.socket.as_fd()) {
                Ok(Some((message, _))) => self.hear(shim, message),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The end, or nonsense, after which nothing can be relied on.
                Ok(None) | Err(_) => break,
            }
        }
        let mut table = self.table();
        table.by_token.remove(&shim.token);
        if table
            .by_container
            .get(&shim.id)
            .is_some_and(|now| now.token == shim.token)
        {
            table.by_container.remove(&shim.id);
        }
        if table.watched.get(&shim.id) == Some(&shim.token) {
            table.watched.remove(&shim.id);
        }
        drop(table);
        let _ = epoll::delete(&self.epoll, &shim.socket);
        // Dropping the senders tells the waiters.
        shim.waiting().clear();
        if !shim.exited.load(Ordering::SeqCst) {
            self.tell(shim.id, Message::Lost);
        }
    }

    fn tell(&self, id: ContainerId, message: Message) {
        match message {
            Message::Exited(_) | Message::Lost => {
                // The other side goes only after this one.
                let _ = self.ends.send((id, message));
            }
            _ => tell(&self.on_event, id, message),
        }
    }

    fn hear(&self, shim: &Shim, message: Message) {
        let seen = match &message {
            Message::Reply { .. } => None,
            Message::ExecExited { id, .. } => Some(Request::ExecSeen { id: id.clone() }),
            Message::Exited(_) => {
                shim.exited.store(true, Ordering::SeqCst);
                None
            }
            Message::Detached { .. }
            | Message::LogFailed { .. }
            | Message::Lost
            | Message::Lapsed => None,
        };
        if let Message::Reply { seq, reply } = message {
            let waiter = shim.waiting().remove(&seq);
            // Whoever asked may have given up.
            let _ = waiter.map(|waiter| waiter.send(reply));
            return;
        }
        self.tell(shim.id, message);
        if let Some(seen) = seen {
            // Lost, it costs the client a moment: the shim does not wait for ever.
            let _ = shim.send(seen, Vec::new(), Instant::now());
        }
    }
}

/// Calls the callback.
fn tell(on_event: &OnEvent, id: ContainerId, message: Message) {
    // What the callback shares with others it guards by itself.
    if catch_unwind(AssertUnwindSafe(|| on_event(id, message))).is_err() {
        tracing::error!(
            id = id.short(),
            "a defect: what the container's shim told could not be acted upon"
        );
    }
}

fn unmade(error: &io::Error) -> Failure {
    Failure::own(format!("failed to start a shim: {error}"))
}
