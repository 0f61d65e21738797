//! Capabilities: names, numbers, Docker's default set and the arithmetic of `--cap-add/--cap-drop`.
//!
//! A set is a `u64` whose bit N is capability N of capabilities(7). What the running kernel knows
//! (`/proc/sys/kernel/cap_last_cap`) comes in as an argument.

/// Names without their prefix; the index is the number (linux/capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has unless told otherwise: moby's `daemon/pkg/oci/caps/defaults.go`.
pub const DOCKER_DEFAULT: u64 = 1 << 0 // CHOWN
    | 1 << 1 // DAC_OVERRIDE
    | 1 << 3 // FOWNER
    | 1 << 4 // FSETID
    | 1 << 5 // KILL
    | 1 << 6 // SETGID
    | 1 << 7 // SETUID
    | 1 << 8 // SETPCAP
    | 1 << 10 // NET_BIND_SERVICE
    | 1 << 13 // NET_RAW
    | 1 << 18 // SYS_CHROOT
    | 1 << 27 // MKNOD
    | 1 << 29 // AUDIT_WRITE
    | 1 << 31; // SETFCAP

/// Why a list of capabilities was refused, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No capability of this name.
    #[error("{list}: unknown capability: \"{name}\"")]
    Unknown {
        /// `invalid CapAdd` or `invalid CapDrop`.
        list: &'static str,
        /// With its prefix, in capitals.
        name: String,
    },
    /// Newer than the kernel.
    #[error(
        "{list}: capability not supported by your kernel or not available in the current environment: \"{name}\""
    )]
    Unavailable {
        /// `invalid CapAdd` or `invalid CapDrop`.
        list: &'static str,
        /// With its prefix, in capitals.
        name: String,
    },
}

/// Returns the number of a capability by its full name, `CAP_CHOWN`.
pub fn number(name: &str) -> Option<u8> {
    let name = name.strip_prefix("CAP_")?;
    let index = NAMES.iter().position(|known| *known == name)?;
    u8::try_from(index).ok()
}

/// Returns the full name of a capability.
pub fn name(number: u8) -> Option<String> {
    NAMES
        .get(usize::from(number))
        .map(|name| format!("CAP_{name}"))
}

/// Returns the full names of a set, in the order of their numbers.
pub fn names(set: u64) -> Vec<String> {
    (0..64)
        .filter(|number| set & (1 << number) != 0)
        .filter_map(name)
        .collect()
}

/// Returns the set of all capabilities up to the kernel's last one.
pub fn all(last_cap: u8) -> u64 {
    u64::MAX >> (63 - last_cap.min(63))
}

/// Returns the capabilities of a container, as Docker computes them: privileged ones have all; with
/// `ALL` added, all but those dropped by name; with `ALL` dropped, only those added; else the
/// default less the dropped plus the added. Lists are checked even where they have no effect.
pub fn tweak(
    add: &[String],
    drop: &[String],
    privileged: bool,
    last_cap: u8,
) -> Result<u64, Error> {
    let added = parse(add, "invalid CapAdd", last_cap)?;
    let dropped = parse(drop, "invalid CapDrop", last_cap)?;
    Ok(if privileged {
        all(last_cap)
    } else if added.all {
        all(last_cap) & !dropped.named
    } else if dropped.all {
        added.named
    } else {
        (DOCKER_DEFAULT & !dropped.named) | added.named
    } & all(last_cap))
}

struct List {
    all: bool,
    named: u64,
}

fn parse(list: &[String], what: &'static str, last_cap: u8) -> Result<List, Error> {
    let mut parsed = List {
        all: false,
        named: 0,
    };
    for entry in list {
        let mut name = entry.to_uppercase();
        if name == "ALL" {
            parsed.all = true;
            continue;
        }
        if !name.starts_with("CAP_") {
            name.insert_str(0, "CAP_");
        }
        match number(&name) {
            None => return Err(Error::Unknown { list: what, name }),
            Some(number) if number > last_cap => {
                return Err(Error::Unavailable { list: what, name });
            }
            Some(number) => parsed.named |= 1 << number,
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> u64 {
        names
            .iter()
            .map(|name| 1_u64 << number(&format!("CAP_{name}")).unwrap())
            .sum()
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn names_and_numbers_agree() {
        assert_eq!(number("CAP_SYS_ADMIN"), Some(21));
        assert_eq!(number("CAP_CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(number("SYS_ADMIN"), None);
        assert_eq!(name(40).as_deref(), Some("CAP_CHECKPOINT_RESTORE"));
        assert_eq!(name(41), None);
        assert_eq!(names(DOCKER_DEFAULT).len(), 14);
        assert_eq!(all(40), 0x1ff_ffff_ffff);
        assert_eq!(DOCKER_DEFAULT, 0xa804_25fb);
    }

    #[test]
    fn adds_and_drops_as_docker_does() {
        let all = all(40);
        for (add, drop, privileged, expected) in [
            (&[][..], &[][..], false, DOCKER_DEFAULT),
            (
                &["net_admin"],
                &[],
                false,
                DOCKER_DEFAULT | set(&["NET_ADMIN"]),
            ),
            (
                &["CAP_SYS_TIME"],
                &["mknod"],
                false,
                (DOCKER_DEFAULT | set(&["SYS_TIME"])) & !set(&["MKNOD"]),
            ),
            (&["ALL"], &[], false, all),
            (&["all"], &["SYS_ADMIN"], false, all & !set(&["SYS_ADMIN"])),
            (&["ALL"], &["ALL"], false, all),
            (&[], &["ALL"], false, 0),
            (&["CHOWN"], &["ALL"], false, set(&["CHOWN"])),
            // Dropped and added: the addition comes last.
            (&["MKNOD"], &["MKNOD"], false, DOCKER_DEFAULT),
            (&[], &["ALL"], true, all),
        ] {
            let set = tweak(&strings(add), &strings(drop), privileged, 40);
            assert_eq!(set, Ok(expected), "{add:?} {drop:?}");
        }
    }

    #[test]
    fn words_its_errors_as_docker_does() {
        let error = |add: &[&str], drop: &[&str], last| {
            tweak(&strings(add), &strings(drop), false, last)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            error(&["foo"], &[], 40),
            "invalid CapAdd: unknown capability: \"CAP_FOO\""
        );
        assert_eq!(
            error(&[], &["CAP_FOO"], 40),
            "invalid CapDrop: unknown capability: \"CAP_FOO\""
        );
        assert_eq!(
            error(&["BPF"], &[], 37),
            "invalid CapAdd: capability not supported by your kernel or not available in the current environment: \"CAP_BPF\""
        );
    }
}
