//! Verbs on images.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::accounts::{self, PROOF};
use super::args;
use super::engine::Client;
use super::filters::filters;
use super::http::{Body, Target};
use super::output::each;
use super::progress;
use super::prune::{confirm, pruned};
use super::table::{Shape, ago, date, ellipsis, human_size, short, size, span};
use super::terminal::columns;
use super::tree;
use super::whole::Whole;
use crate::api::filters::Filters;
use crate::api::image::{DeleteResponse, HistoryItem, PruneResponse, Summary};
use crate::types::platform::{Platform, PlatformError};
use crate::types::reference::Reference;
use crate::types::timestamp::Timestamp;

const NONE: &str = "<none>";

/// Fields of an image's row, and their headings.
pub const HEADINGS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "VIRTUAL SIZE"),
];

/// `moss images`.
pub fn list(client: &Client, images: &args::Images) -> Result<()> {
    let mut given = images.listing.filter.clone();
    given.extend(images.name.iter().map(|name| format!("reference={name}")));
    let target = Target::new("/images/json", &[])
        .with_flag("all", images.all)
        .with_some("filters", &filters(&given)?);
    if images.tree {
        let (listing, format) = (&images.listing, images.listing.format.is_some());
        let other = [
            (listing.quiet, "--quiet"),
            (listing.no_trunc, "--no-trunc"),
            (images.digests, "--show-digest"),
            (format, "--format"),
        ];
        if let Some((_, flag)) = other.iter().find(|(given, _)| *given) {
            bail!("{flag} is not yet supported with --tree");
        }
        let mut found: Vec<Summary> = client.get(&target)?;
        found.retain(|image| images.all || !image.repo_tags.is_empty());
        let out = io::stdout();
        let width = out.is_terminal().then(|| columns(&out).unwrap_or(80));
        (&out).write_all(tree::draw(&found, width).as_bytes())?;
        return Ok(());
    }
    let found: Vec<Summary> = client.get(&target)?;
    let rows: Vec<Value> = found
        .iter()
        .flat_map(|image| rows(image, images.listing.no_trunc, images.digests))
        .collect();
    let mut columns = vec!["Repository", "Tag", "ID", "CreatedSince", "Size"];
    if images.digests {
        columns.insert(2, "Digest");
    }
    let shape = Shape {
        headings: HEADINGS,
        columns,
        key: "ID",
        row: "*formatter.imageContext",
    };
    shape.print(
        &rows,
        images.listing.format.as_deref(),
        images.listing.quiet,
    )
}

/// A row for each name of an image; one of its own where it has none.
pub fn rows(image: &Summary, full: bool, with_digests: bool) -> Vec<Value> {
    let digest_of = |repository: &str| {
        let digests = image
            .repo_digests
            .iter()
            .filter_map(|name| name.split_once('@'));
        digests
            .into_iter()
            .find(|(name, _)| *name == repository)
            .map_or(NONE, |(_, digest)| digest)
    };
    let mut names: Vec<(&str, &str, &str)> = image
        .repo_tags
        .iter()
        .filter_map(|name| name.rsplit_once(':'))
        .filter(|(repository, _)| *repository != NONE)
        .map(|(repository, tag)| (repository, tag, digest_of(repository)))
        .collect();
    if names.is_empty() {
        let digests = image
            .repo_digests
            .iter()
            .filter_map(|name| name.split_once('@'));
        names.extend(
            digests
                .filter(|(repository, _)| *repository != NONE)
                .map(|(repository, digest)| (repository, NONE, digest)),
        );
        if !with_digests {
            names.truncate(1);
        }
    }
    if names.is_empty() {
        names.push((NONE, NONE, NONE));
    }
    let (shared, unique) = match image.shared_size {
        ..0 => ("N/A".to_owned(), "N/A".to_owned()),
        shared => (human_size(shared), human_size(image.size - shared)),
    };
    let containers = match image.containers {
        ..0 => "N/A".to_owned(),
        count => count.to_string(),
    };
    names
        .into_iter()
        .map(|(repository, tag, digest)| {
            json!({
                "ID": if full { &image.id } else { short(&image.id) },
                "Repository": repository,
                "Tag": tag,
                "Digest": digest,
                "CreatedSince": since(image.created),
                "CreatedAt": date(image.created),
                "Size": size(image.size),
                "Containers": containers,
                "SharedSize": shared,
                "UniqueSize": unique,
                "VirtualSize": human_size(image.size),
            })
        })
        .collect()
}

