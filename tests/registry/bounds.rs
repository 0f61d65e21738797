//! Registries that send more, or send one further, than anybody needs.

use moss::registry::{Error, ErrorKind, OCI_INDEX, OCI_MANIFEST, Target};
use moss::types::digest::Digest;

use super::served::{Served, Then, answer, send};
use super::{message, pulls, with_blob};

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
fn lists_of_tags_are_bounded() {
    // Pages of a mebibyte that never end, and pages of nothing that do not either.
    let page = format!("{{\"tags\":[\"{}\"]}}", "x".repeat(1 << 20));
    let server = Served::new(move |head, stream| {
        let next = format!("<{}>; rel=\"next\"", head.target);
        let fields = [("Link", next.as_str())];
        match head.target.as_str() {
            "/v2/long/tags/list" => answer(stream, "200 OK", &fields, page.as_bytes()),
            // In one piece, or the kernel waits before it sends the second.
            "/v2/many/tags/list" => send(
                stream,
                format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nLink: {next}\r\n\r\n{{}}")
                    .as_bytes(),
            ),
            _ => answer(stream, "200 OK", &[], b""),
        }
    });
    for name in ["long", "many"] {
        let error = message(pulls(&server.name(name)).tags());
        assert!(error.ends_with("the list of tags is too long"), "{error}");
    }
    assert_eq!(server.of("/v2/long/tags").len(), 8);
}
