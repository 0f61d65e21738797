//! Which id a container's user has whose files are the caller's: `keep-id[:uid=N,gid=N]`.
//!
//! The notation is podman's, its `size` left out. Without a number the caller's own id is meant.

use std::fmt;
use std::str::FromStr;

/// Where the caller's ids are inside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeepId {
    /// The user; the caller's own number where `None`.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
}

/// A text that is no such mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeepIdError {
    /// Another word.
    #[error("known are host and keep-id[:uid=N,gid=N]")]
    Unknown,
    /// What stands behind the colon.
    #[error("{0:?} is neither uid=N nor gid=N")]
    Option(String),
    /// The same twice.
    #[error("{0} is given twice")]
    Twice(&'static str),
}

impl KeepId {
    /// Reads a mode; `None` where the default map is meant (`host`, or nothing).
    ///
    /// # Errors
    /// Any other text.
    pub fn of_mode(mode: &str) -> Result<Option<KeepId>, KeepIdError> {
        match mode {
            "" | "host" => Ok(None),
            mode => mode.parse().map(Some),
        }
    }
}

impl FromStr for KeepId {
    type Err = KeepIdError;

    fn from_str(text: &str) -> Result<KeepId, KeepIdError> {
        let rest = text.strip_prefix("keep-id").ok_or(KeepIdError::Unknown)?;
        let mut keep = KeepId::default();
        let Some(options) = rest.strip_prefix(':') else {
            return match rest {
                "" => Ok(keep),
                _ => Err(KeepIdError::Unknown),
            };
        };
        for option in options.split(',') {
            let wrong = || KeepIdError::Option(option.to_owned());
            let (name, number) = option.split_once('=').ok_or_else(wrong)?;
            let (name, slot) = match name {
                "uid" => ("uid", &mut keep.uid),
                "gid" => ("gid", &mut keep.gid),
                _ => return Err(wrong()),
            };
            // The last number is none to the kernel; a sign is none of a number's.
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            let number = number.parse().ok().filter(|id| digits && *id != u32::MAX);
            if slot.replace(number.ok_or_else(wrong)?).is_some() {
                return Err(KeepIdError::Twice(name));
            }
        }
        Ok(keep)
    }
}

impl fmt::Display for KeepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keep-id")?;
        let numbers = [("uid", self.uid), ("gid", self.gid)];
        let given = numbers.iter().filter_map(|(name, id)| Some((name, (*id)?)));
        for ((name, id), separator) in given.zip([':', ',']) {
            write!(f, "{separator}{name}={id}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_and_written() {
        for (text, uid, gid) in [
            ("keep-id", None, None),
            ("keep-id:uid=1000", Some(1000), None),
            ("keep-id:gid=0", None, Some(0)),
            ("keep-id:uid=1000,gid=7", Some(1000), Some(7)),
        ] {
            let keep: KeepId = text.parse().unwrap();
            assert_eq!((keep.uid, keep.gid), (uid, gid), "{text}");
            assert_eq!(keep.to_string(), text);
        }
        let turned: KeepId = "keep-id:gid=7,uid=1".parse().unwrap();
        assert_eq!(turned.to_string(), "keep-id:uid=1,gid=7");
        assert_eq!(KeepId::of_mode("host"), Ok(None));
        assert_eq!(KeepId::of_mode(""), Ok(None));
        assert_eq!(KeepId::of_mode("keep-id"), Ok(Some(KeepId::default())));
    }

    #[test]
    fn other_texts_are_refused() {
        let refused = |text: &str| KeepId::of_mode(text).unwrap_err().to_string();
        for text in [
            "private", "auto", "keep-ids", "keep-id ", "KEEP-ID", "nomap",
        ] {
            assert!(refused(text).starts_with("known are"), "{text}");
        }
        for option in [
            "",
            "uid",
            "uid=",
            "uid=-1",
            "uid=+1",
            "uid=x",
            "uid=4294967295",
            "size=5",
            "uid=1,",
        ] {
            let text = format!("keep-id:{option}");
            assert!(
                refused(&text).ends_with("is neither uid=N nor gid=N"),
                "{text}"
            );
        }
        assert_eq!(refused("keep-id:uid=1,uid=2"), "uid is given twice");
    }
}
