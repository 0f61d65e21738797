//! The sockets that the API is served on.
//!
//! `-H unix://PATH` makes one: bound under a name of its own and renamed into place, so that it
//! appears with mode 0600 and listening, and never without. A socket that is there already is
//! asked first: one that answers belongs to a living server and is left alone, one that refuses is
//! stale and replaced; anything else at that path is not ours to remove. Paths longer than
//! `sun_path` (107 bytes) go through a directory's descriptor. At the end a socket is removed
//! if it is still the one that was made. One that was deleted meanwhile can be made anew, with its
//! directory ([`presence`](super::presence) does).
//!
//! `-H fd://` takes the sockets that systemd passes on (`$LISTEN_FDS`, sd_listen_fds(3)).
//! `tcp://` is refused: without TLS and client certificates it would give this user's account to
//! whoever can connect.

use std::env;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf, absolute};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::sys::fdpass::Address;
use crate::sys::fork::take_inherited;
use crate::sys::paths;

/// Clients that may wait to be accepted; the kernel cuts it to net.core.somaxconn, as dockerd does.
/// Go's clients take a full queue for a failure.
const BACKLOG: i32 = 4096;

/// The first descriptor that systemd passes on (`SD_LISTEN_FDS_START`).
const FIRST_PASSED: i32 = 3;

/// Where to listen, as `-H` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// `unix://PATH`.
    Unix(PathBuf),
    /// `fd://`: every socket that was passed on.
    Passed,
}

/// What can be wrong with a socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// `tcp://`.
    #[error(
        "cannot listen on {0}: moss serves no TCP yet, as that needs TLS with client certificates; \
         use unix:// or fd://"
    )]
    Tcp(String),
    /// Some other form of `-H`.
    #[error("invalid bind address ({0}): should be unix://PATH or fd://")]
    Invalid(String),
    /// `fd://` without sockets.
    #[error("no sockets found via socket activation: make sure the service was started by systemd")]
    NothingPassed,
    /// A passed descriptor that cannot be listened on.
    #[error("cannot listen on the passed descriptor {number}")]
    Passed {
        /// Its number.
        number: i32,
        /// Why.
        source: io::Error,
    },
    /// A living server has the path.
    #[error("cannot listen on {}: another engine answers there", .0.display())]
    Alive(PathBuf),
    /// Something that is not a socket has the path.
    #[error("cannot listen on {}: it exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The socket could not be made.
    #[error("cannot listen on {}", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Host {
    /// Reads a `-H` value; `default` is the path of a bare `unix://`. A path may be relative to the
    /// working directory, which the daemon leaves later.
    pub fn parse(text: &str, default: &Path) -> Result<Host, ListenError> {
        let invalid = || ListenError::Invalid(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
        match scheme {
            "unix" if rest.is_empty() => Ok(Host::Unix(default.to_owned())),
            "unix" if !rest.contains("://") => match absolute(rest) {
                Ok(path) => Ok(Host::Unix(path)),
                Err(_) => Err(invalid()),
            },
            // A name of the unit's is accepted and means all, as moss needs no more than one.
            "fd" => Ok(Host::Passed),
            "tcp" | "http" | "https" => Err(ListenError::Tcp(text.to_owned())),
            _ => Err(invalid()),
        }
    }
}

/// The sockets that were passed on to this process, taken once.
pub fn passed() -> Vec<OwnedFd> {
    let number = |name: &str| env::var(name).ok()?.parse::<u32>().ok();
    // The variables are inherited further than the descriptors are meant to be.
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Vec::new();
    }
    let count = i32::try_from(number("LISTEN_FDS").unwrap_or(0)).unwrap_or(0);
    let numbers = FIRST_PASSED..FIRST_PASSED.saturating_add(count.min(64));
    numbers
        .filter_map(|number| take_inherited(number).ok())
        .collect()
}

/// A socket that is listened on.
#[derive(Debug)]
pub struct Socket {
    /// Where connections come in; non-blocking.
    pub listener: UnixListener,
    /// Where it lies, if it was made here.
    pub path: Option<PathBuf>,
    /// Device and inode of what was made.
    identity: Option<(u64, u64)>,
}

