//! Finding this user's engine, or starting one.
//!
//! An engine that is started here must not notice its starter: a session of its own (`moss daemon
//! --on-demand` makes it), no descriptor of ours, what it prints in a file under the exec root. It
//! says on a pipe when it serves. Starters take turns by a lock, and look again when it is theirs.
//!
//! A daemon that lives, but whose socket is not where the lock says (the runtime directory was
//! deleted), is sent SIGHUP, upon which it makes the socket anew. Whatever is waited for, the wait
//! has an end, and is told of when it gets long.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;

use crate::cli::args;
use crate::cli::http::Connection;
use crate::engine::config::{self, Config, Options};
use crate::sys::lock::{self, Holder};
use crate::sys::paths::{self, Paths};
use crate::sys::pidfd;

/// How long a daemon may take to serve once started: newuidmap may ask a slow directory service.
const STARTING: Duration = Duration::from_secs(90);

/// How long a daemon may take to make its socket anew.
const SUMMONED: Duration = Duration::from_secs(10);

/// How often somebody who waits looks.
const MOMENT: Duration = Duration::from_millis(20);

/// How long a wait goes on in silence.
const SILENCE: Duration = Duration::from_secs(3);

/// How much of a failed daemon's log is shown, in bytes.
const LOG_TAIL: u64 = 4096;

/// What a daemon started on demand prints before its own log is open, in the exec root.
const LOG: &str = "start.log";

/// Where the engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// As the user said; never started.
    Named(PathBuf),
    /// This user's own.
    Own,
}

impl Place {
    /// From `-H` and `$MOSS_HOST`.
    pub fn choose(flag: Option<&str>, variable: Option<&str>) -> Result<Place> {
        let Some(text) = flag.or(variable).filter(|text| !text.is_empty()) else {
            return Ok(Place::Own);
        };
        match text.split_once("://") {
            Some(("unix", path)) if !path.is_empty() && !path.contains("://") => {
                Ok(Place::Named(path.into()))
            }
            None if text.starts_with('/') => Ok(Place::Named(text.into())),
            _ => bail!("unable to parse engine host {text:?}: only unix:///PATH is supported"),
        }
    }
}

/// Where the engine with these flags keeps things: daemon.json has a say too.
pub fn paths(roots: &args::Roots) -> Result<Paths> {
    let user = Paths::of_user().context("cannot find this user's directories")?;
    let options = Options {
        directives: roots.directives(),
        config_file: roots.config_file.as_ref().map(PathBuf::from),
        ..Options::default()
    };
    let config = Config::read(&options, &config::file(&user))?;
    config
        .paths(&user)
        .context("cannot find the working directory")
}

/// The socket of this user's living engine, if there is one.
pub fn living(paths: &Paths) -> Result<Option<PathBuf>> {
    let mut candidates = Vec::new();
    if let Some(holder) = lock::holder(&paths.data_root) {
        let here = rustix::system::uname();
        let here = here.nodename().to_string_lossy();
        if !holder.host.is_empty() && holder.host != here {
            bail!(
                "the data root {} is in use by a moss daemon on the host {}: use another with \
                 XDG_DATA_HOME, or that host",
                paths.data_root.display(),
                holder.host
            );
        }
        candidates.extend(holder.socket);
    }
    candidates.push(paths.socket.clone());
    Ok(candidates
        .into_iter()
        .find(|socket| Connection::open(socket).is_ok()))
}

/// A daemon of this host that has lost its socket, and where that was.
fn without_socket(paths: &Paths) -> Option<(Holder, PathBuf)> {
    let holder = lock::holder(&paths.data_root)?;
    let socket = holder.socket.clone()?;
    let lost = std::fs::symlink_metadata(&socket);
    let lost = lost.is_err_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        )
    });
    (lost && pidfd::boot_id().ok()? == holder.boot_id).then_some((holder, socket))
}

