//! `moss search`.

use anyhow::Result;
use serde_json::{Value, json};

use super::accounts::{self, PROOF};
use super::args;
use super::engine::Client;
use super::filters::filters;
use super::http::{Body, Target};
use super::output::{complain, plain};
use super::table::{Shape, ellipsis};
use crate::api::registry::SearchResult;

/// Characters of a description that a table has room for.
const DESCRIPTION: usize = 45;

const HEADINGS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
];

/// `moss search`.
pub fn search(client: &Client, search: &args::Search) -> Result<()> {
    if search
        .filter
        .iter()
        .any(|text| text.starts_with("is-automated"))
    {
        complain(
            "WARNING: the \"is-automated\" filter is deprecated, and searching for \
             \"is-automated=true\" will not yield any results in future.",
        );
    }
    let proof = accounts::proof(index_of(&search.term));
    let target = Target::new("/images/search", &[])
        .with("term", &search.term)
        .with("limit", search.limit)
        .with_some("filters", &filters(&search.filter)?);
    let mut answer = client.ask_with("GET", &target, &[(PROOF, &proof)], Body::Empty)?;
    let found: Vec<SearchResult> = serde_json::from_reader(&mut answer.body)?;
    let as_json = search.format.as_deref().is_some_and(is_json);
    let rows: Vec<Value> = found
        .iter()
        .map(|one| row(one, search.no_trunc, as_json))
        .collect();
    let shape = Shape {
        headings: HEADINGS,
        columns: HEADINGS.iter().map(|(field, _)| *field).collect(),
        key: "Name",
        row: "*registry.searchContext",
    };
    shape.print(&rows, search.format.as_deref(), false)
}

fn row(found: &SearchResult, whole: bool, as_json: bool) -> Value {
    let description = plain(&found.description.replace(['\n', '\r'], " "));
    let official = match (found.is_official, as_json) {
        (official, true) => official.to_string(),
        (true, false) => "[OK]".to_owned(),
        (false, false) => String::new(),
    };
    json!({
        "Description": if whole { description } else { ellipsis(&description, DESCRIPTION) },
        "IsOfficial": official,
        "Name": plain(&found.name),
        "StarCount": found.star_count.to_string(),
    })
}

/// Whether a format shows whole rows, in which truth values are written out.
fn is_json(format: &str) -> bool {
    let inner = format
        .strip_prefix("{{")
        .and_then(|rest| rest.strip_suffix("}}"));
    matches!(inner.unwrap_or(format).trim(), "json" | "json .")
}

/// The registry that a term begins with; Docker Hub if it begins with none.
fn index_of(term: &str) -> &str {
    match term.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_dockers() {
        let found = SearchResult {
            name: "a/b".into(),
            description: format!("one\ntwo {}", "x".repeat(60)),
            star_count: 12,
            is_official: true,
            ..SearchResult::default()
        };
        let short = row(&found, false, false);
        assert_eq!(short["IsOfficial"], "[OK]");
        assert_eq!(short["StarCount"], "12");
        assert_eq!(short["Description"], format!("one two {}…", "x".repeat(36)));
        assert_eq!(row(&found, true, true)["IsOfficial"], "true");
        assert!(is_json("json") && is_json("{{json .}}") && !is_json("{{.Name}} json"));
        assert_eq!(index_of("debian"), "docker.io");
        assert_eq!(index_of("r.example:5000/a"), "r.example:5000");
    }
}
