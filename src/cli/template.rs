//! The part of Go's text/template that people use in `--format`, over JSON values.
//!
//! `{{.Field.Inner}}`, `{{json .X}}` and docker's other functions (`upper lower title join split
//! truncate pad println len index eq ne not and or`), pipelines, parentheses, `{{if}}…{{else}}…`,
//! `{{range}}…{{end}}`, `{{-` and `-}}`. Fields are found by their JSON name, in any case where none
//! is exact (Go's names differ from JSON's by case alone). Variables and nested templates are not
//! there, and said to be so.
//!
//! Values print as in Go: strings as they are, lists `[a b]`, maps `map[k:v]`, null `<nil>`.

use std::fmt::Write;
use std::iter::Peekable;

use serde_json::Value;

/// What is wrong with a template, or with what it asks of a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It cannot be read.
    #[error("template parsing error: template: :1: {0}")]
    Parse(String),
    /// It asks for what is not there.
    #[error("template: :1: executing \"\": {0}")]
    Execute(String),
}

/// A template that was read.
#[derive(Debug, Clone)]
pub struct Template(Vec<Node>);

#[derive(Debug, Clone)]
enum Node {
    Text(String),
    Print(Pipeline),
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
}

/// Commands, each with the result of the one before as its last argument.
type Pipeline = Vec<Vec<Term>>;

#[derive(Debug, Clone)]
enum Term {
    /// `.`, `.A.B`; from the root where `$`.
    Field(bool, Vec<String>),
    Literal(Value),
    Function(String),
    Nested(Pipeline, Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Open,
    Close,
    Pipe,
}

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let mut pieces = pieces(text)?.into_iter().peekable();
        let (nodes, end) = block(&mut pieces)?;
        match end {
            None => Ok(Template(nodes)),
            Some(word) => Err(TemplateError::Parse(format!("unexpected {{{{{word}}}}}"))),
        }
    }

    /// Fills it in.
    pub fn render(&self, root: &Value) -> Result<String, TemplateError> {
        let mut out = String::new();
        let scope = Scope { root, dot: root };
        scope.nodes(&self.0, &mut out)?;
        Ok(out)
    }
}

/// Text and actions, in turn.
enum Piece {
    Text(String),
    Action(Vec<Token>),
}

fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim = false;
    loop {
        let start = rest.find("{{");
        let mut before = &rest[..start.unwrap_or(rest.len())];
        if trim {
            before = before.trim_start();
        }
        let Some(start) = start else {
            pieces.push(Piece::Text(before.to_owned()));
            return Ok(pieces);
        };
        let mut action = &rest[start + 2..];
        if let Some(inner) = action.strip_prefix("- ") {
            before = before.trim_end();
            action = inner;
        }
        pieces.push(Piece::Text(before.to_owned()));
        let end = closing(action).ok_or_else(|| TemplateError::Parse("unclosed action".into()))?;
        let (inner, after) = action.split_at(end);
        rest = &after[2..];
        let (inner, trims) = match inner.strip_suffix(" -") {
            Some(inner) => (inner, true),
            None => (inner, false),
        };
        trim = trims;
        if !inner.trim_start().starts_with("/*") {
            pieces.push(Piece::Action(tokens(inner)?));
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

fn tokens(action: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut characters = action.chars().peekable();
    while let Some(&character) = characters.peek() {
        match character {
            '(' | ')' | '|' => {
                characters.next();
                tokens.push(match character {
                    '(' => Token::Open,
                    ')' => Token::Close,
                    _ => Token::Pipe,
                });
            }
            '"' | '`' => tokens.push(Token::Text(string(&mut characters)?)),
            space if space.is_whitespace() => drop(characters.next()),
            _ => {
                let mut word = String::new();
                while let Some(&next) = characters.peek() {
                    if next.is_whitespace() || "()|\"`".contains(next) {
                        break;
                    }
                    word.push(next);
                    characters.next();
                }
                tokens.push(Token::Word(word));
            }
        }
    }
    Ok(tokens)
}

fn string(characters: &mut Peekable<std::str::Chars<'_>>) -> Result<String, TemplateError> {
    let quote = characters.next();
    let mut text = String::new();
    while let Some(character) = characters.next() {
        if Some(character) == quote {
            return Ok(text);
        }
        if character != '\\' || quote == Some('`') {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => text.push('\n'),
            Some('t') => text.push('\t'),
            Some('r') => text.push('\r'),
            Some(other) => text.push(other),
            None => break,
        }
    }
    Err(TemplateError::Parse("unterminated quoted string".into()))
}

type Pieces = Peekable<std::vec::IntoIter<Piece>>;

/// Nodes up to the word that ends them (`end`, `else`, `else if …`), which is given back.
fn block(pieces: &mut Pieces) -> Result<(Vec<Node>, Option<String>), TemplateError> {
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let tokens = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(tokens) => tokens,
        };
        let word = match tokens.first() {
            Some(Token::Word(word)) => word.as_str(),
            _ => "",
        };
        let rest = tokens.get(1..).unwrap_or_default();
        match word {
            "end" => return Ok((nodes, Some("end".into()))),
            "else" if rest.is_empty() => return Ok((nodes, Some("else".into()))),
            "else" => {
                // `else if X`: the branch's condition is read by the `if` above.
                pieces_back(pieces, rest);
                return Ok((nodes, Some("else if".into())));
            }
            "if" => nodes.push(condition(pieces, rest)?),
            "range" | "with" => {
                let over = pipeline(rest)?;
                let (body, end) = block(pieces)?;
                let otherwise = match end.as_deref() {
                    Some("end") => Vec::new(),
                    Some("else") => closed(pieces)?,
                    _ => return Err(TemplateError::Parse("unexpected EOF".into())),
                };
                nodes.push(if word == "range" {
                    Node::Range(over, body, otherwise)
                } else {
                    Node::With(over, body, otherwise)
                });
            }
            "define" | "template" | "block" | "break" | "continue" => {
                return Err(TemplateError::Parse(format!(
                    "{word} is not supported here"
                )));
            }
            _ => nodes.push(Node::Print(pipeline(&tokens)?)),
        }
    }
    Ok((nodes, None))
}

