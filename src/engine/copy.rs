//! Files of containers: cp in both directions, export, diff and commit.
//!
//! The work is done by a process of its own (`container::copy`); here is found what it is to see,
//! and what it says is put into Docker's words. A container that does not run is held
//! ([`Container::operate`]) for as long as the process has its root mounted, as two mounts of one
//! upper directory would not see each other's changes: its start waits. Since the answer does not,
//! the functions hand their results to the caller before they return.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};

use crate::api::container::{ContainerConfig, FilesystemChange};
use crate::api::json;
use crate::container::copy::{self, Copier, Ids, PathStat, Place, Refusal, Reply, ViewMount, Work};
use crate::container::protocol::Started;
use crate::container::record::{MountKind, Record};
use crate::container::spec;
use crate::engine::Engine;
use crate::engine::containers::FILES;
use crate::engine::containers::{Container, Paths};
use crate::engine::error::{Error, Kind, Result};
use crate::engine::images::image_error;
use crate::engine::start::{make_source, reopen};
use crate::image::{self, Commit};
use crate::overlay::{Driver, Rootfs};
use crate::sys::pidfd;
use crate::types::digest::Digest;
use crate::types::reference::Reference;

/// Bytes of an archive that go at once.
const PIECE: usize = 256 * 1024;

/// Ends a copy from elsewhere: its client has left.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Mutex<Stopping>>);

#[derive(Debug, Default)]
enum Stopping {
    #[default]
    Idle,
    Copying(OwnedFd),
    Stopped,
}

impl Stop {
    /// Ends the copy, also one that has not begun.
    pub fn stop(&self) {
        let before = std::mem::replace(&mut *self.lock(), Stopping::Stopped);
        if let Stopping::Copying(process) = before {
            copy::kill(&process);
        }
    }

    fn watch(&self, copier: &Copier) -> Result<()> {
        let process = copier
            .handle()
            .map_err(|error| Error::io("cannot watch the copying process", &error))?;
        let mut now = self.lock();
        match *now {
            Stopping::Stopped => copy::kill(&process),
            _ => *now = Stopping::Copying(process),
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Stopping> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How an archive is put into a container.
#[derive(Debug, Clone, Default)]
pub struct Unpacking {
    /// The directory.
    pub path: String,
    /// A directory and what is none may replace each other.
    pub overwrite: bool,
    /// Everything is to belong to the container's user.
    pub as_user: bool,
}

/// What `docker commit` asks for.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Configuration in the place of the container's.
    pub config: Option<ContainerConfig>,
    /// Lines of a Dockerfile.
    pub changes: Vec<String>,
    /// Who makes it.
    pub author: String,
    /// Why.
    pub comment: String,
    /// The container is paused meanwhile.
    pub pause: bool,
    /// The name that it gets.
    pub name: Option<Reference>,
}

/// Where a piece of an archive goes; `false` where nobody wants more.
pub type Piece<'a> = &'a mut dyn FnMut(Vec<u8>) -> bool;

impl Engine {
    /// What is at a path of a container.
    pub fn container_stat_path(&self, name: &str, path: &str, stop: &Stop) -> Result<PathStat> {
        let container = self.containers.find(name)?;
        let work = Work::Stat {
            path: path.to_owned(),
        };
        let (copier, _held) = self.copier(&container, work, stop)?;
        let reply = copier.reply().map_err(|error| refused(error, path, name))?;
        copier.finish();
        match reply {
            Reply::Stat(stat) => Ok(stat),
            _ => Err(unexpected()),
        }
    }

    /// Archives what is at a path: tells `begin` what it is, then gives the archive to `out`. What
    /// goes wrong after the beginning is the last word.
    pub fn container_pack(
        &self,
        name: &str,
        path: &str,
        stop: &Stop,
        begin: impl FnOnce(Result<PathStat>),
        out: Piece<'_>,
    ) -> Result<()> {
        let begun = self.containers.find(name).map(|container| {
            let work = Work::Pack {
                path: path.to_owned(),
            };
            (container, work)
        });
        let (container, work) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                begin(Err(error));
                return Ok(());
            }
        };
        let begun = self
            .copier(&container, work, stop)
            .and_then(|(copier, held)| {
                match copier.reply().map_err(|error| refused(error, path, name))? {
                    Reply::Stat(stat) => Ok((copier, held, stat)),
                    _ => Err(unexpected()),
                }
            });
        let (copier, _held) = match begun {
            Ok((copier, held, stat)) => {
                self.container_event(&container.record(), "archive-path", []);
                begin(Ok(stat));
                (copier, held)
            }
            Err(error) => {
                begin(Err(error));
                return Ok(());
            }
        };
        drain(copier, out).map_err(|error| refused(error, path, name))
    }

