//! User namespaces by unshare(1), which has no part of moss in it.

use std::ffi::OsStr;
use std::process::Command;

/// Runs a program in a user and a mount namespace of its own, with these flags.
pub fn command(flags: &[&str], program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--mount"]).args(flags).arg(program);
    command
}

/// Why this host does not let that be done.
pub fn refused(flags: &[&str]) -> Option<String> {
    match command(flags, "true").output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("no unshare: {error}")),
    }
}
