//! The last steps before execve: limits, user, capabilities, seccomp; in runc's order.
//!
//! The order is forced. no_new_privs first, since it is never refused. Without it seccomp needs
//! CAP_SYS_ADMIN and so is loaded before capabilities go; with it, last, so that the filter need not allow
//! our own calls. The bounding set goes while CAP_SETPCAP is there; keepcaps carries the rest over
//! the change of user; the sets are then written, and execve drops what a user other than root has no
//! ambient right to. Changing users clears the parent-death signal and may make the process dumpable:
//! both are set again. The channel tells whether the shim died in between.

use std::io;

use rustix::process::{DumpableBehavior, Gid, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::program::{self, Program};
use super::{StageError, console};
use crate::sys::{clone, rlimit, seccomp};
use crate::userns::plan::{FilterInstruction, Process};
use crate::userns::users::{self, Files, Identity};

/// A user specification resolved, with what its passwd says.
#[derive(Debug)]
pub(super) struct User {
    pub identity: Identity,
    pub home: String,
}

/// Looks the process's user up in the container's passwd and group.
pub(super) fn look_up(process: &Process, files: &Files) -> Result<User, StageError> {
    let identity = files
        .resolve(&process.user, &process.groups)
        .map_err(|error| StageError::daemon(error.to_string()))?;
    let home = users::home(identity.uid, files.passwd.as_deref()).to_owned();
    Ok(User { identity, home })
}

/// Everything up to the program being found. `report` is called last, before a filter that
/// might forbid it; it fails when the shim is gone.
pub(super) fn confine(
    process: &Process,
    user: &User,
    report: impl FnOnce() -> io::Result<()>,
) -> Result<Program, StageError> {
    for limit in &process.rlimits {
        let number = rlimit::by_name(&limit.name)
            .ok_or_else(|| StageError::new(format!("invalid rlimit type {}", limit.name)))?;
        rlimit::set(number, limit.soft, limit.hard).map_err(|error| {
            StageError::io(format_args!("error setting rlimit type {number}"), &error)
        })?;
    }
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true)
            .map_err(|error| StageError::io("prctl(SET_NO_NEW_PRIVS)", &error.into()))?;
    } else {
        load_filter(process.seccomp.as_deref())?;
    }
    clone::close_on_exec_from(3)
        .map_err(|error| StageError::io("error closing exec fds", &error))?;
    let entered = enter(&process.cwd)?;
    let env = program::environment(&process.env, &user.home)?;
    limit_bounding_set(process.capabilities.bounding)?;
    rustix::thread::set_keep_capabilities(true)
        .map_err(|error| StageError::io("unable to set keep caps", &error.into()))?;
    become_user(&user.identity).map_err(|mut error| {
        error.message = format!("unable to setup user: {}", error.message);
        error
    })?;
    if !entered {
        rustix::process::chdir(process.cwd.as_str())
            .map_err(|error| chdir_failed(&process.cwd, error))?;
    }
    stay_inside()?;
    rustix::thread::set_keep_capabilities(false)
        .map_err(|error| StageError::io("unable to clear keep caps", &error.into()))?;
    set_capabilities(process)?;
    protect()?;
    let name = process.args.first().map_or("", String::as_str);
    let path = program::find(name, &env)?;
    let program = Program::new(&path, &process.args, &env)?;
    report().map_err(|error| StageError::io("writing syncT", &error))?;
    if process.no_new_privileges {
        load_filter(process.seccomp.as_deref())?;
    }
    Ok(program)
}

/// Dies with the shim, and shows nobody its memory, until execve.
pub(super) fn protect() -> Result<(), StageError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .and_then(|()| rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable))
        .map_err(|error| StageError::io("can't restore pdeath signal", &error.into()))
}

/// `/proc/self/oom_score_adj`, while a proc of the host's is there.
pub(super) fn set_oom_score(score: Option<i32>) -> Result<(), StageError> {
    let Some(score) = score else { return Ok(()) };
    match std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Ok(()) => Ok(()),
        // Lowering it is the host's root's alone.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(StageError::io("write /proc/self/oom_score_adj", &error)),
    }
}

