//! Where a person's credentials are kept: Docker's `config.json`, and credential helpers.
//!
//! For the command line only: the daemon is sent credentials with each request and keeps none. The
//! file is Docker's own, so that who has logged in by one program is logged in with the other;
//! what it holds besides is kept as it is. For each registry a helper may be named (`credHelpers`),
//! or one for all (`credsStore`): a program `docker-credential-NAME` that is given `get`, `store`
//! or `erase` and talks JSON over stdin and stdout. Where nothing is configured and `pass` or the
//! desktop's keyring have their helpers installed, those are used, as Docker does. Credentials that
//! the environment holds (`DOCKER_AUTH_CONFIG`, [`CredentialStore::prefer`]) come before all others,
//! and are written nowhere.
//!
//! The file is replaced whole, keeps its mode, and is for its owner alone when it is new. Of a
//! symbolic link the target is replaced.

mod file;
mod helper;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::auth::Credentials;
use super::config::{HUB, HUB_SERVER};
use super::error::{Error, without_value};
use file::{decoded, entry_of};
use helper::TOKEN_USER;

/// Longest file and longest answer of a helper, in bytes.
const LENGTH_MAX: u64 = 4 << 20;

/// A person's credentials.
pub struct CredentialStore {
    path: PathBuf,
    fields: Map<String, Value>,
    /// The directories in which helpers are.
    search: Vec<PathBuf>,
    /// Credentials that come before those of file and helpers, by server.
    preferred: HashMap<String, Credentials>,
}

/// What `DOCKER_AUTH_CONFIG` holds, and nothing else.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Preferred {
    #[serde(default)]
    auths: HashMap<String, PreferredEntry>,
}

/// One server's credentials in it.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PreferredEntry {
    #[serde(default)]
    auth: String,
}

/// The key under which a registry's credentials are kept, by a reference's domain.
pub fn server_of(domain: &str) -> &str {
    if domain.is_empty() || domain == HUB || domain == "index.docker.io" {
        HUB_SERVER
    } else {
        domain
    }
}

impl CredentialStore {
    /// Reads a `config.json`, which need not exist. Helpers are looked for in `search`, a `PATH`.
    pub fn open(path: &Path, search: Option<&OsStr>) -> Result<Self, Error> {
        let mut text = Vec::new();
        let read =
            fs::File::open(path).and_then(|file| file.take(LENGTH_MAX).read_to_end(&mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(Error::Credentials {
                    what: "read",
                    path: path.display().to_string(),
                    source,
                });
            }
        }
        let fields = if text.trim_ascii().is_empty() {
            Map::new()
        } else {
            serde_json::from_slice(&text).map_err(|error| {
                Error::Invalid(format!("{}: {}", path.display(), without_value(&error)))
            })?
        };
        Ok(Self {
            path: path.to_owned(),
            fields,
            search: search.map_or_else(Vec::new, |path| std::env::split_paths(path).collect()),
            preferred: HashMap::new(),
        })
    }

