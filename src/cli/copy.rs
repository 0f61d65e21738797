//! Files of containers: `cp`, `diff`, `export`, `commit`.
//!
//! Where things go to follows docker's rules (go-archive, copy.go): into a directory that there is,
//! over a file that there is, or under a new name beside others.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::args;
use super::engine::Client;
use super::http::{Body, Target};
use super::output::line;
use super::whole::Whole;
use crate::api::IdResponse;
use crate::api::container::FilesystemChange;
use crate::container::copy::{PathStat, local};
use crate::types::errno;
use crate::types::path::clean;
use crate::types::reference::Reference;

/// Go's bits of a mode for a directory and a link.
const DIRECTORY: u32 = 1 << 31;
const LINK: u32 = 1 << 27;
/// Those of everything that is neither these nor a file.
const SPECIAL: u32 = 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21;

/// Bytes between who makes an archive and who sends it.
const PIPE: usize = 1 << 20;

/// Container and path of an argument; a path of this host has no container.
fn split(argument: &str) -> (&str, &str) {
    match argument.split_once(':') {
        Some((container, path)) if !argument.starts_with(['/', '.']) => (container, path),
        _ => ("", argument),
    }
}

/// `moss cp`.
pub fn copy(client: &Client, copy: &args::Cp) -> Result<()> {
    match (split(&copy.source), split(&copy.destination)) {
        ((from, _), (to, _)) if !from.is_empty() && !to.is_empty() => {
            bail!("copying between containers is not supported")
        }
        (("", source), (container, destination)) if !container.is_empty() => {
            upload(client, copy, source, container, destination)
        }
        ((container, source), (_, destination)) if !container.is_empty() => {
            download(client, copy, container, source, destination)
        }
        _ => bail!("must specify at least one container source"),
    }
}

fn archive(container: &str, path: &str) -> Target {
    Target::new("/containers/{}/archive", &[container]).with("path", path)
}

/// What is at a path of a container.
fn stat(client: &Client, container: &str, path: &str) -> Result<PathStat> {
    let answer = client.ask("HEAD", &archive(container, path), Body::Empty)?;
    described(answer.head.field("x-docker-container-path-stat"))
}

fn described(header: Option<&str>) -> Result<PathStat> {
    let header = header.context("the engine does not say what it copies")?;
    Ok(serde_json::from_slice(&STANDARD.decode(header)?)?)
}

/// Whether a path asserts that it is a directory's.
fn asserts_directory(path: &str) -> bool {
    path.ends_with('/') || path.ends_with("/.") || path == "."
}

/// Directory and last part of a path.
fn parent(path: &str) -> (String, String) {
    let path = clean(path);
    match path.rsplit_once('/') {
        Some(("", base)) => ("/".to_owned(), base.to_owned()),
        Some((above, base)) => (above.to_owned(), base.to_owned()),
        None => (".".to_owned(), path),
    }
}

/// Where an archive is unpacked to, and what its first part is called there.
#[derive(Debug, PartialEq, Eq)]
struct Goal {
    directory: String,
    /// `None` leaves it as it is.
    name: Option<String>,
}

/// Chooses: `existing` says whether the destination is a directory, where there is one.
fn goal(destination: &str, existing: Option<bool>, from_directory: bool) -> Result<Goal> {
    let (directory, name) = parent(destination);
    let beside = Goal {
        directory,
        name: Some(name),
    };
    match existing {
        Some(true) => Ok(Goal {
            directory: destination.to_owned(),
            name: None,
        }),
        Some(false) if from_directory => bail!("cannot copy directory"),
        None if !from_directory && asserts_directory(destination) => bail!("no such directory"),
        _ => Ok(beside),
    }
}

fn absolute(path: &str) -> Result<String> {
    let found = std::path::absolute(path)?;
    let text = clean(&found.to_string_lossy());
    // A dot or slash at the end means something.
    Ok(match path {
        path if path.ends_with("/.") || path == "." => format!("{text}/."),
        path if path.ends_with('/') => format!("{text}/"),
        _ => text,
    })
}

fn download(
    client: &Client,
    copy: &args::Cp,
    container: &str,
    source: &str,
    destination: &str,
) -> Result<()> {
    let mut path = source.to_owned();
    let mut name = None;
    if copy.follow_link
        && let Ok(found) = stat(client, container, source)
        && found.mode & LINK != 0
    {
        name = Some(parent(source).1);
        path = found.link_target;
    }
    let mut answer = client.ask("GET", &archive(container, &path), Body::Empty)?;
    if destination == "-" {
        io::copy(&mut answer.body, &mut io::stdout())?;
        return Ok(io::stdout().flush()?);
    }
    let found = described(answer.head.field("x-docker-container-path-stat"))?;
    let destination = absolute(destination)?;
    let existing = std::fs::metadata(&destination)
        .ok()
        .map(|data| data.is_dir());
    let goal = goal(&destination, existing, found.mode & DIRECTORY != 0)?;
    let first = match asserts_directory(&path) && path.ends_with('.') {
        true => ".".to_owned(),
        false => parent(&path).1,
    };
    let name = goal.name.or(name);
    let rename = name.as_deref().map(|name| (&*first, name));
    local::unpack(answer.body, Path::new(&goal.directory), rename)?;
    if !copy.quiet && io::stderr().is_terminal() {
        super::output::complain(&format!("Successfully copied to {destination}"));
    }
    Ok(())
}

