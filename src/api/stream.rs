//! Frames of the multiplexed stream: output of a container without a terminal.
//!
//! Eight bytes go before each piece of output: the stream's number, three zeros, and the length
//! as a big-endian 32-bit number. Containers with a terminal send the raw bytes instead.

/// Content type of the multiplexed stream (1.42 and newer).
pub const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";
/// Content type of the raw stream.
pub const RAW: &str = "application/vnd.docker.raw-stream";
/// Length of a frame's header.
pub const HEADER: usize = 8;

/// Which stream a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StreamKind {
    /// Standard input, echoed by nothing that we know.
    Stdin = 0,
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// An error of the engine's, after the answer has begun.
    SystemError = 3,
}

/// The first byte of a header names no stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized stream: {0}")]
pub struct StreamError(
    /// The byte.
    pub u8,
);

/// Makes the header of a frame of `length` bytes.
pub fn encode(kind: StreamKind, length: u32) -> [u8; HEADER] {
    let [a, b, c, d] = length.to_be_bytes();
    [kind as u8, 0, 0, 0, a, b, c, d]
}

/// Reads a header: the stream and the number of bytes that follow.
pub fn decode(header: [u8; HEADER]) -> Result<(StreamKind, u32), StreamError> {
    let [kind, _, _, _, a, b, c, d] = header;
    let kind = match kind {
        0 => StreamKind::Stdin,
        1 => StreamKind::Stdout,
        2 => StreamKind::Stderr,
        3 => StreamKind::SystemError,
        other => return Err(StreamError(other)),
    };
    Ok((kind, u32::from_be_bytes([a, b, c, d])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_read_back() {
        for kind in [
            StreamKind::Stdin,
            StreamKind::Stdout,
            StreamKind::Stderr,
            StreamKind::SystemError,
        ] {
            assert_eq!(decode(encode(kind, 0x0102_0304)), Ok((kind, 0x0102_0304)));
        }
        assert_eq!(encode(StreamKind::Stderr, 258), [2, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(decode([4, 0, 0, 0, 0, 0, 0, 0]), Err(StreamError(4)));
    }
}
