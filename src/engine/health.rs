//! Health checks: a command that is run in the container now and then, and what its results add up
//! to.
//!
//! ```text
//!            success               `retries` failures in a row
//! starting ──────────▶ healthy ◀──────────────────────────────▶ unhealthy
//!    └─ as many failures, those of the start period not counted ──▶ ┘
//! ```
//!
//! The rules are Docker's (moby, daemon/health.go). A check is an exec session like any other, with
//! its events, and is forgotten when it has ended. The next one begins an interval after the end of
//! the last. Nothing is checked while the container is paused, nor while there is no daemon: the
//! next one goes on with the counters of the record, which is written after each check.
//!
//! Whatever ends a series of checks (the container's end, a pause) changes its number; what comes of
//! a check that is still under way then counts no more.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Signal;

use crate::api::container::{ContainerConfig, Health, HealthConfig, HealthcheckResult};
use crate::api::exec::ExecConfig;
use crate::container::protocol::{Attach, Started};
use crate::container::record::Record;
use crate::engine::Engine;
use crate::engine::containers::{Container, Data, Exec};
use crate::engine::error::{Error, Result};
use crate::sys::pidfd;
use crate::types::id::random_hex;
use crate::types::timestamp::Timestamp;

/// Between two checks, and longest time of one, unless said otherwise.
const INTERVAL: Duration = Duration::from_secs(30);
/// Between two checks during the start period, unless said otherwise.
const START_INTERVAL: Duration = Duration::from_secs(5);
/// Failures in a row that make a container unhealthy, unless said otherwise.
const RETRIES: i64 = 3;
/// Bytes of a check's output that are kept.
const OUTPUT: usize = 4096;
/// Results that are kept.
const RESULTS: usize = 5;
/// How long the end of a check is waited for that was killed.
const END: Duration = Duration::from_secs(5);
/// The shell of `CMD-SHELL` where the image names none.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// What is run to check a container; `None` where nothing is.
pub(super) fn command(config: &ContainerConfig) -> Option<Vec<String>> {
    let test = config.healthcheck.as_ref()?.test.as_ref()?;
    let (kind, words) = test.split_first()?;
    let shell = match kind.as_str() {
        "CMD" => Vec::new(),
        "CMD-SHELL" => match config.shell.as_deref() {
            None | Some([]) => SHELL.map(str::to_owned).to_vec(),
            Some(shell) => shell.to_vec(),
        },
        _ => return None,
    };
    Some(shell.into_iter().chain(words.iter().cloned()).collect())
}

fn time_or(nanos: i64, default: Duration) -> Duration {
    match u64::try_from(nanos) {
        Ok(nanos) if nanos > 0 => Duration::from_nanos(nanos),
        _ => default,
    }
}

/// How long until the next check, of a container that has run for `ran`.
fn interval(check: &HealthConfig, status: &str, ran: Duration) -> Duration {
    let in_start = ran < time_or(check.start_period, Duration::ZERO);
    if in_start && status == "starting" {
        time_or(check.start_interval, START_INTERVAL)
    } else {
        time_or(check.interval, INTERVAL)
    }
}

/// Takes a result into account; `ran` is how long the container had run when the check began. Says
/// whether the status is another now.
fn judge(
    health: &mut Health,
    check: &HealthConfig,
    result: HealthcheckResult,
    ran: Duration,
) -> bool {
    let before = health.status.clone();
    if result.exit_code == 0 {
        health.failing_streak = 0;
        "healthy".clone_into(&mut health.status);
    } else {
        let in_start = ran < time_or(check.start_period, Duration::ZERO);
        if before != "starting" || !in_start {
            health.failing_streak += 1;
            let most = Some(check.retries).filter(|retries| *retries > 0);
            if health.failing_streak >= most.unwrap_or(RETRIES) {
                "unhealthy".clone_into(&mut health.status);
            }
        }
    }
    let log = health.log.get_or_insert_default();
    log.push(result);
    log.drain(..log.len().saturating_sub(RESULTS));
    before != health.status
}

/// The first bytes of a check's output.
#[derive(Debug, Default)]
struct Output {
    kept: Vec<u8>,
    is_cut: bool,
}

impl Output {
    fn push(&mut self, bytes: &[u8]) {
        let room = (OUTPUT - self.kept.len()).min(bytes.len());
        self.kept.extend_from_slice(&bytes[..room]);
        self.is_cut |= room < bytes.len();
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        format!("{text}{}", if self.is_cut { "..." } else { "" })
    }
}

