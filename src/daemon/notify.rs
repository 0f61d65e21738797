//! Telling whoever started the daemon that it serves, or why it does not.
//!
//! Two ways: systemd's notification socket (`$NOTIFY_SOCKET`, sd_notify(3)), and a pipe that a
//! `moss` verb which starts a daemon on demand passes on and reads to its end: `ready` and a
//! newline, or a sentence. Neither being there is no error.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What the pipe carries once the daemon serves.
pub const READY: &str = "ready\n";

/// The ways to tell; the pipe is told once.
#[derive(Debug)]
pub struct Notify {
    pipe: Option<File>,
}

impl Notify {
    /// With the pipe of a `moss` verb, if one started this daemon.
    pub fn new(pipe: Option<File>) -> Notify {
        Notify { pipe }
    }

    /// The daemon serves.
    pub fn ready(&mut self) {
        self.pipe(READY);
        systemd(&format!("READY=1\nMAINPID={}", std::process::id()));
    }

    /// The daemon cannot serve.
    pub fn failed(&mut self, sentence: &str) {
        self.pipe(&format!("{sentence}\n"));
        systemd(&format!("STATUS={sentence}"));
    }

    fn pipe(&mut self, text: &str) {
        if let Some(mut pipe) = self.pipe.take()
            && let Err(error) = pipe.write_all(text.as_bytes())
        {
            tracing::debug!(%error, "whoever started this daemon has left");
        }
    }
}

/// The daemon is about to end.
pub fn stopping() {
    systemd("STOPPING=1");
}

fn systemd(message: &str) {
    if let Err(error) = send(message) {
        tracing::debug!(%error, "cannot notify systemd");
    }
}

fn send(message: &str) -> io::Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}
