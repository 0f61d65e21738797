//! What is asked of registries beside pulls: whether they take somebody's credentials, what they
//! have, what a name means there.
//!
//! Nothing is kept: clients keep what they were told and send their credentials with each request.
//! Everything here ends soon after its [`Cancel`] is used.

use serde::Deserialize;

use crate::api::auth::{AuthConfig, AuthResponse};
use crate::api::descriptor::{Descriptor, OciPlatform};
use crate::api::filters::Filters;
use crate::api::registry::{DistributionInspect, SearchResult};
use crate::engine::Engine;
use crate::engine::error::{Error, Kind, Result};
use crate::engine::images::signed;
use crate::engine::pull::credentials;
use crate::registry::{self, Access, Cancel, DOCKER_MANIFEST, Document, ErrorKind};
use crate::types::digest::Digest;
use crate::types::reference::Reference;

/// Most bytes of a config that is read for its platform.
const CONFIG_MAX: u64 = 16 << 20;

const FILTERS: &[&str] = &["is-automated", "is-official", "stars"];

impl Engine {
    /// `docker login`: answers the token to keep in the password's place, if the registry gives one.
    pub fn login(&self, sent: &AuthConfig, cancel: &Cancel) -> Result<AuthResponse> {
        let credentials = credentials(sent).unwrap_or_default();
        let token = self
            .registries()
            .login(&sent.server_address, &credentials, cancel)
            .map_err(|error| refusal(&error))?;
        Ok(AuthResponse {
            // dockerd answers the token that it was sent where the registry gives no other.
            identity_token: token.unwrap_or(credentials.identity_token),
            status: "Login Succeeded".to_owned(),
        })
    }

    /// `docker search`; a `limit` of 0 is the default one.
    pub fn search(
        &self,
        term: &str,
        limit: i64,
        filters: &Filters,
        sent: &AuthConfig,
        cancel: &Cancel,
    ) -> Result<Vec<SearchResult>> {
        let invalid = |error: &dyn std::error::Error| Error::invalid(error.to_string());
        filters.validate(FILTERS).map_err(|error| invalid(&error))?;
        let flag = |name| {
            let value = filters.bool_or(name, false);
            value.map_err(|error| invalid(&error))
        };
        // No repository is any more.
        if flag("is-automated")? {
            return Ok(Vec::new());
        }
        let official = filters
            .contains("is-official")
            .then(|| flag("is-official"))
            .transpose()?;
        let mut stars = None;
        for text in filters.values("stars") {
            let number: i64 = text.parse().map_err(|_| {
                Error::invalid(format!(
                    "invalid filter 'stars={text}': strconv.Atoi: parsing {text:?}: invalid syntax"
                ))
            })?;
            stars = stars.max(Some(number.max(0)));
        }
        let found = self
            .registries()
            .search(term, limit, credentials(sent).as_ref(), cancel)
            .map_err(|error| refusal(&error))?;
        Ok(found
            .into_iter()
            .filter(|one| official.is_none_or(|official| one.is_official == official))
            .filter(|one| stars.is_none_or(|stars| one.star_count >= stars))
            .map(|one| SearchResult {
                star_count: one.star_count,
                is_official: one.is_official,
                name: one.name,
                is_automated: false,
                description: one.description,
            })
            .collect())
    }

