//! What was left behind: `moss system check`.
//!
//! Looks at /proc, the data root and the exec root as they are, and so works with no daemon, from
//! inside the keeper's namespaces or from outside. It changes nothing. First everything is
//! gathered ([`Snapshot`]), then judged by a pure function ([`Snapshot::leaks`]):
//!
//! | kind | leaked is |
//! |---|---|
//! | mount | anything mounted below the data root or the exec root, or an overlay of its layers, in the namespace of the caller or of the keeper: root filesystems are attached in containers only |
//! | process | a second keeper; another engine's keeper whose exec root is gone; a shim without a record; a slirp that is not the keeper's; anything in the keeper's user namespace, or in one nested in it, that descends from neither the daemon nor a shim |
//! | namespace | a namespace that a mount below either root pins |
//! | directory | a runtime directory of a container without a record |
//! | object | a container's directory without a record, or with one that cannot be read: the engine does not know that container any more; what slirp knows of a network without a record; what lies in `tmp` or `trash` |
//!
//! Objects in `tmp` and `trash` are a daemon's work in hand while one runs: then only those count
//! that nothing has touched for [`AT_WORK`].
//!
//! The exec root may have been deleted: the keeper is then the one that the data root's copy of
//! `keeper.json` names, and a shim tells its container by the name of its socket in /proc/net/unix,
//! which outlives the file. A shim that is about to leave, and only has to let go of its root
//! filesystem, does not listen any more and is no leak. What begins or ends while it is looked at
//! may seem left behind, so only what is found a second time counts.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::container::protocol::SOCKET;
use crate::container::record::{RECORD_FILE, Record, RecordError};
use crate::engine::spare;
use crate::slirp;
use crate::slirp::state::NetworkState;
use crate::sys::lock;
use crate::sys::nsfs;
use crate::types::chain::chain;
use crate::userns::keeper::{Identity, TITLE};

/// How long after the first look the second is taken.
const SECOND_LOOK: Duration = Duration::from_millis(200);

/// How long a running daemon may take for one object.
const AT_WORK: Duration = Duration::from_secs(60);

/// Flags of a listening socket in /proc/net/unix (`__SO_ACCEPTCON`).
const LISTENING: &str = "00010000";

/// Name that a shim gives itself.
const SHIM: &str = "moss-shim";

/// What kind of thing was left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A mount.
    Mount,
    /// A process.
    Process,
    /// A namespace without a process.
    Namespace,
    /// A directory of running state.
    Directory,
    /// Something half made or half removed.
    Object,
}

/// One thing left behind. Displayed as one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leak {
    /// Its kind.
    pub kind: Kind,
    /// Which: a path, or a pid with its command.
    pub what: String,
    /// Why it counts as left behind.
    pub why: String,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Mount => "mount",
            Kind::Process => "process",
            Kind::Namespace => "namespace",
            Kind::Directory => "directory",
            Kind::Object => "object",
        };
        write!(f, "{kind:<9}  {}: {}", self.what, self.why)
    }
}

/// Looks for what the engine with these roots has left behind.
pub fn find(data_root: &Path, exec_root: &Path) -> Vec<Leak> {
    let mut found = Snapshot::take(data_root, exec_root).leaks();
    if !found.is_empty() {
        std::thread::sleep(SECOND_LOOK);
        let again = Snapshot::take(data_root, exec_root).leaks();
        found.retain(|leak| again.contains(leak));
    }
    found
}

/// What there is.
#[derive(Debug, Default)]
struct Snapshot {
    data_root: PathBuf,
    exec_root: PathBuf,
    now: Option<SystemTime>,
    /// The keeper that `keeper.json` names: pid and user namespace.
    keeper: Option<(i32, u64)>,
    /// The daemon that holds the data root's lock. Its name may be any.
    daemon: Option<i32>,
    processes: Vec<Process>,
    /// Mounts of the caller's and the keeper's namespace.
    mounts: Vec<Mount>,
    /// Ids of containers that have a directory, and whether it holds a record.
    containers: HashMap<String, bool>,
    /// Containers whose records cannot be read: their directories, and why.
    damaged: Vec<(PathBuf, String)>,
    /// Ids of networks that slirp knows, and whether they have a record.
    networks: HashMap<String, bool>,
    /// Containers that have a runtime directory.
    runtime: Vec<String>,
    /// Exec roots of other keepers that no longer exist.
    gone: HashSet<PathBuf>,
    /// What lies in `tmp` and `trash`, and when it was last touched or moved there.
    objects: Vec<(PathBuf, Option<SystemTime>)>,
}

