//! What slirp knows of networks: files that the daemon writes, one a network, in the runtime
//! directory.
//!
//! Each is replaced in one step, so a reader sees all of a state or none of it, and needs no daemon
//! to be alive. A file is looked at whenever something is asked of its network, and read again only
//! where it is another than before: the answer is never older than the question.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::types::port::Protocol;
use crate::types::prefix::Prefix;

/// The directory of these files, in the exec root.
pub const DIRECTORY: &str = "networks";

/// The largest file that is read, in bytes: some ten thousand containers.
const MOST: u64 = 16 << 20;

/// A network, and who is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkState {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The bridge's name.
    pub bridge: String,
    /// Its subnets.
    pub subnets: Vec<Prefix>,
    /// The bridge's addresses.
    pub gateways: Vec<IpAddr>,
    /// Without a way out.
    pub internal: bool,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// Members find each other by name.
    pub names: bool,
    /// The gateways' addresses lead to the host's loopback, too.
    pub host_loopback: bool,
    /// Who is in it.
    pub members: Vec<MemberState>,
}

/// A container in a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberState {
    /// The container's id.
    pub container: String,
    /// Its names, the first of which is told to those who ask by address.
    pub names: Vec<String>,
    /// Names that it alone knows others by: a name, and the other container's name or id.
    pub links: Vec<(String, String)>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Name servers in place of the host's.
    pub servers: Vec<IpAddr>,
    /// Its published ports, where it has its default route.
    pub ports: Vec<Publication>,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Publication {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The host's address, which may be any.
    pub host: IpAddr,
    /// The host's port.
    pub host_port: u16,
    /// The container's port.
    pub port: u16,
}

impl NetworkState {
    /// The file of a network.
    pub fn path(exec_root: &Path, id: &str) -> PathBuf {
        exec_root.join(DIRECTORY).join(format!("{id}.json"))
    }

    /// Who has this address.
    pub fn member_at(&self, address: IpAddr) -> Option<&MemberState> {
        self.members
            .iter()
            .find(|member| member.addresses.contains(&address))
    }
}

/// The networks of this process, by id.
#[derive(Debug)]
pub struct Book {
    exec_root: PathBuf,
    pages: Mutex<HashMap<String, Page>>,
}

#[derive(Debug, Default)]
struct Page {
    stamp: Option<Stamp>,
    state: Arc<NetworkState>,
}

/// Tells one file from another that has its name.
type Stamp = (u64, i64, i64, u64);

impl Book {
    /// An empty one.
    pub fn new(exec_root: PathBuf) -> Self {
        Self {
            exec_root,
            pages: Mutex::default(),
        }
    }

    /// Knows a network from now on.
    pub fn add(&self, id: &str) {
        self.lock().entry(id.to_owned()).or_default();
    }

    /// Knows it no more.
    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// A network as it is now; as it was last, where its file is gone or makes no sense.
    pub fn get(&self, id: &str) -> Arc<NetworkState> {
        let mut pages = self.lock();
        match pages.get_mut(id) {
            Some(page) => page.look(&NetworkState::path(&self.exec_root, id)),
            None => Arc::default(),
        }
    }

    /// All networks that a container is in.
    pub fn of(&self, container: &str) -> Vec<Arc<NetworkState>> {
        let mut pages = self.lock();
        let all = pages
            .iter_mut()
            .map(|(id, page)| page.look(&NetworkState::path(&self.exec_root, id)));
        let inside = |state: &Arc<NetworkState>| {
            let mut members = state.members.iter();
            members.any(|member| member.container == container)
        };
        let mut found: Vec<_> = all.filter(inside).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Page {
    fn look(&mut self, path: &Path) -> Arc<NetworkState> {
        let stamp = fs::metadata(path).ok().map(|file| {
            let size = file.len();
            (file.ino(), file.mtime(), file.mtime_nsec(), size)
        });
        if stamp.is_some() && stamp != self.stamp {
            match read(path) {
                Ok(state) => {
                    self.state = Arc::new(state);
                    self.stamp = stamp;
                }
                Err(error) => tracing::error!("{} cannot be read: {error}", path.display()),
            }
        }
        Arc::clone(&self.state)
    }
}

fn read(path: &Path) -> io::Result<NetworkState> {
    let file = fs::File::open(path)?;
    if file.metadata()?.len() > MOST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(serde_json::from_reader(io::BufReader::new(file))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_seen_as_soon_as_it_is_there() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(DIRECTORY)).unwrap();
        let book = Book::new(root.path().to_owned());
        book.add("n");
        assert_eq!(*book.get("n"), NetworkState::default());
        for name in ["one", "two", "three"] {
            let member = MemberState {
                container: "c".to_owned(),
                ..MemberState::default()
            };
            let state = NetworkState {
                id: "n".to_owned(),
                name: name.to_owned(),
                members: vec![member],
                ..NetworkState::default()
            };
            let made = root.path().join("new");
            fs::write(&made, serde_json::to_vec(&state).unwrap()).unwrap();
            fs::rename(&made, NetworkState::path(root.path(), "n")).unwrap();
            assert_eq!(book.get("n").name, name);
            assert_eq!(book.of("c").len(), 1);
        }
        assert!(book.of("d").is_empty());
        // What is no state leaves the last one.
        fs::write(NetworkState::path(root.path(), "n"), "{").unwrap();
        assert_eq!(book.get("n").name, "three");
        fs::remove_file(NetworkState::path(root.path(), "n")).unwrap();
        assert_eq!(book.get("n").name, "three");
    }
}