/// How long ago; nothing for images without a date, as docker has it.
fn since(created: i64) -> String {
    if created <= 0 {
        "N/A".to_owned()
    } else {
        format!("{} ago", span(ago(created)))
    }
}

/// `moss pull`.
pub fn pull(client: &Client, pull: &args::Pull) -> Result<()> {
    trusted(&pull.trust)?;
    let name = Reference::parse_named(&pull.name).map_err(|error| anyhow!("{error}"))?;
    if pull.all_tags && !name.is_name_only() {
        bail!("tag can't be used with --all-tags/-a");
    }
    let name = if pull.all_tags {
        name
    } else {
        if name.is_name_only() && !pull.quiet {
            println!("Using default tag: latest");
        }
        name.with_default_tag()
    };
    fetch(client, &name, &pull.platform, &mut io::stdout(), pull.quiet)?;
    let whole = match (name.tag(), name.digest()) {
        (_, Some(digest)) => format!("{}@{digest}", name.repository()),
        (Some(tag), None) => format!("{}:{tag}", name.repository()),
        (None, None) => name.repository(),
    };
    println!("{whole}");
    Ok(())
}

/// Has the engine pull an image, or all of a repository's where the name says no more, and shows
/// how far it is.
pub fn fetch<W: Write + IsTerminal + AsFd>(
    client: &Client,
    name: &Reference,
    platform: &str,
    out: &mut W,
    quiet: bool,
) -> Result<()> {
    let tag = match name.digest() {
        Some(digest) => digest.to_string(),
        None => name.tag().unwrap_or_default().to_owned(),
    };
    let target = Target::new("/images/create", &[])
        .with("fromImage", name.familiar_name())
        .with_some("tag", &tag)
        .with_some("platform", platform);
    let proof = accounts::proof(name.domain());
    let answer = client.ask_with("POST", &target, &[(PROOF, &proof)], Body::Empty)?;
    progress::show(answer.body, out, quiet)
}

/// `moss push`.
pub fn push(client: &Client, push: &args::Push) -> Result<()> {
    trusted(&push.trust)?;
    let name = Reference::parse_named(&push.name).map_err(|error| anyhow!("{error}"))?;
    if push.all_tags && !name.is_name_only() {
        bail!("tag can't be used with --all-tags/-a");
    }
    let is_default = !push.all_tags && name.is_name_only();
    let name = match is_default {
        true => name.with_default_tag(),
        false => name,
    };
    if is_default && !push.quiet {
        println!("Using default tag: latest");
    }
    if name.digest().is_some() {
        bail!("cannot push a digest reference");
    }
    let mut target = Target::new("/images/{}/push", &[&name.familiar_name()])
        .with_some("tag", name.tag().unwrap_or_default());
    if let Some(platform) = described(&push.platform)? {
        target = target.with("platform", platform);
    }
    let proof = accounts::proof(name.domain());
    let answer = client.ask_with("POST", &target, &[(PROOF, &proof)], Body::Empty)?;
    progress::show(answer.body, &mut io::stdout(), push.quiet)?;
    if push.quiet {
        println!("{name}");
    }
    Ok(())
}

/// Refuses to go on for somebody who wants signatures to be looked at.
pub fn trusted(trust: &args::Trust) -> Result<()> {
    match trust.disable_content_trust {
        Some(false) => bail!("content trust is not supported: no signature can be verified"),
        _ => Ok(()),
    }
}

/// A platform as the engine wants it where it is not a pull's: JSON.
pub fn described(platform: &str) -> Result<Option<String>> {
    if platform.is_empty() {
        return Ok(None);
    }
    let platform: Platform = platform
        .parse()
        .map_err(|error: PlatformError| anyhow!("{error}"))?;
    Ok(Some(serde_json::to_string(&platform)?))
}

