//! Starting the daemon again where it ended unasked while containers run.
//!
//! A daemon that serves leaves a [`Recipe`] with the keeper, and takes it back when it is asked to
//! end; so one that was killed, or crashed, leaves it there. When no daemon is connected and shims
//! run, the keeper does as the recipe says, the sooner the longer the last daemon had lived. The new
//! one is inside the keeper's namespaces from the start, has no terminal, and logs into the data
//! root.
//!
//! The recipe is JSON in a memfd, for an environment may be long and the keeper keeps little memory;
//! the program comes as a descriptor, since its path may be replaced.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sys::{fork, sealed};

/// How soon it is started, at first and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A life this long means that the next start is no repetition of a failure.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// How a daemon is started. Bytes, since none of it need be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    arguments: Vec<Vec<u8>>,
    environment: Vec<(Vec<u8>, Vec<u8>)>,
    directory: PathBuf,
}

impl Recipe {
    /// With these arguments, the program's name among them, in `directory`.
    pub fn new(
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        directory: PathBuf,
    ) -> Self {
        let bytes = |text: OsString| text.into_vec();
        Self {
            arguments: arguments.into_iter().map(bytes).collect(),
            environment: environment
                .into_iter()
                .map(|(name, value)| (bytes(name), bytes(value)))
                .collect(),
            directory,
        }
    }

    /// As it is handed over.
    pub(super) fn packed(&self) -> io::Result<OwnedFd> {
        sealed::bytes(c"moss-recipe", &serde_json::to_vec(self)?)
    }

    fn unpacked(packed: &File) -> io::Result<Self> {
        let mut bytes = vec![0; usize::try_from(packed.metadata()?.len()).unwrap_or(0)];
        packed.read_exact_at(&mut bytes, 0)?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Becomes the daemon. Returns only where that fails.
    fn follow(self, program: OwnedFd) -> io::Result<()> {
        let arguments = self.arguments.into_iter().map(CString::new);
        let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        let pairs = self.environment.into_iter();
        let environment =
            pairs.map(|(name, value)| CString::new([&name[..], b"=", &value].concat()));
        let environment = environment.collect::<Result<Vec<_>, _>>()?;
        nix::unistd::setsid()?;
        // Relative paths may go wrong elsewhere, which is then told in the log.
        let _ = nix::unistd::chdir(self.directory.as_os_str().as_bytes());
        fork::pass_to_exec(&[])?;
        nix::unistd::fexecve(program, &arguments, &environment)?;
        Ok(())
    }
}

/// What a forked child of the keeper's does.
fn become_daemon([recipe, program]: [OwnedFd; 2]) -> i32 {
    let done = Recipe::unpacked(&File::from(recipe)).and_then(|recipe| recipe.follow(program));
    i32::from(done.is_err())
}

/// The recipe that a daemon left, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Revival {
    /// The recipe and the program.
    left: Option<[OwnedFd; 2]>,
    /// The daemon that was started, and when.
    running: Option<(i32, Instant)>,
    /// When the next is to be started.
    again: Option<Instant>,
    /// How long was waited for the last start.
    waited: Duration,
}

impl Revival {
    /// Of what crossed exec.
    pub(super) fn of(left: Option<[OwnedFd; 2]>) -> Self {
        Self {
            left,
            ..Self::default()
        }
    }

    /// A daemon serves and leaves this, or takes it back.
    pub(super) fn leave(&mut self, left: Option<[OwnedFd; 2]>) {
        self.left = left;
    }

    /// What is left, for crossing exec.
    pub(super) fn left(&self) -> Option<&[OwnedFd; 2]> {
        self.left.as_ref()
    }

    /// Starts a daemon if it is time to. `wanted`: none is connected, and shims run.
    pub(super) fn keep(&mut self, wanted: bool) {
        let Some(left) = self.left.as_ref().filter(|_| wanted) else {
            self.again = None;
            return;
        };
        if self.running.is_some() {
            return;
        }
        let wait = self.waited.clamp(BACK_OFF.0, BACK_OFF.1);
        let at = *self.again.get_or_insert_with(|| Instant::now() + wait);
        if at > Instant::now() {
            return;
        }
        self.again = None;
        self.waited = wait * 2;
        let twins = || Ok([left[0].try_clone()?, left[1].try_clone()?]);
        let forked = twins().and_then(|twins| fork::fork_keeping(twins, become_daemon));
        self.running = forked.ok().map(|pid| (pid.as_raw(), Instant::now()));
    }

    /// A child of the keeper's has ended.
    pub(super) fn buried(&mut self, pid: i32) {
        if let Some((_, since)) = self.running.take_if(|(running, _)| *running == pid)
            && since.elapsed() >= LONG_LIFE
        {
            self.waited = Duration::ZERO;
        }
    }

    /// How long it is until the next is to be started.
    pub(super) fn patience(&self) -> Option<Duration> {
        Some(self.again?.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_crosses_whole() {
        let odd = OsString::from_vec(b"a\xff b".to_vec());
        let recipe = Recipe::new(
            ["moss".into(), odd.clone()],
            [("A".into(), odd)],
            PathBuf::from("/somewhere"),
        );
        let packed = File::from(recipe.packed().expect("a memfd"));
        assert_eq!(Recipe::unpacked(&packed).expect("JSON"), recipe);
    }

    #[test]
    fn nothing_is_started_where_none_is_wanted() {
        let null = || OwnedFd::from(File::open("/dev/null").expect("it is there"));
        let mut revival = Revival::default();
        revival.keep(true);
        assert_eq!(revival.patience(), None, "no recipe");
        revival.leave(Some([null(), null()]));
        revival.keep(true);
        assert!(revival.patience().is_some());
        revival.keep(false);
        assert_eq!(revival.patience(), None, "a daemon is connected again");
    }
}
