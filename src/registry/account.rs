//! Accounts: whether credentials are good, and Docker Hub's search.
//!
//! A login is a request for `/v2/` with proof: Basic credentials, or a token for no scope, for
//! which the token server may give a refresh token that is kept in the password's place. Mirrors
//! are never asked. Search is the old index protocol, which Docker Hub alone still speaks:
//! `GET /v1/search?q=…&n=…`.

use serde::Deserialize;
use ureq::http::{Method, StatusCode};

use super::Registries;
use super::auth::{Authorizer, Credentials};
use super::cancel::Cancel;
use super::config::{HUB, HUB_INDEX, Trust};
use super::error::{Error, ErrorKind};
use super::http::{Http, Request, SHORT};
use super::place::ping;
use super::url::{Scheme, Url};

/// Results if nobody says how many.
const LIMIT_DEFAULT: i64 = 25;
/// Longest answer to a search, in bytes: a hundred results at most are asked for.
const ANSWER_MAX: u64 = 1 << 20;

/// A repository that a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SearchResult {
    /// Its name.
    pub name: String,
    /// What it says about itself.
    pub description: String,
    /// How many people like it.
    pub star_count: i64,
    /// Whether it is one of Docker's own.
    pub is_official: bool,
}

impl Registries {
    /// Checks credentials with a registry (`server`: a host or URL; empty means Docker Hub). The
    /// answer is the refresh token to keep instead of the password, if there is one.
    pub fn login(
        &self,
        server: &str,
        credentials: &Credentials,
        cancel: &Cancel,
    ) -> Result<Option<String>, Error> {
        let host = host_of(server)?;
        let insecure = self.trust(&host, cancel) != Trust::Verified;
        let mut last = None;
        for endpoint in self.shared.rules.endpoints(&host, false, insecure) {
            let root = &endpoint.url;
            let http = self.http(&root.authority, cancel)?;
            let auth = Authorizer::new(credentials.clone(), Vec::new(), true);
            match login_at(&http, root, &auth) {
                Ok(()) => {
                    return Ok(auth
                        .refresh_token()
                        .filter(|token| *token != credentials.identity_token));
                }
                Err(error) if error.kind() == ErrorKind::Cancelled || is_refused(&error) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::info!(
                        endpoint = %root,
                        error = error.chain(),
                        "cannot log in at an endpoint, trying the next one"
                    );
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or(Error::Cancelled))
    }

    /// Searches an index: Docker Hub, or the host that the term begins with.
    pub fn search(
        &self,
        term: &str,
        limit: i64,
        credentials: Option<&Credentials>,
        cancel: &Cancel,
    ) -> Result<Vec<SearchResult>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            results: Option<Vec<SearchResult>>,
        }