fn upload(
    client: &Client,
    copy: &args::Cp,
    source: &str,
    container: &str,
    destination: &str,
) -> Result<()> {
    let mut path = destination.to_owned();
    let mut found = stat(client, container, destination).ok();
    if let Some(link) = found.as_ref().filter(|found| found.mode & LINK != 0) {
        path.clone_from(&link.link_target);
        found = stat(client, container, &path).ok();
    }
    if found
        .as_ref()
        .is_some_and(|found| found.mode & SPECIAL != 0)
    {
        bail!("destination \"{container}:{destination}\" must be a directory or a regular file");
    }
    let existing = found.map(|found| found.mode & DIRECTORY != 0);
    let target = |directory: &str| {
        archive(container, directory)
            .with("noOverwriteDirNonDir", "true")
            .with_flag("copyUIDGID", copy.archive)
    };
    if source == "-" {
        if existing != Some(true) {
            bail!("destination \"{container}:{destination}\" must be a directory");
        }
        let answer = client.ask("PUT", &target(&path), Body::Stream(&mut io::stdin()))?;
        return finished(answer.body);
    }
    let source = absolute(source)?;
    let own = PathBuf::from(&source);
    let data = match copy.follow_link || asserts_directory(&source) {
        true => std::fs::metadata(&own),
        false => std::fs::symlink_metadata(&own),
    };
    let data = data.map_err(|error| anyhow!("lstat {source}: {}", errno::text(&error)))?;
    let goal = goal(&path, existing, data.is_dir())?;
    let name = match (goal.name, source.ends_with("/.")) {
        (Some(name), _) => name,
        (None, true) => ".".to_owned(),
        (None, false) => parent(&source).1,
    };
    let own = match copy.follow_link {
        true => resolved(&own)?,
        false => own,
    };
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // Where the user's limits do not allow it, it goes on with the usual size.
    let _ = fcntl_setpipe_size(&writer, PIPE);
    let mut reader = File::from(reader);
    let packing = std::thread::spawn(move || local::pack(&own, &name, writer));
    let sent = client.ask("PUT", &target(&goal.directory), Body::Stream(&mut reader));
    drop(reader);
    let packed = packing.join();
    finished(sent?.body)?;
    packed
        .map_err(|_| anyhow!("the archive was not made"))?
        .with_context(|| format!("cannot read {source}"))
}

/// What is behind links.
fn resolved(path: &Path) -> Result<PathBuf> {
    let file = File::open(path)?;
    Ok(std::fs::read_link(format!(
        "/proc/self/fd/{}",
        file.as_raw_fd()
    ))?)
}

fn finished(mut body: impl Read) -> Result<()> {
    io::copy(&mut body, &mut io::sink())?;
    Ok(())
}

/// `moss diff`.
pub fn diff(client: &Client, diff: &args::Diff) -> Result<()> {
    let target = Target::new("/containers/{}/changes", &[&diff.container]);
    let changes: Option<Vec<FilesystemChange>> = client.get(&target)?;
    for change in changes.unwrap_or_default() {
        let kind = match change.kind {
            0 => 'C',
            1 => 'A',
            _ => 'D',
        };
        line(&format!("{kind} {}", change.path))?;
    }
    Ok(())
}

/// `moss export`.
pub fn export(client: &Client, export: &args::Export) -> Result<()> {
    if export.output.is_none() && io::stdout().is_terminal() {
        bail!("cowardly refusing to save to a terminal. Use the -o flag or redirect");
    }
    let target = Target::new("/containers/{}/export", &[&export.container]);
    let whole = match &export.output {
        Some(path) => Some(Whole::create(path).context("failed to export container")?),
        None => None,
    };
    let mut answer = client.ask("GET", &target, Body::Empty)?;
    match whole {
        Some(whole) => (whole.write(&mut answer.body)).context("failed to export container"),
        None => {
            io::copy(&mut answer.body, &mut io::stdout())?;
            Ok(io::stdout().flush()?)
        }
    }
}

/// `moss commit`.
pub fn commit(client: &Client, commit: &args::Commit) -> Result<()> {
    let mut target = Target::new("/commit", &[])
        .with("container", &commit.container)
        .with_some("author", &commit.author)
        .with_some("comment", &commit.message)
        .with(
            "pause",
            if commit.no_pause || !commit.pause {
                0
            } else {
                1
            },
        );
    if let Some(name) = &commit.name {
        let name = Reference::parse_named(name).map_err(|error| anyhow!("{error}"))?;
        target = target
            .with("repo", name.familiar_name())
            .with_some("tag", name.tag().unwrap_or_default());
    }
    for change in &commit.change {
        target = target.with("changes", change);
    }
    let made: IdResponse = client.post_empty(&target)?;
    line(&made.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_name_a_container_or_none() {
        assert_eq!(split("box:/a:b"), ("box", "/a:b"));
        assert_eq!(split("/a:b"), ("", "/a:b"));
        assert_eq!(split("./a:b"), ("", "./a:b"));
        assert_eq!(split("a"), ("", "a"));
        assert_eq!(split("-"), ("", "-"));
    }

    #[test]
    fn things_go_where_docker_puts_them() {
        let to = |directory: &str, name: Option<&str>| Goal {
            directory: directory.to_owned(),
            name: name.map(str::to_owned),
        };
        assert_eq!(goal("/d", Some(true), true).unwrap(), to("/d", None));
        assert_eq!(
            goal("/d/f", Some(false), false).unwrap(),
            to("/d", Some("f"))
        );
        assert_eq!(goal("/new", None, true).unwrap(), to("/", Some("new")));
        assert_eq!(goal("/d/new/", None, true).unwrap(), to("/d", Some("new")));
        assert_eq!(goal("/d/new", None, false).unwrap(), to("/d", Some("new")));
        assert!(goal("/d/f", Some(false), true).is_err());
        assert!(goal("/d/new/", None, false).is_err());
    }
}
