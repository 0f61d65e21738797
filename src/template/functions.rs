//! The functions of docker (`json split join title lower upper pad truncate`) and of Go.

use std::cmp::Ordering;
use std::fmt::Write;

use serde_json::Value;

use super::value::{Element, Kind, Typed, is_true, shown};

/// Every function that there is.
pub(super) const NAMES: &[&str] = &[
    "json", "upper", "lower", "title", "join", "split", "truncate", "pad", "println", "print",
    "printf", "len", "index", "slice", "eq", "ne", "lt", "le", "gt", "ge", "not", "and", "or",
];

/// Functions that leave a table's heading as it is.
const NOT_OF_HEADINGS: &[&str] = &[
    "json", "split", "join", "title", "lower", "upper", "truncate",
];

/// Most blanks that `pad` and `printf` put anywhere.
const WIDTH_MAX: usize = 4096;

/// Calls a function; the error is the reason.
pub(super) fn call(name: &str, arguments: &[Typed], headings: bool) -> Result<Typed, String> {
    let need = |count: usize| match arguments.len() == count {
        true => Ok(()),
        false => Err(format!(
            "wrong number of args for {name}: want {count} got {}",
            arguments.len()
        )),
    };
    if headings && NOT_OF_HEADINGS.contains(&name) {
        let heading = arguments.iter().find(|argument| argument.value.is_string());
        return heading.cloned().ok_or_else(|| "no heading".to_owned());
    }
    let at = |index: usize| {
        arguments.get(index).ok_or_else(|| {
            format!(
                "wrong number of args for {name}: want at least {}",
                index + 1
            )
        })
    };
    let string = |text: String| Ok(Typed::from(Value::String(text)));
    let truth = |truth: bool| Ok(Typed::from(Value::Bool(truth)));
    match name {
        "json" => {
            need(1)?;
            string(at(0)?.value.to_string())
        }
        "upper" | "lower" | "title" => {
            need(1)?;
            let text = text(at(0)?)?;
            string(match name {
                "upper" => text.to_uppercase(),
                "lower" => text.to_lowercase(),
                _ => title(text),
            })
        }
        "join" => {
            need(2)?;
            let separator = text(at(1)?)?;
            match &at(0)?.value {
                Value::Array(items) => {
                    let items = items.iter().map(|item| shown(&item.clone().into()));
                    string(items.collect::<Vec<_>>().join(separator))
                }
                Value::Null => string(String::new()),
                _ => Err("expected slice".to_owned()),
            }
        }
        "split" => {
            need(2)?;
            let (text, separator) = (text(at(0)?)?, text(at(1)?)?);
            let parts: Value = if separator.is_empty() {
                text.chars().map(|c| Value::from(c.to_string())).collect()
            } else {
                text.split(separator).map(Value::from).collect()
            };
            Ok(parts.into())
        }
        "truncate" => {
            need(2)?;
            let length = number(at(1)?)?;
            string(text(at(0)?)?.chars().take(length).collect())
        }
        "pad" => {
            need(3)?;
            let text = text(at(0)?)?;
            let (before, after) = (number(at(1)?)?, number(at(2)?)?);
            let blanks = |count: usize| " ".repeat(count.min(WIDTH_MAX));
            match text {
                "" => string(String::new()),
                text => string(format!("{}{text}{}", blanks(before), blanks(after))),
            }
        }
        "print" | "println" => {
            let parts: Vec<String> = arguments.iter().map(shown).collect();
            // Go's Sprint leaves no blank beside a string.
            let blank = |index: usize| {
                let is_text = |index: usize| arguments[index].value.is_string();
                name == "println" || !(is_text(index - 1) || is_text(index))
            };
            let mut line = String::new();
            for (index, part) in parts.iter().enumerate() {
                if index > 0 && blank(index) {
                    line.push(' ');
                }
                line.push_str(part);
            }
            string(line + if name == "println" { "\n" } else { "" })
        }
        "printf" => string(formatted(text(at(0)?)?, &arguments[1..])),
        "len" => {
            need(1)?;
            let length = match &at(0)?.value {
                Value::Array(items) => items.len(),
                Value::Object(items) => items.len(),
                Value::String(text) => text.len(),
                Value::Null if at(0)?.kind != Kind::Plain => 0,
                Value::Null => return Err("len of nil pointer".to_owned()),
                other => return Err(format!("len of type {}", type_of(other))),
            };
            Ok(Value::from(length).into())
        }
        "index" => index(at(0)?, &arguments[1..]),
        "slice" => slice(at(0)?, &arguments[1..]),
        "eq" => {
            at(1)?;
            truth(
                arguments[1..]
                    .iter()
                    .any(|other| compare(&arguments[0], other) == Some(Ordering::Equal)),
            )
        }
        "ne" => {
            need(2)?;
            truth(compare(at(0)?, at(1)?) != Some(Ordering::Equal))
        }
        "lt" | "le" | "gt" | "ge" => {
            need(2)?;
            let order = compare(at(0)?, at(1)?)
                .filter(|_| !at(0).is_ok_and(|first| first.value.is_boolean()))
                .ok_or_else(|| "incompatible types for comparison".to_owned())?;
            truth(match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            })
        }
        "not" => {
            need(1)?;
            truth(!is_true(at(0)?))
        }
        // The first whose truth decides, else the last.
        "and" | "or" => {
            at(0)?;
            let decides = |argument: &&Typed| is_true(argument) == (name == "or");
            let found = arguments.iter().find(decides).or(arguments.last());
            found.cloned().ok_or_else(|| "no arguments".to_owned())
        }
        _ => Err("it is not known".to_owned()),
    }
}

