//! What is known of an exec session.

use std::time::Instant;

use crate::api::exec::ExecConfig;

/// An exec session.
#[derive(Debug, Clone)]
pub struct Exec {
    /// What was asked for.
    pub config: ExecConfig,
    /// Whether its process runs.
    pub running: bool,
    /// Whether it was ever started.
    pub started: bool,
    /// Its start is under way: neither pid nor code is known yet.
    pub starting: bool,
    /// The client's stdin was wanted at start.
    pub attached: bool,
    /// Pid on the host, once started.
    pub pid: i32,
    /// Exit code, once ended.
    pub code: Option<i32>,
    /// When it was asked for.
    pub made: Instant,
    /// When it ended.
    pub ended: Option<Instant>,
}

impl Exec {
    /// A session of which nothing runs yet.
    pub fn new(config: ExecConfig) -> Self {
        Self {
            config,
            running: false,
            started: false,
            starting: false,
            attached: false,
            pid: 0,
            code: None,
            made: Instant::now(),
            ended: None,
        }
    }

    /// Its process has ended, or could not be started; a code that is known already stays.
    pub fn end(&mut self, code: i32) {
        self.running = false;
        self.code.get_or_insert(code);
        self.ended.get_or_insert_with(Instant::now);
    }
}
