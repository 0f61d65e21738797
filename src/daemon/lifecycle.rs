//! A daemon's life: from what was typed to serving, and to an orderly end.
//!
//! ```text
//! one thread   configuration ─▶ descriptors that were passed on ─▶ lock on the data root
//!              ─▶ keeper: found or started, joined ─▶ sockets ─▶ engine opened
//! threads      runtime: two workers, a bounded pool ─▶ ready is told ─▶ requests …
//!              ─▶ SIGTERM, SIGINT, or nothing to do: sockets removed, answers in flight
//!                 finished for at most `server::GRACE` ─▶ end; containers run on
//! ```
//!
//! The keeper's namespaces can only be joined by a process with one thread, so everything before
//! that is plain code, and the paths are known before, as afterwards the user's id is 0. SIGHUP
//! reads daemon.json anew; what can change in a running daemon is how much it logs, its labels, how
//! registries are reached, and what new containers are given where they do not say. It also has
//! sockets looked after that were deleted (see [`presence`](super::presence)): `moss` verbs send it
//! to a daemon whose socket is not where the lock says, so it is harmless from the start on.
//!
//! A daemon that ends unasked while containers run is started again by the keeper ([`revival`]).
//!
//! A daemon that was started on demand, or again, has a session of its own and none of its starter's
//! descriptors but a file for stderr, writes its log into the data root, and leaves [`IDLE`] after
//! the last connection and the last thing that the engine was busy with; at once if another daemon
//! wants its place ([`relief`]).

mod log;
mod opening;
mod relief;
mod revival;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf, absolute};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use rustix::fs::FileType;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};

use super::STACK;
use super::listen::{self, Host, ListenError, Socket};
use super::notify::{self, Notify};
use super::pidfile::{Pidfile, PidfileError};
use super::presence::Presence;
use super::routes;
use super::server::{self, Connections};
use crate::engine::config::{self, Config, ConfigError, Options};
use crate::engine::{self, Engine};
use crate::overlay::{self, Driver};
use crate::sys::lock::{Holder, Lock, LockError};
use crate::sys::paths::{self, Paths};
use crate::sys::signal::ignore;
use crate::sys::{fork, heap, pidfd, text};
use crate::types::chain::chain;
use crate::userns::keeper::{Keeper, KeeperError, Recipe, Start};
use log::{Levels, level, log};
use opening::{open, reloadable};

/// How long a daemon that was started on demand stays with nothing to do.
pub const IDLE: Duration = Duration::from_secs(5 * 60);

/// How often it looks whether it has something to do.
const IDLE_STEP: Duration = Duration::from_secs(10);

/// How soon a keeper is replaced once more, at first and at most.
const KEEPER_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// How long it still accepts after its socket's name is gone: for who has just connected.
const LAST_CALL: Duration = Duration::from_millis(100);

/// Workers of the runtime. They only shuffle bytes.
const WORKERS: usize = 2;

/// The most threads that run engine calls of milliseconds.
const POOL: usize = 32;

/// How long an idle thread of the pool stays.
const POOL_IDLE: Duration = Duration::from_secs(10);

/// After this many connections memory that is not needed is given back …
const BURST: u64 = 32;

/// … once no other has come for so long …
const QUIET: Duration = Duration::from_millis(500);

/// … or after so many times that.
const PATIENCE: u32 = 4;

