//! From words to nodes. What is undefined is refused here: functions and variables.

use std::iter::Peekable;

use serde_json::Value;

use super::lex::{Kind, Piece, Token, line, pieces};
use super::{TemplateError, functions};

/// How deep parentheses and blocks may be nested.
const DEEPEST: usize = 100;

#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    /// Printed unless it is given to a variable.
    Print(Pipeline),
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
}

/// Commands, each with the result of the one before as its last argument.
#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    /// Variables that the result goes to, with their `$`.
    pub(super) variables: Vec<String>,
    /// They are there already.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) at: usize,
    pub(super) terms: Vec<Term>,
}

#[derive(Debug, Clone)]
pub(super) struct Term {
    /// Where Go says that it is: of a chain of fields, the second.
    pub(super) at: usize,
    pub(super) kind: TermKind,
}

#[derive(Debug, Clone)]
pub(super) enum TermKind {
    /// `.`, `.A.B`
    Field(Vec<String>),
    /// `$`, `$x.A`
    Variable(String, Vec<String>),
    /// The value, and how it is written.
    Literal(Value, String),
    Function(String),
    /// `(…).A`
    Nested(Pipeline, Vec<String>),
}

impl std::fmt::Display for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.variables.is_empty() {
            let sign = if self.assigns { "=" } else { ":=" };
            write!(f, "{} {sign} ", self.variables.join(", "))?;
        }
        for (index, command) in self.commands.iter().enumerate() {
            let separator = if index > 0 { " | " } else { "" };
            write!(f, "{separator}{command}")?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let separator = if index > 0 { " " } else { "" };
            write!(f, "{separator}{term}")?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Term {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = |f: &mut std::fmt::Formatter<'_>, path: &[String]| {
            path.iter().try_for_each(|name| write!(f, ".{name}"))
        };
        match &self.kind {
            TermKind::Field(names) if names.is_empty() => f.write_str("."),
            TermKind::Field(names) => path(f, names),
            TermKind::Variable(name, names) => {
                f.write_str(name)?;
                path(f, names)
            }
            TermKind::Literal(_, text) => f.write_str(text),
            TermKind::Function(name) => f.write_str(name),
            TermKind::Nested(pipeline, names) => {
                write!(f, "({pipeline})")?;
                path(f, names)
            }
        }
    }
}

/// What ended a block.
enum Stop {
    /// The text's end.
    Text,
    End,
    Else,
    /// `else if`, `else with`: those words.
    ElseOf(Vec<Token>, usize),
}

struct Parser<'a> {
    text: &'a str,
    pieces: std::vec::IntoIter<Piece>,
    /// Variables that are known here.
    variables: Vec<String>,
    depth: usize,
    /// Where the parser is.
    at: usize,
}

type Tokens = Peekable<std::vec::IntoIter<Token>>;

/// Reads a whole template.
pub(super) fn template(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser {
        text,
        pieces: pieces(text)?.into_iter(),
        variables: vec!["$".to_owned()],
        depth: 0,
        at: 0,
    };
    match parser.block()? {
        (nodes, Stop::Text) => Ok(nodes),
        (_, Stop::End) => Err(parser.refuse("unexpected {{end}}")),
        (_, Stop::Else | Stop::ElseOf(..)) => Err(parser.refuse("unexpected {{else}}")),
    }
}

