//! Which image of an index runs here: containerd's order, which is Docker's.
//!
//! A platform stands for a list of those that it can run, best first: `arm/v7` also runs `v6` and
//! `v5`; `arm64` its older versions and then 32-bit arm; `amd64/v3` `v2` and `v1`, and then `386`.
//! Where nobody asks for a platform it is this machine's, with the newest variant that its
//! processor has. Entries are taken in the order of that list, and in the index's own within one;
//! entries without a platform come last; attestations never.

use super::error::Error;
use super::manifest::{Descriptor, Document, Index, Manifest, RawManifest};
use super::repository::Repository;
use crate::types::digest::Digest;
use crate::types::platform::Platform;

/// Deepest nesting of indexes that is followed.
const DEPTH_MAX: usize = 4;
/// Most manifests that are fetched in search of one.
const FETCHES_MAX: usize = 16;

/// An image that was found, and the way to it.
#[derive(Debug, Clone)]
pub struct Found {
    /// The documents as they came: the outermost index first, the image's own manifest last.
    pub chain: Vec<RawManifest>,
    /// That manifest, read and checked.
    pub manifest: Manifest,
}

/// What to begin from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A tag.
    Tag(&'a str),
    /// A digest.
    Digest(Digest),
}

impl Repository {
    /// Finds the image for a platform, or for this machine if none is asked for.
    pub fn find(&self, target: Target<'_>, platform: Option<&Platform>) -> Result<Found, Error> {
        let root = match target {
            Target::Tag(tag) => self.manifest_by_tag(tag)?,
            Target::Digest(digest) => self.manifest_by_digest(digest)?,
        };
        let mut search = Search {
            repository: self,
            wanted: platform.cloned().unwrap_or_else(maximum).candidates(),
            reference: self.reference().familiar(),
            text: platform.map_or_else(host_text, Platform::to_string),
            fetches: 0,
        };
        search.within(root, &mut Vec::new())
    }
}

struct Search<'a> {
    repository: &'a Repository,
    wanted: Vec<Platform>,
    reference: String,
    text: String,
    fetches: usize,
}

impl Search<'_> {
    fn within(&mut self, raw: RawManifest, chain: &mut Vec<RawManifest>) -> Result<Found, Error> {
        let document = raw.document(&self.reference)?;
        chain.push(raw);
        let index = match document {
            Document::Manifest(manifest) => {
                manifest.check()?;
                return Ok(Found {
                    chain: std::mem::take(chain),
                    manifest: *manifest,
                });
            }
            Document::Index(index) => index,
        };
        if chain.len() > DEPTH_MAX {
            return Err(Error::Nested { limit: DEPTH_MAX });
        }
        let depth = chain.len();
        for entry in matches(&index, &self.wanted) {
            self.fetches += 1;
            if self.fetches > FETCHES_MAX {
                break;
            }
            let raw = self.repository.manifest_by_digest(entry.digest)?;
            match self.within(raw, chain) {
                // OCI: what is of an unknown kind is passed over.
                Err(Error::NoMatch(_) | Error::ManifestFormat) => chain.truncate(depth),
                outcome => return outcome,
            }
        }
        Err(Error::NoMatch(self.text.clone()))
    }
}

impl Index {
    /// The entries that run on a platform, or on this machine if none is asked for, best first.
    ///
    /// # Errors
    /// [`Error::NoMatch`] where there are none.
    pub fn best(&self, platform: Option<&Platform>) -> Result<Vec<&Descriptor>, Error> {
        let wanted = platform.cloned().unwrap_or_else(maximum).candidates();
        let found = matches(self, &wanted);
        if found.is_empty() {
            let text = platform.map_or_else(host_text, Platform::to_string);
            return Err(Error::NoMatch(text));
        }
        Ok(found)
    }
}

/// The entries of an index that run on one of `wanted`, best first.
fn matches<'a>(index: &'a Index, wanted: &[Platform]) -> Vec<&'a Descriptor> {
    let mut found: Vec<(usize, &Descriptor)> = index
        .manifests
        .iter()
        .filter(|entry| !entry.is_attestation())
        .filter_map(|entry| {
            let platform = entry.platform.as_ref().filter(|platform| {
                !(platform.os.is_empty()
                    && platform.architecture.is_empty()
                    && platform.variant.is_empty())
            });
            let rank = match platform {
                None => wanted.len(),
                Some(platform) => {
                    let normal =
                        Platform::new(&platform.os, &platform.architecture, &platform.variant);
                    wanted.iter().position(|wanted| *wanted == normal)?
                }
            };
            Some((rank, entry))
        })
        .collect();
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, entry)| entry).collect()
}

/// This machine, with the newest variant that its processor has.
fn maximum() -> Platform {
    let host = Platform::host();
    if host.architecture == "amd64" {
        Platform::new(&host.os, &host.architecture, amd64_level())
    } else {
        host
    }
}

