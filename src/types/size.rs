//! Sizes as people write them: `64m`, `1.5GiB`, `10kB`. Pure.
//!
//! Docker reads memory in units of 1024 and files in units of 1000, by the same rules and with the
//! same errors (go-units, `size.go`): a number, perhaps a space, and at most three letters.

/// What a step from one unit to the next is worth.
const BINARY: f64 = 1024.0;
const DECIMAL: f64 = 1000.0;

/// Bytes of memory: `k` is 1024 (go-units' `RAMInBytes`).
///
/// # Errors
/// Go's sentence, where it is no size.
pub fn memory(text: &str) -> Result<i64, String> {
    parse(text, BINARY)
}

/// Bytes of a file: `k` is 1000 (go-units' `FromHumanSize`).
///
/// # Errors
/// Go's sentence, where it is no size.
pub fn file(text: &str) -> Result<i64, String> {
    parse(text, DECIMAL)
}

fn parse(text: &str, step: f64) -> Result<i64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let number_like = |c: char| c.is_ascii_digit() || c == '.' || c == ' ';
    let last = text.rfind(number_like).ok_or_else(invalid)?;
    let (number, suffix) = text.split_at(last + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);
    let size: f64 = number
        .parse()
        .map_err(|_| format!("strconv.ParseFloat: parsing {number:?}: invalid syntax"))?;
    if size < 0.0 {
        return Err(invalid());
    }
    let lower = suffix.to_lowercase();
    let bad = || match suffix.len() {
        0..=3 => format!("invalid suffix: '{lower}'"),
        _ => format!("invalid suffix: '{suffix}'"),
    };
    let mut rest = lower.chars();
    let power = match rest.next() {
        None => 0,
        Some('b') if lower.len() == 1 => 0,
        Some(unit) => match ("kmgtp".find(unit), rest.as_str()) {
            (Some(place), "" | "b" | "ib") => place as i32 + 1,
            _ => return Err(bad()),
        },
    };
    // Beyond 2^63 the conversion saturates.
    Ok((size * step.powi(power)) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, bytes, decimal) in [
            ("0", 0, 0),
            ("64m", 64 << 20, 64_000_000),
            ("1.5k", 1536, 1500),
            ("2GiB", 2 << 30, 2_000_000_000),
            ("7b", 7, 7),
            ("3 kB", 3072, 3000),
            ("1tb", 1 << 40, 1_000_000_000_000),
        ] {
            assert_eq!(memory(text), Ok(bytes), "{text}");
            assert_eq!(file(text), Ok(decimal), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_told_in_gos_words() {
        for (text, message) in [
            ("bad", "invalid size: 'bad'"),
            ("", "invalid size: ''"),
            ("-1", "invalid size: '-1'"),
            ("1Z", "invalid suffix: 'z'"),
            ("1kk", "invalid suffix: 'kk'"),
            ("1bb", "invalid suffix: 'bb'"),
            ("1Bytes", "invalid suffix: 'Bytes'"),
            (".", "strconv.ParseFloat: parsing \".\": invalid syntax"),
        ] {
            assert_eq!(memory(text), Err(message.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(text in ".*") {
            let _ = memory(&text);
        }
    }
}
