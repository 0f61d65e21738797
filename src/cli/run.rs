//! `run`, `create`, `start`, `attach`, `wait`: containers with somebody at the other end.
//!
//! ```text
//! run:  create ─▶ attach, wait (sent together, answered) ─▶ start ─▶ streams ─▶ exit status
//!       └──── kept connection ────────────────────────────────┘      └─ from the wait
//! ```
//!
//! Attach and wait come before the start, so that neither output nor exit can be missed; no
//! request is made that is not needed for that. The terminal is raw only while the streams run, and
//! signals are passed on, as one that ends this process would not end the container.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

use super::args;
use super::create::{self, ContainerFlags};
use super::engine::{Answer, Client, Pending};
use super::error::{ENGINE_FAILED, Exit, describe, is_not_found, with_help};
use super::http::{Body, Hijacked, Target};
use super::images;
use super::output::{complain, each, line};
use super::streams::{End, Heeded, Session, Signals};
use super::terminal::{self, DetachKeys, Raw};
use crate::api::container::{CreateRequest, CreateResponse, Inspect, WaitResponse};
use crate::types::platform::Platform;
use crate::types::reference::Reference;
use crate::types::signal::Signal;

/// What is said of input that is none.
pub(super) const NOT_A_TERMINAL: &str = "the input device is not a TTY";

/// `moss create`.
pub fn create(client: &Client, flags: &ContainerFlags) -> Result<()> {
    let request = request(flags, "create")?;
    let id = make(client, flags, &request)?;
    line(&id)
}

/// `moss run`; the exit status is the container's.
pub fn run(client: &Client, run: &args::Run) -> Result<()> {
    let engine_failed = |error: anyhow::Error| {
        let sentence = describe(&error);
        let status = start_status(&sentence);
        Exit::because(status, with_help(&format!("moss: {sentence}"), "run"))
    };
    let flags = &run.container;
    let mut request = request(flags, "run")?;
    let keys =
        DetachKeys::parse(&run.detach_keys).map_err(|error| engine_failed(anyhow!(error)))?;
    if run.detach {
        if !flags.attach.is_empty() {
            bail!("conflicting options: cannot specify both --attach and --detach");
        }
        let config = &mut request.config;
        config.attach_stdin = false;
        config.attach_stdout = false;
        config.attach_stderr = false;
        config.stdin_once = false;
    } else if request.config.tty && request.config.attach_stdin && !io::stdin().is_terminal() {
        return Err(Exit::because(1, NOT_A_TERMINAL));
    }
    if let Some(size) = terminal::size().filter(|_| flags.tty) {
        request.host_config.console_size = size;
    }
    let id = make(client, flags, &request).map_err(engine_failed)?;
    if run.detach {
        client
            .act(&start_target(&id, &run.detach_keys))
            .map_err(engine_failed)?;
        return line(&id);
    }
    let config = &request.config;
    let attachment = Attachment {
        id: &id,
        stdin: config.attach_stdin,
        stdout: config.attach_stdout,
        stderr: config.attach_stderr,
        tty: config.tty,
        keys,
        detach_keys: &run.detach_keys,
        // With a terminal too, as docker run does and attach does not: keys come as bytes there, but
        // a signal may come from elsewhere.
        proxy: run.sig_proxy,
        size: request.host_config.console_size,
        lost: ENGINE_FAILED,
        leaving_fails: false,
    };
    let condition = if request.host_config.auto_remove {
        "removed"
    } else {
        "next-exit"
    };
    let signals = Signals::catch(!attachment.proxy && !attachment.raw())?;
    let (attached, wait) = attachment
        .open(client, Some(condition))
        .map_err(engine_failed)?;
    let wait = wait.context("nothing to wait for")?;
    if let Err(error) = client.act(&start_target(&id, &run.detach_keys)) {
        drop(attached);
        if request.host_config.auto_remove {
            // It goes by itself; the prompt comes back when it is gone.
            let _ = exit_status(wait);
        }
        return Err(engine_failed(error));
    }
    attachment.converse(client, attached, Some(wait), &signals)
}

