//! `--security-opt`: seccomp profiles, no-new-privileges.
//!
//! `systempaths=unconfined` is not known here: Docker's own client turns it into empty lists of
//! paths. `writable-cgroups` is known and refused when the container is to start, as by a dockerd
//! without root.
//!
//! AppArmor profiles and SELinux labels are accepted and have no effect: an ordinary user can load
//! neither, and clients send them to every engine alike.

use oci_spec::runtime::LinuxSeccomp;

use super::Error;
use crate::types::boolean;
use crate::userns::seccomp::{Arch, KernelVersion, Profile, docker_default};

/// What system calls containers may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SeccompProfile {
    /// Docker's own profile.
    #[default]
    Builtin,
    /// All of them.
    Unconfined,
    /// A profile's text, as it is; what is wrong in it shows at the start of a container.
    Json(String),
}

/// What the options say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecurityOptions {
    /// `no-new-privileges`.
    pub no_new_privileges: bool,
    /// `seccomp=`: `unconfined`, `builtin` or a profile's JSON.
    pub seccomp: Option<String>,
    /// `writable-cgroups`, either way.
    pub writable_cgroups: Option<bool>,
}

impl SecurityOptions {
    /// Reads the options; of several with one name the last counts. What they do not say of
    /// `no_new_privileges` is as the daemon has it.
    pub fn parse(options: &[String], no_new_privileges: bool) -> Result<SecurityOptions, Error> {
        let mut parsed = SecurityOptions {
            no_new_privileges,
            ..SecurityOptions::default()
        };
        for option in options {
            if option == "no-new-privileges" {
                parsed.no_new_privileges = true;
                continue;
            }
            if option == "writable-cgroups" {
                parsed.writable_cgroups = Some(true);
                continue;
            }
            // SELinux's, from before there were names.
            if option == "disable" {
                continue;
            }
            // The colon is the old separator, for options without an equals sign only.
            let (name, value) = option
                .split_once('=')
                .or_else(|| option.split_once(':'))
                .ok_or_else(|| Error::SecurityOptionForm(option.clone()))?;
            let bad = || Error::SecurityOption(option.clone());
            match name {
                "label" | "apparmor" => {}
                "seccomp" => parsed.seccomp = Some(value.to_owned()),
                "no-new-privileges" => {
                    parsed.no_new_privileges = boolean::parse(value).map_err(|_| bad())?;
                }
                "writable-cgroups" => {
                    parsed.writable_cgroups = Some(boolean::parse(value).map_err(|_| bad())?);
                }
                _ => return Err(bad()),
            }
        }
        Ok(parsed)
    }

    /// Returns the filter of a container. A privileged one has none unless it names one; others
    /// that name none have the daemon's.
    pub(super) fn filter(
        &self,
        privileged: bool,
        default: &SeccompProfile,
        capabilities: u64,
        kernel: KernelVersion,
    ) -> Result<Option<LinuxSeccomp>, Error> {
        let profile = match self.seccomp.as_deref().filter(|name| !name.is_empty()) {
            None if privileged => return Ok(None),
            None => default.clone(),
            Some("unconfined") => SeccompProfile::Unconfined,
            Some("builtin") => SeccompProfile::Builtin,
            Some(json) => SeccompProfile::Json(json.to_owned()),
        };
        match profile {
            SeccompProfile::Unconfined => Ok(None),
            SeccompProfile::Builtin => Ok(Some(docker_default(capabilities, kernel)?)),
            SeccompProfile::Json(json) => {
                let arch = Arch::native().ok_or(crate::userns::seccomp::Error::Architecture)?;
                Ok(Profile::parse(&json)?.evaluate(capabilities, arch, kernel)?)
            }
        }
    }
}
