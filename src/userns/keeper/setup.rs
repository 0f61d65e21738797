//! Making a keeper: namespaces, id maps, and the step inside.
//!
//! `moss keeper JSON` is executed by the client, so it has one thread whatever its starter is. It
//! forks the keeper-to-be and writes that child's id maps from outside (newuidmap refuses to be
//! called from inside). Standard input is the process whose namespaces are joined, where the
//! origin says so; standard output takes one line of JSON, a [`Report`], from whoever gets
//! furthest. The setup process ends as soon as the maps are written, so the keeper is nobody's
//! child who would have to reap it.
//!
//! Where newuidmap is missing or refuses, a second child is made with the caller's own id alone (a
//! map can be written only once), and the reason goes with the map.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use super::super::idmap::{self, IdMap, Origin};
use super::super::mapped::{Refused, become_root, fork_mapped, step};
use super::TITLE;
use super::starting::{Namespaces, Report, Request, State};
use crate::sys::{fork, pidfd, sealed};

/// The setup process: `request` is its argument. Returns its exit status.
pub fn setup(request: &str) -> i32 {
    match try_setup(request) {
        Ok(()) => 0,
        Err(message) => {
            Report::Failed(message).send();
            1
        }
    }
}

fn try_setup(request: &str) -> Result<(), String> {
    let request: Request =
        serde_json::from_str(request).map_err(|error| step("understand its starter", &error))?;
    let program =
        File::open("/proc/self/exe").map_err(|error| step("open the running program", &error))?;
    match &request.namespaces {
        Namespaces::New => make_anew(&request, &program),
        Namespaces::Inside(maps) | Namespaces::Join(maps) => {
            let join = matches!(request.namespaces, Namespaces::Join(_));
            // A fork only so that the keeper is nobody's child.
            fork::fork(|| report(go_inside(&request, &program, join, maps.clone())))
                .map_err(|error| step("fork", &error))?;
            Ok(())
        }
    }
}

fn go_inside(
    request: &Request,
    program: &File,
    join: bool,
    maps: Option<IdMap>,
) -> Result<(), String> {
    if join {
        pidfd::join_user_and_mount(io::stdin().as_fd())
            .map_err(|error| step("join the namespaces of a running container", &error))?;
        become_root().map_err(|error| step("become root in its namespace", &error))?;
    }
    let maps = match maps {
        Some(maps) => maps,
        None => idmap::current().map_err(|error| step("read its id map", &error))?,
    };
    execute(request, program, maps)
}

/// Makes the namespaces, mapped as widely as can be.
fn make_anew(request: &Request, program: &File) -> Result<(), String> {
    let caller = idmap::caller().map_err(|error| step("read this namespace's id maps", &error))?;
    let maps = IdMap::of(&caller);
    let attempt = |maps: &IdMap| {
        fork_mapped(CloneFlags::CLONE_NEWNS, maps, || {
            report(follow_the_host().and_then(|()| execute(request, program, maps.clone())))
        })
    };
    let outcome = match attempt(&maps) {
        Err(Refused::Maps(reason)) if !matches!(maps.origin, Origin::Single { .. }) => {
            attempt(&IdMap::single(caller.uid, caller.gid, reason))
        }
        other => other,
    };
    outcome.map(drop).map_err(|refused| refused.to_string())
}

/// Mounts that appear on the host (autofs homes, a user's disk) appear inside; none goes back.
fn follow_the_host() -> Result<(), String> {
    let none = None::<&str>;
    nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .map_err(|error| step("make its mounts follow the host's", &error))
}

/// Runs in a forked child: reports what went wrong.
fn report(result: Result<(), String>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(message) => {
            Report::Failed(message).send();
            1
        }
    }
}

/// Becomes the keeper. Returns only where that fails.
fn execute(request: &Request, program: &File, maps: IdMap) -> Result<(), String> {
    // A session of its own: no terminal's hangup reaches it.
    nix::unistd::setsid().map_err(|error| step("start a session", &error))?;
    nix::unistd::chdir("/").map_err(|error| step("enter /", &error))?;
    let state = State::first(request, maps);
    let failed = execute_keeper(program, &state, &[]);
    Err(step("execute itself in its namespace", &failed))
}

/// Executes a sealed copy of `program` as a keeper that goes on from `state`; `pass` are the
/// descriptors that the state names.
pub(super) fn execute_keeper(program: &File, state: &State, pass: &[RawFd]) -> io::Error {
    let result = (|| -> io::Result<()> {
        let copy = sealed::program(program)?;
        let bytes = sealed::bytes(c"moss-keeper", &serde_json::to_vec(state)?)?;
        let title = CString::new(TITLE)?;
        let root = CString::new(state.exec_root.as_os_str().as_bytes())?;
        let number = CString::new(bytes.as_raw_fd().to_string())?;
        let mut passed = pass.to_vec();
        passed.push(bytes.as_raw_fd());
        fork::pass_to_exec(&passed)?;
        // An empty environment: nothing of the starter's session reaches shims or containers.
        let environment: [CString; 0] = [];
        nix::unistd::fexecve(copy, &[title, root, number], &environment)?;
        Ok(())
    })();
    let _ = fork::pass_to_exec(&[]);
    result.err().unwrap_or_else(|| io::ErrorKind::Other.into())
}
