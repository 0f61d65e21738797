//! One network's worker: a thread in the host's namespace that serves its names and its published
//! ports, and holds no capability at all. What has to be made in the network's namespace it asks its
//! [`Helper`] for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::CapabilitySet;

use super::answers::Answers;
use super::descriptors::Descriptors;
use super::dns::Dns;
use super::egress::{Egress, Limits, Settings};
use super::helper::{Helper, set_capabilities};
use super::ports::Ports;
use super::reactor::Reactor;
use super::sockets::HostSockets;
use super::state::{Book, NetworkState, Publication};
use super::{Confine, MOST_FAILED};
use crate::sys::fdpass;
use crate::types::port::Protocol;

/// The host's name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Where names are answered in networks that users made.
const RESOLVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 11));

/// How often it is tried to serve names where that fails.
const AGAIN: Duration = Duration::from_millis(500);

/// The port of name servers.
const DNS: u16 = 53;

/// What a worker is told: that the network's state is another.
#[derive(Debug, Default)]
pub struct Change {
    /// Sockets that are bound already, and what for.
    pub given: Vec<(Publication, OwnedFd)>,
    /// Whoever told it waits there for an [`Answer`](super::Answer).
    pub answer: Option<OwnedFd>,
}

/// Talks to a worker, which ends when this is dropped.
#[derive(Debug)]
pub struct Worker {
    changes: Option<Sender<Change>>,
    wake: Arc<OwnedFd>,
}

impl Worker {
    /// Starts the worker of a network.
    pub fn start(
        network: String,
        namespace: OwnedFd,
        (book, sockets): (Arc<Book>, Arc<HostSockets>),
        confine: Confine,
    ) -> io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (changes, queue) = channel();
        let ears = Arc::clone(&wake);
        std::thread::Builder::new()
            .name("network".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                let changes = (&queue, &*ears);
                if let Err(error) = work(&network, namespace, (&book, sockets), changes, confine) {
                    tracing::error!("network {network} is not served: {error}");
                }
            })?;
        Ok(Self {
            changes: Some(changes),
            wake,
        })
    }

    /// Tells it that the network's state is another.
    pub fn change(&self, change: Change) {
        if let Some(changes) = &self.changes
            && changes.send(change).is_ok()
        {
            self.wake();
        }
    }

    fn wake(&self) {
        // Takes this unless it is awake already.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.changes = None;
        self.wake();
    }
}

fn work(
    network: &str,
    namespace: OwnedFd,
    (book, sockets): (&Book, Arc<HostSockets>),
    (changes, wake): (&Receiver<Change>, &OwnedFd),
    confine: Confine,
) -> io::Result<()> {
    let helper = Helper::start(namespace)?;
    set_capabilities(CapabilitySet::empty())?;
    let mut reactor = Reactor::new()?;
    let awake = reactor.token();
    reactor.add(wake, awake, EventFlags::IN)?;
    let mut dns = resolver(network, &book.get(network), &helper, &mut reactor);
    let mut again = None;
    let mut way_out = None;
    // When it is tried again, where something was wanting; or first, for nobody tells of a change
    // where this process took the place of one that died.
    let mut lacking = Some(Instant::now());
    let mut changed = true;
    let answers = Arc::new(Answers::default());
    let mut ports = Ports::new(Arc::clone(&answers), sockets);
    ports.apply(&book.get(network), Vec::new(), &helper, &mut reactor);
    loop {
        let resolving = dns.as_ref().and_then(Dns::deadline);
        let until = resolving
            .into_iter()
            .chain(ports.deadline())
            .chain(again)
            .chain(lacking)
            .min();
        let ready = reactor.wait(until)?;
        for ready in ready {
            if ready.token == awake {
                let _ = rustix::io::read(wake, &mut [0_u8; 8]);
                loop {
                    match changes.try_recv() {
                        Ok(Change { given, answer }) => {
                            changed = true;
                            let state = book.get(network);
                            let failed = ports.apply(&state, given, &helper, &mut reactor);
                            if let Some(answer) = answer {
                                tell(&answer, &failed);
                            }
                        }
                        Err(TryRecvError::Empty) => break,
                        Err(TryRecvError::Disconnected) => return Ok(()),
                    }
                }
            } else {
                let names = dns
                    .as_mut()
                    .is_some_and(|dns| dns.handle(ready, book, &mut reactor));
                if !names {
                    ports.handle(ready, &helper, &mut reactor);
                }
            }
        }
        let now = Instant::now();
        if let Some(dns) = &mut dns {
            dns.expire(now, &mut reactor);
        }
        ports.expire(now, &helper, &mut reactor);
        // Its port may be held for a moment yet by a process that is about to end.
        if dns.is_none() && again.is_none_or(|again| again <= now) {
            dns = resolver(network, &book.get(network), &helper, &mut reactor);
            again = dns.is_none().then(|| now + AGAIN);
        }
        let overdue = lacking.take_if(|again| *again <= now).is_some();
        if changed || overdue {
            let state = book.get(network);
            let known = way_out.as_ref().map(|(loopback, _)| *loopback);
            if !state.id.is_empty() && (overdue || known != Some(state.host_loopback)) {
                // The device of the one before has the name.
                drop(way_out.take());
                let started = WayOut::start(&state, &helper, confine, &answers);
                let lacks = started.as_ref().is_err_and(is_passing);
                lacking = lacks.then(|| now + AGAIN);
                way_out = Some((state.host_loopback, started.unwrap_or_default()));
            }
            changed = state.id.is_empty();
        }
    }
}

