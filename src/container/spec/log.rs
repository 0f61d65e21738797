//! Where output may go, and how: log drivers and their options.
//!
//! dockerd looks at names when a container is made and at values when its logger is opened, which
//! is at the start; so [`validate`] and [`check_values`] are two. (moby: `daemon/logger/factory.go`,
//! `jsonfilelog.go`, `local/config.go`, `syslog.go`, `loggerutils/cache/validate.go`.)

use super::Error;
use crate::api::container::LogConfig;
use crate::container::logs::syslog;
use crate::types::{boolean, size};

/// The driver where none is named.
pub const DEFAULT_DRIVER: &str = "json-file";

/// The drivers that there are, but for `none`, which is none.
pub const DRIVERS: [&str; 4] = ["journald", "json-file", "local", "syslog"];

/// Options of any driver.
const GENERAL: [&str; 11] = [
    "mode",
    "max-buffer-size",
    "cache-disabled",
    "cache-max-file",
    "cache-max-size",
    "cache-compress",
    "cache-labels",
    "cache-labels-regex",
    "cache-env",
    "cache-env-regex",
    "cache-tag",
];

/// More options of any driver: what a message says of its container.
const ATTRIBUTES: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];

/// Options of the drivers that write files.
const OF_FILES: [&str; 3] = ["max-file", "max-size", "compress"];

/// Options of `syslog`.
const OF_SYSLOG: [&str; 7] = [
    "syslog-address",
    "syslog-facility",
    "syslog-tls-ca-cert",
    "syslog-tls-cert",
    "syslog-tls-key",
    "syslog-tls-skip-verify",
    "syslog-format",
];

