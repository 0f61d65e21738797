//! A test harness for programs that have to be their own `main`: those that fork or make
//! namespaces, and so must keep to one thread, and those that play other roles of moss as well.
//!
//! Arguments and output are libtest's as far as `cargo test` and `scripts/rust-tests` look at them:
//! words select cases by name, `--list` lists them, each case ends in `test NAME ... ok` or
//! `FAILED`, and what cannot be tested here is said by a line `skipped: WHY`.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// Which cases are wanted, and whether one has failed.
pub struct Run {
    words: Vec<String>,
    failed: bool,
}

impl Run {
    /// As this program's arguments say; `None` where they only want the names listed, which is done
    /// then.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Run> {
        let arguments = std::env::args().skip(1);
        let (options, words): (Vec<_>, Vec<_>) = arguments.partition(|it| it.starts_with('-'));
        if options.iter().any(|option| option == "--list") {
            for name in names {
                println!("{name}: test");
            }
            return None;
        }
        Some(Run {
            words,
            failed: false,
        })
    }

    /// Plays a case, which fails by a panic, if it is wanted; it is told of as `shown`.
    pub fn play(&mut self, name: &str, shown: impl Display, case: impl FnOnce()) {
        if !self.words.is_empty() && !self.words.iter().any(|word| name.contains(word.as_str())) {
            return;
        }
        let passed = catch_unwind(AssertUnwindSafe(case)).is_ok();
        println!("test {shown} ... {}", if passed { "ok" } else { "FAILED" });
        self.failed |= !passed;
    }

    /// The program's end.
    pub fn end(self) -> ExitCode {
        ExitCode::from(u8::from(self.failed))
    }
}

/// Says that there is something that cannot be tested here.
pub fn skip(why: impl Display) {
    println!("skipped: {why}");
}
