//! The small init of `--init`: pid 1 of a container that forwards signals and reaps.
//!
//! It is no program but the staged process itself: instead of execve it forks a child that becomes
//! the container's program, and stays. So nothing is mounted or copied into the image, and its
//! memory is the shim's pages shared copy-on-write. It runs as the program's user under the
//! program's seccomp filter and is never dumpable: `/proc/1/exe`, `/proc/1/mem` and `/proc/1/fd` are
//! closed to the container. It holds no descriptor but 0, 1 and 2, and its command line is overwritten.
//!
//! Behaviour is that of Docker's `docker-init` (tini): every signal but SIGCHLD goes to the child;
//! the child leads a process group of its own, in the foreground of the terminal if there is one;
//! when it ends, init ends with its code, 128 + n after signal n, and the kernel kills the rest.

use std::os::fd::AsFd;

use rustix::pipe::PipeFlags;
use rustix::process::{WaitOptions, WaitStatus};

use crate::sys::{clone, command_line, signal};

/// Forks `program`, which becomes the container's program and returns (an exit code) only when it
/// could not, and looks after it until it ends. Returns the code to exit with.
pub fn run(args: &[String], program: impl FnOnce() -> i32) -> i32 {
    signal::block_all();
    // No parent's namespace to clean: only a name, for `docker top`.
    let _ = rustix::thread::set_name(c"docker-init");
    command_line::set(&format!("/sbin/docker-init\0--\0{}", args.join("\0")));
    if std::process::id() != 1 {
        // With another's pid namespace orphans come here only when asked for.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    }
    // The program waits for the end of this pipe, which comes when init has closed all that is not
    // its own: the program never sees them in /proc/1/fd.
    let Ok((closed, open)) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC) else {
        return 125;
    };
    let mut open = Some(open);
    let child = match clone::fork(|| {
        open = None;
        let _ = rustix::io::retry_on_intr(|| rustix::io::read(&closed, &mut [0; 1]));
        // Ignored errors: without a terminal there is no foreground to take.
        let _ = rustix::process::setpgid(None, None);
        let _ = rustix::termios::tcsetpgrp(std::io::stdin().as_fd(), rustix::process::getpgrp());
        signal::reset_all();
        program()
    }) {
        Ok(pid) => pid,
        Err(_) => return 125,
    };
    // By its owner, who would find it closed otherwise.
    drop(closed);
    if let Some(open) = open {
        clone::close_from_ending_with(3, open);
    }
    loop {
        let Ok(signal) = signal::next_blocked() else {
            continue;
        };
        if signal != libc::SIGCHLD {
            signal::send_to_pid(child, signal);
            continue;
        }
        // One SIGCHLD may stand for many ended children.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid.as_raw_nonzero().get() == child {
                return exit_code(status);
            }
        }
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|n| 128 + n))
        .unwrap_or(125)
}