/// Why a daemon cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// What was told makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The data root is taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The file that names the daemon.
    #[error(transparent)]
    Pidfile(#[from] PidfileError),
    /// The keeper.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The storage driver's name.
    #[error(transparent)]
    Driver(#[from] overlay::Error),
    /// Something of the host's.
    #[error("cannot {doing}")]
    Host {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

/// Makes an error of the host's.
fn failed(doing: impl Into<String>) -> impl FnOnce(io::Error) -> DaemonError {
    let doing = doing.into();
    move |source| DaemonError::Host { doing, source }
}

/// Runs a daemon to its end. Must be called while this process has one thread.
///
/// # Errors
/// Where it cannot serve; whoever started it has been told too.
pub fn run(options: &Options) -> Result<(), DaemonError> {
    let pipe = match options.ready_fd {
        Some(number) => fork::take_inherited(number).ok().map(File::from),
        None => None,
    };
    let mut notify = Notify::new(pipe);
    let result = prepare_and_serve(options, &mut notify);
    if let Err(error) = &result {
        notify.failed(&chain(error));
    }
    result
}

/// Where this daemon keeps and serves things.
struct Places {
    data_root: PathBuf,
    exec_root: PathBuf,
    hosts: Vec<Host>,
    config_file: PathBuf,
    pidfile: Option<PathBuf>,
    driver: Option<Driver>,
}

impl Places {
    fn of(config: &Config, options: &Options, user: &Paths) -> Result<Places, DaemonError> {
        let directory = || failed("find the working directory");
        let roots = config.paths(user).map_err(directory())?;
        let mut hosts = Vec::new();
        for text in &config.hosts {
            let host = Host::parse(text, &user.socket)?;
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        if hosts.is_empty() {
            hosts.push(Host::Unix(user.socket.clone()));
        }
        Ok(Places {
            data_root: roots.data_root,
            exec_root: roots.exec_root,
            hosts,
            config_file: absolute(options.config_file.as_ref().unwrap_or(&config::file(user)))
                .map_err(directory())?,
            pidfile: match &config.pidfile {
                Some(path) => Some(absolute(path).map_err(directory())?),
                None => None,
            },
            driver: match &config.storage_driver {
                Some(name) => Some(name.parse()?),
                None => None,
            },
        })
    }
}

fn prepare_and_serve(options: &Options, notify: &mut Notify) -> Result<(), DaemonError> {
    let user = Paths::of_user().map_err(failed("find this user's directories"))?;
    let config = Config::read(options, &config::file(&user))?;
    let places = Places::of(&config, options, &user)?;
    if options.validate {
        eprintln!("configuration OK");
        return Ok(());
    }
    let defaults = config.containers.resolve()?;
    let passed = match places.hosts.contains(&Host::Passed) {
        true => listen::passed(),
        false => Vec::new(),
    };
    if options.on_demand || options.revived.is_some() {
        detach()?;
    }
    // Until they are handled.
    for signal in [Signal::SIGHUP, Signal::SIGUSR2] {
        ignore(signal).map_err(failed("ignore a signal"))?;
    }
    umask(Mode::from_bits_truncate(0o022));
    for root in [&places.data_root, &places.exec_root] {
        let doing = format!("use the directory {}", root.display());
        paths::private_dir(root).map_err(failed(doing))?;
    }
    let levels = log(&places, &config, options)?;
    for warning in &config.warnings {
        tracing::warn!("{}: {warning}", places.config_file.display());
    }
    // Removed at the end, however it comes.
    let _pidfile = match &places.pidfile {
        Some(path) => Some(Pidfile::write(path)?),
        None => None,
    };
    raise_descriptor_limit();
    heap::limit_arenas();
    let mut holder = Holder {
        socket: None,
        pid: std::process::id(),
        boot_id: pidfd::boot_id().map_err(failed("read the boot id"))?,
        host: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        on_demand: options.on_demand,
    };
    relief::relieve(&places.data_root, &holder);
    let mut lock = Lock::take(&places.data_root, &holder)?;
    let own = rustix::process::getuid().as_raw();
    let uid = options.revived.unwrap_or(own);
    let recipe = revival::recipe(options, &user, uid);
    let start = Start::new(&places.exec_root, Some(&places.data_root))?;
    let keeper = Keeper::connect_or_start(&start)?;
    keeper.join()?;
    let sockets = sockets(&places.hosts, passed)?;
    holder.socket = sockets.iter().find_map(path_of);
    let named = lock.name(&holder);
    named.map_err(failed("write the lock on the data root"))?;
    let socket = holder.socket.clone();
    let engine = open(&places, &config, defaults, &user, socket, keeper, uid)
        .inspect_err(|_| sockets.iter().for_each(Socket::remove))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(POOL)
        .thread_keep_alive(POOL_IDLE)
        .thread_stack_size(STACK)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(failed("start the threads that serve requests"))?;
    revive(&engine, recipe);
    let daemon = Daemon {
        sockets,
        engine: Arc::clone(&engine),
        levels,
        // What was named from the working directory, which is left by now.
        options: Options {
            config_file: options
                .config_file
                .as_ref()
                .map(|_| places.config_file.clone()),
            ..options.clone()
        },
        config_file: places.config_file,
        user,
    };
    let result = runtime.block_on(daemon.serve(notify, &places.exec_root, || {
        // Whoever looks for it from now on is to wait for its end, not for its socket.
        holder.socket = None;
        if let Err(error) = lock.name(&holder) {
            tracing::warn!("cannot write the lock on the data root: {error}");
        }
    }));
    // It was asked to end.
    revive(&engine, None);
    // Threads that are busy for clients end with the process.
    runtime.shutdown_background();
    settle(&engine);
    if engine.is_idle() {
        dismiss(&start);
    }
    result
}

/// Has the keeper start this daemon again should it end unasked, or no more.
fn revive(engine: &Engine, recipe: Option<Recipe>) {
    if let Err(error) = engine.keeper().revive(recipe) {
        tracing::warn!("cannot leave word with the keeper: {}", chain(&error));
    }
}

/// Waits until the engine has done what nobody waited for, but not for ever.
fn settle(engine: &Arc<Engine>) {
    let (done, wait) = mpsc::channel();
    let engine = Arc::clone(engine);
    let spawned = thread::Builder::new().spawn(move || {
        engine.settle();
        // Nobody listens any more where it took too long.
        let _ = done.send(());
    });
    if spawned.is_err() || wait.recv_timeout(server::GRACE).is_err() {
        tracing::warn!("not all that was removed is deleted; the next daemon goes on with it");
    }
}

/// Ends the keeper along with the last of daemon and containers. It would leave by itself after
/// a while; until then it would hold namespaces that nobody needs.
fn dismiss(start: &Start) {
    let stopped = match Keeper::connect(start) {
        Ok(Some(keeper)) => keeper.stop(false),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = stopped {
        // A shim that is just ending keeps it for a moment more.
        tracing::debug!("the keeper stays: {}", chain(&error));
    }
}

/// Cuts the ties to whoever started this process: session, descriptors, standard streams.
fn detach() -> Result<(), DaemonError> {
    match nix::unistd::setsid() {
        // It leads its process group already, and so can be no part of its starter's.
        Ok(_) | Err(nix::errno::Errno::EPERM) => {}
        Err(error) => return Err(failed("make a session")(error.into())),
    }
    let numbers: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .map_err(failed("list this process's descriptors"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers {
        // What is ours cannot be taken; what can be is our starter's.
        drop(fork::take_inherited(number));
    }
    // A file there is meant for what is said outside the log, by a panic for one.
    let stderr = rustix::fs::fstat(io::stderr())
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile);
    let keep: &[i32] = if stderr { &[2] } else { &[] };
    fork::detach_standard_streams(keep).map_err(failed("leave the standard streams"))
}

/// Lets this process have as many descriptors as it may: each client has one.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// The sockets to listen on.
fn sockets(hosts: &[Host], passed: Vec<OwnedFd>) -> Result<Vec<Socket>, ListenError> {
    let mut sockets = Vec::new();
    if hosts.contains(&Host::Passed) && passed.is_empty() {
        return Err(ListenError::NothingPassed);
    }
    for descriptor in passed {
        sockets.push(Socket::adopt(descriptor)?);
    }
    for host in hosts {
        if let Host::Unix(path) = host {
            match Socket::bind(path) {
                Ok(socket) => sockets.push(socket),
                Err(error) => {
                    sockets.iter().for_each(Socket::remove);
                    return Err(error);
                }
            }
        }
    }
    Ok(sockets)
}

/// Where clients find a socket.
fn path_of(socket: &Socket) -> Option<PathBuf> {
    match &socket.path {
        Some(path) => Some(path.clone()),
        None => {
            let address = socket.listener.local_addr().ok()?;
            address.as_pathname().map(Path::to_owned)
        }
    }
}

/// A daemon that is about to serve.
struct Daemon {
    sockets: Vec<Socket>,
    engine: Arc<Engine>,
    levels: Levels,
    options: Options,
    config_file: PathBuf,
    user: Paths,
}

impl Daemon {
    /// Serves until it is asked to leave or has nothing to do; then `leaving` is called.
    async fn serve(
        mut self,
        notify: &mut Notify,
        exec_root: &Path,
        leaving: impl FnOnce(),
    ) -> Result<(), DaemonError> {
        let watch = |kind| signal(kind).map_err(failed("watch for signals"));
        let mut terminate = watch(SignalKind::terminate())?;
        let mut interrupt = watch(SignalKind::interrupt())?;
        let mut hangup = watch(SignalKind::hangup())?;
        let mut user = watch(SignalKind::user_defined1())?;
        let mut relieved = watch(SignalKind::user_defined2())?;
        let connections = Arc::new(Connections::default());
        let service = Arc::new(routes::service(Arc::clone(&self.engine)));
        // Inside the keeper's namespaces: the id that the user's other processes have there.
        let uid = rustix::process::geteuid().as_raw();
        let serve = |socket: &Socket| {
            let listener = socket
                .listener
                .try_clone()
                .and_then(tokio::net::UnixListener::from_std)?;
            let (service, connections) = (Arc::clone(&service), Arc::clone(&connections));
            let task = tokio::spawn(server::serve(listener, uid, service, connections));
            let path = path_of(socket).unwrap_or_default();
            tracing::info!("API listen on {}", path.display());
            Ok(task.abort_handle())
        };
        let sockets = std::mem::take(&mut self.sockets);
        let presence = Presence::new(sockets, exec_root, &serve);
        let mut presence = presence.map_err(failed("serve a socket"))?;
        tokio::spawn(give_back(Arc::clone(&connections)));
        let keeping = tokio::spawn(keep_keeper(Arc::clone(&self.engine)));
        notify.ready();
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => self.reload(),
                // dockerd writes its stacks down and goes on.
                _ = user.recv() => tracing::info!("SIGUSR1: there are no stacks to write down"),
                _ = relieved.recv() => {
                    if self.options.on_demand && connections.counts().open == 0 {
                        tracing::info!("relieved by another daemon: leaving");
                        break;
                    }
                }
                never = presence.keep() => match never {},
                () = self.idle(&connections), if self.options.on_demand => {
                    tracing::info!("nothing to do: leaving");
                    break;
                }
            }
        }
        notify::stopping();
        keeping.abort();
        leaving();
        presence.end();
        if self.options.on_demand {
            tokio::time::sleep(LAST_CALL).await;
        }
        connections.stop();
        if !connections.drained().await {
            tracing::warn!("some answers were not finished in time");
        }
        Ok(())
    }

    /// Reads the configuration anew. What is wrong in it is told and changes nothing.
    fn reload(&self) {
        let config = match Config::read(&self.options, &self.config_file) {
            Ok(config) => config,
            Err(error) => return tracing::error!("{error}"),
        };
        if let Err(error) = self.engine.reload(reloadable(&config, &self.user)) {
            return tracing::error!("cannot reload {}: {error}", self.config_file.display());
        }
        (self.levels)(level(&config));
        tracing::info!("reloaded {}", self.config_file.display());
    }

    /// Resolves when there was nothing to do for [`IDLE`].
    async fn idle(&self, connections: &Connections) {
        let mut last = connections.counts();
        let mut since = Instant::now();
        while since.elapsed() < IDLE {
            tokio::time::sleep(IDLE_STEP).await;
            let counts = connections.counts();
            if counts.open > 0 || counts.accepted != last.accepted || !self.engine.is_idle() {
                since = Instant::now();
                last = counts;
            }
        }
    }
}

/// Replaces the keeper whenever it has ended, for ever: with it went slirp and all published ports, and
/// who would start this daemon again.
async fn keep_keeper(engine: Arc<Engine>) {
    let mut pause = KEEPER_AGAIN.0;
    loop {
        let process = engine.keeper().process();
        #[expect(
            deprecated,
            reason = "an owned descriptor stays open and the same, which is all the successor asks"
        )]
        let Ok(process) = AsyncFd::with_interest(process, Interest::READABLE) else {
            return;
        };
        if process.readable().await.is_err() {
            return;
        }
        drop(process);
        tracing::error!("the keeper has ended: making another");
        let engine = Arc::clone(&engine);
        match tokio::task::spawn_blocking(move || engine.replace_keeper()).await {
            Ok(Ok(())) => pause = KEEPER_AGAIN.0,
            Ok(Err(error)) => {
                tracing::error!("no keeper: {error}");
                pause = (pause * 2).min(KEEPER_AGAIN.1);
            }
            // Only a panic could fail, and it has been logged.
            Err(_) => return,
        }
        tokio::time::sleep(pause).await;
    }
}

/// Gives memory back after the start and after bursts of connections, for ever: 600 clients that waited
/// at one time leave 17 MiB in the heap, and nearly all of the program's code is mapped in the end
/// (13 MiB), of which a daemon that waits needs little.
async fn give_back(connections: Arc<Connections>) {
    loop {
        let mut seen = connections.counts().accepted;
        for _ in 0..PATIENCE {
            tokio::time::sleep(QUIET).await;
            let before = std::mem::replace(&mut seen, connections.counts().accepted);
            if before == seen {
                break;
            }
        }
        let shrink = || {
            heap::trim();
            text::forget();
        };
        // Only a panic could fail, and it has been logged.
        let _ = tokio::task::spawn_blocking(shrink).await;
        connections.accepted(seen + BURST).await;
    }
}
