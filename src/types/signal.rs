//! Signals by name or number, as `docker kill` and `STOPSIGNAL` write them.
//!
//! The numbers are Linux's on every architecture that moss runs on except the MIPS family.
//! Real-time signals are named from both ends (`RTMIN+3`, `RTMAX-2`); glibc and musl keep 32 and
//! 33 (musl also 34) for themselves, Docker counts from 34.

use std::fmt;
use std::str::FromStr;

/// First real-time signal, by Docker's count.
const RTMIN: i32 = 34;
/// Last real-time signal.
const RTMAX: i32 = 64;

/// A signal's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(i32);

/// Why a string or number is no signal. The wording is Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignalError {
    /// No such name, or zero.
    #[error("invalid signal: {0}")]
    Unknown(String),
    /// A number that Linux has no signal for.
    #[error("the linux daemon does not support signal {0}")]
    Unsupported(i32),
}

impl Signal {
    /// SIGKILL.
    pub const KILL: Self = Self(9);
    /// SIGTERM.
    pub const TERM: Self = Self(15);

    /// The signal's number, 1 to 64.
    pub const fn number(self) -> i32 {
        self.0
    }

    /// Wraps a number between 1 and 64.
    pub fn from_number(number: i32) -> Result<Self, SignalError> {
        match number {
            1..=RTMAX => Ok(Self(number)),
            0 => Err(SignalError::Unknown("0".to_owned())),
            _ => Err(SignalError::Unsupported(number)),
        }
    }
}

/// Names without `SIG`, first the one that `Display` prints for a number.
const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

impl FromStr for Signal {
    type Err = SignalError;

    fn from_str(text: &str) -> Result<Self, SignalError> {
        let refuse = || SignalError::Unknown(text.to_owned());
        if let Ok(number) = text.parse::<i32>() {
            return Self::from_number(number);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*number));
        }
        let number = match name {
            "RTMIN" => RTMIN,
            "RTMAX" => RTMAX,
            _ => {
                let offset = |digits: &str, most: i32| {
                    let value = digits.parse::<i32>().ok()?;
                    (digits == value.to_string() && (1..=most).contains(&value)).then_some(value)
                };
                // Docker's table meets in the middle: RTMIN+15 is 49, RTMAX-14 is 50.
                if let Some(digits) = name.strip_prefix("RTMIN+") {
                    RTMIN + offset(digits, 15).ok_or_else(refuse)?
                } else if let Some(digits) = name.strip_prefix("RTMAX-") {
                    RTMAX - offset(digits, 14).ok_or_else(refuse)?
                } else {
                    return Err(refuse());
                }
            }
        };
        Ok(Self(number))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMES.iter().find(|(_, number)| *number == self.0) {
            return write!(f, "SIG{name}");
        }
        match self.0 {
            RTMIN => f.write_str("SIGRTMIN"),
            RTMAX => f.write_str("SIGRTMAX"),
            n if n > RTMIN && n <= RTMIN + 15 => write!(f, "SIGRTMIN+{}", n - RTMIN),
            n if n > RTMIN => write!(f, "SIGRTMAX-{}", RTMAX - n),
            n => write!(f, "{n}"),
        }
    }
}

super::serde_as_string!(Signal);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_reads_back() {
        for number in 1..=64 {
            let signal = Signal::from_number(number).ok();
            let text = signal.map(|signal| signal.to_string()).unwrap_or_default();
            assert_eq!(text.parse().ok(), signal, "{text}");
        }
    }

    #[test]
    fn parses() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("Sigterm", 15),
            ("15", 15),
            ("9", 9),
            ("SIGRTMIN", 34),
            ("rtmin+3", 37),
            ("SIGRTMAX-14", 50),
            ("RTMAX", 64),
            ("CLD", 17),
            ("IOT", 6),
        ] {
            assert_eq!(
                text.parse::<Signal>().map(Signal::number),
                Ok(number),
                "{text}"
            );
        }
    }

    #[test]
    fn refuses() {
        for text in [
            "", "0", "-1", "65", "SIG", "FOO", "RTMIN+0", "RTMIN+16", "RTMAX-15", "RTMIN+03",
        ] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
        assert_eq!("65".parse::<Signal>(), Err(SignalError::Unsupported(65)));
        assert_eq!(
            "SIGNOPE".parse::<Signal>().map_err(|e| e.to_string()),
            Err("invalid signal: SIGNOPE".into())
        );
    }
}