/// The x86-64 psABI's level of this processor.
fn amd64_level() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;

        let v2 = has!("cmpxchg16b")
            && has!("popcnt")
            && has!("sse3")
            && has!("sse4.1")
            && has!("sse4.2")
            && has!("ssse3");
        let v3 = v2
            && has!("avx")
            && has!("avx2")
            && has!("bmi1")
            && has!("bmi2")
            && has!("f16c")
            && has!("fma")
            && has!("lzcnt")
            && has!("movbe");
        let v4 = v3
            && has!("avx512f")
            && has!("avx512bw")
            && has!("avx512cd")
            && has!("avx512dq")
            && has!("avx512vl");
        if v4 {
            return "v4";
        } else if v3 {
            return "v3";
        } else if v2 {
            return "v2";
        }
    }
    ""
}

/// This machine as Docker names it when nothing fits: arm with its variant, amd64 without.
fn host_text() -> String {
    let host = Platform::host();
    if host.architecture == "arm64" && host.variant.is_empty() {
        format!("{host}/v8")
    } else {
        host.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::manifest::DescribedPlatform;
    use proptest::prelude::*;

    fn platform(text: &str) -> Platform {
        text.parse().expect("a platform")
    }

    fn list(text: &str) -> String {
        let all: Vec<String> = platform(text)
            .candidates()
            .iter()
            .map(ToString::to_string)
            .collect();
        all.join(" ").replace("linux/", "")
    }

    #[test]
    fn runs_also() {
        assert_eq!(list("linux/amd64"), "amd64 386");
        assert_eq!(list("linux/amd64/v3"), "amd64/v3 amd64/v2 amd64 386");
        assert_eq!(list("linux/arm/v7"), "arm/v7 arm/v6 arm/v5");
        assert_eq!(list("linux/arm/v6"), "arm/v6 arm/v5");
        assert_eq!(list("linux/arm64"), "arm64 arm/v8 arm/v7 arm/v6 arm/v5");
        assert_eq!(
            list("linux/arm64/v8.1"),
            "arm64/v8.1 arm64 arm/v8 arm/v7 arm/v6 arm/v5"
        );
        assert!(list("linux/arm64/v9").starts_with("arm64/v9 arm64/v8.5 arm64/v8.4"));
        assert_eq!(list("linux/riscv64"), "riscv64");
        assert_eq!(list("linux/arm64/v99"), "");
    }

    fn index(entries: &[&str]) -> Index {
        let manifests = entries
            .iter()
            .map(|text| {
                let (text, annotated) = match text.strip_suffix('!') {
                    Some(text) => (text, true),
                    None => (*text, false),
                };
                let mut parts = text.split('/').map(str::to_owned);
                Descriptor {
                    media_type: String::new(),
                    digest: Digest::of(text.as_bytes()),
                    size: 1,
                    platform: (!text.is_empty()).then(|| DescribedPlatform {
                        os: parts.next().unwrap_or_default(),
                        architecture: parts.next().unwrap_or_default(),
                        variant: parts.next().unwrap_or_default(),
                    }),
                    annotations: annotated.then(|| {
                        [(
                            "vnd.docker.reference.type".to_owned(),
                            "attestation-manifest".to_owned(),
                        )]
                        .into()
                    }),
                    urls: None,
                }
            })
            .collect();
        Index {
            media_type: String::new(),
            manifests,
        }
    }

    #[test]
    fn picks_the_best() {
        let pick = |entries: &[&str], wanted: &str| {
            let index = index(entries);
            let found = matches(&index, &platform(wanted).candidates());
            found.first().map(|entry| entry.digest)
        };
        let of = |text: &str| Some(Digest::of(text.as_bytes()));
        let arms = [
            "linux/arm/v5",
            "linux/arm/v7",
            "linux/arm/v6",
            "linux/arm64/v8",
        ];
        assert_eq!(pick(&arms, "linux/arm/v7"), of("linux/arm/v7"));
        assert_eq!(pick(&arms[2..], "linux/arm/v7"), of("linux/arm/v6"));
        assert_eq!(pick(&arms[..2], "linux/arm64"), of("linux/arm/v7"));
        assert_eq!(pick(&arms, "linux/arm64"), of("linux/arm64/v8"));
        assert_eq!(pick(&arms, "linux/amd64"), None);
        assert_eq!(
            pick(&["unknown/unknown!", "", "linux/amd64"], "linux/amd64"),
            of("linux/amd64")
        );
        assert_eq!(
            pick(&["unknown/unknown", "linux/amd64!"], "linux/amd64"),
            None
        );
        assert_eq!(pick(&["windows/amd64", ""], "linux/amd64"), of(""));
        assert_eq!(pick(&["linux/386"], "linux/amd64/v2"), of("linux/386"));
        assert_eq!(
            pick(
                &["linux/amd64", "linux/amd64/v3", "linux/amd64/v4"],
                "linux/amd64/v3"
            ),
            of("linux/amd64/v3")
        );
    }

    proptest! {
        #[test]
        fn never_panics(os in "[a-z]{0,5}", architecture in "amd64|arm|arm64|[a-z0-9]{0,6}", variant in "v?[0-9.]{0,12}") {
            let wanted = Platform::new(&os, &architecture, &variant);
            let all = wanted.candidates();
            prop_assert!(all.len() < 64);
        }
    }
}
