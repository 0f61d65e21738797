//! The stage with real processes: from a plan to what the container sees.
//!
//! The runner starts itself again inside a user and mount namespace made by unshare(1), once with
//! the user's subordinate ids and once with a single id, as the keeper would be. There it stays
//! single-threaded and starts containers from a busybox root. It says so and passes where the host
//! has no busybox, no unshare, or allows no user namespaces.
#[path = "../common/busybox.rs"]
mod busybox;
mod confinement;
mod mounts;
mod processes;
#[path = "../common/runner.rs"]
mod runner;
#[path = "../common/unshare.rs"]
mod unshare;
mod world;

use std::process::ExitCode;

use runner::Run;
use world::World;

/// Tells the copy of this program inside the namespaces which id map it got.
const INSIDE: &str = "MOSS_TEST_STAGE_INSIDE";

/// The id maps by their names, and how unshare(1) is told of them.
const MAPS: [(&str, &[&str]); 2] = [
    ("range", &["--map-auto", "--map-root-user"]),
    ("one", &["--map-root-user"]),
];

fn main() -> ExitCode {
    let Some(run) = Run::new(cases().iter().map(|(name, _)| *name)) else {
        return ExitCode::SUCCESS;
    };
    match std::env::var(INSIDE) {
        Ok(ids) => inside(&ids, run),
        Err(_) => outside(),
    }
}

fn outside() -> ExitCode {
    if let Some(why) = busybox::missing() {
        runner::skip(why);
        return ExitCode::SUCCESS;
    }
    let mut failed = false;
    for (ids, flags) in MAPS {
        if let Some(why) = unshare::refused(flags) {
            runner::skip(format_args!("with {ids} of ids: {why}"));
            continue;
        }
        let status = unshare::command(flags, std::env::current_exe().expect("own path"))
            .args(std::env::args_os().skip(1))
            .env(INSIDE, ids)
            .status()
            .expect("unshare runs");
        failed |= !status.success();
    }
    ExitCode::from(u8::from(failed))
}

fn inside(ids: &str, mut run: Run) -> ExitCode {
    let world = World::new(ids == "one");
    for (name, case) in cases() {
        run.play(name, format_args!("{name} ({ids})"), || case(&world));
    }
    run.end()
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