    /// Unpacks an archive, compressed or not, into a container; `told` is called with what came of
    /// it.
    pub fn container_unpack(
        &self,
        name: &str,
        unpacking: &Unpacking,
        source: &mut dyn Read,
        stop: &Stop,
        told: impl FnOnce(Result<()>),
    ) {
        let container = match self.containers.find(name) {
            Ok(container) => container,
            Err(error) => return told(Err(error)),
        };
        let record = container.record();
        let work = Work::Unpack {
            path: unpacking.path.clone(),
            overwrite: unpacking.overwrite,
            user: unpacking.as_user.then(|| self.user_of(&record)),
            readonly_rootfs: record.host_config.readonly_rootfs,
        };
        let (mut copier, _held) = match self.copier(&container, work, stop) {
            Ok(copier) => copier,
            Err(error) => return told(Err(error)),
        };
        let fed = feed(&mut copier, source);
        let done = match fed {
            Ok(()) => copier
                .reply()
                .map(drop)
                .map_err(|error| refused(error, &unpacking.path, name)),
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => {
                self.container_event(&record, "extract-to-dir", []);
                told(Ok(()));
                copier.finish();
            }
            Err(error) => {
                // What came before the mistake stays, as in Docker.
                drop(copier);
                told(Err(error));
            }
        }
    }

