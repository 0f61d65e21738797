//! Step 2: from lines to instructions.

use crate::types::duration::{Duration, DurationError};

use super::Error;
use super::lines::{Arguments, Line};

/// An instruction that changes an image's configuration. Variables in it are not yet replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// What runs, or its arguments.
    Cmd(CommandLine),
    /// What runs.
    Entrypoint(CommandLine),
    /// Variables.
    Env(Vec<(String, String)>),
    /// Ports, each `[[address:]port:]port[-port][/protocol]`.
    Expose(Vec<String>),
    /// How health is checked.
    Healthcheck(Healthcheck),
    /// Labels.
    Label(Vec<(String, String)>),
    /// A line for builds on top.
    Onbuild(String),
    /// The signal that asks to stop.
    StopSignal(String),
    /// User and group.
    User(String),
    /// Paths that get a volume.
    Volume(Vec<String>),
    /// The working directory, from the one before.
    Workdir(String),
}

/// A command: the shell's line, or words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// One for a shell, or none.
    pub words: Vec<String>,
    /// A shell is to run it.
    pub shell: bool,
}

/// A health check; what is zero was not said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `NONE`, or `CMD` or `CMD-SHELL` and the command.
    pub test: Vec<String>,
    /// Between two checks.
    pub interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// In which failures do not count.
    pub start_period: Duration,
    /// Between checks in the start period.
    pub start_interval: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: i64,
}

/// Shortest time of a health check.
const SHORTEST: Duration = Duration::from_nanos(1_000_000);

impl Instruction {
    /// Reads a line.
    pub fn parse(line: Line) -> Result<Self, Error> {
        let Line {
            keyword,
            flags,
            arguments,
            original,
        } = line;
        match &*keyword.to_ascii_lowercase() {
            "cmd" => {
                no_flags(&flags)?;
                Ok(Self::Cmd(command_line(arguments)))
            }
            "entrypoint" => {
                no_flags(&flags)?;
                Ok(Self::Entrypoint(command_line(arguments)))
            }
            "env" => {
                no_flags(&flags)?;
                Ok(Self::Env(pairs(arguments, "ENV")?))
            }
            "label" => {
                no_flags(&flags)?;
                Ok(Self::Label(pairs(arguments, "LABEL")?))
            }
            "expose" => {
                let mut ports = at_least_one(arguments, "EXPOSE")?;
                no_flags(&flags)?;
                ports.sort();
                Ok(Self::Expose(ports))
            }
            "healthcheck" => healthcheck(arguments, &flags).map(Self::Healthcheck),
            "onbuild" => onbuild(arguments, &flags, &original).map(Self::Onbuild),
            // The only one whose flags Docker does not look at.
            "stopsignal" => exactly_one(arguments, "STOPSIGNAL").map(Self::StopSignal),
            "user" => {
                let user = exactly_one(arguments, "USER")?;
                no_flags(&flags)?;
                Ok(Self::User(user))
            }
            "workdir" => {
                let path = exactly_one(arguments, "WORKDIR")?;
                no_flags(&flags)?;
                Ok(Self::Workdir(path))
            }
            "volume" => {
                let paths = at_least_one(arguments, "VOLUME")?;
                no_flags(&flags)?;
                let paths: Vec<_> = paths.iter().map(|path| path.trim().to_owned()).collect();
                match paths.iter().any(String::is_empty) {
                    true => Err(Error::EmptyVolume),
                    false => Ok(Self::Volume(paths)),
                }
            }
            _ => Err(Error::UnknownInstruction(keyword)),
        }
    }
}

impl Arguments {
    fn into_words(self) -> Vec<String> {
        match self {
            Self::Plain(words) | Self::Json(words) => words,
            Self::Pairs(pairs) => pairs.into_iter().flat_map(|(a, b)| [a, b]).collect(),
        }
    }
}

fn at_least_one(arguments: Arguments, keyword: &'static str) -> Result<Vec<String>, Error> {
    let words = arguments.into_words();
    match words.is_empty() {
        true => Err(Error::AtLeastOne(keyword)),
        false => Ok(words),
    }
}

fn exactly_one(arguments: Arguments, keyword: &'static str) -> Result<String, Error> {
    match <[String; 1]>::try_from(arguments.into_words()) {
        Ok([word]) => Ok(word),
        Err(_) => Err(Error::ExactlyOne(keyword)),
    }
}

fn pairs(arguments: Arguments, keyword: &'static str) -> Result<Vec<(String, String)>, Error> {
    match arguments {
        Arguments::Pairs(pairs) if pairs.is_empty() => Err(Error::AtLeastOne(keyword)),
        Arguments::Pairs(pairs) if pairs.iter().any(|(name, _)| name.is_empty()) => {
            Err(Error::BlankName(keyword))
        }
        Arguments::Pairs(pairs) => Ok(pairs),
        Arguments::Plain(_) | Arguments::Json(_) => Err(Error::AtLeastOne(keyword)),
    }
}

