//! Printing, and doing one thing to several names.

use std::io::{self, Write};

use anyhow::Result;
use serde_json::Value;

use super::error::{Exit, describe};
use super::template::Template;

/// Prints a line to standard output.
pub fn line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

/// Prints a line to standard error; nobody can be told where that fails.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints what `one` answers for each name. Where some fail, their errors are printed after the
/// others' answers, and the status is 1.
pub fn each(names: &[String], mut one: impl FnMut(&str) -> Result<String>) -> Result<()> {
    let mut failures = Vec::new();
    for name in names {
        match one(name) {
            Ok(answer) if answer.is_empty() => {}
            Ok(answer) => line(&answer)?,
            Err(error) => failures.push(describe(&error)),
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Exit::because(1, failures.join("\n")))
    }
}

/// Prints one value by a template, or as JSON.
pub fn formatted(value: &Value, format: &str) -> Result<()> {
    let format = if format == "json" {
        "{{json .}}"
    } else {
        format
    };
    let text = Template::parse(&format.replace("\\t", "\t").replace("\\n", "\n"))?.render(value)?;
    line(&text)
}
