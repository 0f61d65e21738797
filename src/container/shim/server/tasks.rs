//! The container's processes: made, joined by clients, signalled, waited for.
//!
//! Each is a task with a number; the first process's is 0. Exit and the end of output come in any
//! order, and output may be held open by a descendant for ever: a task is settled once both are
//! there, or some seconds after the exit.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};

use super::{FIRST, KILLED, Shim, State, Task};
use crate::container::protocol::{Attach, Exit, FINISHED, Failure, Message, Reply};
use crate::container::shim::attached::Client;
use crate::container::shim::reactor::{Token, Watch};
use crate::container::shim::start::{Launched, Starter, ends};
use crate::container::shim::streams::{BLOCK, Happened, Streams};
use crate::container::shim::{
    ACKNOWLEDGEMENT, LOG_AFTER_OUTPUT, OUTPUT_AFTER_EXEC, OUTPUT_AFTER_EXIT, orphans,
};
use crate::sys::signal;
use crate::types::timestamp::Timestamp;
use crate::userns::plan::Process;

impl<S: Starter> Shim<S> {
    pub(super) fn exec(
        &mut self,
        id: String,
        process: &Process,
        client: Option<(Attach, OwnedFd)>,
    ) -> Result<Reply, Failure> {
        let Some(first) = self
            .tasks
            .get(&FIRST)
            .filter(|task| task.state == State::Running)
        else {
            return Err(refused(client, Failure::own("container is not running")));
        };
        let init = first.started.process();
        let with_stdin = client.as_ref().is_some_and(|(attach, _)| attach.stdin);
        let launched = ends(process.terminal, with_stdin).and_then(|(stdio, ends)| {
            let mut launched = self
                .starter
                .exec(process, init, first.pidfd.as_fd(), stdio)?;
            let console = launched.running.console.take();
            let ends = ends
                .complete(console, with_stdin)
                .inspect_err(|_| launched.abandon())?;
            Ok((ends, launched))
        });
        let (ends, launched) = match launched {
            Ok(launched) => launched,
            Err(failure) => return Err(refused(client, failure)),
        };
        let streams = Streams::new(self.next_task, ends, true, None);
        Ok(self.add(Some(id), launched, streams, client.into_iter().collect()))
    }

    /// Takes over a process that runs, and makes the answer that says so.
    pub(super) fn add(
        &mut self,
        exec: Option<String>,
        launched: Launched,
        mut streams: Streams,
        clients: Vec<(Attach, OwnedFd)>,
    ) -> Reply {
        let number = self.next_task;
        self.next_task += 1;
        let started = launched.started();
        let Launched {
            running, phases, ..
        } = launched;
        let notes = running.notes;
        let pidfd = running.pidfd;
        let mut watch = Watch::new(Token::Exit(number));
        watch.set(&self.epoll, pidfd.as_fd(), Some(EventFlags::IN));
        for (attach, fd) in clients {
            if streams.attach(attach, fd) == Happened::Detached {
                self.daemons
                    .send_all(&self.epoll, &Message::Detached { exec: exec.clone() });
            }
        }
        let state = State::Running;
        self.tasks.insert(
            number,
            Task {
                exec,
                started,
                pidfd,
                watch,
                streams,
                state,
            },
        );
        Reply::Started {
            started,
            phases,
            notes,
        }
    }

    pub(super) fn attach(&mut self, attach: Attach, fd: OwnedFd) -> Reply {
        if self.container.is_none() {
            self.early.push((attach, fd));
            return Reply::Ok;
        }
        // Where the container has just ended the client sees an end, not an error.
        let first = self.tasks.get_mut(&FIRST);
        let first = first.filter(|task| !matches!(task.state, State::Over));
        let happened = first.map(|task| task.streams.attach(attach, fd));
        if happened == Some(Happened::Detached) {
            self.daemons
                .send_all(&self.epoll, &Message::Detached { exec: None });
        }
        Reply::Ok
    }

    pub(super) fn kill(&self, number: i32) -> Reply {
        let running = self
            .tasks
            .get(&FIRST)
            .filter(|task| task.state == State::Running);
        let Some(task) = running else {
            return Reply::Failed(Failure::own(FINISHED));
        };
        match signal::send(task.pidfd.as_fd(), number) {
            Ok(()) => Reply::Ok,
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {
                Reply::Failed(Failure::own(FINISHED))
            }
            Err(e) => Reply::Failed(Failure::own(format!("cannot send signal {number}: {e}"))),
        }
    }

    pub(super) fn resize(&self, exec: Option<&str>, rows: u16, cols: u16) -> Reply {
        let mut tasks = self.tasks.values();
        match tasks.find(|task| task.exec.as_deref() == exec) {
            Some(task) if task.streams.resize(rows, cols) => Reply::Ok,
            Some(_) => Reply::Failed(Failure::own("the process has no terminal")),
            None => Reply::Failed(Failure::own("the process has ended")),
        }
    }

