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
            before = before.trim_start();
        }
        let Some(start) = start else {
            pieces.push(Piece::Text(before.to_owned()));
            return Ok(pieces);
        };
        let mut inner = begin + start + 2;
        if text[inner..].starts_with("- ") {
            before = before.trim_end();
            inner += 2;
        }
        pieces.push(Piece::Text(before.to_owned()));
        let length = closing(&text[inner..]).ok_or_else(|| TemplateError::Parse {
            line: line(text, inner),
            reason: "unclosed action".into(),
        })?;
        begin = inner + length + 2;
        let action = &text[inner..inner + length];
        trim = action.ends_with(" -");
        let action = action.strip_suffix(" -").unwrap_or(action);
        if !action.trim_start().starts_with("/*") {
            let tokens = tokens(text, inner, action)?;
            pieces.push(Piece::Action { at: inner, tokens });
        }
    }
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
        match characters.next()?.1 {
            'n' => value.push('\n'),
            't' => value.push('\t'),
            'r' => value.push('\r'),
            other => value.push(other),
        }
    }
    None
}
