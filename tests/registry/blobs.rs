//! Blobs that break, stall, lie, and are long.

use std::time::{Duration, Instant};

use moss::types::digest::{Algorithm, Digest};

use super::served::{Head, Served, Then, answer, send};
use super::{content, message, pulls, read_all, with_blob};

fn range_begin(head: &Head) -> Option<usize> {
    let value = head.field("range")?.strip_prefix("bytes=")?;
    value.strip_suffix('-')?.parse().ok()
}

#[test]
fn digests_are_verified_by_the_algorithm_that_they_name() {
    let mut hash = Algorithm::Sha512.hasher();
    hash.update(b"{\"schemaVersion\":2,\"manifests\":[]}");
    let long = hash.finish();
    for (body, is_it) in [
        (&b"{\"schemaVersion\":2,\"manifests\":[]}"[..], true),
        (b"{\"schemaVersion\":2,\"manifests\":[ ]}", false),
    ] {
        let server = Served::new(move |_, stream| answer(stream, "200 OK", &[], body));
        let repository = pulls(&server.name("a"));
        let manifest = repository.manifest_by_digest(long);
        let blob = repository.blob(long, None).expect("it opens");
        assert_eq!(read_all(blob).is_ok_and(|bytes| long.is_of(&bytes)), is_it);
        assert_eq!(repository.small_blob(long, 1000).is_ok(), is_it);
        let asked = server.requests().pop().expect("a request").target;
        assert_eq!(asked, format!("/v2/a/blobs/{long}"));
        if is_it {
            assert_eq!(manifest.expect("its digest is right").digest, long);
        } else {
            let text = message(manifest);
            assert!(text.contains(&long.to_string()), "{text}");
        }
    }
}

#[test]
fn a_blob_goes_on_where_it_broke() {
    let body = content(300_000);
    let digest = Digest::of(&body);
    let sent = body.clone();
    let server = with_blob(move |count, head, stream| {
        let begin = range_begin(head).unwrap_or(0);
        let rest = &sent[begin..];
        let status = if begin > 0 {
            "206 Partial Content"
        } else {
            "200 OK"
        };
        send(
            stream,
            format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {begin}-{}/{}\r\n\r\n",
                rest.len(),
                sent.len() - 1,
                sent.len()
            )
            .as_bytes(),
        );
        if count < 2 {
            send(stream, &rest[..100_000]);
            Then::Close
        } else {
            send(stream, rest)
        }
    });
    let blob = pulls(&server.name("a"))
        .blob(digest, Some(300_000))
        .expect("it opens");
    assert_eq!(blob.size(), Some(300_000));
    assert_eq!(read_all(blob).ok(), Some(body));
    let ranges: Vec<_> = server
        .of("/blobs/")
        .iter()
        .map(|head| head.field("range").map(str::to_owned))
        .collect();
    assert_eq!(
        ranges,
        [
            None,
            Some("bytes=100000-".into()),
            Some("bytes=200000-".into())
        ]
    );
}

#[test]
fn a_server_without_ranges_is_skipped_through() {
    let body = content(50_000);
    let digest = Digest::of(&body);
    let sent = body.clone();
    let server = with_blob(move |count, _, stream| {
        send(
            stream,
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", sent.len()).as_bytes(),
        );
        if count == 0 {
            send(stream, &sent[..20_000]);
            return Then::Close;
        }
        send(stream, &sent)
    });
    let blob = pulls(&server.name("a"))
        .blob(digest, None)
        .expect("it opens");
    assert_eq!(read_all(blob).ok(), Some(body));
}

#[test]
fn a_blob_that_never_gets_further_is_given_up() {
    let server = with_blob(|_, head, stream| {
        let begin = range_begin(head).unwrap_or(0);
        send(
            stream,
            format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {begin}-999/1000\r\n\r\nx",
                1000 - begin
            )
            .as_bytes(),
        );
        Then::Close
    });
    let blob = pulls(&server.name("a"))
        .blob(Digest::of(b""), Some(1000))
        .expect("it opens");
    let error = message(read_all(blob));
    assert!(
        error.starts_with("Get \"http://127.0.0.1:") && error.ends_with(": EOF"),
        "{error}"
    );
    assert_eq!(server.of("/blobs/").len(), 5);
}

