//! Accounts at registries: `moss login`, `moss logout`, and the proof that goes with a pull, a push
//! or a search.
//!
//! Passwords are where docker keeps them ([`CredentialStore`]: `config.json` in `$DOCKER_CONFIG` or
//! `~/.docker`, and credential helpers), so that one login does for both programs. The engine is
//! sent them with each request and keeps none.

use std::env;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};

use super::args;
use super::engine::Client;
use super::error::{Exit, describe, refusal};
use super::http::Target;
use super::output::{complain, line};
use super::terminal;
use crate::api::auth::{AuthConfig, AuthResponse};
use crate::registry::{CredentialStore, Credentials, HUB_SERVER, server_of};

/// The status of a program that was ended by control-c.
const INTERRUPTED: i32 = 130;

/// Longest password that is read from standard input, in bytes.
const PASSWORD_MAX: u64 = 1 << 20;

/// `moss login`.
pub fn login(client: &Client, login: &args::Login) -> Result<()> {
    warn_of_environment();
    let (username, password) = typed(login)?;
    let server = match login.server.as_deref() {
        None | Some("" | "docker.io") => HUB_SERVER.to_owned(),
        Some(HUB_SERVER) => HUB_SERVER.to_owned(),
        Some(server) => host_of(server).to_owned(),
    };
    let mut store = store()?;
    let mut kept = None;
    if username.is_empty() && password.is_empty() {
        match store.get(&server) {
            Ok(found) => kept = found,
            Err(error) => tracing::debug!(error = error.chain(), "cannot look for credentials"),
        }
    }
    if let Some(kept) = &kept
        && !kept.username.is_empty()
        && !kept.password.is_empty()
    {
        complain(&format!(
            "Authenticating with existing credentials... [Username: {}]\n\n Info -> To login with a \
             different account, run 'moss logout' followed by 'moss login'\n\n",
            kept.username
        ));
        let (username, password) = (kept.username.clone(), kept.password.clone());
        match prove(client, &mut store, &server, username, password) {
            Ok(status) => return line(&status),
            Err(error) if refusal(&error).is_some_and(|refused| refused.status == 401) => {
                complain("Stored credentials invalid or expired");
            }
            Err(error) => complain(&format!(
                "Login did not succeed, error: {}",
                describe(&error)
            )),
        }
    }
    if (username.is_empty() || password.is_empty()) && !io::stdin().is_terminal() {
        bail!("error: cannot perform an interactive login from a non-TTY device");
    }
    let username = match username.trim() {
        "" => ask_username(kept.map(|kept| kept.username).unwrap_or_default().trim())?,
        username => username.to_owned(),
    };
    let password = if password.trim().is_empty() {
        ask_password()?
    } else {
        password
    };
    line(&prove(client, &mut store, &server, username, password)?)
}

