//! Filling a template in: its nodes in turn, with dot and variables.

use serde_json::Value;

use super::lex::line;
use super::parse::{Command, Node, Pipeline, Term, TermKind};
use super::value::{Element, Kind, Typed, field, is_true, omitted, show, sorted};
use super::{Missing, Template, TemplateError, functions};

/// Fills a template in; `headings` are left as they are by most functions.
pub(super) fn run(
    template: &Template,
    root: &Value,
    missing: Missing,
    headings: bool,
) -> Result<String, TemplateError> {
    let root = Typed::from(root.clone());
    let mut run = Run {
        text: &template.text,
        out: String::new(),
        variables: vec![("$".to_owned(), root.clone())],
        missing,
        headings,
    };
    run.nodes(&template.nodes, &root)?;
    Ok(run.out)
}

struct Run<'a> {
    text: &'a str,
    out: String,
    variables: Vec<(String, Typed)>,
    missing: Missing,
    headings: bool,
}

impl Run<'_> {
    fn refuse(&self, at: usize, expression: &dyn ToString, reason: String) -> TemplateError {
        let before = self.text.get(..at).unwrap_or_default();
        TemplateError::Execute {
            line: line(self.text, at),
            column: before.len() - before.rfind('\n').map_or(0, |end| end + 1),
            expression: expression.to_string(),
            reason,
        }
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Typed) -> Result<(), TemplateError> {
        for node in nodes {
            self.node(node, dot)?;
        }
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Typed) -> Result<(), TemplateError> {
        let known = self.variables.len();
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipeline) => {
                let result = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    show(&result, &mut self.out);
                }
                // Its variables live as long as the block.
                return Ok(());
            }
            Node::If(branches, otherwise) => {
                let mut chosen = otherwise;
                for (test, body) in branches {
                    if is_true(&self.pipeline(test, dot)?) {
                        chosen = body;
                        break;
                    }
                }
                self.nodes(chosen, dot)?;
            }
            Node::With(value, body, otherwise) => {
                let value = self.pipeline(value, dot)?;
                if is_true(&value) {
                    self.nodes(body, &value)?;
                } else {
                    self.nodes(otherwise, dot)?;
                }
            }
            Node::Range(over, body, otherwise) => self.range(over, body, otherwise, dot)?,
        }
        self.variables.truncate(known);
        Ok(())
    }

    fn range(
        &mut self,
        over: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Typed,
    ) -> Result<(), TemplateError> {
        let known = self.variables.len();
        let found = self.commands(over, dot)?;
        let of_map = |key: &str, value: &Value| match found.kind {
            Kind::Map(Element::List) => (
                Value::from(key),
                Typed {
                    value: value.clone(),
                    kind: Kind::List,
                },
            ),
            _ => (Value::from(key), Typed::from(value.clone())),
        };
        let items: Vec<(Value, Typed)> = match &found.value {
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| (index.into(), item.clone().into()))
                .collect(),
            // Go goes by the keys' order.
            Value::Object(items) => sorted(items)
                .map(|(key, value)| of_map(key, value))
                .collect(),
            Value::Null => Vec::new(),
            _ => {
                let mut shown = String::new();
                show(&found, &mut shown);
                let last = over
                    .commands
                    .iter()
                    .flat_map(|command| &command.terms)
                    .last();
                let (at, expression) = last.map_or((0, String::new()), |t| (t.at, t.to_string()));
                let reason = format!("range can't iterate over {shown}");
                return Err(self.refuse(at, &expression, reason));
            }
        };
        if items.is_empty() {
            self.nodes(otherwise, dot)?;
        }
        for (key, item) in items {
            let values = match over.variables.len() {
                1 => vec![item.clone()],
                _ => vec![key.into(), item.clone()],
            };
            for (name, value) in over.variables.iter().zip(values) {
                self.set(name, value, over.assigns);
            }
            self.nodes(body, &item)?;
            self.variables.truncate(known);
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: Typed, assigns: bool) {
        let known = self
            .variables
            .iter_mut()
            .rev()
            .find(|(known, _)| known == name);
        match known.filter(|_| assigns) {
            Some((_, place)) => *place = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Typed) -> Result<Typed, TemplateError> {
        let result = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.set(name, result.clone(), pipeline.assigns);
        }
        Ok(result)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Typed) -> Result<Typed, TemplateError> {
        let mut result = None;
        for command in &pipeline.commands {
            result = Some(self.command(command, result, dot)?);
        }
        Ok(result.unwrap_or_else(|| Value::Null.into()))
    }

    fn command(
        &mut self,
        command: &Command,
        last: Option<Typed>,
        dot: &Typed,
    ) -> Result<Typed, TemplateError> {
        let Some((first, rest)) = command.terms.split_first() else {
            return Ok(Value::Null.into());
        };
        let mut arguments = Vec::new();
        for term in rest {
            let argument = self.term(term, dot)?;
            // Go looks at no more than it needs.
            if let TermKind::Function(name) = &first.kind
                && matches!(name.as_str(), "and" | "or")
                && is_true(&argument) == (name == "or")
            {
                return Ok(argument);
            }
            arguments.push(argument);
        }
        arguments.extend(last);
        match &first.kind {
            TermKind::Function(name) => {
                functions::call(name, &arguments, self.headings).map_err(|reason| {
                    self.refuse(
                        command.at,
                        command,
                        format!("error calling {name}: {reason}"),
                    )
                })
            }
            // `.Label "x"`: a method, of which this is the only one.
            TermKind::Field(path) if path.len() == 1 && path[0] == "Label" => {
                Ok(label(&dot.value, &arguments))
            }
            TermKind::Field(path) if !path.is_empty() && !arguments.is_empty() => {
                let name = path.last().map_or("", String::as_str);
                let reason = format!("{name} is not a method but has arguments");
                Err(self.refuse(first.at, first, reason))
            }
            _ if !arguments.is_empty() => {
                let reason = format!("can't give argument to non-function {first}");
                Err(self.refuse(first.at, first, reason))
            }
            _ => self.term(first, dot),
        }
    }

    fn term(&mut self, term: &Term, dot: &Typed) -> Result<Typed, TemplateError> {
        match &term.kind {
            TermKind::Field(path) => self.get(dot.clone(), path, term),
            TermKind::Variable(name, path) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                let value = known.map_or_else(|| Value::Null.into(), |(_, value)| value.clone());
                self.get(value, path, term)
            }
            TermKind::Literal(value, _) => Ok(value.clone().into()),
            TermKind::Function(name) => {
                functions::call(name, &[], self.headings).map_err(|reason| {
                    self.refuse(term.at, term, format!("error calling {name}: {reason}"))
                })
            }
            TermKind::Nested(pipeline, path) => {
                let value = self.pipeline(pipeline, dot)?;
                self.get(value, path, term)
            }
        }
    }

    fn get(&self, from: Typed, path: &[String], term: &Term) -> Result<Typed, TemplateError> {
        let mut at = from;
        for name in path {
            let found = match &at.value {
                Value::Object(fields) => fields.get(name).or_else(|| {
                    let mut fields = fields.iter();
                    fields
                        .find(|(field, _)| field.eq_ignore_ascii_case(name))
                        .map(|(_, value)| value)
                }),
                _ => None,
            };
            at = match (found, &at.value, at.kind) {
                (Some(value), _, Kind::Map(Element::List)) => Typed {
                    value: value.clone(),
                    kind: Kind::List,
                },
                (Some(value), _, Kind::Map(_)) => value.clone().into(),
                (Some(value), ..) => field(name, value.clone()),
                (None, _, Kind::Map(_) | Kind::Absent) => Typed {
                    value: Value::Null,
                    kind: Kind::Absent,
                },
                (None, Value::Object(_), _) => {
                    let reason = match self.missing {
                        Missing::Entry => match omitted(name) {
                            Some(zero) => {
                                at = zero;
                                continue;
                            }
                            None => format!("map has no entry for key {name:?}"),
                        },
                        Missing::Field(of) => format!("can't evaluate field {name} in type {of}"),
                    };
                    return Err(self.refuse(term.at, term, reason));
                }
                (None, Value::Null, _) => {
                    let reason = format!("nil pointer evaluating interface {{}}.{name}");
                    return Err(self.refuse(term.at, term, reason));
                }
                (None, ..) => {
                    let reason = format!("can't evaluate field {name} in type interface {{}}");
                    return Err(self.refuse(term.at, term, reason));
                }
            };
        }
        Ok(at)
    }
}

/// A label of a row, whose labels are one string. What has no `=` goes on with the value before it,
/// which had a comma.
fn label(row: &Value, arguments: &[Typed]) -> Typed {
    let wanted = arguments.first().and_then(|first| first.value.as_str());
    let labels = row
        .get("Labels")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let mut found: Option<String> = None;
    for part in labels.split(',') {
        match (part.split_once('='), &mut found) {
            (None, Some(value)) => {
                value.push(',');
                value.push_str(part);
            }
            (Some((name, value)), None) if Some(name) == wanted => found = Some(value.to_owned()),
            (Some(_), Some(_)) => break,
            _ => {}
        }
    }
    Value::from(found.unwrap_or_default()).into()
}
