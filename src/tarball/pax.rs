//! PAX extended headers: records of `LENGTH KEY=VALUE\n`.

use std::collections::BTreeMap;

use super::TarError;

const XATTR: &[u8] = b"SCHILY.xattr.";
const SPARSE: &[u8] = b"GNU.sparse.";

/// What one `x` header says about the entry after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) size: Option<i64>,
    /// Seconds and nanoseconds.
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: SparseRecords,
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SparseRecords {
    pub(super) major: Option<Vec<u8>>,
    pub(super) minor: Option<Vec<u8>>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<Vec<u8>>,
    pub(super) real_size: Option<Vec<u8>>,
    /// 0.1's map, or 0.0's alternating offset and length records put together.
    pub(super) map: Option<Vec<u8>>,
}

fn bad<T>() -> Result<T, TarError> {
    Err(TarError::Header("PAX record"))
}

fn integer(value: &[u8]) -> Result<i64, TarError> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(TarError::Header("PAX number"))
}

/// `-1.5` is a second and a half before the epoch; digits beyond nanoseconds are dropped.
fn time(value: &[u8]) -> Result<(i64, u32), TarError> {
    let text = std::str::from_utf8(value).map_err(|_| TarError::Header("PAX time"))?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TarError::Header("PAX time"));
    }
    let seconds: i64 = whole.parse().map_err(|_| TarError::Header("PAX time"))?;
    let mut nanos = 0;
    for at in 0..9 {
        let digit = fraction
            .as_bytes()
            .get(at)
            .map_or(0, |b| u32::from(b - b'0'));
        nanos = nanos * 10 + digit;
    }
    if whole.starts_with('-') && nanos != 0 {
        return Ok((seconds.saturating_sub(1), 1_000_000_000 - nanos));
    }
    Ok((seconds, nanos))
}

/// Splits the next record off: its key, its value and what follows.
fn record(data: &[u8]) -> Result<[&[u8]; 3], TarError> {
    let Some(space) = data.iter().take(20).position(|b| *b == b' ') else {
        return bad();
    };
    let digits = &data[..space];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return bad();
    }
    let length = usize::try_from(integer(digits)?).unwrap_or(usize::MAX);
    if length < space + 2 || length > data.len() || data[length - 1] != b'\n' {
        return bad();
    }
    let (body, rest) = (&data[space + 1..length - 1], &data[length..]);
    match body.iter().position(|b| *b == b'=') {
        Some(at) if at > 0 => Ok([&body[..at], &body[at + 1..], rest]),
        _ => bad(),
    }
}

impl Records {
    /// Reads one extended header's data.
    pub(super) fn parse(mut data: &[u8]) -> Result<Self, TarError> {
        let mut records = Self::default();
        // 0.0 repeats offset and numbytes; they must alternate.
        let mut points: Vec<&[u8]> = Vec::new();
        while !data.is_empty() {
            let [key, value, rest] = record(data)?;
            data = rest;
            let is_name = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
            if key.contains(&0) || is_name && value.contains(&0) {
                return bad();
            }
            match key {
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    let length_next = points.len() % 2 == 1;
                    if length_next != (key == b"GNU.sparse.numbytes") || value.contains(&b',') {
                        return bad();
                    }
                    points.push(value);
                }
                _ => records.set(key, value)?,
            }
        }
        if !points.is_empty() {
            records.sparse.map = Some(points.join(&b','));
        }
        Ok(records)
    }

    /// Takes one record; the last of a key counts, and an empty value takes the key back.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let bytes = (!value.is_empty()).then(|| value.to_vec());
        let number = || (!value.is_empty()).then(|| integer(value)).transpose();
        match key {
            b"path" => self.path = bytes,
            b"linkpath" => self.link = bytes,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"size" => self.size = number()?,
            b"mtime" => self.mtime = (!value.is_empty()).then(|| time(value)).transpose()?,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    match bytes {
                        Some(bytes) => self.xattrs.insert(name.to_vec(), bytes),
                        None => self.xattrs.remove(name),
                    };
                } else if let Some(name) = key.strip_prefix(SPARSE) {
                    match name {
                        b"major" => self.sparse.major = bytes,
                        b"minor" => self.sparse.minor = bytes,
                        b"name" => self.sparse.name = bytes,
                        b"size" => self.sparse.size = bytes,
                        b"realsize" => self.sparse.real_size = bytes,
                        b"map" => self.sparse.map = bytes,
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::pax_record;
    use super::*;

    #[test]
    fn a_value_that_looks_like_a_record_is_a_value() {
        let lie = b"x\n22 linkpath=/etc/evil\n";
        let records = Records::parse(&pax_record(b"comment", lie)).unwrap();
        assert_eq!(records, Records::default());
        let xattr = pax_record(b"SCHILY.xattr.security.capability", b"\x01\0\0\x02\n\n=5 ");
        let records = Records::parse(&xattr).unwrap();
        let capability = records.xattrs.get(b"security.capability".as_slice());
        assert_eq!(capability.unwrap(), b"\x01\0\0\x02\n\n=5 ");
    }

    #[test]
    fn malformed() {
        let cases: &[&[u8]] = &[
            b"5 a=b",
            b"6 a=b\n5",
            b"0 a=b\n",
            b"-6 a=b\n",
            b"99 a=b\n",
            b"6 ab\n\n",
            b"6 =ab\n",
            b"99999999999999999999 a=b\n",
            b"12 path=a\0b\n",
            b"3 \n",
            b" a=b\n",
        ];
        for case in cases {
            assert!(Records::parse(case).is_err(), "{case:?}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(time(b"1.5").unwrap(), (1, 500_000_000));
        assert_eq!(time(b"-1.5").unwrap(), (-2, 500_000_000));
        assert_eq!(time(b"-0.25").unwrap(), (-1, 750_000_000));
        assert_eq!(time(b"7").unwrap(), (7, 0));
        assert_eq!(time(b"1.1234567899").unwrap(), (1, 123_456_789));
        assert!(time(b"1.x").is_err());
        assert!(time(b"").is_err());
    }
}