fn command_line(arguments: Arguments) -> CommandLine {
    CommandLine {
        shell: !matches!(arguments, Arguments::Json(_)),
        words: arguments.into_words(),
    }
}

fn onbuild(arguments: Arguments, flags: &[String], original: &str) -> Result<String, Error> {
    let words = at_least_one(arguments, "ONBUILD")?;
    no_flags(flags)?;
    let trigger = words[0].trim().to_uppercase();
    match &*trigger {
        "ONBUILD" => Err(Error::OnbuildChain),
        "MAINTAINER" | "FROM" => Err(Error::OnbuildTrigger(trigger)),
        _ => {
            let line = original.trim_start();
            let rest = line.get("ONBUILD".len()..).unwrap_or_default();
            Ok(rest.trim_start().to_owned())
        }
    }
}

fn healthcheck(arguments: Arguments, flags: &[String]) -> Result<Healthcheck, Error> {
    let is_json = matches!(arguments, Arguments::Json(_));
    let mut words = at_least_one(arguments, "HEALTHCHECK")?.into_iter();
    let kind = words.next().unwrap_or_default().to_uppercase();
    if kind == "NONE" {
        return match words.next() {
            Some(_) => Err(Error::NoneTakesNothing),
            None => Ok(Healthcheck {
                test: vec![kind],
                ..Healthcheck::default()
            }),
        };
    }
    let [interval, timeout, start_period, start_interval, retries] = read_flags(
        flags,
        [
            "interval",
            "timeout",
            "start-period",
            "start-interval",
            "retries",
        ],
    )?;
    if kind != "CMD" {
        return Err(Error::HealthType(kind));
    }
    let command: Vec<String> = words.collect();
    if command.is_empty() {
        return Err(Error::NoHealthCommand);
    }
    let kind = if is_json { "CMD" } else { "CMD-SHELL" };
    Ok(Healthcheck {
        test: std::iter::once(kind.to_owned()).chain(command).collect(),
        interval: time("interval", &interval)?,
        timeout: time("timeout", &timeout)?,
        start_period: time("start-period", &start_period)?,
        start_interval: time("start-interval", &start_interval)?,
        retries: self::retries(&retries)?,
    })
}

fn time(name: &'static str, text: &str) -> Result<Duration, Error> {
    let time: Duration = match text {
        "" => return Ok(Duration::default()),
        text => text.parse().map_err(|error: DurationError| error)?,
    };
    match time {
        zero if zero == Duration::default() => Ok(zero),
        short if short < SHORTEST => Err(Error::Interval(name)),
        time => Ok(time),
    }
}

fn retries(text: &str) -> Result<i64, Error> {
    if text.is_empty() {
        return Ok(0);
    }
    let refuse = |reason| Error::Number {
        text: text.to_owned(),
        reason,
    };
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(refuse("invalid syntax"));
    }
    match text.parse::<i32>() {
        Ok(number) if number < 0 => Err(Error::NegativeRetries(number.into())),
        Ok(number) => Ok(number.into()),
        Err(_) => Err(refuse("value out of range")),
    }
}

fn no_flags(flags: &[String]) -> Result<(), Error> {
    read_flags(flags, []).map(|[]: [String; 0]| ())
}

/// The values of the flags that an instruction has; empty where not said.
fn read_flags<const N: usize>(flags: &[String], known: [&str; N]) -> Result<[String; N], Error> {
    let mut values = [const { None }; N];
    for flag in flags {
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (&**flag, None),
        };
        let bare = name.strip_prefix("--").unwrap_or(name);
        let Some(at) = known.iter().position(|known| *known == bare) else {
            return Err(Error::UnknownFlag {
                flag: name.to_owned(),
                suggestion: similar(bare, &known)
                    .map(|known| format!(" (did you mean {known}?)"))
                    .unwrap_or_default(),
            });
        };
        if values[at].is_some() {
            return Err(Error::FlagTwice(name.to_owned()));
        }
        let value = value.ok_or_else(|| Error::FlagValue(name.to_owned()))?;
        values[at] = Some(value.to_owned());
    }
    Ok(values.map(Option::unwrap_or_default))
}

/// The nearest of `known` that is at most two edits away.
fn similar<'a>(text: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|known| (distance(text, known), *known));
    let near = near.filter(|(distance, _)| *distance < 3);
    near.min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Levenshtein's: insertions, deletions and replacements from one to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, character) in from.chars().enumerate() {
        let mut diagonal = line;
        row[0] = line + 1;
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(character != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}