/// One process of this user.
#[derive(Debug, Clone, Default)]
struct Process {
    pid: i32,
    parent: i32,
    name: String,
    arguments: Vec<String>,
    user_namespace: u64,
    parent_namespace: Option<u64>,
    /// The container whose socket a shim listens on, where it was found.
    container: Option<String>,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Mount {
    point: PathBuf,
    kind: String,
    options: String,
}

impl Snapshot {
    fn take(data_root: &Path, exec_root: &Path) -> Self {
        let identity = Identity::read(exec_root)
            .or_else(|| Identity::read(data_root).filter(|it| it.exec_root == exec_root));
        let listening = listening_shims();
        let processes: Vec<_> = entries(Path::new("/proc"))
            .filter_map(|path| path.file_name()?.to_str()?.parse().ok())
            .filter_map(|pid| process(pid, &listening))
            .collect();
        let alive = identity.as_ref().filter(|it| it.process().is_some());
        let mut mounts = mounts_of("self");
        if let Some(keeper) = alive {
            mounts.extend(mounts_of(&keeper.pid.to_string()));
        }
        let named = |path: PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        let containers = entries(&data_root.join("containers")).filter_map(|path| {
            let has_record = path.join(RECORD_FILE).exists();
            Some((named(path)?, has_record)).filter(|(name, _)| !spare::is_spare(name.as_ref()))
        });
        let networks = entries(&exec_root.join(slirp::state::DIRECTORY)).filter_map(|path| {
            let has_record = data_root.join("networks").join(path.file_name()?).exists();
            let id = named(path)?.strip_suffix(".json")?.to_owned();
            Some((id, has_record))
        });
        let networks = networks.collect();
        let objects = ["tmp", "trash"].map(|place| entries(&data_root.join(place)));
        let objects = objects.into_iter().flatten().map(|path| {
            let touched = std::fs::symlink_metadata(&path).ok();
            // The change of the inode: a rename counts, and what an archive says does not.
            let touched = touched.and_then(|metadata| {
                let seconds = metadata.ctime().try_into().ok()?;
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
            });
            (path, touched)
        });
        let damaged = entries(&data_root.join("containers")).filter_map(|path| {
            // What is made ready for the next container, or just being made, has an empty one.
            if path.file_name()?.to_str()?.starts_with('.') {
                return None;
            }
            // One that is not there is another matter, and another user's may not be read.
            let error = Record::read(&path).err()?;
            let told = matches!(
                error,
                RecordError::Damaged { .. } | RecordError::Empty { .. }
            );
            told.then(|| (path, chain(&error)))
        });
        let gone = processes.iter().filter_map(Process::keepers_exec_root);
        Self {
            data_root: data_root.to_owned(),
            exec_root: exec_root.to_owned(),
            now: Some(SystemTime::now()),
            keeper: identity.as_ref().map(|it| (it.pid, it.user_namespace)),
            daemon: lock::holder(data_root).and_then(|holder| holder.pid.try_into().ok()),
            gone: gone.filter(|root| !root.exists()).collect(),
            mounts,
            containers: containers.collect(),
            damaged: damaged.collect(),
            networks,
            runtime: entries(&exec_root.join("c")).filter_map(named).collect(),
            objects: objects.collect(),
            processes,
        }
    }

    fn leaks(&self) -> Vec<Leak> {
        let mut leaks = self.leaked_mounts();
        leaks.extend(self.leaked_processes());
        leaks.extend(self.leaked_directories());
        leaks.extend(self.leaked_objects());
        leaks.sort_by(|a, b| (a.kind, &a.what).cmp(&(b.kind, &b.what)));
        leaks.dedup();
        leaks
    }

    fn leaked_mounts(&self) -> Vec<Leak> {
        let roots = [&self.data_root, &self.exec_root];
        let below = |path: &Path| {
            roots
                .iter()
                .any(|root| path.starts_with(root) && path != root.as_path())
        };
        let leaked = self.mounts.iter().filter(|mount| {
            // An overlay's options name its layers.
            let mut words = mount.options.split([',', ':', '=']);
            let ours = mount.kind == "overlay"
                && words.any(|path| Path::new(path).starts_with(&self.data_root));
            (below(&mount.point) && !self.is_volume(&mount.point)) || ours
        });
        let leak = |mount: &Mount| Leak {
            kind: if mount.kind == "nsfs" {
                Kind::Namespace
            } else {
                Kind::Mount
            },
            what: mount.point.display().to_string(),
            why: format!("{} mounted outside any container", mount.kind),
        };
        leaked.map(leak).collect()
    }