/// Answers that a change is done.
fn tell(answer: &OwnedFd, failed: &[(Publication, i32)]) {
    let failed = failed.get(..MOST_FAILED).unwrap_or(failed);
    if let Ok(bytes) = serde_json::to_vec(failed) {
        // Who no longer waits is not told.
        let _ = fdpass::send_at_once(answer, &bytes, &[]);
    }
}

/// Whether this may be better in a moment.
fn is_passing(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    // Busy is the device's name, by a process that is about to end.
    [
        libc::EBUSY,
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOMEM,
        libc::EAGAIN,
    ]
    .into_iter()
    .any(|it| number == Some(it))
}

/// A network's thread that turns its packets into sockets of the host ([`super::egress`]); it has
/// ended when this is dropped, and its device is gone.
struct WayOut {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Drop for WayOut {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // Where it panicked, that was told.
            let _ = thread.join();
        }
    }
}

impl WayOut {
    /// Starts it for a network that is to have one. Without it, where the host has no TUN devices,
    /// everything else goes on.
    fn start(
        state: &NetworkState,
        helper: &Helper,
        confine: Confine,
        answers: &Arc<Answers>,
    ) -> io::Result<Option<Self>> {
        if state.internal {
            return Ok(None);
        }
        let started = Self::try_start(state, helper, confine, answers);
        started.map(Some).inspect_err(|error| {
            tracing::warn!("network {} has no way out: {error}", state.name);
        })
    }

    fn try_start(
        state: &NetworkState,
        helper: &Helper,
        confine: Confine,
        answers: &Arc<Answers>,
    ) -> io::Result<Self> {
        let link = helper.link(&state.bridge, state.mtu)?;
        helper.set_host(&state.bridge, &state.gateways, state.host_loopback)?;
        let four = state.gateways.iter().find_map(|gateway| match gateway {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let six = state.gateways.iter().find_map(|gateway| match gateway {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(*address),
        });
        let settings = Settings {
            gateway_v4: four,
            gateway_v6: six,
            host_loopback: state.host_loopback,
            mtu: state.mtu,
            limits: Limits {
                descriptors: Descriptors::of_this_process(),
                ..Limits::default()
            },
            ..Settings::default()
        };
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // The thread's end goes with it, so that it is not told to stop by anything else.
        let told = stop.try_clone()?;
        let mut egress = Egress::new(link, &settings)?;
        egress.stop_at(told.as_fd())?;
        egress.set_answers(Arc::clone(answers));
        let (ready, confined) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("egress".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                let _told = told;
                let done = confine();
                let serves = done.is_ok();
                let _ = ready.send(done);
                if serves && let Err(error) = egress.serve() {
                    tracing::error!("a way out is shut: {error}");
                }
            })?;
        let started = Self {
            stop,
            thread: Some(thread),
        };
        confined.recv().map_err(|_| io::ErrorKind::BrokenPipe)??;
        Ok(started)
    }
}

/// The server of names, where the network's state is known already.
fn resolver(
    network: &str,
    state: &NetworkState,
    helper: &Helper,
    reactor: &mut Reactor,
) -> Option<Dns> {
    let ipv4 = state.gateways.iter().find(|gateway| gateway.is_ipv4());
    let address = match ipv4 {
        Some(_) if state.names => RESOLVER,
        Some(gateway) => *gateway,
        // Its members have no address that 127.0.0.11 could answer.
        None => *state.gateways.first()?,
    };
    let address = SocketAddr::new(address, DNS);
    let bound = helper.bind(Protocol::Udp, address).and_then(|udp| {
        let tcp = helper.bind(Protocol::Tcp, address)?;
        Dns::new(network, [udp, tcp], Path::new(RESOLV_CONF), reactor)
    });
    match bound {
        Ok(dns) => Some(dns),
        Err(error) => {
            tracing::error!("network {network} has no names: {error}");
            None
        }
    }
}
