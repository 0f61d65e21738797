//! Lists as docker prints them: aligned tables, templates over rows, JSON lines.
//!
//! A row is a JSON object whose fields are strings or nothing, named as in docker's formatter. A table is a
//! template with headings: `table {{.ID}}\t{{.Names}}`. Columns are at least ten wide with three
//! spaces between (docker's tabwriter); the last is not padded.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::{Result, anyhow};
use serde_json::{Map, Value};

use crate::template::{Missing, Template, TemplateError};
use crate::types::timestamp::Timestamp;

/// The narrowest column, in characters.
const NARROWEST: usize = 10;
/// Spaces after a column.
const PADDING: usize = 3;

/// How a list is shown.
#[derive(Debug)]
pub struct Shape {
    /// Fields and their headings.
    pub headings: &'static [(&'static str, &'static str)],
    /// Fields of the default table.
    pub columns: Vec<&'static str>,
    /// The field that `-q` shows.
    pub key: &'static str,
    /// What docker calls a row in an error, a type of Go.
    pub row: &'static str,
}

impl Shape {
    /// Prints rows.
    pub fn print(&self, rows: &[Value], format: Option<&str>, quiet: bool) -> Result<()> {
        let mut out = io::stdout().lock();
        let text = self.render(rows, format, quiet)?;
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }

    fn render(&self, rows: &[Value], format: Option<&str>, quiet: bool) -> Result<String> {
        let format = format.unwrap_or("table");
        if quiet && format == "table" {
            return self.lines(rows, &format!("{{{{.{}}}}}", self.key));
        }
        if format == "json" {
            return self.lines(rows, "{{json .}}");
        }
        let columns = match format.strip_prefix("table") {
            Some("") => {
                let columns: Vec<String> = self
                    .columns
                    .iter()
                    .map(|column| format!("{{{{.{column}}}}}"))
                    .collect();
                columns.join("\t")
            }
            // People write the two characters `\t`.
            Some(rest) if rest.starts_with(char::is_whitespace) => unescape(rest.trim_start()),
            _ => return self.lines(rows, &unescape(format)),
        };
        let template = Template::parse(&columns).map_err(|error| unusable(&error))?;
        let headings: Map<String, Value> = self
            .headings
            .iter()
            .map(|(field, heading)| ((*field).to_owned(), Value::from(*heading)))
            .collect();
        let headings = template.render_headings(&Value::Object(headings));
        let mut lines = vec![headings.map_err(|error| unusable(&error))?];
        for row in rows {
            lines.push(self.row(&template, row)?);
        }
        Ok(align(&lines))
    }

    fn lines(&self, rows: &[Value], template: &str) -> Result<String> {
        let template = Template::parse(template).map_err(|error| unusable(&error))?;
        let mut text = String::new();
        for row in rows {
            text.push_str(&self.row(&template, row)?);
            text.push('\n');
        }
        Ok(text)
    }

    fn row(&self, template: &Template, row: &Value) -> Result<String> {
        template
            .render(row, Missing::Field(self.row))
            .map_err(|error| unusable(&error))
    }
}

