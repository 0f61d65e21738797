//! Lines and registries that do not take a blob in one request.

use std::io::{BufReader, Read};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use moss::types::digest::Digest;

use super::served::{Head, Served, Then, answer};
use super::uploads::{Unknown, chunked, pushes, reader_of};
use super::{content, message};

/// What every answer to a POST says.
const BEGUN: &[(&str, &str)] = &[("Location", "u")];

/// A registry of one upload at a time, given what it does with a PATCH; with what it has.
fn taking(
    has_status: bool,
    begun: &'static [(&'static str, &'static str)],
    patch: impl Fn(&Head, &mut BufReader<TcpStream>, &mut Vec<u8>) -> Then + Send + Sync + 'static,
) -> (Served, Arc<Mutex<Vec<u8>>>) {
    let stored = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&stored);
    let server = Served::new(move |head, stream| {
        let mut stored = keep.lock().expect("no panic");
        match head.method.as_str() {
            "POST" => {
                stored.clear();
                answer(stream, "202 Accepted", begun, b"")
            }
            "PATCH" => patch(head, stream, &mut stored),
            "GET" if head.target.contains("uploads") && has_status => {
                let range = format!("0-{}", stored.len().saturating_sub(1));
                let fields = [("Location", "u"), ("Range", &range)];
                answer(stream, "204 No Content", &fields, b"")
            }
            "GET" if head.target.contains("uploads") => answer(stream, "404 Not Found", &[], b""),
            "PUT" => answer(stream, "201 Created", &[], b""),
            _ => answer(stream, "200 OK", &[], b"{}"),
        }
    });
    (server, stored)
}

fn length(head: &Head) -> Option<usize> {
    head.field("content-length")
        .map(|text| text.parse().expect("a length"))
}

/// A body, or the first so many bytes of it.
fn body_of(head: &Head, stream: &mut BufReader<TcpStream>, most: usize) -> Vec<u8> {
    let Some(length) = length(head) else {
        return chunked(stream, most);
    };
    let mut body = vec![0; length.min(most)];
    stream.read_exact(&mut body).expect("they are sent");
    body
}

fn drain(head: &Head, stream: &mut BufReader<TcpStream>) {
    body_of(head, stream, usize::MAX);
}

/// Takes a body, or the first so many bytes of it and then the line is cut.
fn take(head: &Head, stream: &mut BufReader<TcpStream>, stored: &mut Vec<u8>, most: usize) -> Then {
    let body = body_of(head, stream, most);
    let is_cut = body.len() == most;
    stored.extend(body);
    match is_cut {
        true => Then::Close,
        false => answer(stream, "202 Accepted", &[("Location", "u")], b""),
    }
}

/// The ranges that were sent; `-` where none was named.
fn ranges(server: &Served) -> Vec<String> {
    let patches = server.requests().into_iter();
    let patches = patches.filter(|head| head.method == "PATCH");
    let range = |head: Head| head.field("content-range").unwrap_or("-").to_owned();
    patches.map(range).collect()
}

#[test]
fn what_a_registry_has_is_not_sent_again() {
    let body = content(10_000_000);
    let connections = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&connections);
    let (server, stored) = taking(true, BEGUN, move |head, stream, stored| {
        let peer = stream.get_ref().peer_addr().expect("it is connected");
        keep.lock().expect("no panic").push(peer);
        take(head, stream, stored, 3_000_000)
    });
    pushes(&server.name("a"))
        .push_blob(Digest::of(&body), 10_000_000, reader_of(&body))
        .expect("it arrives");
    assert!(*stored.lock().expect("no panic") == body);
    let expected = [
        "-",
        "3000000-8242879",
        "6000000-7048575",
        "7048576-8097151",
        "8097152-9145727",
        "9145728-9999999",
    ];
    assert_eq!(ranges(&server), expected);
    // A line may count all that goes by a connection.
    let mut connections = connections.lock().expect("no panic").clone();
    connections.sort_unstable();
    connections.dedup();
    assert_eq!(connections.len(), expected.len());
}

