//! The places where a repository's registry may be, and requests to them with their proof.
//!
//! They are tried in order, as Docker does: what fails at a mirror is tried at the next place, what
//! fails below HTTP too, but plain HTTP never once HTTPS has answered. The place that answered last
//! is asked first from then on.
//!
//! ```text
//!   untried ──GET /v2/──▶ answered (challenges known) ──▶ requests, each with its proof
//!      │ no answer                                          │ 401: proof renewed, once
//!      └──▶ next place                                      └─▶ refused: an error in Docker's words
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use ureq::http::Method;

use super::auth::Authorizer;
use super::cancel::Cancel;
use super::config::Endpoint;
use super::error::Error;
use super::http::{Http, Request, Response, SHORT, go_name};
use super::url::{Scheme, Url};
use crate::types::reference::Reference;

/// What a [`Repository`](super::Repository) is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading: mirrors are asked first.
    Pull,
    /// Writing, and reading what is there already.
    Push,
}

impl Access {
    pub(super) fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push,pull",
        }
    }
}

/// A repository at its places.
pub(super) struct Inner {
    pub(super) reference: Reference,
    pub(super) access: Access,
    pub(super) places: Vec<Place>,
    /// The place that answered last.
    current: AtomicUsize,
    pub(super) cancel: Cancel,
    /// How often a blob is tried without getting further.
    pub(super) attempts: u32,
}

/// One place where a registry may be.
pub(super) struct Place {
    pub(super) endpoint: Endpoint,
    pub(super) http: Http,
    pub(super) auth: Authorizer,
    /// Whether it has answered.
    pub(super) answered: Mutex<bool>,
}

impl Place {
    /// Finds out what the registry asks for, once.
    fn prepare(&self) -> Result<(), Error> {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if !*answered {
            ping(&self.http, &self.endpoint.url, &self.auth)?;
            *answered = true;
        }
        Ok(())
    }

    fn has_answered(&self) -> bool {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A URL below `/v2/`.
    pub(super) fn url(&self, path: &str) -> Url {
        let base = &self.endpoint.url;
        base.at(format!("{}v2/{path}", base.target))
    }

    /// Sends a request with the proof that it needs; once more if the proof was refused.
    pub(super) fn send<'a>(
        &self,
        from: Option<&str>,
        make: impl Fn() -> Request<'a>,
    ) -> Result<Response, Error> {
        let mut renewed = false;
        loop {
            let mut request = make();
            let proof = self.proof(from, &request)?;
            request.authorization.clone_from(&proof);
            let response = self.http.send(request)?;
            let own = response.url.same_origin(&self.endpoint.url);
            if !renewed && own && self.auth.learn(&response, proof.as_deref()) {
                renewed = true;
                continue;
            }
            return Ok(response);
        }
    }

    fn proof(&self, from: Option<&str>, request: &Request<'_>) -> Result<Option<String>, Error> {
        if !request.url.same_origin(&self.endpoint.url) {
            return Ok(None);
        }
        self.auth
            .header(&self.http, &self.endpoint.url, from)
            .map_err(|error| error.in_request(&go_name(&request.method), &request.url.to_string()))
    }

    /// Sends a request whose payload is gone afterwards. `url` may be elsewhere: then without proof.
    pub(super) fn send_once(&self, mut request: Request<'_>) -> Result<Response, Error> {
        request.authorization = self.proof(None, &request)?;
        let proof = request.authorization.clone();
        let response = self.http.send(request)?;
        if response.url.same_origin(&self.endpoint.url) {
            self.auth.learn(&response, proof.as_deref());
        }
        Ok(response)
    }
}

/// Docker's first request: any answer means that there is a registry.
pub(super) fn ping(http: &Http, root: &Url, auth: &Authorizer) -> Result<(), Error> {
    let mut request = Request::new(Method::GET, root.at(format!("{}v2/", root.target)));
    request.wait = SHORT;
    let response = http.send(request)?;
    if response.url.same_origin(root) {
        auth.learn(&response, None);
    }
    Ok(())
}

impl Inner {
    pub(super) fn new(
        reference: Reference,
        access: Access,
        places: Vec<Place>,
        cancel: Cancel,
        attempts: u32,
    ) -> Self {
        Self {
            reference,
            access,
            places,
            current: AtomicUsize::new(0),
            cancel,
            attempts,
        }
    }

    /// The place to begin at.
    pub(super) fn first(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    pub(super) fn path(&self, rest: &str) -> String {
        format!("{}/{rest}", self.reference.path())
    }

    /// Does something at the places in order, from `first` on, until one succeeds; tells which.
    pub(super) fn places_from<T>(
        &self,
        first: usize,
        act: impl Fn(&Place) -> Result<T, Error>,
    ) -> Result<(usize, T), Error> {
        let mut last = None;
        let mut secure = false;
        for (index, place) in self.places.iter().enumerate().skip(first) {
            if secure && place.endpoint.url.scheme == Scheme::Http && !place.endpoint.mirror {
                continue;
            }
            match place.prepare().and_then(|()| act(place)) {
                Ok(value) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok((index, value));
                }
                Err(error) if falls_back(&error, place.endpoint.mirror) => {
                    if !place.endpoint.mirror && place.endpoint.url.scheme == Scheme::Https {
                        secure |= place.has_answered();
                    }
                    tracing::info!(
                        url = %place.endpoint.url,
                        error = error.chain(),
                        "attempting next endpoint"
                    );
                    last = Some(error);
                }
                Err(error) => return Err(self.translated(error)),
            }
        }
        Err(self.translated(last.unwrap_or(Error::Cancelled)))
    }

    pub(super) fn at_places<T>(
        &self,
        act: impl Fn(&Place) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.places_from(self.first(), act).map(|(_, value)| value)
    }

    /// A refusal of a pull in the words that Docker adds.
    fn translated(&self, error: Error) -> Error {
        let Error::Refused(refusal) = error else {
            return error;
        };
        if self.access == Access::Push {
            return refusal.into();
        }
        let Some(source) = refusal.first_with_message() else {
            return refusal.into();
        };
        match source.code() {
            "DENIED" => Error::PullDenied {
                name: self.reference.familiar_name(),
                source,
            },
            "MANIFEST_UNKNOWN" => Error::ManifestUnknown {
                reference: self.reference.familiar(),
                source,
            },
            "NAME_UNKNOWN" => Error::NameUnknown {
                name: self.reference.familiar_name(),
                source,
            },
            _ => source.into(),
        }
    }
}

/// Whether what failed at one place may succeed at the next.
fn falls_back(error: &Error, mirror: bool) -> bool {
    match error {
        Error::Cancelled | Error::Source(_) => false,
        Error::Refused(_) => mirror,
        _ => true,
    }
}
