//! A Dockerfile's language: from text to instructions. Pure; builds nothing.
//!
//! `docker import --change`, `docker commit --change` and a builder read the same language. It is
//! read in three steps, as Docker does it, because the order decides which error a bad text gets:
//!
//! 1. [`lines`]: comments, continuations and parser directives away; each line into its keyword,
//!    flags and arguments, by the shape that its keyword has. An error anywhere is told before
//!    any instruction is looked at.
//! 2. [`instruction`]: each line into an instruction with the arguments that it needs.
//! 3. [`words`]: variables in the arguments, when the instruction is applied: an `ENV` holds for
//!    the lines after it. What applies an instruction knows the environment; for an image's
//!    configuration that is `image`.
//!
//! Wording and quirks are moby's (`buildkit/frontend/dockerfile/{parser,instructions,shell}`).
//!
//! Not here: instructions that need files or containers (`FROM`, `RUN`, `COPY`, `ADD`, `ARG`,
//! `SHELL`, `MAINTAINER`), which no change may use, and here-documents, which only those have.
//! Their lines are read, since `ONBUILD` may hold them.

pub mod instruction;
pub mod lines;
pub mod words;

use lines::Document;

use instruction::Instruction;

/// Keywords that a change may use: those that change nothing but the configuration.
const CHANGES: &[&str] = &[
    "cmd",
    "entrypoint",
    "healthcheck",
    "env",
    "expose",
    "label",
    "onbuild",
    "stopsignal",
    "user",
    "volume",
    "workdir",
];

/// Instructions of `--change`, and the character that escapes in their arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// In the order in which they are applied.
    pub instructions: Vec<Instruction>,
    /// `\`, or a backtick where a parser directive says so.
    pub escape: char,
}

impl Changes {
    /// Reads changes as if they were the lines of one Dockerfile; none are no instructions.
    pub fn parse(changes: &[String]) -> Result<Self, Error> {
        if changes.is_empty() {
            return Ok(Self {
                instructions: Vec::new(),
                escape: lines::ESCAPE,
            });
        }
        let Document { lines, escape } = Document::parse(&changes.join("\n"))?;
        let instructions = lines.into_iter().map(|line| {
            if !CHANGES.contains(&&*line.keyword.to_ascii_lowercase()) {
                return Err(Error::NotAChange(line.keyword));
            }
            Instruction::parse(line)
        });
        Ok(Self {
            instructions: instructions.collect::<Result<_, _>>()?,
            escape,
        })
    }
}

/// What is wrong with a text. The wording is Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing but comments and blanks.
    #[error("file with no instructions")]
    Empty,
    /// A line that no Docker reads either.
    #[error("dockerfile line greater than max allowed size of {0}")]
    LineTooLong(usize),
    /// `# escape=` with another character.
    #[error("invalid escape token '{0}' does not match ` or \\")]
    EscapeToken(String),
    /// A parser directive said twice.
    #[error("only one {0} parser directive can be used")]
    DirectiveTwice(String),
    /// `["a", 1]`.
    #[error("when using JSON array syntax, arrays must be comprised of strings only")]
    NotStrings,
    /// `ENV name`.
    #[error("{0} must have two arguments")]
    TwoArguments(&'static str),
    /// `ENV a=b c`.
    #[error("Syntax error - can't find = in {0:?}. Must be of the form: name=value")]
    NoEquals(String),
    /// An instruction that makes more than configuration.
    #[error("{0} is not a valid change command")]
    NotAChange(String),
    /// An instruction that there is not.
    #[error("unknown instruction: {0}")]
    UnknownInstruction(String),
    /// An instruction without what it is about.
    #[error("{0} requires at least one argument")]
    AtLeastOne(&'static str),
    /// As many arguments as there may not be.
    #[error("{0} requires exactly one argument")]
    ExactlyOne(&'static str),
    /// `ENV =value`.
    #[error("{0} names can not be blank")]
    BlankName(&'static str),
    /// A flag that the instruction does not have; a similar one in words.
    #[error("unknown flag: {flag}{suggestion}")]
    UnknownFlag {
        /// As it was written, without its value.
        flag: String,
        /// ` (did you mean x?)`, or nothing.
        suggestion: String,
    },
    /// A flag said twice.
    #[error("duplicate flag specified: {0}")]
    FlagTwice(String),
    /// A flag that needs a value.
    #[error("missing a value on flag: {0}")]
    FlagValue(String),
    /// `ONBUILD ONBUILD`.
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    OnbuildChain,
    /// `ONBUILD FROM`.
    #[error("{0} isn't allowed as an ONBUILD trigger")]
    OnbuildTrigger(String),
    /// `HEALTHCHECK NONE x`.
    #[error("HEALTHCHECK NONE takes no arguments")]
    NoneTakesNothing,
    /// `HEALTHCHECK CMD`.
    #[error("Missing command after HEALTHCHECK CMD")]
    NoHealthCommand,
    /// `HEALTHCHECK x`.
    #[error("Unknown type {0:?} in HEALTHCHECK (try CMD)")]
    HealthType(String),
    /// A time of a health check that is none.
    #[error("{0}")]
    Duration(#[from] crate::types::duration::DurationError),
    /// A time of a health check that is too short.
    #[error("Interval {0:?} cannot be less than 1ms")]
    Interval(&'static str),
    /// Retries that are no number.
    #[error("strconv.ParseInt: parsing {text:?}: {reason}")]
    Number {
        /// What was said.
        text: String,
        /// Go's words for why not.
        reason: &'static str,
    },
    /// Fewer than no retries.
    #[error("--retries cannot be negative ({0})")]
    NegativeRetries(i64),
    /// `VOLUME [""]`.
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    /// `WORKDIR $nothing`.
    #[error("cannot normalize nothing")]
    EmptyWorkdir,
    /// A signal that there is not.
    #[error("{0}")]
    Signal(#[from] crate::types::signal::SignalError),
    /// A port that is none.
    #[error("{0}")]
    Port(String),
    /// Variables or quotes in a word that make no sense.
    #[error("failed to process {word:?}: {reason}")]
    Word {
        /// The word.
        word: String,
        /// Why.
        reason: String,
    },
}

#[cfg(test)]
mod tests;
