//! `docker push`: names, what a client is told meanwhile, and Docker's errors.
//!
//! As in Docker the first message goes out before anything can fail but the request itself, so
//! that every error of a push is a message.

use serde_json::json;

use crate::api::auth::AuthConfig;
use crate::api::progress::{JsonMessage, ProgressDetail};
use crate::engine::Engine;
use crate::engine::error::{Error, Kind, Result};
use crate::engine::images::{image_error, signed};
use crate::engine::platforms;
use crate::engine::pull::{Tell, credentials, registry_error, retrying};
use crate::image::{self, Push, Pushed, UploadStep};
use crate::registry::{self, Access, Cancel};
use crate::types::platform::Platform;
use crate::types::reference::Reference;

/// What is to be pushed.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// Without a tag all of the repository's tags are meant.
    pub reference: Reference,
    /// What the image must be for, where something is said.
    pub platform: Option<Platform>,
    /// Who asks.
    pub credentials: AuthConfig,
}

impl Engine {
    /// Pushes an image, or all images of a repository. Ends soon after `cancel` is used.
    pub fn image_push(&self, request: &PushRequest, cancel: &Cancel, tell: Tell<'_>) -> Result<()> {
        let name = &request.reference;
        if let Some(platform) = &request.platform {
            self.check_platform(name, platform)?;
        }
        tell(JsonMessage::status(
            "",
            format!("The push refers to repository [{}]", name.repository()),
        ));
        let tags = self.pushed_tags(name)?;
        let registries = self.registries();
        let repository = registries
            .repository(
                name,
                credentials(&request.credentials),
                Access::Push,
                cancel,
            )
            .map_err(|error| registry_error(&error))?;
        let sources = |place: &Reference| {
            // Credentials go to the registry that they are for.
            let sent = match place.domain() == name.domain() {
                true => credentials(&request.credentials),
                false => None,
            };
            let opened = registries.repository(place, sent, Access::Pull, cancel);
            opened.ok()
        };
        let format = self.settings.push_compression;
        let push = Push::new(&repository, &sources, cancel, &self.uploads, format);
        for tag in &tags {
            let progress = |id: &str, step: UploadStep| tell(message(id, step));
            let pushed = self.images.push(&push, tag, &progress);
            tell_pushed(tag, &pushed.map_err(|error| push_error(&error))?, tell);
        }
        let labels = self.images.get(&name.familiar()).ok();
        let labels = labels.and_then(|found| found.config.config.labels.clone());
        self.events.emit(
            "image",
            "push",
            &name.familiar(),
            labels
                .unwrap_or_default()
                .into_iter()
                .chain([("name".to_owned(), name.familiar_name())]),
        );
        Ok(())
    }

    /// The names that are meant, all of them tags.
    fn pushed_tags(&self, name: &Reference) -> Result<Vec<Reference>> {
        let refused = |text: String| Err(Error::new(Kind::System, text));
        let mut names = self.images.names_in(name);
        if names.is_empty() {
            return refused(format!(
                "An image does not exist locally with the tag: {}",
                name.familiar_name()
            ));
        }
        names.retain(|known| known.digest().is_none());
        if name.digest().is_some() {
            return refused("cannot push a digest reference".to_owned());
        }
        if name.tag().is_some() {
            names.retain(|known| known == name);
            if names.is_empty() {
                return refused(format!("tag does not exist: {}", name.familiar()));
            }
        }
        if names.is_empty() {
            return refused(format!("no tags to push for {}", name.familiar_name()));
        }
        Ok(names)
    }

    fn check_platform(&self, name: &Reference, wanted: &Platform) -> Result<()> {
        let name = name.familiar();
        platforms::check(&self.images, &self.find_image(&name)?, wanted, &name)
    }
}

