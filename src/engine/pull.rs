//! `docker pull`: names, what a client is told meanwhile, and whose fault an error is.
//!
//! Errors before the first message are the request's answer, with a status; later ones are a
//! message of their own. Which is which is the caller's to see: an error here is only an error.

use crate::api::auth::AuthConfig;
use crate::api::progress::{JsonMessage, ProgressDetail};
use crate::engine::Engine;
use crate::engine::error::{Error, Kind, Result};
use crate::engine::images::{image_error, signed};
use crate::engine::platforms;
use crate::image::{self, LayerStep, Pull, Step};
use crate::registry::{self, Access, Cancel, Credentials, ErrorKind, Repository, Target};
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::reference::Reference;

/// What is to be pulled.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// With neither tag nor digest all of a repository's tags are meant.
    pub reference: Reference,
    /// For what it is to be; this machine where nothing is said.
    pub platform: Option<Platform>,
    /// Who asks.
    pub credentials: AuthConfig,
}

/// Where messages go.
pub(super) type Tell<'a> = &'a (dyn Fn(JsonMessage) + Sync);

impl Engine {
    /// Pulls an image, or all images of a repository. Ends soon after `cancel` is used.
    pub fn image_pull(&self, request: &PullRequest, cancel: &Cancel, tell: Tell<'_>) -> Result<()> {
        let name = &request.reference;
        let repository = self
            .registries()
            .repository(
                name,
                credentials(&request.credentials),
                Access::Pull,
                cancel,
            )
            .map_err(|error| registry_error(&error))?;
        let pull = Pull {
            repository: &repository,
            platform: request.platform.as_ref(),
            cancel,
            downloads: &self.downloads,
            keep_blobs: self.settings.keep_blobs,
        };
        let is_new = match (name.digest(), name.tag()) {
            (Some(digest), _) => self.pull_one(&pull, Target::Digest(digest), tell)?,
            (None, Some(tag)) => self.pull_one(&pull, Target::Tag(tag), tell)?,
            (None, None) => self.pull_all(&pull, &repository, tell)?,
        };
        let name = name.familiar();
        tell(JsonMessage::status(
            "",
            if is_new {
                format!("Status: Downloaded newer image for {name}")
            } else {
                format!("Status: Image is up to date for {name}")
            },
        ));
        let found = self.images.get(&name).ok();
        let labels = found
            .as_ref()
            .and_then(|found| found.config.config.labels.clone());
        self.events.emit(
            "image",
            "pull",
            &name,
            labels
                .unwrap_or_default()
                .into_iter()
                .chain([("name".to_owned(), request.reference.familiar_name())]),
        );
        if let (Some(wanted), Some(found)) = (&request.platform, &found)
            && let Err(error) = platforms::check(&self.images, found, wanted, &name)
        {
            // A single image is pulled for whatever platform it is.
            let warning = format!("WARNING: {error}");
            tracing::warn!("{warning}");
            tell(JsonMessage::status("", warning));
        }
        Ok(())
    }

    fn pull_all(&self, pull: &Pull<'_>, repository: &Repository, tell: Tell<'_>) -> Result<bool> {
        let tags = repository.tags().map_err(|error| registry_error(&error))?;
        let mut is_new = false;
        for tag in tags {
            is_new |= self.pull_one(pull, Target::Tag(&tag), tell)?;
        }
        Ok(is_new)
    }

    /// Pulls one tag or digest; whether it means another image now.
    fn pull_one(&self, pull: &Pull<'_>, target: Target<'_>, tell: Tell<'_>) -> Result<bool> {
        let name = pull.repository.reference();
        let shown = match target {
            Target::Tag(tag) => tag.to_owned(),
            Target::Digest(digest) => digest_name(name, digest),
        };
        let progress = |step: Step| tell(message(&shown, name, step));
        let pulled = self.images.pull(pull, target, &progress);
        Ok(pulled.map_err(|error| pull_error(&error))?.is_new)
    }
}

/// The id of a digest's first message: Docker writes the name out.
fn digest_name(name: &Reference, digest: Digest) -> String {
    let tag = name.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
    format!("{}{tag}@{digest}", name.repository())
}

