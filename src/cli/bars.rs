//! What the lines of a transfer on a terminal say: a bar for each layer with rate and sizes, and
//! one for all layers together.
//!
//! ```text
//! 3b37acd9ce64: Downloading [=======>           ]   5.36MB/14.7MB  2.1MB/s
//! 92dd1b5ec127: Download complete
//! Total: [===========>                          ]  10.05MB/19.4MB  4.3MB/s
//! ```
//!
//! Not drawn by a library of bars (indicatif): what a line says is mostly the daemon's word, line by
//! line, and where it is written is `progress`'s business, for Docker's messages as for these.
//!
//! Pure: the time and the terminal's width are arguments. A line never exceeds the width, so that
//! one that is written again is found where it was. A rate is that of the last [`WINDOW`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::table::size;
use crate::api::progress::JsonMessage;

/// Columns of the longest bar.
const BAR_MAX: usize = 50;
/// A shorter bar says nothing and is left out.
const BAR_MIN: usize = 10;
/// What a rate is averaged over.
const WINDOW: Duration = Duration::from_secs(3);
/// Less time says nothing about a rate.
const MOMENT: Duration = Duration::from_millis(300);

/// What travels; other bars (of a layer that is unpacked) count for their line alone.
const TRANSFERS: &[&str] = &["Downloading", "Pushing", "Loading layer"];
/// What comes after it.
const ARRIVED: &[&str] = &["Download complete", "Pull complete", "Pushed"];

/// Bytes a second.
#[derive(Debug, Default)]
struct Rate(VecDeque<(Instant, i64)>);

impl Rate {
    fn see(&mut self, bytes: i64, now: Instant) {
        // It began anew.
        if self.0.back().is_some_and(|(_, last)| *last > bytes) {
            self.0.clear();
        }
        self.0.push_back((now, bytes));
        while self.0.len() > 2 && now.duration_since(self.0[1].0) >= WINDOW {
            self.0.pop_front();
        }
    }

    fn get(&self) -> Option<i64> {
        let ((begin, from), (end, to)) = (self.0.front()?, self.0.back()?);
        let time = end.duration_since(*begin);
        (time >= MOMENT).then(|| (to.saturating_sub(*from) as f64 / time.as_secs_f64()) as i64)
    }
}

/// How far something is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Amount {
    current: i64,
    total: i64,
}

/// What is known of one id.
#[derive(Debug)]
struct Line {
    id: String,
    status: String,
    amount: Option<Amount>,
    /// How much of it has travelled.
    travelled: Amount,
    rate: Rate,
}

/// The lines, the topmost first.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: Vec<Line>,
    rate: Rate,
}

impl Lines {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Takes a message about an id in; which line it is on.
    pub(super) fn see(&mut self, message: &JsonMessage, now: Instant) -> usize {
        let known = self.lines.iter().position(|line| line.id == message.id);
        let at = known.unwrap_or_else(|| {
            self.lines.push(Line {
                id: message.id.clone(),
                status: String::new(),
                amount: None,
                travelled: Amount::default(),
                rate: Rate::default(),
            });
            self.lines.len() - 1
        });
        let line = &mut self.lines[at];
        let detail = message.progress_detail;
        line.amount = detail
            .map(|detail| Amount {
                current: detail.current,
                total: detail.total,
            })
            .filter(|amount| amount.current > 0 || amount.total > 0);
        if line.status != message.status {
            line.status.clone_from(&message.status);
            line.rate = Rate::default();
        }
        if let Some(amount) = line.amount {
            line.rate.see(amount.current, now);
            if TRANSFERS.contains(&line.status.as_str()) && amount.total > 0 {
                line.travelled = amount;
            }
        } else if ARRIVED.contains(&line.status.as_str()) {
            line.travelled.current = line.travelled.total;
        }
        let all = self.travelled();
        self.rate.see(all.current, now);
        at
    }

    /// A line as it is shown on so many columns.
    pub(super) fn text(&self, at: usize, columns: usize) -> String {
        let Some(line) = self.lines.get(at) else {
            return String::new();
        };
        let head = format!("{}: {}", line.id, line.status);
        shown(&head, line.amount, line.rate.get(), columns)
    }

    /// The line for all of them, where several are under way.
    pub(super) fn total(&self, columns: usize) -> Option<String> {
        let travelling = |line: &&Line| line.travelled.total > 0;
        let all = self.travelled();
        let several = self.lines.iter().filter(travelling).count() > 1;
        (several && all.current < all.total)
            .then(|| shown("Total:", Some(all), self.rate.get(), columns))
    }

