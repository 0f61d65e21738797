//! Holds the folders of `src/` to the table in ARCHITECTURE.md, and that in `lib.rs` to it too.
//!
//! A folder may use those of a lower level, and itself; tokio and hyper belong to `daemon` alone.
//! Comments are not code: a doc link may point upwards. Reads files only, so it needs nothing of
//! the host.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The table's rows: folder and level.
fn levels(table: &str) -> BTreeMap<String, u32> {
    table
        .lines()
        .filter_map(|line| {
            let line = line.strip_prefix("//! ").unwrap_or(line);
            let mut cells = line.strip_prefix("| L")?.split('|').map(str::trim);
            let level = cells.next()?.parse().ok()?;
            let folder = cells.next()?.trim_matches(['`', '[', ']']);
            Some((folder.to_owned(), level))
        })
        .collect()
}

/// Every `.rs` file below `directory`.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code without its line comments, which is all this crate has.
fn without_comments(text: &str) -> String {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The folders named right after `crate::`, in paths and in `use crate::{a, b::{c, d}}` groups.
fn used(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` in a macro means the same; `mycrate::` does not.
        if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(first_names(group)),
            None => found.push(name(rest)),
        }
    }
    found
}

/// The first name of each member of a `use` group whose opening brace is behind us.
fn first_names(group: &str) -> Vec<String> {
    let mut depth = 1;
    let mut found = Vec::new();
    let mut at_start = true;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => at_start = true,
            _ if at_start && !character.is_whitespace() => {
                found.push(name(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

fn name(text: &str) -> String {
    text.chars()
        .take_while(|character| character.is_alphanumeric() || *character == '_')
        .collect()
}

/// The crate's directory: where cargo runs the test, or where it was compiled.
fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

#[test]
fn folders_use_only_what_is_below_them() {
    let root = root();
    let levels =
        levels(&fs::read_to_string(root.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md"));
    assert!(
        levels.len() > 8,
        "ARCHITECTURE.md has lost its table of folders"
    );
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let path = file
            .strip_prefix(root.join("src"))
            .expect("it was found there")
            .to_owned();
        let Some(folder) = path.iter().next().and_then(|folder| folder.to_str()) else {
            continue;
        };
        // lib.rs and main.rs join everything.
        if path.components().count() == 1 {
            continue;
        }
        let Some(&level) = levels.get(folder) else {
            wrong.push(format!("src/{folder} is not in the table"));
            continue;
        };
        let code = without_comments(&fs::read_to_string(&file).expect("src is readable"));
        for other in used(&code) {
            match levels.get(&other) {
                Some(&below) if other == folder || below < level => {}
                Some(&above) => {
                    wrong.push(format!(
                        "{} (L{level}) uses {other} (L{above})",
                        path.display()
                    ));
                }
                // A macro or a name of the crate's root.
                None => {}
            }
        }
        if folder != "daemon" {
            for library in ["tokio", "hyper", "hyper_util"] {
                if code.contains(&format!("{library}::")) {
                    wrong.push(format!("{} uses {library}", path.display()));
                }
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_front_page_has_the_same_table() {
    let read = |path: &str| levels(&fs::read_to_string(root().join(path)).expect("readable"));
    let mut folders = read("ARCHITECTURE.md");
    // No part of the crate.
    folders.remove("hello");
    assert_eq!(read("src/lib.rs"), folders);
}

#[test]
fn groups_are_read_to_their_end() {
    let code = "use crate::{sys, types::{id::ContainerId, digest}, api as wire};\ncrate::engine::x(); mycrate::no();";
    assert_eq!(used(code), ["sys", "types", "api", "engine"]);
}