    /// Whether a mount is a volume that is a filesystem of its own, which its containers share.
    fn is_volume(&self, point: &Path) -> bool {
        let in_volumes = point.strip_prefix(self.data_root.join("volumes"));
        in_volumes.is_ok_and(|path| path.iter().count() == 2 && path.ends_with("_data"))
    }

    /// User namespaces of keepers of this exec root.
    fn namespaces(&self) -> HashSet<u64> {
        let keepers = self
            .processes
            .iter()
            .filter(|process| self.is_our_keeper(process));
        let known = self.keeper.map(|(_, namespace)| namespace);
        keepers
            .map(|process| process.user_namespace)
            .chain(known)
            .collect()
    }

    fn is_our_keeper(&self, process: &Process) -> bool {
        process
            .keepers_exec_root()
            .is_some_and(|root| root == self.exec_root)
    }

    fn leaked_processes(&self) -> Vec<Leak> {
        let namespaces = self.namespaces();
        let mut leaks = Vec::new();
        let mut owners = HashSet::new();
        let mut ours = Vec::new();
        for process in &self.processes {
            let leak = |why: String| Leak {
                kind: Kind::Process,
                what: process.to_string(),
                why,
            };
            if let Some(root) = process.keepers_exec_root() {
                if root == self.exec_root {
                    match self.keeper {
                        // Just forked, it has not yet taken its own name.
                        Some((pid, _)) if pid == process.parent => drop(owners.insert(process.pid)),
                        Some((pid, _)) if pid == process.pid => {}
                        _ => leaks.push(leak("not the keeper that keeper.json names".into())),
                    }
                } else if self.gone.contains(&root) {
                    leaks.push(leak(format!("its exec root {} is gone", root.display())));
                }
                continue;
            }
            let inside = namespaces.contains(&process.user_namespace);
            if inside && process.name == SHIM {
                owners.insert(process.pid);
                // One that does not listen was only just forked, or is about to leave.
                if let Some(id) = &process.container
                    && self.containers.get(id) != Some(&true)
                {
                    leaks.push(leak(format!("its container {id} has no record")));
                }
            } else if inside && process.name == slirp::NAME {
                owners.insert(process.pid);
                if self
                    .keeper
                    .is_some_and(|(keeper, _)| keeper != process.parent)
                {
                    leaks.push(leak("not the keeper's".into()));
                }
            } else if inside && Some(process.pid) == self.daemon {
                owners.insert(process.pid);
            } else if inside
                || process
                    .parent_namespace
                    .is_some_and(|ns| namespaces.contains(&ns))
            {
                ours.push(process);
            }
        }
        let parents: HashMap<_, _> = self
            .processes
            .iter()
            .map(|it| (it.pid, it.parent))
            .collect();
        for process in ours {
            // A chain of parents has no circle, but it is read while it changes.
            let mut chain =
                std::iter::successors(Some(process.pid), |pid| parents.get(pid).copied());
            if process.pid != std::process::id().cast_signed()
                && !chain
                    .by_ref()
                    .take(parents.len() + 1)
                    .any(|pid| owners.contains(&pid))
            {
                leaks.push(Leak {
                    kind: Kind::Process,
                    what: process.to_string(),
                    why: "neither the daemon nor a shim has it".into(),
                });
            }
        }
        leaks
    }

    fn leaked_directories(&self) -> Vec<Leak> {
        let leaked = self
            .runtime
            .iter()
            .filter(|id| !self.containers.contains_key(*id));
        let leak = |id: &String| Leak {
            kind: Kind::Directory,
            what: self.exec_root.join("c").join(id).display().to_string(),
            why: "its container does not exist".into(),
        };
        leaked.map(leak).collect()
    }

