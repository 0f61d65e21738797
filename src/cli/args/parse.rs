//! From words to a verb, or to docker's words for what makes no sense.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Args, Command, CommandFactory, FromArgMatches, Subcommand};

use super::bent::{bent, text};
use super::*;
use crate::cli::error::ENGINE_FAILED;

/// Why there is nothing to do: help was asked for, or the command line makes no sense.
#[derive(Debug)]
pub struct Refusal {
    /// What to print: to standard output where the status is 0.
    pub message: String,
    /// The exit status.
    pub status: i32,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The definition, for parsing, help and completions.
pub fn command() -> Command {
    CommandLine::command().version(env!("CARGO_PKG_VERSION"))
}

/// Reads a command line.
///
/// # Errors
/// Help and version, where they are asked for; docker's words for what makes no sense.
pub fn parse(given: &[OsString]) -> Result<Parsed, Refusal> {
    let words: Vec<String> = given.iter().map(|word| text(word.as_bytes())).collect();
    let mut definition = bent(of_named(&words));
    let line = definition
        .try_get_matches_from_mut(given)
        .and_then(|matches| CommandLine::from_arg_matches(&matches));
    match line {
        Ok(line) => {
            agree(&line)?;
            Ok(Parsed {
                host: line.before.host,
                config: line.before.config,
                verb: ungroup(line.verb),
            })
        }
        Err(error) if error.kind() == ErrorKind::DisplayVersion => Err(Refusal {
            message: format!("moss version {}\n", env!("CARGO_PKG_VERSION")),
            status: 0,
        }),
        Err(error) => Err(refuse(&command(), &words, &error)),
    }
}

/// Refuses what docker's flags before the verb may ask for and moss has not.
fn agree(line: &CommandLine) -> Result<(), Refusal> {
    const LEVELS: [&str; 8] = [
        "panic", "fatal", "error", "warn", "warning", "info", "debug", "trace",
    ];
    let level = line.before.log_level.to_lowercase();
    let refuse = |message| Err(Refusal { message, status: 1 });
    if !LEVELS.contains(&level.as_str()) {
        return refuse(format!(
            "Unable to parse logging level: {}",
            line.before.log_level
        ));
    }
    match line.before.context.as_str() {
        "" | "default" => Ok(()),
        context => refuse(format!(
            "Failed to initialize: unable to resolve moss endpoint: context {context:?}: context \
             not found"
        )),
    }
}

/// The definition of the verbs that `words` may name, or of the mere names of all if they name none: to
/// define every verb takes longer than to ask the daemon something.
fn of_named(words: &[String]) -> Command {
    let all = Verb::augment_subcommands(Command::new(NAME));
    let named = |verb: &&Command| {
        let mut names = std::iter::once(verb.get_name()).chain(verb.get_all_aliases());
        names.any(|name| words.iter().any(|word| word == name))
    };
    let mut verbs: Vec<Command> = all.get_subcommands().filter(named).cloned().collect();
    if verbs.is_empty() {
        let only_names = all.get_subcommands().cloned();
        verbs = only_names.map(|verb| verb.defer(|verb| verb)).collect();
    }
    let mut command = BeforeVerb::augment_args(Command::new(NAME))
        .disable_help_flag(true)
        .disable_version_flag(true)
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(verbs);
    command.build();
    command
}

/// The verbs of the groups that are verbs of their own too.
fn ungroup(verb: Verb) -> Verb {
    let of = |mut inspect: Inspect, kind: &str| {
        inspect.kind = Some(kind.to_owned());
        Verb::Inspect(inspect)
    };
    match verb {
        Verb::Container(group) => match group {
            ContainerGroup::Attach(verb) => Verb::Attach(verb),
            ContainerGroup::Create(verb) => Verb::Create(verb),
            ContainerGroup::Exec(verb) => Verb::Exec(verb),
            ContainerGroup::Inspect(verb) => of(verb, "container"),
            ContainerGroup::Kill(verb) => Verb::Kill(verb),
            ContainerGroup::Logs(verb) => Verb::Logs(verb),
            ContainerGroup::Ls(verb) => Verb::Ps(verb),
            ContainerGroup::Commit(verb) => Verb::Commit(verb),
            ContainerGroup::Cp(verb) => Verb::Cp(verb),
            ContainerGroup::Diff(verb) => Verb::Diff(verb),
            ContainerGroup::Export(verb) => Verb::Export(verb),
            ContainerGroup::Pause(verb) => Verb::Pause(verb),
            ContainerGroup::Port(verb) => Verb::Port(verb),
            ContainerGroup::Unpause(verb) => Verb::Unpause(verb),
            ContainerGroup::Update(verb) => Verb::Update(verb),
            ContainerGroup::Rename(verb) => Verb::Rename(verb),
            ContainerGroup::Restart(verb) => Verb::Restart(verb),
            ContainerGroup::Rm(verb) => Verb::Rm(verb),
            ContainerGroup::Run(verb) => Verb::Run(verb),
            ContainerGroup::Start(verb) => Verb::Start(verb),
            ContainerGroup::Stats(verb) => Verb::Stats(verb),
            ContainerGroup::Stop(verb) => Verb::Stop(verb),
            ContainerGroup::Top(verb) => Verb::Top(verb),
            ContainerGroup::Wait(verb) => Verb::Wait(verb),
            ContainerGroup::Prune(_) => Verb::Container(group),
        },
        Verb::Image(group) => match group {
            ImageGroup::History(verb) => Verb::History(verb),
            ImageGroup::Import(verb) => Verb::Import(verb),
            ImageGroup::Inspect(verb) => {
                let mut inspect = verb.inspect;
                inspect.platform = verb.platform;
                of(inspect, "image")
            }
            ImageGroup::Pull(verb) => Verb::Pull(verb),
            ImageGroup::Push(verb) => Verb::Push(verb),
            ImageGroup::Load(verb) => Verb::Load(verb),
            ImageGroup::Ls(verb) => Verb::Images(verb),
            ImageGroup::Rm(verb) => Verb::Rmi(verb),
            ImageGroup::Save(verb) => Verb::Save(verb),
            ImageGroup::Tag(verb) => Verb::Tag(verb),
            ImageGroup::Prune(_) => Verb::Image(group),
        },
        Verb::Volume(VolumeGroup::Inspect(verb)) => of(verb, "volume"),
        Verb::Network(NetworkGroup::Inspect(verb)) => of(verb, "network"),
        Verb::System(SystemGroup::Events(verb)) => Verb::Events(verb),
        Verb::System(SystemGroup::Info(verb)) => Verb::Info(verb),
        other => other,
    }
}

/// What to say instead of doing something.
fn refuse(command: &Command, words: &[String], error: &clap::Error) -> Refusal {
    let said = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    };
    let (mut inner, path) = innermost(command, words);
    let named = path.join(" ");
    let usage = inner.render_usage().to_string();
    let usage = in_dockers_notation(&usage.replacen("Usage: ", "Usage:  ", 1));
    let help = format!("Run '{named} --help' for more information");
    let sentence = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // From the definition as it stands, which shows switches as switches.
            return Refusal {
                message: inner.render_help().to_string(),
                status: 0,
            };
        }
        ErrorKind::UnknownArgument => match said(ContextKind::InvalidArg).unwrap_or_default() {
            flag if flag.starts_with("--") => {
                format!("unknown flag: {}", flag.split('=').next().unwrap_or(flag))
            }
            flag if flag.starts_with('-') => {
                let letter = flag.chars().nth(1).unwrap_or('-');
                // Of several letters in a word, those before it were known.
                let rest = words
                    .iter()
                    .filter(|word| word.starts_with('-') && !word.starts_with("--"))
                    .find_map(|word| Some(&word[word.find(letter)?..]))
                    .unwrap_or(flag.trim_start_matches('-'));
                format!("unknown shorthand flag: '{letter}' in -{rest}")
            }
            _ => {
                return Refusal {
                    message: format!("moss: '{named}' {}\n\n{usage}\n\n{help}", arity(&inner)),
                    status: 1,
                };
            }
        },
        ErrorKind::InvalidSubcommand => {
            let verb = said(ContextKind::InvalidSubcommand).unwrap_or_default();
            let usage = match path.len() {
                1 => String::new(),
                _ => format!("Usage:  {named}\n\n"),
            };
            return Refusal {
                message: format!("moss: unknown command: {named} {verb}\n\n{usage}{help}"),
                status: 1,
            };
        }
        ErrorKind::MissingRequiredArgument
        | ErrorKind::TooFewValues
        | ErrorKind::WrongNumberOfValues
        | ErrorKind::MissingSubcommand => {
            return Refusal {
                message: format!("moss: '{named}' {}\n\n{usage}\n\n{help}", arity(&inner)),
                status: 1,
            };
        }
        ErrorKind::InvalidValue | ErrorKind::NoEquals
            if said(ContextKind::InvalidValue).is_none_or(str::is_empty) =>
        {
            let flag = said(ContextKind::InvalidArg).unwrap_or_default();
            let flag = flag.split([' ', '=', '[']).next().unwrap_or_default();
            format!("flag needs an argument: {flag}")
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = said(ContextKind::InvalidValue).unwrap_or_default();
            let flag = said(ContextKind::InvalidArg).unwrap_or_default();
            let flag = flag.split([' ', '=', '[']).next().unwrap_or_default();
            let short = inner
                .get_arguments()
                .find(|arg| arg.get_long() == flag.strip_prefix("--"))
                .and_then(Arg::get_short);
            let flag = match short {
                Some(letter) => format!("-{letter}, {flag}"),
                None => flag.to_owned(),
            };
            let why =
                std::error::Error::source(error).map_or_else(String::new, |why| format!(": {why}"));
            format!("invalid argument \"{value}\" for \"{flag}\" flag{why}")
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    };
    Refusal {
        message: format!("{sentence}\n\n{usage}\n\n{help}"),
        status: match path.get(1).map(String::as_str) {
            // dockerd's.
            Some("daemon") => 1,
            _ => ENGINE_FAILED,
        },
    }
}

