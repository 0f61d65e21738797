//! The keeper from outside: started, joined, killed, replaced, upgraded.
//!
//! This program plays every role itself, as `main.rs` does: it is the tests, the keeper that they
//! start, and (forked from it) a shim that does what its first packet says. So it needs no test
//! harness, and each test that changes its own namespaces runs in a process of its own.
//!
//! `keeper [FILTER]` runs the tests; as root too, with root's id map.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails; its own main hides that"
)]

mod lives;
mod places;
mod roles;
#[path = "../common/runner.rs"]
mod runner;
#[path = "../common/unshare.rs"]
mod unshare;

use std::path::Path;
use std::process::{Command, ExitCode};

use moss::userns::keeper::{self, Keeper};
use roles::{end_keeper, shim, start};
use runner::Run;

type Test = fn(&Path);

/// Run in this order, each in a process of its own (`TEST name directory`).
const TESTS: &[(&str, Test)] = &[
    ("spawns_a_shim_inside", lives::spawns_a_shim_inside),
    ("joins_its_namespaces", lives::joins_its_namespaces),
    (
        "refuses_to_join_with_threads",
        lives::refuses_to_join_with_threads,
    ),
    (
        "two_starters_find_one_keeper",
        lives::two_starters_find_one_keeper,
    ),
    (
        "killed_it_is_made_anew_from_the_daemons_namespaces",
        lives::killed_and_made_anew_from_inside,
    ),
    (
        "killed_it_is_made_anew_from_a_shims_namespaces",
        lives::killed_and_made_anew_from_a_shim,
    ),
    (
        "kills_what_a_dead_shim_leaves",
        lives::kills_what_a_dead_shim_leaves,
    ),
    ("upgrades_in_place", lives::upgrades_in_place),
    ("holds_the_networks", lives::holds_the_networks),
    (
        "leaves_after_its_grace_period",
        lives::leaves_after_its_grace_period,
    ),
    ("makes_its_socket_anew", places::makes_its_socket_anew),
    (
        "deleted_and_killed_it_is_made_anew_from_a_shims_namespaces",
        places::deleted_and_killed,
    ),
    ("replaces_a_stale_socket", places::replaces_a_stale_socket),
    ("works_with_one_id", places::works_with_one_id),
    (
        "works_in_a_nested_namespace",
        places::works_in_a_nested_namespace,
    ),
    ("works_below_a_long_path", places::works_below_a_long_path),
    (
        "keeps_none_of_its_starters_descriptors",
        places::keeps_none_of_its_starters_descriptors,
    ),
    (
        "is_not_stalled_by_who_never_listens",
        lives::is_not_stalled_by_who_never_listens,
    ),
    ("runs_from_a_sealed_copy", places::runs_from_a_sealed_copy),
    ("what_it_leaves_is_found", places::what_it_leaves_is_found),
    ("is_small", lives::is_small),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let status = match &*arguments {
        [title, rest @ ..] if title == keeper::TITLE => {
            keeper::serve(rest, keeper::Roles { shim, slirp: |_| 0 })
        }
        [_, verb, request] if verb == keeper::SETUP => keeper::setup(request),
        [_, verb, name, directory] if verb == "TEST" => {
            let (_, test) = TESTS
                .iter()
                .find(|(known, _)| known == name)
                .expect("a known test");
            test(Path::new(directory));
            0
        }
        [_, verb, directory] if verb == "CONNECT" => {
            let keeper = Keeper::connect_or_start(&start(Path::new(directory))).expect("connect");
            println!("{}", keeper.pid());
            0
        }
        _ => return run(),
    };
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

fn run() -> ExitCode {
    let Some(mut run) = Run::new(TESTS.iter().map(|(name, _)| *name)) else {
        return ExitCode::SUCCESS;
    };
    if let Some(why) = unshare::refused(&[]) {
        runner::skip(why);
        return ExitCode::SUCCESS;
    }
    for (name, _) in TESTS {
        run.play(name, name, || in_a_process(name));
    }
    run.end()
}

/// Runs a test in a process of its own, and ends what it leaves.
fn in_a_process(name: &str) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let own = std::env::current_exe().expect("own path");
    let status = Command::new(own)
        .args(["TEST", name])
        .arg(directory.path())
        .status();
    end_keeper(directory.path());
    let status = status.expect("it runs");
    assert!(status.success(), "{status}");
}