/// Puts the words after `else` back as an action.
fn pieces_back(pieces: &mut Pieces, rest: &[Token]) {
    let mut all = vec![Piece::Action(rest.to_vec())];
    all.extend(pieces.by_ref());
    *pieces = all.into_iter().peekable();
}

/// A block that must end with `end`.
fn closed(pieces: &mut Pieces) -> Result<Vec<Node>, TemplateError> {
    match block(pieces)? {
        (nodes, Some(end)) if end == "end" => Ok(nodes),
        _ => Err(TemplateError::Parse("unexpected EOF".into())),
    }
}

fn condition(pieces: &mut Pieces, words: &[Token]) -> Result<Node, TemplateError> {
    let mut branches = Vec::new();
    let mut test = pipeline(words)?;
    loop {
        let (body, end) = block(pieces)?;
        branches.push((test, body));
        match end.as_deref() {
            Some("end") => return Ok(Node::If(branches, Vec::new())),
            Some("else") => return Ok(Node::If(branches, closed(pieces)?)),
            Some("else if") => match pieces.next() {
                Some(Piece::Action(words)) if words.first() == Some(&Token::Word("if".into())) => {
                    test = pipeline(&words[1..])?;
                }
                _ => return Err(TemplateError::Parse("unexpected word after else".into())),
            },
            _ => return Err(TemplateError::Parse("unexpected EOF".into())),
        }
    }
}

fn pipeline(tokens: &[Token]) -> Result<Pipeline, TemplateError> {
    let mut tokens = tokens.iter().cloned().peekable();
    let pipeline = commands(&mut tokens)?;
    match tokens.next() {
        None => Ok(pipeline),
        Some(_) => Err(TemplateError::Parse("unexpected right paren".into())),
    }
}

fn commands(tokens: &mut Peekable<impl Iterator<Item = Token>>) -> Result<Pipeline, TemplateError> {
    let mut pipeline = vec![Vec::new()];
    while let Some(token) = tokens.next_if(|token| *token != Token::Close) {
        let term = match token {
            Token::Pipe => {
                pipeline.push(Vec::new());
                continue;
            }
            Token::Text(text) => Term::Literal(Value::String(text)),
            Token::Word(word) => self::word(&word)?,
            Token::Open => {
                let inner = commands(tokens)?;
                if tokens.next() != Some(Token::Close) {
                    return Err(TemplateError::Parse("unclosed left paren".into()));
                }
                let is_field =
                    |token: &Token| matches!(token, Token::Word(word) if word.starts_with('.'));
                let path = match tokens.next_if(is_field) {
                    Some(Token::Word(word)) => path(&word),
                    _ => Vec::new(),
                };
                Term::Nested(inner, path)
            }
            Token::Close => break,
        };
        if let Some(command) = pipeline.last_mut() {
            command.push(term);
        }
    }
    if pipeline.iter().any(Vec::is_empty) {
        return Err(TemplateError::Parse("missing value for command".into()));
    }
    Ok(pipeline)
}

