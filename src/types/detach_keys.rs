//! The key sequence that detaches a client from a terminal, as people write it: `ctrl-p,ctrl-q`.

/// Docker's default sequence.
pub const DEFAULT: &[u8] = &[16, 17];

/// A key that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Unknown character: '{0}'")]
pub struct UnknownKey(String);

/// Parses a sequence; the empty one is the default. Each key is one character, or `ctrl-` with a
/// letter or one of `@ [ \ ] ^ _` (moby/term, `ToBytes`).
pub fn parse(text: &str) -> Result<Vec<u8>, UnknownKey> {
    if text.is_empty() {
        return Ok(DEFAULT.to_vec());
    }
    text.split(',').map(key).collect()
}

fn key(text: &str) -> Result<u8, UnknownKey> {
    let unknown = || UnknownKey(text.to_owned());
    match text.as_bytes() {
        [single] => Ok(*single),
        [b'c', b't', b'r', b'l', b'-', control] => match control {
            b'a'..=b'z' => Ok(control - b'a' + 1),
            b'@' => Ok(0),
            b'[' => Ok(27),
            b'\\' => Ok(28),
            b']' => Ok(29),
            b'^' => Ok(30),
            b'_' => Ok(31),
            _ => Err(unknown()),
        },
        b"DEL" => Ok(127),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences() {
        assert_eq!(parse("").unwrap(), [16, 17]);
        assert_eq!(parse("ctrl-a,x,ctrl-[").unwrap(), [1, b'x', 27]);
        assert_eq!(
            parse("ctrl-A").unwrap_err().to_string(),
            "Unknown character: 'ctrl-A'"
        );
        assert!(parse("a,,b").is_err());
    }
}
