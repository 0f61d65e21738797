//! Docker's seccomp profile format, and which of its rules hold for one container.
//!
//! The format is OCI's `LinuxSeccomp` plus `archMap` (which architectures go with the machine's) and
//! per rule `includes`/`excludes`: a rule is kept when the container has all capabilities of
//! `includes` and none of `excludes`, the machine's architecture is listed (not listed), and the
//! kernel is at least (below) `minKernel`. Names of actions and architectures are read only where
//! the rule is kept, so a profile may speak of what this program has never heard of.

use std::sync::OnceLock;

use oci_spec::runtime::{
    Arch as OciArch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};
use serde::{Deserialize, Deserializer};

use super::{Arch, Error};
use crate::userns::caps;

/// moby/profiles, seccomp/default.json, Apache-2.0.
const DOCKER_DEFAULT: &str = include_str!("default.json");

/// A kernel version as far as profiles compare it: `6.18`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion(pub u32, pub u32);

impl KernelVersion {
    /// Reads the first two numbers of `uname -r` or of a profile's `minKernel`.
    pub fn parse(release: &str) -> Option<KernelVersion> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        Some(KernelVersion(major, numbers.next()?.parse().ok()?))
    }
}

/// A profile as Docker's JSON has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    #[serde(default, deserialize_with = "null_default")]
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_default")]
    architectures: Vec<String>,
    #[serde(default, deserialize_with = "null_default")]
    arch_map: Vec<ArchMap>,
    #[serde(default, deserialize_with = "null_default")]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default, deserialize_with = "null_default")]
    sub_architectures: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default, deserialize_with = "null_default")]
    name: String,
    #[serde(default, deserialize_with = "null_default")]
    names: Vec<String>,
    #[serde(default, deserialize_with = "null_default")]
    action: String,
    errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_default")]
    args: Vec<Argument>,
    #[serde(default, deserialize_with = "null_default")]
    includes: Conditions,
    #[serde(default, deserialize_with = "null_default")]
    excludes: Conditions,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    #[serde(default)]
    index: usize,
    #[serde(default)]
    value: u64,
    #[serde(default)]
    value_two: u64,
    #[serde(default)]
    op: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conditions {
    #[serde(default, deserialize_with = "null_default")]
    caps: Vec<String>,
    #[serde(default, deserialize_with = "null_default")]
    arches: Vec<String>,
    min_kernel: Option<MinKernel>,
}

/// `minKernel`, checked when it is read, as Docker does.
#[derive(Debug, Clone, Copy)]
struct MinKernel(KernelVersion);

impl<'de> Deserialize<'de> for MinKernel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MinKernel, D::Error> {
        let text = String::deserialize(deserializer)?;
        KernelVersion::parse(&text).map(MinKernel).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "invalid kernel version: {text}, expected \"<kernel>.<major>\""
            ))
        })
    }
}

/// Go's encoder writes empty lists and objects as null; Go's decoder reads them back as empty.
fn null_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Returns Docker's default profile, evaluated for a container's bounding set on this machine.
pub fn docker_default(capabilities: u64, kernel: KernelVersion) -> Result<LinuxSeccomp, Error> {
    let arch = Arch::native().ok_or(Error::Architecture)?;
    let evaluated = Profile::docker_default()?.evaluate(capabilities, arch, kernel)?;
    // The embedded profile has a default action, so it never means "no filter".
    evaluated.ok_or(Error::Architecture)
}

impl Profile {
    /// Reads a profile.
    pub fn parse(json: &str) -> Result<Profile, Error> {
        serde_json::from_str(json).map_err(Error::Decode)
    }