    /// What a name means in its registry, and for which platforms it has images there.
    pub fn distribution_inspect(
        &self,
        name: &str,
        sent: &AuthConfig,
        cancel: &Cancel,
    ) -> Result<DistributionInspect> {
        if Digest::from_hex(name).is_ok() || name.parse::<Digest>().is_ok() {
            let message = "no manifest found for full image ID";
            return Err(Error::new(Kind::System, message));
        }
        let reference = Reference::parse_named(name)
            .map_err(|error| Error::invalid(error.to_string()))?
            .with_default_tag();
        let repository = self
            .registries()
            .repository(&reference, credentials(sent), Access::Pull, cancel)
            .map_err(|error| match error {
                // As where nothing is pulled.
                registry::Error::Reserved(_) => Error::invalid(error),
                other => untold(&other),
            })?;
        let look = || {
            let digest = match (reference.digest(), reference.tag()) {
                (Some(digest), _) => digest,
                (None, tag) => repository.resolve(tag.unwrap_or_default())?.digest,
            };
            let raw = repository.manifest_by_digest(digest)?;
            let document = raw.document(&reference.familiar())?;
            let (media_type, platforms) = match &document {
                Document::Index(index) => (&index.media_type, platforms_of(&raw.bytes)),
                Document::Manifest(manifest) if manifest.media_type == DOCKER_MANIFEST => {
                    let config = repository.small_blob(manifest.config.digest, CONFIG_MAX);
                    let platform = config.ok().and_then(|config| platform_of(&config));
                    (
                        &manifest.media_type,
                        platform.map(|platform| vec![platform]),
                    )
                }
                // Docker looks into its own format's config only.
                Document::Manifest(manifest) => (&manifest.media_type, None),
            };
            Ok(DistributionInspect {
                descriptor: Descriptor {
                    media_type: media_type.clone(),
                    digest: digest.to_string(),
                    size: signed(raw.bytes.len() as u64),
                    ..Descriptor::default()
                },
                platforms,
            })
        };
        look().map_err(|error| untold(&error))
    }
}

/// The platforms of an index's entries, as they are written.
fn platforms_of(index: &[u8]) -> Option<Vec<OciPlatform>> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        platform: OciPlatform,
    }
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Entry>,
    }
    let index: Index = serde_json::from_slice(index).ok()?;
    let platforms: Vec<_> = index
        .manifests
        .into_iter()
        .map(|one| one.platform)
        .collect();
    (!platforms.is_empty()).then_some(platforms)
}

/// The platform of an image, as its config says.
fn platform_of(config: &[u8]) -> Option<OciPlatform> {
    let platform: OciPlatform = serde_json::from_slice(config).ok()?;
    let says = !platform.os.is_empty() || !platform.architecture.is_empty();
    says.then_some(platform)
}

/// What a registry refused, without what is added to it where something is pulled.
fn untold(error: &registry::Error) -> Error {
    let told = refusal(error);
    match error {
        registry::Error::ManifestUnknown { source, .. }
        | registry::Error::PullDenied { source, .. }
        | registry::Error::NameUnknown { source, .. } => Error::new(told.kind, source.to_string()),
        _ => told,
    }
}

/// What a registry refused, with the status that dockerd gives the registry's code; everything else
/// that goes wrong with a registry is 500.
fn refusal(error: &registry::Error) -> Error {
    let by_code = error.refusal().map(|refusal| match refusal.code() {
        "UNAUTHORIZED" => Kind::Unauthorized,
        "DENIED" => Kind::Forbidden,
        "MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "BLOB_UNKNOWN" => Kind::NotFound,
        "NAME_INVALID" | "TAG_INVALID" | "DIGEST_INVALID" | "MANIFEST_INVALID" => {
            Kind::InvalidParameter
        }
        "TOOMANYREQUESTS" => Kind::TooManyRequests,
        "UNAVAILABLE" => Kind::Unavailable,
        _ => Kind::System,
    });
    let kind = by_code.unwrap_or(match error.kind() {
        ErrorKind::Invalid => Kind::InvalidParameter,
        _ => Kind::System,
    });
    Error::new(kind, error.chain())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_told_as_they_are_written() {
        let index = br#"{"manifests":[
            {"digest":"x","platform":{"architecture":"arm64","os":"linux","variant":"v8"}},
            {"digest":"y","platform":{"architecture":"amd64","os":"windows","os.version":"10","os.features":["win32k"]}},
            {"digest":"z"}]}"#;
        let text = serde_json::to_string(&platforms_of(index)).unwrap();
        assert_eq!(
            text,
            r#"[{"architecture":"arm64","os":"linux","variant":"v8"},{"architecture":"amd64","os":"windows","os.version":"10","os.features":["win32k"]},{"architecture":"","os":""}]"#
        );
        assert_eq!(platforms_of(br#"{"manifests":[]}"#), None);
        assert_eq!(platforms_of(b"nonsense"), None);
        assert_eq!(platform_of(br#"{"rootfs":{}}"#), None);
        assert!(platform_of(br#"{"os":"linux","config":{}}"#).is_some());
    }
}
