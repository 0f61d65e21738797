//! The `filters` parameter of lists, prunes and events: names with the values accepted for each.
//!
//! Clients write `{"label":{"a=b":true}}`; those older than 1.22, and several SDKs to this day,
//! write `{"label":["a=b"]}`. Values of one name are alternatives (labels: all must match), names
//! are joined by and.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Parsed filters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeMap<String, bool>>);

/// Why filters are refused. The wording is Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not JSON of either form.
    #[error("invalid filter")]
    Format,
    /// A name that this list does not know.
    #[error("invalid filter '{0}'")]
    Name(String),
    /// A value that means nothing for its name.
    #[error("invalid filter '{name}=[{values}]'")]
    Value {
        /// The name.
        name: String,
        /// Its values.
        values: String,
    },
}

impl Filters {
    /// Parses the parameter; an empty one is no filter.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let mut filters = Self::default();
        if text.is_empty() {
            return Ok(filters);
        }
        let entries = match serde_json::from_str(text) {
            Ok(Value::Object(entries)) => entries,
            Ok(Value::Null) => return Ok(filters),
            _ => return Err(FilterError::Format),
        };
        for (name, values) in entries {
            let set = filters.0.entry(name).or_default();
            match values {
                Value::Null => {}
                Value::Array(items) => {
                    for item in items {
                        let Value::String(value) = item else {
                            return Err(FilterError::Format);
                        };
                        set.insert(value, true);
                    }
                }
                Value::Object(items) => {
                    for (value, flag) in items {
                        // A value with `false` is there, but no candidate equals it.
                        match flag {
                            Value::Bool(flag) => set.insert(value, flag),
                            Value::Null => set.insert(value, false),
                            _ => return Err(FilterError::Format),
                        };
                    }
                }
                _ => return Err(FilterError::Format),
            }
        }
        Ok(filters)
    }

    /// Adds a value.
    pub fn add(&mut self, name: &str, value: &str) {
        self.0
            .entry(name.to_owned())
            .or_default()
            .insert(value.to_owned(), true);
    }

    /// Refuses names that are not in `accepted`.
    pub fn validate(&self, accepted: &[&str]) -> Result<(), FilterError> {
        match self
            .0
            .keys()
            .find(|name| !accepted.contains(&name.as_str()))
        {
            Some(name) => Err(FilterError::Name(name.clone())),
            None => Ok(()),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this name is filtered on.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The values of a name.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .get(name)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .map(String::as_str)
    }

    /// The error that says a name's values are wrong.
    pub fn bad_value(&self, name: &str) -> FilterError {
        FilterError::Value {
            name: name.to_owned(),
            values: self.values(name).collect::<Vec<_>>().join(" "),
        }
    }

    /// A truth value: `1`, `true`, `0` or `false`; `default` when it is not filtered on.
    pub fn bool_or(&self, name: &str, default: bool) -> Result<bool, FilterError> {
        let Some(values) = self.0.get(name) else {
            return Ok(default);
        };
        if values.is_empty() {
            return Err(FilterError::Name(name.to_owned()));
        }
        let any = |words: [&str; 2]| words.iter().any(|word| values.get(*word) == Some(&true));
        let (yes, no) = (any(["1", "true"]), any(["0", "false"]));
        if yes == no {
            return Err(self.bad_value(name));
        }
        Ok(yes)
    }

    /// The same; `None` when it is not filtered on.
    pub fn bool(&self, name: &str) -> Result<Option<bool>, FilterError> {
        match self.contains(name) {
            true => self.bool_or(name, false).map(Some),
            false => Ok(None),
        }
    }

    /// Whether `candidate` is one of the values; true when the name is not filtered on.
    pub fn matches_exactly(&self, name: &str, candidate: &str) -> bool {
        self.0
            .get(name)
            .is_none_or(|values| values.is_empty() || values.get(candidate) == Some(&true))
    }

    /// Whether `candidate` is or begins with one of the values.
    pub fn matches_prefix(&self, name: &str, candidate: &str) -> bool {
        self.matches_exactly(name, candidate)
            || self.values(name).any(|value| candidate.starts_with(value))
    }

    /// Whether one of the values, a regular expression, is found in `candidate`; a value that is
    /// no expression matches nothing, as in Docker. Expressions run in linear time.
    pub fn matches_pattern(&self, name: &str, candidate: &str) -> bool {
        self.matches_exactly(name, candidate)
            || self.values(name).any(|value| {
                regex::Regex::new(value).is_ok_and(|pattern| pattern.is_match(candidate))
            })
    }

    /// Whether every `key` and `key=value` of `name` is among `labels`.
    pub fn matches_labels(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(name)
            .all(|wanted| match wanted.split_once('=') {
                Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
                None => labels.contains_key(wanted),
            })
    }

    /// Whether none of the `key` and `key=value` of `name` is among `labels` (`label!`).
    pub fn excludes_labels(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        !self.contains(name)
            || self.0.get(name).is_some_and(BTreeMap::is_empty)
            || !self.matches_labels(name, labels)
    }
}