/// The request that the flags describe; whatever is wrong with them is no fault of a command's.
fn request(flags: &ContainerFlags, verb: &str) -> Result<CreateRequest> {
    let refuse = |sentence: &str| {
        Exit::because(ENGINE_FAILED, with_help(&format!("moss: {sentence}"), verb))
    };
    if !matches!(flags.pull.as_str(), "always" | "missing" | "never" | "") {
        return Err(refuse(&format!(
            "invalid pull option: '{}': must be one of \"always\", \"missing\" or \"never\"",
            flags.pull
        )));
    }
    create::request(flags).map_err(|sentence| refuse(&sentence))
}

/// The status that docker gives for what keeps a command from starting.
pub(super) fn start_status(sentence: &str) -> i32 {
    let says = |text: &str| sentence.contains(text);
    if says("executable file not found") || says("no such file or directory") {
        127
    } else if says("permission denied") || says("is a directory") {
        126
    } else {
        ENGINE_FAILED
    }
}

fn start_target(id: &str, detach_keys: &str) -> Target {
    Target::new("/containers/{}/start", &[id]).with_some("detachKeys", detach_keys)
}

/// Creates a container, with its image pulled where it is missing; its id.
fn make(client: &Client, flags: &ContainerFlags, request: &CreateRequest) -> Result<String> {
    images::trusted(&flags.trust)?;
    let platform = flags.platform.as_deref().unwrap_or_default();
    platform
        .parse::<Platform>()
        .map(drop)
        .or_else(|error| match platform.is_empty() {
            true => Ok(()),
            false => Err(anyhow!("error parsing specified platform: {error}")),
        })?;
    let mut cidfile = flags.cidfile.as_deref().map(CidFile::open).transpose()?;
    let target = Target::new("/containers/create", &[])
        .with_some("name", flags.name.as_deref().unwrap_or_default())
        .with_some("platform", platform);
    let image = &request.config.image;
    if flags.pull == "always" {
        fetch(client, image, platform, flags.quiet)?;
    }
    let made: CreateResponse = match client.post(&target, request) {
        // Whatever was not found: the engine may have the image, for another platform.
        Err(error)
            if flags.pull == "missing"
                && is_not_found(&error)
                && Reference::parse(image).is_ok() =>
        {
            let name =
                Reference::parse(image).map_or_else(|_| image.clone(), |name| name.familiar());
            if !flags.quiet {
                complain(&format!("Unable to find image '{name}' locally"));
            }
            fetch(client, image, platform, flags.quiet)?;
            client.post(&target, request)?
        }
        other => other?,
    };
    for warning in &made.warnings {
        complain(&format!("WARNING: {warning}"));
    }
    if let Some(cidfile) = &mut cidfile {
        cidfile.write(&made.id)?;
    }
    Ok(made.id)
}

/// Pulls a container's image; what is said of it is no output of the container's.
fn fetch(client: &Client, image: &str, platform: &str, quiet: bool) -> Result<()> {
    let name = Reference::parse(image).map_err(|error| anyhow!("{error}"))?;
    images::fetch(client, &name, platform, &mut io::stderr(), quiet)
}

/// The file that gets the container's id: it must not exist, and it does not stay empty.
struct CidFile<'a> {
    path: &'a str,
    file: File,
    written: bool,
}

impl<'a> CidFile<'a> {
    fn open(path: &'a str) -> Result<Self> {
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path);
        match file {
            Ok(file) => Ok(Self {
                path,
                file,
                written: false,
            }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
                "container ID file found, make sure the other container isn't running or delete {path}"
            ),
            Err(error) => Err(error)
                .with_context(|| format!("failed to create the container ID file: open {path}")),
        }
    }

    fn write(&mut self, id: &str) -> Result<()> {
        self.file
            .write_all(id.as_bytes())
            .context("failed to write the container ID to the file")?;
        self.written = true;
        Ok(())
    }
}

impl Drop for CidFile<'_> {
    fn drop(&mut self) {
        if !self.written {
            let _ = std::fs::remove_file(Path::new(self.path));
        }
    }
}

/// How a client is attached to a container.
struct Attachment<'a> {
    id: &'a str,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
    keys: DetachKeys,
    detach_keys: &'a str,
    proxy: bool,
    /// What the container's terminal has been told.
    size: [u64; 2],
    /// The status where the engine ends before it has said how the container did.
    lost: i32,
    /// To leave by the keys is a failure, as with `docker attach` and unlike `docker run`.
    leaving_fails: bool,
}

