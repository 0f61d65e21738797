//! Platforms, `os/architecture[/variant]`, in the normal form that manifests are compared in.
//!
//! The rules are those of the OCI image index and of containerd: Linux's own names for
//! architectures (`x86_64`, `aarch64`) become Go's (`amd64`, `arm64`), a variant that every machine
//! of its architecture has is left out (`arm64/v8`, `amd64/v1`), and `arm` alone means `v7`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an image runs on, in normal form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system, `linux`.
    #[serde(default)]
    pub os: String,
    /// Architecture, by Go's name.
    #[serde(default)]
    pub architecture: String,
    /// Variant of the architecture; empty for the usual one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// A string that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// A first part that is empty or has characters that are not allowed.
    #[error(
        "{part:?} is an invalid OS component of {text:?}: OSAndVersion specifier component must \
         match \"^([A-Za-z0-9_-]+)(?:\\\\(([A-Za-z0-9_.%-]*)((?:\\\\+[A-Za-z0-9_.%-]+)*)\\\\))?$\": \
         invalid argument"
    )]
    Os {
        /// The part.
        part: String,
        /// The whole string.
        text: String,
    },
    /// Another part that is empty or has characters that are not allowed.
    #[error(
        "{part:?} is an invalid component of {text:?}: platform specifier component must match \
         \"^[A-Za-z0-9_.-]+$\": invalid argument"
    )]
    Component {
        /// The part.
        part: String,
        /// The whole string.
        text: String,
    },
    /// One word that is neither an operating system nor an architecture.
    #[error("{0:?}: unknown operating system or architecture: invalid argument")]
    Unknown(String),
    /// More than three parts.
    #[error("{0:?}: cannot parse platform specifier: invalid argument")]
    Parts(String),
}

/// x86-64-v2 of the psABI; each level has what those before it have.
#[cfg(target_arch = "x86_64")]
fn has_level_2() -> bool {
    use std::arch::is_x86_feature_detected as has;

    has!("cmpxchg16b") && has!("popcnt") && has!("sse4.2") && has!("ssse3")
}

/// x86-64-v3.
#[cfg(target_arch = "x86_64")]
fn has_level_3() -> bool {
    use std::arch::is_x86_feature_detected as has;

    let vectors = has!("avx2") && has!("fma") && has!("f16c");
    vectors && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("movbe")
}

/// x86-64-v4.
#[cfg(target_arch = "x86_64")]
fn has_level_4() -> bool {
    use std::arch::is_x86_feature_detected as has;

    let whole = has!("avx512f") && has!("avx512bw") && has!("avx512cd");
    whole && has!("avx512dq") && has!("avx512vl")
}

