//! A registry that breaks off uploads, and remembers how far they came.

use std::io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use moss::registry::{Access, Content, Error, Repository};
use moss::types::digest::Digest;

use super::served::{Served, Then, answer, send};
use super::{content, message, open, registries};

pub(super) fn pushes(text: &str) -> Repository {
    open(&registries(), text, None, Access::Push)
}

pub(super) fn reader_of(bytes: &[u8]) -> impl FnMut(u64) -> std::io::Result<Box<dyn Read>> {
    let bytes = bytes.to_vec();
    move |offset| {
        let mut cursor = Cursor::new(bytes.clone());
        cursor.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(cursor))
    }
}

#[test]
fn an_upload_goes_on_where_it_broke() {
    let body: Vec<u8> = (0..400_000u32).map(|at| (at % 253) as u8).collect();
    let digest = Digest::of(&body);
    let stored = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&stored);
    let server = Served::new(move |head, stream| {
        let mut stored = keep.lock().expect("no panic");
        let range = |stored: &[u8]| format!("0-{}", stored.len().saturating_sub(1));
        match head.method.as_str() {
            "POST" => answer(
                stream,
                "202 Accepted",
                &[("Location", "/v2/a/blobs/uploads/1?state=0")],
                b"",
            ),
            "GET" if head.target.contains("uploads") => answer(
                stream,
                "204 No Content",
                &[
                    ("Location", "/v2/a/blobs/uploads/1?state=1"),
                    ("Range", &range(&stored)),
                ],
                b"",
            ),
            "PATCH" => {
                let length: usize = head
                    .field("content-length")
                    .and_then(|text| text.parse().ok())
                    .expect("a length");
                // The first two attempts are cut after 150 000 bytes.
                let taken = length.min(150_000);
                let mut bytes = vec![0; taken];
                stream.read_exact(&mut bytes).expect("they are sent");
                stored.extend(bytes);
                if taken < length {
                    return Then::Close;
                }
                answer(
                    stream,
                    "202 Accepted",
                    &[
                        ("Location", "/v2/a/blobs/uploads/1?state=2"),
                        ("Range", &range(&stored)),
                    ],
                    b"",
                )
            }
            "PUT" => answer(stream, "201 Created", &[], b""),
            _ => answer(stream, "200 OK", &[], b"{}"),
        }
    });
    pushes(&server.name("a"))
        .push_blob(digest, 400_000, reader_of(&body))
        .expect("it arrives");
    assert_eq!(*stored.lock().expect("no panic"), body);
    let patches: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|head| head.method == "PATCH")
        .map(|head| {
            (
                head.target.clone(),
                head.field("content-range").map(str::to_owned),
            )
        })
        .collect();
    assert_eq!(
        patches,
        [
            ("/v2/a/blobs/uploads/1?state=0".to_owned(), None),
            (
                "/v2/a/blobs/uploads/1?state=1".to_owned(),
                Some("150000-399999".to_owned())
            ),
            (
                "/v2/a/blobs/uploads/1?state=1".to_owned(),
                Some("300000-399999".to_owned())
            ),
        ]
    );
    let puts: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|head| head.method == "PUT")
        .map(|head| head.target)
        .collect();
    let encoded = digest.to_string().replace(':', "%3A");
    assert_eq!(
        puts,
        [format!("/v2/a/blobs/uploads/1?state=2&digest={encoded}")]
    );
}

/// Bytes whose number nobody knows before they have been read, as of what is compressed on the way.
pub(super) struct Unknown {
    bytes: Vec<u8>,
    opened: Vec<u64>,
}

impl Unknown {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            opened: Vec::new(),
        }
    }
}

impl Content for Unknown {
    fn size(&self) -> Option<u64> {
        None
    }

    fn open(&mut self, offset: u64) -> std::io::Result<Box<dyn Read + '_>> {
        self.opened.push(offset);
        Ok(Box::new(&self.bytes[offset as usize..]))
    }

    fn digest(&mut self) -> Result<Digest, Error> {
        Ok(Digest::of(&self.bytes))
    }
}