        if term.contains("://") {
            return Err(Error::Invalid(format!(
                "invalid repository name: repository name ({term}) should not have a scheme"
            )));
        }
        let (index, name) = split_term(term);
        let limit = if limit == 0 { LIMIT_DEFAULT } else { limit };
        if !(1..=100).contains(&limit) {
            return Err(Error::Invalid(format!(
                "limit {limit} is outside the range of [1, 100]"
            )));
        }
        let (http, root) = self.index(index, cancel)?;
        let url = root
            .at("/v1/search")
            .with_query("q", name)
            .with_query("n", &limit.to_string());
        let mut request = Request::new(Method::GET, url);
        request.headers.push(("x-docker-token", "true".into()));
        if let Some(credentials) = credentials {
            request.authorization = if credentials.identity_token.is_empty() {
                credentials.basic()
            } else {
                let scope = vec!["registry:catalog:search".to_owned()];
                let auth = Authorizer::new(credentials.clone(), scope, false);
                ping(&http, &root, &auth)?;
                auth.header(&http, &root, None)?
            };
        }
        let response = http.send(request)?;
        if response.status != StatusCode::OK {
            return Err(Error::Search(format!(
                "unexpected status code {}",
                response.status.as_u16()
            )));
        }
        let undecodable = |reason: String| {
            Error::Search(format!("error decoding registry search results: {reason}"))
        };
        let (body, whole) = response.read(ANSWER_MAX)?;
        if !whole {
            return Err(undecodable("they are too long".into()));
        }
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|error| undecodable(error.to_string()))?;
        Ok(answer.results.unwrap_or_default())
    }

    /// Where an index is: HTTPS, and HTTP for an insecure one that does not answer there.
    fn index(&self, index: &str, cancel: &Cancel) -> Result<(Http, Url), Error> {
        if index == HUB {
            return Ok((
                self.http(HUB_INDEX, cancel)?,
                Url::root(Scheme::Https, HUB_INDEX),
            ));
        }
        let http = self.http(index, cancel)?;
        let ask = |root: &Url| {
            let mut request = Request::new(Method::GET, root.at("/v1/_ping"));
            request.wait = SHORT;
            http.send(request).map(drop)
        };
        let secure = Url::root(Scheme::Https, index);
        let first = match ask(&secure) {
            Ok(()) => return Ok((http, secure)),
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) => error.chain(),
        };
        if self.trust(index, cancel) == Trust::Verified {
            return Err(Error::Invalid(format!(
                "invalid registry endpoint https://{index}/v1/: {first}. If this private registry \
                 supports only HTTP or HTTPS with an unknown CA certificate, please add \
                 `--insecure-registry {index}` to the daemon's arguments. In the case of HTTPS, if \
                 you have access to the registry's CA certificate, no need for the flag; simply \
                 place the CA certificate at /etc/docker/certs.d/{index}/ca.crt"
            )));
        }
        let plain = Url::root(Scheme::Http, index);
        match ask(&plain) {
            Ok(()) => Ok((http, plain)),
            Err(Error::Cancelled) => Err(Error::Cancelled),
            Err(error) => Err(Error::Invalid(format!(
                "invalid registry endpoint \"http://{index}/v1/\". HTTPS attempt: {first}. HTTP \
                 attempt: {}",
                error.chain()
            ))),
        }
    }
}

fn login_at(http: &Http, root: &Url, auth: &Authorizer) -> Result<(), Error> {
    ping(http, root, auth)?;
    let url = root.at(format!("{}v2/", root.target));
    let mut request = Request::new(Method::GET, url.clone());
    request.wait = SHORT;
    request.authorization = auth
        .header(http, root, None)
        .map_err(|error| error.in_request("Get", &url.to_string()))?;
    let response = http.send(request)?;
    if response.status == StatusCode::OK {
        return Ok(());
    }
    Err(Error::Login {
        url: url.to_string(),
        status: response.status_text(),
    })
}

/// Whether the credentials were looked at and are wrong: nobody else is to see them then.
fn is_refused(error: &Error) -> bool {
    let refusal = error.refusal();
    refusal.is_some_and(|refusal| refusal.code() == "UNAUTHORIZED")
}

/// The host of what `docker login` was given.
fn host_of(server: &str) -> Result<String, Error> {
    if server.is_empty() {
        return Ok(HUB_INDEX.to_owned());
    }
    let text = if server.contains("://") {
        server.to_owned()
    } else {
        format!("https://{server}")
    };
    Url::parse(&text)
        .map(|url| url.authority)
        .ok_or_else(|| Error::Invalid(format!("unable to parse server address: {server:?}")))
}

fn split_term(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((host, name)) if host.contains(['.', ':']) || host == "localhost" => match host {
            HUB | HUB_INDEX => (HUB, name.strip_prefix("library/").unwrap_or(name)),
            _ => (host, name),
        },
        _ => (HUB, term.strip_prefix("library/").unwrap_or(term)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        let host = |server: &str| host_of(server).map_err(|error| error.to_string());
        assert_eq!(host(""), Ok("index.docker.io".into()));
        assert_eq!(
            host("https://index.docker.io/v1/"),
            Ok("index.docker.io".into())
        );
        assert_eq!(host("localhost:5000"), Ok("localhost:5000".into()));
        assert!(host("https://a b/").is_err());
    }

    #[test]
    fn terms() {
        assert_eq!(split_term("debian"), (HUB, "debian"));
        assert_eq!(split_term("library/debian"), (HUB, "debian"));
        assert_eq!(split_term("team/app"), (HUB, "team/app"));
        assert_eq!(split_term("index.docker.io/a"), (HUB, "a"));
        assert_eq!(split_term("localhost:5000/a/b"), ("localhost:5000", "a/b"));
    }
}