impl Attachment<'_> {
    /// Whether the user's terminal is raw while attached.
    fn raw(&self) -> bool {
        self.tty && self.stdin && io::stdin().is_terminal()
    }

    /// Attaches, and begins to wait for `condition`: both are asked before either is answered.
    fn open(&self, client: &Client, condition: Option<&str>) -> Result<(Hijacked, Option<Answer>)> {
        let target = Target::new("/containers/{}/attach", &[self.id])
            .with_some("detachKeys", self.detach_keys)
            .with("stream", 1)
            .with_flag("stdin", self.stdin)
            .with_flag("stdout", self.stdout)
            .with_flag("stderr", self.stderr);
        let attach = client.begin(&target, Body::Empty, true)?;
        let wait = condition
            .map(|condition| begin_wait(client, self.id, condition))
            .transpose()?;
        let (_, hijacked) = client.hijacked(attach)?;
        let wait = wait.map(|wait| client.answer(wait)).transpose()?;
        Ok((hijacked, wait))
    }

    /// Moves bytes until the container has ended or the user detaches; the exit status as an error.
    fn converse(
        &self,
        client: &Client,
        connection: Hijacked,
        mut wait: Option<Answer>,
        signals: &Signals,
    ) -> Result<()> {
        let raw = if self.raw() { Raw::enter()? } else { None };
        let mut told = self.size;
        let mut resize = || {
            if let Some(size) = terminal::size().filter(|size| self.tty && *size != told) {
                told = size;
                let target = Target::new("/containers/{}/resize", &[self.id])
                    .with("h", size[0])
                    .with("w", size[1]);
                // A terminal of the wrong size is no reason to end.
                let _ = client.act(&target);
            }
        };
        resize();
        let session = Session {
            connection,
            stdin: self.stdin,
            raw: self.tty,
            keys: (self.tty && self.stdin).then(|| self.keys.clone()),
            // What came with the head needs no waiting for, and poll would wait for ever.
            exit: wait
                .as_ref()
                .filter(|answer| !answer.body.has_early())
                .map(|answer| answer.body.socket().as_fd()),
        };
        let end = session.run(signals, &mut |signal| {
            heed(signal, &mut resize, self.proxy, |name| {
                let target = Target::new("/containers/{}/kill", &[self.id]).with("signal", name);
                // It may just have ended; then the streams will say so.
                let _ = client.act(&target);
            })
        });
        drop(raw);
        match end? {
            End::Detached if self.leaving_fails => Err(Exit::because(1, "read escape sequence")),
            End::Detached => Ok(()),
            End::Interrupted(signal) => Err(Exit::silent(128 + signal)),
            End::Finished => match wait.take() {
                Some(wait) => match exit_status(wait) {
                    Ok(code) => status(code),
                    Err(error) if error.is::<Exit>() => Err(error),
                    Err(error) => Err(Exit::because(self.lost, describe(&error))),
                },
                None => Ok(()),
            },
        }
    }
}

/// What a session does with a signal: resizes, passes it on, or leaves.
pub(super) fn heed(
    signal: i32,
    resize: &mut dyn FnMut(),
    proxy: bool,
    pass: impl FnOnce(Signal),
) -> Heeded {
    if signal == libc::SIGWINCH {
        resize();
        return Heeded::Continue;
    }
    match Signal::from_number(signal) {
        Ok(name) if proxy => {
            pass(name);
            Heeded::Continue
        }
        _ if signal == libc::SIGCONT => Heeded::Continue,
        _ => Heeded::Leave,
    }
}

fn begin_wait(client: &Client, id: &str, condition: &str) -> Result<Pending> {
    let target = Target::new("/containers/{}/wait", &[id]).with("condition", condition);
    client.begin(&target, Body::Empty, false)
}

fn exit_status(mut wait: Answer) -> Result<i64> {
    let mut text = Vec::new();
    wait.body
        .read_to_end(&mut text)
        .context("error waiting for container")?;
    let response: WaitResponse =
        serde_json::from_slice(&text).context("error waiting for container")?;
    match response.error.filter(|error| !error.message.is_empty()) {
        Some(error) => Err(Exit::because(ENGINE_FAILED, error.message)),
        None => Ok(response.status_code),
    }
}

