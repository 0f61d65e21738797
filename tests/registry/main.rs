//! The registry client against a real registry and against a hostile one, all on loopback.
//!
//! `real` needs Debian's docker-registry (`$MOSS_TEST_REGISTRY`, else in `PATH`), openssl and
//! htpasswd; what is missing is skipped and named. `hostile` needs nothing but sockets.

mod hostile;
mod real;
mod served;
mod uploads;

use moss::registry::{Access, Cancel, Config, Credentials, Error, Registries, Repository};
use moss::types::reference::Reference;

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
