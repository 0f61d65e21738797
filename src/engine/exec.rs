//! Exec sessions: one more process in a running container.
//!
//! A session is made, then started once, and known until the container's next start or removal. At
//! most [`KEPT_SESSIONS`] are, unless more run: the first to go are those that have ended, then
//! those that were never started. The shim owns the process; what is
//! here is what `inspect` shows.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{Mode, OFlags};

use crate::api::exec::{ExecConfig, ExecInspect, ExecStart, ProcessConfig};
use crate::container::protocol::{Attach, Started};
use crate::container::record::{Record, State};
use crate::engine::Engine;
use crate::engine::containers::{Container, Data, Exec};
use crate::engine::error::{Error, Kind, Result};
use crate::engine::pause::restarting;
use crate::types::id::random_hex;
use crate::userns::users::Files;

/// How long `inspect` waits for a start under way: its client, told of a failure, asks at once.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Sessions that are known; the oldest go first.
const KEPT_SESSIONS: usize = 1000;

/// An exec session that may be started.
pub struct ExecTicket {
    container: Arc<Container>,
    id: String,
    attach: Option<Attach>,
    console_size: Option<(u16, u16)>,
    raw: bool,
}

impl ExecTicket {
    /// Whether its output comes without frames.
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    /// Starts it and joins the connection; what goes wrong is written to the client as Docker
    /// writes it, and kept as the session's exit code.
    pub fn connect(self, engine: &Engine, connection: OwnedFd, early: Vec<u8>) {
        let attach = Attach {
            early,
            ..self.attach.clone().unwrap_or_default()
        };
        if let Err(error) = engine.exec_run(&self, Some((attach, connection))) {
            tracing::debug!(exec = self.id, "{error}");
        }
    }

    /// Starts it with no client.
    pub fn detached(self, engine: &Engine) -> Result<()> {
        engine.exec_run(&self, None)
    }
}

/// An event's action: what was done, program and arguments. With no argument there is a blank at
/// the end, in dockerd too.
pub(super) fn action(what: &str, config: &ExecConfig) -> String {
    let command: Vec<&str> = config.cmd.iter().flatten().map(String::as_str).collect();
    let (program, arguments) = command.split_first().unwrap_or((&"", &[]));
    format!("{what}: {program} {}", arguments.join(" "))
}

/// The session to be forgotten first: the oldest that has ended, or else the oldest that was never
/// started. One that runs never is.
fn least_wanted(execs: &BTreeMap<String, Exec>) -> Option<String> {
    let by_age = execs.iter().filter_map(|(id, exec)| match exec.ended {
        Some(ended) => Some((false, ended, id)),
        None if exec.started => None,
        None => Some((true, exec.made, id)),
    });
    by_age.min().map(|(_, _, id)| id.clone())
}

