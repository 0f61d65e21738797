//! What every prune has in common: it asks before, and says what it removed.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;

use super::output::line;
use super::table::size;

/// Asks whether to go on; without somebody to ask the answer is no.
pub fn confirm(warning: &str) -> Result<bool> {
    let mut out = io::stderr().lock();
    write!(out, "{warning}\nAre you sure you want to continue? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if !io::stdin().is_terminal() {
        writeln!(out)?;
    }
    Ok(matches!(answer.trim(), "y" | "Y"))
}

/// What a prune removed.
pub fn pruned(heading: &str, names: &[String], bytes: u64) -> Result<()> {
    if !names.is_empty() {
        line(&format!("{heading}\n{}\n", names.join("\n")))?;
    }
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    line(&format!("Total reclaimed space: {}", size(bytes)))
}