/// Has a living daemon that has lost its socket make it anew; the socket, unless the daemon ends.
fn summon(paths: &Paths) -> Result<Option<PathBuf>> {
    let Some((holder, lost)) = without_socket(paths) else {
        return Ok(None);
    };
    let place = lost.display();
    let opened = i32::try_from(holder.pid).map(pidfd::open);
    let Ok(Ok(process)) = opened else {
        return Ok(None);
    };
    // Between reading the lock and opening the process, the number may have come to mean another.
    if without_socket(paths).as_ref().map(|(now, _)| now.pid) != Some(holder.pid) {
        return living(paths);
    }
    pidfd::kill(&process, rustix::process::Signal::HUP)
        .with_context(|| format!("cannot tell the moss daemon that {place} is gone"))?;
    let mut wait = Wait::new(SUMMONED);
    while lock::holder(&paths.data_root).is_some_and(|now| now.pid == holder.pid) {
        if let Some(socket) = living(paths)? {
            return Ok(Some(socket));
        }
        let what = format!(
            "the moss daemon (pid {}) to make its socket {place} anew",
            holder.pid
        );
        if !wait.go_on(&what) {
            bail!(
                "the moss daemon (pid {}) runs, but its socket {place} was deleted and it does not \
                 make it anew: its log may say why; 'moss system stop' ends it (containers go on)",
                holder.pid
            );
        }
    }
    Ok(None)
}

/// A wait that ends, and is told of on stderr when it gets long.
struct Wait {
    begun: Instant,
    limit: Duration,
    told: bool,
}

impl Wait {
    fn new(limit: Duration) -> Wait {
        Wait {
            begun: Instant::now(),
            limit,
            told: false,
        }
    }

    /// Waits a moment more for `what`; whether there is time left.
    fn go_on(&mut self, what: &str) -> bool {
        std::thread::sleep(MOMENT);
        self.is_left(what)
    }

    /// Whether there is time left to wait for `what`.
    fn is_left(&mut self, what: &str) -> bool {
        if self.begun.elapsed() > SILENCE && !self.told {
            self.told = true;
            eprintln!("moss: waiting for {what}");
        }
        self.begun.elapsed() < self.limit
    }

    /// All that is written to a pipe until it is closed, `what` being waited for; `None` where there
    /// is no time left.
    fn read(&mut self, pipe: &mut io::PipeReader, what: &str) -> io::Result<Option<String>> {
        let moment = Timespec::try_from(MOMENT).unwrap_or_default();
        let mut said = Vec::new();
        loop {
            let mut polled = [PollFd::new(&*pipe, PollFlags::IN)];
            match rustix::event::poll(&mut polled, Some(&moment)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => {
                    let mut bytes = [0; 512];
                    match pipe.read(&mut bytes)? {
                        0 => return Ok(Some(String::from_utf8_lossy(&said).into_owned())),
                        amount => said.extend_from_slice(&bytes[..amount]),
                    }
                }
                Err(error) => return Err(error.into()),
            }
            if !self.is_left(what) {
                return Ok(None);
            }
        }
    }
}