    pub(super) fn exec_seen(&mut self, id: &str) {
        for task in self
            .tasks
            .values_mut()
            .filter(|task| task.exec.as_deref() == Some(id))
        {
            if let State::Unseen { until } = &mut task.state {
                *until = Instant::now();
            }
        }
    }

    /// A task's pidfd is readable: its process is a zombie.
    pub(super) fn ended(&mut self, number: u32) {
        let lost = self.lost_server().filter(|_| number == FIRST);
        let Some(task) = self.tasks.get_mut(&number) else {
            return;
        };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status =
            rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(task.pidfd.as_fd()), options));
        let code = match status {
            Ok(None) => return,
            Ok(Some(status)) => exit_code(&status),
            // Not our child any more: only a tracer of this shim could have taken it.
            Err(_) => 255,
        };
        task.watch.set(&self.epoll, task.pidfd.as_fd(), None);
        let exit = Exit {
            // Whatever it died of first: a page that could not be read gives SIGBUS.
            code: lost.map_or(code, |_| KILLED),
            oom_killed: false,
            lost_server: lost,
            at: Timestamp::now().nanos(),
        };
        self.buffer.resize(BLOCK, 0);
        let more = task.streams.drain(&mut self.buffer);
        let own_pids = self
            .container
            .as_ref()
            .is_none_or(|container| container.own_pids);
        let wait = match &task.exec {
            _ if !more => Duration::ZERO,
            Some(_) => OUTPUT_AFTER_EXEC,
            None if own_pids => Duration::ZERO,
            None => OUTPUT_AFTER_EXIT,
        };
        task.state = State::Draining {
            exit,
            until: Instant::now() + wait,
        };
        if number == FIRST && !own_pids {
            // Without a pid namespace of its own nothing ends the others with the container.
            for session in self
                .tasks
                .values()
                .filter(|task| task.state == State::Running)
            {
                let _ = signal::send(session.pidfd.as_fd(), libc::SIGKILL);
            }
            orphans::end(&self.pids());
        }
    }

    /// Takes every task as far as it can go now, and tells epoll what is wanted.
    pub(super) fn settle(&mut self) {
        let now = Instant::now();
        let numbers: Vec<u32> = self.tasks.keys().copied().collect();
        for number in numbers {
            if let Some(task) = self.tasks.get_mut(&number) {
                if let State::Draining { exit, until } = task.state
                    && (task.streams.is_ended() || until <= now)
                {
                    task.streams.end(&self.epoll);
                    let until = now + LOG_AFTER_OUTPUT;
                    task.state = State::Logging { exit, until };
                }
                if let State::Logging { exit, until } = task.state
                    && (task.streams.is_logged() || until <= now)
                {
                    task.streams.close_log(&self.epoll);
                    task.state = match &task.exec {
                        Some(id) => {
                            let message = Message::ExecExited {
                                id: id.clone(),
                                code: exit.code,
                            };
                            self.daemons.send_all(&self.epoll, &message);
                            let wait = if self.daemons.is_empty() || !task.streams.has_clients() {
                                Duration::ZERO
                            } else {
                                ACKNOWLEDGEMENT
                            };
                            State::Unseen { until: now + wait }
                        }
                        None => {
                            if let Some(container) = &mut self.container {
                                container.end(exit);
                            }
                            self.daemons.send_all(&self.epoll, &Message::Exited(exit));
                            task.streams.dismiss();
                            State::Over
                        }
                    };
                }
                if let State::Unseen { until } = task.state
                    && (until <= now || self.daemons.is_empty())
                {
                    task.streams.dismiss();
                    task.state = State::Over;
                }
                // Where no daemon is connected the next one is told.
                if !self.daemons.is_empty()
                    && let Some(reason) = task.streams.log_failure()
                {
                    self.daemons
                        .send_all(&self.epoll, &Message::LogFailed { reason });
                }
                task.streams.watch(&self.epoll);
                if task.state == State::Over && !task.streams.has_clients() {
                    self.tasks.remove(&number);
                }
            }
        }
        if let Some(container) = &self.container {
            if container.exit.is_some() && (self.released || self.daemons.is_empty()) {
                self.starter.ended();
            }
            if !container.own_pids {
                orphans::reap(&self.pids());
            }
        }
    }

    /// All children that are no orphans.
    pub(super) fn pids(&self) -> Vec<i32> {
        let tasks = self.tasks.values();
        let own = tasks
            .flat_map(|task| std::iter::once(task.started.pid).chain(task.streams.log_processes()));
        own.collect()
    }
}

/// Tells the client of an exec session that could not be started, in Docker's manner.
fn refused(client: Option<(Attach, OwnedFd)>, failure: Failure) -> Failure {
    if let Some((attach, fd)) = client {
        let attach = Attach {
            stdin: false,
            stdout: true,
            early: Vec::new(),
            ..attach
        };
        let text = format!("{}\r\n", failure.message);
        Client::last_words(attach, fd, text.as_bytes());
    }
    failure
}

fn exit_code(status: &WaitIdStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}