/// `moss load`.
pub fn load(client: &Client, load: &args::Load) -> Result<()> {
    let mut input: Box<dyn Read> = match &load.input {
        Some(path) => {
            Box::new(File::open(path).with_context(|| format!("open {}", path.display()))?)
        }
        None if io::stdin().is_terminal() => {
            bail!("requested load from stdin, but stdin is empty")
        }
        None => Box::new(io::stdin()),
    };
    let quiet = load.quiet || !io::stdout().is_terminal();
    let target = Target::new("/images/load", &[])
        .with("quiet", u8::from(quiet))
        .with_some("platform", &described(&load.platform)?.unwrap_or_default());
    let answer = client.ask("POST", &target, Body::Stream(&mut *input))?;
    progress::show(answer.body, &mut io::stdout(), load.quiet)
}

/// `moss save`.
pub fn save(client: &Client, save: &args::Save) -> Result<()> {
    if save.output.is_none() && io::stdout().is_terminal() {
        bail!("cowardly refusing to save to a terminal. Use the -o flag or redirect");
    }
    let mut target = Target::new("/images/get", &[]);
    for name in &save.names {
        target = target.with("names", name);
    }
    if let Some(platform) = described(&save.platform)? {
        target = target.with("platform", platform);
    }
    let whole = match &save.output {
        Some(path) => Some(Whole::create(path).context("failed to save image")?),
        None => None,
    };
    let mut answer = client.ask("GET", &target, Body::Empty)?;
    match whole {
        Some(whole) => whole
            .write(&mut answer.body)
            .context("failed to save image"),
        None => {
            let mut out = io::stdout();
            io::copy(&mut answer.body, &mut out)?;
            Ok(out.flush()?)
        }
    }
}

/// `moss import`.
pub fn import(client: &Client, import: &args::Import) -> Result<()> {
    let is_url = import.source.starts_with("http://") || import.source.starts_with("https://");
    let source = if is_url { import.source.as_str() } else { "-" };
    let mut target = Target::new("/images/create", &[])
        .with("fromSrc", source)
        .with_some("message", &import.message)
        .with_some("platform", &import.platform);
    if let Some(name) = &import.name {
        let name = Reference::parse_named(name).map_err(|error| anyhow!("{error}"))?;
        target = target
            .with("repo", name.familiar_name())
            .with_some("tag", name.tag().unwrap_or_default());
    }
    for change in &import.change {
        target = target.with("changes", change);
    }
    let mut input: Box<dyn Read> = match import.source.as_str() {
        _ if is_url => Box::new(io::empty()),
        "-" => Box::new(io::stdin()),
        path => Box::new(File::open(path).with_context(|| format!("open {path}"))?),
    };
    let answer = client.ask("POST", &target, Body::Stream(&mut *input))?;
    progress::show(answer.body, &mut io::stdout(), false)
}

/// `moss rmi`.
pub fn remove(client: &Client, rmi: &args::Rmi) -> Result<()> {
    let platforms = rmi.platform.iter().map(|text| described(text));
    let platforms = platforms.collect::<Result<Vec<_>>>()?;
    each(&rmi.names, |name| {
        let mut target = Target::new("/images/{}", &[name])
            .with_flag("force", rmi.force)
            .with_flag("noprune", rmi.no_prune);
        for platform in platforms.iter().flatten() {
            target = target.with("platforms", platform);
        }
        let text = client.bytes("DELETE", &target, Body::Empty)?;
        let gone: Vec<DeleteResponse> = serde_json::from_slice(&text)?;
        Ok(removed(&gone).join("\n"))
    })
}

fn removed(gone: &[DeleteResponse]) -> Vec<String> {
    gone.iter()
        .map(|item| {
            if item.deleted.is_empty() {
                format!("Untagged: {}", item.untagged)
            } else {
                format!("Deleted: {}", item.deleted)
            }
        })
        .collect()
}