/// Since this moment.
fn since(nanos: i128) -> Duration {
    let nanos = Timestamp::now().nanos() - nanos;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

impl Data {
    /// Begins a series of checks; its number, and how long until the first.
    fn next_check(&mut self) -> Option<(u64, Duration)> {
        let started = self.record.state.started()?;
        if self.record.state.is_paused() {
            return None;
        }
        command(&self.record.config)?;
        let check = self.record.config.healthcheck.as_ref()?;
        let status = self
            .record
            .health
            .as_ref()
            .map_or("", |health| &health.status);
        let pause = interval(check, status, since(started.at));
        self.checks += 1;
        Some((self.checks, pause))
    }
}

impl Engine {
    /// Begins to check a container that was started just now, if it is to be checked.
    pub(super) fn begin_checking(&self, container: &Arc<Container>) {
        {
            let mut data = container.data();
            if command(&data.record.config).is_none() {
                return;
            }
            let health = data.record.health.get_or_insert_default();
            "starting".clone_into(&mut health.status);
            health.failing_streak = 0;
        }
        self.go_on_checking(container);
    }

    /// Goes on after a pause, or after a daemon's death.
    pub(super) fn go_on_checking(&self, container: &Arc<Container>) {
        let next = container.data().next_check();
        if let Some((series, pause)) = next {
            self.check_after(container, series, pause);
        }
    }

    /// Ends the checks for now.
    pub(super) fn stop_checking(&self, container: &Container) {
        container.data().checks += 1;
    }

    fn check_after(&self, container: &Arc<Container>, series: u64, pause: Duration) {
        let (engine, container) = (self.me.clone(), Arc::downgrade(container));
        self.timers.at(Instant::now() + pause, move || {
            let (Some(engine), Some(container)) = (engine.upgrade(), container.upgrade()) else {
                return;
            };
            let check = move || engine.check(&container, series);
            let spawned = std::thread::Builder::new()
                .name("health".to_owned())
                .spawn(check);
            if let Err(error) = spawned {
                tracing::error!("cannot start a thread for a health check: {error}");
            }
        });
    }

    /// One check, and what follows from it.
    fn check(&self, container: &Arc<Container>, series: u64) {
        let (record, started) = {
            let data = container.data();
            let started = data.record.state.started();
            let Some(started) = started.filter(|_| data.checks == series) else {
                return;
            };
            (data.record.clone(), started)
        };
        let (Some(command), Some(check)) = (command(&record.config), &record.config.healthcheck)
        else {
            return;
        };
        let (begun, ran) = (Timestamp::now(), since(started.at));
        let timeout = time_or(check.timeout, INTERVAL);
        let probed = self.probe(container, &record, command, timeout);
        let (exit_code, output) = probed.unwrap_or_else(|error| (-1, error.message));
        let result = HealthcheckResult {
            start: begun.to_string(),
            end: Timestamp::now().to_string(),
            exit_code,
            output,
        };
        let (told, pause) = {
            let mut data = container.data();
            if data.checks != series || data.is_over(Some(started)) {
                return;
            }
            let health = data.record.health.get_or_insert_default();
            let is_other = judge(health, check, result, ran);
            let pause = interval(check, &health.status, since(started.at));
            (is_other.then(|| data.record.clone()), pause)
        };
        self.save_lazily(container);
        if let Some(record) = told {
            let status = record.health.as_ref().map_or("", |health| &health.status);
            self.container_event(&record, &format!("health_status: {status}"), []);
        }
        self.check_after(container, series, pause);
    }

    /// Runs the command: its exit code and its output.
    fn probe(
        &self,
        container: &Arc<Container>,
        record: &Record,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<(i64, String)> {
        let id = random_hex();
        let config = ExecConfig {
            cmd: Some(command),
            attach_stdout: true,
            attach_stderr: true,
            ..ExecConfig::default()
        };
        let process = self.exec_process(record, &container.directory, &config, None)?;
        let no_socket = |error: rustix::io::Errno| {
            Error::io("cannot make a socket for a health check", &error.into())
        };
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(no_socket)?;
        let attributes = || [("execID".to_owned(), id.clone())];
        self.container_event(
            record,
            &super::exec::action("exec_create", &config),
            attributes(),
        );
        self.container_event(
            record,
            &super::exec::action("exec_start", &config),
            attributes(),
        );
        container.data().execs.insert(
            id.clone(),
            Exec {
                running: true,
                started: true,
                ..Exec::new(config)
            },
        );
        let attach = Attach {
            stdout: true,
            stderr: true,
            ..Attach::default()
        };
        let started = self
            .shims
            .exec(&container.id, &id, &process, Some((attach, theirs)));
        let ended = started
            .map_err(|failure| Error::invalid(failure.message))
            .map(|started| until_end(&ours, started, timeout));
        // The stream ends after the exit code was taken note of.
        let session = container.data().execs.remove(&id);
        let (output, in_time) = ended?;
        let code = session.and_then(|session| session.code);
        match (in_time, code, output.text()) {
            (false, _, text) => {
                let separator = if text.is_empty() { "" } else { ": " };
                let limit = Shown(timeout);
                Ok((
                    -1,
                    format!("Health check exceeded timeout ({limit}){separator}{text}"),
                ))
            }
            (true, Some(code), text) => Ok((code.into(), text)),
            (true, None, _) => Err(Error::invalid(format!(
                "healthcheck for container {} has no exit code",
                container.id
            ))),
        }
    }
}

/// Reads a check's output until it ends; kills it when it takes too long, and says so.
fn until_end(output: &OwnedFd, started: Started, timeout: Duration) -> (Output, bool) {
    let mut kept = Output::default();
    if drain(output, &mut kept, Instant::now() + timeout) {
        return (kept, true);
    }
    let process = pidfd::open_identity(started.pid, started.start_time);
    if let Ok(process) = process {
        // One that has just ended is what is wanted.
        let _ = pidfd::kill(process, Signal::KILL);
    }
    drain(output, &mut kept, Instant::now() + END);
    (kept, false)
}

/// Reads up to the end, which is true, or the deadline.
fn drain(output: &OwnedFd, kept: &mut Output, deadline: Instant) -> bool {
    let mut buffer = [0; OUTPUT];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let limit = Timespec::try_from(left).ok();
        let mut polled = [PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN)];
        match poll(&mut polled, limit.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return true,
        }
        match rustix::io::read(output, &mut buffer) {
            Ok(0) | Err(_) => return true,
            Ok(count) => kept.push(&buffer[..count]),
        }
    }
}