/// Reads a body in chunks, all of it or the first so many bytes.
pub(super) fn chunked(stream: &mut BufReader<TcpStream>, most: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < most {
        let mut line = String::new();
        stream.read_line(&mut line).expect("it is sent");
        let length = usize::from_str_radix(line.trim(), 16).expect("a length");
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk).expect("it is sent");
        if length == 0 {
            break;
        }
        body.extend_from_slice(&chunk[..length]);
    }
    body.truncate(most);
    body
}

#[test]
fn an_upload_of_unknown_length_goes_on_too() {
    let bytes: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
    let stored = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&stored);
    let server = Served::new(move |head, stream| {
        let mut stored = keep.lock().expect("no panic");
        let range = |stored: &[u8]| format!("0-{}", stored.len().saturating_sub(1));
        match head.method.as_str() {
            "POST" => answer(stream, "202 Accepted", &[("Location", "u")], b""),
            "GET" if head.target.contains("uploads") => {
                let fields = [("Location", "u"), ("Range", &range(&stored))];
                answer(stream, "204 No Content", &fields, b"")
            }
            "PATCH" => {
                if stored.is_empty() {
                    assert_eq!(head.field("transfer-encoding"), Some("chunked"));
                    stored.extend(chunked(stream, 100_000));
                    return Then::Close;
                }
                // Of a piece the length is known.
                assert_eq!(head.field("content-range"), Some("100000-299999"));
                let mut piece = [0; 200_000];
                stream.read_exact(&mut piece).expect("they are sent");
                stored.extend(piece);
                answer(stream, "202 Accepted", &[("Location", "u")], b"")
            }
            "PUT" => answer(stream, "201 Created", &[], b""),
            _ => answer(stream, "200 OK", &[], b"{}"),
        }
    });
    let mut content = Unknown::new(&bytes);
    let upload = pushes(&server.name("a")).upload().expect("it begins");
    let digest = upload.send(&mut content, &mut |_| ()).expect("it arrives");
    assert_eq!(digest, Digest::of(&bytes));
    assert_eq!(content.opened, [0, 100_000]);
    assert_eq!(*stored.lock().expect("no panic"), bytes);
}

#[test]
fn a_refused_push_says_why() {
    let server = Served::new(|head, stream| {
        if head.method == "POST" {
            let body = br#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied","detail":1}]}"#;
            return answer(
                stream,
                "403 Forbidden",
                &[("Content-Type", "application/json")],
                body,
            );
        }
        answer(stream, "200 OK", &[], b"{}")
    });
    assert_eq!(
        message(pushes(&server.name("a")).upload().map(drop)),
        "denied: requested access to the resource is denied"
    );
}

#[test]
fn a_short_source_is_the_sources_fault() {
    let server = Served::new(|head, stream| match head.method.as_str() {
        "POST" => answer(stream, "202 Accepted", &[("Location", "u")], b""),
        "PATCH" => {
            let _ = stream.read(&mut [0; 1024]);
            send(stream, b"")
        }
        _ => answer(stream, "200 OK", &[], b"{}"),
    });
    let error = pushes(&server.name("a")).push_blob(Digest::of(b""), 1000, reader_of(b"short"));
    assert!(message(error).starts_with("cannot read what is to be pushed"));
}

#[test]
fn a_range_that_is_not_the_registrys_is_asked_for() {
    let body = content(300_000);
    let stored = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&stored);
    let server = Served::new(move |head, stream| {
        let mut stored = keep.lock().expect("no panic");
        let range = format!("0-{}", stored.len().saturating_sub(1));
        match head.method.as_str() {
            "POST" => answer(stream, "202 Accepted", &[("Location", "u")], b""),
            "GET" if head.target.contains("uploads") => {
                let fields = [("Location", "u"), ("Range", range.as_str())];
                answer(stream, "204 No Content", &fields, b"")
            }
            "PATCH" => {
                let length = head.field("content-length").and_then(|it| it.parse().ok());
                let mut bytes = vec![0; length.expect("a length")];
                stream.read_exact(&mut bytes).expect("they are sent");
                if stored.is_empty() {
                    // It is still writing down what it is said not to have.
                    stored.extend_from_slice(&bytes[..100_000]);
                    let body = br#"{"errors":[{"code":"RANGE_INVALID","message":"no"}]}"#;
                    let fields = [("Content-Type", "application/json")];
                    return answer(stream, "416 Range Not Satisfiable", &fields, body);
                }
                stored.extend(bytes);
                answer(stream, "202 Accepted", &[("Location", "u")], b"")
            }
            "PUT" => answer(stream, "201 Created", &[], b""),
            _ => answer(stream, "200 OK", &[], b"{}"),
        }
    });
    pushes(&server.name("a"))
        .push_blob(Digest::of(&body), 300_000, reader_of(&body))
        .expect("it arrives");
    assert_eq!(*stored.lock().expect("no panic"), body);
}

