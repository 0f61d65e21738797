//! Registries that lie, break, stall and send one elsewhere.

use std::io::{BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use moss::registry::{
    Access, Cancel, Config, Error, ErrorKind, OCI_INDEX, OCI_MANIFEST, Proxies, Registries, Target,
    Verified,
};
use moss::types::digest::Digest;

use super::served::{Head, Served, Then, answer, send};
use super::{message, open, pulls, reference, registries, somebody};

/// Bytes that are not all alike.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

/// A registry that has one blob, given how it answers a request for it.
fn with_blob(
    handler: impl Fn(usize, &Head, &mut BufReader<TcpStream>) -> Then + Send + Sync + 'static,
) -> Served {
    let count = AtomicUsize::new(0);
    Served::new(move |head, stream| {
        if head.target.contains("/blobs/") {
            handler(count.fetch_add(1, Ordering::SeqCst), head, stream)
        } else {
            answer(stream, "200 OK", &[], b"{}")
        }
    })
}

fn range_begin(head: &Head) -> Option<usize> {
    let value = head.field("range")?.strip_prefix("bytes=")?;
    value.strip_suffix('-')?.parse().ok()
}

fn read_all(mut reader: impl Read) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    match reader.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Error::from_io(error).expect("an error of the client's")),
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
    assert_eq!(read_all(Verified::new(blob, digest)).ok(), Some(body));
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
    assert_eq!(read_all(Verified::new(blob, digest)).ok(), Some(body));
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
    let begun = Instant::now();
    let blob = pulls(&server.name("a"))
        .blob(Digest::of(b""), Some(1000))
        .expect("it opens");
    let error = message(read_all(blob));
    assert!(
        error.starts_with("Get \"http://127.0.0.1:") && error.ends_with(": EOF"),
        "{error}"
    );
    assert_eq!(server.of("/blobs/").len(), 5);
    assert!(begun.elapsed() < Duration::from_secs(20));
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
    let blob = repository.blob(wrong, None).expect("it opens");
    assert_eq!(
        message(read_all(Verified::new(blob, wrong))),
        format!("filesystem layer verification failed for digest {wrong}")
    );
    assert_eq!(
        message(repository.small_blob(wrong, 100)),
        format!("filesystem layer verification failed for digest {wrong}")
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
fn too_many_requests() {
    let server = Served::new(|head, stream| {
        if head.target == "/v2/" {
            return answer(stream, "200 OK", &[], b"{}");
        }
        let body = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
        let fields = [
            ("Retry-After", "3600"),
            ("Content-Type", "application/json"),
        ];
        answer(stream, "429 Too Many Requests", &fields, body)
    });
    let outcome = pulls(&server.name("a")).manifest_by_tag("x");
    assert_eq!(
        outcome.as_ref().map_err(Error::kind).err(),
        Some(ErrorKind::TooManyRequests)
    );
    assert_eq!(
        message(outcome),
        "toomanyrequests: You have reached your pull rate limit."
    );
}

#[test]
fn redirects_end() {
    let server = with_blob(|_, head, stream| {
        answer(
            stream,
            "307 Temporary Redirect",
            &[("Location", &format!("{}x", head.target))],
            b"",
        )
    });
    let error = message(pulls(&server.name("a")).blob(Digest::of(b""), None));
    assert!(error.ends_with("stopped after 10 redirects"), "{error}");
    assert_eq!(server.of("/blobs/").len(), 11);

    let server = with_blob(|_, _, stream| {
        answer(
            stream,
            "302 Found",
            &[("Location", "file:///etc/passwd")],
            b"",
        )
    });
    let error = message(pulls(&server.name("a")).blob(Digest::of(b""), None));
    assert!(
        error.ends_with("invalid redirect to \"file:///etc/passwd\""),
        "{error}"
    );
}

#[test]
fn credentials_stay_at_home() {
    let body = content(1000);
    let digest = Digest::of(&body);
    let sent = body.clone();
    let elsewhere = Served::new(move |_, stream| answer(stream, "200 OK", &[], &sent));
    let target = format!("http://localhost:{}/x", elsewhere.address.port());
    let server = Served::new(move |head, stream| {
        if head.field("authorization") != Some("Basic dTpw") {
            let challenge = [("WWW-Authenticate", "Basic realm=\"r\"")];
            return answer(stream, "401 Unauthorized", &challenge, b"");
        }
        if head.target.contains("/blobs/") {
            return answer(
                stream,
                "307 Temporary Redirect",
                &[("Location", &target)],
                b"",
            );
        }
        answer(stream, "200 OK", &[], b"{}")
    });
    let repository = open(
        &registries(),
        &server.name("a"),
        somebody("u", "p"),
        Access::Pull,
    );
    let blob = repository.blob(digest, Some(1000)).expect("it opens");
    assert_eq!(read_all(blob).ok(), Some(body));
    let requests = elsewhere.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].field("authorization"), None);
    assert_eq!(requests[0].target, "/x");
}

