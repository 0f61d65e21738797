//! `--change`: a Dockerfile's instructions applied to an image's configuration.
//!
//! As the builder would, one after the other: an `ENV` is known to those after it. Pure.

use std::net::IpAddr;

use super::config::{Config, Healthcheck};
use crate::api::Empty;
use crate::dockerfile::instruction::{self, CommandLine, Instruction};
use crate::dockerfile::words::Expander;
use crate::dockerfile::{Changes, Error};
use crate::types::path;
use crate::types::port::{Port, Protocol};
use crate::types::signal::Signal;

/// The shell of the shell forms where the image names none.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

impl Config {
    /// Applies changes as `docker import` and `docker commit` take them: lines of a Dockerfile
    /// that make no layer.
    pub fn change(mut self, changes: &[String]) -> Result<Self, Error> {
        let changes = Changes::parse(changes)?;
        // An ENTRYPOINT takes away the base's CMD, but none of these changes.
        let mut has_command = false;
        for instruction in &changes.instructions {
            if let Instruction::Cmd(line) = instruction {
                has_command |= !line.words.is_empty();
            }
            self.apply(instruction, changes.escape, has_command)?;
        }
        Ok(self)
    }

    fn apply(
        &mut self,
        instruction: &Instruction,
        escape: char,
        has_command: bool,
    ) -> Result<(), Error> {
        let environment = self.env.clone();
        let variable = |name: &str| {
            // The last of equal names holds.
            let mut pairs = environment.iter().rev().map(|pair| split(pair));
            let found = pairs.find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_owned())
        };
        let expander = Expander::new(escape, &variable);
        let expand = |(name, value): &(String, String)| {
            Ok::<_, Error>((expander.word(name)?, expander.word(value)?))
        };
        match instruction {
            Instruction::Cmd(line) => self.cmd = Some(self.command(line)),
            Instruction::Entrypoint(line) => {
                let is_said = !line.words.is_empty();
                self.entrypoint = is_said.then(|| self.command(line));
                if !has_command {
                    self.cmd = None;
                }
            }
            Instruction::Env(pairs) => {
                let pairs = pairs.iter().map(expand).collect::<Result<Vec<_>, _>>()?;
                for (name, value) in pairs {
                    let mut known = self.env.iter_mut();
                    let pair = format!("{name}={value}");
                    match known.find(|known| split(known).0 == name) {
                        Some(known) => *known = pair,
                        None => self.env.push(pair),
                    }
                }
            }
            Instruction::Label(pairs) => {
                let pairs = pairs.iter().map(expand).collect::<Result<Vec<_>, _>>()?;
                self.labels.get_or_insert_default().extend(pairs);
            }
            Instruction::Expose(words) => {
                let mut ports = Vec::new();
                for word in words {
                    for text in expander.words(word)? {
                        ports.extend(exposed(&text)?);
                    }
                }
                let known = self.exposed_ports.get_or_insert_default();
                known.extend(ports.iter().map(|port| (port.to_string(), Empty {})));
            }
            Instruction::Healthcheck(check) => self.healthcheck = Some(check.into()),
            Instruction::Onbuild(line) => {
                self.on_build.get_or_insert_default().push(line.clone());
            }
            Instruction::StopSignal(word) => {
                let signal = expander.word(word)?;
                signal.parse::<Signal>()?;
                self.stop_signal = signal;
            }
            Instruction::User(word) => self.user = expander.word(word)?,
            Instruction::Volume(words) => {
                let paths = words.iter().map(|word| expander.word(word));
                let paths = paths.collect::<Result<Vec<_>, _>>()?;
                if paths.iter().any(String::is_empty) {
                    return Err(Error::EmptyVolume);
                }
                let volumes = self.volumes.get_or_insert_default();
                volumes.extend(paths.into_iter().map(|path| (path, Empty {})));
            }
            Instruction::Workdir(word) => {
                let path = expander.word(word)?;
                self.working_dir = match path.chars().next() {
                    None => return Err(Error::EmptyWorkdir),
                    Some('/') => path::clean(&path),
                    Some(_) => path::clean(&format!("{}/{path}", self.working_dir)),
                };
            }
        }
        Ok(())
    }

    fn command(&self, line: &CommandLine) -> Vec<String> {
        let shell = match self.shell.as_deref() {
            _ if !line.shell => Vec::new(),
            None | Some([]) => SHELL.map(str::to_owned).to_vec(),
            Some(shell) => shell.to_vec(),
        };
        shell
            .into_iter()
            .chain(line.words.iter().cloned())
            .collect()
    }
}

impl From<&instruction::Healthcheck> for Healthcheck {
    fn from(check: &instruction::Healthcheck) -> Self {
        Self {
            test: check.test.clone(),
            interval: check.interval.nanos(),
            timeout: check.timeout.nanos(),
            start_period: check.start_period.nanos(),
            start_interval: check.start_interval.nanos(),
            retries: check.retries,
        }
    }
}

