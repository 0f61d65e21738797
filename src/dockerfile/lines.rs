//! Step 1: from text to lines, each a keyword with flags and arguments.
//!
//! A line that ends in the escape character goes on in the next; blank lines and comments between
//! do not end it. Parser directives (`# escape=`) count only before anything else. What shape the
//! arguments have depends on the keyword alone ([`Arguments`]); a keyword that is unknown keeps
//! none, so that it is the keyword that is complained of.

use super::Error;

/// What escapes and continues where no directive says otherwise.
pub const ESCAPE: char = '\\';

/// Most bytes of a line, its end included.
const LONGEST_LINE: usize = 64 * 1024 - 1;

/// Parser directives that there are. Only `escape` means something here.
const DIRECTIVES: &[&str] = &["syntax", "escape", "check"];

/// A whole text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// At least one.
    pub lines: Vec<Line>,
    /// What escapes in it.
    pub escape: char,
}

/// One line, continuations joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// As it was written.
    pub keyword: String,
    /// What begins with `--` before the arguments, quotes away.
    pub flags: Vec<String>,
    /// What follows.
    pub arguments: Arguments,
    /// The line as it was read.
    pub original: String,
}

/// What follows a keyword.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arguments {
    /// Words, or the whole rest as one.
    Plain(Vec<String>),
    /// A JSON array of strings.
    Json(Vec<String>),
    /// Names with values, their quotes and variables as written.
    Pairs(Vec<(String, String)>),
}

/// What a keyword's arguments look like.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// The whole rest is one argument.
    Text,
    /// Separated by blanks.
    Words,
    /// A JSON array, or the whole rest.
    JsonOrText,
    /// A JSON array, or words.
    JsonOrWords,
    /// `name=value` words, or `name value`.
    Pairs(&'static str),
    /// A word, then a JSON array or the rest.
    Health,
    /// A line of its own.
    Line,
    /// Words whose quotes keep blanks together.
    Quoted,
    /// Nothing is kept.
    Unknown,
}

impl Shape {
    fn of(keyword: &str) -> Self {
        match &*keyword.to_ascii_lowercase() {
            "maintainer" | "stopsignal" | "user" | "workdir" => Self::Text,
            "expose" | "from" => Self::Words,
            "cmd" | "entrypoint" | "run" | "shell" => Self::JsonOrText,
            "add" | "copy" | "volume" => Self::JsonOrWords,
            "env" => Self::Pairs("ENV"),
            "label" => Self::Pairs("LABEL"),
            "healthcheck" => Self::Health,
            "onbuild" => Self::Line,
            "arg" => Self::Quoted,
            _ => Self::Unknown,
        }
    }
}

impl Document {
    /// Reads a text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut directives = Directives::default();
        let mut lines = Vec::new();
        let mut rest = text.split_inclusive('\n');
        while let Some(raw) = rest.next() {
            let first = own_text(raw)?.trim_start();
            directives.read(first)?;
            let first = if is_comment(first) { "" } else { first };
            let (first, mut goes_on) = without_continuation(first, directives.escape());
            if !goes_on && first.is_empty() {
                continue;
            }
            let mut joined = first.to_owned();
            while goes_on {
                let Some(raw) = rest.next() else { break };
                let next = own_text(raw)?;
                if is_comment(next) || next.trim_start().is_empty() {
                    continue;
                }
                let part;
                (part, goes_on) = without_continuation(next, directives.escape());
                joined.push_str(part);
            }
            lines.push(Line::parse(&joined, directives.escape())?);
        }
        if lines.is_empty() {
            return Err(Error::Empty);
        }
        Ok(Self {
            lines,
            escape: directives.escape(),
        })
    }
}

impl Line {
    fn parse(line: &str, escape: char) -> Result<Self, Error> {
        let (keyword, rest) = split_at_blanks(line.trim());
        let (flags, rest) = flags(rest.unwrap_or(""), escape);
        Ok(Self {
            keyword: keyword.to_owned(),
            flags,
            arguments: arguments(Shape::of(keyword), rest.trim(), escape)?,
            original: line.to_owned(),
        })
    }
}

/// The parser directives read so far.
#[derive(Debug, Default)]
struct Directives {
    seen: Vec<String>,
    done: bool,
    escape: Option<char>,
}

impl Directives {
    fn escape(&self) -> char {
        self.escape.unwrap_or(ESCAPE)
    }

    /// Looks whether a line is one: `# name = value`. The first that is none ends them.
    fn read(&mut self, line: &str) -> Result<(), Error> {
        if self.done {
            return Ok(());
        }
        let pair = line.strip_prefix('#').and_then(|line| line.split_once('='));
        let pair = pair.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()));
        let known =
            pair.filter(|(name, value)| DIRECTIVES.contains(&name.as_str()) && !value.is_empty());
        let Some((name, value)) = known else {
            self.done = true;
            return Ok(());
        };
        if self.seen.contains(&name) {
            return Err(Error::DirectiveTwice(name));
        }
        if name == "escape" {
            self.escape = match value {
                "\\" => Some('\\'),
                "`" => Some('`'),
                other => return Err(Error::EscapeToken(other.to_owned())),
            };
        }
        self.seen.push(name);
        Ok(())
    }
}

