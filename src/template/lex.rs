//! From a template's text to text and actions, and from an action to words.

use super::TemplateError;

/// Text and actions, in turn.
#[derive(Debug)]
pub(super) enum Piece {
    Text(String),
    Action { at: usize, tokens: Vec<Token> },
}

/// A word of an action.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Where it begins in the template, in bytes.
    pub(super) at: usize,
    /// As it is written.
    pub(super) text: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Word,
    /// `"…"`, `` `…` ``: its value.
    Quoted(String),
    Open,
    Close,
    Pipe,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// The line of a place, from 1.
pub(super) fn line(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let (mut begin, mut trim) = (0, false);
    loop {
        let rest = &text[begin..];
        let start = rest.find("{{");
        let mut before = &rest[..start.unwrap_or(rest.len())];
        if trim {
            before = before.trim_start_matches(is_space);
        }
        let Some(start) = start else {
            pieces.push(Piece::Text(before.to_owned()));
            return Ok(pieces);
        };
        let mut inner = begin + start + 2;
        let mut following = text[inner..].chars();
        if following.next() == Some('-') && following.next().is_some_and(is_space) {
            before = before.trim_end_matches(is_space);
            inner += 2;
        }
        pieces.push(Piece::Text(before.to_owned()));
        let wrong = |reason: &str| TemplateError::Parse {
            line: line(text, inner),
            reason: reason.into(),
        };
        // A comment holds what it likes, and nothing is beside it.
        let comment = match text[inner..].starts_with("/*") {
            true => {
                let length = text[inner..].find("*/");
                Some(length.ok_or_else(|| wrong("unclosed comment"))? + 2)
            }
            false => None,
        };
        let rest = &text[inner + comment.unwrap_or(0)..];
        let length = match comment {
            Some(_) => rest.find("}}"),
            None => closing(rest),
        };
        let length = length.ok_or_else(|| wrong("unclosed action"))?;
        let action = &rest[..length];
        begin = inner + comment.unwrap_or(0) + length + 2;
        let marked = action
            .strip_suffix('-')
            .filter(|action| action.ends_with(is_space));
        trim = marked.is_some();
        let action = marked.unwrap_or(action);
        if comment.is_none() {
            let tokens = tokens(text, inner, action)?;
            pieces.push(Piece::Action { at: inner, tokens });
        } else if !action.trim_matches(is_space).is_empty() {
            return Err(wrong("comment ends before closing delimiter"));
        }
    }
}

/// What markers trim, and words end at.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n')
}

/// Where the action's `}}` is, outside strings.
fn closing(action: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (index, character) in action.char_indices() {
        match (quote, character) {
            _ if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(open), close) if open == close => quote = None,
            (Some(_), _) => {}
            (None, '"' | '`') => quote = Some(character),
            (None, '}') if action[index..].starts_with("}}") => return Some(index),
            _ => {}
        }
    }
    None
}

fn tokens(text: &str, begin: usize, action: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(character) = action[at..].chars().next() {
        if character.is_whitespace() {
            at += character.len_utf8();
            continue;
        }
        let rest = &action[at..];
        let (kind, length) = match character {
            '(' => (Kind::Open, 1),
            ')' => (Kind::Close, 1),
            '|' => (Kind::Pipe, 1),
            ',' => (Kind::Comma, 1),
            '=' => (Kind::Assign, 1),
            ':' if rest.starts_with(":=") => (Kind::Declare, 2),
            '"' | '`' => {
                let (value, length) = quoted(rest).ok_or_else(|| TemplateError::Parse {
                    line: line(text, begin + at),
                    reason: "unterminated quoted string".into(),
                })?;
                (Kind::Quoted(value), length)
            }
            _ => {
                let ends = |c: char| c.is_whitespace() || "()|,=:\"`".contains(c);
                // At least one character, so that what ends a word cannot stand still.
                let first = character.len_utf8();
                let length = rest[first..]
                    .find(ends)
                    .map_or(rest.len(), |end| first + end);
                (Kind::Word, length)
            }
        };
        tokens.push(Token {
            kind,
            at: begin + at,
            text: rest[..length].to_owned(),
        });
        at += length;
    }
    Ok(tokens)
}

/// What a letter means after a backslash.
const SIMPLE: [(char, char); 7] = [
    ('a', '\x07'),
    ('b', '\x08'),
    ('f', '\x0c'),
    ('n', '\n'),
    ('r', '\r'),
    ('t', '\t'),
    ('v', '\x0b'),
];

/// A string's value, and how long it is as written.
fn quoted(rest: &str) -> Option<(String, usize)> {
    let mut characters = rest.char_indices();
    let (_, quote) = characters.next()?;
    let mut value = String::new();
    while let Some((at, character)) = characters.next() {
        if character == quote {
            return Some((value, at + quote.len_utf8()));
        }
        if character != '\\' || quote == '`' {
            value.push(character);
            continue;
        }
        let (at, escaped) = characters.next()?;
        let simple = SIMPLE.iter().find(|(letter, _)| *letter == escaped);
        if let Some((_, meant)) = simple {
            value.push(*meant);
            continue;
        }
        let (from, length, radix) = match escaped {
            'x' => (at + 1, 2, 16),
            'u' => (at + 1, 4, 16),
            'U' => (at + 1, 8, 16),
            '0'..='7' => (at, 3, 8),
            other => {
                value.push(other);
                continue;
            }
        };
        let digits = rest.get(from..from + length)?;
        value.push(char::from_u32(u32::from_str_radix(digits, radix).ok()?)?);
        for _ in 0..from + length - at - 1 {
            characters.next();
        }
    }
    None
}