    /// Archives a container's root filesystem without what is mounted in it. `begin` is told that
    /// it begins, or why not.
    pub fn container_export(
        &self,
        name: &str,
        stop: &Stop,
        begin: impl FnOnce(Result<()>),
        out: Piece<'_>,
    ) -> Result<()> {
        let begun = self.containers.find(name).and_then(|container| {
            let copier = self.reader(&container, Work::Export, stop, "export")?;
            Ok((container, copier))
        });
        let (container, copier) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                begin(Err(error));
                return Ok(());
            }
        };
        begin(Ok(()));
        let during = |error: Refusal| {
            Error::new(
                Kind::System,
                format!("Error exporting container {name}: {error}"),
            )
        };
        drain(copier, out).map_err(during)?;
        self.container_event(&container.record(), "export", []);
        Ok(())
    }

    /// What a container has changed of its image.
    pub fn container_changes(&self, name: &str, stop: &Stop) -> Result<Vec<FilesystemChange>> {
        let container = self.containers.find(name)?;
        let copier = self.reader(&container, Work::Changes, stop, "compare")?;
        match copier.reply() {
            Ok(Reply::Changes(changes)) => Ok(changes),
            Ok(_) => Err(unexpected()),
            Err(error) => Err(Error::new(Kind::System, error.to_string())),
        }
    }

    /// Makes an image of a container: its image's layers and one more.
    pub fn container_commit(
        &self,
        name: &str,
        options: &CommitOptions,
        stop: &Stop,
    ) -> Result<Digest> {
        let container = self.containers.find(name)?;
        let record = container.record();
        let config = committed(&record.config, options)?;
        let parent = self.find_image(&record.image.to_string())?;
        // One that does not run, or is paused already, needs nothing.
        let paused = options.pause && self.pause(&container).is_ok();
        let made = self.commit(&container, &record, &parent, config, options, stop);
        if paused && let Err(error) = self.unpause(&container) {
            tracing::error!(id = container.id.short(), "{error}");
        }
        let id = made?;
        self.image_event("create", &id, &id.to_string());
        let name = options.name.as_ref().map(Reference::familiar);
        if let Some(name) = &name {
            self.image_event("tag", &id, name);
        }
        self.container_event(
            &record,
            "commit",
            [
                ("comment".to_owned(), options.comment.clone()),
                ("imageID".to_owned(), id.to_string()),
                ("imageRef".to_owned(), name.unwrap_or_default()),
            ],
        );
        Ok(id)
    }

    fn commit(
        &self,
        container: &Arc<Container>,
        record: &Record,
        parent: &image::Image,
        config: image::Config,
        options: &CommitOptions,
        stop: &Stop,
    ) -> Result<Digest> {
        let mut copier = self.reader(container, Work::Layer, stop, "commit")?;
        let mut layer = copier.data().ok_or_else(unexpected)?;
        let created_by = record.config.cmd.clone().unwrap_or_default().join(" ");
        let commit = Commit {
            config,
            author: options.author.clone(),
            comment: options.comment.clone(),
            created_by,
            name: options.name.clone(),
        };
        // The archive is whole only when the copier says so.
        let whole = &mut || match copier.reply() {
            Ok(_) => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        };
        self.images
            .commit(parent, &mut layer, whole, &commit)
            .map_err(|error| image_error(&error))
    }

    /// A process that reads upper directory and layers. The container is not held: what it writes
    /// meanwhile may be seen or not.
    fn reader(
        &self,
        container: &Arc<Container>,
        work: Work,
        stop: &Stop,
        verb: &str,
    ) -> Result<Copier> {
        if container.data().removing {
            return Err(Error::conflict(format!(
                "You cannot {verb} container {} which is being removed",
                container.id
            )));
        }
        let record = container.record();
        let place = Place::Layers {
            upper: Paths(&container.directory).upper(),
            lower: self.layers(&record),
        };
        let mut ids = self.ids(&record)?;
        // Which maps what is shown: on disk are ids inside.
        ids.owners = ids.owners.filter(|_| record.driver != Driver::Fuse);
        start(place, work, ids, None, stop)
    }

    /// How a container's owners are archived.
    fn ids(&self, record: &Record) -> Result<Ids> {
        Ok(Ids {
            owners: self.owners(record)?,
            strict: !self.facts.id_map.is_single(),
        })
    }

    /// A process that sees the container's root. What is returned beside it holds a container that
    /// does not run.
    fn copier<'a>(
        &self,
        container: &'a Arc<Container>,
        work: Work,
        stop: &Stop,
    ) -> Result<(Copier, Option<MutexGuard<'a, ()>>)> {
        let ids = self.ids(&container.record())?;
        let started = container.settled().record.state.started();
        if let Some(root) = started.and_then(root_of) {
            return Ok((start(Place::Running, work, ids, Some(root), stop)?, None));
        }
        let held = container.operate();
        let started = container.settled().record.state.started();
        if let Some(root) = started.and_then(root_of) {
            drop(held);
            return Ok((start(Place::Running, work, ids, Some(root), stop)?, None));
        }
        {
            let mut data = container.data();
            if data.removing {
                return Err(Error::conflict(format!(
                    "container {} is marked for removal",
                    container.id
                )));
            }
            // It has the same upper directory mounted.
            data.discard_prepared();
        }
        let place = self.mounted(container, !matches!(work, Work::Unpack { .. }))?;
        Ok((start(place, work, ids, None, stop)?, Some(held)))
    }

    /// The root of a container that does not run.
    fn mounted(&self, container: &Container, read_only: bool) -> Result<Place> {
        let record = container.record();
        let paths = Paths(&container.directory);
        for point in &record.mounts {
            let is_ours = self.binds_socket(&point.source);
            if point.kind == MountKind::Bind && point.create_source && !is_ours {
                make_source(&point.source)?;
            }
        }
        // Nothing is written where it is only looked at, so nothing need be synced after it.
        let volatile = record.host_config.auto_remove || read_only;
        reopen(&paths.work())?;
        let mut mounts: Vec<ViewMount> = record
            .mounts
            .iter()
            .filter(|point| point.kind != MountKind::Tmpfs)
            .map(|point| {
                let (source, writable) = self.source_of(point);
                ViewMount {
                    source,
                    layers: self.layers_of(point),
                    subpath: point.subpath.clone(),
                    destination: point.destination.clone(),
                    writable,
                    non_recursive: point.non_recursive,
                    readonly_non_recursive: point.readonly_non_recursive,
                }
            })
            .collect();
        // What was written for its last run is seen, too; before the first there is nothing in it.
        for (file, destination) in FILES {
            let source = container.directory.join(file);
            let written = std::fs::metadata(&source).is_ok_and(|found| found.len() > 0);
            if written && mounts.iter().all(|mount| mount.destination != destination) {
                mounts.push(ViewMount {
                    source,
                    layers: Vec::new(),
                    subpath: String::new(),
                    destination: destination.to_owned(),
                    writable: !record.host_config.readonly_rootfs,
                    non_recursive: false,
                    readonly_non_recursive: false,
                });
            }
        }
        mounts.sort_by(|a, b| a.destination.cmp(&b.destination));
        Ok(Place::Mounted {
            rootfs: Rootfs {
                driver: record.driver,
                lower: self.layers(&record),
                upper: paths.upper(),
                work: paths.work(),
                volatile,
                owners: self.owners(&record)?,
            },
            mounts,
        })
    }
}

