//! Printing, and doing one thing to several names.

use std::io::{self, Write};

use anyhow::Result;
use serde_json::Value;

use super::error::{Exit, describe};
use crate::template::{Missing, Template, TemplateError};

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

/// What a registry says, without what a terminal would take for orders.
pub fn plain(text: &str) -> String {
    let kept = |character: &char| !character.is_control() || matches!(character, '\n' | '\t');
    text.chars().filter(kept).collect()
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

/// How single values are printed: by a template, or as JSON.
#[derive(Debug)]
pub struct Format(Template);

/// The status where a template cannot be read.
const UNREADABLE: i32 = 64;

impl Format {
    /// Reads what `--format` was given; `complaint` is what docker says before the reason.
    pub fn parse(format: &str, complaint: &str) -> Result<Self> {
        let template = if format == "json" {
            "{{json .}}"
        } else {
            format
        };
        Template::parse(template)
            .map(Self)
            .map_err(|error| Exit::because(UNREADABLE, format!("{complaint}: {error}")))
    }

    /// Prints one value.
    pub fn print(&self, value: &Value) -> Result<()> {
        line(&self.render(value)?)
    }

    /// One value as text.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        self.0.render(value, Missing::Entry)
    }
}