/// How many arguments a command takes, as docker says it to who gave another number.
fn arity(command: &Command) -> String {
    let required = command
        .get_positionals()
        .filter(|arg| arg.is_required_set());
    let least: usize = required
        .map(|arg| {
            arg.get_num_args()
                .map_or(1, |range| range.min_values().max(1))
        })
        .sum();
    let many = command
        .get_positionals()
        .any(|arg| matches!(arg.get_action(), ArgAction::Append));
    let most = command.get_positionals().count();
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    match (least, most) {
        _ if many => format!("requires at least {least} argument{}", plural(least)),
        (0, 0) => "accepts no arguments".to_owned(),
        (0, most) => format!("requires at most {most} argument{}", plural(most)),
        (least, most) if least == most => format!("requires {most} argument{}", plural(most)),
        (least, most) => format!(
            "requires at least {least} and at most {most} argument{}",
            plural(most)
        ),
    }
}

/// A usage line as docker writes it: `NAME [NAME...]` for clap's `<NAME>...`.
fn in_dockers_notation(usage: &str) -> String {
    let mut text = String::new();
    let mut rest = usage;
    while let Some((before, after)) = rest.split_once('<') {
        let Some((name, after)) = after.split_once('>') else {
            break;
        };
        text.push_str(before);
        text.push_str(name);
        rest = match after.strip_prefix("...") {
            Some(after) => {
                text.push_str(&format!(" [{name}...]"));
                after
            }
            None => after,
        };
    }
    text + rest
}

