//! Values in a template: their kinds, and how they print.
//!
//! JSON does not say what Go's type would be, and Go prints by type: a list that is not there is
//! `[]`, a map `map[]`, a pointer `<nil>`; what a map does not have is `<no value>`, what a struct
//! does not have an error. So a field's kind is taken from its name: [`MAPS`] are the maps of
//! Docker's API with what they hold, [`POINTERS`] the fields that may be `<nil>`; any other `null`
//! is a list. Of fields that the API leaves out where they are empty the answer does not even say
//! that they exist: [`OMITTED`] are those that Go's structs have all the same.

use std::fmt::Write;

use serde_json::{Map, Value};

/// What Go's type of a value is, as far as printing depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As its JSON says.
    Plain,
    /// A list, also where it is `null`.
    List,
    /// A map, also where it is `null`; what it holds.
    Map(Element),
    /// Nothing: a map did not have it.
    Absent,
}

/// What a map holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Text,
    List,
    Pointer,
}

/// A value in a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Typed {
    pub(super) value: Value,
    pub(super) kind: Kind,
}

/// Fields that are maps.
const MAPS: &[(&str, Element)] = &[
    ("Annotations", Element::Text),
    ("AuxiliaryAddresses", Element::Text),
    ("ContainerLabels", Element::Text),
    ("Containers", Element::Pointer),
    ("Data", Element::Text),
    ("DriverOpts", Element::Text),
    ("ExposedPorts", Element::Pointer),
    ("IndexConfigs", Element::Pointer),
    ("Labels", Element::Text),
    ("Networks", Element::Pointer),
    ("Options", Element::Text),
    ("PortBindings", Element::List),
    ("Ports", Element::List),
    ("Runtimes", Element::Pointer),
    ("StorageOpt", Element::Text),
    ("Sysctls", Element::Text),
    ("Tmpfs", Element::Text),
    ("Volumes", Element::Pointer),
];

/// Fields that are pointers.
const POINTERS: &[&str] = &[
    "Client",
    "Descriptor",
    "Health",
    "Healthcheck",
    "IPAMConfig",
    "ImageManifestDescriptor",
    "Init",
    "MemorySwappiness",
    "OomKillDisable",
    "PidsLimit",
    "Platform",
    "Server",
    "StopTimeout",
    "Swarm",
    "UsageData",
];

/// Fields that are left out of an answer where they are empty, and neither maps nor pointers.
const OMITTED: &[(&str, Zero)] = &[
    ("ArgsEscaped", Zero::False),
    ("Author", Zero::Text),
    ("Comment", Zero::Text),
    ("Consistency", Zero::Text),
    ("Created", Zero::Text),
    ("DockerVersion", Zero::Text),
    ("Driver", Zero::Text),
    ("MacAddress", Zero::Text),
    ("MaskedPaths", Zero::List),
    ("Mounts", Zero::List),
    ("Name", Zero::Text),
    ("NetworkDisabled", Zero::False),
    ("OnBuild", Zero::List),
    ("OsVersion", Zero::Text),
    ("Parent", Zero::Text),
    ("Runtime", Zero::Text),
    ("Shell", Zero::List),
    ("StopSignal", Zero::Text),
    ("User", Zero::Text),
    ("Variant", Zero::Text),
    ("Warnings", Zero::List),
];

/// Maps that are left out so.
const OMITTED_MAPS: &[&str] = &[
    "Annotations",
    "ExposedPorts",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];

/// Pointers that are left out so.
const OMITTED_POINTERS: &[&str] = &[
    "Descriptor",
    "Health",
    "Healthcheck",
    "ImageManifestDescriptor",
    "Init",
    "SizeRootFs",
    "SizeRw",
    "StopTimeout",
    "UsageData",
];

/// What a field is that is left out.
#[derive(Debug, Clone, Copy)]
enum Zero {
    Text,
    List,
    False,
}

/// A field that is not there although Docker's struct has it.
pub(super) fn omitted(name: &str) -> Option<Typed> {
    let is = |known: &str| known.eq_ignore_ascii_case(name);
    let value = match OMITTED.iter().find(|(known, _)| is(known)) {
        Some((_, Zero::Text)) => Value::String(String::new()),
        Some((_, Zero::False)) => Value::Bool(false),
        Some((_, Zero::List)) => Value::Null,
        None if OMITTED_POINTERS.iter().any(|known| is(known)) => return Some(Value::Null.into()),
        None if OMITTED_MAPS.iter().any(|known| is(known)) => Value::Null,
        None => return None,
    };
    Some(field(name, value))
}

impl From<Value> for Typed {
    fn from(value: Value) -> Self {
        Self {
            value,
            kind: Kind::Plain,
        }
    }
}

impl Element {
    /// What `index` finds where nothing is.
    pub(super) fn zero(self) -> Typed {
        match self {
            Self::Text => Value::String(String::new()).into(),
            Self::List => Typed {
                value: Value::Null,
                kind: Kind::List,
            },
            Self::Pointer => Value::Null.into(),
        }
    }
}

/// A field's value with the kind that its name gives it.
pub(super) fn field(name: &str, value: Value) -> Typed {
    let is = |known: &str| known.eq_ignore_ascii_case(name);
    let map = MAPS.iter().find(|(known, _)| is(known));
    let kind = match (&value, map) {
        (Value::Object(_) | Value::Null, Some((_, element))) => Kind::Map(*element),
        (Value::Null, None) if !POINTERS.iter().any(|known| is(known)) => Kind::List,
        _ => Kind::Plain,
    };
    Typed { value, kind }
}

/// Go's truth: not zero, not empty.
pub(super) fn is_true(typed: &Typed) -> bool {
    match &typed.value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
    }
}

/// The entries in the order in which Go has a map's.
pub(super) fn sorted(items: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let mut items: Vec<_> = items.iter().collect();
    items.sort_by_key(|(key, _)| *key);
    items.into_iter()
}

pub(super) fn shown(typed: &Typed) -> String {
    let mut out = String::new();
    show(typed, &mut out);
    out
}

/// Prints a value as Go does.
pub(super) fn show(typed: &Typed, out: &mut String) {
    match (&typed.value, typed.kind) {
        (_, Kind::Absent) => out.push_str("<no value>"),
        (Value::Null, Kind::List) => out.push_str("[]"),
        (Value::Null, Kind::Map(_)) => out.push_str("map[]"),
        (value, _) => show_plain(value, out),
    }
}

fn show_plain(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                show_plain(item, out);
            }
            out.push(']');
        }
        Value::Object(items) => {
            out.push_str("map[");
            for (index, (name, item)) in sorted(items).enumerate() {
                let space = if index > 0 { " " } else { "" };
                // Writing to a string cannot fail.
                let _ = write!(out, "{space}{name}:");
                show_plain(item, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}