/// User and password as the flags say, empty where they do not.
fn typed(login: &args::Login) -> Result<(String, String)> {
    let password = login.password.as_deref();
    let by_stdin = login.password_stdin || password == Some("-");
    if by_stdin && password.is_some_and(|password| password != "-") {
        bail!("conflicting options: cannot specify both --password and --password-stdin");
    }
    if by_stdin && login.username.is_none() {
        bail!("the --password-stdin option requires --username to be set");
    }
    if login.username.as_deref() == Some("") {
        bail!("username is empty");
    }
    if password == Some("") {
        bail!("password is empty");
    }
    let username = login.username.clone().unwrap_or_default();
    if by_stdin {
        let mut text = String::new();
        io::stdin()
            .take(PASSWORD_MAX)
            .read_to_string(&mut text)
            .context("cannot read the password")?;
        let secret = ["\r\n", "\n", "\r"]
            .iter()
            .find_map(|end| text.strip_suffix(end))
            .unwrap_or(&text);
        if secret.trim().is_empty() {
            bail!("password is empty");
        }
        return Ok((username, secret.to_owned()));
    }
    if password.is_some() {
        complain("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    Ok((username, login.password.clone().unwrap_or_default()))
}

fn ask_username(usual: &str) -> Result<String> {
    let prompt = match usual {
        "" => "Username: ".to_owned(),
        usual => format!("Username ({usual}): "),
    };
    let mut out = io::stdout();
    out.write_all(prompt.as_bytes())?;
    out.flush()?;
    let mut typed = String::new();
    io::stdin().read_line(&mut typed)?;
    match (typed.trim(), usual) {
        ("", "") => Err(anyhow!("error: username is required")),
        ("", usual) => Ok(usual.to_owned()),
        (typed, _) => Ok(typed.to_owned()),
    }
}

fn ask_password() -> Result<String> {
    let typed = terminal::read_hidden("Password: ");
    line("")?;
    match typed?.as_deref().map(str::trim) {
        None => Err(Exit::silent(INTERRUPTED)),
        Some("") => Err(anyhow!("error: password is required")),
        Some(typed) => Ok(typed.to_owned()),
    }
}

/// Has the engine ask the registry, and keeps what is to be kept; what the engine says.
fn prove(
    client: &Client,
    store: &mut CredentialStore,
    server: &str,
    username: String,
    password: String,
) -> Result<String> {
    let sent = AuthConfig {
        username: username.clone(),
        password: password.clone(),
        server_address: server.to_owned(),
        ..AuthConfig::default()
    };
    let answer: AuthResponse = client.post(&Target::new("/auth", &[]), &sent)?;
    let is_token = !answer.identity_token.is_empty();
    let credentials = Credentials {
        username,
        password: if is_token { String::new() } else { password },
        identity_token: answer.identity_token,
        registry_token: String::new(),
    };
    let in_file = store
        .store(server, &credentials)
        .context("error saving credentials")?;
    if in_file && !is_token {
        complain(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential \
             helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n",
            store.path().display()
        ));
    }
    Ok(answer.status)
}

/// `moss logout`.
pub fn logout(logout: &args::Logout) -> Result<()> {
    warn_of_environment();
    let given = logout.server.as_deref().unwrap_or_default();
    let (shown, servers) = match given {
        "" => (HUB_SERVER, vec![HUB_SERVER.to_owned()]),
        server => {
            let host = host_of(server);
            // As old versions of docker kept them too.
            let urls = ["http", "https"].map(|scheme| format!("{scheme}://{host}"));
            let keys = [server, host].map(str::to_owned);
            (host, keys.into_iter().chain(urls).collect())
        }
    };
    line(&format!("Removing login credentials for {shown}"))?;
    let mut store = store()?;
    let failures: Vec<String> = servers
        .iter()
        .filter_map(|server| {
            let error = store.erase(server).err()?;
            Some(format!("{server}: {}", error.chain()))
        })
        .collect();
    if failures.len() == servers.len() {
        complain("WARNING: could not erase credentials:");
        failures.iter().for_each(|failure| complain(failure));
    }
    Ok(())
}

/// What goes into `X-Registry-Auth` of a request about a registry, by a reference's domain.
///
/// Without any, as where a helper is missing or a file makes no sense, which is warned about, the
/// request is nobody's: much can be had so.
pub fn proof(domain: &str) -> String {
    let store = match store() {
        Ok(store) => store,
        Err(error) => {
            complain(&format!(
                "WARNING: Error loading config file: {}",
                describe(&error)
            ));
            return AuthConfig::default().to_header();
        }
    };
    let server = server_of(domain);
    let found = store.get(server).unwrap_or_else(|error| {
        complain(&format!(
            "WARNING: no credentials for {server}: {}",
            error.chain()
        ));
        None
    });
    let proof = match found {
        None => AuthConfig::default(),
        Some(found) => AuthConfig {
            username: found.username,
            password: found.password,
            identity_token: found.identity_token,
            registry_token: found.registry_token,
            server_address: server.to_owned(),
            ..AuthConfig::default()
        },
    };
    proof.to_header()
}

/// The variable that holds credentials which come before all others.
const ENVIRONMENT: &str = "DOCKER_AUTH_CONFIG";

/// Says that what is logged in or out of here is not what counts.
fn warn_of_environment() {
    if env::var_os(ENVIRONMENT).is_some_and(|text| !text.is_empty()) {
        complain(&format!(
            "WARNING: {ENVIRONMENT} is set and takes precedence.\nUnset {ENVIRONMENT} to restore the \
             CLI auth behaviour.\n"
        ));
    }
}

/// The field of a request's head that [`proof`] goes into.
pub const PROOF: &str = "X-Registry-Auth";

/// The directory of config.json, where `--config` names one.
static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();

/// Has this program's accounts be kept there, not where the environment says.
pub fn keep_in(directory: PathBuf) {
    let _ = DIRECTORY.set(directory);
}

fn store() -> Result<CredentialStore> {
    let path = DIRECTORY
        .get()
        .cloned()
        .or_else(|| Some(PathBuf::from(env::var_os("DOCKER_CONFIG")?)))
        .filter(|path| !path.as_os_str().is_empty())
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".docker")))
        .context("cannot find the directory of docker's config.json: HOME is not set")?
        .join("config.json");
    let mut store = CredentialStore::open(&path, env::var_os("PATH").as_deref())?;
    if let Some(text) = env::var_os(ENVIRONMENT).filter(|text| !text.is_empty())
        && let Err(error) = store.prefer(&text.to_string_lossy())
    {
        complain(&format!(
            "Failed to create credential store from {ENVIRONMENT}: {}",
            error.chain()
        ));
    }
    Ok(store)
}

/// The host and port of what a person calls a registry.
fn host_of(server: &str) -> &str {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_known_by_their_hosts() {
        assert_eq!(host_of("https://r.example:5000/v2/"), "r.example:5000");
        assert_eq!(host_of("r.example/x"), "r.example");
        assert_eq!(host_of("localhost:5000"), "localhost:5000");
    }

    #[test]
    fn flags_that_contradict_are_refused() {
        let login = |username: Option<&str>, password: Option<&str>, password_stdin| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            typed(&args::Login {
                username: owned(username),
                password: owned(password),
                password_stdin,
                server: None,
            })
            .map_err(|error| error.to_string())
        };
        assert_eq!(
            login(Some("u"), Some("p"), false),
            Ok(("u".into(), "p".into()))
        );
        assert_eq!(login(None, None, false), Ok((String::new(), String::new())));
        for (username, password, stdin, message) in [
            (
                Some("u"),
                Some("p"),
                true,
                "conflicting options: cannot specify both --password and --password-stdin",
            ),
            (
                None,
                None,
                true,
                "the --password-stdin option requires --username to be set",
            ),
            (
                None,
                Some("-"),
                false,
                "the --password-stdin option requires --username to be set",
            ),
            (Some(""), Some("p"), false, "username is empty"),
            (Some("u"), Some(""), false, "password is empty"),
        ] {
            assert_eq!(login(username, password, stdin), Err(message.to_owned()));
        }
    }
}