/// A line without its end.
fn own_text(raw: &str) -> Result<&str, Error> {
    match raw.len() > LONGEST_LINE {
        true => Err(Error::LineTooLong(LONGEST_LINE)),
        false => Ok(raw.trim_end_matches(['\r', '\n'])),
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// A line without the escape character at its end, and whether it has one: blanks may follow it,
/// another must not precede it.
fn without_continuation(line: &str, escape: char) -> (&str, bool) {
    let end = line.trim_end_matches([' ', '\t']).strip_suffix(escape);
    match end {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        _ => (line, false),
    }
}

/// What separates a keyword, and words.
fn is_blank(character: char) -> bool {
    matches!(character, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

fn split_at_blanks(text: &str) -> (&str, Option<&str>) {
    match text.split_once(is_blank) {
        Some((first, rest)) => (first, Some(rest.trim_start_matches(is_blank))),
        None => (text, None),
    }
}

fn arguments(shape: Shape, rest: &str, escape: char) -> Result<Arguments, Error> {
    let whole = || Vec::from_iter((!rest.is_empty()).then(|| rest.to_owned()));
    Ok(match shape {
        Shape::Unknown => Arguments::Plain(Vec::new()),
        Shape::Text => Arguments::Plain(whole()),
        Shape::Words => Arguments::Plain(blank_separated(rest)),
        Shape::Quoted => Arguments::Plain(quoted_words(rest, escape)),
        Shape::JsonOrText => match json(rest)? {
            Some(strings) => Arguments::Json(strings),
            None => Arguments::Plain(whole()),
        },
        Shape::JsonOrWords => match json(rest)? {
            Some(strings) => Arguments::Json(strings),
            None => Arguments::Plain(blank_separated(rest)),
        },
        Shape::Pairs(keyword) => Arguments::Pairs(pairs(rest, keyword, escape)?),
        Shape::Health => {
            let (kind, rest) = match rest.split_once(char::is_whitespace) {
                Some((kind, rest)) => (kind, rest.trim_start()),
                None => (rest, ""),
            };
            let kind = (!kind.is_empty()).then(|| kind.to_owned());
            let with = |rest: Vec<String>| kind.into_iter().chain(rest).collect();
            match json(rest)? {
                Some(strings) => Arguments::Json(with(strings)),
                None => {
                    let rest = (!rest.is_empty()).then(|| rest.to_owned());
                    Arguments::Plain(with(Vec::from_iter(rest)))
                }
            }
        }
        Shape::Line => {
            let (keyword, _) = split_at_blanks(rest);
            // A chain of them is refused whatever it holds, so its depth is never followed.
            if !keyword.is_empty() && !keyword.eq_ignore_ascii_case("onbuild") {
                Line::parse(rest, escape)?;
            }
            let keyword = (!keyword.is_empty()).then(|| keyword.to_owned());
            Arguments::Plain(Vec::from_iter(keyword))
        }
    })
}

fn blank_separated(text: &str) -> Vec<String> {
    let words = text.split(is_blank).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// A JSON array of strings; `None` for what is no JSON array, an error for one of other things.
fn json(text: &str) -> Result<Option<Vec<String>>, Error> {
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return Ok(None);
    };
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(Error::NotStrings),
    });
    strings.collect::<Result<_, _>>().map(Some)
}

fn pairs(rest: &str, keyword: &'static str, escape: char) -> Result<Vec<(String, String)>, Error> {
    let words = quoted_words(rest, escape);
    let Some(first) = words.first() else {
        return Ok(Vec::new());
    };
    // The old form, `name value`: the value is the rest, blanks and all.
    if !first.contains('=') {
        return match split_at_blanks(rest) {
            (name, Some(value)) => Ok(vec![(name.to_owned(), value.to_owned())]),
            (_, None) => Err(Error::TwoArguments(keyword)),
        };
    }
    let pairs = words.iter().map(|word| match word.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(Error::NoEquals(word.clone())),
    });
    pairs.collect()
}

/// Splits at blanks that are neither quoted nor escaped. Quotes and escapes stay: [`super::words`]
/// takes them away.
fn quoted_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if quote.is_none() && character.is_whitespace() {
            words.extend(word.take().filter(|word| !word.is_empty()));
            continue;
        }
        let word = word.get_or_insert_default();
        match quote {
            None if matches!(character, '\'' | '"') => quote = Some(character),
            Some(open) if open == character => quote = None,
            _ => {}
        }
        // Nothing is escaped between single quotes.
        if character == escape && quote != Some('\'') {
            // At the end of the text it escapes nothing, and is left out.
            let Some(escaped) = characters.next() else {
                break;
            };
            word.push(character);
            word.push(escaped);
        } else {
            word.push(character);
        }
    }
    words.extend(word.filter(|word| !word.is_empty()));
    words
}

/// Takes the flags off the front: words that begin with `--`, up to a lone `--`.
fn flags(text: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let mut flag = String::new();
        let mut quote = None;
        let mut end = rest.len();
        let mut characters = rest.char_indices();
        while let Some((at, character)) = characters.next() {
            match quote {
                None if character.is_whitespace() => {
                    end = at;
                    break;
                }
                None if matches!(character, '\'' | '"') => quote = Some(character),
                Some(open) if open == character => quote = None,
                _ if character == escape => {
                    flag.extend(characters.next().map(|(_, escaped)| escaped));
                }
                _ => flag.push(character),
            }
        }
        rest = rest[end..].trim_start();
        if flag == "--" {
            break;
        }
        flags.push(flag);
    }
    (flags, rest)
}
