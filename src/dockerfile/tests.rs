//! The language, table by table.

use super::instruction::Instruction;
use super::lines::{Arguments, Document};
use super::words::Expander;
use super::{Changes, Error};

fn parse(text: &str) -> Result<Vec<Instruction>, Error> {
    Changes::parse(&[text.to_owned()]).map(|changes| changes.instructions)
}

fn message(text: &str) -> String {
    match parse(text) {
        Ok(parsed) => format!("{parsed:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn lines_are_joined_and_comments_left_out() {
    let text =
        "\u{feff}# escape=`\n#x\n\n  ENV a=b `  \n# between\n\n   c=`\n\"d e\"\r\nUSER x\\\n";
    let document = Document::parse(text).unwrap();
    assert_eq!(document.escape, '`');
    let [env, user] = &document.lines[..] else {
        panic!("two lines: {document:?}");
    };
    let pairs = [("a", "b"), ("c", "\"d e\"")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(env.arguments, Arguments::Pairs(pairs.to_vec()));
    assert_eq!(user.arguments, Arguments::Plain(vec!["x\\".to_owned()]));
    // Another escape before it, and it continues nothing.
    assert_eq!(
        Document::parse("USER a\\\\\nUSER b").unwrap().lines.len(),
        2
    );
    // What is no directive ends them.
    assert_eq!(
        Document::parse("#\n# escape=`\nUSER a").unwrap().escape,
        '\\'
    );
    assert_eq!(Document::parse("\\\nUSER a").unwrap().lines.len(), 1);
}

#[test]
fn bad_texts_are_refused_in_dockers_words() {
    let long = format!("USER {}", "x".repeat(70_000));
    let deep = "ONBUILD ".repeat(8_000);
    for (text, expected) in [
        ("", "file with no instructions"),
        ("# only", "file with no instructions"),
        (
            "# escape=x",
            "invalid escape token 'x' does not match ` or \\",
        ),
        (
            "# escape=`\n# escape=`",
            "only one escape parser directive can be used",
        ),
        (
            &long,
            "dockerfile line greater than max allowed size of 65535",
        ),
        ("RUN x", "RUN is not a valid change command"),
        ("Foo", "Foo is not a valid change command"),
        ("FROM x", "FROM is not a valid change command"),
        (
            "CMD [1]",
            "when using JSON array syntax, arrays must be comprised of strings only",
        ),
        (
            "ONBUILD RUN [1]",
            "when using JSON array syntax, arrays must be comprised of strings only",
        ),
        ("ENV", "ENV requires at least one argument"),
        ("ENV a", "ENV must have two arguments"),
        (
            "LABEL a=b c",
            "Syntax error - can't find = in \"c\". Must be of the form: name=value",
        ),
        ("LABEL =b", "LABEL names can not be blank"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("VOLUME", "VOLUME requires at least one argument"),
        (
            "VOLUME [\" \"]",
            "VOLUME specified can not be an empty string",
        ),
        ("USER", "USER requires exactly one argument"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("CMD --x=1 a", "unknown flag: --x"),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        (
            &deep,
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        (
            "HEALTHCHECK x y",
            "Unknown type \"X\" in HEALTHCHECK (try CMD)",
        ),
        (
            "HEALTHCHECK --interval=1 CMD x",
            "time: missing unit in duration \"1\"",
        ),
        (
            "HEALTHCHECK --timeout=1us CMD x",
            "Interval \"timeout\" cannot be less than 1ms",
        ),
        (
            "HEALTHCHECK --retries=-1 CMD x",
            "--retries cannot be negative (-1)",
        ),
        (
            "HEALTHCHECK --retries=x CMD x",
            "strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
        (
            "HEALTHCHECK --retries=9999999999 CMD x",
            "strconv.ParseInt: parsing \"9999999999\": value out of range",
        ),
        ("HEALTHCHECK --retry=1 CMD x", "unknown flag: --retry"),
        (
            "HEALTHCHECK --intervall=1s CMD x",
            "unknown flag: --intervall (did you mean interval?)",
        ),
        (
            "HEALTHCHECK --interval CMD x",
            "missing a value on flag: --interval",
        ),
        (
            "HEALTHCHECK --timeout=1s --timeout=1s CMD x",
            "duplicate flag specified: --timeout",
        ),
    ] {
        assert_eq!(message(text), expected, "{:.40}", text);
    }
}

#[test]
fn instructions_take_their_arguments() {
    for (text, expected) in [
        (
            "CMD [\"a\", \"b c\"]",
            "[Cmd(CommandLine { words: [\"a\", \"b c\"], shell: false })]",
        ),
        (
            "cmd echo  $a 'b'",
            "[Cmd(CommandLine { words: [\"echo  $a 'b'\"], shell: true })]",
        ),
        // What is no JSON is a shell's line.
        (
            "CMD ['a']",
            "[Cmd(CommandLine { words: [\"['a']\"], shell: true })]",
        ),
        ("CMD", "[Cmd(CommandLine { words: [], shell: true })]"),
        ("ENV a  b  c ", "[Env([(\"a\", \"b  c\")])]"),
        (
            "LABEL a='x y' \"b c\"=\\\" d=",
            "[Label([(\"a\", \"'x y'\"), (\"\\\"b c\\\"\", \"\\\\\\\"\"), (\"d\", \"\")])]",
        ),
        ("EXPOSE 81  80/udp", "[Expose([\"80/udp\", \"81\"])]"),
        ("VOLUME /a /b", "[Volume([\"/a\", \"/b\"])]"),
        ("VOLUME [\"/a b\"]", "[Volume([\"/a b\"])]"),
        ("onBuild  RUN  make it ", "[Onbuild(\"RUN  make it \")]"),
        ("STOPSIGNAL SIGINT", "[StopSignal(\"SIGINT\")]"),
        ("USER a b", "[User(\"a b\")]"),
    ] {
        assert_eq!(message(text), expected, "{text}");
    }
    let text = "HEALTHCHECK --interval=1m --retries=3 --start-period=0 CMD [\"x\", \"y\"]";
    let parsed = parse(text).unwrap();
    let [Instruction::Healthcheck(check)] = &parsed[..] else {
        panic!("{parsed:?}");
    };
    assert_eq!(check.test, ["CMD", "x", "y"]);
    assert_eq!((check.interval.nanos(), check.retries), (60_000_000_000, 3));
    let parsed = parse("HEALTHCHECK cmd curl x").unwrap();
    let [Instruction::Healthcheck(check)] = &parsed[..] else {
        panic!("{parsed:?}");
    };
    assert_eq!(check.test, ["CMD-SHELL", "curl x"]);
}

#[test]
fn words_are_expanded() {
    let variable = |name: &str| match name {
        "a" => Some("one two".to_owned()),
        "path" => Some("/x/y/z.tar.gz".to_owned()),
        "empty" => Some(String::new()),
        _ => None,
    };
    let expander = Expander::new('\\', &variable);
    for (word, expected) in [
        ("x$a-${a}", "xone two-one two"),
        ("'$a' \"$a\\\"\" \\$a", "$a one two\" $a"),
        ("\"\\n\\\\\"", "\\n\\"),
        ("$nothing$", "$"),
        ("a\\", "a"),
        ("${x:-w$a}${empty-w}${empty:-w}", "wone twow"),
        ("${a:+y}${x+n}${empty:+n}", "y"),
        ("${a?}", "one two"),
        ("${path#*/}", "x/y/z.tar.gz"),
        ("${path##*/}", "z.tar.gz"),
        ("${path%.*}", "/x/y/z.tar"),
        ("${path%%.*}", "/x/y/z"),
        ("${path/\\//-}", "-x/y/z.tar.gz"),
        ("${path//\\//-}", "-x-y-z.tar.gz"),
        ("${path//./$a}", "/x/y/zone twotarone twogz"),
    ] {
        assert_eq!(expander.word(word).as_deref(), Ok(expected), "{word}");
    }
    for (word, reason) in [
        (
            "'x",
            "unexpected end of statement while looking for matching single-quote",
        ),
        (
            "\"x",
            "unexpected end of statement while looking for matching double-quote",
        ),
        ("${", "syntax error: missing '}'"),
        ("${a", "unsupported modifier (\u{fffd}) in substitution"),
        ("${a-", "syntax error: missing '}'"),
        ("${a/b", "syntax error: missing '/' in ${}"),
        ("${}", "syntax error: bad substitution"),
        ("${a:#b}", "unsupported modifier (:#) in substitution"),
        ("${a^}", "unsupported modifier (^) in substitution"),
        ("${x?}", "x: is not allowed to be unset"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        ("${x:?said}", "x: said"),
        (
            "${a#\\x}",
            "invalid pattern (\\x) in substitution: invalid escape '\\x'",
        ),
    ] {
        let error = expander.word(word).unwrap_err().to_string();
        assert_eq!(error, format!("failed to process {word:?}: {reason}"));
    }
    let words = expander.words("$a \"$a\" \\  x").unwrap();
    assert_eq!(words, ["one", "two", "one two", " ", "x"]);
    let deep = "${x:-".repeat(10_000) + &"}".repeat(10_000);
    assert!(expander.word(&deep).is_err());
}
