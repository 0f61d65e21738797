//! Moments, in nanoseconds since the Unix epoch, printed as Go's `RFC3339Nano` in UTC.
//!
//! Go's zero time, which Docker shows for things that never happened, is
//! `0001-01-01T00:00:00Z`: [`Timestamp::ZERO`], also the default here. Values outside the years 1
//! to 9999 have no RFC 3339 form; they are clamped when made.

use std::fmt;
use std::str::FromStr;

use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime, Time};

use super::duration::Duration;

const SECOND: i128 = 1_000_000_000;
/// Seconds from the epoch to 0001-01-01T00:00:00Z and to the end of the year 9999.
const FIRST: i128 = -62_135_596_800 * SECOND;
const LAST: i128 = 253_402_300_800 * SECOND - 1;

/// Digits behind the point that dockerd bears.
const MOST_DIGITS: usize = 20;

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i128);

/// A string that is no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse value as time or duration: {0:?}")]
pub struct TimestampError(String);

/// A string that is no number of seconds. The wording is Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid timestamp {text:?}: {why}")]
pub struct UnixError {
    text: String,
    why: String,
}

impl Timestamp {
    /// Go's zero time: the moment of what never happened.
    pub const ZERO: Self = Self(FIRST);

    /// The present.
    pub fn now() -> Self {
        Self::from_nanos(OffsetDateTime::now_utc().unix_timestamp_nanos())
    }

    /// Wraps nanoseconds since the epoch.
    pub const fn from_nanos(nanos: i128) -> Self {
        if nanos < FIRST {
            Self(FIRST)
        } else if nanos > LAST {
            Self(LAST)
        } else {
            Self(nanos)
        }
    }

