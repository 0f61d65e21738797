//! clap bent to docker's flags: pflag's rules for words, and the checks of docker's flags.
//!
//! A switch may be spelled out (`--rm=false`), a flag be given twice, and a flag that needs a value
//! takes the next word whatever it begins with. Texts may hold any bytes. What docker checks as it
//! reads a flag is checked here, by the flag's name, so that it is refused before anything is asked
//! of an engine; what it checks of all flags together is in [`crate::cli::create`].

use std::any::TypeId;
use std::ffi::OsString;
use std::num::{IntErrorKind, ParseIntError};
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, Command};

use crate::cli::create::{blkio, devices, network, values};
use crate::types::{boolean, size, utf8};

/// A word as the engine is sent it: docker's client writes U+FFFD for a byte that is no UTF-8.
pub(super) fn text(word: &[u8]) -> String {
    utf8::lossy(word).into_owned()
}

/// A parser of any bytes.
fn reader<T: Clone + Send + Sync + 'static>(
    read: impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static,
) -> impl TypedValueParser<Value = T> {
    OsStringValueParser::new().try_map(move |word: OsString| read(&text(word.as_bytes())))
}

/// A whole number; `function` is Go's, which words the error.
fn number<T: FromStr<Err = ParseIntError>>(text: &str, function: &str) -> Result<T, String> {
    text.parse().map_err(|error: ParseIntError| {
        let why = match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.{function}: parsing {text:?}: {why}")
    })
}

/// A command whose flags, and those of the commands in it, are read as docker reads its own.
pub(super) fn bent(command: Command) -> Command {
    // dockerd's flags are checked with daemon.json.
    let is_dockers = command.get_name() != "daemon";
    let adjust = |arg: Arg| {
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            return arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .default_value("false")
                .value_parser(boolean::parse);
        }
        let takes_a_word = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
            && !arg.is_positional()
            && !arg.is_require_equals_set();
        let arg = match takes_a_word {
            true => arg.allow_hyphen_values(true),
            false => arg,
        };
        let of = arg.get_value_parser().type_id();
        let check = check(arg.get_id().as_str()).filter(|_| is_dockers && !arg.is_positional());
        if of == TypeId::of::<String>() {
            arg.value_parser(reader(move |word| match check {
                Some(check) => check(word).map(|()| word.to_owned()),
                None => Ok(word.to_owned()),
            }))
        } else if of == TypeId::of::<i64>() {
            arg.value_parser(reader(|word| number::<i64>(word, "ParseInt")))
        } else if of == TypeId::of::<u64>() {
            arg.value_parser(reader(|word| number::<u64>(word, "ParseUint")))
        } else if of == TypeId::of::<u16>() {
            arg.value_parser(reader(|word| number::<u16>(word, "ParseUint")))
        } else {
            arg
        }
    };
    command
        .args_override_self(true)
        .mut_args(adjust)
        .mut_subcommands(bent)
}

/// Whether a flag's value can be read; docker's words where it cannot.
type Check = fn(&str) -> Result<(), String>;

/// What docker checks of the flag of this name, whichever verb has it (docker/cli, package opts).
fn check(flag: &str) -> Option<Check> {
    Some(match flag {
        "add_host" => |text| values::extra_host(text).map(drop),
        "attach" => |text| match text.to_ascii_lowercase().as_str() {
            "stdin" | "stdout" | "stderr" => Ok(()),
            _ => Err("valid streams are STDIN, STDOUT and STDERR".into()),
        },
        "blkio_weight_device" => |text| blkio::weight(text).map(drop),
        "cpus" => |text| values::cpus(text).map(drop),
        "device_cgroup_rule" => devices::cgroup_rule,
        "device_read_bps" | "device_write_bps" => |text| blkio::bytes_rate(text).map(drop),
        "device_read_iops" | "device_write_iops" => |text| blkio::operations_rate(text).map(drop),
        "dns" => |text| match text.trim().parse::<std::net::IpAddr>() {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("IP address is not correctly formatted: {text}")),
        },
        "dns_search" => values::search_domain,
        "env" => |text| match text.split('=').next() {
            None | Some("") => Err(format!("invalid environment variable: {text}")),
            Some(_) => Ok(()),
        },
        "filter" => |text| match text.is_empty() || text.contains('=') {
            true => Ok(()),
            false => Err("bad format of filter (expected name=value)".into()),
        },
        "gpus" => |text| devices::gpus(text).map(drop),
        "health_interval" | "health_start_interval" | "health_start_period" | "health_timeout" => {
            |text| values::duration(text).map(drop)
        }
        "kernel_memory" | "memory" | "memory_reservation" | "shm_size" => {
            |text| size::memory(text).map(drop)
        }
        "label" => values::label,
        "link" => values::link,
        "memory_swap" => |text| match text {
            "-1" => Ok(()),
            text => size::memory(text).map(drop),
        },
        "mount" => |text| values::mount(text).map(drop),
        "network" => |text| network::attachment(text).map(drop),
        "sysctl" => values::sysctl,
        "ulimit" => |text| values::limit(text).map(drop),
        _ => return None,
    })
}