#[test]
fn another_part_than_asked_for_is_refused() {
    let server = with_blob(|count, _, stream| {
        if count == 0 {
            send(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
            return Then::Close;
        }
        send(stream, b"HTTP/1.1 206 Partial Content\r\nContent-Length: 9\r\nContent-Range: bytes 1-9/10\r\n\r\nbcdefghij")
    });
    let blob = pulls(&server.name("a"))
        .blob(Digest::of(b""), None)
        .expect("it opens");
    assert!(message(read_all(blob)).contains("it sent another part of blob"));
}

#[test]
fn a_wrong_length_is_refused() {
    let server = with_blob(|count, _, stream| {
        match count {
            0 => answer(stream, "200 OK", &[], &[0; 20]),
            // Without a length, until the connection ends.
            _ => {
                send(stream, b"HTTP/1.1 200 OK\r\n\r\n");
                send(stream, &[0; 20]);
                Then::Close
            }
        }
    });
    let digest = Digest::of(b"");
    let repository = pulls(&server.name("a"));
    assert_eq!(
        message(repository.blob(digest, Some(10))),
        format!("blob {digest} has 20 bytes, expected 10")
    );
    let blob = repository.blob(digest, Some(10)).expect("it opens");
    assert!(message(read_all(blob)).contains("bytes, expected 10"));
}

#[test]
fn a_wrong_digest_is_refused() {
    let wrong = Digest::of(b"right");
    let server = Served::new(move |head, stream| {
        if head.target.contains("/manifests/") {
            let header =
                [("Docker-Content-Digest", &*wrong.to_string())].map(|(a, b)| (a, b.to_owned()));
            return answer(
                stream,
                "200 OK",
                &[(header[0].0, &header[0].1)],
                b"{\"wrong\":1}",
            );
        }
        answer(stream, "200 OK", &[], b"wrong")
    });
    let repository = pulls(&server.name("a"));
    let expected = format!("manifest verification failed for digest {wrong}");
    assert_eq!(message(repository.manifest_by_digest(wrong)), expected);
    assert_eq!(message(repository.manifest_by_tag("x")), expected);
    assert_eq!(
        message(repository.small_blob(wrong, 100)),
        format!("filesystem layer verification failed for digest {wrong}")
    );
    assert_eq!(
        message(repository.small_blob(wrong, 3)),
        format!("blob {wrong} has more than 3 bytes")
    );
}

#[test]
fn a_busy_registry_is_waited_for() {
    let server = with_blob(|count, _, stream| match count {
        0 => answer(
            stream,
            "429 Too Many Requests",
            &[("Retry-After", "1")],
            b"later",
        ),
        1 => answer(stream, "503 Service Unavailable", &[], b""),
        _ => answer(stream, "200 OK", &[], b"abc"),
    });
    let begun = Instant::now();
    let blob = pulls(&server.name("a"))
        .blob(Digest::of(b"abc"), Some(3))
        .expect("it opens");
    assert_eq!(read_all(blob).ok().as_deref(), Some(&b"abc"[..]));
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_blob_is_never_whole_in_memory() {
    const LENGTH: u64 = 512 << 20;
    let server = with_blob(|_, _, stream| {
        send(
            stream,
            format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").as_bytes(),
        );
        let chunk = vec![7; 1 << 20];
        for _ in 0..LENGTH >> 20 {
            if matches!(send(stream, &chunk), Then::Close) {
                break;
            }
        }
        Then::Close
    });
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("proc");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .expect("VmHWM");
        let words: u64 = line
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.parse().ok())
            .expect("a number");
        words >> 10
    };
    let before = peak();
    let mut blob = pulls(&server.name("a"))
        .blob(Digest::of(b""), Some(LENGTH))
        .expect("it opens");
    let copied = std::io::copy(&mut blob, &mut std::io::sink());
    assert_eq!(copied.ok(), Some(LENGTH));
    // Other tests run beside this one.
    assert!(peak() - before < 64, "{} MB more", peak() - before);
}

#[test]
fn a_length_beyond_all_numbers_is_refused() {
    let server = with_blob(|count, _, stream| {
        if count == 0 {
            send(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
            return Then::Close;
        }
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes 3-9/10\r\n\r\n",
            u64::MAX
        );
        send(stream, head.as_bytes())
    });
    let blob = pulls(&server.name("a"))
        .blob(Digest::of(b""), Some(10))
        .expect("it opens");
    assert!(message(read_all(blob)).contains("it sent a blob without an end"));
}
