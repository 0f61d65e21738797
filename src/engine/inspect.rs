//! `docker inspect` and `docker top` of containers.

use std::collections::BTreeMap;

use crate::api::container::{
    HostConfig, Inspect, MountPoint as ApiMountPoint, NetworkSettings, State as ApiState,
    TopResponse,
};
use crate::api::storage::DriverData;
use crate::container::logs::Format;
use crate::container::protocol::Exit;
use crate::container::record::{MountKind, MountPoint, Record, State};
use crate::container::spec;
use crate::engine::Engine;
use crate::engine::containers::Paths;
use crate::engine::error::{Error, Kind, Result};
use crate::types::digest::Digest;
use crate::types::timestamp::Timestamp;
use crate::userns::keeper::ShimIdentity;

impl Engine {
    /// Everything about a container.
    pub fn container_inspect(&self, name: &str, size: bool) -> Result<Inspect> {
        let container = self.containers.find(name)?;
        let (record, exec_ids) = {
            let data = container.data();
            let live = data.execs.iter().filter(|(_, exec)| exec.code.is_none());
            let running: Vec<String> = live.map(|(id, _)| id.clone()).collect();
            (
                data.record.clone(),
                (!running.is_empty()).then_some(running),
            )
        };
        let paths = Paths(&container.directory);
        let text = |path: std::path::PathBuf| path.display().to_string();
        // Written at the first start.
        let started = record.state != (State::Created { failure: None });
        let file = |name: &str| match started {
            true => text(container.directory.join(name)),
            false => String::new(),
        };
        // That of `local` is nobody's business.
        let log = self.log_file(&record).filter(|_| started);
        let log = log.filter(|(_, format)| *format == Format::Json);
        let (path, args) = path_and_arguments(&record);
        let (size_rw, size_root_fs) = if size {
            let (own, all) = self.sizes(&container, &record);
            (Some(own), Some(all))
        } else {
            (None, None)
        };
        let lower: Vec<String> = self
            .layers(&record)
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        Ok(Inspect {
            id: record.id.as_str().to_owned(),
            created: record.created.to_string(),
            path,
            args,
            state: state(&record),
            image: record.image.to_string(),
            resolv_conf_path: file("resolv.conf"),
            hostname_path: file("hostname"),
            hosts_path: file("hosts"),
            log_path: log.map(|(path, _)| text(path)).unwrap_or_default(),
            name: format!("/{}", record.name),
            restart_count: i64::from(record.restart_count),
            driver: record.driver.name().to_owned(),
            platform: record.os.clone(),
            exec_ids,
            host_config: HostConfig {
                links: self.shown_links(&record),
                ..record.host_config.clone()
            },
            graph_driver: Some(DriverData {
                name: record.driver.name().to_owned(),
                data: Some(BTreeMap::from([
                    ("ID".to_owned(), record.id.as_str().to_owned()),
                    ("LowerDir".to_owned(), lower.join(":")),
                    ("UpperDir".to_owned(), text(paths.upper())),
                    ("WorkDir".to_owned(), text(paths.work())),
                ])),
            }),
            size_rw,
            size_root_fs,
            mounts: record.mounts.iter().map(mount_point).collect(),
            config: record.config.clone(),
            network_settings: NetworkSettings {
                networks: super::networks::shown(&record),
                ports: super::networks::ports(&record),
                ..sandbox(&record)
            },
            ..Inspect::default()
        })
    }