fn text(argument: &Typed) -> Result<&str, String> {
    argument.value.as_str().ok_or_else(|| {
        format!(
            "wrong type for value; expected string; got {}",
            type_of(&argument.value)
        )
    })
}

fn number(argument: &Typed) -> Result<usize, String> {
    let number = argument
        .value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| {
        format!(
            "wrong type for value; expected int; got {}",
            type_of(&argument.value)
        )
    })
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn title(text: &str) -> String {
    let mut start = true;
    let letter = |character: char| {
        let upper = if start {
            character.to_ascii_uppercase()
        } else {
            character
        };
        start = character.is_whitespace();
        upper
    };
    text.chars().map(letter).collect()
}

fn index(of: &Typed, keys: &[Typed]) -> Result<Typed, String> {
    let mut at = of.clone();
    for key in keys {
        at = match (&at.value, &key.value, at.kind) {
            (Value::Object(fields), Value::String(name), kind) => match (fields.get(name), kind) {
                (Some(value), Kind::Map(Element::List)) => Typed {
                    value: value.clone(),
                    kind: Kind::List,
                },
                (Some(value), _) => value.clone().into(),
                (None, Kind::Map(element)) => element.zero(),
                (None, _) => Value::Null.into(),
            },
            (Value::Null, Value::String(_), Kind::Map(element)) => element.zero(),
            (Value::Array(items), key, _) => {
                let index = key.as_u64().ok_or_else(|| {
                    format!("cannot index slice/array with type {}", type_of(key))
                })?;
                let found = usize::try_from(index)
                    .ok()
                    .and_then(|index| items.get(index));
                let found = found.ok_or_else(|| format!("index out of range: {index}"))?;
                found.clone().into()
            }
            (Value::Null, key, Kind::List) => return Err(format!("index out of range: {key}")),
            (Value::Null, ..) => return Err("index of untyped nil".to_owned()),
            (other, ..) => return Err(format!("can't index item of type {}", type_of(other))),
        };
    }
    Ok(at)
}

