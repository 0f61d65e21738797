//! The stage with real processes: from a plan to what the container sees.
//!
//! The runner starts itself again inside a user and mount namespace made by unshare(1), once with
//! the user's subordinate ids and once with a single id, as the keeper would be. There it stays
//! single-threaded and starts containers from a busybox root. It says so and passes where the host has no
//! busybox, no unshare, or allows no user namespaces.
//!
//! An argument that is no option selects cases by name; `--nocapture` shows the phases.

mod confinement;
mod mounts;
mod processes;
mod world;

use std::path::Path;
use std::process::{Command, ExitCode};

use world::World;

/// Tells the copy of this program inside the namespaces which id map it got.
const INSIDE: &str = "MOSS_TEST_STAGE_INSIDE";

fn main() -> ExitCode {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    if std::env::args().any(|arg| arg == "--list") {
        for (name, _) in cases() {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    match std::env::var(INSIDE) {
        Ok(ids) => inside(&ids, filter.as_deref()),
        Err(_) => outside(filter.as_deref()),
    }
}

fn outside(filter: Option<&str>) -> ExitCode {
    if !Path::new("/bin/busybox").exists() {
        println!("skipped: no /bin/busybox (package busybox-static)");
        return ExitCode::SUCCESS;
    }
    let myself = std::env::current_exe().expect("own path");
    let mut code = ExitCode::SUCCESS;
    for (ids, flags) in [
        ("range", &["--map-auto", "--map-root-user"][..]),
        ("one", &["--map-root-user"][..]),
    ] {
        let unshare = |program: &Path| {
            let mut command = Command::new("unshare");
            command.args(["--user", "--mount"]).args(flags).arg(program);
            command
        };
        match unshare(Path::new("true")).output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr);
                println!("skipped ({ids}): {}", why.trim());
                continue;
            }
            Err(error) => {
                println!("skipped ({ids}): no unshare: {error}");
                continue;
            }
        }
        let status = unshare(&myself)
            .args(filter)
            .env(INSIDE, ids)
            .status()
            .expect("unshare runs");
        if !status.success() {
            code = ExitCode::FAILURE;
        }
    }
    code
}

fn inside(ids: &str, filter: Option<&str>) -> ExitCode {
    let mut failed = 0;
    let world = World::new(ids == "one");
    for (name, case) in cases() {
        if filter.is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&world)));
        let result = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ({ids}) ... {result}");
        failed += i32::from(outcome.is_err());
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

type Case = fn(&World);

fn cases() -> Vec<(&'static str, Case)> {
    vec![
        ("ordinary", confinement::ordinary),
        ("users", confinement::users),
        ("unmapped_user", confinement::unmapped_user),
        ("mounts", mounts::mounts),
        ("masks", mounts::masks),
        ("devices", mounts::devices),
        ("capabilities", confinement::capabilities),
        ("seccomp_filter", confinement::seccomp_filter),
        ("descriptors", confinement::descriptors),
        ("not_inspectable", confinement::not_inspectable),
        ("limits", confinement::limits),
        ("working_directory", confinement::working_directory),
        ("read_only_root", mounts::read_only_root),
        ("binds", mounts::binds),
        ("copy_up", mounts::copy_up),
        ("sysctls", mounts::sysctls),
        ("terminal", processes::terminal),
        ("mini_init", processes::mini_init),
        ("exec_sessions", processes::exec_sessions),
        ("stopped_exec", processes::stopped_exec),
        ("joined_namespaces", processes::joined_namespaces),
        ("host_namespaces", processes::host_namespaces),
        ("program_errors", processes::program_errors),
        ("hostile_links", mounts::hostile_links),
        ("disagreeing_streams", processes::disagreeing_streams),
        ("hostile_null", mounts::hostile_null),
        ("dropped", processes::dropped),
        ("overlay_drivers", mounts::overlay_drivers),
        ("phases", processes::phases),
    ]
}
