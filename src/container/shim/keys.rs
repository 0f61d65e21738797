//! Detach keys: a byte sequence in a terminal client's input that ends its attachment.
//!
//! Bytes that may be the beginning of the sequence are held back until it is certain that they
//! are not, so the container never sees a part of it, and sees everything else unchanged.

/// Looks for one sequence in a stream of input.
#[derive(Debug, Default)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    /// How many of `keys` the input seen so far ends with.
    matched: usize,
}

impl DetachKeys {
    /// An empty sequence never matches.
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// Appends to `out` what of the input is certainly not the sequence; returns true when the
    /// sequence is complete (the rest of `input` is dropped: its sender has left).
    pub(crate) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            out.extend_from_slice(input);
            return false;
        }
        for &byte in input {
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return true;
                }
                continue;
            }
            // Keep the longest end of what is held that still begins the sequence; sequences are
            // a few bytes long, so the plain search is as good as any.
            let mut held = self.keys[..self.matched].to_vec();
            held.push(byte);
            let kept = (0..=self.matched)
                .rev()
                .find(|&n| held[held.len() - n..] == self.keys[..n])
                .unwrap_or(0);
            out.extend_from_slice(&held[..held.len() - kept]);
            self.matched = kept;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(keys: &[u8], inputs: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut matcher = DetachKeys::new(keys.to_vec());
        let mut out = Vec::new();
        for input in inputs {
            if matcher.feed(input, &mut out) {
                return (out, true);
            }
        }
        (out, false)
    }

    #[test]
    fn sequences_are_found_wherever_they_are() {
        for (keys, inputs, out, found) in [
            (&b"\x10\x11"[..], &[&b"abc"[..]][..], &b"abc"[..], false),
            (b"\x10\x11", &[b"\x10\x11"], b"", true),
            (b"\x10\x11", &[b"ab\x10", b"\x11cd"], b"ab", true),
            (b"\x10\x11", &[b"\x10", b"x"], b"\x10x", false),
            (b"\x10\x11", &[b"\x10\x10", b"\x11"], b"\x10", true),
            (b"aab", &[b"aaab"], b"a", true),
            (b"", &[b"\x10\x11"], b"\x10\x11", false),
        ] {
            assert_eq!(
                run(keys, inputs),
                (out.to_vec(), found),
                "{keys:?} in {inputs:?}"
            );
        }
    }
}