fn slice(of: &Typed, ends: &[Typed]) -> Result<Typed, String> {
    let length = match &of.value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        other => return Err(format!("can't slice item of type {}", type_of(other))),
    };
    let end = |index: usize, default: usize| ends.get(index).map_or(Ok(default), number);
    let (first, last) = (end(0, 0)?, end(1, length)?);
    let out_of_range = || format!("index out of range: {}", first.max(last));
    match &of.value {
        Value::String(text) => {
            let part = text.get(first..last).ok_or_else(out_of_range)?;
            Ok(Value::from(part).into())
        }
        Value::Array(items) => {
            let part = items.get(first..last).ok_or_else(out_of_range)?;
            Ok(Value::from(part.to_vec()).into())
        }
        _ => Err(out_of_range()),
    }
}

/// The order of two values of one basic kind.
fn compare(one: &Typed, other: &Typed) -> Option<Ordering> {
    match (&one.value, &other.value) {
        (Value::Number(one), Value::Number(other)) => match (one.as_i64(), other.as_i64()) {
            (Some(one), Some(other)) => Some(one.cmp(&other)),
            _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
        },
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
        (one, other) => (one == other).then_some(Ordering::Equal),
    }
}

/// Go's `Sprintf`: flags `-` and `0`, width, precision, and the usual verbs.
fn formatted(format: &str, arguments: &[Typed]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let (mut left, mut zeros) = (false, false);
        while let Some(flag) = characters.next_if(|c| matches!(c, '-' | '0' | '+' | ' ' | '#')) {
            left |= flag == '-';
            zeros |= flag == '0';
        }
        let digits = |characters: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut number = None;
            while let Some(digit) = characters.next_if(char::is_ascii_digit) {
                let digit = digit as usize - '0' as usize;
                number = Some((number.unwrap_or(0) * 10 + digit).min(WIDTH_MAX));
            }
            number
        };
        let width = digits(&mut characters).unwrap_or(0);
        let point = characters.next_if_eq(&'.');
        let precision = point.map(|_| digits(&mut characters).unwrap_or(0));
        let Some(verb) = characters.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(argument) = arguments.next() else {
            let _ = write!(out, "%!{verb}(MISSING)");
            continue;
        };
        let text = verbatim(verb, precision, argument);
        let blanks = width.saturating_sub(text.chars().count());
        match (left, zeros && !argument.value.is_string()) {
            (true, _) => out.push_str(&(text + &" ".repeat(blanks))),
            (false, true) => out.push_str(&("0".repeat(blanks) + &text)),
            (false, false) => out.push_str(&(" ".repeat(blanks) + &text)),
        }
    }
    let more: Vec<&Typed> = arguments.collect();
    if !more.is_empty() {
        let more = more
            .iter()
            .map(|argument| format!("{}={}", type_of(&argument.value), shown(argument)));
        let _ = write!(out, "%!(EXTRA {})", more.collect::<Vec<_>>().join(", "));
    }
    out
}

/// An argument of `printf` by its verb.
fn verbatim(verb: char, precision: Option<usize>, argument: &Typed) -> String {
    let bad = || format!("%!{verb}({}={})", type_of(&argument.value), shown(argument));
    match (verb, &argument.value) {
        ('v', _) => shown(argument),
        ('s', Value::String(text)) => match precision {
            Some(length) => text.chars().take(length).collect(),
            None => text.clone(),
        },
        ('s', Value::Array(_) | Value::Object(_)) => shown(argument),
        ('q', Value::String(text)) => format!("{text:?}"),
        ('x', Value::String(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('t', Value::Bool(truth)) => truth.to_string(),
        ('d', Value::Number(number)) if !number.is_f64() => number.to_string(),
        ('x', Value::Number(number)) => number
            .as_i64()
            .map_or_else(bad, |number| format!("{number:x}")),
        ('f', Value::Number(number)) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            format!("{number:.*}", precision.unwrap_or(6))
        }
        ('T', value) => type_of(value).to_owned(),
        _ => bad(),
    }
}