fn start(place: Place, work: Work, ids: Ids, root: Option<OwnedFd>, stop: &Stop) -> Result<Copier> {
    let copier = Copier::start(place, work, ids, root)
        .map_err(|error| Error::io("cannot start a process that copies", &error))?;
    stop.watch(&copier)?;
    Ok(copier)
}

/// The root of a process, if it still runs.
fn root_of(started: Started) -> Option<OwnedFd> {
    let process = pidfd::open_identity(started.pid, started.start_time).ok()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = format!("/proc/{}/root", started.pid);
    let root = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    // Checked afterwards: the number was its own all the while.
    pidfd::is_alive(&process).ok()?.then_some(root)
}

/// Gives an archive to whoever wants it, up to its end.
fn drain(mut copier: Copier, out: Piece<'_>) -> std::result::Result<(), Refusal> {
    if let Some(mut data) = copier.data() {
        loop {
            let mut piece = vec![0; PIECE];
            let length = match data.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if length == 0 {
                break;
            }
            piece.truncate(length);
            if !out(piece) {
                return Err(Refusal::Failed("the client left".to_owned()));
            }
        }
    }
    copier.reply()?;
    copier.finish();
    Ok(())
}

/// Gives a copier an archive, decompressed: what does that trusts nobody, but is not the
/// container's business. A copier that has had enough says why.
fn feed(copier: &mut Copier, source: &mut dyn Read) -> Result<()> {
    let source = BufReader::with_capacity(PIECE, source);
    let mut plain = image::decompress(source).map_err(|error| image_error(&error))?;
    let Some(mut data) = copier.data() else {
        return Err(unexpected());
    };
    let mut piece = vec![0; PIECE];
    loop {
        let length = match plain.read(&mut piece) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io("cannot read the archive", &error)),
        };
        if length == 0 || data.write_all(&piece[..length]).is_err() {
            return Ok(());
        }
    }
}

/// The configuration of an image that is made of a container.
fn committed(own: &ContainerConfig, options: &CommitOptions) -> Result<image::Config> {
    let to_image = |config: &ContainerConfig| -> Result<image::Config> {
        let value = serde_json::to_value(config).map_err(|error| Error::system(&error))?;
        // Lists that are not said are `null` in one of the two.
        json::from_value(value).map_err(|error| Error::system(&error))
    };
    let base = options.config.as_ref().unwrap_or(own);
    let mut changed = to_image(base)?;
    if !options.changes.is_empty() {
        changed = changed.change(&options.changes).map_err(Error::invalid)?;
    }
    let mut config: ContainerConfig = serde_json::to_value(&changed)
        .and_then(serde_json::from_value)
        .map_err(|error| Error::system(&error))?;
    spec::merge(&mut config, own).map_err(Error::invalid)?;
    to_image(&config)
}

fn refused(refusal: Refusal, path: &str, name: &str) -> Error {
    match refusal {
        Refusal::NotFound => Error::not_found(format!(
            "Could not find the file {path} in container {name}"
        )),
        Refusal::Invalid(why) => Error::invalid(why),
        Refusal::Failed(why) => Error::new(Kind::System, why),
    }
}

fn unexpected() -> Error {
    Error::new(
        Kind::System,
        "the copying process gave an answer to another question",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_has_the_containers_configuration_and_the_changes() {
        let own = ContainerConfig {
            cmd: Some(vec!["a".to_owned()]),
            user: "me".to_owned(),
            ..ContainerConfig::default()
        };
        let options = CommitOptions {
            changes: vec!["ENV A=b".to_owned(), "CMD [\"x\"]".to_owned()],
            ..CommitOptions::default()
        };
        let config = committed(&own, &options).unwrap();
        assert_eq!(config.env, ["A=b"]);
        assert_eq!(
            (config.cmd, &*config.user),
            (Some(vec!["x".to_owned()]), "me")
        );
        let same = committed(&own, &CommitOptions::default()).unwrap();
        assert_eq!(same.cmd, own.cmd);
        let wrong = CommitOptions {
            changes: vec!["ADD a b".to_owned()],
            ..CommitOptions::default()
        };
        assert_eq!(
            committed(&own, &wrong).unwrap_err(),
            Error::invalid("ADD is not a valid change command")
        );
    }
}
