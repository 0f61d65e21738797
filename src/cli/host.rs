//! Verbs that look at this user's host themselves: `doctor`, `system check`, `system stop`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::args;
use super::engine::{Client, Place, paths};
use super::error::Exit;
use super::http::{Body, Target};
use super::output::line;
use crate::api::container::Summary;
use crate::engine::leaks;
use crate::sys::lock;
use crate::sys::paths::Paths;
use crate::sys::pidfd;
use crate::userns::keeper::{Keeper, ShimIdentity, Start};
use crate::userns::probe::{self, Places};

/// How long a daemon may take to leave; answers in flight are given some seconds.
const LEAVING: Duration = Duration::from_secs(30);

/// `moss doctor`: the probes of the host, with no daemon.
pub fn doctor(roots: &args::Roots) -> Result<()> {
    let paths = paths(roots)?;
    let findings = probe::run(&Places {
        data_root: paths.data_root,
        exec_root: paths.exec_root,
    })
    .context("cannot probe this host")?;
    for finding in &findings {
        line(&finding.to_string())?;
    }
    if findings.iter().any(probe::Finding::is_fatal) {
        return Err(Exit::because(
            1,
            "no container can run on this host as it is",
        ));
    }
    Ok(())
}

/// `moss system check`: what was left behind; works with no daemon.
pub fn check(roots: &args::Roots) -> Result<()> {
    let paths = paths(roots)?;
    let found = leaks::find(&paths.data_root, &paths.exec_root);
    for leak in &found {
        line(&leak.to_string())?;
    }
    if found.is_empty() {
        line("nothing was leaked")
    } else {
        Err(Exit::silent(1))
    }
}

/// `moss system stop`.
pub fn stop(place: &Place, stop: &args::SystemStop) -> Result<()> {
    if *place != Place::Own {
        bail!("only this user's own engine can be stopped: -H and MOSS_HOST name another");
    }
    let paths = paths(&stop.roots)?;
    if !stop.containers {
        return stop_daemon(&paths);
    }
    // Before anything ends: what a container that removes itself wrote down goes with it.
    let shims: Vec<_> = ShimIdentity::all_living(&paths.data_root).collect();
    stop_containers(&paths, &stop.roots, !shims.is_empty())?;
    let start = Start::new(&paths.exec_root, Some(&paths.data_root))?;
    // The daemon may send it away; a connection would keep it.
    let process = Keeper::connect(&start)?.map(|keeper| keeper.process());
    stop_daemon(&paths)?;
    let keeper = Keeper::connect(&start)?;
    // An exit is told of before its shim has let go of the root filesystem. Shims of an earlier
    // keeper are not known to this one.
    patiently("shims of containers are", || {
        let known = match &keeper {
            Some(keeper) => keeper.status()?.shims.is_empty(),
            None => true,
        };
        let started_since = ShimIdentity::all_living(&paths.data_root).next().is_some();
        let alive = shims
            .iter()
            .any(|(_, process)| pidfd::is_alive(process).unwrap_or(true));
        Ok(known && !started_since && !alive)
    })?;
    if let Some(keeper) = keeper {
        keeper.stop(false)?;
    }
    match process {
        Some(process) => ended(&process).context("the keeper does not leave"),
        None => Ok(()),
    }
}

/// Stops what runs. Where no daemon lives one is started for it if containers may run.
fn stop_containers(paths: &Paths, roots: &args::Roots, shims: bool) -> Result<()> {
    let keeper = Keeper::connect(&Start::new(&paths.exec_root, Some(&paths.data_root))?)?;
    if keeper.is_none() && !shims && lock::holder(&paths.data_root).is_none() {
        return Ok(());
    }
    let client = Client::own(paths, roots)?;
    let running: Vec<Summary> = client.get(&Target::new("/containers/json", &[]))?;
    // At once: each may take its time to stop.
    let mut waiting = Vec::new();
    for container in &running {
        let target = Target::new("/containers/{}/stop", &[&container.id]);
        waiting.push(client.begin(&target, Body::Empty, false)?);
    }
    let answers: Vec<_> = waiting.into_iter().map(|it| client.answer(it)).collect();
    answers.into_iter().try_for_each(|answer| answer.map(drop))
}

fn stop_daemon(paths: &Paths) -> Result<()> {
    let Some(holder) = lock::holder(&paths.data_root) else {
        return Ok(());
    };
    if holder.boot_id != pidfd::boot_id()? {
        bail!(
            "the daemon (pid {}) runs on the host {}: stop it there",
            holder.pid,
            holder.host
        );
    }
    let pid = i32::try_from(holder.pid).context("the lock names no process")?;
    let process = pidfd::open(pid).context("cannot open the daemon's process")?;
    // Between reading the lock and opening the process, the number may have come to mean another.
    if lock::holder(&paths.data_root).map(|holder| holder.pid) != Some(holder.pid) {
        return Ok(());
    }
    pidfd::kill(&process, Signal::TERM).context("cannot stop the daemon")?;
    ended(&process).with_context(|| format!("the daemon (pid {pid}) does not leave"))
}

/// Waits for a process's end.
fn ended(process: impl AsFd) -> Result<()> {
    patiently("it is", || Ok(!pidfd::is_alive(&process)?))
}

/// Waits until `gone` says so.
fn patiently(what: &str, gone: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LEAVING;
    while !gone()? {
        if Instant::now() > deadline {
            bail!("{what} still there after {} s", LEAVING.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
