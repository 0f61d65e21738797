//! `docker inspect` and `docker top` of containers.

use std::collections::BTreeMap;

use crate::api::container::{
    Inspect, MountPoint as ApiMountPoint, NetworkSettings, State as ApiState, TopResponse,
};
use crate::api::image::DriverData;
use crate::container::protocol::Exit;
use crate::container::record::{MountKind, MountPoint, Record, State};
use crate::engine::Engine;
use crate::engine::containers::Paths;
use crate::engine::error::{Error, Result};
use crate::types::timestamp::Timestamp;

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
        let file = |name: &str| text(container.directory.join(name));
        let (path, args) = path_and_arguments(&record);
        let (size_rw, size_root_fs) = if size {
            let (own, all) = self.sizes(&container, &record);
            (Some(own), Some(all))
        } else {
            (None, None)
        };
        let lower: Vec<String> = self
            .images
            .layer_paths_of(&record.layers)
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
            log_path: self.log_path(&record).map(text).unwrap_or_default(),
            name: format!("/{}", record.name),
            restart_count: i64::from(record.restart_count),
            driver: record.driver.name().to_owned(),
            platform: record.os.clone(),
            exec_ids,
            host_config: record.host_config.clone(),
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
                networks: super::networks::endpoints(&record),
                ..NetworkSettings::default()
            },
            ..Inspect::default()
        })
    }

    /// The processes of a running container, as `ps` with these arguments shows them.
    pub fn container_top(&self, name: &str, arguments: &str) -> Result<TopResponse> {
        let container = self.containers.find(name)?;
        let started = container.data().record.state.started();
        let Some(started) = started else {
            return Err(Error::not_running(container.id.as_str()));
        };
        let pids = crate::container::processes::of(started.pid)
            .map_err(|error| Error::io("cannot list the container's processes", &error))?;
        let arguments = if arguments.is_empty() {
            "-ef"
        } else {
            arguments
        };
        let output = std::process::Command::new("ps")
            .args(arguments.split_whitespace())
            .output()
            .map_err(|error| Error::io("cannot run ps", &error))?;
        if !output.status.success() {
            return Err(Error::new(
                crate::engine::Kind::System,
                format!("ps: {}", String::from_utf8_lossy(&output.stderr).trim()),
            ));
        }
        self.container_event(&container.record(), "top", []);
        table_of(&String::from_utf8_lossy(&output.stdout), &pids)
    }

    pub(super) fn log_path(&self, record: &Record) -> Option<std::path::PathBuf> {
        let directory = self
            .settings
            .data_root
            .join("containers")
            .join(record.id.as_str());
        (record.host_config.log_config.kind != "none").then(|| Paths(&directory).log(&record.id))
    }
}

/// Keeps of `ps`'s output the rows of `pids`.
fn table_of(output: &str, pids: &[i32]) -> Result<TopResponse> {
    let mut lines = output.lines();
    let titles: Vec<String> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let Some(column) = titles.iter().position(|title| title == "PID") else {
        return Err(Error::invalid("Couldn't find PID field in ps output"));
    };
    let rows = lines.filter_map(|line| {
        let mut fields: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let pid: i32 = fields.get(column)?.parse().ok()?;
        if !pids.contains(&pid) {
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

fn state(record: &Record) -> ApiState {
    let time = |nanos: i128| Timestamp::from_nanos(nanos).to_string();
    let ended = |exit: &Exit| time(exit.at);
    let mut shown = ApiState {
        status: record.state.as_str().to_owned(),
        exit_code: i64::from(record.state.exit_code()),
        started_at: NEVER.to_owned(),
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
        State::Running { started } => {
            shown.running = true;
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
        assert!(table_of("A B\n", &[]).is_err());
    }
}
