//! A keeper's start and its upgrade: its state taken over, and handed on.
//!
//! The state is JSON in a memfd whose number is an argument.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::shims::Leashed;
use super::{Roles, SOCKET, Server, raise_descriptor_limit};
use crate::sys::{command_line, fdpass, fork};
use crate::userns::keeper::protocol::Build;
use crate::userns::keeper::revival::Revival;
use crate::userns::keeper::starting::{ShimState, State};
use crate::userns::keeper::{setup, slirp};

impl Server {
    pub(super) fn take_over(
        arguments: &[String],
        roles: Roles,
    ) -> io::Result<(Self, Option<usize>)> {
        let number = arguments.get(1).and_then(|number| number.parse().ok());
        let number = number.ok_or(io::ErrorKind::InvalidInput)?;
        let state = File::from(fork::take_inherited(number)?);
        let mut bytes = vec![0; usize::try_from(state.metadata()?.len()).unwrap_or(0)];
        state.read_exact_at(&mut bytes, 0)?;
        let state: State = serde_json::from_slice(&bytes)?;

        rustix::thread::set_name(c"moss-keeper")?;
        command_line::find();
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        raise_descriptor_limit();
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.add(Signal::SIGHUP);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;

        let maps = state.maps.ok_or(io::ErrorKind::InvalidData)?;
        let take = |numbers: &[RawFd]| {
            numbers
                .iter()
                .map(|&number| fork::take_inherited(number))
                .collect::<io::Result<Vec<_>>>()
        };
        let mut shims = Vec::with_capacity(64);
        for shim in state.shims {
            let leash = shim.leash.map(fork::take_inherited).transpose()?;
            shims.push(Leashed {
                pid: shim.pid,
                leash,
                held: take(&shim.held)?,
            });
        }
        let started_listener = state.listener.map(fork::take_inherited).transpose()?;
        let upgraded = started_listener.is_some();
        let listener = match started_listener {
            Some(listener) => listener,
            None => fdpass::listen(&state.exec_root.join(SOCKET))?,
        };
        let revival = match state.revival {
            Some([recipe, program]) => Some([
                fork::take_inherited(recipe)?,
                fork::take_inherited(program)?,
            ]),
            None => None,
        };
        let server = Self {
            exec_root: state.exec_root,
            data_root: state.data_root,
            build: Build(state.build),
            maps,
            grace: Duration::from_millis(state.grace_ms),
            roles,
            listener,
            signals,
            connections: take(&state.connections)?,
            shims,
            orphans: Vec::new(),
            networks: state
                .networks
                .into_iter()
                .map(|(network, number)| Ok((network, fork::take_inherited(number)?)))
                .collect::<io::Result<_>>()?,
            slirp: slirp::Slirp::default(),
            revival: Revival::of(revival),
            forked: state.forked,
            idle_since: Instant::now(),
        };
        server.write_identity()?;
        Ok((server, if upgraded { state.asker } else { None }))
    }

    /// Executes `program` in place. Returns only where that fails; nothing has changed then.
    pub(super) fn upgrade(&mut self, asker: usize, build: &Build, program: &File) -> io::Error {
        let numbers =
            |descriptors: &[OwnedFd]| descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let shims = self.shims.iter().map(|shim| ShimState {
            pid: shim.pid,
            leash: shim.leash.as_ref().map(AsRawFd::as_raw_fd),
            held: numbers(&shim.held),
        });
        let state = State {
            exec_root: self.exec_root.clone(),
            data_root: self.data_root.clone(),
            build: build.0.clone(),
            maps: Some(self.maps.clone()),
            grace_ms: u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX),
            forked: self.forked,
            listener: Some(self.listener.as_raw_fd()),
            connections: numbers(&self.connections),
            asker: Some(asker),
            shims: shims.collect(),
            networks: self
                .networks
                .iter()
                .map(|(network, namespace)| (network.clone(), namespace.as_raw_fd()))
                .collect(),
            revival: self
                .revival
                .left()
                .map(|[recipe, program]| [recipe.as_raw_fd(), program.as_raw_fd()]),
        };
        let mut pass = state.connections.clone();
        pass.extend(state.networks.iter().map(|(_, number)| *number));
        pass.push(self.listener.as_raw_fd());
        pass.extend(state.revival.iter().flatten());
        for shim in &state.shims {
            pass.extend(shim.leash.iter().chain(&shim.held));
        }
        setup::execute_keeper(program, &state, &pass)
    }
}