/// Refuses a user that the container's files do not have. They may have changed by the start, which
/// looks again: this is for an answer in time. Where there is nothing to look at, nothing is said.
fn check_user(pid: i32, user: &str, record: &Record) -> Result<()> {
    let root = rustix::fs::open(
        format!("/proc/{pid}/root"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let Ok(root) = root else { return Ok(()) };
    let more = record.host_config.group_add.clone().unwrap_or_default();
    Files::read(root.as_fd())
        .resolve(user, &more)
        .map(drop)
        .map_err(Error::invalid)
}

/// The first process of a container in which something may be run now.
/// It is called as the client does where dockerd does so.
fn runnable(container: &Container, record: &Record, called: &str) -> Result<Started> {
    let id = container.id;
    match record.state {
        State::Running { paused: true, .. } => Err(Error::conflict(format!(
            "Container {called} is paused, unpause the container before exec"
        ))),
        State::Running { started, .. } => Ok(started),
        State::Restarting { .. } => Err(restarting(&id)),
        _ => Err(Error::not_running(id.as_str())),
    }
}

impl Engine {
    /// Makes a session in a running container.
    pub fn exec_create(&self, name: &str, config: ExecConfig) -> Result<String> {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            return Err(Error::invalid("No exec command specified"));
        }
        let container = self.containers.find(name)?;
        let record = container.settled().record.clone();
        let started = runnable(&container, &record, name)?;
        if !config.user.is_empty() {
            check_user(started.pid, &config.user, &record)?;
        }
        // Not called the client's mistake by dockerd.
        crate::types::detach_keys::parse(&config.detach_keys).map_err(|_| {
            Error::new(
                Kind::System,
                format!("Invalid escape keys ({}) provided", config.detach_keys),
            )
        })?;
        let id = random_hex();
        let action = action("exec_create", &config);
        {
            let mut data = container.data();
            while data.execs.len() >= KEPT_SESSIONS
                && let Some(old) = least_wanted(&data.execs)
            {
                data.execs.remove(&old);
                self.execs.remove(&old);
            }
            // Its removal forgets those that are known by then.
            if data.removing {
                return Err(Error::not_running(container.id.as_str()));
            }
            data.execs.insert(id.clone(), Exec::new(config));
            self.execs.insert(id.clone(), container.id);
        }
        self.container_event(&record, &action, [("execID".to_owned(), id.clone())]);
        Ok(id)
    }

    /// Checks that a session may be started.
    pub fn exec_start(&self, id: &str, start: &ExecStart) -> Result<ExecTicket> {
        let (container, exec) = self.find_exec(id)?;
        if exec.code.is_some() || exec.started {
            let what = if exec.running {
                "is already running"
            } else {
                "has already run"
            };
            return Err(Error::conflict(format!("exec command {id} {what}")));
        }
        runnable(
            &container,
            &container.settled().record,
            container.id.as_str(),
        )?;
        let keys = crate::types::detach_keys::parse(&exec.config.detach_keys).unwrap_or_default();
        // Whether there are frames is for the start to say, not for what was made: a raw stream has
        // no place for stderr.
        let attach = (!start.detach).then(|| Attach {
            stdin: exec.config.attach_stdin,
            stdout: exec.config.attach_stdout,
            stderr: exec.config.attach_stderr && !start.tty,
            multiplexed: !start.tty,
            detach_keys: keys,
            early: Vec::new(),
        });
        let size = start.console_size.or(exec.config.console_size);
        Ok(ExecTicket {
            container,
            id: id.to_owned(),
            attach,
            console_size: size.and_then(|[rows, cols]| {
                Some((u16::try_from(rows).ok()?, u16::try_from(cols).ok()?))
            }),
            raw: start.tty,
        })
    }

    fn exec_run(&self, ticket: &ExecTicket, client: Option<(Attach, OwnedFd)>) -> Result<()> {
        let outcome = self.exec_run_noted(ticket, client);
        if let Some(exec) = ticket.container.data().execs.get_mut(&ticket.id) {
            exec.starting = false;
        }
        ticket.container.notify();
        outcome
    }

    fn exec_run_noted(&self, ticket: &ExecTicket, client: Option<(Attach, OwnedFd)>) -> Result<()> {
        let (record, config) = {
            let mut data = ticket.container.data();
            let record = data.record.clone();
            let exec = data
                .execs
                .get_mut(&ticket.id)
                .ok_or_else(|| Error::no_such_exec(&ticket.id))?;
            if exec.started {
                return Err(Error::conflict(format!(
                    "exec command {} is already running",
                    ticket.id
                )));
            }
            exec.started = true;
            exec.running = true;
            exec.starting = true;
            exec.attached = client.is_some();
            (record, exec.config.clone())
        };
        self.container_event(
            &record,
            &action("exec_start", &config),
            [("execID".to_owned(), ticket.id.clone())],
        );
        let directory = &ticket.container.directory;
        let process = self.exec_process(&record, directory, &config, ticket.console_size);
        let started = process.and_then(|process| {
            self.shims
                .exec(&ticket.container.id, &ticket.id, &process, client)
                .map_err(|failure| {
                    if let Some(exec) = ticket.container.data().execs.get_mut(&ticket.id) {
                        // dockerd's code for whatever is not plainly "not found".
                        exec.end(if failure.code == 127 { 127 } else { 126 });
                    }
                    let kind = match failure.code {
                        126 | 127 => Kind::InvalidParameter,
                        _ => Kind::System,
                    };
                    Error::new(kind, failure.message)
                })
        });
        match started {
            Ok(started) => {
                if let Some(exec) = ticket.container.data().execs.get_mut(&ticket.id) {
                    exec.pid = started.pid;
                }
                Ok(())
            }
            Err(error) => {
                if let Some(exec) = ticket.container.data().execs.get_mut(&ticket.id) {
                    exec.end(126);
                }
                Err(error)
            }
        }
    }

    pub(super) fn on_exec_exit(&self, container: &Container, id: &str, code: i32) {
        let record = {
            let mut data = container.data();
            if let Some(exec) = data.execs.get_mut(id) {
                exec.end(code);
            }
            data.record.clone()
        };
        self.container_event(
            &record,
            "exec_die",
            [
                ("execID".to_owned(), id.to_owned()),
                ("exitCode".to_owned(), code.to_string()),
            ],
        );
    }

    /// What is known of a session. A client that asks right after its stream ended finds the exit
    /// code here: the shim ends the stream only after the exit was taken note of.
    pub fn exec_inspect(&self, id: &str) -> Result<ExecInspect> {
        let (container, mut exec) = self.find_exec(id)?;
        if exec.starting {
            let settled = |data: &Data| data.execs.get(id).is_none_or(|exec| !exec.starting);
            container.wait_until(Some(START_PATIENCE), settled);
            exec = self.find_exec(id)?.1;
        }
        let mut command = exec.config.cmd.clone().unwrap_or_default().into_iter();
        let user = match exec.config.user.as_str() {
            "" => self.user_of(&container.record()),
            user => user.to_owned(),
        };
        let keys = match exec.config.detach_keys.as_str() {
            "" => Vec::new(),
            keys => crate::types::detach_keys::parse(keys).unwrap_or_default(),
        };
        Ok(ExecInspect {
            id: id.to_owned(),
            running: exec.running,
            exit_code: exec.code.map(i64::from),
            process_config: Some(ProcessConfig {
                tty: exec.config.tty,
                entrypoint: command.next().unwrap_or_default(),
                arguments: Some(command.collect()),
                privileged: Some(exec.config.privileged),
                user,
            }),
            open_stdin: exec.config.attach_stdin,
            open_stderr: exec.config.attach_stderr,
            open_stdout: exec.config.attach_stdout,
            // Known until they are swept; then there is nothing to inspect.
            can_remove: false,
            container_id: container.id.as_str().to_owned(),
            detach_keys: Some(STANDARD.encode(&keys)),
            pid: i64::from(exec.pid),
        })
    }

    /// Sets the size of a session's terminal.
    pub fn exec_resize(&self, id: &str, rows: u16, cols: u16) -> Result<()> {
        let (container, exec) = self.find_exec(id)?;
        if !exec.running {
            return Err(Error::conflict(format!("exec {id} is not running")));
        }
        self.shims
            .resize(&container.id, Some(id), rows, cols)
            .map_err(|error| Error::system(&error))
    }

    fn find_exec(&self, id: &str) -> Result<(Arc<Container>, Exec)> {
        let missing = || Error::no_such_exec(id);
        let container = self
            .execs
            .get(id)
            .and_then(|id| self.containers.by_id(&id))
            .ok_or_else(missing)?;
        let exec = container
            .data()
            .execs
            .get(id)
            .cloned()
            .ok_or_else(missing)?;
        Ok((container, exec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_are_over_are_forgotten_first_and_running_ones_never() {
        let mut execs = BTreeMap::new();
        let mut add = |id: &str, change: fn(&mut Exec)| {
            let mut exec = Exec::new(ExecConfig::default());
            change(&mut exec);
            execs.insert(id.to_owned(), exec);
        };
        add("idle", |_| {});
        add("idle later", |_| {});
        add("running", |exec| exec.started = true);
        add("ended", |exec| exec.end(0));
        add("ended later", |exec| exec.end(1));
        let mut order = Vec::new();
        while let Some(id) = least_wanted(&execs) {
            execs.remove(&id);
            order.push(id);
        }
        assert_eq!(order, ["ended", "ended later", "idle", "idle later"]);
    }
}
