//! Messages to systemd's journal, by its native protocol: fields in a datagram, or in a sealed memfd
//! where they are too large for one (systemd.io/JOURNAL_NATIVE_PROTOCOL). The fields are Docker's
//! (moby: `daemon/logger/journald`).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::message::Message;
use crate::container::protocol::Stream;
use crate::sys::{fdpass, sealed};

/// The journal's socket.
pub const SOCKET: &str = "/run/systemd/journal/socket";

const PRIORITY_ERROR: &str = "3";
const PRIORITY_INFO: &str = "6";

/// Where a container's messages go, and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The journal's socket.
    pub socket: PathBuf,
    /// Fields that all messages have.
    pub fields: BTreeMap<String, String>,
}

/// Whether there is a journal.
pub fn is_enabled(socket: &Path) -> bool {
    UnixDatagram::unbound().is_ok_and(|unbound| unbound.connect(socket).is_ok())
}

/// The field's name for an option's name: upper case, digits and underscores, none at the beginning.
pub fn field_name(name: &str) -> String {
    let other = |c: char| match c.to_ascii_uppercase() {
        c @ ('A'..='Z' | '0'..='9') => c,
        _ => '_',
    };
    let name: String = name.chars().map(other).collect();
    name.trim_start_matches('_').to_owned()
}

/// Sends messages.
#[derive(Debug)]
pub struct Sender {
    socket: UnixDatagram,
    journal: Journal,
    /// Of messages sent.
    ordinal: u64,
    text: Vec<u8>,
}

impl Sender {
    /// Sends to the journal, whenever it is there.
    pub fn new(journal: Journal) -> io::Result<Self> {
        Ok(Self {
            socket: UnixDatagram::unbound()?,
            journal,
            ordinal: 0,
            text: Vec::new(),
        })
    }

    /// Sends one message; waits as long as the journal takes.
    ///
    /// # Errors
    /// Why it is lost.
    pub fn send(&mut self, message: &Message<'_>) -> io::Result<()> {
        self.ordinal += 1;
        self.text.clear();
        let out = &mut self.text;
        let priority = match message.stream {
            Stream::Stdout => PRIORITY_INFO,
            Stream::Stderr => PRIORITY_ERROR,
        };
        field("PRIORITY", priority.as_bytes(), out);
        field("MESSAGE", message.line, out);
        for (name, value) in &self.journal.fields {
            field(name, value.as_bytes(), out);
        }
        field("SYSLOG_TIMESTAMP", message.time.to_string().as_bytes(), out);
        if let Some(partial) = message.partial {
            let ordinal = partial.ordinal.to_string();
            field("CONTAINER_PARTIAL_ID", partial.id.as_bytes(), out);
            field("CONTAINER_PARTIAL_ORDINAL", ordinal.as_bytes(), out);
            let last = partial.last.to_string();
            field("CONTAINER_PARTIAL_LAST", last.as_bytes(), out);
            if !partial.last {
                field("CONTAINER_PARTIAL_MESSAGE", b"true", out);
            }
        }
        let ordinal = self.ordinal.to_string();
        field("CONTAINER_LOG_ORDINAL", ordinal.as_bytes(), out);
        let path = fdpass::Address::of(&self.journal.socket)?;
        loop {
            match self.socket.send_to(&self.text, path.path()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::ENOBUFS)) =>
                {
                    break self.send_file(path.path());
                }
                sent => break sent.map(drop),
            }
        }
    }

    /// Sends what is too large for a datagram.
    fn send_file(&self, path: &Path) -> io::Result<()> {
        let file = sealed::bytes(c"journal", &self.text)?;
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        fdpass::send(&socket, b"", &[file.as_fd()])
    }
}

/// Appends a field: in one line, or with its length where the value has several.
fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    if name.is_empty() {
        return;
    }
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;
    use crate::container::logs::Partial;
    use crate::types::timestamp::Timestamp;

    #[test]
    fn names_are_sanitized_as_dockers() {
        for (name, expected) in [("com.example-a", "COM_EXAMPLE_A"), ("_x1", "X1"), ("é", "")] {
            assert_eq!(field_name(name), expected);
        }
    }

    #[test]
    fn the_journal_gets_dockers_fields() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        assert!(!is_enabled(&socket));
        let server = UnixDatagram::bind(&socket).unwrap();
        assert!(is_enabled(&socket));
        let fields = [("CONTAINER_NAME", "n"), ("TWO", "a\nb")];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let journal = Journal {
            socket,
            fields: fields.into(),
        };
        let mut sender = Sender::new(journal).unwrap();
        let mut message = Message {
            stream: Stream::Stdout,
            time: Timestamp::from_seconds(1_700_000_000),
            line: b"text",
            partial: None,
        };
        let mut got = vec![0; 4096];
        sender.send(&message).unwrap();
        let length = server.recv(&mut got).unwrap();
        let expected = b"PRIORITY=6\nMESSAGE=text\nCONTAINER_NAME=n\nTWO\n\x03\0\0\0\0\0\0\0a\nb\n\
            SYSLOG_TIMESTAMP=2023-11-14T22:13:20Z\nCONTAINER_LOG_ORDINAL=1\n";
        assert_eq!(got[..length], expected[..]);
        message.partial = Some(Partial {
            id: "id",
            ordinal: 2,
            last: false,
        });
        sender.send(&message).unwrap();
        let length = server.recv(&mut got).unwrap();
        let text = String::from_utf8_lossy(&got[..length]).into_owned();
        assert!(text.contains(
            "CONTAINER_PARTIAL_ID=id\nCONTAINER_PARTIAL_ORDINAL=2\nCONTAINER_PARTIAL_LAST=false\n\
             CONTAINER_PARTIAL_MESSAGE=true\nCONTAINER_LOG_ORDINAL=2\n"
        ));
        // Too large for a datagram.
        let line = vec![b'x'; 4 << 20];
        message.line = &line;
        sender.send(&message).unwrap();
        let (length, mut files) = fdpass::receive(&server, &mut got).unwrap();
        assert_eq!((length, files.len()), (0, 1));
        let mut file = std::fs::File::from(files.remove(0));
        file.rewind().unwrap();
        let mut text = Vec::new();
        file.read_to_end(&mut text).unwrap();
        assert!(text.len() > line.len() && text.starts_with(b"PRIORITY=6\nMESSAGE=xxx"));
    }
}
