//! The daemon's HTTP edge over real sockets, with endpoints that only this test has: what clients
//! of the Docker API rely on below any route. Needs nothing of the host.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use moss::daemon::answer::{self, Answer, Failure};
use moss::daemon::dispatch::{Dispatcher, Endpoints};
use moss::daemon::hijack;
use moss::daemon::request::Request;
use moss::daemon::router::Table;
use moss::daemon::server::{self, Connections};
use tokio::sync::mpsc;

/// The endpoints of this test.
#[derive(Debug, Clone, Copy)]
enum Target {
    Name,
    Json,
    Panic,
    Attach,
    Endless,
    Load,
    Pool,
}

struct Fixture {
    left: mpsc::UnboundedSender<()>,
}

impl Endpoints for Fixture {
    type Target = Target;

    fn reads_stream(&self, target: Target) -> bool {
        matches!(target, Target::Load)
    }

    async fn call(&self, target: Target, mut request: Request) -> Result<Answer, Failure> {
        match target {
            Target::Name => Ok(answer::ok(&(&request.name, request.query.get("q")))),
            Target::Json => {
                let value: Option<serde_json::Value> = request.json().await?;
                Ok(answer::ok(&value))
            }
            Target::Pool => {
                let answered = tokio::task::spawn_blocking(|| answer::ok(&"here"));
                Ok(answered.await.expect("it is not cancelled"))
            }
            Target::Panic => panic!("this handler panics on purpose"),
            Target::Attach => Ok(hijack::answer(&request, true, echo)),
            Target::Endless => {
                let (feed, body) = answer::stream(1);
                let left = self.left.clone();
                let body = body.until(request.ended()?).on_end(move || {
                    drop(feed);
                    let _ = left.send(());
                });
                Ok(answer::streamed("text/plain", body))
            }
            Target::Load => {
                let mut reader = request.reader();
                let (feed, body) = answer::stream(answer::STREAM_DEPTH);
                std::thread::spawn(move || {
                    let count = std::io::copy(&mut reader, &mut std::io::sink());
                    let _ = feed.send(format!("{}", count.expect("body is read")));
                });
                Ok(answer::streamed("text/plain", body))
            }
        }
    }
}

/// Upper-cases what the client sends until it shuts its side down, then says goodbye.
fn echo(descriptor: OwnedFd, early: Vec<u8>) {
    let mut stream = UnixStream::from(descriptor);
    stream.set_nonblocking(false).expect("a socket");
    let mut all = early;
    stream.read_to_end(&mut all).expect("half-closed");
    all.make_ascii_uppercase();
    stream.write_all(&all).expect("still reads");
    stream.write_all(b" bye").expect("still reads");
}

/// A server on a socket of its own, until dropped.
struct Harness {
    directory: tempfile::TempDir,
    connections: Arc<Connections>,
    left: mpsc::UnboundedReceiver<()>,
    runtime: Option<std::thread::JoinHandle<bool>>,
}

impl Harness {
    fn start() -> Harness {
        Harness::of(nix::unistd::geteuid().as_raw())
    }

    /// One that serves the processes of `uid`.
    fn of(uid: u32) -> Harness {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("s")).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        let (sender, left) = mpsc::unbounded_channel();
        let connections = Arc::new(Connections::default());
        let shared = Arc::clone(&connections);
        let fixture = Fixture { left: sender };
        let table = Table::new([
            (Method::GET, "/images/{name:.*}/json", Target::Name),
            (Method::POST, "/form/{name}", Target::Name),
            (Method::POST, "/json", Target::Json),
            (Method::GET, "/panic", Target::Panic),
            (Method::POST, "/attach", Target::Attach),
            (Method::GET, "/endless", Target::Endless),
            (Method::POST, "/load", Target::Load),
            (Method::GET, "/pool", Target::Pool),
        ]);
        let service = Arc::new(Dispatcher::new(table, fixture, "29.0.0"));
        let runtime = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .max_blocking_threads(1)
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::UnixListener::from_std(listener).expect("a socket");
                server::serve(listener, uid, service, Arc::clone(&shared)).await;
                shared.drained().await
            })
        });
        Harness {
            directory,
            connections,
            left,
            runtime: Some(runtime),
        }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.directory.path().join("s")).expect("it listens");
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).expect("a socket");
        stream
    }

    /// Everything that comes back for `request`, with our side shut down after it.
    fn exchange(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("it reads");
        stream.shutdown(Shutdown::Write).expect("a socket");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The status code and the body of the answer to `request`.
    fn ask(&self, request: &str) -> (u16, String) {
        let answer = self.exchange(request);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (code.unwrap_or(0), body.to_owned())
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: d\r\n\r\n"))
    }

    fn post(&self, path: &str, kind: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let kind = match kind {
            "" => String::new(),
            kind => format!("Content-Type: {kind}\r\n"),
        };
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: d\r\n{kind}Content-Length: {length}\r\n\r\n{body}"
        ))
    }

    /// Stops the server; whether every connection ended in time.
    fn stop(&mut self) -> bool {
        self.connections.stop();
        let runtime = self.runtime.take().expect("stopped once");
        runtime.join().expect("the server does not panic")
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.connections.stop();
    }
}