/// A duration as Go prints it, to the millisecond: `1m30s`, `1.5s`, `200ms`.
struct Shown(Duration);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = self.0.as_millis();
        if millis < 1000 {
            return write!(f, "{millis}ms");
        }
        let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        let (seconds, rest) = (millis / 1000 % 60, millis % 1000);
        if rest == 0 {
            return write!(f, "{seconds}s");
        }
        let fraction = format!("{rest:03}");
        write!(f, "{seconds}.{}s", fraction.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check() -> HealthConfig {
        HealthConfig {
            retries: 2,
            start_period: 10_000_000_000,
            start_interval: 1_000_000_000,
            interval: 20_000_000_000,
            ..HealthConfig::default()
        }
    }

    fn result(exit_code: i64) -> HealthcheckResult {
        HealthcheckResult {
            exit_code,
            ..HealthcheckResult::default()
        }
    }

    #[test]
    fn results_add_up_as_in_docker() {
        let (early, late) = (Duration::from_secs(1), Duration::from_secs(11));
        let mut health = Health {
            status: "starting".to_owned(),
            ..Health::default()
        };
        for (code, ran, status, streak, other) in [
            (1, early, "starting", 0, false),
            (1, late, "starting", 1, false),
            (0, late, "healthy", 0, true),
            (1, early, "healthy", 1, false),
            (-1, late, "unhealthy", 2, true),
            (1, late, "unhealthy", 3, false),
            (0, late, "healthy", 0, true),
        ] {
            assert_eq!(judge(&mut health, &check(), result(code), ran), other);
            assert_eq!((&*health.status, health.failing_streak), (status, streak));
        }
        let codes = health.log.unwrap();
        let codes: Vec<i64> = codes.iter().map(|result| result.exit_code).collect();
        assert_eq!(codes, [0, 1, -1, 1, 0]);
    }

    #[test]
    fn checks_are_frequent_while_it_starts() {
        let (early, late) = (Duration::from_secs(1), Duration::from_secs(11));
        assert_eq!(interval(&check(), "starting", early).as_secs(), 1);
        assert_eq!(interval(&check(), "healthy", early).as_secs(), 20);
        assert_eq!(interval(&check(), "starting", late).as_secs(), 20);
        let unsaid = HealthConfig::default();
        assert_eq!(interval(&unsaid, "starting", Duration::ZERO), INTERVAL);
    }

    #[test]
    fn commands_and_what_is_none() {
        let of = |test: &[&str], shell: Option<&[&str]>| {
            let list = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
            command(&ContainerConfig {
                healthcheck: Some(HealthConfig {
                    test: Some(list(test)),
                    ..HealthConfig::default()
                }),
                shell: shell.map(list),
                ..ContainerConfig::default()
            })
        };
        assert_eq!(of(&["CMD", "a", "b"], None).unwrap(), ["a", "b"]);
        assert_eq!(
            of(&["CMD-SHELL", "a b"], None).unwrap(),
            ["/bin/sh", "-c", "a b"]
        );
        assert_eq!(
            of(&["CMD-SHELL", "x"], Some(&["ash"])).unwrap(),
            ["ash", "x"]
        );
        assert_eq!(of(&["NONE"], None), None);
        assert_eq!(of(&[], None), None);
        assert_eq!(command(&ContainerConfig::default()), None);
    }

    #[test]
    fn output_is_cut_and_times_are_shown_as_in_go() {
        let mut output = Output::default();
        output.push(&[b'x'; OUTPUT]);
        assert_eq!(output.text().len(), OUTPUT);
        output.push(b"y");
        assert!(output.text().ends_with("x..."));
        for (millis, text) in [
            (200, "200ms"),
            (1500, "1.5s"),
            (30_000, "30s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(Shown(Duration::from_millis(millis)).to_string(), text);
        }
    }
}
