//! What the operating system answered, as Go's programs print it.

use std::io;

/// The text of an error of the operating system without a capital and without its number: `no such
/// file or directory`. Of what merely wraps such an error, that one's; any other text as it is.
pub fn text(error: &io::Error) -> String {
    let text = error.to_string();
    let Some(code) = error.raw_os_error() else {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        return inner.map_or(text, self::text);
    };
    let number = format!(" (os error {code})");
    let mut letters = text.strip_suffix(&number).unwrap_or(&text).chars();
    let first = letters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_gos() {
        let missing = || io::Error::from_raw_os_error(2);
        assert_eq!(text(&missing()), "no such file or directory");
        assert_eq!(
            text(&io::Error::other(missing())),
            "no such file or directory"
        );
        assert_eq!(text(&io::Error::other("Not ours")), "Not ours");
    }
}