fn laid_out(command: Command, tidy: &dyn Fn(Arg) -> Arg) -> Command {
    command
        .next_line_help(false)
        .mut_args(tidy)
        .mut_subcommands(|inner| laid_out(inner, tidy))
}

/// A built command with what `definition` says of its verbs: that gave way to what is said of their
/// flags when these were defined.
fn described(built: Command, definition: &Command) -> Command {
    built.mut_subcommands(|verb| {
        let Some(defined) = definition.find_subcommand(verb.get_name()) else {
            return verb;
        };
        let about = defined.get_about().cloned();
        described(verb, defined).about(about.unwrap_or_default())
    })
}

/// The command that the words lead to, and its names.
fn innermost(command: &Command, words: &[String]) -> (Command, Vec<String>) {
    // One line for each flag, by their names, with no default that is empty text.
    let tidy = |arg: Arg| {
        let arg = arg.display_order(0);
        match arg.get_default_values() {
            [only] if only.is_empty() => arg.hide_default_value(true),
            _ => arg,
        }
    };
    let mut built = command.clone();
    // First, since a verb has no flags before.
    built.build();
    let mut command = laid_out(described(built, command), &tidy);
    let mut path = vec![command.get_name().to_owned()];
    for word in words.iter().skip(1) {
        if let Some(inner) = command.find_subcommand(word) {
            let inner = inner.clone();
            path.push(inner.get_name().to_owned());
            command = inner;
        } else if !word.starts_with('-') && path.len() > 1 {
            break;
        }
    }
    (command, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn parse_line(line: &str) -> Result<Parsed, Refusal> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        parse(&words)
    }

    #[test]
    fn the_definition_is_consistent() {
        bent(command()).debug_assert();
    }

    #[test]
    fn truth_values_have_the_defaults_that_they_say() {
        let run = |line| match parse_line(line).map(|parsed| parsed.verb) {
            Ok(Verb::Run(run)) => (run.sig_proxy, run.detach),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(run("moss run x"), (true, false));
        assert_eq!(run("moss run --sig-proxy=false -d x"), (false, true));
        assert_eq!(run("moss run --sig-proxy -d=0 x"), (true, false));
    }

    #[test]
    fn a_flag_takes_the_next_word_whatever_it_begins_with() {
        let Ok(Verb::Run(run)) = parse_line("moss run --name -d -e -x=1 -- i").map(|p| p.verb)
        else {
            panic!("no run");
        };
        assert_eq!(run.container.name.as_deref(), Some("-d"));
        assert_eq!(
            (run.container.env, run.detach),
            (vec!["-x=1".to_owned()], false)
        );
    }

    #[test]
    fn words_need_not_be_utf8() {
        let words = |line: &[u8]| -> Vec<OsString> {
            let words = line.split(|byte| *byte == b' ');
            words
                .map(|word| OsString::from_vec(word.to_vec()))
                .collect()
        };
        let run = |line| match parse(&words(line)).map(|parsed| parsed.verb) {
            Ok(Verb::Run(run)) => run.container,
            other => panic!("{other:?}"),
        };
        let flags = run(b"moss run -e A=\xff --label=\xe9 img \xc3\xa9 \xc3");
        assert_eq!(flags.env, ["A=\u{fffd}"]);
        assert_eq!(flags.label, ["\u{fffd}"]);
        assert_eq!(flags.words, ["img", "\u{e9}", "\u{fffd}"]);
        // A file of the client's own is opened by its name.
        let load = parse(&words(b"moss load -i \xff.tar")).map(|parsed| parsed.verb);
        let Ok(Verb::Load(load)) = load else {
            panic!("{load:?}");
        };
        let input = load.input.map(|path| path.into_os_string().into_vec());
        assert_eq!(input.as_deref(), Some(&b"\xff.tar"[..]));
    }

    #[test]
    fn groups_are_aliases() {
        for (line, verb) in [
            ("moss container ls -aq", "Ps("),
            ("moss container list", "Ps("),
            ("moss image rm -f x", "Rmi("),
            ("moss image ls", "Images("),
            ("moss volume list", "Volume("),
            ("moss system info", "Info("),
            ("moss -H unix:///x stop -t 3 a b", "Stop("),
            ("moss -D -c default -l error ps", "Ps("),
            ("moss container port c 80/tcp", "Port("),
            ("moss stop --time=3 a", "Stop("),
        ] {
            let parsed = parse_line(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(format!("{:?}", parsed.verb).starts_with(verb), "{line}");
        }
        let Ok(Verb::Inspect(inspect)) = parse_line("moss volume inspect v").map(|p| p.verb) else {
            panic!("no inspect");
        };
        assert_eq!(inspect.kind.as_deref(), Some("volume"));
    }

    #[test]
    fn what_follows_the_container_is_its_own() {
        let Ok(Verb::Exec(exec)) = parse_line("moss exec -it c ls -l --help").map(|p| p.verb)
        else {
            panic!("no exec");
        };
        assert!(exec.interactive && exec.tty);
        assert_eq!(exec.words, ["c", "ls", "-l", "--help"]);
    }

    #[test]
    fn errors_are_said_as_docker_says_them() {
        let refused = |line| parse_line(line).unwrap_err();
        let error = refused("moss ps --nosuch");
        assert_eq!(error.status, ENGINE_FAILED);
        assert_eq!(
            error.message,
            "unknown flag: --nosuch\n\nUsage:  moss ps [OPTIONS]\n\n\
             Run 'moss ps --help' for more information"
        );
        assert!(
            refused("moss nosuch")
                .message
                .starts_with("moss: unknown command: moss nosuch\n")
        );
        let error = refused("moss exec c");
        assert!(
            error
                .message
                .starts_with("moss: 'moss exec' requires at least 2 arguments"),
            "{error}"
        );
        for (line, status, start) in [
            ("moss ps x", 1, "moss: 'moss ps' accepts no arguments\n"),
            (
                "moss images a b",
                1,
                "moss: 'moss images' requires at most 1 argument\n",
            ),
            (
                "moss port c 80 x",
                1,
                "moss: 'moss port' requires at least 1 and at most 2 arguments\n",
            ),
            (
                "moss rm",
                1,
                "moss: 'moss rm' requires at least 1 argument\n\n\
                 Usage:  moss rm [OPTIONS] CONTAINER [CONTAINER...]\n",
            ),
            (
                "moss run -itZd x",
                ENGINE_FAILED,
                "unknown shorthand flag: 'Z' in -Zd\n",
            ),
            (
                "moss run -m x i",
                ENGINE_FAILED,
                "invalid argument \"x\" for \"-m, --memory\" flag: invalid size: 'x'\n\nUsage:",
            ),
            (
                "moss run --shm-size -1 i",
                ENGINE_FAILED,
                "invalid argument \"-1\" for \"--shm-size\" flag: invalid size: '-1'\n",
            ),
            (
                "moss run --stop-timeout x i",
                ENGINE_FAILED,
                "invalid argument \"x\" for \"--stop-timeout\" flag: strconv.ParseInt: parsing \
                 \"x\": invalid syntax\n",
            ),
            (
                "moss ps -f x",
                ENGINE_FAILED,
                "invalid argument \"x\" for \"-f, --filter\" flag: bad format of filter (expected \
                 name=value)\n",
            ),
            (
                "moss -c other ps",
                1,
                "Failed to initialize: unable to resolve moss endpoint: ",
            ),
            (
                "moss --log-level x ps",
                1,
                "Unable to parse logging level: x",
            ),
        ] {
            let error = refused(line);
            assert_eq!(error.status, status, "{line}");
            assert!(error.message.starts_with(start), "{line}: {error}");
        }
        let help = refused("moss container --help");
        assert!(
            help.message.contains("Fetch the logs of a container\n"),
            "{help}"
        );
        let help = refused("moss run --help");
        assert_eq!(help.status, 0);
        // Switches are shown as switches, and defaults that are nothing are not shown.
        assert!(help.message.contains("--rm\n") && !help.message.contains("--rm[="));
        assert!(!help.message.contains("default: \"\""));
        assert!(
            refused("moss ps --all=perhaps")
                .message
                .contains("invalid argument \"perhaps\"")
        );
    }
}