#[test]
fn no_token_server() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("loopback");
    let challenge = format!("Bearer realm=\"http://{closed}/token\",service=\"s\"");
    let server = Served::new(move |_, stream| {
        answer(
            stream,
            "401 Unauthorized",
            &[("WWW-Authenticate", &challenge)],
            b"",
        )
    });
    let error = message(pulls(&server.name("a/b")).resolve("x"));
    assert_eq!(
        error,
        format!(
            "Head \"http://{}/v2/a/b/manifests/x\": Get \"http://{closed}/token?scope=repository%3Aa%2Fb%3Apull&service=s\": dial tcp {closed}: connect: connection refused",
            server.address
        )
    );
}

#[test]
fn a_token_is_renewed_in_the_middle() {
    let tokens = AtomicUsize::new(0);
    let body = content(10);
    let digest = Digest::of(&body);
    let server = Served::new(move |head, stream| {
        if head.target.starts_with("/token") {
            let number = tokens.fetch_add(1, Ordering::SeqCst);
            let token = format!("{{\"token\":\"t{number}\",\"expires_in\":300}}");
            return answer(stream, "200 OK", &[], token.as_bytes());
        }
        // The first token is taken back after the manifest.
        let proof = head.field("authorization");
        let good = proof == Some("Bearer t1")
            || (proof == Some("Bearer t0") && head.target.contains("/manifests/"));
        if !good {
            let host = head.field("host").unwrap_or_default();
            let challenge =
                format!("Bearer realm=\"http://{host}/token\",service=s,error=\"invalid_token\"");
            return answer(
                stream,
                "401 Unauthorized",
                &[("WWW-Authenticate", &challenge)],
                b"",
            );
        }
        answer(stream, "200 OK", &[], &body)
    });
    let repository = pulls(&server.name("a"));
    assert!(repository.manifest_by_tag("x").is_ok());
    for _ in 0..3 {
        assert!(repository.blob(digest, Some(10)).and_then(read_all).is_ok());
    }
    assert_eq!(server.of("/token").len(), 2);
    assert_eq!(
        server.of("/token")[0].target,
        "/token?scope=repository%3Aa%3Apull&service=s"
    );
}

#[test]
fn a_refused_token_is_not_asked_for_for_ever() {
    let server = Served::new(|head, stream| {
        if head.target.starts_with("/token") {
            return answer(stream, "200 OK", &[], b"{\"access_token\":\"t\"}");
        }
        let host = head.field("host").unwrap_or_default();
        let challenge =
            format!("Bearer realm=\"http://{host}/token\",error=\"insufficient_scope\"");
        let fields = [
            ("WWW-Authenticate", challenge.as_str()),
            ("Content-Type", "application/json"),
        ];
        let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":[]}]}"#;
        answer(stream, "401 Unauthorized", &fields, body)
    });
    let outcome = pulls(&server.name("a")).manifest_by_tag("x");
    assert_eq!(
        message(outcome),
        format!(
            "pull access denied for {}, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
            server.name("a")
        )
    );
    assert_eq!(server.of("/token").len(), 2);
}