    /// Lets the credentials of a `DOCKER_AUTH_CONFIG` come before all others.
    ///
    /// # Errors
    /// What is wrong with it; nothing has changed then. The error holds no secret.
    pub fn prefer(&mut self, text: &str) -> Result<(), Error> {
        let invalid = |reason: String| Error::Invalid(reason);
        let found: Preferred =
            serde_json::from_str(text).map_err(|error| invalid(without_value(&error)))?;
        let mut preferred = HashMap::new();
        for (server, entry) in found.auths {
            if entry.auth.is_empty() {
                return Err(invalid(format!(
                    "DOCKER_AUTH_CONFIG environment variable is missing key `auth` for {server}"
                )));
            }
            let (username, password) = decoded(&entry.auth)
                .ok_or_else(|| invalid("invalid auth configuration file".to_owned()))?;
            let credentials = Credentials {
                username,
                password,
                ..Credentials::default()
            };
            preferred.insert(server, credentials);
        }
        self.preferred = preferred;
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The credentials for a registry; nothing if there are none.
    pub fn get(&self, server: &str) -> Result<Option<Credentials>, Error> {
        if let Some(found) = self.preferred.get(server) {
            return Ok(Some(found.clone()));
        }
        match self.helper(server) {
            Some(helper) => self.get_from(&helper, server),
            None => self.get_from_file(server),
        }
    }

    /// Keeps credentials; whether they were put into the file, readable for who can read it.
    pub fn store(&mut self, server: &str, credentials: &Credentials) -> Result<bool, Error> {
        let helper = self.helper(server);
        let entry = match &helper {
            Some(helper) => {
                let (username, secret) = if credentials.identity_token.is_empty() {
                    (credentials.username.as_str(), &credentials.password)
                } else {
                    (TOKEN_USER, &credentials.identity_token)
                };
                let input = serde_json::json!({
                    "ServerURL": server,
                    "Username": username,
                    "Secret": secret,
                });
                self.run(helper, "store", "storing", input.to_string().as_bytes())?
                    .map_err(|output| output.into_error("storing"))?;
                // Docker marks the registry, so that a logout knows of it.
                Value::Object(Map::new())
            }
            None => entry_of(credentials),
        };
        let auths = self
            .fields
            .entry("auths")
            .or_insert_with(|| Value::Object(Map::new()));
        if !auths.is_object() {
            *auths = Value::Object(Map::new());
        }
        if let Some(auths) = auths.as_object_mut() {
            let before = auths.insert(server.to_owned(), entry.clone());
            if before.is_some_and(|before| before == entry) {
                return Ok(false);
            }
        }
        self.save()?;
        Ok(helper.is_none())
    }

    /// Forgets the credentials for a registry; whether there may have been some.
    pub fn erase(&mut self, server: &str) -> Result<bool, Error> {
        let helper = self.helper(server);
        if let Some(helper) = &helper {
            match self.run(helper, "erase", "erasing", server.as_bytes())? {
                Ok(_) => {}
                Err(output) if output.is_not_found() => {}
                Err(output) => return Err(output.into_error("erasing")),
            }
        }
        let auths = self.fields.get_mut("auths").and_then(Value::as_object_mut);
        let removed = auths.is_some_and(|auths| auths.shift_remove(server).is_some());
        if removed {
            self.save()?;
        }
        Ok(removed || helper.is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::file::host_of;
    use super::*;

    pub(super) fn somebody() -> Credentials {
        Credentials {
            username: "u".into(),
            password: "p:q".into(),
            ..Credentials::default()
        }
    }

    pub(super) fn open(path: &Path) -> CredentialStore {
        CredentialStore::open(path, path.parent().map(Path::as_os_str)).expect("it opens")
    }

    #[test]
    fn keeps_what_else_is_in_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("docker/config.json");
        let mut store = open(&path);
        assert_eq!(store.get("r.example").ok(), Some(None));
        assert!(
            store
                .store("r.example", &somebody())
                .is_ok_and(|plain| plain)
        );
        let mode = fs::metadata(&path).map(|data| data.permissions().mode() & 0o777);
        assert_eq!(mode.ok(), Some(0o600));
        assert_eq!(open(&path).get("r.example").ok(), Some(Some(somebody())));

        fs::write(
            &path,
            r#"{"psFormat":"x","auths":{"https://old.example/v1/":{"auth":"dTpwOnE="},"none":{}}}"#,
        )
        .expect("a file");
        let mut store = open(&path);
        assert_eq!(store.get("old.example").ok(), Some(Some(somebody())));
        assert_eq!(store.get("none").ok(), Some(None));
        assert!(
            store
                .erase("https://old.example/v1/")
                .is_ok_and(|erased| erased)
        );
        assert!(store.erase("absent").is_ok_and(|erased| !erased));
        let text = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            text,
            "{\n\t\"psFormat\": \"x\",\n\t\"auths\": {\n\t\t\"none\": {}\n\t}\n}"
        );
    }

    #[test]
    fn a_link_stays_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, target) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&target, "").expect("a file");
        fs::set_permissions(&target, Permissions::from_mode(0o640)).expect("it is ours");
        std::os::unix::fs::symlink(&target, &path).expect("a link");
        open(&path).store("r", &somebody()).expect("it is stored");
        assert!(path.is_symlink());
        assert_eq!(open(&target).get("r").ok(), Some(Some(somebody())));
        let mode = fs::metadata(&target).map(|data| data.permissions().mode() & 0o777);
        assert_eq!(mode.ok(), Some(0o640));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.json");
        fs::write(&path, "[]").expect("a file");
        assert!(CredentialStore::open(&path, None).is_err());
        for auth in ["!", "bm9jb2xvbg==", "OnA=", "//8="] {
            fs::write(&path, format!(r#"{{"auths":{{"r":{{"auth":"{auth}"}}}}}}"#))
                .expect("a file");
            let error = open(&path).get("r").map_err(|error| error.to_string());
            assert!(error.is_err_and(|text| text.ends_with("Invalid auth configuration file")));
        }
    }

    #[test]
    fn the_environment_comes_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.json");
        fs::write(
            &path,
            r#"{"auths":{"r":{"auth":"YTpi"},"other":{"auth":"YTpi"}}}"#,
        )
        .expect("a file");
        let mut store = open(&path);
        let good = r#"{"auths":{"r":{"auth":"dTpwOnE="}}}"#;
        assert!(store.prefer(good).is_ok());
        assert_eq!(store.get("r").ok(), Some(Some(somebody())));
        let other = store.get("other").ok().flatten();
        assert_eq!(other.map(|found| found.username), Some("a".into()));
        for (text, reason) in [
            ("{", "EOF while parsing"),
            (r#"{"auth":{}}"#, "unknown field"),
            (r#"{"auths":{"r":{"username":"u"}}}"#, "unknown field"),
            (r#"{"auths":{}} {}"#, "trailing characters"),
            // Without what it says instead.
            (
                r#"{"auths":{"r":"dTpwOnE="}}"#,
                "invalid type: string, expected struct PreferredEntry",
            ),
            (
                r#"{"auths":{"r":{}}}"#,
                "DOCKER_AUTH_CONFIG environment variable is missing key `auth` for r",
            ),
            (
                r#"{"auths":{"r":{"auth":"!"}}}"#,
                "invalid auth configuration file",
            ),
        ] {
            let error = store.prefer(text).map_err(|error| error.to_string());
            assert!(error.is_err_and(|error| error.contains(reason)), "{text}");
        }
        // What cannot be read changes nothing.
        assert_eq!(store.get("r").ok(), Some(Some(somebody())));
    }

    #[test]
    fn keys() {
        assert_eq!(server_of("docker.io"), "https://index.docker.io/v1/");
        assert_eq!(server_of("r.example:5000"), "r.example:5000");
        assert_eq!(host_of("https://r.example:5000/v2/"), "r.example:5000");
    }
}
