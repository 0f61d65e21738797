//! Disks that are too small for what is asked of them: a tmpfs, in a user and mount namespace made by
//! unshare(1) where this process may mount none.

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Set inside, where a mount that is refused is a failure.
const INSIDE: &str = "MOSS_TEST_MAY_MOUNT";

/// Runs the test `name`, named by its path in the crate, on a tmpfs with these options.
pub(super) fn on_small_disk(name: &str, options: &CStr, test: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let mounted = mount("none", dir.path(), "tmpfs", MountFlags::empty(), options);
    match mounted {
        Ok(()) => {}
        Err(_) if std::env::var_os(INSIDE).is_none() => return inside(name),
        Err(error) => panic!("cannot mount a tmpfs: {error}"),
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| test(dir.path())));
    unmount(dir.path(), UnmountFlags::DETACH).unwrap();
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

fn inside(name: &str) {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]);
        command
    };
    if !unshare().arg("true").status().is_ok_and(|it| it.success()) {
        eprintln!("skipped: cannot mount a tmpfs, nor make namespaces by unshare(1)");
        return;
    }
    let program = std::env::current_exe().unwrap();
    // Tests' names leave the crate out.
    let name = name.split_once("::").map_or(name, |(_, rest)| rest);
    let arguments = ["--exact", name, "--nocapture"];
    let mut again = unshare();
    again.env(INSIDE, "1").arg(program).args(arguments);
    let done = again.output().unwrap();
    let told = String::from_utf8_lossy(&done.stdout);
    let ran = told.contains("test result: ok. 1 passed");
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && ran, "{told}{errors}");
}