/// The name and value of `NAME=value`.
fn split(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

/// The ports of `[[address:]port:]port[-port][/protocol]`. Address and port of the host are
/// checked, as Docker does, and mean nothing.
fn exposed(text: &str) -> Result<Vec<Port>, Error> {
    let parts: Vec<&str> = text.rsplitn(3, ':').collect();
    let (address, host, container) = match parts[..] {
        [container, host, address] => (address, host, container),
        [container, host] => ("", host, container),
        _ => ("", "", text),
    };
    let (numbers, protocol) = container.split_once('/').unwrap_or((container, ""));
    if numbers.is_empty() {
        return Err(Error::Port(format!("no port specified: {text}<empty>")));
    }
    let protocol: Protocol = protocol
        .parse()
        .map_err(|_| Error::Port(format!("invalid proto: {}", protocol.to_lowercase())))?;
    let bare = address
        .strip_prefix('[')
        .and_then(|address| address.strip_suffix(']'))
        .unwrap_or(address);
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(Error::Port(format!(
            "invalid IP address: ParseAddr({bare:?}): unable to parse IP"
        )));
    }
    let range = |text: &str| Port::parse_range(text);
    let ports =
        range(numbers).map_err(|_| Error::Port(format!("invalid containerPort: {numbers}")))?;
    if !host.is_empty() {
        let hosts = range(host).map_err(|_| Error::Port(format!("invalid hostPort: {host}")))?;
        if ports.len() != hosts.len() && ports.len() > 1 {
            return Err(Error::Port(format!(
                "invalid ranges specified for container and host Ports: {numbers} and {host}"
            )));
        }
    }
    let ports = ports.into_iter().map(|port| Port { protocol, ..port });
    Ok(ports.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(config: &Config, changes: &[&str]) -> Result<Config, String> {
        let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
        let changed = config.clone().change(&changes);
        changed.map_err(|error| error.to_string())
    }

    #[test]
    fn each_line_knows_those_before() {
        let config = change(
            &Config::default(),
            &[
                "ENV a=1 b=$a\nENV c=\"$a x\" a=2",
                "LABEL $a='$a'",
                "WORKDIR /x/",
                "WORKDIR ../y/$c",
                "EXPOSE 8080:80 $a 90-91/UDP",
                "VOLUME /v$a [x",
                "USER $nobody:$a",
                "STOPSIGNAL SIG$sig\\INT",
                "ONBUILD RUN $a",
                "HEALTHCHECK --interval=1s CMD $a",
            ],
        );
        let expected = serde_json::json!({
            "Env": ["a=2", "b=", "c=1 x"],
            "Labels": {"2": "$a"},
            "WorkingDir": "/y/1 x",
            "ExposedPorts": {"80/tcp": {}, "2/tcp": {}, "90/udp": {}, "91/udp": {}},
            "Volumes": {"/v2": {}, "[x": {}},
            "User": ":2",
            "StopSignal": "SIGINT",
            "OnBuild": ["RUN $a"],
            "Healthcheck": {"Test": ["CMD-SHELL", "$a"], "Interval": 1_000_000_000},
        });
        assert_eq!(serde_json::to_value(config.unwrap()).unwrap(), expected);
    }

    #[test]
    fn commands_take_the_shell_and_each_other() {
        let words = |words: &[&str]| Some(words.iter().map(ToString::to_string).collect());
        let base = Config {
            cmd: words(&["old"]),
            ..Config::default()
        };
        for (changes, entrypoint, cmd) in [
            (
                &["CMD echo $x"][..],
                None,
                words(&["/bin/sh", "-c", "echo $x"]),
            ),
            (&["CMD []"], None, words(&[])),
            (&["CMD"], None, words(&["/bin/sh", "-c"])),
            (&["ENTRYPOINT [\"a\"]"], words(&["a"]), None),
            (&["ENTRYPOINT a"], words(&["/bin/sh", "-c", "a"]), None),
            (&["ENTRYPOINT"], None, None),
            (
                &["CMD [\"b\"]", "ENTRYPOINT [\"a\"]"],
                words(&["a"]),
                words(&["b"]),
            ),
            (
                &["ENTRYPOINT [\"a\"]", "CMD [\"b\"]"],
                words(&["a"]),
                words(&["b"]),
            ),
        ] {
            let config = change(&base, changes).unwrap();
            assert_eq!(
                (config.entrypoint, config.cmd),
                (entrypoint, cmd),
                "{changes:?}"
            );
        }
        assert_eq!(change(&base, &[]).unwrap(), base);
        let own = Config {
            shell: words(&["/bin/bash", "-ec"]),
            ..base
        };
        let config = change(&own, &["CMD x"]).unwrap();
        assert_eq!(config.cmd, words(&["/bin/bash", "-ec", "x"]));
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_dockers_words() {
        for (line, expected) in [
            ("", "file with no instructions"),
            ("ADD a b", "ADD is not a valid change command"),
            ("WORKDIR $nothing", "cannot normalize nothing"),
            (
                "VOLUME $nothing",
                "VOLUME specified can not be an empty string",
            ),
            ("STOPSIGNAL SIGFOO", "invalid signal: SIGFOO"),
            ("EXPOSE x", "invalid containerPort: x"),
            ("EXPOSE 9-8", "invalid containerPort: 9-8"),
            ("EXPOSE 80/foo", "invalid proto: foo"),
            ("EXPOSE /tcp", "no port specified: /tcp<empty>"),
            ("EXPOSE x:80", "invalid hostPort: x"),
            (
                "EXPOSE 1-3:80-81",
                "invalid ranges specified for container and host Ports: 80-81 and 1-3",
            ),
            (
                "EXPOSE a.b:1:80",
                "invalid IP address: ParseAddr(\"a.b\"): unable to parse IP",
            ),
            (
                "ENV a='b",
                "failed to process \"'b\": unexpected end of statement while looking for matching single-quote",
            ),
        ] {
            assert_eq!(
                change(&Config::default(), &[line]),
                Err(expected.to_owned()),
                "{line}"
            );
        }
    }
}