    /// Returns Docker's default profile, read once.
    pub fn docker_default() -> Result<&'static Profile, Error> {
        static READ: OnceLock<Profile> = OnceLock::new();
        if let Some(profile) = READ.get() {
            return Ok(profile);
        }
        let profile = Profile::parse(DOCKER_DEFAULT)?;
        Ok(READ.get_or_init(|| profile))
    }

    /// Keeps the rules that hold for a container with these capabilities (its bounding set), on a
    /// machine of this architecture with this kernel. `None` when the profile is empty, which in
    /// Docker means no filter.
    pub fn evaluate(
        &self,
        capabilities: u64,
        native: Arch,
        kernel: KernelVersion,
    ) -> Result<Option<LinuxSeccomp>, Error> {
        if self.default_action.is_empty() && self.syscalls.is_empty() {
            return Ok(None);
        }
        if !self.architectures.is_empty() && !self.arch_map.is_empty() {
            return Err(Error::Both {
                one: "architectures",
                other: "archMap",
            });
        }
        let mut rules = Vec::new();
        for rule in &self.syscalls {
            if !rule.name.is_empty() && !rule.names.is_empty() {
                return Err(Error::Both {
                    one: "name",
                    other: "names",
                });
            }
            let holds = rule.includes.all(capabilities, native, kernel)
                && !rule.excludes.any(capabilities, native, kernel);
            if holds {
                rules.push(rule.to_oci()?);
            }
        }
        let mut seccomp = LinuxSeccomp::default();
        seccomp.set_default_action(action(&self.default_action)?);
        seccomp.set_architectures(Some(self.architectures(native)?));
        seccomp.set_syscalls(Some(rules));
        seccomp.set_default_errno_ret(self.default_errno_ret);
        Ok(Some(seccomp))
    }

    /// Returns the listed architectures, or the machine's and those that the map puts beside it.
    fn architectures(&self, native: Arch) -> Result<Vec<OciArch>, Error> {
        let from_map = self
            .arch_map
            .iter()
            .find(|entry| entry.architecture == native.seccomp_name())
            .into_iter()
            .flat_map(|entry| std::iter::once(&entry.architecture).chain(&entry.sub_architectures));
        self.architectures
            .iter()
            .chain(from_map)
            .map(|name| parse("arch", name))
            .collect()
    }
}

impl Conditions {
    /// Returns whether every condition holds.
    fn all(&self, capabilities: u64, native: Arch, kernel: KernelVersion) -> bool {
        self.caps.iter().all(|name| held(capabilities, name))
            && (self.arches.is_empty() || self.lists(native))
            && self.min_kernel.is_none_or(|MinKernel(min)| kernel >= min)
    }

    /// Returns whether one condition holds.
    fn any(&self, capabilities: u64, native: Arch, kernel: KernelVersion) -> bool {
        self.caps.iter().any(|name| held(capabilities, name))
            || self.lists(native)
            || self.min_kernel.is_some_and(|MinKernel(min)| kernel >= min)
    }

    fn lists(&self, native: Arch) -> bool {
        self.arches.iter().any(|name| name == native.docker_name())
    }
}

/// Returns whether a set holds the capability of this name; one of no known name is never held.
fn held(capabilities: u64, name: &str) -> bool {
    caps::number(name).is_some_and(|number| capabilities & (1 << number) != 0)
}

impl Rule {
    fn to_oci(&self) -> Result<LinuxSyscall, Error> {
        let names = if self.name.is_empty() {
            self.names.clone()
        } else {
            vec![self.name.clone()]
        };
        let mut rule = LinuxSyscall::default();
        rule.set_names(names);
        rule.set_action(action(&self.action)?);
        rule.set_errno_ret(self.errno_ret);
        if !self.args.is_empty() {
            let args = self.args.iter().map(Argument::to_oci);
            rule.set_args(Some(args.collect::<Result<_, _>>()?));
        }
        Ok(rule)
    }
}

impl Argument {
    fn to_oci(&self) -> Result<LinuxSeccompArg, Error> {
        let operator: LinuxSeccompOperator = parse("operator", &self.op)?;
        LinuxSeccompArgBuilder::default()
            .index(self.index)
            .value(self.value)
            .value_two(self.value_two)
            .op(operator)
            .build()
            .map_err(|_| Error::ArgumentIndex(self.index))
    }
}

fn action(name: &str) -> Result<LinuxSeccompAction, Error> {
    parse("action", name)
}

fn parse<T: std::str::FromStr>(what: &'static str, name: &str) -> Result<T, Error> {
    name.parse().map_err(|_| Error::Name {
        what,
        value: name.to_owned(),
    })
}
