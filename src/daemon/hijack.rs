//! Leaving HTTP: the heads of `attach` and `exec start`, and the order of attach and start.
//!
//! A client that sends `Upgrade` gets `101 UPGRADED`, any other the old raw `200 OK`; both are
//! then a plain two-way stream. Since API 1.42 the content type of the former tells whether the
//! stream is multiplexed; the latter always says raw.
//!
//! `docker run` attaches, sees the 101 and starts the container at once, on another connection.
//! The container's first output must not be lost between our sending the 101 and the engine
//! getting the descriptor. So each hijack holds a pass of the [`Gate`] from its answer until the
//! descriptor has arrived, and a start waits, for at most [`PATIENCE`], until no pass is out.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use super::answer::{Answer, Hijack};
use super::request::Request;

/// How long a start waits for hijacks under way. They take microseconds; only a client that left
/// in between could hold one up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Orders starts behind the hijacks before them.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<RwLock<()>>);

/// Held by a hijack under way.
#[derive(Debug)]
pub struct Pass(#[expect(dead_code, reason = "held for its Drop")] OwnedRwLockReadGuard<()>);

impl Gate {
    /// Taken before the answer to a hijack is given.
    pub async fn pass(&self) -> Pass {
        Pass(Arc::clone(&self.0).read_owned().await)
    }

    /// Waits until every pass given so far is back.
    pub async fn settle(&self) {
        if tokio::time::timeout(PATIENCE, self.0.write())
            .await
            .is_err()
        {
            tracing::warn!("an attach is still under way; starting without it");
        }
    }
}

/// Answers with a hijack. `multiplexed` says how the output will be framed.
pub fn answer(
    request: &Request,
    multiplexed: bool,
    pass: Pass,
    take: impl FnOnce(OwnedFd, Vec<u8>) + Send + 'static,
) -> Answer {
    Answer::Hijack(Hijack {
        head: head(request.wants_upgrade(), multiplexed && request.since(42)),
        take: Box::new(move |descriptor, early| {
            take(descriptor, early);
            drop(pass);
        }),
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

    #[tokio::test]
    async fn a_start_waits_for_the_hijacks_before_it() {
        let gate = Gate::default();
        let pass = gate.pass().await;
        let other = gate.clone();
        let start = tokio::spawn(async move { other.settle().await });
        tokio::task::yield_now().await;
        assert!(!start.is_finished());
        drop(pass);
        start.await.expect("settles");
        // And leaves the gate open.
        gate.pass().await;
    }
}
