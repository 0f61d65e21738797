//! Chooses the role that this process plays.
//!
//! The keeper, the process that sets it up and those that copy files are known by their first words
//! and dispatched before anything else: no command line parser, no threads. A shim never gets here:
//! it is forked by the keeper. Everything else is what a person typed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use moss::cli;
use moss::container;
use moss::daemon;
use moss::engine::config::Options;
use moss::overlay;
use moss::slirp::egress;
use moss::userns::{keeper, probe, seccomp};

fn main() {
    let arguments: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let status = match &*arguments {
        [title, rest @ ..] if title == keeper::TITLE => {
            keeper::serve(rest, keeper::Roles { shim, slirp })
        }
        [title] if title == container::copy::TITLE => container::copy::serve(),
        [_, verb, request] if verb == keeper::SETUP => keeper::setup(request),
        [_, verb, places] if verb == probe::VERB => probe::serve(places, try_root_filesystem),
        _ => cli::main(&std::env::args_os().collect::<Vec<_>>(), serve),
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the process ends"
    )]
    std::process::exit(status);
}

/// What the keeper's forked children run.
fn shim([connection, leash]: [OwnedFd; 2]) -> i32 {
    container::shim::run(connection, leash)
}

/// What the keeper's networks are served by.
fn slirp([link]: [OwnedFd; 1]) -> i32 {
    moss::slirp::run(&link, confine)
}

/// Confines a thread of slirp's that reads what containers send.
fn confine() -> io::Result<()> {
    let filter = seccomp::only(egress::SYSTEM_CALLS).map_err(io::Error::other)?;
    egress::confine(&filter)
}

/// Which driver makes root filesystems in `directory`, for `moss doctor`.
fn try_root_filesystem(directory: &Path) -> (Option<&'static str>, String) {
    let found = overlay::probe(directory);
    (found.driver.map(overlay::Driver::name), found.reason)
}

/// `moss daemon`: from its flags to a daemon's life.
fn serve(flags: &cli::args::Daemon) -> anyhow::Result<()> {
    let options = Options {
        directives: flags.directives(),
        config_file: flags.roots.config_file.as_ref().map(PathBuf::from),
        validate: flags.validate,
        on_demand: flags.on_demand,
        supervised: flags.supervised,
        revived: flags.revived,
        ready_fd: flags.ready_fd,
    };
    Ok(daemon::run(&options)?)
}
