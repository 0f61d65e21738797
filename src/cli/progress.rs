//! The messages of load, import, pull and push: JSON objects, shown as docker shows them.
//!
//! To a terminal, each id has a line that is rewritten (`bars`), and below them, where the cursor
//! is, the total comes and goes; elsewhere a line is printed for each message that is no mere
//! progress.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::{Context, Result};

use super::bars::Lines;
use super::error::Exit;
use super::output::plain;
use super::terminal;
use crate::api::progress::JsonMessage;

/// Columns of a terminal that does not say how many it has.
const COLUMNS: usize = 80;

/// Shows all messages of an answer; the engine's error in it is ours.
pub fn show<W: Write + IsTerminal + AsFd>(body: impl Read, out: &mut W, quiet: bool) -> Result<()> {
    let mut screen = Screen {
        on_terminal: out.is_terminal(),
        columns: COLUMNS,
        lines: Lines::default(),
    };
    let shown = messages(body, &mut screen, out, quiet);
    screen.end(out)?;
    shown
}

fn messages<W: Write + AsFd>(
    body: impl Read,
    screen: &mut Screen,
    out: &mut W,
    quiet: bool,
) -> Result<()> {
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
            screen.columns = terminal::columns(&*out).unwrap_or(COLUMNS);
            screen.show(&message, Instant::now(), out)?;
        }
    }
    Ok(())
}

fn failure(message: &JsonMessage) -> Option<String> {
    let detail = message.error_detail.as_ref().map(|detail| &detail.message);
    detail
        .filter(|text| !text.is_empty())
        .or(Some(&message.error).filter(|text| !text.is_empty()))
        .map(|text| plain(text))
}

/// What has been shown so far.
struct Screen {
    on_terminal: bool,
    columns: usize,
    /// Ids with a line of their own.
    lines: Lines,
}

impl Screen {
    fn show(&mut self, message: &JsonMessage, now: Instant, out: &mut impl Write) -> Result<()> {
        if !message.stream.is_empty() {
            self.end(out)?;
            out.write_all(message.stream.as_bytes())?;
            return Ok(out.flush()?);
        }
        if message.status.is_empty() {
            return Ok(());
        }
        if !self.on_terminal {
            let detail = message.progress_detail;
            if detail.is_none_or(|detail| detail.current <= 0 && detail.total <= 0) {
                writeln!(out, "{}", text(message))?;
            }
            return Ok(());
        }
        if message.id.is_empty() {
            self.end(out)?;
            writeln!(out, "{}", text(message))?;
            return Ok(());
        }
        let known = self.lines.len();
        let at = self.lines.see(message, now);
        if self.lines.len() > known {
            // Where the total was.
            writeln!(out, "\x1b[2K")?;
        }
        let up = self.lines.len() - at;
        let line = self.lines.text(at, self.columns);
        let total = self.lines.total(self.columns).unwrap_or_default();
        // Up, clear, write, and back down to where the next new line goes.
        write!(out, "\x1b[{up}A\x1b[2K\r{line}\r\x1b[{up}B\x1b[2K{total}\r")?;
        Ok(out.flush()?)
    }

    /// Takes the total away; what comes next comes below the lines, which stay as they are.
    fn end(&mut self, out: &mut impl Write) -> Result<()> {
        if self.lines.len() > 0 {
            self.lines = Lines::default();
            write!(out, "\x1b[2K")?;
            out.flush()?;
        }
        Ok(())
    }
}

fn text(message: &JsonMessage) -> String {
    let status = plain(&message.status);
    if message.id.is_empty() {
        status
    } else {
        format!("{}: {status}", plain(&message.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(on_terminal: bool) -> Screen {
        Screen {
            on_terminal,
            columns: COLUMNS,
            lines: Lines::default(),
        }
    }

    #[test]
    fn lines_of_a_terminal_are_rewritten() {
        let (mut screen, mut out) = (screen(true), Vec::new());
        for message in [
            JsonMessage::status("a", "Waiting"),
            JsonMessage::status("b", "Waiting"),
            JsonMessage::status("a", "Pull complete"),
            JsonMessage::status("", "Digest: x"),
        ] {
            screen.show(&message, Instant::now(), &mut out).unwrap();
        }
        let waiting = |id| format!("\x1b[2K\n\x1b[1A\x1b[2K\r{id}: Waiting\r\x1b[1B\x1b[2K\r");
        let expected = waiting("a")
            + &waiting("b")
            + "\x1b[2A\x1b[2K\ra: Pull complete\r\x1b[2B\x1b[2K\r\x1b[2KDigest: x\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn messages_elsewhere_than_on_a_terminal() {
        let (mut screen, mut out) = (screen(false), Vec::new());
        for message in [
            JsonMessage::status("abc", "Pull complete"),
            JsonMessage::progress("abc", "Loading layer", 5, 10),
            JsonMessage::stream("Loaded image: a:latest\n"),
        ] {
            screen.show(&message, Instant::now(), &mut out).unwrap();
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "abc: Pull complete\nLoaded image: a:latest\n"
        );
        assert_eq!(failure(&JsonMessage::error("no")), Some("no".into()));
        assert_eq!(failure(&JsonMessage::stream("x")), None);
        let evil = failure(&JsonMessage::error("a\x1b]0;b\x07\u{9b}c\n"));
        assert_eq!(evil.as_deref(), Some("a]0;bc\n"));
        assert_eq!(text(&JsonMessage::status("", "\x1b[2Jx")), "[2Jx");
    }
}
