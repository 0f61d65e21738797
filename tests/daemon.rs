//! A daemon's life, by the real program: what it refuses, how it tells that it serves, who it
//! leaves room for, and what is left after it. Each test has directories and a keeper of its own,
//! and ends the keeper before the directories go.
//!
//! What needs namespaces is skipped, and says so, where this host allows none.

#[path = "common/unshare.rs"]
mod unshare;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use moss::sys::pidfd;
use moss::userns::keeper::Identity;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Directories of one engine. Its keepers, in their grace period when a test ends, go with it.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let root = tempfile::tempdir().expect("a directory");
        for name in ["run", "data", "config/moss"] {
            std::fs::create_dir_all(root.path().join(name)).expect("a directory");
        }
        Place { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("run/moss.sock")
    }

    fn set(&self, command: &mut Command) {
        command
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("XDG_DATA_HOME", self.path("data"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .stdin(Stdio::null());
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moss"));
        command.args(["daemon", "--supervised"]).args(arguments);
        self.set(&mut command);
        command
    }

    /// Runs a verb.
    fn verb(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moss"));
        self.set(command.args(words));
        command.output().expect("it runs")
    }

    /// Runs a daemon that is to end by itself.
    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    /// What `moss system check` has to say of these directories: a keeper that another program of
    /// this user left is in its list too.
    fn leaks(&self, flags: &[&str]) -> String {
        let told = self.verb(&[&["system", "check"], flags].concat()).stdout;
        let told = String::from_utf8(told).expect("text");
        let root = self.root.path().to_str().expect("text");
        let own = told
            .split_inclusive('\n')
            .filter(|line| line.contains(root));
        own.collect()
    }

    /// Starts a daemon and waits until it serves; `None` where this host cannot have one.
    fn start(&self, arguments: &[&str]) -> Option<Daemon> {
        let log = File::create(self.path("log")).expect("a file");
        let mut command = self.command(arguments);
        let child = command.stderr(log).spawn().expect("it starts");
        self.wait_for(Daemon(child))
    }

    fn wait_for(&self, mut daemon: Daemon) -> Option<Daemon> {
        let before = Instant::now();
        while before.elapsed() < PATIENCE {
            if self.ping() {
                return Some(daemon);
            }
            if daemon.0.try_wait().expect("a child").is_some() {
                let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
                let Some(why) = unshare::refused(&[]) else {
                    panic!("it ended: {log}");
                };
                eprintln!("skipped: no user namespaces here: {why}");
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the daemon does not serve");
    }

    /// Has a verb start a daemon; false where this host can have none.
    fn demand(&self) -> bool {
        let told = self.verb(&["ps"]);
        if told.status.success() {
            return true;
        }
        let Some(why) = unshare::refused(&[]) else {
            panic!("{}", errors(&told));
        };
        eprintln!("skipped: no user namespaces here: {why}");
        false
    }

    /// Whether somebody answers `/_ping`.
    fn ping(&self) -> bool {
        self.get("/_ping").ends_with("\r\n\r\nOK")
    }

    /// The answer to a GET, as it comes; nothing where nobody listens.
    fn get(&self, path: &str) -> String {
        let Ok(mut stream) = UnixStream::connect(self.socket()) else {
            return String::new();
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        let exchanged = stream
            .write_all(request.as_bytes())
            .and_then(|()| stream.read_to_string(&mut answer));
        exchanged.map(|_| answer).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The exec roots and data roots that daemons have here.
        for root in ["run/moss", "run/other", "data/moss", "other"] {
            end_keeper(&self.path(root));
        }
    }
}

/// Ends the keeper whose identity is in `directory`, and waits for that.
fn end_keeper(directory: &Path) {
    let Some(keeper) = Identity::read(directory).and_then(|keeper| keeper.process()) else {
        return;
    };
    // It may end by itself.
    let _ = pidfd::kill(&keeper, rustix::process::Signal::KILL);
    let before = Instant::now();
    while pidfd::is_alive(&keeper).unwrap_or(false) && before.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A daemon, killed when dropped.
struct Daemon(Child);

impl Daemon {
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("it lives");
    }

    fn end(mut self, signal: Signal) -> std::process::ExitStatus {
        self.signal(signal);
        self.0.wait().expect("a child")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn errors(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn configurations_are_checked_before_anything_is_touched() {
    let place = Place::new();
    let valid = place.run(&["--validate"]);
    assert!(valid.status.success());
    assert_eq!(valid.stderr, b"configuration OK\n");
    let file = place.path("config/moss/daemon.json");
    std::fs::write(&file, "{\"foo\": 1}").expect("a file");
    for arguments in [&["--validate"][..], &[]] {
        let message = errors(&place.run(arguments));
        let expected = format!(
            "unable to configure the Docker daemon with file {}: the following directives don't \
             match any configuration option: foo",
            file.display()
        );
        assert!(message.contains(&expected), "{message}");
    }
    std::fs::write(&file, "{\"iptables\": false, \"debug\": true}").expect("a file");
    assert!(place.run(&["--validate"]).status.success());
    let message = errors(&place.run(&["--validate", "--debug"]));
    let expected = "specified both as a flag and in the configuration file: debug: (from flag: \
                    true, from file: true)";
    assert!(message.contains(expected), "{message}");
    let message = errors(&place.run(&["-H", "tcp://127.0.0.1:2375"]));
    assert!(message.contains("moss serves no TCP yet"), "{message}");
    let message = errors(&place.run(&["--storage-driver", "nosuch"]));
    assert!(
        message.contains("unknown storage driver \"nosuch\""),
        "{message}"
    );
    assert!(!place.path("data/moss").exists());
}

#[test]
fn one_daemon_serves_a_data_root_and_leaves_nothing() {
    let place = Place::new();
    let Some(daemon) = place.start(&[]) else {
        return;
    };
    let socket = place.socket();
    let message = errors(&place.run(&[]));
    let expected = format!(
        "another moss daemon (pid {}) uses the data root {} and serves unix://{}",
        daemon.0.id(),
        place.path("data/moss").display(),
        socket.display()
    );
    assert!(message.contains(&expected), "{message}");
    // Another data root, the same socket: what was made before the refusal is removed.
    let first = format!("unix://{}", place.path("first.sock").display());
    let second = format!("unix://{}", socket.display());
    let (other, run) = (place.path("other"), place.path("run/other"));
    let message = errors(&place.run(&[
        "-H",
        &first,
        "-H",
        &second,
        "--data-root",
        other.to_str().expect("text"),
        "--exec-root",
        run.to_str().expect("text"),
    ]));
    assert!(
        message.contains("another engine answers there"),
        "{message}"
    );
    assert!(!place.path("first.sock").exists());
    // SIGHUP is no reason to leave.
    daemon.signal(Signal::SIGHUP);
    assert!(place.ping());
    // A client that waits does not hold the end up, and sees that its answer is not whole.
    let mut waiting = UnixStream::connect(&socket).expect("it listens");
    let request = b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n";
    waiting.write_all(request).expect("it reads");
    let mut head = [0; 15];
    waiting.read_exact(&mut head).expect("it answers");
    assert!(daemon.end(Signal::SIGTERM).success());
    let mut rest = Vec::new();
    waiting.read_to_end(&mut rest).expect("it ends");
    assert!(!rest.ends_with(b"0\r\n\r\n"));
    assert!(!socket.exists());
}

#[test]
fn layers_without_an_image_are_removed_at_the_start() {
    let place = Place::new();
    let Some(daemon) = place.start(&[]) else {
        return;
    };
    let mut tar = tar::Builder::new(File::create(place.path("x.tar")).expect("a file"));
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    tar.append_data(&mut header, "file", std::io::empty())
        .expect("a tar");
    tar.finish().expect("a tar");
    let count = |name: &str| {
        let entries = std::fs::read_dir(place.path("data/moss").join(name));
        entries.expect("a directory").count()
    };
    let before = (count("images"), count("layers"));
    let archive = place.path("x.tar");
    let made = place.verb(&["import", archive.to_str().expect("text"), "x"]);
    let id = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    assert!(made.status.success(), "{made:?}");
    assert_eq!(count("layers"), before.1 + 1);
    // As if it had been killed after the layer and before the image.
    daemon.end(Signal::SIGKILL);
    let hex = id.strip_prefix("sha256:").expect("an id");
    let record = place.path("data/moss/images").join(format!("{hex}.json"));
    std::fs::remove_file(record).expect("the image's record");
    let daemon = place.start(&[]).expect("it could before");
    assert_eq!((count("images"), count("layers")), before);
    assert!(daemon.end(Signal::SIGTERM).success());
}

#[test]
fn verbs_look_where_the_configuration_says() {
    let place = Place::new();
    let (data, file) = (place.path("other"), place.path("config/moss/daemon.json"));
    let roots = serde_json::json!({"data-root": data, "exec-root": place.path("run/other")});
    std::fs::write(&file, roots.to_string()).expect("a file");
    let Some(mut daemon) = place.start(&[]) else {
        return;
    };
    assert_eq!(place.leaks(&[]), "");
    let half = data.join("containers/half");
    std::fs::create_dir(&half).expect("a directory");
    let expected = format!(
        "object     {}: a container without a record\n",
        half.display()
    );
    assert_eq!(place.leaks(&[]), expected);
    // Without -H the engine is found by its data root.
    assert!(place.verb(&["ps"]).status.success());
    let stopped = place.verb(&["system", "stop", "--containers"]);
    assert!(stopped.status.success(), "{stopped:?}");
    let ended = daemon.0.try_wait().expect("a child");
    assert!(ended.is_some_and(|status| status.success()));
    // A file that is named.
    let named = place.path("named.json");
    std::fs::rename(&file, &named).expect("a file");
    assert_eq!(place.leaks(&[]), "");
    let named = named.to_str().expect("text");
    assert_eq!(place.leaks(&["--config-file", named]), expected);
    let message = errors(&place.verb(&["doctor", "--config-file", "/nonexistent/x"]));
    let expected = "unable to configure the Docker daemon with file /nonexistent/x: open \
                    /nonexistent/x: no such file or directory";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn what_a_killed_daemon_leaves_is_taken_over() {
    let place = Place::new();
    let Some(daemon) = place.start(&[]) else {
        return;
    };
    daemon.end(Signal::SIGKILL);
    assert!(place.socket().exists());
    assert!(!place.ping());
    let daemon = place.start(&[]).expect("it could before");
    assert!(daemon.end(Signal::SIGINT).success());
}

#[test]
fn a_deleted_runtime_directory_is_made_anew() {
    let place = Place::new();
    let Some(daemon) = place.start(&[]) else {
        return;
    };
    let run = place.path("run");
    // The daemon may be quicker, and make its socket while the rest is being deleted.
    let delete = || match std::fs::remove_dir_all(&run) {
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
        other => other.expect("a directory"),
    };
    // As logind does with the last session. The daemon notices by itself, also the second time.
    for _ in 0..2 {
        delete();
        let before = Instant::now();
        while !(place.ping() && run.join("moss").exists()) {
            assert!(before.elapsed() < PATIENCE, "the daemon does not serve");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(place.leaks(&[]), "");
    // A verb that comes at once does not start a second daemon.
    delete();
    let told = place.verb(&["ps"]);
    assert!(told.status.success(), "{told:?}");
    assert!(place.ping());
    // Moved away, and something else in its place: nothing can be made there.
    let file = place.path("file");
    std::fs::write(&file, "").expect("a file");
    let cwd = rustix::fs::CWD;
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(cwd, &run, cwd, &file, exchange).expect("a rename");
    let mut second = place.command(&[]);
    let mut ps = Command::new(env!("CARGO_BIN_EXE_moss"));
    for command in [&mut second, ps.arg("ps")] {
        // What they make themselves is elsewhere; the daemon is found by its data root.
        std::fs::create_dir_all(place.path("run2")).expect("a directory");
        place.set(command);
        command.env("XDG_RUNTIME_DIR", place.path("run2"));
    }
    let message = errors(&ps.output().expect("it runs"));
    let expected = format!(
        "the moss daemon (pid {}) runs, but its socket {} was deleted",
        daemon.0.id(),
        place.socket().display()
    );
    assert!(message.contains(&expected), "{message}");
    let message = errors(&second.output().expect("it runs"));
    assert!(message.contains("another moss daemon"), "{message}");
    std::fs::remove_file(&run).expect("a file");
    let told = ps.output().expect("it runs");
    assert!(told.status.success(), "{told:?}");
    assert!(place.ping());
    assert!(daemon.end(Signal::SIGTERM).success());
    assert!(!place.socket().exists());
}

#[test]
fn a_verb_right_after_a_killed_daemon_has_another() {
    let place = Place::new();
    if !place.demand() {
        return;
    }
    let holder = || moss::sys::lock::holder(&place.path("data/moss"));
    for _ in 0..10 {
        let pid = Pid::from_raw(holder().expect("a daemon").pid.cast_signed());
        kill(pid, Signal::SIGKILL).expect("it runs");
        let told = place.verb(&["ps"]);
        assert!(told.status.success(), "{}", errors(&told));
    }
    let last = holder().expect("a daemon");
    kill(Pid::from_raw(last.pid.cast_signed()), Signal::SIGTERM).expect("it runs");
    let before = Instant::now();
    while holder().is_some() && before.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(place.leaks(&[]), "");
}

#[test]
fn a_daemon_takes_the_place_of_one_that_a_verb_started() {
    let place = Place::new();
    if !place.demand() {
        return;
    }
    // With a client it stays, and says so.
    let client = UnixStream::connect(place.socket()).expect("it listens");
    let message = errors(&place.run(&[]));
    assert!(message.contains("a moss command started it"), "{message}");
    drop(client);
    let mut daemon = None;
    let before = Instant::now();
    // It may not have noticed yet that its client is gone.
    while daemon.is_none() && before.elapsed() < PATIENCE {
        let log = File::create(place.path("log")).expect("a file");
        let child = place.command(&[]).stderr(log).spawn().expect("it starts");
        let mut started = Daemon(child);
        while started.0.try_wait().expect("a child").is_none() {
            let holder = moss::sys::lock::holder(&place.path("data/moss"));
            if holder.is_some_and(|holder| holder.pid == started.0.id() && holder.socket.is_some())
            {
                daemon = Some(started);
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let daemon = daemon.expect("it took the place");
    assert!(place.ping());
    assert_eq!(place.leaks(&[]), "");
    assert!(daemon.end(Signal::SIGTERM).success());
}

#[test]
fn sockets_may_be_passed_on() {
    let place = Place::new();
    let message = errors(&place.run(&["-H", "fd://"]));
    assert!(
        message.contains("no sockets found via socket activation"),
        "{message}"
    );
    let listener = UnixListener::bind(place.socket()).expect("a socket");
    let log = File::create(place.path("log")).expect("a file");
    let mut command = Command::new("/bin/sh");
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" daemon -H fd://";
    command.args(["-c", script, env!("CARGO_BIN_EXE_moss")]);
    place.set(&mut command);
    command
        .stdin(std::os::fd::OwnedFd::from(listener))
        .stderr(log);
    let daemon = Daemon(command.spawn().expect("a shell"));
    let Some(daemon) = place.wait_for(daemon) else {
        return;
    };
    assert!(daemon.end(Signal::SIGTERM).success());
    // It is not ours to remove.
    assert!(place.socket().exists());
}

#[test]
fn a_daemon_on_demand_tells_and_lets_go() {
    let place = Place::new();
    // The pipe for the word is descriptor 1; another, which it must not keep, is descriptor 4.
    let (mut held, keeps) = std::io::pipe().expect("a pipe");
    let script = "exec 4>&0 </dev/null; \"$0\" daemon --on-demand --ready-fd 5 5>&1 >/dev/null";
    let mut command = Command::new("/bin/sh");
    command.args([
        "-c",
        &format!("{script} 2>/dev/null & echo $!"),
        env!("CARGO_BIN_EXE_moss"),
    ]);
    place.set(&mut command);
    command.stdin(keeps).stdout(Stdio::piped());
    let mut child = command.spawn().expect("a shell");
    drop(command);
    let mut said = String::new();
    let mut pipe = child.stdout.take().expect("piped");
    // Its end comes only when the daemon has let go of it.
    pipe.read_to_string(&mut said).expect("it tells");
    child.wait().expect("a shell");
    let (pid, word) = said.split_once('\n').expect("a pid");
    if word != "ready\n" {
        let Some(why) = unshare::refused(&[]) else {
            panic!("it says {word}");
        };
        eprintln!("skipped: no user namespaces here: {why}");
        return;
    }
    assert!(place.ping());
    assert_eq!(held.read_to_end(&mut Vec::new()).expect("nobody has it"), 0);
    let pid = Pid::from_raw(pid.parse().expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("it lives");
    let before = Instant::now();
    while place.socket().exists() {
        assert!(before.elapsed() < PATIENCE, "it does not leave");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(place.path("data/moss/daemon.log").exists());
}
