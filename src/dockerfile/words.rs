//! Step 3: quotes, escapes and variables of a word, in the manner of a shell.
//!
//! | written | becomes |
//! |---|---|
//! | `'…'` | what is between, as it is |
//! | `"…"` | what is between, with variables; the escape character escapes `"`, `$` and itself |
//! | `\x` | `x` |
//! | `$name`, `${name}` | the variable, or nothing |
//! | `${name:-word}`, `${name-word}` | the word where the variable is empty or unset, or unset |
//! | `${name:+word}`, `${name+word}` | the word where it is not |
//! | `${name:?word}`, `${name?word}` | an error with the word where it is |
//! | `${name#pattern}`, `${name##pattern}` | without the shortest, or longest, prefix |
//! | `${name%pattern}`, `${name%%pattern}` | without the shortest, or longest, suffix |
//! | `${name/pattern/word}`, `${name//pattern/word}` | the first, or each, match replaced |

use regex::{NoExpand, Regex};

use super::Error;

/// How deep substitutions may be nested. No person needs three.
const DEEPEST: usize = 64;

/// Expands words by an environment.
pub struct Expander<'a> {
    escape: char,
    variable: &'a dyn Fn(&str) -> Option<String>,
}

/// Why a word is none; the word itself is added by [`Expander::run`].
type Reason = String;

/// What has been made of a word.
#[derive(Default)]
struct Made {
    /// All of it, blanks too.
    text: String,
    /// Split at the blanks that were neither quoted nor escaped.
    words: Vec<String>,
    word: String,
}

impl Made {
    fn push_raw(&mut self, text: &str) {
        self.text.push_str(text);
        self.word.push_str(text);
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        for character in text.chars() {
            match character.is_whitespace() {
                true => self.end_word(),
                false => self.word.push(character),
            }
        }
    }

    fn end_word(&mut self) {
        if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }
}

/// Where in a word.
struct Cursor {
    characters: Vec<char>,
    at: usize,
    depth: usize,
    /// Escapes are kept: a pattern has its own.
    keeps_escapes: bool,
}

impl Cursor {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek();
        self.at += usize::from(character.is_some());
        character
    }
}

impl<'a> Expander<'a> {
    /// With the character that escapes, and what looks a variable up.
    pub fn new(escape: char, variable: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { escape, variable }
    }

    /// The word as one, whatever blanks its variables have.
    pub fn word(&self, word: &str) -> Result<String, Error> {
        self.run(word).map(|made| made.text)
    }

    /// The word as several where its variables, or it, have blanks.
    pub fn words(&self, word: &str) -> Result<Vec<String>, Error> {
        self.run(word).map(|made| made.words)
    }

    fn run(&self, word: &str) -> Result<Made, Error> {
        let mut cursor = Cursor {
            characters: word.chars().collect(),
            at: 0,
            depth: 0,
            keeps_escapes: false,
        };
        self.until(None, &mut cursor).map_err(|reason| Error::Word {
            word: word.to_owned(),
            reason,
        })
    }

    /// Reads up to `stop`, which is taken, or to the end.
    fn until(&self, stop: Option<char>, cursor: &mut Cursor) -> Result<Made, Reason> {
        let mut made = Made::default();
        while let Some(character) = cursor.peek() {
            if Some(character) == stop {
                cursor.next();
                made.end_word();
                return Ok(made);
            }
            match character {
                '\'' => made.push_raw(&single_quoted(cursor)?),
                '"' => made.push_raw(&self.double_quoted(cursor)?),
                '$' => made.push(&self.dollar(cursor)?),
                _ => {
                    cursor.next();
                    if character != self.escape {
                        made.push(character.encode_utf8(&mut [0; 4]));
                        continue;
                    }
                    if cursor.keeps_escapes {
                        made.push_raw(character.encode_utf8(&mut [0; 4]));
                    }
                    // At the end it escapes nothing.
                    if let Some(escaped) = cursor.next() {
                        made.push_raw(escaped.encode_utf8(&mut [0; 4]));
                    }
                }
            }
        }
        match stop {
            None => {
                made.end_word();
                Ok(made)
            }
            Some(stop) => Err(format!(
                "unexpected end of statement while looking for matching {stop}"
            )),
        }
    }

