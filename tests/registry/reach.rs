//! Registries that cannot be reached, hang, or are reached by way of others.

use std::io::{BufReader, Read};
use std::net::TcpListener;
use std::time::Duration;

use moss::registry::{Access, Cancel, Config, OCI_INDEX, Proxies, Registries};
use moss::types::digest::Digest;

use super::served::{Served, Then, answer, send};
use super::{message, open, pulls, read_all, reference, registries, somebody, with_blob};

#[test]
fn cancelling_ends_what_hangs() {
    // One that says nothing at all, one that stops in the middle of a blob. Left alone, both end
    // with another message.
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
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            other.cancel();
        });
        let outcome = repository.blob(Digest::of(b""), None).and_then(read_all);
        assert_eq!(message(outcome), "context canceled", "reading: {read}");
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

/// A configuration in which `far.invalid` is reached by `proxy` alone.
fn through(proxy: Proxies) -> Registries {
    Registries::new(Config {
        insecure_registries: vec!["far.invalid".into()],
        proxies: proxy,
        ..Config::default()
    })
    .expect("a sound configuration")
}

#[test]
fn a_proxy_is_asked_for_the_whole_url_of_plain_http() {
    let proxy = Served::new(|head, stream| match head.target.as_str() {
        "http://far.invalid/v2/a/tags/list" => {
            answer(stream, "200 OK", &[], br#"{"tags":["far"]}"#)
        }
        _ => answer(stream, "200 OK", &[], b""),
    });
    let registries = through(Proxies {
        http: format!("http://u:p%40@{}", proxy.address),
        ..Proxies::default()
    });
    let repository = open(&registries, "far.invalid/a", None, Access::Pull);
    assert_eq!(repository.tags().ok(), Some(vec!["far".to_owned()]));
    assert_eq!(repository.tags().ok(), Some(vec!["far".to_owned()]));
    let sent = repository.put_manifest(Some("1"), OCI_INDEX, b"{}");
    assert_eq!(sent.ok(), Some(Digest::of(b"{}")));
    let requests = proxy.requests();
    let asked = requests
        .iter()
        .map(|head| (head.method.as_str(), head.target.as_str()));
    let asked: Vec<_> = asked.collect();
    assert_eq!(
        asked,
        [
            ("GET", "http://far.invalid/v2/"),
            ("GET", "http://far.invalid/v2/a/tags/list"),
            ("GET", "http://far.invalid/v2/a/tags/list"),
            ("PUT", "http://far.invalid/v2/a/manifests/1"),
        ]
    );
    assert_eq!(requests[3].body, b"{}");
    for head in &requests {
        assert_eq!(head.field("host"), Some("far.invalid"));
        // `u:p@`: what a URL has to quote is not quoted here.
        assert_eq!(head.field("proxy-authorization"), Some("Basic dTpwQA=="));
    }

    let exempt = through(Proxies {
        http: format!("http://{}", proxy.address),
        no_proxy: "far.invalid".into(),
        ..Proxies::default()
    });
    let repository = open(&exempt, "far.invalid/a", None, Access::Pull);
    assert!(message(repository.tags()).contains("lookup far.invalid: no such host"));
    assert_eq!(proxy.requests().len(), 4);
}

#[test]
fn a_proxy_is_asked_for_a_tunnel_for_tls() {
    let proxy = Served::new(|head, stream| {
        assert_eq!(head.method, "CONNECT");
        send(
            stream,
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        )
    });
    let registries = Registries::new(Config {
        proxies: Proxies {
            https: format!("u:p@{}", proxy.address),
            ..Proxies::default()
        },
        ..Config::default()
    })
    .expect("a sound configuration");
    let repository = open(&registries, "far.invalid/a", None, Access::Pull);
    assert!(message(repository.tags()).contains("proxyconnect tcp: "));
    let requests = proxy.requests();
    assert_eq!(requests[0].target, "far.invalid:443");
    assert_eq!(requests[0].field("proxy-authorization"), Some("Basic dTpw"));
}

#[test]
fn a_proxy_that_is_away_is_told_of() {
    let registries = through(Proxies {
        http: "http://127.0.0.1:1".into(),
        ..Proxies::default()
    });
    let repository = open(&registries, "far.invalid/a", None, Access::Pull);
    let text = message(repository.tags());
    let away = "proxyconnect tcp: dial tcp 127.0.0.1:1: connect: connection refused";
    assert!(text.contains(away), "{text}");
}