#[test]
fn another_user_is_refused() {
    let harness = Harness::of(nix::unistd::geteuid().as_raw() + 1);
    let mut stream = harness.connect();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"HTTP/1.1 403");
    // Its request comes late and does not break the answer off.
    stream
        .write_all(b"GET /pool HTTP/1.1\r\nHost: d\r\n\r\n")
        .expect("it reads");
    let mut rest = String::new();
    stream.shutdown(Shutdown::Write).expect("a socket");
    stream
        .read_to_string(&mut rest)
        .expect("it answers to the end");
    assert!(
        rest.ends_with("this engine serves only the user that runs it\"}\n"),
        "{rest}"
    );
}

#[test]
fn versions_are_negotiated_and_paths_found() {
    let harness = Harness::start();
    let found = (200, "[\"a/b:c\",\"x y\"]\n".to_owned());
    assert_eq!(harness.get("/v1.41/images/a/b:c/json?q=x+y"), found);
    assert_eq!(harness.get("/images/a%2Fb:c/json?q=x%20y"), found);
    let message = |message: &str| format!("{{\"message\":\"{message}\"}}\n");
    assert_eq!(
        harness.get("/v1.99/images/a/json"),
        (
            400,
            message("client version 1.99 is too new. Maximum supported API version is 1.55")
        )
    );
    // Clients this old show a JSON error as it is, so Docker gives them text.
    assert_eq!(
        harness.get("/v1.10/images/a/json"),
        (
            400,
            "client version 1.10 is too old. Minimum supported API version is 1.22, \
             please upgrade your client to a newer version\n"
                .to_owned()
        )
    );
    for missing in ["/nosuch", "/v1.99/nosuch", "/v1.41/", "/"] {
        assert_eq!(harness.get(missing), (404, message("page not found")));
    }
    let wrong_method = "PUT /json HTTP/1.1\r\nHost: d\r\n\r\n";
    assert_eq!(harness.ask(wrong_method), (404, message("page not found")));
    assert_eq!(harness.get("//images/a/json").0, 301);
    assert_eq!(harness.get("/images/a/json?q=%zz").0, 400);
}

#[test]
fn every_answer_tells_who_we_are() {
    let harness = Harness::start();
    for path in ["/images/a/json", "/nosuch", "/v1.99/images/a/json"] {
        let answer = harness.exchange(&format!("HEAD {path} HTTP/1.1\r\nHost: d\r\n\r\n"));
        for field in [
            "\r\nApi-Version: 1.55\r\n",
            "\r\nOstype: linux\r\n",
            "\r\nDocker-Experimental: false\r\n",
            "\r\nServer: Docker/29.0.0 (linux)\r\n",
        ] {
            assert!(answer.contains(field), "{field:?} in {answer:?}");
        }
        assert!(answer.ends_with("\r\n\r\n"), "HEAD has no body: {answer:?}");
    }
}

#[test]
fn bodies_are_checked() {
    let harness = Harness::start();
    let json = "application/json";
    assert_eq!(harness.post("/json", "", ""), (200, "null\n".to_owned()));
    assert_eq!(
        harness.post("/json", "application/json; charset=utf-8", "{\"a\":1}"),
        (200, "{\"a\":1}\n".to_owned())
    );
    for (kind, body, expected) in [
        (
            "text/plain",
            "{}",
            "unsupported Content-Type header (text/plain): must be 'application/json'",
        ),
        (
            "",
            "{}",
            "malformed Content-Type header (): mime: no media type",
        ),
        (json, "{} {}", "unexpected content after JSON"),
        (json, "{", "invalid JSON: unexpected EOF"),
    ] {
        let (code, answer) = harness.post("/json", kind, body);
        assert_eq!(
            (code, answer),
            (400, format!("{{\"message\":\"{expected}\"}}\n"))
        );
    }
    let form = "application/x-www-form-urlencoded";
    let expected = (200, "[\"n\",\"form\"]\n".to_owned());
    assert_eq!(harness.post("/form/n?q=query", form, "q=form"), expected);
    assert_eq!(
        harness.post("/load", form, "q=%zz"),
        (200, "1\r\n5\r\n0\r\n\r\n".to_owned())
    );
}

