//! Layers, an overlay of them attached in this namespace, and short words for what cases do there.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use moss::overlay::{self, Driver, Root, Rootfs};
use moss::types::idmap::IdMapping;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use rustix::mount::{UnmountFlags, unmount};

/// Layers and an overlay of them, attached in this namespace.
pub struct World {
    pub dir: tempfile::TempDir,
    driver: Driver,
    layers: usize,
    pub owners: Option<IdMapping>,
    pub root: Option<Root>,
}

impl World {
    /// `layers` empty ones.
    pub fn new(driver: Driver, layers: usize) -> World {
        rustix::process::umask(Mode::from_raw_mode(0o022));
        let dir = tempfile::tempdir().expect("a directory");
        for n in 0..layers {
            fs::create_dir(dir.path().join(format!("l{n}"))).expect("a layer");
        }
        for name in ["upper", "work", "m", "native", "native-work"] {
            fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        World {
            dir,
            driver,
            layers,
            owners: None,
            root: None,
        }
    }

    /// In a layer, 0 being the topmost.
    pub fn layer(&self, n: usize, path: &str) -> PathBuf {
        self.dir.path().join(format!("l{n}")).join(path)
    }

    pub fn upper(&self, path: &str) -> PathBuf {
        self.dir.path().join("upper").join(path)
    }

    /// In the merged tree.
    pub fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("m").join(path)
    }

    pub fn mount(&mut self) {
        self.mount_as(self.driver);
    }

    pub fn mount_as(&mut self, driver: Driver) {
        // Threads that a case has waited for are there for a moment more.
        while fs::read_dir("/proc/self/task").expect("listed").count() > 1 {
            std::thread::yield_now();
        }
        let rootfs = Rootfs {
            driver,
            lower: (0..self.layers).map(|n| self.layer(n, "")).collect(),
            upper: self.upper(""),
            work: self.dir.path().join("work"),
            volatile: false,
            owners: self.owners.clone(),
        };
        let root = overlay::mount(&rootfs).expect("mounts");
        let place = File::open(self.at("")).expect("a directory");
        moss::sys::mount::attach(root.tree.as_fd(), place.as_fd()).expect("attaches");
        self.root = Some(root);
    }

    pub fn unmount(&mut self) {
        let Some(root) = self.root.take() else { return };
        unmount(self.at(""), UnmountFlags::DETACH).expect("unmounts");
        drop(root.tree);
        if let Some(server) = root.server {
            server.finish();
        }
    }

    pub fn remount(&mut self) {
        self.unmount();
        self.mount();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.unmount();
    }
}

pub fn write(path: &Path, text: &str) {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("a directory");
    }
    fs::write(path, text).expect("written");
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("read")
}

pub fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

pub fn whiteout(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).expect("made");
}

pub fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).expect("set");
}

pub fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    let length = rustix::fs::getxattr(path, name, &mut value).ok()?;
    Some(value[..length].to_vec())
}

pub fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}