fn path(word: &str) -> Vec<String> {
    word.split('.')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn word(word: &str) -> Result<Term, TemplateError> {
    if word.starts_with('.') {
        return Ok(Term::Field(false, path(word)));
    }
    if let Some(rest) = word.strip_prefix('$') {
        if rest.is_empty() || rest.starts_with('.') {
            return Ok(Term::Field(true, path(rest)));
        }
        return Err(TemplateError::Parse(format!(
            "variables ({word}) are not supported here"
        )));
    }
    match word {
        "true" => return Ok(Term::Literal(true.into())),
        "false" => return Ok(Term::Literal(false.into())),
        "nil" => return Ok(Term::Literal(Value::Null)),
        _ => {}
    }
    if word.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
        return serde_json::from_str(word)
            .map(Term::Literal)
            .map_err(|_| TemplateError::Parse(format!("bad number syntax: {word:?}")));
    }
    const KNOWN: &[&str] = &[
        "json", "upper", "lower", "title", "join", "split", "truncate", "pad", "println", "print",
        "len", "index", "eq", "ne", "not", "and", "or",
    ];
    if KNOWN.contains(&word) {
        Ok(Term::Function(word.to_owned()))
    } else {
        Err(TemplateError::Parse(format!(
            "function {word:?} not defined"
        )))
    }
}

/// What `.` and `$` are.
struct Scope<'a> {
    root: &'a Value,
    dot: &'a Value,
}

