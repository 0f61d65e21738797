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

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::auth::Credentials;
use super::config::{HUB, HUB_SERVER};
use super::error::Error;

/// A user by this name means that the secret is a refresh token.
const TOKEN_USER: &str = "<token>";
/// What a helper says of credentials that it does not have.
const NOT_FOUND: &str = "credentials not found in native keychain";
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
            serde_json::from_slice(&text)
                .map_err(|error| Error::Invalid(format!("{}: {error}", path.display())))?
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
            serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
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

    /// The helper for a registry: its own, the one for all, or the one that Docker finds.
    fn helper(&self, server: &str) -> Option<String> {
        let text = |value: &Value| {
            value
                .as_str()
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
        };
        // One that is named with an empty string means the file.
        if let Some(own) = self
            .fields
            .get("credHelpers")
            .and_then(|all| all.get(server))
        {
            return text(own);
        }
        if let Some(store) = self.fields.get("credsStore").and_then(text) {
            return Some(store);
        }
        let configured = ["auths", "credHelpers"].iter().any(|name| {
            let value = self.fields.get(*name).and_then(Value::as_object);
            value.is_some_and(|value| !value.is_empty())
        });
        if configured {
            return None;
        }
        let default = if self.find("pass").is_some() {
            "pass"
        } else {
            "secretservice"
        };
        self.find(&format!("docker-credential-{default}"))
            .map(|_| default.to_owned())
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        self.search
            .iter()
            .map(|directory| directory.join(program))
            .find(|path| {
                fs::metadata(path)
                    .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
            })
    }

    fn get_from_file(&self, server: &str) -> Result<Option<Credentials>, Error> {
        let Some(auths) = self.fields.get("auths").and_then(Value::as_object) else {
            return Ok(None);
        };
        let entry = auths.get(server).or_else(|| {
            // Old files have URLs for keys.
            auths
                .iter()
                .find(|(key, _)| host_of(key) == server)
                .map(|(_, entry)| entry)
        });
        entry.map_or(Ok(None), |entry| self.credentials_of(entry))
    }

    fn credentials_of(&self, entry: &Value) -> Result<Option<Credentials>, Error> {
        let text = |name: &str| {
            let value = entry.get(name).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        let mut credentials = Credentials {
            username: text("username"),
            password: text("password"),
            identity_token: text("identitytoken"),
            registry_token: text("registrytoken"),
        };
        let auth = text("auth");
        if !auth.is_empty() {
            let invalid = || {
                Error::Invalid(format!(
                    "{}: Invalid auth configuration file",
                    self.path.display()
                ))
            };
            (credentials.username, credentials.password) = decoded(&auth).ok_or_else(invalid)?;
        }
        Ok((credentials != Credentials::default()).then_some(credentials))
    }

    fn get_from(&self, helper: &str, server: &str) -> Result<Option<Credentials>, Error> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            #[serde(default)]
            username: String,
            #[serde(default)]
            secret: String,
        }

        let output = match self.run(helper, "get", "getting", server.as_bytes())? {
            Ok(output) => output,
            Err(output) if output.is_not_found() => return Ok(None),
            Err(output) => return Err(output.into_error("getting")),
        };
        // What the helper printed may hold a secret: it is in no error.
        let answer: Answer = serde_json::from_slice(&output).map_err(|error| {
            Error::Invalid(format!(
                "docker-credential-{helper}: invalid answer: {error}"
            ))
        })?;
        Ok(Some(if answer.username == TOKEN_USER {
            Credentials {
                identity_token: answer.secret,
                ..Credentials::default()
            }
        } else {
            Credentials {
                username: answer.username,
                password: answer.secret,
                ..Credentials::default()
            }
        }))
    }

    /// Runs a helper: its output, or what it said when it failed.
    fn run(
        &self,
        helper: &str,
        verb: &str,
        action: &'static str,
        input: &[u8],
    ) -> Result<Result<Vec<u8>, Failed>, Error> {
        let name = format!("docker-credential-{helper}");
        let failed = |reason: String| Error::Helper {
            action,
            reason,
            output: String::new(),
        };
        let missing = || {
            failed(format!(
                "exec: {name:?}: executable file not found in $PATH"
            ))
        };
        let program = Some(&name)
            .filter(|name| !name.contains('/'))
            .and_then(|name| self.find(name))
            .ok_or_else(missing)?;
        let mut child = Command::new(program)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read may still answer.
            let _ = stdin.write_all(input);
        }
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout
                .take(LENGTH_MAX)
                .read_to_end(&mut output)
                .map_err(|error| failed(error.to_string()))?;
        }
        let status = child.wait().map_err(|error| failed(error.to_string()))?;
        if status.success() {
            return Ok(Ok(output));
        }
        let reason = match status.code() {
            Some(code) => format!("exit status {code}"),
            None => status.to_string(),
        };
        Ok(Err(Failed {
            reason,
            output: String::from_utf8_lossy(&output).trim().to_owned(),
        }))
    }

    fn save(&self) -> Result<(), Error> {
        let failed = |source| Error::Credentials {
            what: "write",
            path: self.path.display().to_string(),
            source,
        };
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        serde::Serialize::serialize(&self.fields, &mut serializer)
            .map_err(|error| failed(error.into()))?;
        replace(&self.path, &text).map_err(failed)
    }
}

