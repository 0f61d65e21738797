//! Where moss keeps things: the runtime directory, the data root, the API socket.
//!
//! | what | where |
//! |---|---|
//! | exec root | `$XDG_RUNTIME_DIR/moss`: sockets, identities, running state; gone with the boot |
//! | API socket | `$XDG_RUNTIME_DIR/moss.sock` |
//! | data root | `${XDG_DATA_HOME:-~/.local/share}/moss` |
//! | configuration | `${XDG_CONFIG_HOME:-~/.config}/moss` |
//!
//! Without `$XDG_RUNTIME_DIR`: `/run/user/UID` if it is the user's own, else a directory of the
//! user's under `$TMPDIR`. Such a directory may have been made by someone else to lure us, so every
//! directory that holds sockets is checked for its owner and mode before it is used. One that
//! others may write to is refused even if it is named: they could put a socket of theirs there.
//! That others may look at it, which the XDG base directory specification forbids too, does no harm.
//!
//! Resolve before joining the keeper's namespaces: inside, the user's id is 0.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The places of one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Sockets, identities and running state.
    pub exec_root: PathBuf,
    /// Images, layers, containers, volumes.
    pub data_root: PathBuf,
    /// The API socket where none is asked for.
    pub socket: PathBuf,
    /// Where `daemon.json` lies.
    pub config: PathBuf,
}

impl Paths {
    /// This user's places, as the environment names them.
    ///
    /// # Errors
    /// Where there is no safe runtime directory, or no home directory is known.
    pub fn of_user() -> io::Result<Self> {
        let uid = rustix::process::geteuid().as_raw();
        let runtime = runtime_dir(uid)?;
        Ok(Self {
            exec_root: runtime.join("moss"),
            socket: runtime.join("moss.sock"),
            data_root: base("XDG_DATA_HOME", ".local/share", uid)?.join("moss"),
            config: base("XDG_CONFIG_HOME", ".config", uid)?.join("moss"),
        })
    }
}

impl Paths {
    /// The variables that lead [`Paths::of_user`] here, whatever the user's id is then.
    pub fn variables(&self) -> [(&'static str, &Path); 3] {
        fn above(path: &Path) -> &Path {
            path.parent().unwrap_or(path)
        }
        [
            ("XDG_RUNTIME_DIR", above(&self.exec_root)),
            ("XDG_DATA_HOME", above(&self.data_root)),
            ("XDG_CONFIG_HOME", above(&self.config)),
        ]
    }
}

/// The user's runtime directory, made where it must be.
pub fn runtime_dir(uid: u32) -> io::Result<PathBuf> {
    if let Some(path) = absolute("XDG_RUNTIME_DIR") {
        check_named(&path, uid)?;
        return Ok(path);
    }
    let path = PathBuf::from(format!("/run/user/{uid}"));
    if std::fs::metadata(&path).is_ok_and(|metadata| metadata.uid() == uid) {
        return Ok(path);
    }
    let temporary = absolute("TMPDIR").unwrap_or_else(|| "/tmp".into());
    let path = temporary.join(format!("moss-{uid}"));
    private_dir(&path)?;
    Ok(path)
}

/// Refuses a directory that `$XDG_RUNTIME_DIR` names and in which others could act. One that is not
/// there will be made.
fn check_named(path: &Path, uid: u32) -> io::Result<()> {
    let Ok(metadata) = std::fs::metadata(path) else {
        return Ok(());
    };
    let why = if metadata.uid() != uid {
        "belongs to another user"
    } else if metadata.mode() & 0o022 != 0 {
        "can be written by other users"
    } else {
        return Ok(());
    };
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "XDG_RUNTIME_DIR {path} {why}: it must be yours alone (`chmod 700 {path}`); or name \
             another, or unset it",
            path = path.display()
        ),
    ))
}

/// Makes `path`, mode 0700, or checks that it is a directory that only this user can enter. Others
/// may be making it at the same time. What is missing above it gets the same mode, as the XDG
/// base directory specification asks for.
///
/// # Errors
/// `PermissionDenied`, with the path in the message, where it is someone else's or open to others.
pub fn private_dir(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    match builder.recursive(true).mode(0o700).create(path) {
        // Told of below, if it is no directory.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    let metadata = std::fs::symlink_metadata(path)?;
    let refused = |why: &str| {
        let message = format!("{} {why}", path.display());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
    };
    if !metadata.is_dir() {
        return refused("is not a directory");
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return refused("belongs to another user");
    }
    if metadata.mode() & 0o022 != 0 {
        return refused("can be written by other users");
    }
    if metadata.mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// The user's home directory: `$HOME`, else what /etc/passwd says.
pub fn home(uid: u32) -> io::Result<PathBuf> {
    if let Some(home) = absolute("HOME") {
        return Ok(home);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    home_in(&passwd, uid).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("$HOME is not set and user {uid} has none"),
        )
    })
}

fn home_in(passwd: &str, uid: u32) -> Option<PathBuf> {
    passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let mine = fields.get(2)?.parse::<u32>().ok()? == uid;
        let home = Path::new(*fields.get(5)?);
        (mine && home.is_absolute()).then(|| home.to_owned())
    })
}

fn base(variable: &str, below_home: &str, uid: u32) -> io::Result<PathBuf> {
    match absolute(variable) {
        Some(path) => Ok(path),
        None => Ok(home(uid)?.join(below_home)),
    }
}

/// A variable that holds an absolute path; others are to be ignored (XDG base directories).
fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .map(|value: OsString| value.into())
        .filter(|path: &PathBuf| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_directory_is_made_or_checked() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        private_dir(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o700, 0o700));
        private_dir(&path).unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = root.path().join(format!("c/{}", number / 4));
                scope.spawn(move || private_dir(&path).unwrap());
            }
        });
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(
            private_dir(&path)
                .unwrap_err()
                .to_string()
                .ends_with("by other users")
        );
        let file = root.path().join("file");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(
            private_dir(&file)
                .unwrap_err()
                .to_string()
                .ends_with("is not a directory")
        );
        let link = root.path().join("link");
        std::os::unix::fs::symlink(root.path(), &link).unwrap();
        assert!(private_dir(&link).is_err());
    }

    #[test]
    fn a_named_runtime_directory_is_ours_alone() {
        let root = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let path = root.path().join("run");
        check_named(&path, uid).unwrap();
        std::fs::create_dir(&path).unwrap();
        for (mode, fits) in [
            (0o700, true),
            (0o755, true),
            (0o775, false),
            (0o777, false),
            (0o1777, false),
        ] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let told = check_named(&path, uid).map_err(|error| error.to_string());
            assert_eq!(told.is_ok(), fits, "{mode:o}: {told:?}");
            let named = |told: String| told.contains(&format!("chmod 700 {}", path.display()));
            assert!(told.map_or_else(named, |()| true));
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let told = check_named(&path, uid + 1).unwrap_err().to_string();
        assert!(told.contains("belongs to another user"), "{told}");
    }

    #[test]
    fn homes_are_found_in_passwd() {
        let passwd = "broken\na:x:7:7:::\nb:x:1001:1001::/home/b:/bin/sh\n";
        assert_eq!(home_in(passwd, 1001), Some("/home/b".into()));
        assert_eq!(home_in(passwd, 7), None);
    }
}