#[test]
fn a_huge_manifest_is_refused() {
    let server = Served::new(|head, stream| {
        if head.target.ends_with("/length") {
            send(
                stream,
                b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n",
            );
            return Then::Close;
        }
        if head.target.ends_with("/endless") {
            send(
                stream,
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            );
            let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
            for _ in 0..1600 {
                if matches!(send(stream, &chunk), Then::Close) {
                    break;
                }
            }
            return Then::Close;
        }
        answer(stream, "200 OK", &[], b"{}")
    });
    let repository = pulls(&server.name("a"));
    for tag in ["length", "endless"] {
        assert_eq!(
            message(repository.manifest_by_tag(tag)),
            "manifest is larger than 4194304 bytes"
        );
    }
}

/// A registry whose tag `x` is an index in an index and so on, `depth` times, and then an image.
fn nested(depth: usize) -> Served {
    let image = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":2}},"layers":[]}}"#,
        Digest::of(b"{}")
    );
    let mut all = vec![(OCI_MANIFEST, image)];
    for _ in 0..depth {
        let (media_type, inner) = all.last().expect("it began with one");
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{media_type}","digest":"{}","size":{}}}]}}"#,
            Digest::of(inner.as_bytes()),
            inner.len()
        );
        all.push((OCI_INDEX, index));
    }
    Served::new(move |head, stream| {
        let wanted = head.target.rsplit('/').next().unwrap_or_default();
        let found = if wanted == "x" {
            all.last()
        } else {
            all.iter()
                .find(|(_, text)| Digest::of(text.as_bytes()).to_string() == wanted)
        };
        match found {
            Some((media_type, text)) => answer(
                stream,
                "200 OK",
                &[("Content-Type", media_type)],
                text.as_bytes(),
            ),
            None => answer(stream, "404 Not Found", &[], b""),
        }
    })
}

#[test]
fn nesting_is_bounded() {
    let found = pulls(&nested(4).name("a")).find(Target::Tag("x"), None);
    assert_eq!(found.map(|found| found.chain.len()).ok(), Some(5));
    assert_eq!(
        message(pulls(&nested(5).name("a")).find(Target::Tag("x"), None)),
        "manifest list is nested deeper than 4 levels"
    );
}

#[test]
fn an_index_that_contains_itself_is_no_index() {
    // Its digest cannot be in it, so the registry has to lie about one of them.
    let inner = Digest::of(b"itself");
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{inner}","size":1}}]}}"#);
    let server = Served::new(move |_, stream| {
        answer(
            stream,
            "200 OK",
            &[("Content-Type", OCI_INDEX)],
            index.as_bytes(),
        )
    });
    assert_eq!(
        message(pulls(&server.name("a")).find(Target::Tag("x"), None)),
        format!("manifest verification failed for digest {inner}")
    );
}

#[test]
fn cancelling_ends_what_hangs() {
    // One that says nothing at all, one that stops in the middle of a blob.
    let server = with_blob(|_, _, stream| {
        send(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        let _ = stream.read(&mut [0]);
        Then::Close
    });
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = silent.local_addr().expect("it is bound");
    for (name, read) in [(server.name("a"), true), (format!("{address}/a"), false)] {
        let cancel = Cancel::new();
        let repository = registries()
            .repository(&reference(&name), None, Access::Pull, &cancel)
            .expect("it opens");
        let other = cancel.clone();
        let begun = Instant::now();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            other.cancel();
        });
        let outcome = repository.blob(Digest::of(b""), None).and_then(read_all);
        assert_eq!(message(outcome), "context canceled", "reading: {read}");
        assert!(
            begun.elapsed() < Duration::from_millis(1300),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn nobody_is_there() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("loopback");
    assert_eq!(
        message(pulls(&format!("{closed}/a")).resolve("x")),
        format!("Get \"http://{closed}/v2/\": dial tcp {closed}: connect: connection refused")
    );
    assert_eq!(
        message(pulls("nobody.invalid/a").resolve("x")),
        "Get \"https://nobody.invalid/v2/\": dial tcp: lookup nobody.invalid: no such host"
    );
}

#[test]
fn plain_http_is_told_from_tls() {
    // As Go's server answers a TLS greeting; and nothing to anybody else.
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = BufReader::new(stream);
            let mut begin = [0; 64];
            let _ = stream.read(&mut begin);
            if begin[0] == 22 {
                send(
                    &mut stream,
                    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request.\n",
                );
            }
        }
    });
    let search = registries().search(&format!("{address}/x"), 1, None, &Cancel::new());
    assert_eq!(
        message(search),
        format!(
            "invalid registry endpoint \"http://{address}/v1/\". HTTPS attempt: Get \
             \"https://{address}/v1/_ping\": http: server gave HTTP response to HTTPS client. HTTP \
             attempt: Get \"http://{address}/v1/_ping\": EOF"
        )
    );
}