impl Socket {
    /// Makes a socket at `path`.
    pub fn bind(path: &Path) -> Result<Socket, ListenError> {
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ListenError::NotASocket(path.to_owned()));
            }
            Ok(_) if answers(path) => return Err(ListenError::Alive(path.to_owned())),
            _ => {}
        }
        let failed = |source| ListenError::Bind {
            path: path.to_owned(),
            source,
        };
        let (listener, identity) = place(path).map_err(failed)?;
        Ok(Socket {
            listener,
            path: Some(path.to_owned()),
            identity: Some(identity),
        })
    }

    /// Takes a socket that was passed on.
    pub fn adopt(descriptor: OwnedFd) -> Result<Socket, ListenError> {
        let number = descriptor.as_raw_fd();
        let failed = |source| ListenError::Passed { number, source };
        let kind = rustix::net::sockopt::socket_domain(&descriptor)
            .map_err(|error| failed(error.into()))?;
        if kind != AddressFamily::UNIX {
            return Err(failed(io::Error::other("it is not a unix socket")));
        }
        let listener = UnixListener::from(descriptor);
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Socket {
            listener,
            path: None,
            identity: None,
        })
    }

    /// Whether there is nothing at its path any more.
    pub fn is_lost(&self) -> bool {
        let lost = |path: &PathBuf| {
            let found = fs::symlink_metadata(path);
            found.is_err_and(|error| is_nothing(&error))
        };
        self.path.as_ref().is_some_and(lost)
    }

    /// Another socket at the path of one that is lost; the directory is made where it is missing,
    /// for this user alone.
    pub fn anew(&self) -> Result<Socket, ListenError> {
        let path = self.path.clone().unwrap_or_default();
        let directory = match path.parent() {
            Some(parent) if !parent.exists() => paths::private_dir(parent),
            _ => Ok(()),
        };
        directory.map_err(|source| ListenError::Bind {
            path: path.clone(),
            source,
        })?;
        Socket::bind(&path)
    }

    /// Removes what was made, unless something else took its place.
    pub fn remove(&self) {
        let (Some(path), Some(identity)) = (&self.path, self.identity) else {
            return;
        };
        let there = fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()));
        if matches!(there, Ok(there) if there == identity)
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(%error, path = %path.display(), "cannot remove the socket");
        }
    }
}

/// Whether an error says that there is nothing at a path.
fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Whether a server answers at `path`.
fn answers(path: &Path) -> bool {
    Address::of(path)
        .and_then(|address| UnixStream::connect(address.path()))
        .is_ok()
}

/// Binds, listens and moves into place; device and inode of the socket.
fn place(path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::other("it names no file"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &Address::of(&temporary)?.socket()?)?;
    let placed = (|| {
        // Nobody can connect before listen(), so the mode is in time. (The file mode creation mask
        // belongs to the process, and its other threads make files.)
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&socket, BACKLOG)?;
        let made = fs::symlink_metadata(&temporary)?;
        fs::rename(&temporary, path)?;
        Ok((made.dev(), made.ino()))
    })();
    let identity = placed.inspect_err(|_: &io::Error| {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    })?;
    Ok((UnixListener::from(socket), identity))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn hosts_are_read_or_refused() {
        let default = Path::new("/run/user/7/moss.sock");
        let parse = |text| Host::parse(text, default);
        assert_eq!(parse("unix://").unwrap(), Host::Unix(default.into()));
        assert_eq!(parse("unix:///a/b").unwrap(), Host::Unix("/a/b".into()));
        let here = std::env::current_dir().unwrap();
        assert_eq!(parse("unix://a/b").unwrap(), Host::Unix(here.join("a/b")));
        assert_eq!(parse("fd://").unwrap(), Host::Passed);
        assert!(matches!(
            parse("tcp://0.0.0.0:2375"),
            Err(ListenError::Tcp(_))
        ));
        for invalid in [
            "",
            "unix",
            "unix://unix:///a",
            "npipe:////./pipe/x",
            "/run/x",
        ] {
            assert!(
                matches!(parse(invalid), Err(ListenError::Invalid(_))),
                "{invalid}"
            );
        }
    }

    #[test]
    fn a_socket_is_private_and_replaces_only_stale_ones() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        let socket = Socket::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(Socket::bind(&path), Err(ListenError::Alive(_))));
        drop(socket);
        let second = Socket::bind(&path).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        second.remove();
        assert!(!path.exists());
        // Not what someone else put there.
        fs::write(&path, "mine").unwrap();
        assert!(matches!(
            Socket::bind(&path),
            Err(ListenError::NotASocket(_))
        ));
        second.remove();
        assert!(path.exists());
    }

    #[test]
    fn a_lost_socket_is_made_anew_with_its_directory() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/s");
        fs::create_dir(path.parent().unwrap()).unwrap();
        let socket = Socket::bind(&path).unwrap();
        assert!(!socket.is_lost());
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        assert!(socket.is_lost());
        let again = socket.anew().unwrap();
        assert!(answers(&path) && !again.is_lost());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        // What took its place is left alone.
        again.remove();
        fs::write(&path, "mine").unwrap();
        assert!(!again.is_lost());
        assert!(socket.anew().is_err());
        again.remove();
        assert!(path.exists());
    }

    #[test]
    fn long_paths_are_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("d".repeat(150));
        fs::create_dir(&directory).unwrap();
        let path = directory.join("socket");
        let socket = Socket::bind(&path).unwrap();
        assert!(answers(&path));
        socket.remove();
        assert!(!path.exists());
    }
}
