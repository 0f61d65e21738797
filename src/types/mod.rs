//! Values that are parsed once, at the edge, and cannot be wrong afterwards.
//!
//! Everything here is pure: no files, no clock except [`timestamp::Timestamp::now`], no random
//! numbers except where a new id or name is asked for. Each type has one parser, whose errors carry
//! Docker's own wording because clients and scripts match on it, and one `Display` that the parser
//! reads back unchanged.

pub mod boolean;
pub mod chain;
pub mod detach_keys;
pub mod digest;
pub mod duration;
pub mod errno;
pub mod id;
pub mod idmap;
pub mod keep_id;
pub mod name;
pub mod path;
pub mod platform;
pub mod port;
pub mod prefix;
pub mod reference;
pub mod signal;
pub mod size;
pub mod sysctl;
pub mod timestamp;
pub mod utf8;

/// Implements serde as the type's `Display` and `FromStr`.
macro_rules! serde_as_string {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_string;
