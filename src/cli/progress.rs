//! The messages of load, import and pull: JSON objects, shown as docker shows them.
//!
//! To a terminal, each id has a line that is rewritten; elsewhere a line is printed for each
//! message that is no mere progress.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};

use anyhow::{Context, Result};

use super::error::Exit;
use super::table::size;
use crate::api::progress::JsonMessage;

/// Shows all messages of an answer; the engine's error in it is ours.
pub fn show<W: Write + IsTerminal>(body: impl Read, out: &mut W, quiet: bool) -> Result<()> {
    let on_terminal = out.is_terminal();
    let mut screen = Screen {
        on_terminal,
        ids: Vec::new(),
    };
    for line in BufReader::new(body).split(b'\n') {
        let line = line.context("cannot read the engine's answer")?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let message: JsonMessage =
            serde_json::from_slice(&line).context("cannot read the engine's answer")?;
        if let Some(error) = failure(&message) {
            return Err(Exit::because(1, error));
        }
        if !quiet || !message.stream.is_empty() {
            screen.show(&message, out)?;
        }
    }
    Ok(())
}

fn failure(message: &JsonMessage) -> Option<String> {
    let detail = message.error_detail.as_ref().map(|detail| &detail.message);
    detail
        .filter(|text| !text.is_empty())
        .or(Some(&message.error).filter(|text| !text.is_empty()))
        .cloned()
}

/// What has been shown so far.
struct Screen {
    on_terminal: bool,
    /// Ids with a line of their own, the topmost first.
    ids: Vec<String>,
}

impl Screen {
    fn show(&mut self, message: &JsonMessage, out: &mut impl Write) -> Result<()> {
        if !message.stream.is_empty() {
            self.ids.clear();
            out.write_all(message.stream.as_bytes())?;
            return Ok(out.flush()?);
        }
        if message.status.is_empty() {
            return Ok(());
        }
        let detail = message
            .progress_detail
            .filter(|detail| detail.current > 0 || detail.total > 0);
        if !self.on_terminal {
            if detail.is_none() {
                writeln!(out, "{}", text(message))?;
            }
            return Ok(());
        }
        let mut line = text(message);
        if let Some(detail) = detail {
            line.push_str(&format!("  {}", size(detail.current)));
            if detail.total > 0 {
                line.push_str(&format!("/{}", size(detail.total)));
            }
        }
        if message.id.is_empty() {
            self.ids.clear();
            writeln!(out, "{line}")?;
            return Ok(());
        }
        let up = match self.ids.iter().position(|id| *id == message.id) {
            Some(index) => self.ids.len() - index,
            None => {
                self.ids.push(message.id.clone());
                writeln!(out)?;
                1
            }
        };
        // Up, clear, write, and back down to where the next new line goes.
        write!(out, "\x1b[{up}A\x1b[2K\r{line}\r\x1b[{up}B")?;
        Ok(out.flush()?)
    }
}

fn text(message: &JsonMessage) -> String {
    if message.id.is_empty() {
        message.status.clone()
    } else {
        format!("{}: {}", message.id, message.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_elsewhere_than_on_a_terminal() {
        let mut screen = Screen {
            on_terminal: false,
            ids: Vec::new(),
        };
        let mut out = Vec::new();
        for message in [
            JsonMessage::status("abc", "Pull complete"),
            JsonMessage::progress("abc", "Loading layer", 5, 10),
            JsonMessage::stream("Loaded image: a:latest\n"),
        ] {
            screen.show(&message, &mut out).unwrap();
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "abc: Pull complete\nLoaded image: a:latest\n"
        );
        assert_eq!(failure(&JsonMessage::error("no")), Some("no".into()));
        assert_eq!(failure(&JsonMessage::stream("x")), None);
    }
}
