//! The image `hello:latest`, which is built into the program.
//!
//! So `moss run hello` works with no registry and no network. Its one layer holds one file, the
//! program that `build.rs` compiled from `src/hello`; the archive is made in memory, without dates
//! or names of anybody, so that one build of moss always makes the same image, and goes in by the
//! ordinary way of [`Store::load`], when a container is to be made of it ([`ensure`]): a store that
//! nobody put anything into is empty, as clients expect. A later build replaces it ([`renew`]); an
//! image of that name that someone else made is left alone.

use std::io;

use serde_json::json;

use super::error::{Error, ErrorKind};
use super::store::Store;
use crate::types::digest::Digest;
use crate::types::platform::Platform;
use crate::types::reference::Reference;

/// The program: a static executable that needs nothing of its image.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello"));

/// What the image is called.
pub const NAME: &str = "hello:latest";

/// The label by which an image of ours is known.
const LABEL: &str = "moss.builtin";

/// Whether this is what the image is called.
pub fn is_named(name: &str) -> bool {
    let name = Reference::parse(name);
    name.is_ok_and(|name| name.digest().is_none() && name.familiar() == NAME)
}

/// Sees to it that a store which has the image has that of this build.
///
/// # Errors
/// Those of [`ensure`].
pub fn renew(store: &Store) -> Result<(), Error> {
    match store.get(NAME) {
        Ok(_) => ensure(store),
        Err(_) => Ok(()),
    }
}

/// Sees to it that the store has the image, as this build makes it.
///
/// # Errors
/// When the image cannot be loaded or the former one not removed.
pub fn ensure(store: &Store) -> Result<(), Error> {
    let image = Archive::of(PROGRAM).map_err(Error::Source)?;
    let former = match store.get(NAME) {
        Ok(found) if found.id == image.id => return Ok(()),
        Ok(found) if !is_ours(&found.config) => return Ok(()),
        Ok(found) => Some(found.id),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    store.load(&mut image.tar.as_slice(), None, &mut |_| {})?;
    if let Some(former) = former {
        // Containers may still use it; then it stays until they and `image prune` are through.
        match store.remove(&former.to_string(), false, true, &|_| Vec::new()) {
            Err(Error::Conflict(_)) => {}
            other => drop(other?),
        }
    }
    Ok(())
}

fn is_ours(config: &super::ImageConfig) -> bool {
    let labels = config.config.labels.as_ref();
    labels.is_some_and(|labels| labels.contains_key(LABEL))
}

/// The image as `docker save` would write it.
struct Archive {
    id: Digest,
    tar: Vec<u8>,
}

impl Archive {
    fn of(program: &[u8]) -> io::Result<Self> {
        Self::labelled(program, LABEL)
    }

    fn labelled(program: &[u8], label: &str) -> io::Result<Self> {
        let layer = tar(&[("hello", 0o755, program)])?;
        let platform = Platform::host();
        let config = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "config": {
                "Cmd": ["/hello"],
                "Labels": {
                    label: "hello",
                    "org.opencontainers.image.title": "hello",
                    "org.opencontainers.image.description":
                        "Says what isolation, ids, storage and network a container got",
                },
            },
            "history": [{"created_by": format!("moss {}", env!("CARGO_PKG_VERSION"))}],
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]},
        });
        let config = config.to_string().into_bytes();
        let manifest = json!([{
            "Config": "config.json",
            "RepoTags": [NAME],
            "Layers": ["layer.tar"],
        }]);
        let manifest = manifest.to_string().into_bytes();
        Ok(Self {
            id: Digest::of(&config),
            tar: tar(&[
                ("config.json", 0o644, &config),
                ("layer.tar", 0o644, &layer),
                ("manifest.json", 0o644, &manifest),
            ])?,
        })
    }
}

/// An archive of files of user 0, made at the epoch.
fn tar(files: &[(&str, u32, &[u8])]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, mode, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        archive.append_data(&mut header, path, *content)?;
    }
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    #[test]
    fn the_program_is_small_and_needs_nothing() {
        assert!(PROGRAM.len() < 64 * 1024, "{} bytes", PROGRAM.len());
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("program"), PROGRAM).unwrap();
        // The shell makes the copy that runs, since a file that any of this process's threads has
        // open for writing, or a child of theirs between fork and exec, cannot be executed.
        let output = Command::new("/bin/sh")
            .args(["-c", "cp program hello && chmod +x hello && ./hello"])
            .current_dir(root.path())
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = String::from_utf8_lossy(&output.stdout);
        for word in ["isolation", "ids", "storage", "network", "moss doctor"] {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn it_stays_away_until_it_is_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        renew(&store).unwrap();
        assert!(store.list().is_empty());
        ensure(&store).unwrap();
        renew(&store).unwrap();
        assert_eq!(store.list().len(), 1);
        store.remove(NAME, false, true, &|_| Vec::new()).unwrap();
        drop(store);
        let store = Store::open(root.path()).unwrap();
        renew(&store).unwrap();
        assert!(store.list().is_empty());
        ensure(&store).unwrap();
        assert_eq!(store.list().len(), 1);
        for name in ["hello", NAME, "docker.io/library/hello"] {
            assert!(is_named(name), "{name}");
        }
        for name in ["hello:1", "a/hello", "hello-world", "HELLO", ""] {
            assert!(!is_named(name), "{name}");
        }
    }

    #[test]
    fn it_is_made_once_and_replaces_only_its_own_kind() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path()).unwrap();
        let former = Archive::of(b"of a former build").unwrap();
        store
            .load(&mut former.tar.as_slice(), None, &mut |_| {})
            .unwrap();
        ensure(&store).unwrap();
        ensure(&store).unwrap();
        let image = Archive::of(PROGRAM).unwrap();
        assert_eq!(store.get("hello").unwrap().id, image.id);
        assert_eq!(store.list().len(), 1);

        // Somebody's own image of that name stays.
        let theirs = Archive::labelled(b"theirs", "theirs").unwrap();
        store
            .load(&mut theirs.tar.as_slice(), None, &mut |_| {})
            .unwrap();
        ensure(&store).unwrap();
        assert_eq!(store.get("hello").unwrap().id, theirs.id);
        let name = Reference::parse("mine").unwrap();
        store.tag("hello", &name).unwrap();
        store.remove("hello", false, true, &|_| Vec::new()).unwrap();
        ensure(&store).unwrap();
        assert_eq!(store.get("hello").unwrap().id, image.id);
    }
}
