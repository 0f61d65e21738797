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
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Pid, Uid};
use serde::{Deserialize, Serialize};

use super::super::idmap::{self, IdMap, Origin};
use super::super::plan::Extent;
use super::TITLE;
use super::protocol::Build;
use super::server::State;
use crate::sys::{fdpass, fork, pidfd, sealed};

/// What the client tells the setup process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) exec_root: PathBuf,
    pub(super) data_root: Option<PathBuf>,
    pub(super) build: Build,
    pub(super) grace_ms: u64,
    pub(super) namespaces: Namespaces,
}

/// Where the keeper's namespaces come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Namespaces {
    /// Made anew.
    New,
    /// The starter's own: it is inside. With the maps where an earlier keeper wrote them down.
    Inside(Option<IdMap>),
    /// Those of the process whose pidfd is standard input.
    Join(Option<IdMap>),
}

/// One line on standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The keeper listens.
    Ready(i32),
    /// It does not, and will not.
    Failed(String),
}

impl Report {
    /// Tells the client. If that has gone, nobody is left to be told.
    pub(super) fn send(&self) {
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        let _ = io::stdout().write_all(line.as_bytes());
        let _ = io::stdout().flush();
    }
}

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
        become_root()?;
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
    let wide = !matches!(maps.origin, Origin::Single { .. });
    match attempt(request, program, &maps)? {
        Ok(()) => Ok(()),
        Err(reason) if wide => {
            let single = IdMap::single(caller.uid, caller.gid, reason);
            attempt(request, program, &single)?.map_err(|why| format!("cannot map ids: {why}"))
        }
        Err(reason) => Err(format!("cannot map ids: {reason}")),
    }
}

/// Makes a keeper with `maps`. The inner error is that these maps cannot be had.
fn attempt(request: &Request, program: &File, maps: &IdMap) -> Result<Result<(), String>, String> {
    let (ours, theirs) = fdpass::pair().map_err(|error| step("make a socket pair", &error))?;
    // What each side holds of the other's end is closed where it must see the other's death.
    let mut ends = Some((ours, theirs));
    let child = fork::fork(|| {
        let Some((ours, theirs)) = ends.take() else {
            return 1;
        };
        drop(ours);
        report(first_child(request, program, maps, theirs))
    })
    .map_err(|error| step("fork", &error))?;
    let Some((ours, theirs)) = ends.take() else {
        return Err("lost its socket pair".into());
    };
    drop(theirs);
    let mut word = [0; 1024];
    let (length, _) = fdpass::receive(&ours, &mut word)
        .map_err(|error| step("hear from the new namespace", &error))?;
    match &word[..length] {
        b"mapped?" => {}
        [] => return Err("the new keeper died in its new namespace".into()),
        message => return Err(String::from_utf8_lossy(message).into_owned()),
    }
    if let Err(reason) = write_maps(child, maps) {
        drop(ours);
        // It sees the end of its socket and leaves.
        let _ = nix::sys::wait::waitpid(child, None);
        return Ok(Err(reason));
    }
    fdpass::send(&ours, b"mapped", &[]).map_err(|error| step("wake the new keeper", &error))?;
    Ok(Ok(()))
}

/// The keeper-to-be, up to exec.
fn first_child(
    request: &Request,
    program: &File,
    maps: &IdMap,
    setup: OwnedFd,
) -> Result<(), String> {
    if let Err(error) = nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS) {
        let message = step("make a user namespace", &error);
        let _ = fdpass::send(&setup, message.as_bytes(), &[]);
        return Ok(());
    }
    let mut word = [0; 16];
    let asked = fdpass::send(&setup, b"mapped?", &[]);
    match asked.and_then(|()| fdpass::receive(&setup, &mut word)) {
        Ok((6, _)) => drop(setup),
        // The maps were refused; another child is made.
        _ => return Ok(()),
    }
    become_root()?;
    // Mounts that appear on the host (autofs homes, a user's disk) appear inside; none goes back.
    nix::mount::mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .map_err(|error| step("make its mounts follow the host's", &error))?;
    execute(request, program, maps.clone())
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

fn become_root() -> Result<(), String> {
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setresgid(group, group, group)
        .and_then(|()| nix::unistd::setresuid(user, user, user))
        .map_err(|error| step("become root in its namespace", &error))
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

/// Writes the id maps of `child`; the error says why they cannot be had.
fn write_maps(child: Pid, maps: &IdMap) -> Result<(), String> {
    let mapping = &maps.mapping;
    let file = |name: &str| format!("/proc/{child}/{name}");
    if mapping.deny_setgroups {
        std::fs::write(file("setgroups"), "deny")
            .map_err(|error| step("deny setgroups", &error))?;
    }
    // Root, or root's capabilities, may write any map, where newuidmap is missing too.
    let direct = std::fs::write(file("uid_map"), idmap::format(&mapping.uids));
    match direct {
        Ok(()) => std::fs::write(file("gid_map"), idmap::format(&mapping.gids))
            .map_err(|error| step("write the map of groups", &error)),
        Err(error) if maps.origin != Origin::Subordinate => {
            Err(step("write the map of users", &error))
        }
        Err(_) => {
            // Groups first: where only one of the two programs works, nothing is half done that
            // the second attempt could not repeat in a new child.
            new_map("newgidmap", child, &mapping.gids)?;
            new_map("newuidmap", child, &mapping.uids)
        }
    }
}

fn new_map(program: &str, child: Pid, extents: &[Extent]) -> Result<(), String> {
    let mut command = Command::new(find(program));
    command.arg(child.to_string()).stdin(Stdio::null());
    for Extent {
        inside,
        outside,
        count,
    } in extents
    {
        command.args([inside, outside, count].map(u32::to_string));
    }
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("{program} is not installed (Debian: package uidmap)"),
        _ => format!("{program} cannot be run: {error}"),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().lines().next().unwrap_or_default();
    Err(format!("{program} failed ({}): {said}", output.status))
}

/// The program on `$PATH`, else where distributions put it: a daemon's PATH may be short.
fn find(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| program.into())
}

/// One sentence for a step that failed, with its cause: this crosses to another process as text.
fn step(what: &str, error: &dyn std::error::Error) -> String {
    format!("cannot {what}: {error}")
}