impl Parser<'_> {
    fn refuse(&self, reason: impl Into<String>) -> TemplateError {
        TemplateError::Parse {
            line: line(self.text, self.at),
            reason: reason.into(),
        }
    }

    fn deeper<T>(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<T, TemplateError>,
    ) -> Result<T, TemplateError> {
        if self.depth == DEEPEST {
            return Err(self.refuse("nested too deeply"));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// Nodes up to what ends them.
    fn block(&mut self) -> Result<(Vec<Node>, Stop), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (at, mut tokens) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action { at, tokens } => (at, tokens),
            };
            self.at = at;
            let word = match tokens.first() {
                Some(Token {
                    kind: Kind::Word,
                    text,
                    ..
                }) => text.clone(),
                _ => String::new(),
            };
            match word.as_str() {
                "end" => return Ok((nodes, Stop::End)),
                "else" if tokens.len() == 1 => return Ok((nodes, Stop::Else)),
                "else" => {
                    tokens.remove(0);
                    return Ok((nodes, Stop::ElseOf(tokens, at)));
                }
                "if" | "range" | "with" => {
                    tokens.remove(0);
                    nodes.push(self.deeper(|parser| parser.control(&word, tokens))?);
                }
                "define" | "template" | "block" | "break" | "continue" => {
                    return Err(self.refuse(format!("{word} is not supported here")));
                }
                _ => nodes.push(Node::Print(self.pipeline(tokens)?)),
            }
        }
        Ok((nodes, Stop::Text))
    }

    /// `if`, `range`, `with` and all that belongs to it; its variables end with it.
    fn control(&mut self, word: &str, tokens: Vec<Token>) -> Result<Node, TemplateError> {
        let known = self.variables.len();
        let over = self.pipeline(tokens)?;
        let (body, mut end) = self.block()?;
        if word == "if" {
            let mut branches = vec![(over, body)];
            loop {
                let otherwise = match end {
                    Stop::ElseOf(mut tokens, at) if tokens[0].text == "if" => {
                        self.at = at;
                        tokens.remove(0);
                        let test = self.pipeline(tokens)?;
                        let (body, next) = self.block()?;
                        branches.push((test, body));
                        end = next;
                        continue;
                    }
                    other => self.otherwise(other)?,
                };
                self.variables.truncate(known);
                return Ok(Node::If(branches, otherwise));
            }
        }
        let otherwise = self.otherwise(end)?;
        self.variables.truncate(known);
        Ok(match word {
            "range" => Node::Range(over, body, otherwise),
            _ => Node::With(over, body, otherwise),
        })
    }

    /// What is after `else`, up to `end`.
    fn otherwise(&mut self, end: Stop) -> Result<Vec<Node>, TemplateError> {
        match end {
            Stop::End => Ok(Vec::new()),
            Stop::Text => Err(self.refuse("unexpected EOF")),
            Stop::Else => match self.block()? {
                (nodes, Stop::End) => Ok(nodes),
                (_, Stop::Text) => Err(self.refuse("unexpected EOF")),
                (_, Stop::Else | Stop::ElseOf(..)) => {
                    Err(self.refuse("expected end; found {{else}}"))
                }
            },
            Stop::ElseOf(mut tokens, at) if tokens[0].text == "with" => {
                self.at = at;
                tokens.remove(0);
                Ok(vec![self.deeper(|parser| parser.control("with", tokens))?])
            }
            Stop::ElseOf(tokens, _) => {
                Err(self.refuse(format!("unexpected <{}> in else", tokens[0].text)))
            }
        }
    }

    fn pipeline(&mut self, tokens: Vec<Token>) -> Result<Pipeline, TemplateError> {
        let mut tokens = tokens.into_iter().peekable();
        let pipeline = self.commands(&mut tokens)?;
        match tokens.next() {
            None => Ok(pipeline),
            Some(_) => Err(self.refuse("unexpected right paren")),
        }
    }

    fn commands(&mut self, tokens: &mut Tokens) -> Result<Pipeline, TemplateError> {
        let (variables, assigns) = self.declaration(tokens)?;
        let mut commands: Vec<Command> = vec![Command {
            at: tokens.peek().map_or(self.at, |token| token.at),
            terms: Vec::new(),
        }];
        while let Some(token) = tokens.next_if(|token| token.kind != Kind::Close) {
            self.at = token.at;
            let term = match token.kind {
                Kind::Pipe => {
                    let at = tokens.peek().map_or(self.at, |token| token.at);
                    commands.push(Command {
                        at,
                        terms: Vec::new(),
                    });
                    continue;
                }
                Kind::Quoted(value) => Term {
                    at: token.at,
                    kind: TermKind::Literal(Value::String(value), token.text),
                },
                Kind::Word => self.word(token)?,
                Kind::Open => {
                    let inner = self.deeper(|parser| parser.commands(tokens))?;
                    if tokens.next().is_none_or(|token| token.kind != Kind::Close) {
                        return Err(self.refuse("unclosed left paren"));
                    }
                    let is_field =
                        |token: &Token| token.kind == Kind::Word && token.text.starts_with('.');
                    let (at, path) = match tokens.next_if(is_field) {
                        Some(token) => (token.at, path(&token.text)),
                        None => (token.at, Vec::new()),
                    };
                    Term {
                        at,
                        kind: TermKind::Nested(inner, path),
                    }
                }
                Kind::Comma | Kind::Declare | Kind::Assign | Kind::Close => {
                    return Err(self.refuse(format!("unexpected {:?} in operand", token.text)));
                }
            };
            if let Some(command) = commands.last_mut() {
                command.terms.push(term);
            }
        }
        if commands.iter().any(|command| command.terms.is_empty()) {
            return Err(self.refuse("missing value for command"));
        }
        // Known only from here on.
        if !assigns {
            self.variables.extend(variables.iter().cloned());
        }
        Ok(Pipeline {
            variables,
            assigns,
            commands,
        })
    }

    /// `$a :=`, `$a, $b :=`, `$a =` at a pipeline's beginning.
    fn declaration(&mut self, tokens: &mut Tokens) -> Result<(Vec<String>, bool), TemplateError> {
        let mut ahead = tokens.clone();
        let mut names = Vec::new();
        while let Some(token) = ahead.next() {
            let is_name = token.kind == Kind::Word && is_variable(&token.text);
            if !is_name || names.len() == 2 {
                return Ok((Vec::new(), false));
            }
            self.at = token.at;
            names.push(token.text);
            match ahead.next().map(|token| token.kind) {
                Some(Kind::Comma) => {}
                Some(Kind::Declare) => {
                    *tokens = ahead;
                    return Ok((names, false));
                }
                Some(Kind::Assign) => {
                    if let Some(name) = names.iter().find(|name| !self.variables.contains(name)) {
                        return Err(self.refuse(format!("undefined variable {name:?}")));
                    }
                    *tokens = ahead;
                    return Ok((names, true));
                }
                _ => return Ok((Vec::new(), false)),
            }
        }
        Ok((Vec::new(), false))
    }

    fn word(&self, token: Token) -> Result<Term, TemplateError> {
        let Token { at, text, .. } = token;
        let literal = |value: Value| TermKind::Literal(value, text.clone());
        let second = |begin: usize, names: &[String]| match names {
            [first, _, ..] => at + begin + 1 + first.len(),
            _ => at + begin,
        };
        if text.starts_with('.') {
            let names = path(&text);
            return Ok(Term {
                at: second(0, &names),
                kind: TermKind::Field(names),
            });
        }
        if text.starts_with('$') {
            let end = text.find('.').unwrap_or(text.len());
            let (name, names) = (text[..end].to_owned(), path(&text[end..]));
            if !self.variables.contains(&name) {
                return Err(self.refuse(format!("undefined variable {name:?}")));
            }
            let at = if names.is_empty() { at } else { at + end };
            return Ok(Term {
                at,
                kind: TermKind::Variable(name, names),
            });
        }
        let kind = match text.as_str() {
            "true" => literal(true.into()),
            "false" => literal(false.into()),
            "nil" => literal(Value::Null),
            _ if text.starts_with(|first: char| first.is_ascii_digit() || first == '-') => {
                let value = serde_json::from_str(&text);
                literal(value.map_err(|_| self.refuse(format!("bad number syntax: {text:?}")))?)
            }
            name if functions::NAMES.contains(&name) => TermKind::Function(text.clone()),
            name => return Err(self.refuse(format!("function {name:?} not defined"))),
        };
        Ok(Term { at, kind })
    }
}

fn is_variable(text: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text.strip_prefix('$')
        .is_some_and(|name| name.chars().all(word))
}

fn path(word: &str) -> Vec<String> {
    word.split('.')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}