    fn double_quoted(&self, cursor: &mut Cursor) -> Result<String, Reason> {
        cursor.next();
        let mut text = String::new();
        loop {
            match cursor.peek() {
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching double-quote"
                            .to_owned(),
                    );
                }
                Some('"') => {
                    cursor.next();
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.dollar(cursor)?),
                Some(character) => {
                    cursor.next();
                    if character != self.escape {
                        text.push(character);
                        continue;
                    }
                    if cursor.keeps_escapes {
                        text.push(character);
                    }
                    match cursor.peek() {
                        None => {}
                        Some(escaped) if matches!(escaped, '"' | '$') || escaped == self.escape => {
                            cursor.next();
                            text.push(escaped);
                        }
                        // Before anything else it is a character like others.
                        Some(_) => text.push(character),
                    }
                }
            }
        }
    }

    fn dollar(&self, cursor: &mut Cursor) -> Result<String, Reason> {
        cursor.next();
        if cursor.peek() != Some('{') {
            let name = name(cursor);
            return Ok(match name.is_empty() {
                true => "$".to_owned(),
                false => (self.variable)(&name).unwrap_or_default(),
            });
        }
        cursor.next();
        if cursor.depth >= DEEPEST {
            return Err("substitutions are nested too deeply".to_owned());
        }
        cursor.depth += 1;
        let text = self.substitution(cursor);
        cursor.depth -= 1;
        text
    }

    /// What follows `${`.
    fn substitution(&self, cursor: &mut Cursor) -> Result<String, Reason> {
        match cursor.peek() {
            None => return Err(UNCLOSED.to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        let name = name(cursor);
        let value = (self.variable)(&name);
        let character = cursor.next().unwrap_or(char::REPLACEMENT_CHARACTER);
        let mut modifier = String::from(character);
        match character {
            '}' => return Ok(value.unwrap_or_default()),
            '/' => return self.replacement(&value.unwrap_or_default(), cursor),
            ':' | '+' | '-' | '?' | '#' | '%' => {}
            _ => return Err(unsupported(&modifier)),
        }
        let mut operator = character;
        if character == ':' {
            operator = cursor.next().unwrap_or(char::REPLACEMENT_CHARACTER);
            modifier.push(operator);
            if matches!(operator, '#' | '%') {
                return Err(unsupported(&modifier));
            }
        }
        let word = self.part('}', matches!(operator, '#' | '%'), cursor)?;
        let present = value
            .as_deref()
            .filter(|value| character != ':' || !value.is_empty());
        match operator {
            '-' => Ok(present.map_or(word, str::to_owned)),
            '+' => Ok(present.map(|_| word).unwrap_or_default()),
            '?' => match (present, &value) {
                (Some(present), _) => Ok(present.to_owned()),
                _ if !word.is_empty() => Err(format!("{name}: {word}")),
                (None, None) => Err(format!("{name}: is not allowed to be unset")),
                (None, Some(_)) => Err(format!("{name}: is not allowed to be empty")),
            },
            '#' | '%' => {
                let (pattern, greedy) = match word.strip_prefix(operator) {
                    Some(pattern) => (pattern, true),
                    None => (&*word, false),
                };
                let value = value.unwrap_or_default();
                match operator {
                    '#' => without_prefix(pattern, &value, greedy),
                    _ => without_suffix(pattern, &value, greedy),
                }
            }
            _ => Err(unsupported(&modifier)),
        }
    }

    /// What follows `${name/`.
    fn replacement(&self, value: &str, cursor: &mut Cursor) -> Result<String, Reason> {
        let every = cursor.peek() == Some('/');
        if every {
            cursor.next();
        }
        let pattern = match self.part('/', true, cursor) {
            Err(reason) if reason == UNCLOSED => {
                return Err("syntax error: missing '/' in ${}".to_owned());
            }
            other => other?,
        };
        let replacement = self.part('}', true, cursor)?;
        let regex = regex(&pattern, true, false)?;
        let limit = usize::from(!every);
        Ok(regex
            .replacen(value, limit, NoExpand(&replacement))
            .into_owned())
    }

    /// A word within a substitution, up to `stop`.
    fn part(&self, stop: char, keeps_escapes: bool, cursor: &mut Cursor) -> Result<String, Reason> {
        let before = std::mem::replace(&mut cursor.keeps_escapes, keeps_escapes);
        let made = self.until(Some(stop), cursor);
        cursor.keeps_escapes = before;
        match made {
            Ok(made) => Ok(made.text),
            Err(_) if cursor.peek().is_none() => Err(UNCLOSED.to_owned()),
            Err(reason) => Err(reason),
        }
    }
}

/// A substitution without its end.
const UNCLOSED: &str = "syntax error: missing '}'";

fn unsupported(modifier: &str) -> Reason {
    format!("unsupported modifier ({modifier}) in substitution")
}

fn single_quoted(cursor: &mut Cursor) -> Result<String, Reason> {
    cursor.next();
    let mut text = String::new();
    loop {
        match cursor.next() {
            Some('\'') => return Ok(text),
            Some(character) => text.push(character),
            None => {
                return Err(
                    "unexpected end of statement while looking for matching single-quote"
                        .to_owned(),
                );
            }
        }
    }
}

/// A variable's name: letters, digits and `_`; only digits; or one special character.
fn name(cursor: &mut Cursor) -> String {
    let mut name = String::new();
    let only_digits = cursor.peek().is_some_and(char::is_numeric);
    while let Some(character) = cursor.peek() {
        let fits = match name.is_empty() {
            true if matches!(character, '@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                cursor.next();
                return character.to_string();
            }
            _ if only_digits => character.is_numeric(),
            _ => character.is_alphanumeric() || character == '_',
        };
        if !fits {
            break;
        }
        name.push(character);
        cursor.next();
    }
    name
}

/// A shell's pattern (`*`, `?`, escapes; no brackets) as a regular expression.
fn regex(pattern: &str, greedy: bool, anchored: bool) -> Result<Regex, Reason> {
    let refuse = |reason: String| format!("invalid pattern ({pattern}) in substitution: {reason}");
    let mut expression = String::from(if anchored { "^" } else { "" });
    let literal = |character: char, expression: &mut String| {
        expression.push_str(&regex::escape(character.encode_utf8(&mut [0; 4])));
    };
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '*' => expression.push_str(if greedy { ".*" } else { ".*?" }),
            '?' => expression.push('.'),
            // Those two end parts of a substitution: their escape is none of the pattern's.
            '\\' if matches!(characters.peek(), Some('}' | '/')) => {}
            '\\' => match characters.next() {
                Some(escaped @ ('*' | '?' | '\\')) => literal(escaped, &mut expression),
                other => {
                    let other = other.unwrap_or(char::REPLACEMENT_CHARACTER);
                    return Err(refuse(format!("invalid escape '\\{other}'")));
                }
            },
            other => literal(other, &mut expression),
        }
    }
    Regex::new(&expression).map_err(|error| refuse(error.to_string()))
}

fn without_prefix(pattern: &str, value: &str, greedy: bool) -> Result<String, Reason> {
    let regex = regex(pattern, greedy, true)?;
    let end = regex.find(value).map_or(0, |found| found.end());
    Ok(value[end..].to_owned())
}

/// The shortest match at the end is the shortest at the start of both turned round.
fn without_suffix(pattern: &str, value: &str, greedy: bool) -> Result<String, Reason> {
    let mut turned: Vec<String> = Vec::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        let mut part = String::from(character);
        if character == '\\' {
            part.extend(characters.next());
        }
        turned.push(part);
    }
    turned.reverse();
    let value: String = value.chars().rev().collect();
    let rest = without_prefix(&turned.concat(), &value, greedy)?;
    Ok(rest.chars().rev().collect())
}
