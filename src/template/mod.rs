//! The part of Go's text/template that people use in `--format` and in logs' tags, over JSON values.
//!
//! `{{.Field.Inner}}`, `{{json .X}}` and the other functions of docker and of Go ([`functions`]),
//! pipelines, parentheses, variables, `{{if}}…{{else if}}…{{else}}…{{end}}`, `{{with}}`, `{{range}}`,
//! `{{-` and `-}}`. Nested templates, `break` and `continue` are not there, and said to be so.
//!
//! ```text
//! text ──lex──▶ pieces: text, actions of words ──parse──▶ nodes ──run──▶ text
//! ```
//!
//! A template is filled in with JSON where docker has Go's structs, so what a field's type would
//! be is known by its name where printing depends on it ([`value`]). Fields are found by their JSON
//! name, in any case where none is exact (Go's names differ from JSON's by case alone). Errors are
//! Go's, with the place and the expression.

mod functions;
mod lex;
mod parse;
mod run;
#[cfg(test)]
mod tests;
mod value;

use serde_json::Value;

/// What is wrong with a template, or with what it asks of a value. The wording is Go's, for a template
/// without a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.of(""))]
pub enum TemplateError {
    /// It cannot be read.
    Parse {
        /// The line, from 1.
        line: usize,
        /// Why not.
        reason: String,
    },
    /// It asks for what is not there.
    Execute {
        /// The line, from 1.
        line: usize,
        /// Where in the line the expression is, in bytes, from 0.
        column: usize,
        /// The expression, as Go writes it.
        expression: String,
        /// Why it cannot be evaluated.
        reason: String,
    },
}

impl TemplateError {
    /// Go's sentence for a template of this name.
    pub fn of(&self, name: &str) -> String {
        match self {
            Self::Parse { line, reason } => format!("template: {name}:{line}: {reason}"),
            Self::Execute {
                line,
                column,
                expression,
                reason,
            } => format!(
                "template: {name}:{line}:{column}: executing \"{name}\" at <{expression}>: {reason}"
            ),
        }
    }
}

/// What a field that is not there is said to be missing from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A map: docker falls back on the answer's JSON.
    Entry,
    /// A struct of this Go type.
    Field(&'static str),
}

/// A template that was read.
#[derive(Debug, Clone)]
pub struct Template {
    text: String,
    nodes: Vec<parse::Node>,
}

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        Ok(Template {
            text: text.to_owned(),
            nodes: parse::template(text)?,
        })
    }

    /// Fills it in.
    pub fn render(&self, root: &Value, missing: Missing) -> Result<String, TemplateError> {
        run::run(self, root, missing, false)
    }

    /// Fills it in with a table's headings, which most functions leave as they are.
    pub fn render_headings(&self, headings: &Value) -> Result<String, TemplateError> {
        run::run(self, headings, Missing::Entry, true)
    }
}