/// A step as Docker's clients are told of it.
fn message(id: &str, step: UploadStep) -> JsonMessage {
    let (status, current, total) = match step {
        UploadStep::Preparing => ("Preparing".to_owned(), 0, 0),
        UploadStep::Waiting => ("Waiting".to_owned(), 0, 0),
        UploadStep::Pushing { current, total } => ("Pushing".to_owned(), current, total),
        UploadStep::Retrying { seconds } => (retrying(seconds), 0, 0),
        UploadStep::Pushed => ("Pushed".to_owned(), 0, 0),
        UploadStep::Exists => ("Layer already exists".to_owned(), 0, 0),
        UploadStep::Mounted(from) => (format!("Mounted from {from}"), 0, 0),
    };
    JsonMessage::progress(id, &status, signed(current), signed(total))
}

fn tell_pushed(name: &Reference, pushed: &Pushed, tell: Tell<'_>) {
    let tag = name.tag().unwrap_or_default();
    let Pushed { digest, size, .. } = pushed;
    if let Some(replaced) = pushed.replaced {
        tell(JsonMessage::status(
            "",
            format!(
                "The digest of {} changed from {replaced} to {digest}: layers had to be \
                 compressed again",
                name.familiar()
            ),
        ));
    }
    tell(JsonMessage::status(
        "",
        format!("{tag}: digest: {digest} size: {size}"),
    ));
    tell(JsonMessage {
        progress_detail: Some(ProgressDetail::default()),
        aux: Some(json!({"Tag": tag, "Digest": digest.to_string(), "Size": size})),
        ..JsonMessage::default()
    });
}

fn push_error(error: &image::Error) -> Error {
    match error {
        image::Error::Registry(registry::Error::Proof { source, .. })
            if matches!(
                **source,
                registry::Error::NoCredentials | registry::Error::NoToken
            ) =>
        {
            // Docker tells of what is missing, not of what it was missing for.
            registry_error(source)
        }
        image::Error::Registry(error) => registry_error(error),
        other => image_error(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::digest::Digest;

    fn line(message: &JsonMessage) -> String {
        String::from_utf8(message.to_line()).unwrap()
    }

    #[test]
    fn messages_are_dockers() {
        let step = |step| line(&message("0123456789ab", step));
        assert_eq!(
            step(UploadStep::Preparing),
            "{\"status\":\"Preparing\",\"progressDetail\":{},\"id\":\"0123456789ab\"}\r\n"
        );
        let (current, total) = (5, 10);
        assert_eq!(
            step(UploadStep::Pushing { current, total }),
            "{\"status\":\"Pushing\",\"progressDetail\":{\"current\":5,\"total\":10},\
             \"id\":\"0123456789ab\"}\r\n"
        );
        assert_eq!(
            step(UploadStep::Retrying { seconds: 2 }),
            "{\"status\":\"Retrying in 2 seconds\",\"progressDetail\":{},\"id\":\"0123456789ab\"}\r\n"
        );
        assert_eq!(
            step(UploadStep::Mounted("library/debian".into())),
            "{\"status\":\"Mounted from library/debian\",\"progressDetail\":{},\
             \"id\":\"0123456789ab\"}\r\n"
        );
    }

    #[test]
    fn the_end_is_told_to_people_and_programs() {
        let digest = Digest::of(b"");
        let pushed = Pushed {
            digest,
            size: 528,
            replaced: None,
        };
        let told = std::sync::Mutex::new(String::new());
        let name = Reference::parse("r.example/app:1").unwrap();
        tell_pushed(&name, &pushed, &|message| {
            told.lock().unwrap().push_str(&line(&message));
        });
        assert_eq!(
            told.into_inner().unwrap(),
            format!(
                "{{\"status\":\"1: digest: {digest} size: 528\"}}\r\n\
                 {{\"progressDetail\":{{}},\"aux\":{{\"Tag\":\"1\",\"Digest\":\"{digest}\",\
                 \"Size\":528}}}}\r\n"
            )
        );
    }
}
