//! Credentials and tokens: who is sent them, and how often they are asked for.

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use moss::registry::{Access, Credentials};
use moss::types::digest::Digest;

use super::served::{Served, answer};
use super::{content, message, open, pulls, read_all, registries, somebody};

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
fn a_refresh_token_is_not_carried_elsewhere() {
    let elsewhere = Served::new(|_, stream| answer(stream, "200 OK", &[], b"{\"token\":\"t\"}"));
    let target = format!("http://localhost:{}/token", elsewhere.address.port());
    let server = Served::new(move |head, stream| {
        if head.target.starts_with("/token") {
            let fields = [("Location", target.as_str())];
            return answer(stream, "307 Temporary Redirect", &fields, b"");
        }
        let host = head.field("host").unwrap_or_default();
        let challenge = format!("Bearer realm=\"http://{host}/token\"");
        let fields = [("WWW-Authenticate", challenge.as_str())];
        answer(stream, "401 Unauthorized", &fields, b"")
    });
    let credentials = Credentials {
        identity_token: "secret".into(),
        ..Credentials::default()
    };
    let repository = open(
        &registries(),
        &server.name("a"),
        Some(credentials),
        Access::Pull,
    );
    let error = message(repository.manifest_by_tag("x"));
    assert!(
        error.contains("invalid redirect to \"http://localhost:"),
        "{error}"
    );
    assert!(server.of("/token")[0].body.starts_with(b"client_id="));
    assert_eq!(elsewhere.requests().len(), 0);
}