/// Starts a daemon and waits until it serves; its socket.
pub(super) fn start(paths: &Paths, roots: &args::Roots) -> Result<PathBuf> {
    // Not in turn: each that waits would add its own patience to that of the next.
    if let Some(socket) = summon(paths)? {
        return Ok(socket);
    }
    paths::private_dir(&paths.exec_root).context("cannot use the runtime directory")?;
    let turn = paths.exec_root.join("start.lock");
    let turn = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&turn)
        .with_context(|| format!("cannot open {}", turn.display()))?;
    let mut wait = Wait::new(STARTING);
    while let Err(error) = rustix::fs::flock(&turn, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(error).context("cannot wait for another start");
        }
        if !wait.go_on("another moss that starts the daemon") {
            bail!("another moss has been starting the daemon for too long");
        }
    }
    loop {
        if let Some(socket) = living(paths)? {
            return Ok(socket);
        }
        if let Some(socket) = summon(paths)? {
            return Ok(socket);
        }
        // Somebody holds the data root but does not serve yet, or no longer.
        let Some(holder) = lock::holder(&paths.data_root) else {
            break;
        };
        let what = format!(
            "the moss daemon (pid {}) that has the data root {}, to serve or to end",
            holder.pid,
            paths.data_root.display()
        );
        if !wait.go_on(&what) {
            bail!(
                "the moss daemon (pid {}) that has the data root {} does not answer",
                holder.pid,
                paths.data_root.display()
            );
        }
    }
    let log_path = paths.exec_root.join(LOG);
    let mut log = File::options()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&log_path)
        .with_context(|| format!("cannot open {}", log_path.display()))?;
    let begins = log.seek(SeekFrom::End(0))?;
    let (mut ready, told) = io::pipe()?;
    // What this process inherited is not the daemon's either; the pipe alone goes through.
    crate::sys::fork::pass_to_exec(&[told.as_raw_fd()])?;
    let mut daemon = Command::new("/proc/self/exe")
        .arg0("moss")
        .args(["daemon", "--on-demand", "--ready-fd"])
        .arg(told.as_raw_fd().to_string())
        .args(roots.words())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .spawn()
        .context("cannot start a moss daemon")?;
    drop(told);
    let pid = daemon.id();
    let what = format!("the moss daemon (pid {pid}) to serve");
    let silent = || {
        anyhow!(
            "the moss daemon (pid {pid}) was started and does not serve: {} may say why, and \
             {}/daemon.log",
            log_path.display(),
            paths.data_root.display()
        )
    };
    let mut wait = Wait::new(STARTING);
    let said = wait.read(&mut ready, &what)?.ok_or_else(silent)?;
    // It serves; or it said nothing, or a sentence, and is leaving.
    loop {
        let has_left = daemon.try_wait()?.is_some();
        if let Some(socket) = living(paths)? {
            return Ok(socket);
        }
        if has_left {
            break;
        }
        if !wait.go_on(&what) {
            return Err(silent());
        }
    }
    let mut message = "the moss daemon could not be started".to_owned();
    match said.trim() {
        "" | "ready" => {
            let tail = tail(&mut log, begins).unwrap_or_default();
            message.push_str(&format!("; the end of {}:\n{tail}", log_path.display()));
        }
        sentence => message.push_str(&format!(": {sentence}")),
    }
    Err(anyhow!(message.trim_end().to_owned()))
}

/// The end of what was logged from `begins` on.
fn tail(log: &mut File, begins: u64) -> io::Result<String> {
    let end = log.seek(SeekFrom::End(0))?;
    log.seek(SeekFrom::Start(begins.max(end.saturating_sub(LOG_TAIL))))?;
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_says_nothing_is_not_waited_for_for_ever() {
        let (mut pipe, mut daemon) = io::pipe().unwrap();
        let mut wait = Wait::new(Duration::from_millis(50));
        assert_eq!(wait.read(&mut pipe, "the daemon").unwrap(), None);
        let mut wait = Wait::new(STARTING);
        io::Write::write_all(&mut daemon, b"ready\n").unwrap();
        drop(daemon);
        let said = wait.read(&mut pipe, "the daemon").unwrap();
        assert_eq!(said.as_deref(), Some("ready\n"));
    }

    #[test]
    fn places() {
        let choose = |flag, variable| Place::choose(flag, variable).ok();
        assert_eq!(choose(None, None), Some(Place::Own));
        assert_eq!(choose(None, Some("")), Some(Place::Own));
        let named = |path: &str| Some(Place::Named(path.into()));
        assert_eq!(choose(Some("unix:///a"), Some("unix:///b")), named("/a"));
        assert_eq!(choose(None, Some("unix:///b")), named("/b"));
        assert_eq!(choose(Some("/a"), None), named("/a"));
        // As docker: from where the verb is called.
        assert_eq!(choose(Some("unix://a/b"), None), named("a/b"));
        assert_eq!(choose(Some("unix://"), None), None);
        assert_eq!(choose(Some("tcp://1.2.3.4:5"), None), None);
    }
}
