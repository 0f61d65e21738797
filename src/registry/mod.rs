//! Registries: the client of the OCI distribution protocol, as far as Docker speaks it.
//!
//! What a pull and a push stand on: bytes and digests, no store and no progress. Blocking, for
//! plain threads; nothing of a blob is kept in memory, and nothing that a registry says is believed
//! beyond what a digest proves. Everything ends soon after its [`Cancel`] is used.
//!
//! ```text
//!  Registries ──repository()──▶ Repository ──find()──▶ Found: index, manifest, config, layers
//!  (configuration)                  │ ──blob()──▶ Blob: Read, resumes by itself
//!                                   └ ──upload()──▶ Upload
//!
//!  repository, upload   what is asked                     │ auth, challenge: with which proof
//!  manifest, select     what an image consists of         │ config, net, proxy, tls: where, how
//!  http, answer         one request, its answer           │ transport: sockets, names, waiting
//!                                                         │ forward, secure: ways over them
//! ```
//!
//! Limits, all named where they hold: 4 MiB a manifest, four levels of indexes, ten redirects, a
//! minute of silence, five attempts without progress, a minute of `Retry-After`.
//!
//! `account` is for logins and searches; `credentials`, for the command line alone, is where a
//! person's passwords are kept.
//!
//! Not here: caches (a token lives as long as its [`Repository`]), what is pulled in which order,
//! and how much of it at once.

mod account;
mod answer;
mod auth;
mod blob;
mod cancel;
mod challenge;
mod config;
mod credentials;
mod download;
mod error;
mod failure;
mod forward;
mod http;
mod manifest;
mod net;
mod patience;
mod place;
mod proxy;
mod refusal;
mod repository;
mod secure;
pub mod secured;
mod select;
mod tls;
mod transport;
mod upload;
mod url;

use std::sync::Arc;

pub use account::SearchResult;
pub use auth::Credentials;
pub use blob::Blob;
pub use cancel::{Cancel, Hold};
pub use config::{Config, HUB_SERVER, Shown};
pub use credentials::{CredentialStore, server_of};
pub use download::Download;
pub use error::{Error, ErrorKind};
pub use failure::Failure;
pub use manifest::{
    DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LIST, DOCKER_MANIFEST, DescribedPlatform, Descriptor,
    Document, Index, LAYERS_MAX, MANIFEST_MAX, Manifest, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST,
    RawManifest,
};
pub use patience::Retrying;
pub use place::Access;
pub use proxy::Proxies;
pub use refusal::Refusal;
pub use repository::{Repository, Resolved};
pub use select::{Found, Target};
pub use upload::{Content, Mount, Upload};

use crate::types::reference::Reference;
use config::{Rules, Trust};
use http::{Http, Shared};
use place::{Inner, Place};
use tls::Identity;

/// The registries that a configuration makes reachable. Cheap to clone.
#[derive(Clone)]
pub struct Registries {
    config: Arc<Config>,
    shared: Arc<Shared>,
}

impl Registries {
    /// Checks the configuration; connects to nothing.
    pub fn new(config: Config) -> Result<Self, Error> {
        let shared = Shared {
            rules: Rules::new(&config)?,
            proxies: config.proxies.clone(),
            user_agent: config.user_agent.clone(),
            roots: tls::HostRoots::default(),
        };
        Ok(Self {
            config: Arc::new(config),
            shared: Arc::new(shared),
        })
    }

    /// Opens the repository of a reference. The registry is spoken to when something is asked.
    pub fn repository(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
        access: Access,
        cancel: &Cancel,
    ) -> Result<Repository, Error> {
        if reference.familiar_name() == "scratch" {
            return Err(Error::Reserved("scratch".into()));
        }
        let credentials = credentials.unwrap_or_default();
        let domain = match reference.domain() {
            "" => config::HUB,
            domain => domain,
        };
        let scope = format!("repository:{}:{}", reference.path(), access.actions());
        let insecure = self.trust(domain, cancel) != Trust::Verified;
        let endpoints = self
            .shared
            .rules
            .endpoints(domain, access == Access::Pull, insecure);
        let mut places = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let own = if endpoint.mirror {
                Credentials::default()
            } else {
                credentials.clone()
            };
            places.push(Place {
                http: self.http(&endpoint.url.authority, cancel)?,
                auth: auth::Authorizer::new(own, vec![scope.clone()], false),
                answered: false.into(),
                endpoint,
            });
        }
        Ok(Repository {
            inner: Arc::new(Inner::new(
                reference.clone(),
                access,
                places,
                cancel.clone(),
                self.config.attempts(),
            )),
        })
    }

    /// The configuration as it is shown.
    pub fn shown(&self) -> Shown {
        self.shared.rules.shown()
    }

    fn trust(&self, authority: &str, cancel: &Cancel) -> Trust {
        self.shared.rules.trust(authority, |host| {
            let lookup = transport::Lookup::new(cancel.clone(), Vec::new());
            lookup.of(host)
        })
    }

    fn http(&self, authority: &str, cancel: &Cancel) -> Result<Http, Error> {
        let identity = Identity::load(&self.config.certificates, authority)?;
        Ok(Http::new(
            Arc::clone(&self.shared),
            identity,
            authority,
            cancel.clone(),
        ))
    }
}