    /// The processes of a running container, as `ps` with these arguments shows them.
    pub fn container_top(&self, name: &str, arguments: &str) -> Result<TopResponse> {
        if let Some((name, value)) = foreign_pid_column(arguments) {
            return Err(Error::new(
                Kind::System,
                format!("specifying \"{name}={value}\" is not allowed"),
            ));
        }
        let container = self.containers.find(name)?;
        let started = container.settled().record.state.started();
        let Some(started) = started else {
            return Err(Error::not_running(container.id.as_str()));
        };
        let shim = ShimIdentity::living(&container.directory).map(|(pid, _)| pid);
        let processes = crate::container::processes::of(started.pid, shim)
            .map_err(|error| Error::io("cannot list the container's processes", &error))?;
        let pids: Vec<i32> = processes.iter().map(|process| process.pid).collect();
        let arguments = if arguments.is_empty() {
            "-ef"
        } else {
            arguments
        };
        let ps = |more: &[String]| {
            std::process::Command::new("ps")
                .args(arguments.split_whitespace())
                .args(more)
                .output()
                .map_err(|error| Error::io("cannot run ps", &error))
        };
        // Without -q it may leave out the processes of other users; some options forbid it.
        let listed: Vec<String> = pids.iter().map(i32::to_string).collect();
        let mut output = ps(&[format!("-q{}", listed.join(","))])?;
        if !output.status.success() {
            output = ps(&[])?;
        }
        if !output.status.success() {
            // The first line says why.
            let text = String::from_utf8_lossy(&output.stderr);
            let why = match text.lines().next().filter(|line| !line.is_empty()) {
                Some(line) => line.to_owned(),
                None => output.status.to_string(),
            };
            return Err(Error::new(Kind::System, format!("ps: {why}")));
        }
        let table = table_of(&String::from_utf8_lossy(&output.stdout), &pids)?;
        self.container_event(&container.record(), "top", []);
        Ok(table)
    }

    /// Where a container's log can be read; `None` where it is kept nowhere.
    pub(super) fn log_file(&self, record: &Record) -> Option<(std::path::PathBuf, Format)> {
        let directory = self
            .settings
            .data_root
            .join("containers")
            .join(record.id.as_str());
        let paths = Paths(&directory);
        let log = &record.host_config.log_config;
        match log.kind.as_str() {
            "none" => None,
            _ if spec::log::is_remote(log) => {
                let cache = || (paths.log_cache(), Format::Local);
                spec::log::is_cached(log).then(cache)
            }
            "local" => Some((paths.local_log(), Format::Local)),
            _ => Some((paths.log(&record.id), Format::Json)),
        }
    }
}

/// A column of `ps` that is titled PID and is not the pid: rows could not be told apart by it.
fn foreign_pid_column(arguments: &str) -> Option<(&str, &str)> {
    // Not the first word: dockerd looks for columns behind a blank.
    arguments.split_ascii_whitespace().skip(1).find_map(|word| {
        let (name, value) = word.split_once('=')?;
        (value.starts_with("PID") && name != "pid").then_some((name, value))
    })
}

/// Keeps of `ps`'s output the rows of `pids`, and those of their threads (`-` for a pid).
fn table_of(output: &str, pids: &[i32]) -> Result<TopResponse> {
    let mut lines = output.lines();
    let titles: Vec<String> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let Some(column) = titles.iter().position(|title| title == "PID") else {
        return Err(Error::new(
            Kind::System,
            "Couldn't find PID field in ps output",
        ));
    };
    let mut wanted = false;
    let rows = lines.filter_map(|line| {
        let mut fields: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match fields.get(column)?.as_str() {
            "-" => {}
            pid => wanted = pid.parse().is_ok_and(|pid: i32| pids.contains(&pid)),
        }
        if !wanted {
            return None;
        }
        // The last column is the command with its blanks.
        if fields.len() > titles.len() {
            let rest = fields.split_off(titles.len() - 1).join(" ");
            fields.push(rest);
        }
        Some(fields)
    });
    Ok(TopResponse {
        processes: rows.collect(),
        titles,
    })
}

/// The program and its arguments, as inspect and ps show them.
pub(super) fn path_and_arguments(record: &Record) -> (String, Vec<String>) {
    let mut words = record
        .config
        .entrypoint
        .iter()
        .flatten()
        .chain(record.config.cmd.iter().flatten())
        .cloned();
    let path = words.next().unwrap_or_default();
    (path, words.collect())
}