    /// Wraps whole seconds since the epoch.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self::from_nanos(seconds as i128 * SECOND)
    }

    /// The next nanosecond.
    pub const fn next(self) -> Self {
        Self::from_nanos(self.0 + 1)
    }

    /// Nanoseconds since the epoch.
    pub const fn nanos(self) -> i128 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(SECOND) as i64
    }

    /// Calendar date and time in UTC.
    pub fn utc(self) -> OffsetDateTime {
        // The range was checked when the value was made.
        OffsetDateTime::from_unix_timestamp_nanos(self.0).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// Parses `SECONDS[.FRACTION]`, all that the API's own `since` and `until` accept: the client
    /// has made that of whatever its user wrote.
    pub fn parse_unix(text: &str) -> Result<Self, UnixError> {
        let invalid = |why: String| UnixError {
            text: text.to_owned(),
            why,
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds: i64 = whole.parse().map_err(|error: std::num::ParseIntError| {
            use std::num::IntErrorKind::{NegOverflow, PosOverflow};
            let why = match error.kind() {
                PosOverflow | NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            invalid(format!("invalid seconds {whole:?}: {why}"))
        })?;
        if fraction.len() > MOST_DIGITS {
            return Err(invalid(format!(
                "invalid nanoseconds: length {} exceeds maximum {MOST_DIGITS}",
                fraction.len()
            )));
        }
        if let Some((at, c)) = fraction.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
            return Err(invalid(format!(
                "invalid nanoseconds: invalid character '{c}' at position {at}"
            )));
        }
        Ok(Self::from_nanos(
            i128::from(seconds) * SECOND + nanoseconds(fraction),
        ))
    }

    /// What a client sends of a moment that its user wrote in any of the forms of
    /// [`Timestamp::parse`]: seconds since the epoch. Anything else is the engine's to refuse.
    pub fn as_sent(text: &str, now: Self) -> String {
        match Self::parse(text, now) {
            Ok(moment) if unix(text).is_none() => {
                let (whole, rest) = (moment.0.div_euclid(SECOND), moment.0.rem_euclid(SECOND));
                format!("{whole}.{rest:09}")
            }
            _ => text.to_owned(),
        }
    }

    /// Parses what the `until` filter of a prune accepts: seconds since the epoch with or
    /// without a fraction, a Go duration (that long before `now`), RFC 3339, or its beginning
    /// (`2006-01-02`, `2006-01-02T15:04`), in UTC where no zone is given.
    pub fn parse(text: &str, now: Self) -> Result<Self, TimestampError> {
        if let Some(moment) = unix(text) {
            return Ok(moment);
        }
        if let Ok(ago) = text.parse::<Duration>() {
            return Ok(Self::from_nanos(now.0 - i128::from(ago.nanos())));
        }
        calendar(text).ok_or_else(|| TimestampError(text.to_owned()))
    }
}

/// `1690000000`, `1690000000.123`: the digits after the point are a fraction of a second.
fn unix(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let all_digits = |part: &str| part.bytes().all(|c| c.is_ascii_digit());
    if digits.is_empty() || !all_digits(digits) || !all_digits(fraction) {
        return None;
    }
    if text.ends_with('.') {
        return None;
    }
    let seconds = i128::from(whole.parse::<i64>().ok()?);
    let sign = if whole.starts_with('-') { -1 } else { 1 };
    Some(Timestamp::from_nanos(
        seconds * SECOND + sign * nanoseconds(fraction),
    ))
}

/// The digits behind the point of a number of seconds, as nanoseconds.
fn nanoseconds(fraction: &str) -> i128 {
    let digits = fraction.bytes().take(9);
    let read = digits.fold(0, |sum, digit| sum * 10 + i128::from(digit - b'0'));
    read * 10_i128.pow(9 - fraction.len().min(9) as u32)
}

/// RFC 3339, or a beginning of it.
fn calendar(text: &str) -> Option<Timestamp> {
    if let Ok(moment) = OffsetDateTime::parse(text, &Rfc3339) {
        return Some(Timestamp::from_nanos(moment.unix_timestamp_nanos()));
    }
    const DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
    let (local, zone) = split_zone(text);
    let (day, clock) = local.split_once('T').unwrap_or((local, ""));
    let day = Date::parse(day, DAY).ok()?;
    let clock = match clock.split(':').count() {
        1 if clock.is_empty() => Time::MIDNIGHT,
        1 => Time::from_hms(two(clock)?, 0, 0).ok()?,
        2 => {
            let (hour, minute) = clock.split_once(':')?;
            Time::from_hms(two(hour)?, two(minute)?, 0).ok()?
        }
        _ => {
            let whole = format!("{local}Z");
            let moment = OffsetDateTime::parse(&whole, &Rfc3339).ok()?;
            return Some(Timestamp::from_nanos(
                moment.unix_timestamp_nanos() - zone? * SECOND,
            ));
        }
    };
    let moment = PrimitiveDateTime::new(day, clock).assume_utc();
    Some(Timestamp::from_nanos(
        moment.unix_timestamp_nanos() - zone? * SECOND,
    ))
}

/// Splits `Z` or `+hh:mm` off; the offset in seconds, `None` where it cannot be read.
fn split_zone(text: &str) -> (&str, Option<i128>) {
    if let Some(local) = text.strip_suffix('Z') {
        return (local, Some(0));
    }
    // A sign after the date (ten characters) begins a zone.
    let sign = text
        .char_indices()
        .rfind(|(at, c)| *at >= 10 && matches!(c, '+' | '-'));
    let Some((at, sign)) = sign else {
        return (text, Some(0));
    };
    let seconds = text[at + 1..].split_once(':').and_then(|(hours, minutes)| {
        let (hours, minutes) = (two(hours)?, two(minutes)?);
        Some(i128::from(hours) * 3600 + i128::from(minutes) * 60)
    });
    (
        &text[..at],
        seconds.map(|s| if sign == '-' { -s } else { s }),
    )
}

fn two(digits: &str) -> Option<u8> {
    (digits.len() == 2 && digits.bytes().all(|c| c.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}

impl Default for Timestamp {
    fn default() -> Self {
        Self::ZERO
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    /// RFC 3339 only; [`Timestamp::parse`] reads more.
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        OffsetDateTime::parse(text, &Rfc3339)
            .map(|moment| Self::from_nanos(moment.unix_timestamp_nanos()))
            .map_err(|_| TimestampError(text.to_owned()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let utc = self.utc();
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            utc.year(),
            u8::from(utc.month()),
            utc.day(),
            utc.hour(),
            utc.minute(),
            utc.second()
        )?;
        if utc.nanosecond() != 0 {
            let fraction = format!("{:09}", utc.nanosecond());
            write!(f, ".{}", fraction.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

super::serde_as_string!(Timestamp);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_sent_as_seconds() {
        let now = Timestamp::from_nanos(100 * SECOND + 5);
        for (text, sent) in [
            ("", ""),
            ("42", "42"),
            ("42.5", "42.5"),
            ("10s", "90.000000005"),
            ("2m", "-20.000000005"),
            ("1970-01-01T00:00:01.5Z", "1.500000000"),
            ("nosuch", "nosuch"),
        ] {
            assert_eq!(Timestamp::as_sent(text, now), sent);
        }
    }
    use proptest::prelude::*;

    #[test]
    fn seconds_alone_and_their_errors() {
        let parsed = |text| Timestamp::parse_unix(text).map(Timestamp::nanos);
        assert_eq!(parsed("5"), Ok(5 * SECOND));
        assert_eq!(parsed("5.25"), Ok(5 * SECOND + SECOND / 4));
        assert_eq!(parsed("5."), Ok(5 * SECOND));
        for (text, why) in [
            ("", "invalid seconds \"\": invalid syntax"),
            ("1h", "invalid seconds \"1h\": invalid syntax"),
            (
                "99999999999999999999",
                "invalid seconds \"99999999999999999999\": value out of range",
            ),
            (
                "1.-5",
                "invalid nanoseconds: invalid character '-' at position 0",
            ),
            (
                "1.000000000000000000000",
                "invalid nanoseconds: length 21 exceeds maximum 20",
            ),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert_eq!(error, format!("invalid timestamp {text:?}: {why}"));
        }
    }

    #[test]
    fn prints_as_go() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_500_000_000, "1970-01-01T00:00:01.5Z"),
            (1_690_000_000_123_456_789, "2023-07-22T04:26:40.123456789Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (FIRST, "0001-01-01T00:00:00Z"),
            (LAST, "9999-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(Timestamp(nanos).to_string(), text);
            assert_eq!(text.parse(), Ok(Timestamp(nanos)));
        }
        assert_eq!(Timestamp::default().seconds(), -62_135_596_800);
    }

    #[test]
    fn parses_what_since_accepts() {
        let now = Timestamp::from_seconds(1_000_000);
        let at = |seconds: i64| Ok(Timestamp::from_seconds(seconds));
        for (text, moment) in [
            ("1690000000", at(1_690_000_000)),
            ("0", at(0)),
            ("1690000000.123", Ok(Timestamp(1_690_000_000_123_000_000))),
            (
                "1690000000.000000001",
                Ok(Timestamp(1_690_000_000_000_000_001)),
            ),
            ("-1.5", Ok(Timestamp(-1_500_000_000))),
            ("10m", at(999_400)),
            ("1h30m", at(994_600)),
            ("2023-07-22T04:26:40Z", at(1_690_000_000)),
            ("2023-07-22T06:26:40+02:00", at(1_690_000_000)),
            ("2023-07-22T04:26:40", at(1_690_000_000)),
            ("2023-07-22T04:26", at(1_689_999_960)),
            ("2023-07-22T06:26+02:00", at(1_689_999_960)),
            ("2023-07-22T04", at(1_689_998_400)),
            ("2023-07-22", at(1_689_984_000)),
            ("2023-07-22Z", at(1_689_984_000)),
        ] {
            assert_eq!(Timestamp::parse(text, now), moment, "{text}");
        }
        for text in [
            "",
            "x",
            "-",
            "1.",
            "2023-13-01",
            "2023-07-22T25",
            "2023-07-22T04:26+2",
            "1d",
        ] {
            assert!(Timestamp::parse(text, now).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reads_back(nanos in FIRST..=LAST) {
            prop_assert_eq!(Timestamp(nanos).to_string().parse(), Ok(Timestamp(nanos)));
        }

        #[test]
        fn never_panics(text in "\\PC*|[-+0-9T:Z.]{0,30}") {
            let _ = Timestamp::parse(&text, Timestamp::ZERO);
        }
    }
}
