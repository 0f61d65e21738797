//! The keeper's hold on slirp: it is started when there is a network, and again when it dies, sooner
//! the longer it had lived.
//!
//! The keeper knows of it what it must: its pid, and the link over which orders go. An order that
//! cannot be sent at once, because slirp hangs with a full queue, is lost; slirp finds what it missed
//! in the networks' files.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::protocol::Order;
use crate::sys::{fdpass, fork};

/// How soon it is started again, at first and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(10));

/// A life this long means that the next start is no repetition of a failure.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// Slirp, running or not.
#[derive(Debug, Default)]
pub(super) struct Slirp {
    running: Option<Running>,
    /// When it may be started again, and how long was waited for that.
    again: Option<(Instant, Duration)>,
}

#[derive(Debug)]
struct Running {
    pid: i32,
    link: OwnedFd,
    since: Instant,
}

impl Slirp {
    /// Starts it, unless it runs or has just failed.
    pub(super) fn start(
        &mut self,
        main: super::Slirp,
        exec_root: &Path,
        networks: &BTreeMap<String, OwnedFd>,
    ) {
        let too_soon = self.again.is_some_and(|(again, _)| again > Instant::now());
        if self.running.is_some() || too_soon {
            return;
        }
        let forked = fdpass::pair().and_then(|(link, theirs)| {
            rustix::io::ioctl_fionbio(&link, true)?;
            let pid = fork::fork_keeping([theirs], main)?.as_raw();
            Ok((pid, link))
        });
        let Ok((pid, link)) = forked else {
            let waited = self.again.map_or(BACK_OFF.0, |(_, waited)| waited * 2);
            let waited = waited.min(BACK_OFF.1);
            self.again = Some((Instant::now() + waited, waited));
            return;
        };
        let since = Instant::now();
        self.running = Some(Running { pid, link, since });
        self.tell(&Order::Begin { exec_root }, &[]);
        for (network, namespace) in networks {
            self.tell(&Order::Pin { network }, std::slice::from_ref(namespace));
        }
    }

    /// Sends it an order.
    pub(super) fn tell(&self, order: &impl Serialize, descriptors: &[OwnedFd]) {
        if let Some(running) = &self.running
            && let Ok(bytes) = serde_json::to_vec(order)
        {
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            let _ = fdpass::send(&running.link, &bytes, &descriptors);
        }
    }

    /// A child of the keeper's has ended.
    pub(super) fn buried(&mut self, pid: i32) {
        if let Some(running) = self.running.take_if(|running| running.pid == pid) {
            let lived = running.since.elapsed();
            let waited = match self.again {
                Some((_, waited)) if lived < LONG_LIFE => (waited * 2).min(BACK_OFF.1),
                _ => BACK_OFF.0,
            };
            self.again = Some((Instant::now() + waited, waited));
        }
    }

    /// How long it is until it may be started again.
    pub(super) fn patience(&self) -> Option<Duration> {
        let (again, _) = self.again.filter(|_| self.running.is_none())?;
        Some(again.saturating_duration_since(Instant::now()))
    }
}
