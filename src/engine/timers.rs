//! What is to be done later: restarts after a while, the next health check.
//!
//! One thread that sleeps until the next of them; it wakes for nothing else. A task runs on it and
//! must not block: what takes time starts a thread. Nothing is taken back: a task looks whether it
//! is still wanted. What was not due when the daemon ends is found out anew by the next.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Something to be done.
type Task = Box<dyn FnOnce() + Send>;

/// Tasks and the thread that does them; dropped, those that are not due are forgotten.
pub(super) struct Timers {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// By time, then by number: two may be due at one moment.
    tasks: BTreeMap<(Instant, u64), Task>,
    next: u64,
    over: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let mut queue = self.queue();
        while !queue.over {
            let now = Instant::now();
            let first = queue.tasks.first_key_value();
            let due = first.map(|(key, _)| (*key, key.0.saturating_duration_since(now)));
            queue = match due {
                None => self
                    .changed
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner),
                Some((_, left)) if !left.is_zero() => {
                    let waited = self.changed.wait_timeout(queue, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Some((key, _)) => {
                    let task = queue.tasks.remove(&key);
                    drop(queue);
                    if let Some(task) = task {
                        task();
                    }
                    self.queue()
                }
            };
        }
    }
}

impl Timers {
    /// Starts the thread.
    pub(super) fn start() -> io::Result<Self> {
        let shared: Arc<Shared> = Arc::default();
        let serving = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("timers".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || serving.serve())?;
        Ok(Self { shared })
    }

    /// Has `task` done at `time`, or soon after.
    pub(super) fn at(&self, time: Instant, task: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.queue();
        let number = queue.next;
        queue.next += 1;
        queue.tasks.insert((time, number), Box::new(task));
        drop(queue);
        self.shared.changed.notify_one();
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        self.shared.queue().over = true;
        self.shared.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn tasks_are_done_in_the_order_of_their_times() {
        let timers = Timers::start().unwrap();
        let (sender, done) = channel();
        let begin = Instant::now();
        for (name, delay) in [
            ("third", 40),
            ("first", 0),
            ("second", 20),
            ("never", 3_600_000),
        ] {
            let sender = sender.clone();
            timers.at(begin + Duration::from_millis(delay), move || {
                sender.send(name).unwrap();
            });
        }
        drop(sender);
        let names: Vec<&str> = done.iter().take(3).collect();
        assert_eq!(names, ["first", "second", "third"]);
        assert!(begin.elapsed() >= Duration::from_millis(40));
        drop(timers);
        // The thread has let go of what was not due.
        assert!(done.recv().is_err());
    }
}
