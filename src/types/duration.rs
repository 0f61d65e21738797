//! Durations in the notation of Go's `time.Duration`: `1h15m`, `300ms`, `-1.5h`, `0`.
//!
//! Nanoseconds in an `i64`, so at most about 292 years either way. `Display` is Go's `String`:
//! `1m30s`, `1.5µs`, `0s`.

use std::fmt;
use std::str::FromStr;

/// A signed span of time in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Duration(i64);

/// A string that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a number with a unit.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number without a unit.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// An unknown unit.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole string.
        text: String,
    },
}

impl Duration {
    /// Wraps nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The whole span in nanoseconds.
    pub const fn nanos(self) -> i64 {
        self.0
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let invalid = || DurationError::Invalid(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let (whole, after) = digits(rest);
            let (fraction, after) = match after.strip_prefix('.') {
                Some(tail) => digits(tail),
                None => ("", after),
            };
            if whole.is_empty() && fraction.is_empty() {
                return Err(invalid());
            }
            let end = after
                .find(|c: char| c == '.' || c.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            let scale: i128 = match unit {
                "" => return Err(DurationError::MissingUnit(text.to_owned())),
                "ns" => 1,
                "us" | "µs" | "μs" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                _ => {
                    return Err(DurationError::UnknownUnit {
                        unit: unit.to_owned(),
                        text: text.to_owned(),
                    });
                }
            };
            let whole: i128 = if whole.is_empty() {
                0
            } else {
                i128::from(whole.parse::<u64>().map_err(|_| invalid())?)
            };
            total += whole * scale;
            // More than 18 digits after the point are below a nanosecond for every unit.
            let fraction = &fraction[..fraction.len().min(18)];
            if !fraction.is_empty() {
                let value = i128::from(fraction.parse::<u64>().map_err(|_| invalid())?);
                total += value * scale / 10_i128.pow(fraction.len() as u32);
            }
            if total > i128::from(i64::MAX) + 1 {
                return Err(invalid());
            }
            rest = after;
        }
        i64::try_from(if negative { -total } else { total })
            .map(Self)
            .map_err(|_| invalid())
    }
}

fn digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        match span {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{span}ns"),
            1_000..1_000_000 => decimal(f, span, 1_000, "µs"),
            1_000_000..1_000_000_000 => decimal(f, span, 1_000_000, "ms"),
            _ => {
                let seconds = span / 1_000_000_000;
                let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
                if hours > 0 {
                    write!(f, "{hours}h{minutes}m")?;
                } else if minutes > 0 {
                    write!(f, "{minutes}m")?;
                }
                decimal(f, span % 60_000_000_000, 1_000_000_000, "s")
            }
        }
    }
}

/// Writes `value / scale` with the digits after the point that are not zero.
fn decimal(f: &mut fmt::Formatter<'_>, value: u64, scale: u64, unit: &str) -> fmt::Result {
    let (whole, rest) = (value / scale, value % scale);
    if rest == 0 {
        return write!(f, "{whole}{unit}");
    }
    let width = scale.ilog10() as usize;
    let fraction = format!("{rest:0width$}");
    write!(f, "{whole}.{}{unit}", fraction.trim_end_matches('0'))
}

super::serde_as_string!(Duration);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_and_prints() {
        for (text, nanos, printed) in [
            ("0", 0, "0s"),
            ("5s", 5_000_000_000, "5s"),
            ("1h15m30.918s", 4_530_918_000_000, "1h15m30.918s"),
            ("-.5s", -500_000_000, "-500ms"),
            ("1.5us", 1_500, "1.5µs"),
            ("90s", 90_000_000_000, "1m30s"),
            ("1h", 3_600_000_000_000, "1h0m0s"),
            ("100ns", 100, "100ns"),
            ("+1m", 60_000_000_000, "1m0s"),
            (
                "2562047h47m16.854775807s",
                i64::MAX,
                "2562047h47m16.854775807s",
            ),
            (
                "-2562047h47m16.854775808s",
                i64::MIN,
                "-2562047h47m16.854775808s",
            ),
        ] {
            let parsed = text.parse::<Duration>();
            assert_eq!(parsed, Ok(Duration(nanos)), "{text}");
            assert_eq!(Duration(nanos).to_string(), printed);
        }
    }

    #[test]
    fn refuses() {
        for (text, message) in [
            ("", "time: invalid duration \"\""),
            ("10", "time: missing unit in duration \"10\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            (".s", "time: invalid duration \".s\""),
            ("3000000h", "time: invalid duration \"3000000h\""),
        ] {
            let error = text.parse::<Duration>().map_err(|e| e.to_string());
            assert_eq!(error, Err(message.into()));
        }
    }

    proptest! {
        #[test]
        fn reads_back(nanos in any::<i64>()) {
            prop_assert_eq!(Duration(nanos).to_string().parse(), Ok(Duration(nanos)));
        }

        #[test]
        fn never_panics(text in "\\PC*|[-+0-9.hmsnuµ]{0,40}") {
            let _ = text.parse::<Duration>();
        }
    }
}
