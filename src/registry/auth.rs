//! Proving who one is: Basic credentials, and tokens from a token server.
//!
//! A registry that wants proof answers its first request with challenges ([`super::challenge`]).
//! Docker's client prefers Bearer: it fetches a token for the scopes that it needs from the realm
//! that the challenge names, by GET with Basic credentials or none, or by OAuth2 POST if it has a
//! refresh token; the token is kept until it expires, which is after a minute at the earliest. The
//! token of a mount names a second repository and is kept apart. When a token is refused in the
//! middle of a pull, one more is fetched.
//!
//! Credentials and refresh tokens go where the challenge sends them, to any host, because that is
//! the protocol; a registry that was given no credentials is not answered with any. A realm over
//! plain HTTP is only believed from a registry over plain HTTP.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::http::{Method, StatusCode};

use super::answer::refused;
use super::challenge::{self, Challenge};
use super::error::{Error, without_value};
use super::http::{Http, Payload, Request, Response, SHORT};
use super::url::{Scheme, Url, encoded};

/// `client_id` of the token protocol; Docker's.
const CLIENT: &str = "docker";
/// Shortest life of a token, whatever the server says; Docker's.
const LIFE_MIN: u64 = 60;
/// Longest life that is believed.
const LIFE_MAX: u64 = 24 * 3600;
/// Longest answer of a token server, in bytes.
const ANSWER_MAX: u64 = 1 << 20;

/// Who one is. `Debug` shows no secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// A refresh token that stands for both.
    pub identity_token: String,
    /// A bearer token to send as it is.
    pub registry_token: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    pub(super) fn basic(&self) -> Option<String> {
        (!self.username.is_empty() && !self.password.is_empty()).then(|| {
            let pair = format!("{}:{}", self.username, self.password);
            format!("Basic {}", STANDARD.encode(pair))
        })
    }
}

/// The proof for one registry: what it asked for and what has been fetched so far.
pub(super) struct Authorizer {
    credentials: Credentials,
    scopes: Vec<String>,
    /// Whether a refresh token is wanted: a login.
    offline: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    challenges: Vec<Challenge>,
    /// By scopes.
    tokens: HashMap<Vec<String>, Token>,
    /// The newest refresh token.
    refresh: Option<String>,
}

#[derive(Clone)]
struct Token {
    header: String,
    expires: Instant,
}

