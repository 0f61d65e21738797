//! `exec`: a command in a container, with somebody at the other end.
//!
//! ```text
//! create ─▶ start, which becomes the streams ─▶ inspect, for the exit status
//! ```

use std::io::{self, IsTerminal};

use anyhow::{Context, Result, anyhow};

use super::args;
use super::create;
use super::engine::Client;
use super::error::{ENGINE_FAILED, Exit, describe, refusal};
use super::http::{Body, Target};
use super::run::{NOT_A_TERMINAL, heed, start_status, status};
use super::streams::{End, Session, Signals};
use super::terminal::{self, DetachKeys, Raw};
use crate::api::IdResponse;
use crate::api::exec::{ExecConfig, ExecInspect, ExecStart};

/// The status where the engine ends before it has said how the command did.
const LOST: i32 = 255;

/// `moss exec`; the exit status is the command's.
pub fn exec(client: &Client, exec: &args::Exec) -> Result<()> {
    let (container, command) = exec.words.split_first().context("no container was named")?;
    let env =
        create::read_environment(&exec.env_file, &exec.env).map_err(|error| anyhow!(error))?;
    let keys = DetachKeys::parse(&exec.detach_keys).map_err(|error| anyhow!(error))?;
    let attached = !exec.detach;
    let stdin = attached && exec.interactive;
    if exec.tty && stdin && !io::stdin().is_terminal() {
        return Err(Exit::because(1, NOT_A_TERMINAL));
    }
    let console_size = terminal::size().filter(|_| exec.tty);
    let config = ExecConfig {
        user: exec.user.clone(),
        privileged: exec.privileged,
        tty: exec.tty,
        console_size,
        attach_stdin: stdin,
        attach_stderr: attached,
        attach_stdout: attached,
        detach_keys: exec.detach_keys.clone(),
        env: Some(env).filter(|env| !env.is_empty()),
        working_dir: exec.workdir.clone(),
        cmd: Some(command.to_vec()),
    };
    let made: IdResponse =
        client.post(&Target::new("/containers/{}/exec", &[container]), &config)?;
    let start = ExecStart {
        detach: exec.detach,
        tty: exec.tty,
        console_size,
    };
    let target = Target::new("/exec/{}/start", &[&made.id]);
    let body = Body::Json(serde_json::to_vec(&start)?);
    if exec.detach {
        // Nobody waits for it, nor for its status.
        return client.bytes("POST", &target, body).map(drop);
    }
    let raw = exec.tty && stdin;
    let signals = Signals::catch(!raw)?;
    let (_, connection) = client
        .begin(&target, body, true)
        .and_then(|pending| client.hijacked(pending))
        .map_err(exec_failed)?;
    let raw = if raw { Raw::enter()? } else { None };
    let mut told = console_size;
    let mut resize = || {
        let size = terminal::size();
        if let Some([height, width]) = size.filter(|_| exec.tty && size != told) {
            told = size;
            let target = Target::new("/exec/{}/resize", &[&made.id])
                .with("h", height)
                .with("w", width);
            let _ = client.act(&target);
        }
    };
    let session = Session {
        connection,
        stdin,
        raw: exec.tty,
        keys: (exec.tty && stdin).then_some(keys),
        exit: None,
    };
    let end = session.run(&signals, &mut |signal| {
        heed(signal, &mut resize, false, |_| {})
    });
    drop(raw);
    match end? {
        // Unlike `run` and `attach`, docker calls it a failure.
        End::Detached => return Err(Exit::because(1, "read escape sequence")),
        End::Interrupted(signal) => return Err(Exit::silent(128 + signal)),
        End::Finished => {}
    }
    let target = Target::new("/exec/{}/json", &[&made.id]);
    let ended: ExecInspect = client.get(&target).map_err(|error| match refusal(&error) {
        Some(_) => error,
        None => Exit::because(LOST, describe(&error)),
    })?;
    status(ended.exit_code.unwrap_or(0))
}

/// Docker gives 126 and 127 for commands that cannot be executed.
fn exec_failed(error: anyhow::Error) -> anyhow::Error {
    match refusal(&error) {
        Some(refused) => match start_status(&refused.message) {
            ENGINE_FAILED => error,
            status => Exit::because(status, describe(&error)),
        },
        None => error,
    }
}
