//! What a registry asks for: the `WWW-Authenticate` fields of a 401, parsed by RFC 9110 §11.6.1.
//!
//! One field may hold several challenges and several fields may come; a comma separates both the
//! parameters of a challenge and the challenges, so what follows it decides: `name=` is a parameter,
//! a bare word begins the next challenge. Values are tokens or quoted strings with backslash
//! escapes. Docker's own parser takes one challenge a field and stops at the first thing that it
//! does not know; this one reads on, and agrees with it wherever it reads anything at all.
//!
//! ```text
//! WWW-Authenticate = #challenge
//! challenge        = scheme [ 1*SP ( token68 / #( name BWS "=" BWS ( token / quoted ) ) ) ]
//! ```

/// One way to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// `basic`, `bearer`: in lower case.
    pub(super) scheme: String,
    /// Names in lower case, and their values.
    pub(super) parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The first value of a parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The challenges of one field, as far as it can be understood.
pub(super) fn parse(field: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = skip_separators(field);
    while !rest.is_empty() {
        let (scheme, after) = token(rest);
        if scheme.is_empty() {
            break;
        }
        let mut challenge = Challenge {
            scheme: scheme.to_ascii_lowercase(),
            parameters: Vec::new(),
        };
        rest = skip_token68(skip_spaces(after));
        let mut whole = true;
        loop {
            let here = skip_separators(rest);
            let (name, after) = token(here);
            let Some(value) = skip_spaces(after).strip_prefix('=') else {
                // The next challenge, the end, or nonsense: the caller's loop tells which.
                rest = here;
                break;
            };
            if name.is_empty() {
                whole = false;
                break;
            }
            let Some((value, after)) = token_or_quoted(skip_spaces(value)) else {
                whole = false;
                break;
            };
            challenge
                .parameters
                .push((name.to_ascii_lowercase(), value));
            rest = after;
        }
        challenges.push(challenge);
        if !whole {
            break;
        }
    }
    challenges
}

fn is_token(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c)
}

fn skip_spaces(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

fn skip_separators(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', ','])
}

fn token(text: &str) -> (&str, &str) {
    let end = text
        .bytes()
        .position(|c| !is_token(c))
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Skips `Negotiate`'s kind of argument: one word that ends at a comma and is no parameter.
fn skip_token68(text: &str) -> &str {
    let end = text
        .bytes()
        .position(|c| !(c.is_ascii_alphanumeric() || b"-._~+/".contains(&c)))
        .unwrap_or(text.len());
    let padded = text[end..].trim_start_matches('=');
    let after = skip_spaces(padded);
    if end > 0 && (after.is_empty() || after.starts_with(',')) {
        after
    } else {
        text
    }
}

fn token_or_quoted(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (word, rest) = token(text);
        return (!word.is_empty()).then(|| (word.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn short(field: &str) -> Vec<String> {
        parse(field)
            .into_iter()
            .map(|challenge| {
                let parameters: Vec<String> = challenge
                    .parameters
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                format!("{} {}", challenge.scheme, parameters.join(";"))
            })
            .collect()
    }

    #[test]
    fn reads_what_registries_send() {
        assert_eq!(
            short(
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#
            ),
            [
                "bearer realm=https://auth.docker.io/token;service=registry.docker.io;scope=repository:a/b:pull,push"
            ]
        );
        assert_eq!(
            short("Basic realm=\"a \\\"b\\\" \\\\c\""),
            ["basic realm=a \"b\" \\c"]
        );
        assert_eq!(short("BASIC Realm = x"), ["basic realm=x"]);
        assert_eq!(short("Basic"), ["basic "]);
    }

    #[test]
    fn several_in_one_field() {
        assert_eq!(
            short(r#"Negotiate, Basic realm="x, y", Bearer realm="u" ,service=s,"#),
            ["negotiate ", "basic realm=x, y", "bearer realm=u;service=s"]
        );
        assert_eq!(
            short("Negotiate YWJj/+==, Basic realm=x"),
            ["negotiate ", "basic realm=x"]
        );
    }

    #[test]
    fn stops_at_nonsense() {
        assert_eq!(short(r#"Bearer realm="open"#), ["bearer "]);
        assert_eq!(
            short(r#"Bearer realm="a",service=,x=y"#),
            ["bearer realm=a"]
        );
        assert_eq!(short(r#"Bearer =x, Basic realm=a"#), ["bearer "]);
        assert_eq!(short("\"quoted\""), Vec::<String>::new());
        assert_eq!(short(""), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn never_panics(field in "\\PC*|[A-Za-z=\", \\\\]{0,60}") {
            let _ = parse(&field);
        }

        #[test]
        fn quoted_values_come_back(value in "[ -~é]{0,30}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let parsed = parse(&format!("Bearer a=b, realm=\"{quoted}\", c=d"));
            prop_assert_eq!(parsed.len(), 1);
            prop_assert_eq!(parsed[0].parameter("realm"), Some(value.as_str()));
            prop_assert_eq!(parsed[0].parameter("c"), Some("d"));
        }
    }
}