/// Puts the daemon's choice under a container's: the driver where none is named, and its options
/// where the driver is the daemon's. Those of the cache are anyone's.
pub fn merge(log: &mut LogConfig, default: &LogConfig) {
    let driver = match default.kind.as_str() {
        "" => DEFAULT_DRIVER,
        driver => driver,
    };
    if log.kind.is_empty() {
        driver.clone_into(&mut log.kind);
    }
    let options = log.config.get_or_insert_default();
    let own = log.kind == driver;
    for (name, value) in default.config.iter().flatten() {
        if own || name.starts_with("cache-") {
            options.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// Refuses drivers that there are not, and options that they do not have.
///
/// # Errors
/// In dockerd's words.
pub fn validate(log: &LogConfig) -> Result<(), Error> {
    if log.kind == "none" {
        return Ok(());
    }
    let invalid = |text: String| Err(Error::Invalid(text));
    let empty = Default::default();
    let options = log.config.as_ref().unwrap_or(&empty);
    let mode = options.get("mode").map_or("", String::as_str);
    if !matches!(mode, "" | "blocking" | "non-blocking") {
        return invalid(format!("logger: logging mode not supported: {mode}"));
    }
    if let Some(buffer) = options.get("max-buffer-size") {
        if mode != "non-blocking" {
            return invalid(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
                    .to_owned(),
            );
        }
        if let Err(why) = size::memory(buffer) {
            return invalid(format!("error parsing option max-buffer-size: {why}"));
        }
    }
    if let Some(value) = options
        .get("cache-disabled")
        .filter(|text| !text.is_empty())
        && boolean::parse(value).is_err()
    {
        return invalid(format!("invalid value for option cache-disabled: {value}"));
    }
    let (of_driver, own) = match log.kind.as_str() {
        "" | "json-file" => ("json-file log driver", &OF_FILES[..]),
        "local" => ("log driver local", &OF_FILES[..]),
        "syslog" => ("syslog log driver", &OF_SYSLOG[..]),
        "journald" => ("journald log driver", &[][..]),
        other => {
            return invalid(format!(
                "logger: no log driver named '{other}' is registered"
            ));
        }
    };
    let known =
        |name: &str| own.contains(&name) || ATTRIBUTES.contains(&name) || GENERAL.contains(&name);
    if let Some(name) = options.keys().find(|name| !known(name)) {
        return invalid(format!("unknown log opt '{name}' for {of_driver}"));
    }
    if log.kind == "syslog" {
        let option = |name: &str| options.get(name).map_or("", String::as_str);
        syslog::Address::parse(option("syslog-address")).map_err(Error::Invalid)?;
        syslog::facility(option("syslog-facility")).map_err(Error::Invalid)?;
        syslog::Layout::parse(option("syslog-format")).map_err(Error::Invalid)?;
    }
    Ok(())
}

/// Whether a driver's messages go elsewhere, and what is read is a copy.
pub fn is_remote(log: &LogConfig) -> bool {
    matches!(log.kind.as_str(), "syslog" | "journald")
}

/// Whether there is such a copy.
pub fn is_cached(log: &LogConfig) -> bool {
    let disabled = log
        .config
        .as_ref()
        .and_then(|options| options.get("cache-disabled"));
    disabled.is_none_or(|text| boolean::parse(text) != Ok(true))
}

/// Refuses values that make no log file.
///
/// # Errors
/// In dockerd's words, without what it puts before them.
pub fn check_values(log: &LogConfig) -> Result<(), String> {
    let prefix = match log.kind.as_str() {
        "none" => return Ok(()),
        "syslog" | "journald" if !is_cached(log) => return Ok(()),
        "syslog" | "journald" => "cache-",
        _ => "",
    };
    check_files(log, prefix).map_err(|why| match prefix {
        "" => why,
        _ => format!(
            "error setting up local container log cache: error initializing local log cache \
             driver: {why}"
        ),
    })
}

/// Refuses values of options of files, whose names begin with `prefix`.
fn check_files(log: &LogConfig, prefix: &str) -> Result<(), String> {
    let local = log.kind == "local" || is_remote(log);
    let option = |name: &str| {
        let options = log.config.as_ref();
        options.and_then(|options| options.get(&format!("{prefix}{name}")))
    };
    let named = |name: &str, value: &str, why: String| match local {
        true => format!("invalid value for {name}: {value}: {why}"),
        false => why,
    };
    let most = match option("max-size") {
        Some(value) => Some(size::file(value).map_err(|why| named("max-size", value, why))?),
        None => None,
    };
    let files = match option("max-file") {
        Some(value) => {
            let number = value.parse::<i64>().map_err(|_| {
                let why = format!("strconv.Atoi: parsing {value:?}: invalid syntax");
                named("max-file", value, why)
            })?;
            Some(number)
        }
        None => None,
    };
    let compress = option("compress").map(|value| boolean::parse(value));
    let compress = compress.transpose().map_err(|why| match local {
        true => format!("invalid boolean value for compress: {why}"),
        false => why.to_string(),
    })?;
    if local {
        return match files {
            Some(files) if files < 0 => Err("max-file must not be negative".to_owned()),
            Some(0 | 1) if compress != Some(false) => {
                Err("compression cannot be enabled when max file count is 1".to_owned())
            }
            _ => Ok(()),
        };
    }
    let compress = compress == Some(true);
    let refused = if most == Some(0) {
        "max-size must be a positive number"
    } else if files.is_some_and(|files| files < 1) {
        "max-file cannot be less than 1"
    } else if compress && (files.unwrap_or(1) < 2 || most.is_none()) {
        "compress cannot be true when max-file is less than 2 or max-size is not set"
    } else {
        return Ok(());
    };
    Err(refused.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(kind: &str, options: &[(&str, &str)]) -> LogConfig {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        LogConfig {
            kind: kind.to_owned(),
            config: Some(options.iter().map(pair).collect()),
        }
    }

    #[test]
    fn names_are_judged() {
        for (log, expected) in [
            (log("", &[("max-size", "bad"), ("tag", "x")]), None),
            (log("none", &[("x", "y")]), None),
            (
                log("local", &[("x", "y")]),
                Some("unknown log opt 'x' for log driver local"),
            ),
            (
                log("json-file", &[("x", "y")]),
                Some("unknown log opt 'x' for json-file log driver"),
            ),
            (
                log("json-file", &[("cache-disabled", "x")]),
                Some("invalid value for option cache-disabled: x"),
            ),
            (
                log(
                    "local",
                    &[("cache-disabled", "t"), ("cache-max-size", "1m")],
                ),
                None,
            ),
            (
                log("syslog", &[("max-size", "1m")]),
                Some("unknown log opt 'max-size' for syslog log driver"),
            ),
            (
                log("syslog", &[("syslog-address", "http://x")]),
                Some("unsupported scheme: 'http'"),
            ),
            (
                log("syslog", &[("syslog-facility", "x"), ("tag", "t")]),
                Some("invalid syslog facility"),
            ),
            (
                log("syslog", &[("syslog-format", "x")]),
                Some("Invalid syslog format"),
            ),
            (
                log("journald", &[("syslog-format", "x")]),
                Some("unknown log opt 'syslog-format' for journald log driver"),
            ),
            (log("journald", &[("cache-max-size", "x")]), None),
            (
                log("gelf", &[]),
                Some("logger: no log driver named 'gelf' is registered"),
            ),
            (
                log("", &[("mode", "x")]),
                Some("logger: logging mode not supported: x"),
            ),
            (
                log("", &[("max-buffer-size", "1m")]),
                Some("logger: max-buffer-size option is only supported with 'mode=non-blocking'"),
            ),
            (
                log("", &[("max-buffer-size", "m"), ("mode", "non-blocking")]),
                Some("error parsing option max-buffer-size: invalid size: 'm'"),
            ),
        ] {
            let refused = validate(&log).err().map(|error| error.to_string());
            assert_eq!(refused.as_deref(), expected, "{log:?}");
        }
    }

    #[test]
    fn values_are_judged() {
        for (log, expected) in [
            (
                log("json-file", &[("max-size", "10m"), ("max-file", "3")]),
                None,
            ),
            (log("local", &[("compress", "true")]), None),
            (log("none", &[("max-size", "bad")]), None),
            (
                log("json-file", &[("max-size", "bad")]),
                Some("invalid size: 'bad'"),
            ),
            (
                log("json-file", &[("max-size", "0")]),
                Some("max-size must be a positive number"),
            ),
            (
                log("json-file", &[("max-file", "0")]),
                Some("max-file cannot be less than 1"),
            ),
            (
                log("json-file", &[("compress", "true")]),
                Some("compress cannot be true when max-file is less than 2 or max-size is not set"),
            ),
            (
                log("local", &[("max-size", "bad")]),
                Some("invalid value for max-size: bad: invalid size: 'bad'"),
            ),
            (
                log("journald", &[("cache-max-size", "x")]),
                Some(
                    "error setting up local container log cache: error initializing local log \
                     cache driver: invalid value for max-size: x: invalid size: 'x'",
                ),
            ),
            (
                log(
                    "journald",
                    &[("cache-max-size", "x"), ("cache-disabled", "1")],
                ),
                None,
            ),
            (
                log("local", &[("max-file", "1")]),
                Some("compression cannot be enabled when max file count is 1"),
            ),
            (log("local", &[("max-file", "1"), ("compress", "0")]), None),
            (
                log("local", &[("compress", "x")]),
                Some(
                    "invalid boolean value for compress: strconv.ParseBool: parsing \"x\": invalid \
                     syntax",
                ),
            ),
        ] {
            let refused = check_values(&log).err();
            assert_eq!(refused.as_deref(), expected, "{log:?}");
        }
    }

    #[test]
    fn the_daemons_choice_lies_under_the_containers() {
        let default = log("local", &[("max-size", "1m"), ("max-file", "2")]);
        let mut unsaid = log("", &[("max-file", "5")]);
        merge(&mut unsaid, &default);
        assert_eq!(
            unsaid,
            log("local", &[("max-size", "1m"), ("max-file", "5")])
        );
        let mut other = log("json-file", &[]);
        merge(&mut other, &default);
        assert_eq!(other, log("json-file", &[]));
        let mut other = log("json-file", &[]);
        merge(&mut other, &log("local", &[("cache-max-size", "1m")]));
        assert_eq!(other, log("json-file", &[("cache-max-size", "1m")]));
        let mut alone = LogConfig::default();
        merge(&mut alone, &LogConfig::default());
        assert_eq!(alone, log("json-file", &[]));
    }
}
