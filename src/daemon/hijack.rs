//! Leaving HTTP: the heads of `attach` and `exec start`.
//!
//! A client that sends `Upgrade` gets `101 UPGRADED`, any other the old raw `200 OK`; both are
//! then a plain two-way stream. Since API 1.42 the content type of the former tells whether the
//! stream is multiplexed; the latter always says raw.

use std::os::fd::OwnedFd;

use super::answer::{Answer, Hijack};
use super::request::Request;

/// Answers with a hijack. `multiplexed` says how the output will be framed.
pub fn answer(
    request: &Request,
    multiplexed: bool,
    take: impl FnOnce(OwnedFd, Vec<u8>) + Send + 'static,
) -> Answer {
    Answer::Hijack(Hijack {
        head: head(request.wants_upgrade(), multiplexed && request.since(42)),
        take: Box::new(take),
    })
}

/// Status line and content type; the dispatcher adds the rest.
fn head(upgrade: bool, say_multiplexed: bool) -> String {
    if !upgrade {
        return "HTTP/1.1 200 OK\r\n\
            Content-Type: application/vnd.docker.raw-stream\r\n"
            .to_owned();
    }
    let kind = if say_multiplexed {
        "multiplexed"
    } else {
        "raw"
    };
    format!(
        "HTTP/1.1 101 UPGRADED\r\n\
         Content-Type: application/vnd.docker.{kind}-stream\r\n\
         Connection: Upgrade\r\n\
         Upgrade: tcp\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_dockers() {
        assert_eq!(
            head(true, true),
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n\
             Connection: Upgrade\r\nUpgrade: tcp\r\n"
        );
        assert!(head(true, false).contains("vnd.docker.raw-stream"));
        assert_eq!(
            head(false, true),
            "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
        );
    }
}
