//! The program to execute and the environment that it gets.
//!
//! Looked up on the `$PATH` of the container's environment, by the user that will run it, inside
//! the container's root. The rules and the texts are those of Go's `exec.LookPath`, which runc uses.

use std::collections::HashSet;
use std::ffi::CString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};

use super::StageError;
use crate::types::errno;
use crate::types::platform::Platform;

/// The environment with duplicates removed (the last wins) and `HOME` set.
pub(super) fn environment(env: &[String], home: &str) -> Result<Vec<String>, StageError> {
    let mut seen = HashSet::new();
    let mut out = Vec::with_capacity(env.len() + 1);
    let mut has_home = false;
    for entry in env.iter().rev() {
        let (name, value) = entry
            .split_once('=')
            .ok_or_else(|| StageError::new("invalid environment variable: missing '='"))?;
        if name.is_empty() {
            return Err(StageError::new(
                "invalid environment variable: name cannot be empty",
            ));
        }
        if !seen.insert(name) {
            continue;
        }
        if entry.contains('\0') {
            return Err(StageError::new(format!(
                "invalid environment variable \"{name}\": contains nul byte (\\x00)"
            )));
        }
        if name == "HOME" {
            if value.is_empty() {
                continue;
            }
            has_home = true;
        }
        out.push(entry.clone());
    }
    out.reverse();
    if !has_home {
        out.push(format!("HOME={home}"));
    }
    Ok(out)
}

/// Finds the program's path.
pub(super) fn find(name: &str, env: &[String]) -> Result<String, StageError> {
    let failed = |why: &str| StageError::new(format!("exec: \"{name}\": {why}"));
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err((step, error)) => Err(failed(&format!("{step}{}", errno::text(&error)))),
        };
    }
    let path = env
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or_default();
    for dir in path.split(':').filter(|_| !path.is_empty()) {
        // An empty element is the working directory; Go refuses what it finds by a relative path.
        let candidate = match dir {
            "" => name.to_owned(),
            _ => format!("{}/{name}", dir.trim_end_matches('/')),
        };
        if !name.is_empty() && executable(&candidate).is_ok() {
            if candidate.starts_with('/') {
                return Ok(candidate);
            }
            return Err(failed(
                "cannot run executable found relative to current directory",
            ));
        }
    }
    Err(failed("executable file not found in $PATH"))
}

/// What Go's `findExecutable` checks, with the words that its error begins with.
fn executable(path: &str) -> Result<(), (String, io::Error)> {
    let stat = stat(path).map_err(|error| (format!("stat {path}: "), error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err((String::new(), io::Error::from_raw_os_error(libc::EISDIR)));
    }
    match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        // As Go: where faccessat2 does not exist or is forbidden, the bits decide.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) if stat.st_mode & 0o111 != 0 => {
            Ok(())
        }
        Err(error) => Err((String::new(), error.into())),
    }
}

/// A path, arguments and environment as execve(2) takes them.
#[derive(Debug)]
pub(super) struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    pub(super) fn new(path: &str, args: &[String], env: &[String]) -> Result<Program, StageError> {
        let c = |text: &String| {
            CString::new(text.as_str()).map_err(|_| {
                StageError::new(format!("exec: \"{path}\": argument contains nul byte"))
            })
        };
        Ok(Program {
            path: c(&path.to_owned())?,
            args: args.iter().map(c).collect::<Result<_, _>>()?,
            env: env.iter().map(c).collect::<Result<_, _>>()?,
        })
    }

    /// Becomes the program. Returns only if the kernel refuses; then Docker's container has
    /// started already, so the text goes to the container's stderr and the exit code is runc's 255, or
    /// a shell's 126 where the format is wrong.
    pub(super) fn execute(&self) -> i32 {
        let error = match nix::unistd::execve(&self.path, &self.args, &self.env) {
            Ok(never) => match never {},
            Err(error) => io::Error::from(error),
        };
        let mut text = format!(
            "exec {}: {}",
            self.path.to_string_lossy(),
            errno::text(&error)
        );
        let wrong_format = error.raw_os_error() == Some(libc::ENOEXEC);
        if wrong_format && let Some(platform) = self.platform() {
            let host = Platform::host();
            text.push_str(&format!(
                ": the program is for {platform}, this host is {host}"
            ));
        }
        text.push('\n');
        let _ = rustix::io::write(std::io::stderr(), text.as_bytes());
        if wrong_format { 126 } else { 255 }
    }

    /// What the program is for, where it says so and it is not this machine. The user may have no
    /// right to read what it may execute, and the filter may forbid it: then nobody knows.
    fn platform(&self) -> Option<Platform> {
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(self.path.as_bytes()));
        let mut header = [0; Platform::ELF_HEADER];
        std::fs::File::open(path)
            .and_then(|mut file| file.read_exact(&mut header))
            .ok()?;
        let foreign = |it: &Platform| it.architecture != Platform::host().architecture;
        Platform::of_elf(&header).filter(foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|&e| e.to_owned()).collect()
    }

    #[test]
    fn the_last_of_duplicates_wins_and_home_is_added() {
        let got = environment(&env(&["A=1", "B=2", "A=3", "HOME="]), "/root").expect("valid");
        assert_eq!(got, env(&["B=2", "A=3", "HOME=/root"]));
        let got = environment(&env(&["HOME=/x"]), "/root").expect("valid");
        assert_eq!(got, env(&["HOME=/x"]));
        assert!(environment(&env(&["novalue"]), "/").is_err());
    }

    #[test]
    fn programs_are_found_and_refused_in_gos_words() {
        let path = env(&["PATH=/nonexistent:/usr/bin:/bin"]);
        assert!(find("sh", &path).is_ok());
        for (name, code, text) in [
            (
                "nosuch",
                127,
                "exec: \"nosuch\": executable file not found in $PATH",
            ),
            (
                "/nosuch",
                127,
                "exec: \"/nosuch\": stat /nosuch: no such file or directory",
            ),
            ("/etc", 126, "exec: \"/etc\": is a directory"),
            (
                "/etc/passwd",
                126,
                "exec: \"/etc/passwd\": permission denied",
            ),
            ("", 127, "exec: \"\": executable file not found in $PATH"),
        ] {
            let error = find(name, &path).expect_err("refused");
            assert_eq!((error.message.as_str(), error.code), (text, code));
        }
        let error = find("sh", &env(&["A=b"])).expect_err("no PATH");
        assert_eq!(
            error.message,
            "exec: \"sh\": executable file not found in $PATH"
        );
    }
}
