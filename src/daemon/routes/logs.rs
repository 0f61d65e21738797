//! `GET /containers/{name}/logs`: a log as its client sees it.
//!
//! A container with a terminal has its text as it is. Otherwise each record is a frame, as from
//! dockerd: docker-py and others give their users one frame after the other, and those take each for
//! a line. The docker CLI joins frames again, and pays dearly for each: it writes it by itself and
//! moves what follows in its buffer of 32 KiB (2.4 s for a million lines). So it gets as many
//! records of one stream in a frame as are at hand (0.25 s): the same text in the same order.
//!
//! What is at hand is sent before anything is waited for, so a log that is followed is as live
//! either way.

use std::sync::Arc;

use hyper::header::USER_AGENT;

use super::{Request, State, quick, spawn};
use crate::api::stream::{self, HEADER, StreamKind};
use crate::container::logs::{Query, Reader, Record};
use crate::container::protocol::Stream;
use crate::daemon::answer::{self, Answer, Failure, Feed};
use crate::types::timestamp::Timestamp;

/// Records are sent once this many bytes are gathered, or nothing more is at hand.
const PIECE: usize = 32 * 1024;

/// How the docker CLI's name begins, to which its version is added.
const DOCKER: &[u8] = b"Docker-Client/";

/// Answers with the log.
pub async fn logs(state: State, request: Request) -> Result<Answer, Failure> {
    let query = &request.query;
    let wanted = Query {
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        // `all`, nothing and what is no number mean all, as in Docker.
        tail: query.get("tail").and_then(|tail| tail.parse().ok()),
        since: time(&request, "since")?,
        until: time(&request, "until")?,
    };
    if !wanted.stdout && !wanted.stderr {
        return Err(Failure::bad_request(
            "must specify at least one of 'stdout' or 'stderr'",
        ));
    }
    let follow = query.flag("follow");
    let (timestamps, details) = (query.flag("timestamps"), query.flag("details"));
    let name = request.name.clone();
    let log = quick(&state, move |engine| {
        engine.container_logs(&name, wanted, follow)
    })
    .await?;
    let (feed, mut stream) = answer::stream(answer::STREAM_DEPTH);
    if let Some(follow) = log.follow {
        let cancel = Arc::clone(&follow);
        stream = stream
            .until(request.ended()?)
            .on_end(move || cancel.cancel());
    }
    let agent = request.headers.get(USER_AGENT);
    let framing = match agent.is_some_and(|agent| agent.as_bytes().starts_with(DOCKER)) {
        _ if log.terminal => Framing::None,
        true => Framing::Joined,
        false => Framing::Records,
    };
    let text = Text::new(framing, timestamps, details);
    let mut reader = log.reader;
    spawn("logs", move || send(text, &mut reader, &feed))?;
    let kind = if framing != Framing::None && request.since(42) {
        stream::MULTIPLEXED
    } else {
        stream::RAW
    };
    Ok(answer::streamed(kind, stream))
}

/// Sends all records, on a thread that may sleep between them.
fn send(mut text: Text, reader: &mut Reader, feed: &Feed) {
    let mut record = Record::default();
    loop {
        let more = match reader.read(&mut record) {
            Ok(more) => more,
            Err(error) => {
                let error = format!("Error grabbing logs: {error}\n");
                text.frame(StreamKind::SystemError, |text| {
                    text.extend_from_slice(error.as_bytes());
                });
                false
            }
        };
        if more {
            text.add(&record);
        }
        let due = !more || text.bytes.len() >= PIECE || reader.is_drained();
        if due && !text.bytes.is_empty() && feed.send(text.take()).is_err() {
            return;
        }
        if !more {
            return;
        }
    }
}

/// What is a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// There are none.
    None,
    /// A record.
    Records,
    /// All records of one stream that follow each other.
    Joined,
}

/// Records as they are sent.
#[derive(Debug)]
struct Text {
    framing: Framing,
    timestamps: bool,
    details: bool,
    bytes: Vec<u8>,
    /// The frame that may grow, and where it begins. Its length is not in its header yet.
    open: Option<(StreamKind, usize)>,
}

impl Text {
    fn new(framing: Framing, timestamps: bool, details: bool) -> Text {
        Text {
            framing,
            timestamps,
            details,
            bytes: Vec::new(),
            open: None,
        }
    }

    fn add(&mut self, record: &Record) {
        let kind = match record.stream {
            Stream::Stdout => StreamKind::Stdout,
            Stream::Stderr => StreamKind::Stderr,
        };
        let (timestamps, details) = (self.timestamps, self.details);
        self.frame(kind, |text| record.render(timestamps, details, text));
    }

    fn frame(&mut self, kind: StreamKind, render: impl FnOnce(&mut Vec<u8>)) {
        let is_same = self.open.is_some_and(|(open, _)| open == kind);
        if self.framing != Framing::None && !(is_same && self.framing == Framing::Joined) {
            self.end_frame();
            self.open = Some((kind, self.bytes.len()));
            self.bytes.extend_from_slice(&[0; HEADER]);
        }
        render(&mut self.bytes);
    }

    fn end_frame(&mut self) {
        if let Some((kind, begin)) = self.open.take() {
            let length = self.bytes.len() - begin - HEADER;
            // A piece and a record are far shorter than 4 GiB: the reader bounds the latter.
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            self.bytes[begin..begin + HEADER].copy_from_slice(&stream::encode(kind, length));
        }
    }

    /// Takes what there is, in whole frames.
    fn take(&mut self) -> Vec<u8> {
        self.end_frame();
        std::mem::take(&mut self.bytes)
    }
}

/// A point in time among the parameters; 0 is none, as old clients send it.
fn time(request: &Request, name: &str) -> Result<Option<Timestamp>, Failure> {
    let Some(text) = request.query.text(name).filter(|text| *text != "0") else {
        return Ok(None);
    };
    Timestamp::parse_unix(text)
        .map(Some)
        .map_err(|error| Failure::bad_request(format!("invalid value for {name:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(framing: Framing) -> Vec<u8> {
        let mut text = Text::new(framing, false, false);
        for (stream, line) in [
            (Stream::Stdout, "a\n"),
            (Stream::Stdout, "b"),
            (Stream::Stderr, "c\n"),
            (Stream::Stdout, "d\n"),
        ] {
            text.add(&Record {
                stream,
                line: line.as_bytes().to_vec(),
                ..Record::default()
            });
        }
        // A frame does not go on in the next piece.
        let mut sent = text.take();
        text.add(&Record {
            line: b"e\n".to_vec(),
            ..Record::default()
        });
        sent.extend(text.take());
        sent
    }

    #[test]
    fn a_frame_is_a_record_or_what_belongs_together() {
        let frame = |kind: u8, text: &str| {
            [&[kind, 0, 0, 0, 0, 0, 0, text.len() as u8], text.as_bytes()].concat()
        };
        let framed = |frames: &[(u8, &str)]| -> Vec<u8> {
            frames
                .iter()
                .flat_map(|(kind, text)| frame(*kind, text))
                .collect()
        };
        assert_eq!(sent(Framing::None), b"a\nbc\nd\ne\n");
        assert_eq!(
            sent(Framing::Records),
            framed(&[(1, "a\n"), (1, "b"), (2, "c\n"), (1, "d\n"), (1, "e\n")])
        );
        assert_eq!(
            sent(Framing::Joined),
            framed(&[(1, "a\nb"), (2, "c\n"), (1, "d\n"), (1, "e\n")])
        );
    }
}
