//! The shim with real containers: forked by a keeper, on an overlay, in namespaces.
//!
//! This program plays every role itself, as `main.rs` does: it is the tests (and in them the
//! daemon), the keeper that they start, and, forked from that, the shims. It says so and passes
//! where the host has no busybox or allows no user namespaces.
//!
//! An argument that is no option selects cases by name; `--nocapture` shows figures.

mod cases;
mod figures;
mod world;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use moss::container::shim;
use moss::sys::pidfd;
use moss::userns::keeper;
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

fn main() {
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
        [_, flag] if flag == "--list" => {
            for (name, _) in CASES {
                println!("{name}: test");
            }
            0
        }
        _ => run(&arguments[1..]),
    };
    #[expect(clippy::disallowed_methods, reason = "this is the program's main")]
    std::process::exit(status);
}

fn run_shim([conn, leash]: [OwnedFd; 2]) -> i32 {
    shim::run(conn, leash)
}

fn run(arguments: &[String]) -> i32 {
    if !Path::new("/bin/busybox").exists() {
        println!("skipped: no /bin/busybox (package busybox-static)");
        return 0;
    }
    let allowed = Command::new("unshare")
        .args(["-Um", "true"])
        .stderr(Stdio::null())
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        println!("skipped: no user namespaces here");
        return 0;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let world = World::new();
    let mut failed = 0;
    for (name, case) in CASES {
        if filter.is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&world)));
        println!(
            "test {name} ... {}",
            if outcome.is_ok() { "ok" } else { "FAILED" }
        );
        failed += i32::from(outcome.is_err());
    }
    // Shims that a failed case left go with their containers.
    for pid in world.shims.lock().expect("no panic while held").iter() {
        if let Ok(process) = pidfd::open(*pid) {
            let _ = pidfd::kill(process, rustix::process::Signal::KILL);
        }
    }
    let _ = world.keeper.stop(true);
    i32::from(failed != 0)
}