impl Scope<'_> {
    fn nodes(&self, nodes: &[Node], out: &mut String) -> Result<(), TemplateError> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(pipeline) => show(&self.pipeline(pipeline)?, out),
                Node::If(branches, otherwise) => {
                    let mut chosen = otherwise;
                    for (test, body) in branches {
                        if is_true(&self.pipeline(test)?) {
                            chosen = body;
                            break;
                        }
                    }
                    self.nodes(chosen, out)?;
                }
                Node::With(value, body, otherwise) => {
                    let value = self.pipeline(value)?;
                    if is_true(&value) {
                        self.at(&value).nodes(body, out)?;
                    } else {
                        self.nodes(otherwise, out)?;
                    }
                }
                Node::Range(over, body, otherwise) => {
                    let over = self.pipeline(over)?;
                    let items: Vec<&Value> = match &over {
                        Value::Array(items) => items.iter().collect(),
                        Value::Object(items) => items.values().collect(),
                        Value::Null => Vec::new(),
                        other => {
                            return Err(TemplateError::Execute(format!(
                                "range can't iterate over {}",
                                shown(other)
                            )));
                        }
                    };
                    if items.is_empty() {
                        self.nodes(otherwise, out)?;
                    }
                    for item in items {
                        self.at(item).nodes(body, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn at<'a>(&'a self, dot: &'a Value) -> Scope<'a> {
        Scope {
            root: self.root,
            dot,
        }
    }

    fn pipeline(&self, pipeline: &Pipeline) -> Result<Value, TemplateError> {
        let mut result = None;
        for command in pipeline {
            let mut arguments = Vec::new();
            for term in command.iter().skip(1) {
                arguments.push(self.term(term)?);
            }
            arguments.extend(result.take());
            result = Some(match command.first() {
                Some(Term::Function(name)) => call(name, &arguments)?,
                // `.Label "x"`: a method, of which this is the only one.
                Some(Term::Field(_, path)) if path.last().is_some_and(|name| name == "Label") => {
                    self.label(&arguments)
                }
                Some(term) if arguments.is_empty() => self.term(term)?,
                _ => {
                    return Err(TemplateError::Execute(
                        "can't give argument to non-function".into(),
                    ));
                }
            });
        }
        Ok(result.unwrap_or(Value::Null))
    }

    fn term(&self, term: &Term) -> Result<Value, TemplateError> {
        match term {
            Term::Field(from_root, path) => {
                get(if *from_root { self.root } else { self.dot }, path)
            }
            Term::Literal(value) => Ok(value.clone()),
            Term::Function(name) => call(name, &[]),
            Term::Nested(pipeline, path) => get(&self.pipeline(pipeline)?, path),
        }
    }

    /// A label of a row, whose labels are one string.
    fn label(&self, arguments: &[Value]) -> Value {
        let wanted = arguments
            .first()
            .and_then(Value::as_str)
            .unwrap_or_default();
        let labels = self
            .dot
            .get("Labels")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let found = labels
            .split(',')
            .filter_map(|label| label.split_once('='))
            .find(|(name, _)| *name == wanted);
        Value::String(found.map(|(_, value)| value.to_owned()).unwrap_or_default())
    }
}

fn get(value: &Value, path: &[String]) -> Result<Value, TemplateError> {
    let mut value = value;
    for name in path {
        let found = match value {
            Value::Object(fields) => fields.get(name).or_else(|| {
                let mut fields = fields.iter();
                fields
                    .find(|(field, _)| field.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value)
            }),
            Value::Null => {
                return Err(TemplateError::Execute(format!(
                    "nil pointer evaluating {name}"
                )));
            }
            _ => None,
        };
        value = found
            .ok_or_else(|| TemplateError::Execute(format!("map has no entry for key {name:?}")))?;
    }
    Ok(value.clone())
}

fn call(name: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
    let bad = || TemplateError::Execute(format!("wrong arguments for {name}"));
    let text = |index: usize| -> Result<String, TemplateError> {
        arguments.get(index).map(shown).ok_or_else(bad)
    };
    let string = |text: String| Ok(Value::String(text));
    match name {
        "json" => string(arguments.first().ok_or_else(bad)?.to_string()),
        "upper" => string(text(0)?.to_uppercase()),
        "lower" => string(text(0)?.to_lowercase()),
        "title" => {
            let text = text(0)?;
            let mut start = true;
            string(
                text.chars()
                    .map(|character| {
                        let upper = if start {
                            character.to_ascii_uppercase()
                        } else {
                            character
                        };
                        start = character.is_whitespace();
                        upper
                    })
                    .collect(),
            )
        }
        "join" => match arguments {
            [Value::Array(items), Value::String(separator)] => {
                let items: Vec<String> = items.iter().map(shown).collect();
                string(items.join(separator))
            }
            _ => Err(bad()),
        },
        "split" => {
            let (text, separator) = (text(0)?, text(1)?);
            Ok(text
                .split(&*separator)
                .map(|part| Value::String(part.to_owned()))
                .collect())
        }
        "truncate" => {
            let length = arguments.get(1).and_then(Value::as_u64).ok_or_else(bad)?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            string(text(0)?.chars().take(length).collect())
        }
        "pad" => {
            let width = |index: usize| {
                let width = arguments
                    .get(index)
                    .and_then(Value::as_u64)
                    .ok_or_else(bad)?;
                Ok(" ".repeat(usize::try_from(width).unwrap_or(0).min(4096)))
            };
            string(format!("{}{}{}", width(1)?, text(0)?, width(2)?))
        }
        "print" | "println" => {
            let parts: Vec<String> = arguments.iter().map(shown).collect();
            let end = if name == "println" { "\n" } else { "" };
            string(parts.join(" ") + end)
        }
        "len" => {
            let length = match arguments.first().ok_or_else(bad)? {
                Value::Array(items) => items.len(),
                Value::Object(items) => items.len(),
                Value::String(text) => text.len(),
                Value::Null => 0,
                _ => return Err(bad()),
            };
            Ok(length.into())
        }
        "index" => {
            let (value, keys) = arguments.split_first().ok_or_else(bad)?;
            let mut value = value;
            for key in keys {
                let found = match (value, key) {
                    (Value::Object(fields), Value::String(name)) => fields.get(name),
                    (Value::Array(items), key) => {
                        let index = key.as_u64().ok_or_else(bad)?;
                        let found = usize::try_from(index)
                            .ok()
                            .and_then(|index| items.get(index));
                        Some(found.ok_or_else(|| {
                            TemplateError::Execute(format!(
                                "error calling index: index out of range: {index}"
                            ))
                        })?)
                    }
                    (Value::Null, _) => None,
                    _ => return Err(bad()),
                };
                value = found.unwrap_or(&Value::Null);
            }
            Ok(value.clone())
        }
        "eq" => {
            let (first, others) = arguments.split_first().ok_or_else(bad)?;
            Ok(others.contains(first).into())
        }
        "ne" => match arguments {
            [first, second] => Ok((first != second).into()),
            _ => Err(bad()),
        },
        "not" => Ok((!is_true(arguments.first().ok_or_else(bad)?)).into()),
        "and" => Ok(pick(arguments, false).ok_or_else(bad)?),
        "or" => Ok(pick(arguments, true).ok_or_else(bad)?),
        _ => Err(bad()),
    }
}

/// The first argument whose truth is `wanted`, else the last.
fn pick(arguments: &[Value], wanted: bool) -> Option<Value> {
    arguments
        .iter()
        .find(|value| is_true(value) == wanted)
        .or(arguments.last())
        .cloned()
}

/// Go's truth: not zero, not empty.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
    }
}

