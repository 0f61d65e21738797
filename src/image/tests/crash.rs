//! A store at every instant at which its daemon may have been killed.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::Store;
use super::archives::{archive, config, docker_archive, layer, load};

/// What a store with these images is made of: record, blobs, layers and names, in the order in
/// which a removal takes them away.
fn parts(root: &Path) -> Vec<PathBuf> {
    let mut parts = vec![PathBuf::from("refs.json"), PathBuf::from("refs.old")];
    for directory in ["images", "blobs/sha256", "layers"] {
        let mut names: Vec<_> = fs::read_dir(root.join(directory))
            .unwrap()
            .map(|entry| Path::new(directory).join(entry.unwrap().file_name()))
            .collect();
        names.sort();
        parts.extend(names);
    }
    parts
}

fn copy(from: &Path, to: &Path) {
    if !from.exists() {
        return;
    }
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let name = entry.unwrap().file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
}

/// What there is below a directory of the store.
fn names(store: &Store, directory: &str) -> HashSet<String> {
    fs::read_dir(store.root().join(directory))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Every image is whole, every name means one, and nothing is there that no image has.
fn assert_sound(store: &Store) {
    store.collect().unwrap();
    let images = store.list();
    let mut blobs = HashSet::new();
    let mut layers = HashSet::new();
    for image in &images {
        blobs.insert(image.id.hex());
        blobs.extend(image.manifests.iter().map(|digest| digest.hex()));
        layers.extend(image.layers.iter().map(|layer| layer.hex()));
        for blob in image.manifests.iter().chain([&image.id]) {
            store.blob(blob).unwrap();
        }
        for name in image.repo_tags.iter().chain(&image.repo_digests) {
            assert_eq!(store.get(name).unwrap().id, image.id);
        }
        for layer in &image.layers {
            assert!(store.layer_tar(layer).is_ok());
        }
    }
    assert_eq!(names(store, "blobs/sha256"), blobs);
    assert_eq!(names(store, "layers"), layers);
    assert_eq!(names(store, "images").len(), images.len());
}

#[test]
fn additions_and_removals_end_anywhere() {
    let whole = tempfile::tempdir().unwrap();
    let layers = vec![layer("a", b"1"), layer("b", b"2"), layer("c", b"3")];
    let other = vec![layers[0].clone(), layer("d", b"4")];
    let store = Store::open(whole.path()).unwrap();
    let put = |layers: &Vec<Vec<u8>>, tag: &str| {
        let files = docker_archive(layers, &config(layers, tag), &[tag]);
        load(&store, &archive(&files)).unwrap();
    };
    // What stays, and shares a layer with what comes and goes.
    put(&other, "other:1");
    let before = tempfile::tempdir().unwrap();
    copy(whole.path(), before.path());
    put(&layers, "one:1");
    drop(store);
    let kept: HashSet<_> = parts(before.path()).into_iter().collect();
    let added: Vec<_> = parts(whole.path())
        .into_iter()
        .filter(|part| !kept.contains(part))
        .collect();
    assert_eq!(
        added.len(),
        4,
        "a record, a config and two layers: {added:?}"
    );
    // A removal takes away from the front, an addition puts there from the back: these are the same
    // states, but for the names, which are the first to go and the last to come.
    for gone in 0..=added.len() {
        for names_of in [before.path(), whole.path()] {
            let state = tempfile::tempdir().unwrap();
            copy(before.path(), state.path());
            for part in &added[gone..] {
                copy(&whole.path().join(part), &state.path().join(part));
            }
            copy(&names_of.join("refs.json"), &state.path().join("refs.json"));
            let store = Store::open(state.path()).unwrap();
            assert_sound(&store);
            assert!(store.get("other:1").is_ok());
            assert_eq!(store.list().len(), if gone == 0 { 2 } else { 1 });
            // And it works on.
            let files = docker_archive(&layers, &config(&layers, "one:1"), &["one:1"]);
            load(&store, &archive(&files)).unwrap();
            store.remove("one:1", false, true, &|_| Vec::new()).unwrap();
            assert_sound(&store);
        }
    }
}