impl Platform {
    /// Makes a platform from its parts and brings it to normal form.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let (architecture, variant) = normalise(architecture, variant);
        Self {
            os,
            architecture,
            variant,
        }
    }

    /// The platform of this machine.
    pub fn host() -> Self {
        let variant = match std::env::consts::ARCH {
            // Debian's armhf and every 32-bit arm target of Rust's with hard floats.
            "arm" => "v7",
            _ => "",
        };
        Self::new("linux", std::env::consts::ARCH, variant)
    }

    /// The same in words, with the variant that its processor has: of amd64 the level of the psABI,
    /// as `linux/amd64/v3`.
    pub fn host_in_full() -> String {
        #[cfg(target_arch = "x86_64")]
        let variant = match () {
            () if !has_level_2() => "v1",
            () if !has_level_3() => "v2",
            () if !has_level_4() => "v3",
            () => "v4",
        };
        #[cfg(target_arch = "aarch64")]
        let variant = "v8";
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let variant = "";
        let host = Self::host();
        Self {
            variant: if variant.is_empty() {
                host.variant
            } else {
                variant.to_owned()
            },
            ..host
        }
        .to_string()
    }

    /// Bytes of an ELF file that [`Platform::of_elf`] wants.
    pub const ELF_HEADER: usize = 20;

    /// What an ELF file is for, by the first bytes of it; `None` where it is no ELF file, or for a
    /// machine that images have no name for. Variants are not told.
    pub fn of_elf(header: &[u8; Self::ELF_HEADER]) -> Option<Self> {
        let [0x7f, b'E', b'L', b'F', class, data, ..] = *header else {
            return None;
        };
        let machine = [header[18], header[19]];
        let (little, machine) = match data {
            1 => (true, u16::from_le_bytes(machine)),
            2 => (false, u16::from_be_bytes(machine)),
            _ => return None,
        };
        // e_machine of the System V ABI; classes are 1 for 32 bits, 2 for 64.
        let architecture = match (machine, class, little) {
            (3, 1, true) => "386",
            (8, 1, true) => "mipsle",
            (8, 1, false) => "mips",
            (8, 2, true) => "mips64le",
            (8, 2, false) => "mips64",
            (21, 2, true) => "ppc64le",
            (21, 2, false) => "ppc64",
            (22, 2, false) => "s390x",
            (40, 1, true) => "arm",
            (62, 2, true) => "amd64",
            (183, 2, true) => "arm64",
            (243, 2, true) => "riscv64",
            (258, 2, true) => "loong64",
            _ => return None,
        };
        Some(Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: String::new(),
        })
    }

    /// Whether an image for `image` runs where `self` is asked for.
    pub fn runs(&self, image: &Self) -> bool {
        self.candidates().contains(image)
    }

    /// The platforms whose programs run on this one, best first: containerd's rules.
    pub fn candidates(&self) -> Vec<Self> {
        let new = |architecture: &str, variant: &str| Self::new(&self.os, architecture, variant);
        let version = |variant: &str| -> Option<(u32, u32)> {
            let mut parts = variant.strip_prefix('v')?.splitn(2, '.');
            let major = parts.next()?.parse().ok()?;
            Some((
                major,
                parts.next().map_or(Some(0), |minor| minor.parse().ok())?,
            ))
        };
        let arm_below = |major: u32| (5..=major).rev().map(move |older| format!("v{older}"));
        match self.architecture.as_str() {
            "amd64" => {
                let major = version(&self.variant).map_or(1, |(major, _)| major.min(16));
                let older = (1..major)
                    .rev()
                    .map(|older| new("amd64", &format!("v{older}")));
                [self.clone()]
                    .into_iter()
                    .chain(older)
                    .chain([new("386", "")])
                    .collect()
            }
            "arm" => match version(&self.variant) {
                Some((major, 0)) if (5..=8).contains(&major) => arm_below(major)
                    .map(|variant| new("arm", &variant))
                    .collect(),
                _ => vec![self.clone()],
            },
            "arm64" => {
                let variant = if self.variant.is_empty() {
                    "v8"
                } else {
                    &self.variant
                };
                // An ARMv9.x has what an ARMv8.(x+5) has.
                let series: &[(u32, u32)] = match version(variant) {
                    Some((8, minor)) if minor <= 9 => &[(8, minor)],
                    Some((9, minor)) if minor <= 7 => &[(9, minor), (8, (minor + 5).min(9))],
                    _ => return Vec::new(),
                };
                let versions = series.iter().flat_map(|&(major, minor)| {
                    (0..=minor).rev().map(move |minor| match minor {
                        0 => format!("v{major}"),
                        minor => format!("v{major}.{minor}"),
                    })
                });
                versions
                    .map(|variant| new("arm64", &variant))
                    .chain(arm_below(8).map(|variant| new("arm", &variant)))
                    .collect()
            }
            _ => vec![self.clone()],
        }
    }
}

fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (
        architecture.to_ascii_lowercase(),
        variant.to_ascii_lowercase(),
    );
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        ("powerpc64le" | "powerpc64", variant) => ("ppc64le", variant),
        ("loongarch64", variant) => ("loong64", variant),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.to_owned(), variant.to_owned())
}

const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "ios",
    "js",
    "linux",
    "macos",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
];

const ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
    "ppc64le", "riscv64", "s390x", "wasm",
];

impl FromStr for Platform {
    type Err = PlatformError;