fn unusable(error: &TemplateError) -> anyhow::Error {
    anyhow!("template parsing error: {error}")
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

/// Lines whose tab-separated cells become columns.
pub fn align(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines
        .iter()
        .map(|line| line.split('\t').collect())
        .collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        for (index, cell) in row.iter().enumerate().take(row.len() - 1) {
            let width = (cell.chars().count() + PADDING).max(NARROWEST);
            match widths.get_mut(index) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for row in &rows {
        for (index, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if index + 1 < row.len() {
                let width = widths.get(index).copied().unwrap_or_default();
                text.push_str(&" ".repeat(width.saturating_sub(cell.chars().count())));
            }
        }
        text.push('\n');
    }
    text
}

/// Docker's words for a span of time: `About an hour`, `3 weeks` (docker/go-units).
pub fn span(seconds: i64) -> String {
    let minutes = seconds / 60;
    // Hours are rounded, as in Go.
    let hours = (seconds + 1800) / 3600;
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// `2026-11-24 10:00:00 +0000 UTC`
pub fn date(seconds: i64) -> String {
    let date = Timestamp::from_seconds(seconds).utc();
    format!(
        "{} {:02}:{:02}:{:02} +0000 UTC",
        date.date(),
        date.hour(),
        date.minute(),
        date.second()
    )
}

/// Seconds from then to now.
pub fn ago(seconds: i64) -> i64 {
    Timestamp::now().seconds() - seconds
}

/// Labels as one string.
pub fn labels(labels: &BTreeMap<String, String>) -> String {
    let labels: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.join(",")
}

/// `1.23MB`: three significant digits, decimal units.
pub fn size(bytes: i64) -> String {
    decimal_size(bytes, 3)
}

/// `1.234MB`: four significant digits, decimal units, as docker has totals.
pub fn human_size(bytes: i64) -> String {
    decimal_size(bytes, 4)
}

fn decimal_size(bytes: i64, digits: usize) -> String {
    const UNITS: &[&str] = &["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value.abs() >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{}", significant(value, digits), UNITS[unit])
}

/// `7.7GiB`: four significant digits, binary units.
pub fn binary_size(bytes: i64) -> String {
    const UNITS: &[&str] = &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value.abs() >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{}{}", significant(value, 4), UNITS[unit])
}

/// Go's `%.Ng` for values that need no exponent.
fn significant(value: f64, digits: usize) -> String {
    let whole = format!("{:.0}", value.abs().trunc()).len();
    let text = format!("{value:.*}", digits.saturating_sub(whole));
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// The order of texts in which runs of digits count as numbers: `a2` is before `a10`.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    while let (Some(first), Some(second)) = (a.chars().next(), b.chars().next()) {
        let order = if first.is_ascii_digit() && second.is_ascii_digit() {
            let (left, right) = (digits(a), digits(b));
            (a, b) = (&a[left.len()..], &b[right.len()..]);
            let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
            left.len().cmp(&right.len()).then(left.cmp(right))
        } else {
            (a, b) = (&a[first.len_utf8()..], &b[second.len_utf8()..]);
            first.cmp(&second)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

/// The digits that a text begins with.
fn digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit());
    &text[..end.unwrap_or(text.len())]
}

/// Cuts a text, with an ellipsis where something is lost.
pub fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars()
        .take(length.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// The first twelve digits of an id, without its algorithm.
pub fn short(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SHAPE: Shape = Shape {
        headings: &[
            ("ID", "CONTAINER ID"),
            ("Names", "NAMES"),
            ("Image", "IMAGE"),
        ],
        columns: Vec::new(),
        key: "ID",
        row: "*formatter.ContainerContext",
    };

    #[test]
    fn tables_look_like_dockers() {
        let shape = Shape {
            columns: vec!["ID", "Image", "Names"],
            ..SHAPE
        };
        let rows = [
            json!({"ID": "0123456789ab", "Image": "debian:bookworm-slim", "Names": "a"}),
            json!({"ID": "1", "Image": "b", "Names": "long_name"}),
        ];
        let table = "CONTAINER ID   IMAGE                  NAMES\n\
                     0123456789ab   debian:bookworm-slim   a\n\
                     1              b                      long_name\n";
        assert_eq!(shape.render(&rows, None, false).unwrap(), table);
        assert_eq!(
            shape.render(&rows, None, true).unwrap(),
            "0123456789ab\n1\n"
        );
        assert_eq!(
            shape
                .render(&rows, Some("table {{.Names}}\\t{{.ID}}"), true)
                .unwrap(),
            "NAMES       CONTAINER ID\na           0123456789ab\nlong_name   1\n"
        );
        assert_eq!(
            shape
                .render(&rows[1..], Some("{{.ID}}={{.Image}}"), false)
                .unwrap(),
            "1=b\n"
        );
        assert_eq!(
            shape.render(&rows[1..], Some("json"), false).unwrap(),
            "{\"ID\":\"1\",\"Image\":\"b\",\"Names\":\"long_name\"}\n"
        );
        assert_eq!(
            shape.render(&[], None, false).unwrap(),
            "CONTAINER ID   IMAGE     NAMES\n"
        );
        let error = shape.render(&rows, Some("table {{.Nosuch}}"), false);
        assert!(error.is_err());
        assert_eq!(
            shape
                .render(&rows, Some("{{.Nosuch}}"), false)
                .unwrap_err()
                .to_string(),
            "template parsing error: template: :1:2: executing \"\" at <.Nosuch>: can't evaluate \
             field Nosuch in type *formatter.ContainerContext"
        );
        assert_eq!(
            shape
                .render(&rows[1..], Some("table {{lower .Names}}"), false)
                .unwrap(),
            "NAMES\nlong_name\n"
        );
    }

    #[test]
    fn numbers_read_like_dockers() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (7752, "7.75kB"),
            (116_600_000, "117MB"),
            (1_230_000_000, "1.23GB"),
            (10_000, "10kB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(human_size(1_982_345), "1.982MB");
        assert!(natural("a2", "a10").is_lt() && natural("a10", "a2b").is_gt());
        assert!(natural("80/tcp -> 0.0.0.0:9", "80/tcp -> [::]:1").is_lt());
        assert!(natural("a", "a").is_eq() && natural("a", "ab").is_lt());
        assert_eq!(binary_size(8_246_337_536), "7.68GiB");
        for (seconds, text) in [
            (0, "Less than a second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (3600, "About an hour"),
            (47 * 3600, "47 hours"),
            (86400 * 13, "13 days"),
            (86400 * 20, "2 weeks"),
            (86400 * 100, "3 months"),
            (86400 * 365 * 3, "3 years"),
        ] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(ellipsis("abcdef", 4), "abc…");
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
    }
}