#[test]
fn a_mirror_gets_no_credentials() {
    let body = b"{\"schemaVersion\":2,\"manifests\":[]}";
    let mirror = Served::new(move |_, stream| {
        answer(stream, "200 OK", &[("Content-Type", OCI_INDEX)], body)
    });
    let registries = Registries::new(Config {
        mirrors: vec![format!("http://{}/hub", mirror.address)],
        ..Config::default()
    })
    .expect("a sound configuration");
    let repository = open(&registries, "debian", somebody("u", "p"), Access::Pull);
    assert!(repository.manifest_by_tag("12").is_ok());
    let requests = mirror.requests();
    assert_eq!(requests[0].target, "/hub/v2/");
    assert_eq!(requests[1].target, "/hub/v2/library/debian/manifests/12");
    assert!(
        requests
            .iter()
            .all(|head| head.field("authorization").is_none())
    );
}

#[test]
fn a_proxy_is_asked_for_what_is_not_here() {
    let proxy = Served::new(|head, stream| {
        if head.method == "CONNECT" {
            return send(stream, b"HTTP/1.1 200 Connected\r\n\r\n");
        }
        answer(stream, "200 OK", &[], br#"{"tags":["far"]}"#)
    });
    let registries = Registries::new(Config {
        insecure_registries: vec!["far.invalid".into()],
        proxies: Proxies {
            http: format!("http://u:p@{}", proxy.address),
            ..Proxies::default()
        },
        ..Config::default()
    })
    .expect("a sound configuration");
    let repository = open(&registries, "far.invalid/a", None, Access::Pull);
    assert_eq!(repository.tags().ok(), Some(vec!["far".to_owned()]));
    let requests = proxy.requests();
    assert_eq!(requests[0].target, "far.invalid:80");
    assert_eq!(requests[0].field("proxy-authorization"), Some("Basic dTpw"));
    assert_eq!(requests[1].target, "/v2/");
    assert_eq!(requests[1].field("proxy-authorization"), None);
    assert_eq!(requests[1].field("host"), Some("far.invalid"));
}

#[test]
fn tags_come_in_pages() {
    let server = Served::new(|head, stream| match head.target.as_str() {
        "/v2/a/tags/list" => answer(
            stream,
            "200 OK",
            &[("Link", "</v2/a/tags/list?last=two&n=2>; rel=\"next\"")],
            br#"{"name":"a","tags":["one","two"]}"#,
        ),
        "/v2/a/tags/list?last=two&n=2" => answer(stream, "200 OK", &[], br#"{"tags":["three"]}"#),
        "/v2/b/tags/list" => answer(
            stream,
            "200 OK",
            &[("Link", "<http://elsewhere.invalid/>; rel=\"next\"")],
            br#"{"tags":null}"#,
        ),
        _ => answer(stream, "200 OK", &[], b""),
    });
    assert_eq!(
        pulls(&server.name("a")).tags().ok(),
        Some(vec!["one".to_owned(), "two".into(), "three".into()])
    );
    assert!(
        message(pulls(&server.name("b")).tags()).contains("the next page of tags is elsewhere")
    );
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