/// `moss tag`.
pub fn tag(client: &Client, tag: &args::Tag) -> Result<()> {
    let name = Reference::parse(&tag.target).map_err(|error| {
        anyhow!(
            "Error parsing reference: {:?} is not a valid repository/tag: {error}",
            tag.target
        )
    })?;
    if name.digest().is_some() {
        bail!("refusing to create a tag with a digest reference");
    }
    let target = Target::new("/images/{}/tag", &[&tag.source])
        .with("repo", name.familiar_name())
        .with_some("tag", name.tag().unwrap_or_default());
    client.act(&target)
}

const HISTORY: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

/// `moss history`.
pub fn history(client: &Client, history: &args::History) -> Result<()> {
    let target = Target::new("/images/{}/history", &[&history.name]).with_some(
        "platform",
        &described(&history.platform)?.unwrap_or_default(),
    );
    let items: Vec<HistoryItem> = client.get(&target)?;
    let full = history.no_trunc;
    let rows: Vec<Value> = items
        .iter()
        .map(|item| {
            let created_by = item.created_by.replace('\t', " ");
            let at = Timestamp::from_seconds(item.created).to_string();
            let (created, bytes) = if history.human {
                (since(item.created), size(item.size))
            } else {
                (at.clone(), item.size.to_string())
            };
            json!({
                "ID": if full || !item.id.starts_with("sha256:") { &item.id } else { short(&item.id) },
                "CreatedSince": created,
                "CreatedAt": at,
                "CreatedBy": if full { created_by } else { ellipsis(&created_by, 45) },
                "Size": bytes,
                "Comment": item.comment,
            })
        })
        .collect();
    let shape = Shape {
        headings: HISTORY,
        columns: vec!["ID", "CreatedSince", "CreatedBy", "Size", "Comment"],
        key: "ID",
        row: "*image.historyContext",
    };
    shape.print(&rows, history.format.as_deref(), history.quiet)
}

/// `moss image prune`.
pub fn prune(client: &Client, prune: &args::Prune) -> Result<()> {
    let warning = if prune.all {
        "WARNING! This will remove all images without at least one container associated to them."
    } else {
        "WARNING! This will remove all dangling images."
    };
    if !prune.force && !confirm(warning)? {
        return Ok(());
    }
    let (names, bytes) = clear(client, prune.all, &prune.filter)?;
    pruned("Deleted Images:", &names, bytes)
}

/// Removes images that nothing uses, of those with names too where `all` is set; a line for each,
/// and the bytes that they took.
pub fn clear(client: &Client, all: bool, given: &[String]) -> Result<(Vec<String>, u64)> {
    let mut filters = Filters::parse(&filters(given)?)?;
    filters.add("dangling", if all { "false" } else { "true" });
    let filters = serde_json::to_string(&filters)?;
    let gone: PruneResponse =
        client.post_empty(&Target::new("/images/prune", &[]).with("filters", filters))?;
    let lines = removed(&gone.images_deleted.unwrap_or_default())
        .into_iter()
        .map(|line| {
            line.replacen("Untagged", "untagged", 1)
                .replacen("Deleted", "deleted", 1)
        })
        .collect();
    Ok((lines, gone.space_reclaimed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_row_for_each_name() {
        let image = Summary {
            id: format!("sha256:{}", "a".repeat(64)),
            repo_tags: vec!["debian:12".into(), "registry:5000/x:latest".into()],
            repo_digests: vec!["debian@sha256:b".into()],
            containers: -1,
            size: 116_600_000,
            created: 1,
            ..Summary::default()
        };
        let found = rows(&image, false, false);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0]["Repository"], "debian");
        assert_eq!(found[0]["Digest"], "sha256:b");
        assert_eq!(found[1]["Repository"], "registry:5000/x");
        assert_eq!(found[1]["Tag"], "latest");
        assert_eq!(found[0]["Size"], "117MB");
        let nameless = Summary {
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            ..image
        };
        assert_eq!(rows(&nameless, false, false)[0]["Tag"], NONE);
        let fields = found[0].as_object().unwrap();
        assert!(
            fields
                .keys()
                .all(|name| HEADINGS.iter().any(|(field, _)| field == name))
        );
    }
}
