//! The fixed 512-byte header: fields to values.

use tar::Header;

use super::{BLOCK, TarError};

/// Bytes up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number: octal with spaces and NULs around it, or base-256 (GNU), where the first bit is set
/// and the second is the sign.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return octal(field);
    }
    let negative = first & 0x40 != 0;
    let mut value: u64 = 0;
    for (at, byte) in field.iter().enumerate() {
        let mut byte = if negative { !byte } else { *byte };
        if at == 0 {
            byte &= 0x7f;
        }
        if value >> 56 != 0 {
            return None;
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).ok()?;
    Some(if negative { !value } else { value })
}

fn octal(field: &[u8]) -> Option<i64> {
    let blank = |b: &u8| matches!(*b, b' ' | 0);
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let end = field
        .iter()
        .rposition(|b| !blank(b))
        .map_or(start, |at| at + 1);
    let digits = text(&field[start..end]);
    if digits.is_empty() {
        return Some(0);
    }
    let digits = std::str::from_utf8(digits).ok()?;
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, 8).ok()?.try_into().ok()
}

/// Whether the checksum is right, summed as unsigned or (old Sun tars) as signed bytes.
pub(crate) fn checksum_ok(block: &[u8; BLOCK]) -> bool {
    let Some(stored) = octal(&block[148..156]) else {
        return false;
    };
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (at, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) {
            b' '
        } else {
            *byte
        };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    stored == unsigned || stored == signed
}

/// Which dialect the magic names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// The header's own fields.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) dialect: Dialect,
    pub(super) kind: u8,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: i64,
    pub(super) mtime: i64,
}

impl Fields {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, TarError> {
        if !checksum_ok(block) {
            return Err(TarError::Header("checksum"));
        }
        let header = Header::from_byte_slice(block);
        let old = header.as_old();
        let get = |field: &[u8], what| number(field).ok_or(TarError::Header(what));
        let dialect = match (&block[257..263], &block[263..265]) {
            (b"ustar\0", _) if &block[508..512] == b"tar\0" => Dialect::Star,
            (b"ustar\0", _) => Dialect::Ustar,
            (b"ustar ", b" \0") => Dialect::Gnu,
            _ => Dialect::V7,
        };
        let mut name = text(&old.name).to_vec();
        let prefix: &[u8] = match dialect {
            Dialect::Ustar => text(&block[345..500]),
            Dialect::Star => text(&block[345..476]),
            // Go before 1.8 wrote a ustar prefix into GNU headers; Go reads such a field as a
            // prefix exactly when it cannot be the GNU times.
            Dialect::Gnu => {
                let time = |field: &[u8]| field[0] == 0 || number(field).is_some();
                let prefix = text(&block[345..500]);
                if time(&block[345..357]) && time(&block[357..369]) || !prefix.is_ascii() {
                    b""
                } else {
                    prefix
                }
            }
            Dialect::V7 => b"",
        };
        if !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        Ok(Self {
            dialect,
            kind: old.linkflag[0],
            name,
            link: text(&old.linkname).to_vec(),
            mode: get(&old.mode, "mode")?,
            uid: get(&old.uid, "uid")?,
            gid: get(&old.gid, "gid")?,
            size: get(&old.size, "size")?,
            mtime: get(&old.mtime, "mtime")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let cases: &[(&[u8], Option<i64>)] = &[
            (b"0000644\0", Some(0o644)),
            (b" 644 \0\0\0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"0000648\0", None),
            (b"-0000644", None),
            (b"+000644\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe",
                Some(-2),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\x81\0\0\0\0\0\0\0\0\0\0\0", None),
        ];
        for (field, value) in cases {
            assert_eq!(number(field), *value, "{field:?}");
        }
    }
}
