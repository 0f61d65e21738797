//! Whether an image is for the platform that was asked for.

use super::error::{Error, Kind, Result};
use crate::image::{Image, Store};
use crate::types::platform::Platform;

/// What an image that is not for `wanted` is told by, in Docker's words (moby,
/// `daemon/images/image.go`); `name` is what the image was asked for by. The index that it came with
/// may say more than its config.
pub(super) fn check(store: &Store, image: &Image, wanted: &Platform, name: &str) -> Result<()> {
    if matches(wanted, &image.os, &image.architecture, &image.variant)
        || store.is_listed_for(image, wanted)
    {
        return Ok(());
    }
    // As the image says it, not in normal form.
    let actual = Platform {
        os: image.os.clone(),
        architecture: image.architecture.clone(),
        variant: image.variant.clone(),
    };
    Err(Error::new(
        Kind::NotFound,
        format!(
            "image with reference {name} was found but its platform ({actual}) does not match the \
             specified platform ({wanted})"
        ),
    ))
}

/// An image's config may leave the variant out: then any does.
fn matches(wanted: &Platform, os: &str, architecture: &str, variant: &str) -> bool {
    let normal = Platform::new(os, architecture, variant);
    let same = (&wanted.os, &wanted.architecture) == (&normal.os, &normal.architecture);
    wanted.runs(&normal) || (variant.is_empty() && same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants() {
        let wanted = Platform::new("linux", "arm", "v6");
        assert!(matches(&wanted, "linux", "arm", ""));
        assert!(matches(&wanted, "linux", "arm", "v5"));
        assert!(!matches(&wanted, "linux", "arm", "v7"));
        assert!(!matches(&wanted, "linux", "amd64", ""));
    }
}