    /// Parses `os`, `architecture`, `os/architecture` or `os/architecture/variant`; what is left
    /// out is this machine's.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        // At most four, whatever is written: three are the most that mean something.
        let parts: Vec<&str> = text.splitn(4, '/').collect();
        for (index, part) in parts.iter().enumerate() {
            let allowed = |c: u8| {
                c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-') || (index > 0 && c == b'.')
            };
            if part.is_empty() || !part.bytes().all(allowed) {
                let (part, text) = ((*part).to_owned(), text.to_owned());
                return Err(if index == 0 {
                    PlatformError::Os { part, text }
                } else {
                    PlatformError::Component { part, text }
                });
            }
        }
        match parts[..] {
            [word] => {
                let host = Self::host();
                let as_os = Self::new(word, &host.architecture, &host.variant);
                if SYSTEMS.contains(&as_os.os.as_str()) {
                    return Ok(as_os);
                }
                let as_architecture = Self::new(&host.os, word, "");
                if ARCHITECTURES.contains(&as_architecture.architecture.as_str()) {
                    return Ok(as_architecture);
                }
                Err(PlatformError::Unknown(text.to_owned()))
            }
            [os, architecture] => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::new(os, architecture, variant)),
            _ => Err(PlatformError::Parts(text.to_owned())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_in_full_is_the_host() {
        let full = Platform::host_in_full();
        let host = Platform::host().to_string();
        assert!(full.starts_with(&host), "{full}");
        if host == "linux/amd64" {
            let level = full.strip_prefix("linux/amd64/v").unwrap();
            assert!(["1", "2", "3", "4"].contains(&level), "{full}");
        }
    }

    #[test]
    fn programs_say_what_they_are_for() {
        let of = |class, data, machine: [u8; 2]| {
            let mut header = [0; Platform::ELF_HEADER];
            header[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, data]);
            header[18..].copy_from_slice(&machine);
            Platform::of_elf(&header).map(|platform| platform.to_string())
        };
        assert_eq!(of(2, 1, [62, 0]).as_deref(), Some("linux/amd64"));
        assert_eq!(of(2, 1, [183, 0]).as_deref(), Some("linux/arm64"));
        assert_eq!(of(2, 2, [0, 22]).as_deref(), Some("linux/s390x"));
        assert_eq!(of(1, 1, [62, 0]), None, "x32");
        assert_eq!(of(2, 3, [62, 0]), None);
        assert_eq!(Platform::of_elf(b"#!/bin/sh\necho hello"), None);
    }

    #[test]
    fn normalises() {
        for (text, printed) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("macos/arm64", "darwin/arm64"),
        ] {
            let parsed = text.parse::<Platform>().map(|p| p.to_string());
            assert_eq!(parsed, Ok(printed.into()), "{text}");
        }
        assert_eq!(
            "riscv64".parse::<Platform>().map(|p| p.architecture),
            Ok("riscv64".into())
        );
        assert_eq!("linux".parse(), Ok(Platform::host()));
    }

    #[test]
    fn refuses() {
        for text in ["", "/", "linux/", "a/b/c/d", "nonsense", "linux/am d64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
        let message = |text: &str| text.parse::<Platform>().err().map(|e| e.to_string());
        assert_eq!(
            message("linux/").as_deref(),
            Some(
                "\"\" is an invalid component of \"linux/\": platform specifier component must match \
                 \"^[A-Za-z0-9_.-]+$\": invalid argument"
            )
        );
        assert!(message("a.b").is_some_and(|text| text.contains(r#"(?:\\(([A-Za"#)));
    }

    #[test]
    fn older_variants_run() {
        let runs = |host: &str, image: &str| {
            host.parse::<Platform>()
                .is_ok_and(|host| image.parse().is_ok_and(|image| host.runs(&image)))
        };
        assert!(runs("linux/arm/v7", "linux/arm/v6"));
        assert!(!runs("linux/arm/v6", "linux/arm/v7"));
        assert!(runs("linux/amd64/v3", "linux/amd64"));
        assert!(runs("linux/amd64", "linux/386"));
        assert!(runs("linux/arm64", "linux/arm/v6"));
        assert!(!runs("linux/386", "linux/amd64"));
        assert!(!runs("linux/amd64", "linux/arm64"));
    }
}