    fn leaked_objects(&self) -> Vec<Leak> {
        let half_made = self
            .containers
            .iter()
            .filter(|(_, has_record)| !**has_record);
        let half_made = half_made.map(|(id, _)| Leak {
            kind: Kind::Object,
            what: self
                .data_root
                .join("containers")
                .join(id)
                .display()
                .to_string(),
            why: "a container without a record".into(),
        });
        let left = self.objects.iter().filter(|(_, touched)| {
            let age = self
                .now
                .zip(*touched)
                .and_then(|(now, then)| now.duration_since(then).ok());
            self.daemon.is_none() || age.is_some_and(|age| age > AT_WORK)
        });
        let left = left.map(|(path, _)| Leak {
            kind: Kind::Object,
            what: path.display().to_string(),
            why: "half made or half removed; the next daemon clears it away".into(),
        });
        let damaged = self.damaged.iter().map(|(directory, error)| Leak {
            kind: Kind::Object,
            what: directory.display().to_string(),
            why: format!(
                "a container that the engine cannot use: {error}; put its {RECORD_FILE} right and \
                 start the daemon anew, or have the next daemon delete the container: mv {} {}",
                directory.display(),
                self.data_root.join("trash").display()
            ),
        });
        let unknown = self.networks.iter().filter(|(_, has_record)| !**has_record);
        let unknown = unknown.map(|(id, _)| Leak {
            kind: Kind::Object,
            what: NetworkState::path(&self.exec_root, id)
                .display()
                .to_string(),
            why: "a network without a record".into(),
        });
        half_made
            .chain(damaged)
            .chain(left)
            .chain(unknown)
            .collect()
    }
}

impl Process {
    /// The exec root of a keeper; `None` for anything else, shims among it, whose command line is
    /// still the keeper's.
    fn keepers_exec_root(&self) -> Option<PathBuf> {
        match &*self.arguments {
            [title, root, ..] if title == TITLE && self.name == "moss-keeper" => Some(root.into()),
            _ => None,
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = match (&*self.name, &*self.arguments) {
            (SHIM, _) | (_, []) => self.name.clone(),
            (_, arguments) => arguments.join(" "),
        };
        write!(f, "{} ({command})", self.pid)
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(directory).ok();
    entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

/// Reads one process; `None` where it has ended or is another user's.
fn process(pid: i32, listening: &HashMap<u64, String>) -> Option<Process> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let (user_namespace, parent_namespace) = nsfs::user_namespace(pid).ok()?;
    let stat = std::fs::read_to_string(directory.join("stat")).ok()?;
    let (start, rest) = stat.rsplit_once(')')?;
    let name = start.split_once('(')?.1.to_owned();
    let mut fields = rest.split_ascii_whitespace();
    // A zombie has left all that could leak; its parent is at fault at worst.
    if fields.next()? == "Z" {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let arguments = std::fs::read(directory.join("cmdline")).ok()?;
    let arguments = arguments
        .split(|byte| *byte == 0)
        .filter(|argument| !argument.is_empty());
    let arguments = arguments
        .map(|it| String::from_utf8_lossy(it).into_owned())
        .collect();
    let container = (name == SHIM && !listening.is_empty()).then(|| {
        entries(&directory.join("fd")).find_map(|link| {
            let inode = socket_inode(&std::fs::read_link(link).ok()?)?;
            listening.get(&inode).cloned()
        })
    });
    Some(Process {
        pid,
        parent,
        name,
        arguments,
        user_namespace,
        parent_namespace,
        container: container.flatten(),
    })
}

/// The number in `socket:[123]`.
fn socket_inode(link: &Path) -> Option<u64> {
    link.to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// Inodes of the sockets that are bound as `…/ID/shim.sock`, and the ids. The path is the one that
/// was given to bind(2), and stays when the file is deleted; of whose exec root it is shows by the
/// process that has the socket.
fn listening_shims() -> HashMap<u64, String> {
    // Names of sockets may be any bytes.
    let text = std::fs::read("/proc/net/unix").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().filter_map(listening_shim).collect()
}

/// One line: Num RefCount Protocol Flags Type St Inode Path
fn listening_shim(line: &str) -> Option<(u64, String)> {
    let mut fields = line.split_ascii_whitespace();
    // A connection that it has accepted has its name too.
    let listens = fields.nth(3)? == LISTENING;
    let inode = fields.nth(2)?.parse().ok()?;
    let path = Path::new(fields.next()?);
    let id = path.parent()?.file_name()?.to_str()?;
    let named = path.file_name()?.to_str()?.starts_with(SOCKET);
    (listens && named).then(|| (inode, id.to_owned()))
}

/// The mounts that a process sees.
fn mounts_of(process: &str) -> Vec<Mount> {
    let text = std::fs::read(format!("/proc/{process}/mountinfo")).unwrap_or_default();
    text.split(|byte| *byte == b'\n')
        .filter_map(parse_mount)
        .collect()
}

/// One line of mountinfo: `36 35 98:0 /root /point rw - kind source options` (proc_pid_mountinfo(5)).
fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = unescape(fields.nth(4)?);
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let kind = text(after.next()?);
    let options = text(&unescape(after.nth(1)?));
    Some(Mount {
        point: PathBuf::from(std::ffi::OsStr::from_bytes(&point)),
        kind,
        options,
    })
}

/// Undoes `\040` and the like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let octal = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(escaped) if byte == b'\\' => {
                plain.push(escaped);
                rest = &after[3..];
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}
