//! Credential helpers: programs that keep secrets in a keyring.
//!
//! `docker-credential-NAME` is given `get`, `store` or `erase` and talks JSON over stdin and stdout.
//! What it prints may hold a secret, so it is in no error unless the helper says that it failed.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{CredentialStore, LENGTH_MAX};
use crate::registry::auth::Credentials;
use crate::registry::error::{Error, without_value};

/// A user by this name means that the secret is a refresh token.
pub(super) const TOKEN_USER: &str = "<token>";

/// What a helper says of credentials that it does not have.
const NOT_FOUND: &str = "credentials not found in native keychain";

impl CredentialStore {
    /// The helper for a registry: its own, the one for all, or the one that Docker finds.
    pub(super) fn helper(&self, server: &str) -> Option<String> {
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

    pub(super) fn get_from(
        &self,
        helper: &str,
        server: &str,
    ) -> Result<Option<Credentials>, Error> {
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
                "docker-credential-{helper}: invalid answer: {}",
                without_value(&error)
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
    pub(super) fn run(
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
}

/// What a helper that failed had to say.
pub(super) struct Failed {
    reason: String,
    output: String,
}

impl Failed {
    pub(super) fn is_not_found(&self) -> bool {
        self.output == NOT_FOUND
    }

    pub(super) fn into_error(self, action: &'static str) -> Error {
        Error::Helper {
            action,
            reason: self.reason,
            output: self.output,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tests::{open, somebody};
    use super::*;

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
}