/// What a helper that failed had to say.
struct Failed {
    reason: String,
    output: String,
}

impl Failed {
    fn is_not_found(&self) -> bool {
        self.output == NOT_FOUND
    }

    fn into_error(self, action: &'static str) -> Error {
        Error::Helper {
            action,
            reason: self.reason,
            output: self.output,
        }
    }
}

/// User and password of an `auth`.
fn decoded(auth: &str) -> Option<(String, String)> {
    let pair = STANDARD.decode(auth.trim()).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    let (username, password) = pair.split_once(':')?;
    let password = password.trim_matches('\0').to_owned();
    (!username.is_empty()).then(|| (username.to_owned(), password))
}

fn entry_of(credentials: &Credentials) -> Value {
    let mut entry = Map::new();
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            entry.insert(name.to_owned(), value.into());
        }
    };
    if !credentials.username.is_empty() || !credentials.password.is_empty() {
        let pair = format!("{}:{}", credentials.username, credentials.password);
        add("auth", STANDARD.encode(pair));
    }
    add("identitytoken", credentials.identity_token.clone());
    add("registrytoken", credentials.registry_token.clone());
    Value::Object(entry)
}

/// The host and port of a key.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// Replaces a file whole; of a link, what it points to.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).create(parent)?;
    }
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mode = fs::metadata(&path).map_or(0o600, |data| data.permissions().mode() & 0o777);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tmp-{}", std::process::id()));
    let temporary = path.with_file_name(name);
    // Left by a process of the same id that died: in the way, and nobody's.
    let _ = fs::remove_file(&temporary);
    let written = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(text)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somebody() -> Credentials {
        Credentials {
            username: "u".into(),
            password: "p:q".into(),
            ..Credentials::default()
        }
    }

    fn open(path: &Path) -> CredentialStore {
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

    /// Makes a program. Another writes it: what is open for writing in a fork of this test's
    /// neighbours could not be executed.
    fn program(path: &Path, text: &str) {
        let mut child = Command::new("sh")
            .args(["-c", "cat >\"$0\" && chmod 700 \"$0\""])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(text.as_bytes()).expect("it reads");
        drop(stdin);
        assert!(child.wait().is_ok_and(|status| status.success()));
    }

    #[test]
    fn helpers() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.json");
        let kept = directory.path().join("kept");
        let helper = format!(
            "#!/bin/sh\ncase $1 in\nget) read -r server; [ -s {kept} ] || {{ echo '{NOT_FOUND}'; exit 1; }}\n\
             [ \"$server\" != broken ] || {{ echo oops; exit 3; }}\ncat {kept};;\n\
             store) cat >{kept};;\nerase) rm {kept};;\nesac\n",
            kept = kept.display()
        );
        program(&directory.path().join("docker-credential-test"), &helper);
        fs::write(
            &path,
            r#"{"credsStore":"test","credHelpers":{"plain":"","gone":"absent"}}"#,
        )
        .expect("a file");

        let mut store = open(&path);
        assert_eq!(store.get("r").ok(), Some(None));
        assert!(store.store("r", &somebody()).is_ok_and(|plain| !plain));
        assert_eq!(store.get("r").ok(), Some(Some(somebody())));
        assert!(fs::read_to_string(&path).is_ok_and(|text| !text.contains("dTpw")));
        let token = Credentials {
            identity_token: "t".into(),
            ..Credentials::default()
        };
        store.store("r", &token).expect("it is stored");
        assert_eq!(store.get("r").ok(), Some(Some(token)));
        assert_eq!(
            store.get("broken").map_err(|error| error.to_string()),
            Err("error getting credentials - err: exit status 3, out: `oops`".into())
        );
        assert_eq!(
            store.get("gone").map_err(|error| error.to_string()),
            Err("error getting credentials - err: exec: \"docker-credential-absent\": executable file not found in $PATH, out: ``".into())
        );
        assert_eq!(store.get("plain").ok(), Some(None));
        assert!(store.erase("r").is_ok());
        assert_eq!(store.get("r").ok(), Some(None));
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
    fn the_keyring_is_found() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.json");
        assert_eq!(open(&path).helper("r"), None);
        for name in ["pass", "docker-credential-pass"] {
            program(&directory.path().join(name), "");
        }
        assert_eq!(open(&path).helper("r").as_deref(), Some("pass"));
        fs::write(&path, r#"{"auths":{"r":{}}}"#).expect("a file");
        assert_eq!(open(&path).helper("r"), None);
    }

    #[test]
    fn keys() {
        assert_eq!(server_of("docker.io"), "https://index.docker.io/v1/");
        assert_eq!(server_of("r.example:5000"), "r.example:5000");
        assert_eq!(host_of("https://r.example:5000/v2/"), "r.example:5000");
    }
}
