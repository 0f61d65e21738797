//! `moss system install`: systemd's units of this user's engine.
//!
//! A socket, so that whoever connects starts the daemon, and the service behind it, which also starts
//! with the user's manager: with lingering that is the host's boot, and containers with a restart policy
//! come back. The service ends the daemon's process alone: keeper and containers go on. Without
//! systemd nothing is written, and what does the same is told.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::engine::paths;
use super::output::line;
use crate::cli::args::Roots;
use crate::sys::atomic::{self, Durability};
use crate::sys::lock;
use crate::sys::paths::Paths;

const SOCKET: &str = "moss.socket";
const SERVICE: &str = "moss.service";

/// Writes the units and has systemd use them.
pub fn install() -> Result<()> {
    let paths = paths(&Roots::default())?;
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    let program = program.to_str().context("this program's path is no text")?;
    if !has_manager() {
        return line(&without_systemd(program));
    }
    let directory = directory(&paths)?;
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    for (name, content) in [(SOCKET, socket()), (SERVICE, service(program))] {
        let path = directory.join(name);
        atomic::write(&path, content.as_bytes(), Durability::Synced)
            .with_context(|| format!("cannot write {}", path.display()))?;
        line(&format!("wrote {}", path.display()))?;
    }
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", SOCKET, SERVICE])?;
    if lock::holder(&paths.data_root).is_some() {
        line(
            "A daemon runs already. To have systemd's instead: moss system stop && \
             systemctl --user start moss.socket",
        )?;
    } else {
        systemctl(&["start", SOCKET])?;
        line("systemd listens on the engine's socket")?;
    }
    line("To start it with the host, before anybody logs in: loginctl enable-linger")
}

/// Whether this user has a manager of systemd's.
fn has_manager() -> bool {
    let mut asked = Command::new("systemctl");
    asked.args(["--user", "show-environment"]);
    let told = asked.stdin(Stdio::null()).stdout(Stdio::null());
    told.stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Where units of the user's own lie: beside moss's own configuration.
fn directory(paths: &Paths) -> Result<PathBuf> {
    let config = paths.config.parent();
    let config = config.context("the configuration has no directory")?;
    Ok(config.join("systemd/user"))
}

fn systemctl(words: &[&str]) -> Result<()> {
    let words = words.iter().map(OsStr::new);
    let status = Command::new("systemctl")
        .arg("--user")
        .args(words.clone())
        .status()
        .context("cannot run systemctl")?;
    if !status.success() {
        let words: Vec<_> = words
            .map(|word| Path::new(word).display().to_string())
            .collect();
        bail!("systemctl --user {} failed", words.join(" "));
    }
    Ok(())
}

fn socket() -> String {
    "\
[Unit]
Description=API of moss, containers without root

[Socket]
ListenStream=%t/moss.sock
SocketMode=0600
DirectoryMode=0700

[Install]
WantedBy=sockets.target
"
    .to_owned()
}

fn service(program: &str) -> String {
    format!(
        "\
[Unit]
Description=moss, containers without root
Requires={SOCKET}
After={SOCKET}

[Service]
Type=notify
ExecStart={} daemon -H fd://
ExecReload=/bin/kill -HUP $MAINPID
# Containers, and the processes that hold their namespaces, outlive the daemon.
KillMode=process
Restart=on-failure
# Limits of containers are cgroups below this one.
Delegate=yes
TasksMax=infinity
LimitNOFILE=infinity

[Install]
WantedBy=default.target
",
        quoted(program)
    )
}

/// A path as one word of `ExecStart` (systemd.service(5), systemd.syntax(7)).
fn quoted(path: &str) -> String {
    let mut quoted = String::from("\"");
    for character in path.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '%' | '$' => quoted.extend([character, character]),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

fn without_systemd(program: &str) -> String {
    format!(
        "This user has no systemd, so nothing was written. The daemon starts with the first verb of moss \
         all the same. To start it with the host, and containers that are to be restarted, add this \
         line by `crontab -e`:\n\n    @reboot '{}' daemon\n\n\
         or have whatever starts programs for you run `moss daemon`, which stays in the foreground.",
        program.replace('\'', r"'\''")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word() {
        assert_eq!(quoted("/usr/bin/moss"), "\"/usr/bin/moss\"");
        assert_eq!(quoted(r#"/a b/%h$x"\"#), r#""/a b/%%h$$x\"\\""#);
        let service = service("/opt/my tools/moss");
        assert!(service.contains("\nExecStart=\"/opt/my tools/moss\" daemon -H fd://\n"));
    }
}
