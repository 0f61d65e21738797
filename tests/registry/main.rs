//! The registry client against a real registry and against a hostile one, all on loopback.
//!
//! `real` needs Debian's docker-registry (`$MOSS_TEST_REGISTRY`, else in `PATH`), openssl and
//! htpasswd; what is missing is skipped and named. The others need nothing but sockets.

mod blobs;
mod bounds;
mod pieces;
mod proof;
mod reach;
mod real;
mod served;
mod uploads;

use std::io::{BufReader, Read};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use moss::registry::{Access, Cancel, Config, Credentials, Error, Registries, Repository};
use moss::types::reference::Reference;

use served::{Head, Served, Then, answer};

/// A client with the defaults.
fn registries() -> Registries {
    Registries::new(Config {
        user_agent: "moss-test".into(),
        ..Config::default()
    })
    .expect("the defaults are sound")
}

/// A repository that is pulled from, without credentials.
fn pulls(text: &str) -> Repository {
    open(&registries(), text, None, Access::Pull)
}

fn open(
    registries: &Registries,
    text: &str,
    credentials: Option<Credentials>,
    access: Access,
) -> Repository {
    registries
        .repository(&reference(text), credentials, access, &Cancel::new())
        .expect("the repository can be opened")
}

fn reference(text: &str) -> Reference {
    Reference::parse(text).expect("a reference")
}

fn somebody(username: &str, password: &str) -> Option<Credentials> {
    Some(Credentials {
        username: username.into(),
        password: password.into(),
        ..Credentials::default()
    })
}

/// What a client would be shown.
fn message<T>(outcome: Result<T, Error>) -> String {
    match outcome {
        Ok(_) => "no error".into(),
        Err(error) => error.chain(),
    }
}

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

fn read_all(mut reader: impl Read) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    match reader.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Error::from_io(error).expect("an error of the client's")),
    }
}
