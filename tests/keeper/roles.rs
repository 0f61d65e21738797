//! What the other processes of a test are: shims that do what they are asked, and words for them.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use moss::sys::{fdpass, pidfd};
use moss::userns::keeper::{self, Keeper, ShimIdentity, Start};

/// Ends what a test left, by its pid, and waits for that.
pub fn end_keeper(directory: &Path) {
    for place in ["exec", "data"] {
        if let Some(identity) = keeper::Identity::read(&directory.join(place))
            && let Some(process) = identity.process()
        {
            let _ = pidfd::kill(&process, rustix::process::Signal::KILL);
            wait_until("the keeper ends", || {
                !pidfd::is_alive(&process).unwrap_or(false)
            });
        }
    }
}

/// The shim: answers each packet of `conn`, and leaves at its end.
pub fn shim([connection, leash]: [OwnedFd; 2]) -> i32 {
    rustix::thread::set_name(c"moss-shim").expect("a name");
    let mut buffer = [0; 256];
    let mut listeners = Vec::new();
    let mut children: Vec<std::process::Child> = Vec::new();
    while let Ok((length @ 1.., _)) = fdpass::receive(&connection, &mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let reply = match text.split_once(' ').unwrap_or((&text, "")) {
            ("where", _) => {
                let uid = rustix::process::getuid().as_raw();
                let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
                format!("{} {uid} {open}", namespace("self"))
            }
            ("listen", path) => {
                listeners.push(fdpass::listen(Path::new(path)).expect("listen"));
                "ok".to_owned()
            }
            ("child", _) => {
                let child = Command::new("/bin/sleep")
                    .arg("600")
                    .spawn()
                    .expect("sleep");
                let pid = child.id();
                let process = pidfd::open(pid.cast_signed()).expect("pidfd");
                fdpass::send(&leash, b"p", &[process.as_fd()]).expect("leash");
                children.push(child);
                pid.to_string()
            }
            ("identify", path) => {
                ShimIdentity::write_own(Path::new(path)).expect("identify");
                "ok".to_owned()
            }
            ("read", path) => std::fs::read_to_string(path).unwrap_or_default(),
            _ => "what?".to_owned(),
        };
        if fdpass::send(&connection, reply.as_bytes(), &[]).is_err() {
            break;
        }
    }
    0
}

/// A shim's other end.
pub struct Spawned {
    pub pid: i32,
    pub connection: OwnedFd,
}

impl Spawned {
    pub fn new(keeper: &Keeper) -> Self {
        let (connection, theirs) = fdpass::pair().expect("pair");
        let pid = keeper.spawn_shim(&theirs).expect("spawn");
        Self { pid, connection }
    }

    pub fn ask(&self, question: &str) -> String {
        fdpass::send(&self.connection, question.as_bytes(), &[]).expect("ask");
        let mut buffer = [0; 4096];
        let (length, _) = fdpass::receive(&self.connection, &mut buffer).expect("answer");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// User namespace, uid, open descriptors.
    pub fn place(&self) -> (u64, u32, usize) {
        let answer = self.ask("where");
        let mut fields = answer.split(' ');
        let mut next = || fields.next().expect("a field");
        (
            next().parse().unwrap(),
            next().parse().unwrap(),
            next().parse().unwrap(),
        )
    }
}

pub fn start(directory: &Path) -> Start {
    let data = directory.join("data");
    std::fs::create_dir_all(&data).expect("data root");
    Start::new(&directory.join("exec"), Some(&data)).expect("own program")
}

pub fn namespace(process: &str) -> u64 {
    std::fs::metadata(format!("/proc/{process}/ns/user")).map_or(0, |metadata| metadata.ino())
}

pub fn kill(pid: i32) {
    let process = pidfd::open(pid).expect("a process");
    pidfd::kill(&process, rustix::process::Signal::KILL).expect("kill");
    wait_until("it ends", || !pidfd::is_alive(&process).unwrap());
}

/// Waits until something holds, which takes milliseconds; a machine may be very busy.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