fn load_filter(filter: Option<&[FilterInstruction]>) -> Result<(), StageError> {
    let Some(filter) = filter else { return Ok(()) };
    let program: Vec<seccomp::Instruction> = filter
        .iter()
        .map(|&FilterInstruction(code, jt, jf, k)| (code, jt, jf, k))
        .collect();
    seccomp::load(&program).map_err(|error| StageError::io("unable to init seccomp", &error))
}

/// Changes to the working directory as root; `false` where only the user may enter it.
fn enter(cwd: &str) -> Result<bool, StageError> {
    if cwd.is_empty() {
        return Ok(true);
    }
    match rustix::process::chdir(cwd) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => Ok(false),
        Err(error) => Err(chdir_failed(cwd, error)),
    }
}

fn chdir_failed(cwd: &str, error: rustix::io::Errno) -> StageError {
    StageError::io(
        format_args!("chdir to cwd (\"{cwd}\") set in config.json failed"),
        &error.into(),
    )
}

/// getcwd(2) says "(unreachable)" of a directory outside this root (CVE-2024-21626).
fn stay_inside() -> Result<(), StageError> {
    match rustix::process::getcwd(Vec::new()) {
        Ok(path) if path.to_bytes().first() == Some(&b'/') => Ok(()),
        // ENOENT: removed meanwhile, or not to be named; either way not to be trusted.
        _ => Err(StageError::new(
            "current working directory is outside of container mount namespace root -- possible \
             container breakout detected",
        )),
    }
}

fn limit_bounding_set(keep: u64) -> Result<(), StageError> {
    for number in 0..64 {
        if keep & (1 << number) != 0 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one(number)) {
            Ok(()) => {}
            // The first number that this kernel does not know.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => {
                return Err(StageError::io(
                    "unable to apply bounding set",
                    &error.into(),
                ));
            }
        }
    }
    Ok(())
}

fn one(number: u32) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1 << number)
}

fn become_user(identity: &Identity) -> Result<(), StageError> {
    console::give_stdio(identity.uid);
    let failed = |what: &str, error: rustix::io::Errno| StageError::io(what, &error.into());
    let groups: Vec<Gid> = identity.groups.iter().map(|&g| Gid::from_raw(g)).collect();
    match rustix::thread::set_thread_groups(&groups) {
        // Denied for the whole user namespace where one id is mapped; runc skips it too then.
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(failed("setgroups", error)),
    }
    let gid = Gid::from_raw(identity.gid);
    match rustix::thread::set_thread_res_gid(gid, gid, gid) {
        Ok(()) => {}
        Err(rustix::io::Errno::INVAL) => {
            return Err(StageError::new(format!(
                "cannot setgid to unmapped gid {} in user namespace",
                identity.gid
            )));
        }
        Err(error) => return Err(failed("setgid", error)),
    }
    let uid = Uid::from_raw(identity.uid);
    match rustix::thread::set_thread_res_uid(uid, uid, uid) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL) => Err(StageError::new(format!(
            "cannot setuid to unmapped uid {} in user namespace",
            identity.uid
        ))),
        Err(error) => Err(failed("setuid", error)),
    }
}

fn set_capabilities(process: &Process) -> Result<(), StageError> {
    let wanted = &process.capabilities;
    let failed = |error: rustix::io::Errno| {
        StageError::io(
            "unable to apply caps: can't apply capabilities",
            &error.into(),
        )
    };
    // Names that this kernel does not have are no error, as under runc: it has none to give.
    let have = rustix::thread::capabilities(None).map_err(failed)?;
    let set = |bits: u64| CapabilitySet::from_bits_retain(bits);
    let permitted = set(wanted.permitted) & have.permitted;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: set(wanted.effective) & permitted,
            permitted,
            inheritable: set(wanted.inheritable) & have.permitted,
        },
    )
    .map_err(failed)?;
    rustix::thread::clear_ambient_capability_set().map_err(failed)?;
    for number in (0..64).filter(|n| wanted.ambient & (1 << n) != 0) {
        // runc only warns: an ambient capability that is not permitted is not given.
        let _ = rustix::thread::configure_capability_in_ambient_set(one(number), true);
    }
    Ok(())
}
