//! Root filesystems: what holds for every driver, and a random walk beside a plain directory.
//!
//! The runner starts itself again inside a user and mount namespace made by unshare(1), with the
//! user's subordinate ids, as the keeper would be. There it stays single-threaded: the FUSE
//! driver forks. It says so and passes where the host allows no such thing.
//!
//! An argument that is no option selects cases by name; `MOSS_TEST_DRIVER` selects one driver.

mod files;
mod names;
mod owners;
#[path = "../common/runner.rs"]
mod runner;
mod stress;
#[path = "../common/unshare.rs"]
mod unshare;
mod walk;
mod world;

use std::path::Path;
use std::process::ExitCode;

use moss::overlay::Driver;
use runner::Run;

/// Tells the copy of this program that it is inside the namespaces.
const INSIDE: &str = "MOSS_TEST_OVERLAY_INSIDE";

type Case = fn(Driver);

fn cases() -> Vec<(&'static str, Case)> {
    vec![
        ("layers_are_merged", names::layers_are_merged),
        (
            "large_files_are_read_whole",
            files::large_files_are_read_whole,
        ),
        ("copy_up_keeps_all", files::copy_up_keeps_all),
        (
            "names_are_removed_and_made_again",
            names::names_are_removed_and_made_again,
        ),
        (
            "directories_of_layers_are_renamed",
            names::directories_of_layers_are_renamed,
        ),
        ("renames_with_flags", names::renames_with_flags),
        (
            "open_files_outlive_their_names",
            files::open_files_outlive_their_names,
        ),
        ("special_files_and_links", files::special_files_and_links),
        ("holes_and_ranges", files::holes_and_ranges),
        (
            "names_of_one_file_stay_so",
            files::names_of_one_file_stay_so,
        ),
        (
            "a_name_is_removed_during_the_copy",
            files::a_name_is_removed_during_the_copy,
        ),
        ("new_data_is_no_hole", files::new_data_is_no_hole),
        (
            "groups_and_bits_are_inherited",
            files::groups_and_bits_are_inherited,
        ),
        ("attributes_and_acls", files::attributes_and_acls),
        ("owners_are_mapped", owners::owners_are_mapped),
        ("locks", files::locks),
        (
            "large_directories_are_stable",
            names::large_directories_are_stable,
        ),
        ("hostile_layers", names::hostile_layers),
        (
            "a_dead_server_hangs_nobody",
            files::a_dead_server_hangs_nobody,
        ),
        ("random_walk", walk::random_walk),
        (
            "content_as_of_a_plain_file",
            stress::content_as_of_a_plain_file,
        ),
        ("several_at_once", stress::several_at_once),
    ]
}

/// As the keeper's namespaces are.
const FLAGS: &[&str] = &["--map-auto", "--map-root-user"];

fn main() -> ExitCode {
    let Some(run) = Run::new(cases().iter().map(|(name, _)| *name)) else {
        return ExitCode::SUCCESS;
    };
    if std::env::var_os(INSIDE).is_some() {
        return inside(run);
    }
    if let Some(why) = unshare::refused(FLAGS) {
        runner::skip(why);
        return ExitCode::SUCCESS;
    }
    let status = unshare::command(FLAGS, std::env::current_exe().expect("own path"))
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()
        .expect("unshare runs");
    ExitCode::from(u8::from(!status.success()))
}

fn inside(mut run: Run) -> ExitCode {
    let drivers = match std::env::var("MOSS_TEST_DRIVER") {
        Ok(name) => vec![name.parse().expect("a driver")],
        Err(_) => vec![Driver::Overlay2, Driver::Fuse, Driver::Copy],
    };
    for driver in drivers {
        if driver == Driver::Fuse && !Path::new("/dev/fuse").exists() {
            runner::skip("no /dev/fuse");
            continue;
        }
        for (name, case) in cases() {
            run.play(name, format_args!("{driver}::{name}"), || case(driver));
        }
    }
    run.end()
}
