//! Images saved: what is written can be loaded, and nothing damaged or half-gone is.

use std::fs;
use std::io::Write;

use super::super::Store;
use super::archives::{archive, assert_empty, load, one};
use crate::types::digest::Digest;
use crate::types::platform::Platform;

/// The archive without these entries.
fn without(archive: &[u8], names: &[&str]) -> Vec<u8> {
    let mut all = tar::Archive::new(archive);
    let mut rest = tar::Builder::new(Vec::new());
    for entry in all.entries().unwrap() {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        if !names.iter().any(|name| path.ends_with(name)) {
            let mut header = entry.header().clone();
            rest.append_data(&mut header, path, entry).unwrap();
        }
    }
    rest.into_inner().unwrap()
}

#[test]
fn images_for_other_platforms_are_passed_over() {
    let (_, _, files) = one("saved:1");
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let platform = |text: &str| text.parse::<Platform>().unwrap();
    let archive = archive(&files);
    let load = |platform: &Platform| {
        store
            .load(&mut &archive[..], Some(platform), &mut |_| {})
            .unwrap()
    };
    assert!(load(&platform("linux/s390x")).is_empty());
    assert_empty(&store);
    let loaded = load(&platform("linux/amd64"));
    assert_eq!(loaded.len(), 1);
    let save = |text: &str| {
        let names = ["saved:1".to_owned()];
        store.save(&names, Some(&platform(text)), &mut std::io::sink())
    };
    assert_eq!(save("linux/amd64").unwrap(), [loaded[0].id]);
    let error = save("linux/s390x").unwrap_err();
    assert_eq!(
        error.chain(),
        "no suitable export target found for platform linux/s390x"
    );
}

#[test]
fn load_of_save_is_the_same_image() {
    let (layers, config, files) = one("saved:1");
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    load(&store, &archive(&files)).unwrap();
    store
        .tag("saved:1", &"other.example/name:2".parse().unwrap())
        .unwrap();
    let mut saved = Vec::new();
    let names = ["saved".to_owned(), "other.example/name:2".to_owned()];
    store.save(&names, None, &mut saved).unwrap();
    let docker = ["manifest.json", "repositories"];
    let oci = ["index.json", "oci-layout"];
    let forms = [
        saved.clone(),
        without(&saved, &docker),
        without(&saved, &oci),
    ];
    for (at, archive) in forms.iter().enumerate() {
        let other = tempfile::tempdir().unwrap();
        let other = (Store::open(other.path()).unwrap(), other);
        let (loaded, text) = load(&other.0, archive).unwrap();
        assert_eq!(
            text, "Loaded image: saved:1\nLoaded image: other.example/name:2\n",
            "{at}"
        );
        assert_eq!(loaded[0].id, Digest::of(&config));
        let manifests = other.0.get("saved:1").unwrap().manifests.len();
        assert_eq!(manifests, usize::from(at < 2), "{at}");
        for tar in &layers {
            let mut rebuilt = Vec::new();
            let mut source = other.0.layer_tar(&Digest::of(tar)).unwrap();
            std::io::Read::read_to_end(&mut source, &mut rebuilt).unwrap();
            assert!(rebuilt == *tar);
        }
    }
    // What is here already is not unpacked again, and stays.
    load(&store, &saved).unwrap();
    assert_eq!(store.list().len(), 1);
}

#[test]
fn a_damaged_layer_is_not_saved() {
    let (layers, _, files) = one("saved:1");
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    load(&store, &archive(&files)).unwrap();
    let names = ["saved:1".to_owned()];
    let hurt = store
        .root()
        .join("layers")
        .join(Digest::of(&layers[0]).hex());
    // Of the same size: nothing but the digest tells.
    fs::write(hurt.join("fs/etc/a"), "x").unwrap();
    let error = store.save(&names, None, &mut std::io::sink()).unwrap_err();
    let text = error.chain();
    assert!(
        text.contains("is damaged: the layer has digest sha256:"),
        "{text}"
    );
    fs::remove_dir_all(&hurt).unwrap();
    let error = store.save_check(&names, None).unwrap_err().chain();
    assert!(error.contains("No such file"), "{error}");
}

/// Removes an image when the first byte of an archive has come.
struct Remover<'a> {
    store: &'a Store,
    archive: Vec<u8>,
}

impl Write for Remover<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.archive.is_empty() {
            let removed = self.store.remove("saved:1", true, true, &|_| Vec::new());
            removed.map_err(std::io::Error::other)?;
            self.store.settle();
        }
        self.archive.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_image_that_is_removed_while_it_is_saved() {
    let (_, config, files) = one("saved:1");
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    load(&store, &archive(&files)).unwrap();
    let mut out = Remover {
        store: &store,
        archive: Vec::new(),
    };
    store.save(&["saved:1".to_owned()], None, &mut out).unwrap();
    let saved = out.archive;
    assert_empty(&store);
    load(&store, &saved).unwrap();
    assert_eq!(store.get("saved:1").unwrap().id, Digest::of(&config));
}
