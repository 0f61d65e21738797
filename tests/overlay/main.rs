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
mod stress;
mod walk;
mod world;

use std::path::Path;
use std::process::{Command, ExitCode};

use moss::overlay::Driver;

/// Tells the copy of this program that it is inside the namespaces.
const INSIDE: &str = "MOSS_TEST_OVERLAY_INSIDE";

type Case = fn(Driver);

fn cases() -> Vec<(&'static str, Case)> {
    vec![
        ("layers_are_merged", names::layers_are_merged),
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

fn main() -> ExitCode {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    if std::env::args().any(|arg| arg == "--list") {
        for (name, _) in cases() {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(INSIDE).is_some() {
        return inside(filter.as_deref());
    }
    let unshare = |program: &Path| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-auto", "--map-root-user", "--mount"]);
        command.arg(program);
        command
    };
    match unshare(Path::new("true")).output() {
        Ok(output) if output.status.success() => {}
        _ => {
            println!("skipped: no user namespaces with subordinate ids here");
            return ExitCode::SUCCESS;
        }
    }
    let status = unshare(&std::env::current_exe().expect("own path"))
        .args(filter)
        .env(INSIDE, "1")
        .status()
        .expect("unshare runs");
    ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
}

fn inside(filter: Option<&str>) -> ExitCode {
    let drivers = match std::env::var("MOSS_TEST_DRIVER") {
        Ok(name) => vec![name.parse().expect("a driver")],
        Err(_) => vec![Driver::Overlay2, Driver::Fuse, Driver::Copy],
    };
    let mut failed = false;
    for driver in drivers {
        for (name, case) in cases() {
            if filter.is_some_and(|filter| !name.contains(filter)) {
                continue;
            }
            if driver == Driver::Fuse && !Path::new("/dev/fuse").exists() {
                println!("skipped: no /dev/fuse");
                continue;
            }
            let passed = std::panic::catch_unwind(|| case(driver)).is_ok();
            let word = if passed { "ok" } else { "FAILED" };
            println!("test {driver}::{name} ... {word}");
            failed |= !passed;
        }
    }
    ExitCode::from(u8::from(failed))
}
