//! Docker's `config.json`: its entries, and how it is replaced.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::CredentialStore;
use crate::registry::auth::Credentials;
use crate::registry::error::Error;

impl CredentialStore {
    pub(super) fn get_from_file(&self, server: &str) -> Result<Option<Credentials>, Error> {
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

    pub(super) fn save(&self) -> Result<(), Error> {
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

/// User and password of an `auth`.
pub(super) fn decoded(auth: &str) -> Option<(String, String)> {
    let pair = STANDARD.decode(auth.trim()).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    let (username, password) = pair.split_once(':')?;
    let password = password.trim_matches('\0').to_owned();
    (!username.is_empty()).then(|| (username.to_owned(), password))
}

pub(super) fn entry_of(credentials: &Credentials) -> Value {
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
pub(super) fn host_of(key: &str) -> &str {
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