fn shown(value: &Value) -> String {
    let mut out = String::new();
    show(value, &mut out);
    out
}

fn show(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                show(item, out);
            }
            out.push(']');
        }
        Value::Object(items) => {
            out.push_str("map[");
            for (index, (name, item)) in items.iter().enumerate() {
                let space = if index > 0 { " " } else { "" };
                // Writing to a string cannot fail.
                let _ = write!(out, "{space}{name}:");
                show(item, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn render(template: &str) -> Result<String, TemplateError> {
        let value = json!({
            "ID": "abc", "Names": "web", "Labels": "a=1,b=2", "N": 3, "Null": null,
            "State": {"Pid": 7, "Running": true, "Error": ""},
            "Mounts": [{"Source": "/a"}, {"Source": "/b"}], "Env": ["A=1", "B=2"],
            "Map": {"k": "v", "80/tcp": [{"HostPort": "8080"}]},
        });
        Template::parse(template)?.render(&value)
    }

    #[test]
    fn what_people_write() {
        for (template, wanted) in [
            ("{{.ID}}: {{.Names}}", "abc: web"),
            ("{{.State.Pid}} {{.State.Running}} {{.id}}", "7 true abc"),
            ("{{json .State}}", r#"{"Pid":7,"Running":true,"Error":""}"#),
            ("{{json .}}x", ""),
            ("{{.Env}} {{.Map.k}} {{.Null}}", "[A=1 B=2] v <nil>"),
            (
                "{{range .Mounts}}{{.Source}} {{$.ID}};{{end}}",
                "/a abc;/b abc;",
            ),
            (
                "{{if .State.Error}}x{{else if .State.Running}}y{{else}}z{{end}}",
                "y",
            ),
            ("{{range .Null}}x{{else}}none{{end}}", "none"),
            (
                "{{join .Env \",\"}}|{{upper .Names}}|{{.Names | title}}",
                "A=1,B=2|WEB|Web",
            ),
            ("{{(index (index .Map \"80/tcp\") 0).HostPort}}", "8080"),
            ("{{.Label \"b\"}}{{.Label \"nosuch\"}}", "2"),
            ("{{if eq .N 3}}three{{end}}{{ len .Env }}", "three2"),
            ("a {{- .N -}} b", "a3b"),
            ("{{with .State}}{{.Pid}}{{end}}{{/* nothing */}}", "7"),
            ("{{println .ID}}{{truncate .ID 2}}{{\"}}\"}}", "abc\nab}}"),
            ("plain", "plain"),
        ] {
            let found = render(template).unwrap_or_else(|error| panic!("{template}: {error}"));
            if !wanted.is_empty() {
                assert_eq!(found, wanted, "{template}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |template| render(template).unwrap_err().to_string();
        assert_eq!(
            error("{{.Nosuch}}"),
            "template: :1: executing \"\": map has no entry for key \"Nosuch\""
        );
        assert_eq!(
            error("{{nosuch .ID}}"),
            "template parsing error: template: :1: function \"nosuch\" not defined"
        );
        for template in [
            "{{.ID",
            "{{if .ID}}",
            "{{end}}",
            "{{",
            "{{(.ID}}",
            "{{|}}",
            "{{}}",
            "{{$x}}",
            "{{else}}",
        ] {
            assert!(render(template).is_err(), "{template}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(template in "(\\{\\{|\\}\\}|if |end|else|range|\\.|\\(|\\)|\"|-|[a-zA-Z$| ]){0,24}") {
            let _ = render(&template);
        }
    }
}
