//! What this host allows: `moss doctor`, and what the daemon chooses by.
//!
//! Each finding comes from the real operation (make the namespace, mount the overlay, open the
//! device), carried out in a throw-away child, never from a version number. Settings are read only
//! to name the remedy for what failed.
//!
//! Forking needs a process with one thread, and root in a namespace needs one that has not joined
//! the keeper's, so the probes run in a process of their own: [`run`] executes the program with
//! [`VERB`], `main` dispatches to [`serve`], and the findings come back as JSON. `main` also hands
//! in the trial of the root filesystem's drivers, which belongs to a folder beside this one.

mod checks;
mod child;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// The hidden verb of the process that probes.
pub const VERB: &str = "probe";

/// How a thing is on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As wanted.
    Works,
    /// In part, or by another way.
    Degraded,
    /// Not at all.
    Missing,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Works => "works",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        })
    }
}

/// One thing that moss would like the host to have. Displayed as one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub name: String,
    /// How it is.
    pub state: State,
    /// What was found.
    pub detail: String,
    /// What its lack costs; empty where nothing is lacking.
    pub cost: String,
    /// What to do about it; empty where nothing is to be done.
    pub remedy: String,
    /// No container can run without it.
    pub required: bool,
}

impl Finding {
    fn works(name: &str, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: State::Works,
            detail: detail.into(),
            cost: String::new(),
            remedy: String::new(),
            required: false,
        }
    }

    fn lacking(
        name: &str,
        state: State,
        detail: impl Into<String>,
        cost: &str,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            state,
            cost: cost.into(),
            remedy: remedy.into(),
            ..Self::works(name, detail)
        }
    }

    fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }

    /// Whether no container can run because of it.
    pub fn is_fatal(&self) -> bool {
        self.required && self.state == State::Missing
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8}  {}: {}", self.state, self.name, self.detail)?;
        if !self.cost.is_empty() {
            write!(f, "; costs {}", self.cost)?;
        }
        if !self.remedy.is_empty() {
            write!(f, "; remedy: {}", self.remedy)?;
        }
        Ok(())
    }
}

/// What a trial of the root filesystem's drivers says of a directory: the best driver's name if
/// one works, and why.
pub type RootfsTrial = fn(&Path) -> (Option<&'static str>, String);

/// Where the probes look.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Places {
    /// The data root, which need not exist yet.
    pub data_root: PathBuf,
    /// The exec root, beside which a systemd session has its sockets.
    pub exec_root: PathBuf,
}

/// Probes the host in a process of its own.
///
/// # Errors
/// Where that process cannot be run, or ends without a sensible answer.
pub fn run(places: &Places) -> io::Result<Vec<Finding>> {
    let output = Command::new("/proc/self/exe")
        .args([VERB, &serde_json::to_string(places)?])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The probing process: prints the findings as JSON and returns its exit status.
pub fn serve(places: &str, rootfs: RootfsTrial) -> i32 {
    let findings = serde_json::from_str(places).map(|places| checks::all(&places, rootfs));
    match findings.and_then(|findings| serde_json::to_string(&findings)) {
        Ok(text) => {
            println!("{text}");
            0
        }
        Err(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line() {
        let finding = Finding::works("pidfds", "the kernel has them");
        assert_eq!(finding.to_string(), "works     pidfds: the kernel has them");
        let finding = Finding::lacking("tun", State::Missing, "no device", "egress", "modprobe");
        let line = "missing   tun: no device; costs egress; remedy: modprobe";
        assert_eq!(finding.to_string(), line);
        assert!(!finding.is_fatal());
        assert!(finding.required().is_fatal());
    }
}
