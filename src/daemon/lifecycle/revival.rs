//! How this daemon is started again should it end unasked: what the keeper is given.
//!
//! As it was started itself, with two differences: its directories are named in the environment, as
//! inside the keeper's namespaces the user's id is 0 and would lead elsewhere, and a hidden flag
//! says whose daemon it is. One that systemd or another supervisor runs is theirs to start again.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::engine::config::Options;
use crate::sys::paths::Paths;
use crate::userns::keeper::Recipe;

/// Flags of one start alone; each has a value.
const PASSING: [&str; 2] = ["--ready-fd", "--revived"];

/// The recipe; `None` where a supervisor starts the daemon. To be made before the working directory
/// is left.
pub(super) fn recipe(options: &Options, user: &Paths, uid: u32) -> Option<Recipe> {
    let supervised = ["NOTIFY_SOCKET", "LISTEN_PID"];
    if options.supervised || supervised.iter().any(|name| env::var_os(name).is_some()) {
        return None;
    }
    let mut arguments = lasting(env::args_os());
    arguments.extend(["--revived".into(), uid.to_string().into()]);
    let places = user.variables();
    let environment = env::vars_os()
        .filter(|(name, _)| places.iter().all(|(place, _)| name != place))
        .chain(
            places
                .iter()
                .map(|(name, path)| ((*name).into(), path.into())),
        );
    let directory = env::current_dir().unwrap_or_else(|_| "/".into());
    Some(Recipe::new(arguments, environment, directory))
}

/// The arguments without those of one start alone.
fn lasting(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut lasting = Vec::new();
    let mut is_value = false;
    for argument in arguments {
        let named = |flag: &&str| argument == OsStr::new(*flag);
        let with_value = |flag: &&str| {
            let rest = argument.as_bytes().strip_prefix(flag.as_bytes());
            rest.is_some_and(|rest| rest.starts_with(b"="))
        };
        let passing = is_value || PASSING.iter().any(|flag| named(flag) || with_value(flag));
        is_value = !is_value && PASSING.iter().any(named);
        if !passing {
            lasting.push(argument);
        }
    }
    lasting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_one_start_are_left_out() {
        let line =
            "moss daemon --ready-fd 5 -D --revived=7 --ready-fd=3 --revived 1000 -H unix:///s";
        let arguments = lasting(line.split(' ').map(OsString::from));
        let expected = ["moss", "daemon", "-D", "-H", "unix:///s"].map(OsString::from);
        assert_eq!(arguments, expected);
    }
}
