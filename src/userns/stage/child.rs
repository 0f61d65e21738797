//! The child's main line, from the first instruction after clone3 to execve.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{FileType, Mode, OFlags, fstat, major, minor};

use super::channel::{Channel, Order, Report};
use super::program::Program;
use super::sources::Sources;
use super::{StageError, Stdio, confine, console, dev, elapsed, namespaces, rootfs};
use crate::sys::{keyring, loopback, resolve, signal};
use crate::userns::init;
use crate::userns::plan::{Namespace, Plan, Process};
use crate::userns::users::Files;

/// File mode creation mask of a process that asks for none, as Docker's.
pub(super) const DEFAULT_UMASK: u32 = 0o022;

/// Runs in the child; the value is its exit code if execve never happened.
pub(super) fn run(
    plan: &Plan,
    root: OwnedFd,
    sources: Sources,
    stdio: Stdio,
    channel: &Channel,
    started: Instant,
) -> i32 {
    match stage(plan, root, sources, stdio, channel, started) {
        Ok(program) if plan.init => init::run(&plan.process.args, || program.execute()),
        Ok(program) => {
            signal::reset_all();
            program.execute()
        }
        Err(error) => fail(channel, error),
    }
}

/// Tells the shim and gives the exit code of a process that nobody saw start.
pub(super) fn fail(channel: &Channel, error: StageError) -> i32 {
    let code = error.code;
    // The shim being gone is the one reason for this to fail, and then nobody is there to care.
    let _ = channel.send_report(&Report::Failed(error), None);
    code
}

fn stage(
    plan: &Plan,
    root: OwnedFd,
    sources: Sources,
    stdio: Stdio,
    channel: &Channel,
    started: Instant,
) -> Result<Program, StageError> {
    confine::protect()?;
    wait(channel, Order::Mapped)?;
    let awake = elapsed(started);
    namespaces::become_root()?;
    confine::protect()?;
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(DEFAULT_UMASK));
    confine::set_oom_score(plan.process.oom_score_adj)?;

    let rootfs = rootfs::build(plan, root, sources)?;
    let mounts = elapsed(started);
    let master = if plan.process.terminal {
        Some(open_console(&rootfs, plan)?)
    } else {
        None
    };
    rootfs::pivot(&rootfs.root)?;
    if master.is_none() {
        use_pipes(rootfs.root.as_fd(), stdio)?;
    }
    name_host(plan)?;
    if plan.namespaces.net == Namespace::New {
        loopback::bring_up().map_err(|error| StageError::io("bring lo up", &error))?;
    }
    let files = Files::read(rootfs.root.as_fd());
    let user = confine::look_up(&plan.process, &files)?;
    let ready = Report::Ready {
        awake,
        mounts,
        pivot: elapsed(started),
        notes: rootfs.notes.clone(),
    };
    channel
        .send_report(&ready, master.as_ref())
        .map_err(|error| StageError::io("sync ready", &error))?;
    drop(master);

    wait(channel, Order::Go)?;
    write_sysctls(plan, rootfs.sysctls.as_ref())?;
    keyring::new_session();
    set_umask(&plan.process);
    confine::confine(&plan.process, &user, || {
        channel.send_report(
            &Report::Confined {
                at: elapsed(started),
            },
            None,
        )
    })
}

pub(super) fn wait(channel: &Channel, order: Order) -> Result<(), StageError> {
    channel
        .wait_for(order)
        .map_err(|error| StageError::io("sync with parent", &error))
}

pub(super) fn set_umask(process: &Process) {
    let mask = process.umask.unwrap_or(DEFAULT_UMASK);
    rustix::process::umask(Mode::from_raw_mode(mask & 0o777));
}

/// Opens the terminal, makes it /dev/console and this session's own; gives the master.
fn open_console(rootfs: &rootfs::Rootfs, plan: &Plan) -> Result<OwnedFd, StageError> {
    let pty = console::open(rootfs.devpts.as_ref(), plan.process.console_size)?;
    if dev::wanted(plan) {
        crate::sys::mount::clone_tree_at(pty.slave.as_fd(), false)
            .and_then(|tree| dev::bind(rootfs.root.as_fd(), "/dev/console", &tree))
            .map_err(|error| StageError::io("mount /dev/console", &error))?;
    }
    use_terminal(&pty)?;
    Ok(pty.master)
}

/// Makes a terminal the standard streams and the controlling terminal of this session.
pub(super) fn use_terminal(pty: &console::Pty) -> Result<(), StageError> {
    let slave = pty.slave.as_fd();
    console::take_control(slave)?;
    console::set_stdio(slave, slave, slave)
}

/// Makes pipes the standard streams; a missing stdin is the container's /dev/null.
pub(super) fn use_pipes(root: BorrowedFd<'_>, stdio: Stdio) -> Result<(), StageError> {
    let Stdio::Pipes {
        stdin,
        stdout,
        stderr,
    } = stdio
    else {
        // `Stdio::suits` was asked before the clone: the shim's own streams never get here.
        return Err(StageError::new("a process without terminal needs pipes"));
    };
    let stdin = match stdin {
        Some(fd) => fd,
        None => null(root).map_err(|error| StageError::io("open /dev/null", &error))?,
    };
    console::set_stdio(stdin.as_fd(), stdout.as_fd(), stderr.as_fd())
}

/// The container's /dev/null. What a running container has put there may be a link to one of our own
/// descriptors (`/proc/self/fd/N`), so magic links are refused and the device is looked at.
fn null(root: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    let fd = resolve::open(root, "/dev/null", OFlags::RDWR | OFlags::NOCTTY)?;
    let stat = fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
        || (major(stat.st_rdev), minor(stat.st_rdev)) != (1, 3)
    {
        return Err(std::io::Error::from_raw_os_error(libc::ENODEV));
    }
    Ok(fd)
}

fn name_host(plan: &Plan) -> Result<(), StageError> {
    if plan.namespaces.uts != Namespace::New {
        return Ok(());
    }
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(|error| StageError::io("sethostname", &error.into()))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .map_err(|error| StageError::io("setdomainname", &error.into()))?;
    }
    Ok(())
}

/// Written only now, after the network is there. By a descriptor from before /proc/sys became
/// read-only.
fn write_sysctls(plan: &Plan, sysctls: Option<&OwnedFd>) -> Result<(), StageError> {
    for (name, value) in &plan.sysctls {
        let path = sysctl_path(name);
        let written = match sysctls {
            Some(dir) => resolve::open(dir.as_fd(), &path, OFlags::WRONLY)
                .map_err(|error| ("open", error))
                .and_then(|fd| {
                    rustix::io::write(&fd, value.as_bytes())
                        .map_err(|error| ("write", error.into()))
                }),
            None => Err(("open", std::io::Error::from_raw_os_error(libc::ENOENT))),
        };
        written.map_err(|(what, error)| {
            StageError::io(format_args!("{what} /proc/sys/{path}"), &error)
        })?;
    }
    Ok(())
}

/// sysctl(8)'s rule: the first separator decides; after a slash, dots belong to names
/// (`net/ipv4/conf/eth0.1/forwarding`).
fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('.') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::sysctl_path;

    #[test]
    fn sysctl_names() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(
            sysctl_path("net/ipv4/conf/eth0.1/mtu"),
            "net/ipv4/conf/eth0.1/mtu"
        );
        assert_eq!(
            sysctl_path("net.ipv4.conf.eth0/1.mtu"),
            "net/ipv4/conf/eth0.1/mtu"
        );
    }
}
