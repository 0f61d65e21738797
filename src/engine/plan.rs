//! From a record to a plan: the pure steps of `container::spec` and `userns`, given this host's
//! facts.

use std::borrow::Cow;
use std::path::Path;

use crate::api::container::{ContainerConfig, HostConfig};
use crate::api::exec::ExecConfig;
use crate::container::record::{MountKind, Record};
use crate::container::spec::{self, EngineFile, HostMount, SpecInput};
use crate::engine::containers::FILES;
use crate::engine::error::{Error, Kind, Result};
use crate::engine::joined::Identities;
use crate::engine::{Engine, devices};
use crate::userns::caps;
use crate::userns::from_spec::Context;
use crate::userns::plan::{CapabilitySets, Plan, Process};
use crate::userns::spec_to_plan;

/// Devices are asked for by what they can do (`--gpus`): there is no driver that has any, which
/// dockerd says at the start in these words.
fn refuse_devices(host: &HostConfig) -> Result<()> {
    let Some(request) = host.device_requests.iter().flatten().next() else {
        return Ok(());
    };
    let sets = request.capabilities.iter().flatten();
    let sets: Vec<_> = sets.map(|set| format!("[{}]", set.join(" "))).collect();
    let message = format!(
        "could not select device driver {:?} with capabilities: [{}]",
        request.driver,
        sets.join(" ")
    );
    Err(Error::new(Kind::System, message))
}

impl Engine {
    /// Refuses what can be refused without starting, as Docker's create does.
    pub(super) fn validate(&self, config: &ContainerConfig, host: &HostConfig) -> Result<()> {
        spec::validate(config, host, self.facts.spec)
            .map_err(|error| Error::invalid(error.to_string()))
    }

    /// The plan of a container whose files lie in `directory`.
    pub(super) fn plan(
        &self,
        record: &Record,
        directory: &Path,
        joined: &Identities,
        init: Option<&Path>,
    ) -> Result<Plan> {
        refuse_devices(&record.host_config)?;
        let mounts: Vec<HostMount> = record
            .mounts
            .iter()
            .filter(|point| point.kind != MountKind::Tmpfs)
            .map(|point| {
                let (source, writable) = self.source_of(point);
                HostMount {
                    source,
                    layers: self.layers_of(point),
                    subpath: point.subpath.clone(),
                    destination: point.destination.clone(),
                    readonly: !writable,
                    propagation: point.propagation.clone(),
                    non_recursive: point.non_recursive,
                    readonly_non_recursive: point.readonly_non_recursive,
                }
            })
            .collect();
        let covered =
            |destination: &str| mounts.iter().any(|mount| mount.destination == destination);
        let directory = self.directory_of_files(record, directory);
        let files: Vec<EngineFile> = FILES
            .iter()
            .filter(|(_, destination)| !covered(destination))
            .map(|(name, destination)| EngineFile {
                source: directory.join(name),
                destination: (*destination).to_owned(),
            })
            .collect();
        let mut host = Cow::Borrowed(&record.host_config);
        if let Some(asked) = record
            .host_config
            .devices
            .as_ref()
            .filter(|it| !it.is_empty())
        {
            host.to_mut().devices = Some(devices::expand(asked)?);
        }
        let mut config = self.linked_config(record);
        config.user = self.user_of(record);
        let input = SpecInput {
            config: &config,
            host: &host,
            mounts: &mounts,
            files: &files,
            joined: joined.namespaces(),
            host_devices: &self.facts.devices,
            facts: self.facts.spec,
            defaults: &self.settings.defaults,
            init,
        };
        let spec = spec::build(&input).map_err(|error| spec_error(&error))?;
        let context = Context {
            id_map: self.map_of(&record.host_config.userns_mode)?,
            identities: &joined.all(),
            compile: &|profile| self.filters.compile(profile),
        };
        spec_to_plan(&spec, context).map_err(|error| Error::system(&error))
    }

    /// The process of an exec session: the container's own, with what the session asked for.
    pub(super) fn exec_process(
        &self,
        record: &Record,
        directory: &Path,
        exec: &ExecConfig,
        console_size: Option<(u16, u16)>,
    ) -> Result<Process> {
        let joined = self.joined(record).unwrap_or_default();
        let mut process = self.plan(record, directory, &joined, None)?.process;
        process.args = exec.cmd.clone().unwrap_or_default();
        process.env = spec::environment(
            &self.linked_config(record),
            exec.tty,
            exec.env.as_deref().unwrap_or_default(),
        );
        if !exec.working_dir.is_empty() {
            process.cwd.clone_from(&exec.working_dir);
        }
        if !exec.user.is_empty() {
            process.user.clone_from(&exec.user);
            process.groups.clear();
        }
        process.terminal = exec.tty;
        process.console_size = console_size;
        if exec.privileged {
            let all = caps::all(self.facts.spec.last_cap);
            process.capabilities = CapabilitySets {
                bounding: all,
                effective: all,
                permitted: all,
                inheritable: 0,
                ambient: 0,
            };
        }
        Ok(process)
    }
}

/// 500 at a start, whoever is to blame, as Docker has it; runc's prefix where runc would have
/// refused.
fn spec_error(error: &spec::Error) -> Error {
    let text = if error.is_runtime() {
        format!(
            "failed to create task for container: failed to create shim task: OCI runtime create \
             failed: {error}: unknown"
        )
    } else {
        error.to_string()
    };
    Error::new(Kind::System, text)
}