    fn travelled(&self) -> Amount {
        self.lines
            .iter()
            .fold(Amount::default(), |sum, line| Amount {
                current: sum.current.saturating_add(line.travelled.current),
                total: sum.total.saturating_add(line.travelled.total),
            })
    }
}

fn shown(head: &str, amount: Option<Amount>, rate: Option<i64>, columns: usize) -> String {
    let mut text = head.to_owned();
    if let Some(Amount { current, total }) = amount {
        let mut numbers = format!("{:>8}", size(current));
        if total > 0 {
            numbers = format!("{numbers}/{}", size(total));
        }
        if let Some(rate) = rate.filter(|rate| *rate > 0 && current < total) {
            numbers = format!("{numbers}  {}/s", size(rate));
        }
        // Brackets, the arrow's head, two spaces.
        let taken = head.chars().count() + numbers.len() + 5;
        let room = columns.saturating_sub(taken).min(BAR_MAX);
        if total > 0 && room >= BAR_MIN {
            text.push(' ');
            text.push_str(&bar(current, total, room));
        }
        text.push(' ');
        text.push_str(&numbers);
    }
    // An engine passes on what a registry says.
    let shown = text.chars().filter(|c| !c.is_control());
    shown.take(columns).collect()
}

/// `[==>   ]`
fn bar(current: i64, total: i64, length: usize) -> String {
    let share = (current as f64 / total as f64).clamp(0.0, 1.0);
    let done = (share * length as f64) as usize;
    format!("[{}>{}]", "=".repeat(done), " ".repeat(length - done))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn downloading(id: &str, current: i64, total: i64) -> JsonMessage {
        JsonMessage::progress(id, "Downloading", current, total)
    }

    #[test]
    fn a_line_fits_its_terminal() {
        let begin = Instant::now();
        let mut lines = Lines::default();
        lines.see(&downloading("abc", 0, 20_000_000), begin);
        let later = begin + Duration::from_secs(2);
        let at = lines.see(&downloading("abc", 5_000_000, 20_000_000), later);
        let text = format!(
            "abc: Downloading [{}>{}]      5MB/20MB  2.5MB/s",
            "=".repeat(12),
            " ".repeat(38)
        );
        assert_eq!(lines.text(at, 120), text);
        assert_eq!(lines.text(at, text.len()), text);
        for columns in 0..text.len() {
            let text = lines.text(at, columns);
            assert!(text.len() <= columns, "{text}");
            assert_eq!(text.contains('['), text.contains(']'), "{text}");
        }
        assert_eq!(
            lines.text(at, 44),
            "abc: Downloading      5MB/20MB  2.5MB/s"
        );
        let at = lines.see(&JsonMessage::status("abc", "Download complete"), later);
        assert_eq!(lines.text(at, 80), "abc: Download complete");
    }

    #[test]
    fn several_have_a_total() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut lines = Lines::default();
        lines.see(&downloading("a", 10, 1000), at(0));
        assert_eq!(lines.total(80), None, "there is only one");
        lines.see(&JsonMessage::status("b", "Waiting"), at(0));
        lines.see(&downloading("b", 10, 3000), at(0));
        lines.see(&JsonMessage::status("a", "Download complete"), at(1));
        lines.see(&downloading("b", 1010, 3000), at(2));
        let total = lines.total(80).unwrap();
        assert!(total.starts_with("Total: [======"), "{total}");
        assert!(total.ends_with("  2.01kB/4kB  1kB/s"), "{total}");
        // What is unpacked has travelled already.
        lines.see(&JsonMessage::progress("a", "Extracting", 1, 1000), at(3));
        assert_eq!(
            lines.total(80).map(|text| text.contains("2.01kB/4kB")),
            Some(true)
        );
        lines.see(&JsonMessage::status("b", "Download complete"), at(3));
        assert_eq!(lines.total(80), None, "all is here");
        assert_eq!(lines.len(), 2);
        let at = lines.see(&JsonMessage::status("a\x1b", "\x1b[2Jx"), at(3));
        assert_eq!(lines.text(at, 80), "a: [2Jx");
    }

    #[test]
    fn odd_numbers_do_no_harm() {
        let now = Instant::now();
        let mut lines = Lines::default();
        for (current, total) in [
            (5, 0),
            (-5, 10),
            (20, 10),
            (i64::MAX, i64::MAX),
            (1, i64::MIN),
        ] {
            for id in ["a", "b"] {
                let at = lines.see(&downloading(id, current, total), now);
                assert!(lines.text(at, 100).len() <= 100);
                lines.total(100);
            }
        }
    }
}