#[test]
fn a_bound_on_bodies_is_kept() {
    // As by a proxy that has not been told of images.
    let bounded = |most: usize| {
        taking(true, BEGUN, move |head, stream, stored| {
            match length(head) {
                Some(length) if length <= most => take(head, stream, stored, usize::MAX),
                _ => {
                    drain(head, stream);
                    let fields = [("Content-Type", "text/html")];
                    answer(
                        stream,
                        "413 Request Entity Too Large",
                        &fields,
                        b"<html>too much",
                    )
                }
            }
        })
    };
    let body = content(3_000_000);
    let pieces = [
        "0-1048575".to_owned(),
        "1048576-2097151".to_owned(),
        "2097152-2999999".to_owned(),
    ];
    let (server, stored) = bounded(1 << 20);
    pushes(&server.name("a"))
        .push_blob(Digest::of(&body), 3_000_000, reader_of(&body))
        .expect("it arrives");
    assert!(*stored.lock().expect("no panic") == body);
    assert_eq!(ranges(&server)[..2], ["-", "0-2999999"]);
    assert_eq!(ranges(&server)[2..], pieces);

    let (server, stored) = bounded(1 << 20);
    let mut unknown = Unknown::new(&body);
    let upload = pushes(&server.name("a")).upload().expect("it begins");
    let digest = upload.send(&mut unknown, &mut |_| ()).expect("it arrives");
    assert_eq!(digest, Digest::of(&body));
    assert!(*stored.lock().expect("no panic") == body);
    assert_eq!(ranges(&server)[2..], pieces);

    let (server, _) = bounded(1000);
    let sent = pushes(&server.name("a")).push_blob(Digest::of(&body), 3_000_000, reader_of(&body));
    assert_eq!(message(sent), "unknown: <html>too much");
    assert_eq!(ranges(&server).len(), 5, "each length once");
}

#[test]
fn a_registry_that_takes_no_pieces_gets_one_request_again() {
    for (status, code, times) in [
        ("400 Bad Request", "UNSUPPORTED", 1),
        ("416 Range Not Satisfiable", "RANGE_INVALID", 2),
    ] {
        let body = content(6_000_000);
        let attempts = Mutex::new(0);
        let (server, stored) = taking(false, BEGUN, move |head, stream, stored| {
            let mut attempts = attempts.lock().expect("no panic");
            *attempts += 1;
            if stored.is_empty() {
                let most = if *attempts == 1 {
                    1_000_000
                } else {
                    usize::MAX
                };
                return take(head, stream, stored, most);
            }
            drain(head, stream);
            let body = format!(r#"{{"errors":[{{"code":"{code}","message":"no"}}]}}"#);
            let fields = [("Content-Type", "application/json")];
            answer(stream, status, &fields, body.as_bytes())
        });
        pushes(&server.name("a"))
            .push_blob(Digest::of(&body), 6_000_000, reader_of(&body))
            .expect("it arrives");
        assert!(*stored.lock().expect("no panic") == body);
        let mut expected = vec!["-"];
        for _ in 0..times {
            expected.extend(["0-5242879", "5242880-5999999"]);
        }
        expected.push("-");
        assert_eq!(ranges(&server), expected, "{code}");
    }
}

#[test]
fn the_least_piece_is_what_the_registry_says() {
    let body = content(12_000_000);
    let least = &[("Location", "u"), ("OCI-Chunk-Min-Length", "5242880")];
    let (server, stored) = taking(false, least, |head, stream, stored| {
        match head.field("content-range") {
            None => Then::Close,
            Some(_) => take(head, stream, stored, usize::MAX),
        }
    });
    pushes(&server.name("a"))
        .push_blob(Digest::of(&body), 12_000_000, reader_of(&body))
        .expect("it arrives");
    assert!(*stored.lock().expect("no panic") == body);
    let expected = ["-", "0-5242879", "5242880-10485759", "10485760-11999999"];
    assert_eq!(ranges(&server), expected);
}
