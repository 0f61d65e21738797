//! What every prune has in common: it asks before, and says what it removed.

use std::io::{self, Write};

use anyhow::Result;

use super::output::line;
use super::table::human_size;

/// Asks whether to go on; without somebody to ask the answer is no.
pub fn confirm(warning: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    write!(out, "{warning}\nAre you sure you want to continue? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y"))
}

/// What a prune removed.
pub fn pruned(heading: &str, names: &[String], bytes: u64) -> Result<()> {
    list_removed(heading, names)?;
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    line(&format!("Total reclaimed space: {}", human_size(bytes)))
}

/// The names of what a prune removed, if it did.
pub fn list_removed(heading: &str, names: &[String]) -> Result<()> {
    match names.is_empty() {
        true => Ok(()),
        false => line(&format!("{heading}\n{}\n", names.join("\n"))),
    }
}
