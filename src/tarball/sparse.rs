//! Sparse maps: which parts of a file are in the archive.

use super::header::number;
use super::pax::SparseRecords;
use super::{BLOCK, SPECIAL_MAX, TarError};

/// A part of a file: `length` bytes at `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// A map, not yet checked against the size.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) spans: Vec<Span>,
    /// Size of the file with its holes.
    pub(super) size: u64,
}

fn bad<T>() -> Result<T, TarError> {
    Err(TarError::Header("sparse map"))
}

impl Map {
    /// Holds the map to its rules and returns how many bytes of data it wants.
    pub(super) fn check(&self) -> Result<u64, TarError> {
        let (mut end, mut stored) = (0_u64, 0_u64);
        for span in &self.spans {
            if span.offset < end {
                return bad();
            }
            end = match span.offset.checked_add(span.length) {
                Some(end) if end <= self.size => end,
                _ => return bad(),
            };
            stored += span.length;
        }
        Ok(stored)
    }
}

/// The four or 21 offset and length pairs of a GNU header block; an empty one ends them.
pub(super) fn gnu_pairs(pairs: &[u8], spans: &mut Vec<Span>) -> Result<(), TarError> {
    for pair in pairs.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let get = |field: &[u8]| number(field).and_then(|value| u64::try_from(value).ok());
        match (get(&pair[..12]), get(&pair[12..])) {
            (Some(offset), Some(length)) => spans.push(Span { offset, length }),
            _ => return bad(),
        }
        if spans.len() as u64 > SPECIAL_MAX / 24 {
            return Err(TarError::TooLong("sparse map"));
        }
    }
    Ok(())
}

/// How the PAX records say that the file is sparse.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PaxSparse {
    /// Not at all.
    No,
    /// 0.0 and 0.1: the map is in the records.
    Inline,
    /// 1.0: the map is at the beginning of the data.
    InData,
}

impl SparseRecords {
    pub(super) fn form(&self) -> PaxSparse {
        match (self.major.as_deref(), self.minor.as_deref()) {
            (Some(b"0"), Some(b"0" | b"1")) => PaxSparse::Inline,
            (Some(b"1"), Some(b"0")) => PaxSparse::InData,
            (Some(_), _) | (_, Some(_)) => PaxSparse::No,
            (None, None) if self.map.is_some() => PaxSparse::Inline,
            (None, None) => PaxSparse::No,
        }
    }

    /// The size of the file with its holes.
    pub(super) fn full_size(&self) -> Result<Option<u64>, TarError> {
        let Some(size) = self.size.as_ref().or(self.real_size.as_ref()) else {
            return Ok(None);
        };
        decimal(size).map(Some)
    }

    /// 0.1's comma-separated map.
    pub(super) fn inline_spans(&self) -> Result<Vec<Span>, TarError> {
        let Some(map) = &self.map else {
            return Ok(Vec::new());
        };
        let numbers = map.split(|b| *b == b',').map(decimal);
        pairs(&numbers.collect::<Result<Vec<_>, _>>()?)
    }
}

fn pairs(numbers: &[u64]) -> Result<Vec<Span>, TarError> {
    if numbers.len() % 2 == 1 {
        return bad();
    }
    Ok(numbers
        .chunks_exact(2)
        .map(|pair| Span {
            offset: pair[0],
            length: pair[1],
        })
        .collect())
}

fn decimal(text: &[u8]) -> Result<u64, TarError> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return bad();
    }
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|value| i64::try_from(*value).is_ok())
        .ok_or(TarError::Header("sparse map"))
}

/// Reads 1.0's map (a count, then offsets and lengths, each ended by a newline, padded to a block)
/// by asking for one block after the other.
pub(super) fn in_data(
    mut block: impl FnMut() -> Result<[u8; BLOCK], TarError>,
) -> Result<Vec<Span>, TarError> {
    let (mut numbers, mut digits, mut wanted) = (Vec::new(), Vec::new(), None);
    let mut read = 0;
    loop {
        let block = block()?;
        read += BLOCK as u64;
        for byte in block {
            if byte != b'\n' {
                digits.push(byte);
                if digits.len() > 20 {
                    return bad();
                }
                continue;
            }
            let number = decimal(&digits)?;
            digits.clear();
            match wanted {
                None => match number.checked_mul(2).filter(|n| *n <= SPECIAL_MAX / 2) {
                    Some(count) => wanted = Some(count),
                    None => return Err(TarError::TooLong("sparse map")),
                },
                Some(_) => numbers.push(number),
            }
            if wanted == Some(numbers.len() as u64) {
                return pairs(&numbers);
            }
        }
        if read > SPECIAL_MAX {
            return Err(TarError::TooLong("sparse map"));
        }
    }
}
