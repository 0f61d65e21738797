//! Restart policies: what starts a container again that has ended.
//!
//! ```text
//!          exit, policy says so            after the back-off
//! Running ─────────────────────▶ Restarting ────────────────▶ Running
//!                                    │ stop, kill, rm -f, or the start fails
//!                                    └────────────────────────▶ Exited
//! ```
//!
//! The rules are Docker's (moby, daemon/internal/restartmanager): the back-off doubles from
//! [`FIRST`] to [`LONGEST`] and begins anew after a run of [`STEADY`]. What is in the record
//! (`Restarting`, the count, whether the user stopped it) outlives the daemon; the back-off does
//! not. While there is no daemon nothing is restarted: the next one catches up, with containers
//! that ended meanwhile, and with those that a reboot ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::container::RestartPolicy;
use crate::container::record::State;
use crate::engine::Engine;
use crate::engine::containers::{Container, Data, Ended, WaitCondition};
use crate::engine::error::Error;

/// The first back-off.
const FIRST: Duration = Duration::from_millis(100);
/// The longest.
const LONGEST: Duration = Duration::from_secs(60);
/// A run of this length makes the next back-off the first again.
const STEADY: Duration = Duration::from_secs(10);

/// Whether a policy starts a container again that ended with `code`.
fn wants(policy: &RestartPolicy, code: i32, stopped_by_user: bool, restarts: u32) -> bool {
    match policy.name.as_str() {
        "always" => true,
        "unless-stopped" => !stopped_by_user,
        "on-failure" => {
            let most = policy.maximum_retry_count;
            code != 0 && (most == 0 || i64::from(restarts) < most)
        }
        _ => false,
    }
}

/// The back-off after `last`, of a container that ran for so long.
fn back_off(last: Duration, ran: Duration) -> Duration {
    match last {
        _ if ran >= STEADY => FIRST,
        Duration::ZERO => FIRST,
        last => (last * 2).min(LONGEST),
    }
}

impl Data {
    /// Whether the container, which has ended just now, is to be restarted, and after how long. It
    /// is called `Restarting` then.
    pub(super) fn restart(&mut self, ran: Duration) -> Option<Duration> {
        let State::Exited {
            started_at, exit, ..
        } = self.record.state
        else {
            return None;
        };
        let record = &self.record;
        let policy = &record.host_config.restart_policy;
        let is_wanted = wants(
            policy,
            exit.code,
            record.stopped_by_user,
            record.restart_count,
        );
        if !is_wanted || self.restarts.cancelled || self.restarting || self.removing {
            return None;
        }
        self.restarts.pause = back_off(self.restarts.pause, ran);
        self.record.restart_count += 1;
        self.record.state = State::Restarting { started_at, exit };
        Some(self.restarts.pause)
    }

    /// Whether its policy has a daemon that has just begun start it. What the user has stopped is
    /// started again only after a reboot: a daemon that is started on demand begins often.
    fn wants_start(&self, boot_id: &str) -> bool {
        let record = &self.record;
        match record.state {
            State::Restarting { .. } => true,
            State::Exited { .. } if record.stopped_by_user && record.boot_id == boot_id => false,
            State::Exited { exit, .. } => wants(
                &record.host_config.restart_policy,
                exit.code,
                record.stopped_by_user,
                record.restart_count,
            ),
            _ => false,
        }
    }
}

impl Engine {
    /// Starts a container that is `Restarting` after a while, if it still is.
    pub(super) fn restart_after(&self, container: &Arc<Container>, pause: Duration) {
        let serial = {
            let mut data = container.data();
            data.restarts.serial += 1;
            data.restarts.serial
        };
        let (engine, container) = (self.me.clone(), Arc::downgrade(container));
        self.timers.at(Instant::now() + pause, move || {
            let (Some(engine), Some(container)) = (engine.upgrade(), container.upgrade()) else {
                return;
            };
            let restart = move || engine.restart_by_policy(&container, serial);
            let spawned = std::thread::Builder::new()
                .name("restart".to_owned())
                .spawn(restart);
            if let Err(error) = spawned {
                tracing::error!("cannot start a thread for a restart: {error}");
            }
        });
    }

    fn restart_by_policy(&self, container: &Arc<Container>, serial: u64) {
        let _operation = container.operate();
        {
            let data = container.data();
            let is_wanted = data.record.state.is_restarting() && data.restarts.serial == serial;
            if !is_wanted || data.removing {
                return;
            }
        }
        if let Err(error) = self.start_again(container) {
            tracing::error!(
                id = container.id.short(),
                "the container could not be restarted: {error}"
            );
        }
    }

    /// Ends a wait for a restart: the container has ended. Says whether there was one.
    pub(super) fn cancel_restart(&self, container: &Arc<Container>) -> bool {
        let record = {
            let mut data = container.settled();
            let State::Restarting { started_at, exit } = data.record.state else {
                return false;
            };
            data.restarts.serial += 1;
            data.record.state = State::Exited {
                started_at,
                exit,
                error: String::new(),
            };
            data.record.clone()
        };
        if let Err(error) = container.save(true) {
            tracing::error!("{}", Error::system(&error));
        }
        container.notify();
        for waiter in container.take_waiters(|condition| condition != WaitCondition::Removed) {
            waiter(Ended::of(&record.state));
        }
        true
    }

    /// Starts what restart policies want started when a daemon begins.
    pub(super) fn restart_wanted(&self) {
        for container in self.containers.all() {
            {
                let mut data = container.data();
                if !data.wants_start(&self.facts.boot_id) {
                    continue;
                }
                if let State::Exited {
                    started_at, exit, ..
                } = data.record.state
                {
                    data.record.restart_count = 0;
                    data.record.state = State::Restarting { started_at, exit };
                }
            }
            self.restart_after(&container, Duration::ZERO);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_want_what_dockers_do() {
        let policy = |name: &str, maximum_retry_count| RestartPolicy {
            name: name.to_owned(),
            maximum_retry_count,
        };
        for (name, most, code, stopped, restarts, wanted) in [
            ("no", 0, 1, false, 0, false),
            ("", 0, 1, false, 0, false),
            ("always", 0, 0, true, 9, true),
            ("unless-stopped", 0, 0, false, 9, true),
            ("unless-stopped", 0, 1, true, 0, false),
            ("on-failure", 0, 0, false, 0, false),
            ("on-failure", 0, 1, true, 99, true),
            ("on-failure", 3, 1, false, 2, true),
            ("on-failure", 3, 1, false, 3, false),
        ] {
            assert_eq!(
                wants(&policy(name, most), code, stopped, restarts),
                wanted,
                "{name}:{most} {code} {stopped} {restarts}"
            );
        }
    }

    #[test]
    fn the_back_off_doubles_up_to_a_minute_and_begins_anew() {
        let short = Duration::from_secs(1);
        let mut pause = Duration::ZERO;
        let mut seen = Vec::new();
        for _ in 0..12 {
            pause = back_off(pause, short);
            seen.push(pause.as_millis());
        }
        assert_eq!(seen[..4], [100, 200, 400, 800]);
        assert_eq!(seen[9..], [51_200, 60_000, 60_000]);
        assert_eq!(back_off(pause, STEADY), FIRST);
    }
}
