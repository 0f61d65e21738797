//! Messages on their way out of the shim, in a process of their own.
//!
//! The shim has one thread and never waits. So where a message's receiver may keep others waiting
//! (a syslog server, the journal, or a disk that `mode=non-blocking` is not to wait for) a child of
//! the shim takes the messages from a socket, as entries of [`local`], and waits in its stead. What
//! the shim does with those that the socket has no room for is its [`Delivery`]'s choice.
//!
//! The child ends when the shim has closed its end and all is delivered, or with the shim. What it
//! cannot deliver is lost, and the shim is told of the first of a row.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use super::journald::{self, Journal};
use super::local;
use super::message::Message;
use super::syslog::{self, Syslog};
use super::writer::Writer;
use crate::types::timestamp::Timestamp;

/// Bytes read at once.
const BLOCK: usize = 64 * 1024;

/// How messages leave the shim, where it does not just write them to a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Delivery {
    /// Where they go beside the file.
    pub remote: Option<Remote>,
    /// Most bytes that wait; newer messages are lost. Without it the container waits.
    pub buffer: Option<u64>,
}

/// Where messages go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Remote {
    /// To a syslog server.
    Syslog(Syslog),
    /// To the journal.
    Journal(Journal),
}

impl Remote {
    /// Makes the connection that a first message will take, where there is one.
    ///
    /// # Errors
    /// Why there is none, in Docker's words.
    pub fn connect(&self) -> Result<Option<OwnedFd>, String> {
        match self {
            Self::Syslog(syslog) => syslog.try_connect(),
            Self::Journal(journal) if journald::is_enabled(&journal.socket) => Ok(None),
            Self::Journal(_) => Err("journald is not enabled on this host".to_owned()),
        }
    }
}

/// Takes messages.
#[derive(Debug)]
pub enum Sender {
    /// Into a file.
    File(Box<Writer>),
    /// To a syslog server.
    Syslog(syslog::Sender),
    /// To the journal.
    Journal(journald::Sender),
}

impl Sender {
    /// Sends to `remote`, at first by the connection that it made.
    ///
    /// # Errors
    /// That there are no more sockets.
    pub fn new(remote: &Remote, connection: Option<OwnedFd>) -> io::Result<Self> {
        Ok(match remote {
            Remote::Syslog(syslog) => Self::Syslog(syslog::Sender::new(syslog.clone(), connection)),
            Remote::Journal(journal) => Self::Journal(journald::Sender::new(journal.clone())?),
        })
    }

    fn send(&mut self, message: &Message<'_>) -> Result<(), String> {
        match self {
            Self::File(writer) => writer.log(message).map_err(|error| error.to_string()),
            Self::Syslog(sender) => sender.send(message),
            Self::Journal(sender) => sender.send(message).map_err(|error| error.to_string()),
        }
    }

    /// What was read at once has been sent.
    fn flush(&mut self) -> Result<(), String> {
        match self {
            Self::File(writer) => writer.flush().map_err(|error| error.to_string()),
            Self::Syslog(_) | Self::Journal(_) => Ok(()),
        }
    }
}

/// Delivers what comes from `feed` until it ends.
///
/// # Errors
/// That `feed` cannot be read, or sends what is no message.
pub fn deliver(mut feed: UnixStream, mut sender: Sender) -> io::Result<()> {
    let mut buffer = Vec::new();
    let mut failing = false;
    loop {
        let held = buffer.len();
        buffer.resize(held + BLOCK, 0);
        let read = match feed.read(&mut buffer[held..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Ok(0) => break,
            read => read?,
        };
        buffer.truncate(held + read);
        let mut result = Ok(());
        let whole = each(&buffer, |message| {
            let sent = sender.send(message);
            result = sent.and(std::mem::replace(&mut result, Ok(())));
        })?;
        buffer.drain(..whole);
        // What only a busy container needs.
        buffer.shrink_to(BLOCK);
        let result = sender.flush().and(result);
        if let Err(reason) = &result
            && !failing
        {
            // It may have gone.
            let _ = feed.write_all(format!("{reason}\n").as_bytes());
        }
        failing = result.is_err();
    }
    match &mut sender {
        Sender::File(writer) => writer.finish(Timestamp::now()),
        Sender::Syslog(_) | Sender::Journal(_) => Ok(()),
    }
}

/// Gives out the whole messages at the beginning of `bytes`, and tells how long they are.
fn each(bytes: &[u8], mut give: impl FnMut(&Message<'_>)) -> io::Result<usize> {
    let mut at = 0;
    loop {
        match local::framed(&bytes[at..]) {
            local::Framed::Whole(length) => {
                local::show(local::message(&bytes[at..], length), &mut give);
                at += length + 2 * local::LENGTH;
            }
            local::Framed::Short => return Ok(at),
            local::Framed::Broken => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Shutdown;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::container::logs::{Format, Query, Reader, Record, Splitter};
    use crate::container::protocol::Stream;

    /// Delivers two lines, cut anyhow, by `sender`; then `meanwhile`, then the same again. What was
    /// told.
    fn twice(sender: Sender, meanwhile: impl FnOnce()) -> String {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let child = std::thread::spawn(move || deliver(theirs, sender));
        let mut splitter = Splitter::default();
        let mut frames = Vec::new();
        splitter.write(Stream::Stdout, b"one\ntwo\n", Timestamp::now(), |message| {
            local::encode(message, &[], &mut frames);
        });
        for piece in frames.chunks(3) {
            ours.write_all(piece).unwrap();
        }
        meanwhile();
        ours.write_all(&frames).unwrap();
        ours.shutdown(Shutdown::Write).unwrap();
        let mut told = String::new();
        ours.read_to_string(&mut told).unwrap();
        child.join().unwrap().unwrap();
        told
    }

    #[test]
    fn what_cannot_be_sent_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let server = UnixDatagram::bind(&socket).unwrap();
        let remote = Remote::Journal(Journal {
            socket: socket.clone(),
            fields: BTreeMap::new(),
        });
        assert!(remote.connect().unwrap().is_none());
        let told = twice(Sender::new(&remote, None).unwrap(), || {
            let mut got = [0; 1000];
            for expected in ["MESSAGE=one\n", "MESSAGE=two\n"] {
                let length = server.recv(&mut got).unwrap();
                assert!(String::from_utf8_lossy(&got[..length]).contains(expected));
            }
            drop(server);
            std::fs::remove_file(&socket).unwrap();
        });
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(remote.connect().is_err());
    }

    #[test]
    fn files_get_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = Writer::open(&path, Format::Local, &BTreeMap::new()).unwrap();
        assert_eq!(twice(Sender::File(Box::new(file)), || ()), "");
        let query = Query {
            stdout: true,
            ..Query::default()
        };
        let mut reader = Reader::open(&path, Format::Local, query, None).unwrap();
        let (mut record, mut lines) = (Record::default(), Vec::new());
        while reader.read(&mut record).unwrap() {
            lines.extend_from_slice(&record.line);
        }
        assert_eq!(lines, b"one\ntwo\none\ntwo\n");
    }
}