/// A mount as the API shows it.
pub(super) fn mount_point(point: &MountPoint) -> ApiMountPoint {
    ApiMountPoint {
        kind: point.kind.as_str().to_owned(),
        name: point.name.clone().unwrap_or_default(),
        source: point.source.display().to_string(),
        destination: point.destination.clone(),
        driver: if point.kind == MountKind::Volume {
            "local".to_owned()
        } else {
            String::new()
        },
        mode: point.mode.clone(),
        rw: point.writable,
        propagation: match point.kind {
            MountKind::Bind if point.propagation.is_empty() => "rprivate".to_owned(),
            _ => point.propagation.clone(),
        },
    }
}

/// Go's zero time, which stands for "never" in Docker's answers.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The network namespace of a container that has one of its own and runs.
fn sandbox(record: &Record) -> NetworkSettings {
    match record.state.started() {
        Some(started) if !record.endpoints.is_empty() => NetworkSettings {
            sandbox_id: Digest::of(format!("{} {}", record.id, started.at).as_bytes()).hex(),
            sandbox_key: format!("/proc/{}/ns/net", started.pid),
            ..NetworkSettings::default()
        },
        _ => NetworkSettings::default(),
    }
}

fn state(record: &Record) -> ApiState {
    let time = |nanos: i128| Timestamp::from_nanos(nanos).to_string();
    let ended = |exit: &Exit| time(exit.at);
    let mut shown = ApiState {
        status: record.state.as_str().to_owned(),
        exit_code: i64::from(record.state.exit_code()),
        started_at: NEVER.to_owned(),
        health: record.health.clone(),
        finished_at: record
            .finished
            .as_ref()
            .map_or_else(|| NEVER.to_owned(), ended),
        ..ApiState::default()
    };
    match &record.state {
        State::Created { failure } => {
            shown.error = failure
                .as_ref()
                .map(|failure| failure.message.clone())
                .unwrap_or_default();
        }
        State::Restarting { started_at, exit } => {
            // As in Docker it is taken for one that runs.
            shown.running = true;
            shown.restarting = true;
            shown.started_at = time(*started_at);
            shown.finished_at = ended(exit);
        }
        State::Running { started, paused } => {
            shown.running = true;
            shown.paused = *paused;
            shown.pid = i64::from(started.pid);
            shown.started_at = time(started.at);
        }
        State::Exited {
            started_at,
            exit,
            error,
        } => {
            shown.started_at = time(*started_at);
            shown.finished_at = ended(exit);
            shown.oom_killed = exit.oom_killed;
            shown.error.clone_from(error);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_keeps_the_commands_blanks_and_only_the_containers_rows() {
        let output = "UID  PID  CMD\nroot 1 init\nme  42 sh -c a  b\n";
        let table = table_of(output, &[42]).unwrap();
        assert_eq!(table.titles, ["UID", "PID", "CMD"]);
        assert_eq!(table.processes, [["me", "42", "sh -c a b"]]);
        assert_eq!(
            table_of("A B\n", &[]).unwrap_err().to_string(),
            "Couldn't find PID field in ps output"
        );
    }

    #[test]
    fn top_keeps_the_threads_of_the_containers_processes() {
        let output = "PID LWP CMD\n1 - init\n- 1 -\n42 - sh\n- 42 -\n- 43 -\n50 - x\n- 50 -\n";
        let table = table_of(output, &[42]).unwrap();
        let lines: Vec<String> = table.processes.iter().map(|row| row.join(" ")).collect();
        assert_eq!(lines, ["42 - sh", "- 42 -", "- 43 -"]);
    }

    #[test]
    fn top_refuses_another_column_called_pid() {
        assert_eq!(
            foreign_pid_column("-o ppid=PID,comm"),
            Some(("ppid", "PID,comm"))
        );
        assert_eq!(foreign_pid_column("-o pid=PID"), None);
        assert_eq!(foreign_pid_column("-ef"), None);
    }
}