impl Authorizer {
    pub(super) fn new(credentials: Credentials, scopes: Vec<String>, offline: bool) -> Self {
        let refresh = Some(credentials.identity_token.clone()).filter(|token| !token.is_empty());
        Self {
            credentials,
            scopes,
            offline,
            state: Mutex::new(State {
                refresh,
                ..State::default()
            }),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the challenges of a 401. `used` is the header that was refused, whose token is
    /// forgotten; the answer is whether another attempt may succeed.
    pub(super) fn learn(&self, response: &Response, used: Option<&str>) -> bool {
        if response.status != StatusCode::UNAUTHORIZED {
            return false;
        }
        let challenges: Vec<Challenge> = response
            .headers
            .get_all("www-authenticate")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let mut state = self.state();
        let first = state.challenges.is_empty();
        if !challenges.is_empty() {
            state.challenges = challenges;
        }
        match used {
            None => first && !state.challenges.is_empty(),
            // Another thread may have fetched a new token by now, or the next attempt does.
            Some(header) => {
                state.tokens.retain(|_, token| token.header != header);
                header.starts_with("Bearer ") && self.credentials.registry_token.is_empty()
            }
        }
    }

    /// The refresh token that the server gave last.
    pub(super) fn refresh_token(&self) -> Option<String> {
        self.state().refresh.clone()
    }

    /// The `Authorization` of a request that also reads from the repository `from`.
    pub(super) fn header(
        &self,
        http: &Http,
        registry: &Url,
        from: Option<&str>,
    ) -> Result<Option<String>, Error> {
        // Held while a token is fetched, so that many layers do not fetch as many tokens.
        let mut state = self.state();
        if !self.credentials.registry_token.is_empty() {
            let bearer = state.challenges.iter().any(|one| one.scheme == "bearer");
            return Ok(bearer.then(|| format!("Bearer {}", self.credentials.registry_token)));
        }
        let mut wants_basic = false;
        for index in 0..state.challenges.len() {
            match state.challenges[index].scheme.as_str() {
                "bearer" => {
                    let challenge = state.challenges[index].clone();
                    return self
                        .token(http, registry, &mut state, &challenge, from)
                        .map(Some);
                }
                "basic" => wants_basic = true,
                _ => {}
            }
        }
        if wants_basic {
            return self
                .credentials
                .basic()
                .map(Some)
                .ok_or(Error::NoCredentials);
        }
        Ok(None)
    }

    fn token(
        &self,
        http: &Http,
        registry: &Url,
        state: &mut State,
        challenge: &Challenge,
        from: Option<&str>,
    ) -> Result<String, Error> {
        let mut scopes = self.scopes.clone();
        if let Some(from) = from {
            let scope = format!("repository:{from}:pull");
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        if let Some(token) = state.tokens.get(&scopes)
            && token.expires > Instant::now()
        {
            return Ok(token.header.clone());
        }
        let realm = challenge
            .parameter("realm")
            .ok_or_else(|| Error::Token("no realm specified for token auth challenge".into()))?;
        let url = Url::parse(realm).ok_or_else(|| {
            Error::Token(format!("invalid token auth challenge realm: {realm:?}"))
        })?;
        if url.scheme == Scheme::Http && registry.scheme == Scheme::Https {
            return Err(Error::Token(format!(
                "invalid token auth challenge realm: {realm:?}: credentials are not sent over plain HTTP"
            )));
        }
        let service = challenge.parameter("service").unwrap_or_default();
        let mut request = match &state.refresh {
            Some(refresh) => {
                let form = [
                    ("client_id", CLIENT),
                    ("grant_type", "refresh_token"),
                    ("refresh_token", refresh),
                    ("scope", &scopes.join(" ")),
                    ("service", service),
                ]
                .map(|(name, value)| format!("{name}={}", encoded(value)))
                .join("&");
                return self.fetch(http, url, Some(&form), None, scopes, state);
            }
            None => url,
        };
        // In the order in which Go's encoder writes them.
        let basic = self.credentials.basic();
        if basic.is_some() {
            request = request.with_query("account", &self.credentials.username);
        }
        if self.offline {
            request = request
                .with_query("client_id", CLIENT)
                .with_query("offline_token", "true");
        }
        for scope in &scopes {
            request = request.with_query("scope", scope);
        }
        if !service.is_empty() {
            request = request.with_query("service", service);
        }
        self.fetch(http, request, None, basic, scopes, state)
    }

    fn fetch(
        &self,
        http: &Http,
        url: Url,
        form: Option<&str>,
        authorization: Option<String>,
        scopes: Vec<String>,
        state: &mut State,
    ) -> Result<String, Error> {
        #[derive(serde::Deserialize)]
        struct Answer {
            #[serde(default)]
            token: Option<String>,
            #[serde(default)]
            access_token: Option<String>,
            #[serde(default)]
            refresh_token: Option<String>,
            #[serde(default)]
            expires_in: Option<i64>,
        }

        let mut request = match form {
            Some(form) => {
                let mut request = Request::new(Method::POST, url);
                request
                    .headers
                    .push(("content-type", "application/x-www-form-urlencoded".into()));
                request.payload = Payload::Bytes(form.as_bytes());
                request.confidential = true;
                request
            }
            None => Request::new(Method::GET, url),
        };
        request.authorization = authorization;
        request.wait = SHORT;
        // Life is counted from before the request: the server's clock may be anybody's.
        let asked = Instant::now();
        let response = http.send(request)?;
        if !response.status.is_success() {
            return Err(refused(response));
        }
        let (body, whole) = response.read(ANSWER_MAX)?;
        let undecodable =
            |reason: String| Error::Token(format!("unable to decode token response: {reason}"));
        if !whole {
            return Err(undecodable("it is too long".into()));
        }
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|error| undecodable(without_value(&error)))?;
        if let Some(refresh) = answer.refresh_token.filter(|token| !token.is_empty()) {
            state.refresh = Some(refresh);
        }
        let token = [answer.access_token, answer.token]
            .into_iter()
            .flatten()
            .find(|token| !token.is_empty())
            .ok_or(Error::NoToken)?;
        if !token.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(undecodable(
                "the token has characters that cannot be sent".into(),
            ));
        }
        let life = answer
            .expires_in
            .and_then(|seconds| u64::try_from(seconds).ok())
            .unwrap_or(LIFE_MIN)
            .clamp(LIFE_MIN, LIFE_MAX);
        let header = format!("Bearer {token}");
        state.tokens.insert(
            scopes,
            Token {
                header: header.clone(),
                expires: asked + Duration::from_secs(life),
            },
        );
        Ok(header)
    }
}