#[test]
fn a_body_that_nobody_wants_does_not_cut_the_client_off() {
    let harness = Harness::start();
    let body = "x".repeat(8 << 20);
    for path in ["/nosuch", "/v1.99/json", "/json"] {
        let (code, _) = harness.post(path, "text/plain", &body);
        assert!(matches!(code, 400 | 404), "{path}: {code}");
    }
}

#[test]
fn a_panic_is_one_answer() {
    let harness = Harness::start();
    let (code, body) = harness.get("/panic");
    assert_eq!(code, 500);
    assert!(body.starts_with("{\"message\":"), "{body}");
    assert_eq!(harness.get("/images/a/json").0, 200);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let harness = Harness::start();
    let one = "GET /images/1/json HTTP/1.1\r\nHost: d\r\n\r\n";
    let two = "GET /images/2/json HTTP/1.1\r\nHost: d\r\n\r\n";
    let answer = harness.exchange(&format!("{one}{two}"));
    let first = answer.find("[\"1\",null]").expect("first answer");
    let second = answer.find("[\"2\",null]").expect("second answer");
    assert!(first < second);
}

#[test]
fn what_is_not_http_is_refused() {
    let harness = Harness::start();
    assert_eq!(harness.ask("nonsense\r\n\r\n").0, 400);
    let huge = "x".repeat(600 * 1024);
    let mut stream = harness.connect();
    let head = format!("GET /images/a/json HTTP/1.1\r\nHost: d\r\nX: {huge}\r\n\r\n");
    // The server stops reading, so writing all of it may fail.
    let _ = stream.write_all(head.as_bytes());
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"HTTP/1.1 431");
    assert_eq!(harness.get("/images/a/json").0, 200);
}

#[test]
fn hijacks_keep_early_bytes_and_half_close() {
    let harness = Harness::start();
    let upgrade = "POST /v1.44/attach HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\n\
        Upgrade: tcp\r\nContent-Length: 0\r\n\r\nearly";
    let mut stream = harness.connect();
    stream.write_all(upgrade.as_bytes()).expect("it reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("it answers");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    assert!(head.starts_with(
        "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n\
         Connection: Upgrade\r\nUpgrade: tcp\r\n"
    ));
    // Whoever has the connection keeps nobody else waiting.
    assert_eq!(harness.get("/pool").0, 200);
    stream.write_all(b" and late").expect("it reads");
    stream.shutdown(Shutdown::Write).expect("a socket");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("it answers");
    assert_eq!(rest, "EARLY AND LATE bye");
}

#[test]
fn the_old_hijack_is_raw_too() {
    let harness = Harness::start();
    let answer =
        harness.exchange("POST /v1.41/attach HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\nab");
    assert!(
        answer
            .starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n")
    );
    assert!(answer.ends_with("\r\n\r\nAB bye"), "{answer:?}");
}

#[test]
fn an_endless_answer_notices_that_its_client_left() {
    let mut harness = Harness::start();
    let mut stream = harness.connect();
    let request = b"GET /endless HTTP/1.1\r\nHost: d\r\n\r\n";
    stream.write_all(request).expect("it reads");
    let mut answer = [0; 15];
    stream
        .read_exact(&mut answer)
        .expect("the head comes at once");
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    // A half-close is no leaving.
    stream.shutdown(Shutdown::Write).expect("a socket");
    std::thread::sleep(Duration::from_millis(100));
    assert!(harness.left.try_recv().is_err());
    drop(stream);
    harness.left.blocking_recv().expect("noticed");
}

#[test]
fn six_hundred_clients_may_wait_and_a_stop_ends_them() {
    let mut harness = Harness::start();
    let waiting: Vec<UnixStream> = (0..600)
        .map(|_| {
            let mut stream = harness.connect();
            let request = b"GET /endless HTTP/1.1\r\nHost: d\r\n\r\n";
            stream.write_all(request).expect("it reads");
            stream
        })
        .collect();
    assert_eq!(harness.get("/images/a/json").0, 200);
    // Within the grace period, or they would be said not to have.
    assert!(harness.stop(), "connections ended");
    drop(waiting);
}
