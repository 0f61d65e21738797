//! Ending a container's life and waiting for it: stop, kill, restart, wait.

use std::sync::Arc;
use std::time::Duration;

use crate::container::protocol::{FINISHED, Started};
use crate::engine::Engine;
use crate::engine::containers::{Container, Ended, WaitCondition, Waiter, Waiting};
use crate::engine::error::{Error, Kind, Result};
use crate::types::signal::Signal;

/// Seconds between the stop signal and SIGKILL unless told otherwise (Docker's default).
pub(super) const STOP_TIMEOUT: i64 = 10;

/// How long a process may take to die of SIGKILL before the request fails.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Stops a container: its stop signal, then SIGKILL after `timeout` seconds (negative: never).
    /// Blocks until it has ended. 304 when it does not run.
    pub fn container_stop(
        &self,
        name: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let container = self.containers.find(name)?;
        if !container.data().record.state.is_live() {
            return Err(Error::new(Kind::NotModified, ""));
        }
        // Whatever goes wrong from here on is 500 to dockerd, a bad signal too.
        self.stop(&container, signal, timeout).map_err(|error| {
            error
                .during(format!("cannot stop container: {name}"))
                .hidden()
        })
    }

    /// Stops a container if it runs, then starts it.
    pub fn container_restart(
        &self,
        name: &str,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let container = self.containers.find(name)?;
        let _operation = container.operate();
        let running = {
            let mut data = container.data();
            // Its end is then no reason to remove it.
            data.restarting = true;
            data.record.state.is_live()
        };
        let stopped = if running {
            self.stop(&container, signal, timeout)
                .inspect_err(|_| container.data().restarting = false)
        } else {
            Ok(())
        };
        stopped
            .and_then(|()| self.start_locked(&container))
            .map_err(|error| {
                error
                    .during(format!("Cannot restart container {name}"))
                    .hidden()
            })?;
        self.container_event(&container.record(), "restart", []);
        Ok(())
    }

    /// Blocks until the container has ended, and tells of it.
    fn stop(
        &self,
        container: &Arc<Container>,
        signal: Option<&str>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let (run, signal, timeout) = {
            let data = container.settled();
            let config = &data.record.config;
            let signal = match signal.filter(|text| !text.is_empty()) {
                Some(text) => parse_signal(text)?,
                None => parse_signal(&config.stop_signal).unwrap_or(Signal::TERM),
            };
            (
                data.record.state.started(),
                signal,
                timeout.or(config.stop_timeout).unwrap_or(STOP_TIMEOUT),
            )
        };
        if self.cancel_restart(container) {
            self.note_signal(container, None);
            self.container_event(&container.record(), "stop", []);
            return Ok(());
        }
        self.note_signal(container, None);
        self.signal(container, run, signal)?;
        let patience = u64::try_from(timeout).ok().map(Duration::from_secs);
        if !container.wait_until(patience, |data| data.is_told_over(run)) {
            self.kill_and_wait(container, run)?;
        }
        self.container_event(&container.record(), "stop", []);
        Ok(())
    }

    /// Sends SIGKILL and blocks until this run of the container has ended.
    pub(super) fn kill_and_wait(
        &self,
        container: &Arc<Container>,
        run: Option<Started>,
    ) -> Result<()> {
        self.signal(container, run, Signal::KILL)?;
        if container.wait_until(Some(KILL_PATIENCE), |data| data.is_told_over(run)) {
            return Ok(());
        }
        Err(Error::new(
            Kind::System,
            "tried to kill container, but did not receive an exit event",
        ))
    }

    /// Sends a signal to a running container's first process; after SIGKILL its end is waited for.
    pub fn container_kill(&self, name: &str, signal: &str) -> Result<()> {
        self.kill(name, signal)
            .map_err(|error| error.during(format!("cannot kill container: {name}")))
    }

    fn kill(&self, name: &str, signal: &str) -> Result<()> {
        let signal = if signal.is_empty() {
            Signal::KILL
        } else {
            parse_signal(signal)?
        };
        let container = self.containers.find(name)?;
        let run = {
            let data = container.settled();
            if !data.record.state.is_live() {
                return Err(Error::not_running(container.id.as_str()));
            }
            data.record.state.started()
        };
        self.note_signal(&container, Some(signal));
        if self.cancel_restart(&container) {
            return Ok(());
        }
        if signal == Signal::KILL {
            self.kill_and_wait(&container, run)
        } else {
            self.signal(&container, run, signal)
        }
    }

    /// Takes note that the user wants the container's end: by a stop, or by a signal that Docker
    /// takes for that (moby, daemon/kill.go, `killWithSignal`).
    fn note_signal(&self, container: &Container, signal: Option<Signal>) {
        {
            let mut data = container.data();
            let own = &data.record.config.stop_signal;
            let ends = match signal {
                None | Some(Signal::KILL) => true,
                Some(_) if own.is_empty() => true,
                Some(signal) => own.parse().is_ok_and(|own: Signal| own == signal),
            };
            data.restarts.cancelled |= ends;
            if std::mem::replace(&mut data.record.stopped_by_user, true)
                || matches!(
                    data.record.host_config.restart_policy.name.as_str(),
                    "" | "no"
                )
            {
                return;
            }
        }
        self.save_lazily(container);
    }

    /// Sends a signal and tells of it, before it can have an effect: "kill" comes before "die". A
    /// container that ends at this moment has no one to signal, which is no error; one that was
    /// started anew is not meant.
    fn signal(
        &self,
        container: &Arc<Container>,
        run: Option<Started>,
        signal: Signal,
    ) -> Result<()> {
        let record = {
            let data = container.data();
            if data.is_over(run) {
                return Ok(());
            }
            data.record.clone()
        };
        self.container_event(
            &record,
            "kill",
            [("signal".to_owned(), signal.number().to_string())],
        );
        match self.shims.kill(&container.id, signal.number()) {
            Ok(()) => {}
            Err(_) if container.data().is_over(run) => return Ok(()),
            // Its shim knows that it has ended, and will have told of it in a moment.
            Err(failure) if failure.message == FINISHED => return Ok(()),
            Err(error) => return Err(Error::system(&error)),
        }
        // It can act upon the signal only when it goes on.
        let own = &record.config.stop_signal;
        let is_ending = own.is_empty() || own.parse().is_ok_and(|own: Signal| own == signal);
        if record.state.is_paused() && is_ending && signal != Signal::KILL {
            match self.unpause(container) {
                Err(error) if !container.data().is_over(run) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Calls `waiter` once what `condition` names has come, maybe at once, unless what is returned
    /// is dropped before.
    pub fn container_wait(
        &self,
        name: &str,
        condition: WaitCondition,
        waiter: Waiter,
    ) -> Result<Option<Waiting>> {
        let container = self.containers.find(name)?;
        let ended = {
            let mut data = container.data();
            let busy = data.record.state.is_live() || data.starting;
            if !data.removed && (busy || condition != WaitCondition::NotRunning) {
                return Ok(Some(data.wait(&container, condition, waiter)));
            }
            Ended::of(&data.record.state)
        };
        waiter(ended);
        Ok(None)
    }

    /// Sets the size of a running container's terminal.
    pub fn container_resize(&self, name: &str, rows: u16, cols: u16) -> Result<()> {
        let container = self.containers.find(name)?;
        let record = container.settled().record.clone();
        if !record.state.is_running() {
            return Err(Error::not_running(container.id.as_str()));
        }
        self.shims
            .resize(&container.id, None, rows, cols)
            .map_err(|error| Error::system(&error))?;
        self.container_event(
            &record,
            "resize",
            [
                ("height".to_owned(), rows.to_string()),
                ("width".to_owned(), cols.to_string()),
            ],
        );
        Ok(())
    }

    /// Gives a container another name.
    pub fn container_rename(&self, name: &str, new: &str) -> Result<()> {
        let (name, new) = (name.trim(), new.trim());
        let bare = |name: &str| name.strip_prefix('/').unwrap_or(name).to_owned();
        if bare(name).is_empty() || bare(new).is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        let container = self.containers.find(name)?;
        let _operation = container.operate();
        let old = container.data().record.name.clone();
        if old == bare(new) {
            return Err(Error::invalid(
                "Renaming a container with the same name as its current name",
            ));
        }
        let allocating = |error: Error| error.during("Error when allocating new name");
        // dockerd has put the slash before the name by now, and shows it.
        let slashed = format!("/{}", bare(new));
        let new = crate::types::name::container(&slashed)
            .map_err(|error| allocating(Error::invalid(error)))?;
        self.containers
            .reserve(new, &container.id)
            .map_err(allocating)?;
        let record = {
            let mut data = container.data();
            new.clone_into(&mut data.record.name);
            // It was made from what was known before.
            data.discard_prepared();
            data.record.clone()
        };
        if let Err(error) = container.save(true) {
            container.data().record.name = old;
            self.containers.release(new, &container.id);
            return Err(Error::system(&error));
        }
        self.containers.release(&old, &container.id);
        self.rename_in_networks(&record, &old);
        self.container_event(
            &record,
            "rename",
            [("oldName".to_owned(), format!("/{old}"))],
        );
        Ok(())
    }
}

fn parse_signal(text: &str) -> Result<Signal> {
    text.parse::<Signal>().map_err(Error::invalid)
}
