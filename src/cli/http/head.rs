//! The head of an answer, how long its body is, and chunks: pure but for what is read from.

use std::io::{self, BufRead, Read};

/// The largest head of an answer, in bytes.
pub(super) const HEAD_LIMIT: usize = 64 * 1024;

/// The longest line before a chunk, in bytes.
const CHUNK_LINE_LIMIT: usize = 256;

/// The status line and fields of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// `200`
    pub status: u16,
    /// Names in lower case, and values.
    pub fields: Vec<(String, String)>,
}

/// Why an answer makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not `HTTP/1.x NNN`.
    #[error("the engine's answer is not HTTP")]
    StatusLine,
    /// A field without a colon.
    #[error("the engine's answer has a malformed header field")]
    Field,
    /// More than [`HEAD_LIMIT`].
    #[error("the engine's answer has too long a head")]
    TooLong,
    /// A length that is no number.
    #[error("the engine's answer has a malformed length")]
    Length,
    /// A chunk that is none.
    #[error("the engine's answer has a malformed chunk")]
    Chunk,
}

impl From<Malformed> for io::Error {
    fn from(error: Malformed) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

impl Head {
    /// Reads a head, the empty line at its end included.
    pub fn parse(bytes: &[u8]) -> Result<Head, Malformed> {
        let mut lines = bytes
            .split(|&byte| byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let status = lines.next().ok_or(Malformed::StatusLine)?;
        let rest = status
            .strip_prefix(b"HTTP/1.")
            .and_then(|rest| rest.split_first())
            .filter(|(minor, _)| minor.is_ascii_digit())
            .and_then(|(_, rest)| rest.strip_prefix(b" "))
            .ok_or(Malformed::StatusLine)?;
        let digits = rest.get(..3).ok_or(Malformed::StatusLine)?;
        if !digits.iter().all(u8::is_ascii_digit) || rest.get(3).is_some_and(|&next| next != b' ') {
            return Err(Malformed::StatusLine);
        }
        let status = digits
            .iter()
            .fold(0, |sum: u16, digit| sum * 10 + u16::from(digit - b'0'));
        let mut fields = Vec::new();
        for line in lines {
            if line.is_empty() {
                break;
            }
            let colon = line.iter().position(|&byte| byte == b':');
            let (name, value) = line.split_at(colon.ok_or(Malformed::Field)?);
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            fields.push((
                String::from_utf8_lossy(name).to_ascii_lowercase(),
                String::from_utf8_lossy(value).into_owned(),
            ));
        }
        Ok(Head { status, fields })
    }

    /// The value of a field; `name` in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    }

    /// How the body ends.
    pub(super) fn framing(&self) -> Result<Framing, Malformed> {
        if self.status < 200 || self.status == 204 || self.status == 304 {
            return Ok(Framing::Length(0));
        }
        if let Some(coding) = self.field("transfer-encoding")
            && coding.to_ascii_lowercase().ends_with("chunked")
        {
            return Ok(Framing::Chunked(Chunked::default()));
        }
        match self.field("content-length") {
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                let length = text.parse().map_err(|_| Malformed::Length)?;
                Ok(Framing::Length(length))
            }
            Some(_) => Err(Malformed::Length),
            None => Ok(Framing::ToTheEnd),
        }
    }

    pub(super) fn keeps_alive(&self) -> bool {
        !self
            .field("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// How a body ends.
#[derive(Debug)]
pub(super) enum Framing {
    /// After so many more bytes.
    Length(u64),
    /// With an empty chunk.
    Chunked(Chunked),
    /// With the connection.
    ToTheEnd,
}

/// Where in a chunked body a reader is.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    /// Bytes left of the current chunk.
    pub(super) left: u64,
    /// The current chunk's data has a line end after it that is still to be read.
    pub(super) inside: bool,
    /// The last chunk has been read.
    pub(super) done: bool,
}

impl Chunked {
    pub(super) fn read(
        &mut self,
        source: &mut impl BufRead,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        if self.done || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            if self.inside && !line(source)?.is_empty() {
                return Err(Malformed::Chunk.into());
            }
            self.left = chunk_size(&line(source)?)?;
            self.inside = true;
            if self.left == 0 {
                // Trailers, of which there are none that anybody reads, then an empty line.
                while !line(source)?.is_empty() {}
                self.done = true;
                return Ok(0);
            }
        }
        let wanted = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = source.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// One short line without its end.
pub(super) fn line(source: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    source
        .by_ref()
        .take(CHUNK_LINE_LIMIT as u64)
        .read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\n") {
        Some(rest) => Ok(rest.strip_suffix(b"\r").unwrap_or(rest).to_vec()),
        None if line.len() >= CHUNK_LINE_LIMIT => Err(Malformed::Chunk.into()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// `1a2b;extension`
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
    let digits = digits.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Malformed::Chunk);
    }
    let text = std::str::from_utf8(digits).map_err(|_| Malformed::Chunk)?;
    u64::from_str_radix(text, 16).map_err(|_| Malformed::Chunk)
}
