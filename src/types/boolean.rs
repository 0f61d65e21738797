//! Truth values as Go's `strconv.ParseBool` reads them, which is behind most of Docker's switches.

/// No truth value, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("strconv.ParseBool: parsing {0:?}: invalid syntax")]
pub struct BooleanError(String);

/// Reads a truth value.
///
/// # Errors
/// Any text but `1 t T TRUE true True` and `0 f F FALSE false False`.
pub fn parse(text: &str) -> Result<bool, BooleanError> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(BooleanError(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_spellings_and_no_others() {
        assert_eq!((parse("T"), parse("False")), (Ok(true), Ok(false)));
        for text in ["", "yes", "tRUE", " 1"] {
            let told = parse(text).unwrap_err().to_string();
            let expected = format!("strconv.ParseBool: parsing {text:?}: invalid syntax");
            assert_eq!(told, expected);
        }
    }
}