/// A container's exit status as this program's.
pub(super) fn status(code: i64) -> Result<()> {
    match i32::try_from(code) {
        Ok(0) => Ok(()),
        Ok(code) => Err(Exit::silent(code)),
        Err(_) => Err(Exit::silent(ENGINE_FAILED)),
    }
}

/// `moss start`.
pub fn start(client: &Client, start: &args::Start) -> Result<()> {
    if !start.attach && !start.interactive {
        let mut failed = Vec::new();
        for name in &start.names {
            match client.act(&start_target(name, &start.detach_keys)) {
                Ok(()) => line(name)?,
                Err(error) => {
                    complain(&describe(&error));
                    failed.push(name.as_str());
                }
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        return Err(Exit::because(
            1,
            format!("Error: failed to start containers: {}", failed.join(", ")),
        ));
    }
    let [name] = start.names.as_slice() else {
        return Err(Exit::because(
            1,
            "you cannot start and attach multiple containers at once",
        ));
    };
    let container: Inspect = client.get(&Target::new("/containers/{}/json", &[name]))?;
    let config = &container.config;
    let attachment = Attachment {
        id: &container.id,
        stdin: start.interactive && config.open_stdin,
        stdout: true,
        stderr: true,
        tty: config.tty,
        keys: DetachKeys::parse(&start.detach_keys).map_err(|error| anyhow!(error))?,
        detach_keys: &start.detach_keys,
        proxy: start.attach && !config.tty,
        size: container.host_config.console_size,
        lost: ENGINE_FAILED,
        leaving_fails: false,
    };
    let condition = if container.host_config.auto_remove {
        "removed"
    } else {
        "next-exit"
    };
    let signals = Signals::catch(!attachment.proxy && !attachment.raw())?;
    let (attached, wait) = attachment.open(client, Some(condition))?;
    client.act(&start_target(name, &start.detach_keys))?;
    attachment.converse(client, attached, wait, &signals)
}

/// `moss attach`; the exit status is the container's.
pub fn attach(client: &Client, attach: &args::Attach) -> Result<()> {
    let container: Inspect =
        client.get(&Target::new("/containers/{}/json", &[&attach.container]))?;
    let state = &container.state;
    for (wrong, sentence) in [
        (
            !state.running,
            "cannot attach to a stopped container, start it first",
        ),
        (
            state.paused,
            "cannot attach to a paused container, unpause it first",
        ),
        (
            state.restarting,
            "cannot attach to a restarting container, wait until it is running",
        ),
    ] {
        if wrong {
            return Err(Exit::because(1, sentence));
        }
    }
    let config = &container.config;
    let stdin = !attach.no_stdin && config.open_stdin;
    if config.tty && stdin && !io::stdin().is_terminal() {
        return Err(Exit::because(1, NOT_A_TERMINAL));
    }
    let attachment = Attachment {
        id: &container.id,
        stdin,
        stdout: true,
        stderr: true,
        tty: config.tty,
        keys: DetachKeys::parse(&attach.detach_keys).map_err(|error| anyhow!(error))?,
        detach_keys: &attach.detach_keys,
        proxy: attach.sig_proxy && !config.tty,
        // Whatever it was told before, it was another terminal's.
        size: [0, 0],
        lost: 1,
        leaving_fails: true,
    };
    let signals = Signals::catch(!attachment.proxy && !attachment.raw())?;
    let (attached, wait) = attachment.open(client, Some("not-running"))?;
    attachment.converse(client, attached, wait, &signals)
}

/// `moss wait`.
pub fn wait(client: &Client, names: &[String]) -> Result<()> {
    each(names, |name| {
        let wait = client.answer(begin_wait(client, name, "not-running")?)?;
        exit_status(wait).map(|code| code.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_command_from_starting_has_a_status() {
        for (sentence, status) in [
            ("exec: \"nosuch\": executable file not found in $PATH", 127),
            (
                "exec: \"/nosuch\": stat /nosuch: no such file or directory",
                127,
            ),
            ("exec: \"/etc/passwd\": permission denied", 126),
            ("exec: \"/etc\": is a directory", 126),
            ("No such image: x", 125),
        ] {
            assert_eq!(start_status(sentence), status);
        }
    }
}