#[test]
fn a_blob_whose_storing_was_not_answered_is_not_sent_again() {
    let body = content(1000);
    let digest = Digest::of(&body);
    let has_it = format!("/v2/a/blobs/{digest}");
    let server = Served::new(move |head, stream| match head.method.as_str() {
        "POST" => answer(stream, "202 Accepted", &[("Location", "u")], b""),
        "PATCH" => {
            let mut bytes = [0; 1000];
            stream.read_exact(&mut bytes).expect("they are sent");
            answer(stream, "202 Accepted", &[("Location", "u")], b"")
        }
        "PUT" => Then::Close,
        "HEAD" if head.target == has_it => answer(stream, "200 OK", &[], b""),
        _ if head.target.contains("uploads") => answer(stream, "404 Not Found", &[], b""),
        _ => answer(stream, "200 OK", &[], b"{}"),
    });
    pushes(&server.name("a"))
        .push_blob(digest, 1000, reader_of(&body))
        .expect("it is there");
    let methods = server.requests().into_iter().map(|head| head.method);
    assert_eq!(methods.filter(|method| method == "PATCH").count(), 1);
}

#[test]
fn a_registry_that_takes_a_little_each_time_is_given_up() {
    let stored = Arc::new(Mutex::new(0));
    let keep = Arc::clone(&stored);
    let server = Served::new(move |head, stream| {
        let mut stored = keep.lock().expect("no panic");
        match head.method.as_str() {
            "POST" => answer(stream, "202 Accepted", &[("Location", "u")], b""),
            "PATCH" => {
                stream.read_exact(&mut [0; 10]).expect("they are sent");
                *stored += 10;
                Then::Close
            }
            _ if head.target.contains("uploads") => {
                let range = format!("0-{}", *stored - 1);
                let fields = [("Location", "u"), ("Range", range.as_str())];
                answer(stream, "204 No Content", &fields, b"")
            }
            _ => answer(stream, "200 OK", &[], b"{}"),
        }
    });
    let body = content(1000);
    let sent = pushes(&server.name("a")).push_blob(Digest::of(&body), 1000, reader_of(&body));
    assert!(sent.is_err());
    assert_eq!(*stored.lock().expect("no panic"), 50, "five attempts");
}

#[test]
fn a_refusal_in_the_middle_of_an_upload_is_heard() {
    let server = Served::new(|head, stream| match head.method.as_str() {
        "POST" => answer(stream, "202 Accepted", &[("Location", "u")], b""),
        "PATCH" => {
            // Nothing of the body is read: the connection is reset.
            let body = br#"{"errors":[{"code":"DENIED","message":"quota exceeded"}]}"#;
            let fields = [
                ("Content-Type", "application/json"),
                ("Connection", "close"),
            ];
            answer(stream, "403 Forbidden", &fields, body);
            Then::Close
        }
        _ => answer(stream, "200 OK", &[], b"{}"),
    });
    for size in [None, Some(64 << 20)] {
        let patches = || {
            let heads = server.requests().into_iter();
            heads.filter(|head| head.method == "PATCH").count()
        };
        let before = patches();
        let mut endless = Endless { size };
        let upload = pushes(&server.name("a")).upload().expect("it begins");
        let sent = upload.send(&mut endless, &mut |_| ());
        assert_eq!(message(sent), "denied: quota exceeded");
        assert_eq!(patches(), before + 1, "one attempt");
    }
}

/// More than any socket takes: 64 MiB, or no end.
struct Endless {
    size: Option<u64>,
}

impl Content for Endless {
    fn size(&self) -> Option<u64> {
        self.size
    }

    fn open(&mut self, _: u64) -> std::io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(std::io::repeat(7)))
    }

    fn digest(&mut self) -> Result<Digest, Error> {
        panic!("nobody has read it all");
    }
}
