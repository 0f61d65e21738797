//! The shim with real containers: forked by a keeper, on an overlay, in namespaces.
//!
//! This program plays every role itself, as `main.rs` does: it is the tests (and in them the
//! daemon), the keeper that they start, and, forked from that, the shims. It says so and passes
//! where the host has no busybox or allows no user namespaces.
//!
//! An argument that is no option selects cases by name; `--nocapture` shows figures.

#[path = "../common/busybox.rs"]
mod busybox;
mod cases;
mod figures;
#[path = "../common/runner.rs"]
mod runner;
#[path = "../common/unshare.rs"]
mod unshare;
mod world;

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use moss::container::shim;
use moss::sys::pidfd;
use moss::userns::keeper;
use runner::Run;
use world::World;

type Case = fn(&World);

const CASES: &[(&str, Case)] = &[
    ("a_container_runs_and_its_end_is_told", cases::runs),
    ("what_the_stage_refuses_is_told", cases::refusals),
    ("a_terminal_takes_input_and_sizes", cases::terminal),
    ("a_killed_shim_takes_its_container_along", cases::killed),
    (
        "a_deleted_runtime_directory_is_made_anew",
        cases::runtime_directory,
    ),
    ("signals_to_the_shim_change_nothing", cases::signals),
    ("execs_leave_nothing_behind", cases::execs),
    (
        "orphans_end_with_a_container_that_shares_pids",
        cases::shared_pids,
    ),
    ("shims_are_small", figures::small),
    ("output_is_fast", figures::fast),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let status = match &*arguments {
        [title, rest @ ..] if title == keeper::TITLE => keeper::serve(
            rest,
            keeper::Roles {
                shim: run_shim,
                slirp: |_| 0,
            },
        ),
        [_, verb, request] if verb == keeper::SETUP => keeper::setup(request),
        _ => return run(),
    };
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

fn run_shim([conn, leash]: [OwnedFd; 2]) -> i32 {
    shim::run(conn, leash)
}

fn run() -> ExitCode {
    let Some(mut run) = Run::new(CASES.iter().map(|(name, _)| *name)) else {
        return ExitCode::SUCCESS;
    };
    let lacking = busybox::missing().map(str::to_owned);
    if let Some(why) = lacking.or_else(|| unshare::refused(&[])) {
        runner::skip(why);
        return ExitCode::SUCCESS;
    }
    let world = World::new();
    for (name, case) in CASES {
        run.play(name, name, || case(&world));
    }
    // Shims that a failed case left go with their containers.
    for pid in world.shims.lock().expect("no panic while held").iter() {
        if let Ok(process) = pidfd::open(*pid) {
            let _ = pidfd::kill(process, rustix::process::Signal::KILL);
        }
    }
    let _ = world.keeper.stop(true);
    run.end()
}