impl Serialize for Filters {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn both_forms_are_one() {
        let lists = Filters::parse(r#"{"label":["a=b","c"],"name":["x"]}"#);
        let maps = Filters::parse(r#"{"label":{"a=b":true,"c":true},"name":{"x":true}}"#);
        assert!(lists.is_ok());
        assert_eq!(lists, maps);
        assert_eq!(Filters::parse(""), Ok(Filters::default()));
        assert_eq!(Filters::parse("{}"), Ok(Filters::default()));
        for text in [
            "x",
            "[]",
            "1",
            r#"{"a":1}"#,
            r#"{"a":[1]}"#,
            r#"{"a":{"b":"c"}}"#,
        ] {
            assert_eq!(Filters::parse(text), Err(FilterError::Format), "{text}");
        }
    }

    #[test]
    fn errors_are_dockers() {
        let filters = Filters::parse(r#"{"foo":["1"],"dangling":["maybe"]}"#).unwrap_or_default();
        let text = |result: Result<(), FilterError>| result.err().map(|e| e.to_string());
        assert_eq!(
            text(filters.validate(&["dangling"])),
            Some("invalid filter 'foo'".into())
        );
        assert_eq!(text(filters.validate(&["dangling", "foo"])), None);
        assert_eq!(
            text(filters.bool_or("dangling", false).map(|_| ())),
            Some("invalid filter 'dangling=[maybe]'".into())
        );
        assert_eq!(filters.bool_or("foo", false), Ok(true));
        assert_eq!(filters.bool_or("bar", true), Ok(true));
        assert!(filters.values("foo").eq(["1"]));
    }

    #[test]
    fn matches() {
        let filters = Filters::parse(
            r#"{"label":["a=b","c"],"name":["^/we","["],"id":["abc"],"status":["exited"]}"#,
        )
        .unwrap_or_default();
        assert!(filters.matches_labels("label", &labels(&[("a", "b"), ("c", "d"), ("e", "")])));
        assert!(!filters.matches_labels("label", &labels(&[("a", "x"), ("c", "d")])));
        assert!(!filters.matches_labels("label", &labels(&[("a", "b")])));
        assert!(filters.matches_labels("other", &labels(&[])));
        assert!(filters.excludes_labels("label", &labels(&[("a", "b")])));
        assert!(filters.excludes_labels("label!", &labels(&[])));
        assert!(filters.matches_pattern("name", "/web"));
        assert!(!filters.matches_pattern("name", "/xwe"));
        assert!(filters.matches_prefix("id", "abcdef"));
        assert!(!filters.matches_prefix("id", "bcdef"));
        assert!(filters.matches_exactly("status", "exited"));
        assert!(!filters.matches_exactly("status", "running"));
        assert!(filters.matches_exactly("health", "anything"));
        let off = Filters::parse(r#"{"status":{"exited":false},"name":[]}"#).unwrap_or_default();
        assert!(!off.matches_exactly("status", "exited"));
        assert!(off.contains("name") && off.matches_exactly("name", "anything"));
    }

    proptest! {
        #[test]
        fn read_back(entries in prop::collection::btree_map("[a-z!]{1,8}", prop::collection::btree_map("\\PC{0,8}", any::<bool>(), 0..3), 0..4)) {
            let filters = Filters(entries);
            let text = serde_json::to_string(&filters).unwrap_or_default();
            prop_assert_eq!(Filters::parse(&text), Ok(filters));
        }

        #[test]
        fn never_panics(text in "\\PC*", pattern in "[\\[\\](){}*+?|\\\\^$.a-z0-9,]{0,20}") {
            let _ = Filters::parse(&text);
            let mut filters = Filters::default();
            filters.add("name", &pattern);
            filters.matches_pattern("name", &text);
        }
    }
}