/// A step as Docker's clients are told of it.
fn message(shown: &str, name: &Reference, step: Step) -> JsonMessage {
    let (id, step) = match step {
        Step::Found => {
            return JsonMessage::status(shown, format!("Pulling from {}", name.path()));
        }
        Step::Digest(digest) => return JsonMessage::status("", format!("Digest: {digest}")),
        Step::Layer { id, step } => (id, step),
    };
    let (status, current, total) = match step {
        LayerStep::Retrying { seconds } => {
            return JsonMessage::progress(&id, &retrying(seconds), 0, 0);
        }
        LayerStep::Exists => ("Already exists", 0, 0),
        LayerStep::Wanted => ("Pulling fs layer", 0, 0),
        LayerStep::Waiting => ("Waiting", 0, 0),
        LayerStep::Downloading { current, total } => ("Downloading", current, total),
        LayerStep::Verifying => ("Verifying Checksum", 0, 0),
        LayerStep::Downloaded => ("Download complete", 0, 0),
        LayerStep::Extracting { current, total } => ("Extracting", current, total),
        LayerStep::Complete => ("Pull complete", 0, 0),
    };
    JsonMessage {
        progress_detail: Some(ProgressDetail {
            current: signed(current),
            total: signed(total),
            start: 0,
        }),
        ..JsonMessage::status(&id, status)
    }
}

/// Docker's words for a pause before another attempt.
pub(super) fn retrying(seconds: u64) -> String {
    let plural = if seconds == 1 { "" } else { "s" };
    format!("Retrying in {seconds} second{plural}")
}

pub(super) fn credentials(sent: &AuthConfig) -> Option<Credentials> {
    (*sent != AuthConfig::default()).then(|| Credentials {
        username: sent.username.clone(),
        password: sent.password.clone(),
        identity_token: sent.identity_token.clone(),
        registry_token: sent.registry_token.clone(),
    })
}

fn pull_error(error: &image::Error) -> Error {
    match error {
        image::Error::Registry(error) => registry_error(error),
        other => image_error(other),
    }
}

/// The statuses of dockerd, which answers 500 where credentials are wrong or nobody can be reached.
pub(super) fn registry_error(error: &registry::Error) -> Error {
    let kind = match error.kind() {
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::Invalid => Kind::InvalidParameter,
        ErrorKind::Forbidden => Kind::Forbidden,
        ErrorKind::Unauthorized
        | ErrorKind::TooManyRequests
        | ErrorKind::Unreachable
        | ErrorKind::Cancelled
        | ErrorKind::System => Kind::System,
    };
    Error::new(kind, error.chain())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: Step) -> String {
        let name = Reference::parse("busybox:1").unwrap();
        String::from_utf8(message("1", &name, step).to_line()).unwrap()
    }

    #[test]
    fn messages_are_dockers() {
        let layer = |step| {
            line(Step::Layer {
                id: "0123456789ab".into(),
                step,
            })
        };
        assert_eq!(
            line(Step::Found),
            "{\"status\":\"Pulling from library/busybox\",\"id\":\"1\"}\r\n"
        );
        assert_eq!(
            layer(LayerStep::Wanted),
            "{\"status\":\"Pulling fs layer\",\"progressDetail\":{},\"id\":\"0123456789ab\"}\r\n"
        );
        let retrying = |seconds| layer(LayerStep::Retrying { seconds });
        assert_eq!(
            retrying(2),
            "{\"status\":\"Retrying in 2 seconds\",\"progressDetail\":{},\"id\":\"0123456789ab\"}\r\n"
        );
        assert!(retrying(1).contains("Retrying in 1 second\""));
        let (current, total) = (5, 10);
        assert_eq!(
            layer(LayerStep::Downloading { current, total }),
            "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":5,\"total\":10},\
             \"id\":\"0123456789ab\"}\r\n"
        );
        let digest = Digest::of(b"");
        assert_eq!(
            line(Step::Digest(digest)),
            format!("{{\"status\":\"Digest: {digest}\"}}\r\n")
        );
    }

    #[test]
    fn a_digest_is_written_out() {
        let digest = Digest::of(b"");
        let name = Reference::parse_named("busybox").unwrap();
        assert_eq!(
            digest_name(&name, digest),
            format!("docker.io/library/busybox@{digest}")
        );
    }
}
