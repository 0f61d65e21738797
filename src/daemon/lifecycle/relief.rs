//! Taking the place of a daemon that a verb started.
//!
//! Such a daemon leaves by itself, but not before it has had nothing to do for minutes; whoever
//! starts one that is to stay means the stay. So the idle one is asked to go, by SIGUSR2, and goes
//! if no client is connected: containers do not notice. One that serves somebody stays, and the
//! lock on the data root then says so.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::sys::lock::{self, Holder};
use crate::sys::pidfd;

/// What asks it.
const SIGNAL: Signal = Signal::USR2;

/// How soon it says that it leaves, if it does.
const ANSWER: Duration = Duration::from_secs(1);

/// How long it may take to be gone: it finishes what it was removing.
const LEAVING: Duration = Duration::from_secs(20);

const STEP: Duration = Duration::from_millis(10);

/// Asks the daemon on a data root to leave if a verb started it, in the name of `own`, and waits
/// until it has. Where it does not leave, nothing has changed.
pub(super) fn relieve(data_root: &Path, own: &Holder) {
    let Some(holder) = lock::holder(data_root) else {
        return;
    };
    let is_here = holder.host == own.host && holder.boot_id == own.boot_id;
    if own.on_demand || !holder.on_demand || !is_here {
        return;
    }
    let Some(process) = i32::try_from(holder.pid)
        .ok()
        .and_then(|pid| pidfd::open(pid).ok())
    else {
        return;
    };
    if pidfd::kill(&process, SIGNAL).is_err() {
        return;
    }
    let asked = Instant::now();
    while pidfd::is_alive(&process).unwrap_or(false) {
        let limit = match lock::has_left(data_root, holder.pid) {
            true => LEAVING,
            false => ANSWER,
        };
        if asked.elapsed() > limit {
            return;
        }
        thread::sleep(STEP);
    }
}
