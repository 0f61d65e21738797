//! The user's terminal: raw mode, its size, keys that detach.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{self, OptionalActions, Termios};

/// Raw mode for as long as this lives; the former mode comes back on every way out, panics too.
#[derive(Debug)]
pub struct Raw {
    terminal: OwnedFd,
    former: Termios,
}

impl Raw {
    /// Makes the terminal behind standard input raw; `None` where there is none.
    pub fn enter() -> io::Result<Option<Raw>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let former = termios::tcgetattr(&stdin)?;
        let mut raw = former.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        let terminal = stdin.as_fd().try_clone_to_owned()?;
        Ok(Some(Raw { terminal, former }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nobody to tell: the terminal itself may be gone.
        let _ = termios::tcsetattr(&self.terminal, OptionalActions::Now, &self.former);
    }
}

/// Asks for a line that the terminal does not show: a password. `None` where it was given up.
pub fn read_hidden(prompt: &str) -> io::Result<Option<String>> {
    // Before anybody is asked: who answers at once is not shown either.
    let _raw = Raw::enter()?;
    let mut out = io::stdout();
    out.write_all(prompt.as_bytes())?;
    out.flush()?;
    hidden_line(io::stdin().lock().bytes())
}

/// The line that keys come to: backspace and control-u take back, control-c gives up.
fn hidden_line(keys: impl Iterator<Item = io::Result<u8>>) -> io::Result<Option<String>> {
    let mut typed = Vec::new();
    for key in keys {
        match key? {
            b'\r' | b'\n' => return Ok(Some(String::from_utf8_lossy(&typed).into_owned())),
            3 => return Ok(None),
            4 if typed.is_empty() => return Ok(None),
            // A character of several bytes goes at once.
            8 | 127 => while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            21 => typed.clear(),
            key => typed.push(key),
        }
    }
    Ok(None)
}

/// Rows and columns of the terminal behind standard output; `None` where there is none.
pub fn size() -> Option<[u64; 2]> {
    let size = termios::tcgetwinsize(io::stdout()).ok()?;
    let size = [u64::from(size.ws_row), u64::from(size.ws_col)];
    (size != [0, 0]).then_some(size)
}

/// Columns of a terminal; `None` where it does not say, or is none.
pub fn columns(terminal: &impl AsFd) -> Option<usize> {
    let size = termios::tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0).then(|| size.ws_col.into())
}

/// Docker's default keys: control-p, control-q.
const DEFAULT: &[u8] = &[16, 17];

/// Looks for the keys that detach in what is typed.
#[derive(Debug, Clone)]
pub struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them have been typed so far.
    typed: usize,
}

impl DetachKeys {
    /// From `ctrl-p,ctrl-q`, `a,b` and the like; empty text means the default.
    pub fn parse(text: &str) -> Result<DetachKeys, String> {
        let mut keys = Vec::new();
        for name in text.split(',').filter(|_| !text.is_empty()) {
            keys.push(key(name).ok_or_else(|| {
                format!("invalid detach keys provided: Unknown character: '{name}'")
            })?);
        }
        if keys.is_empty() {
            keys = DEFAULT.to_vec();
        }
        Ok(DetachKeys { keys, typed: 0 })
    }

    /// What of `input` is to be passed on, and whether the keys were completed. Keys that may be
    /// the beginning are held back until it is clear that they are not.
    pub fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(input.len());
        for &byte in input {
            if self.keys.get(self.typed) == Some(&byte) {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    self.typed = 0;
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.typed]);
            self.typed = 0;
            if self.keys.first() == Some(&byte) {
                self.typed = 1;
            } else {
                passed.push(byte);
            }
        }
        (passed, false)
    }
}

/// The byte that a key sends.
fn key(name: &str) -> Option<u8> {
    let control = name.strip_prefix("ctrl-");
    match (control.unwrap_or(name).as_bytes(), control) {
        (&[byte @ b'a'..=b'z'], Some(_)) => Some(byte - b'a' + 1),
        (b"@", Some(_)) => Some(0),
        (b"[", Some(_)) => Some(27),
        (b"\\", Some(_)) => Some(28),
        (b"]", Some(_)) => Some(29),
        (b"^", Some(_)) => Some(30),
        (b"_", Some(_)) => Some(31),
        (&[byte], None) => Some(byte),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_lines_can_be_corrected() {
        let line = |keys: &[u8]| hidden_line(keys.iter().copied().map(Ok)).unwrap();
        assert_eq!(line(b"secret\rx").as_deref(), Some("secret"));
        assert_eq!(line("aé\x7fb\r".as_bytes()).as_deref(), Some("ab"));
        assert_eq!(line(b"\x7fab\x15c\n").as_deref(), Some("c"));
        assert_eq!(line(b"ab\x03\r"), None);
        assert_eq!(line(b"\x04"), None);
        assert_eq!(line(b"ab"), None);
    }

    #[test]
    fn keys_are_found_across_reads() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"x"), (b"\x10x".to_vec(), false));
        assert_eq!(keys.filter(b"\x10\x10\x11z"), (b"\x10".to_vec(), true));
        let mut keys = DetachKeys::parse("ctrl-a,d").unwrap();
        assert_eq!(keys.filter(b"d\x01d"), (b"d".to_vec(), true));
        assert_eq!(
            DetachKeys::parse("ctrl-1").unwrap_err(),
            "invalid detach keys provided: Unknown character: 'ctrl-1'"
        );
    }
}
