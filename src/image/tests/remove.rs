//! Removal: Docker's order, conflicts and sentences.

use super::super::{Removed, Store, User, chain_ids};
use super::archives::{archive, assert_empty, config, docker_archive, layer, load, oci_layout};
use super::small::on_small_disk;
use crate::types::digest::Digest;

fn nobody(_: &Digest) -> Vec<User> {
    Vec::new()
}

fn untagged(removed: &[Removed]) -> Vec<&str> {
    let names = removed.iter().filter_map(|one| match one {
        Removed::Untagged { name, .. } => Some(name.as_str()),
        _ => None,
    });
    names.collect()
}

/// A filesystem on which not one more byte can be written is emptied all the same.
#[test]
fn a_full_disk_is_emptied() {
    let name = concat!(module_path!(), "::a_full_disk_is_emptied");
    on_small_disk(name, c"size=4m", |dir| {
        let store = Store::open(dir).unwrap();
        let layers = vec![layer("etc/a", &[b'a'; 100_000])];
        for tag in ["full:1", "full:2"] {
            let files = docker_archive(&layers, &config(&layers, tag), &[tag]);
            load(&store, &archive(&files)).unwrap();
        }
        store.settle();
        let mut filler = std::fs::File::create(dir.join("filler")).unwrap();
        while std::io::Write::write(&mut filler, &[1; 4096]).is_ok() {}
        assert!(std::fs::write(dir.join("more"), [1; 4096]).is_err());
        std::fs::remove_file(dir.join("more")).unwrap();
        for tag in ["full:1", "full:2"] {
            assert_eq!(
                untagged(&store.remove(tag, false, true, &nobody).unwrap()),
                [tag]
            );
        }
        assert_empty(&store);
        drop(filler);
        std::fs::remove_file(dir.join("filler")).unwrap();
        drop(store);
        assert!(Store::open(dir).unwrap().list().is_empty());
    });
}

#[test]
fn names_images_and_shared_layers() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let base = layer("etc/base", b"base");
    let two = vec![base.clone(), layer("etc/top", b"top")];
    let one = vec![base];
    for (layers, tag) in [(&one, "one:1"), (&two, "two:1")] {
        let files = docker_archive(layers, &config(layers, tag), &[tag]);
        load(&store, &archive(&files)).unwrap();
    }
    let image = store.get("two:1").unwrap();
    assert_eq!(
        (
            image.size,
            store.shared_sizes()[&image.id],
            store.layers_size()
        ),
        (7, 4, 7)
    );
    let history = store.history("two:1").unwrap();
    assert_eq!((history[0].size, history[1].size), (0, 4));
    assert_eq!((history[0].id, history[1].id), (Some(image.id), None));

    store.tag("two:1", &"more:2".parse().unwrap()).unwrap();
    let by_id = image.id.short();
    let error = store
        .remove(&by_id, false, true, &nobody)
        .unwrap_err()
        .to_string();
    let expected = format!(
        "conflict: unable to delete {by_id} (must be forced) - image is referenced in multiple repositories"
    );
    assert_eq!(error, expected);
    let removed = store.remove("more:2", false, true, &nobody).unwrap();
    assert_eq!((removed.len(), untagged(&removed)), (1, vec!["more:2"]));

    let user = |running| {
        move |_: &Digest| {
            vec![User {
                id: "c0ffee".to_owned(),
                running,
            }]
        }
    };
    let error = store
        .remove("two:1", false, true, &user(false))
        .unwrap_err()
        .to_string();
    let expected = format!(
        "conflict: unable to remove repository reference \"two:1\" (must force) - container c0ffee is using its referenced image {by_id}"
    );
    assert_eq!(error, expected);
    let error = store
        .remove(&by_id, false, true, &user(false))
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("(must be forced) - image is being used by stopped container c0ffee"));
    let error = store
        .remove(&by_id, true, true, &user(true))
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("(cannot be forced) - image is being used by running container c0ffee")
    );

    // By its last name, with force: the name goes, what runs keeps the image.
    let removed = store.remove("two:1", true, true, &user(true)).unwrap();
    assert_eq!((removed.len(), untagged(&removed)), (1, vec!["two:1"]));
    let name = crate::types::reference::Reference::parse("two:1").unwrap();
    store.tag(&by_id, &name).unwrap();

    let removed = store.remove("two:1", false, true, &nobody).unwrap();
    let chain = chain_ids(&image.layers)[1];
    let name = "two:1".to_owned();
    let id = image.id;
    assert_eq!(
        removed,
        [
            Removed::Untagged { name, id },
            Removed::Image { id, freed: 3 },
            Removed::Layer(chain)
        ]
    );
    assert!(store.has_layer(&image.layers[0]) && !store.has_layer(&image.layers[1]));
    let error = store
        .remove("two:1", false, true, &nobody)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "No such image: two:1");

    let last = store.get("one:1").unwrap().id;
    let removed = store.remove(&last.hex()[..8], false, true, &user(false));
    assert!(removed.is_err());
    let removed = store
        .remove(&last.hex()[..8], true, true, &user(false))
        .unwrap();
    assert_eq!((removed.len(), untagged(&removed)), (3, vec!["one:1"]));
    assert_empty(&store);
}

#[test]
fn what_is_held_outlives_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let base = layer("etc/base", b"base");
    let two = vec![base.clone(), layer("etc/top", b"top")];
    let put = |layers: &Vec<Vec<u8>>, tag| {
        let files = docker_archive(layers, &config(layers, tag), &[tag]);
        load(&store, &archive(&files)).unwrap();
    };
    put(&two, "two:1");
    let layers = store.get("two:1").unwrap().layers;
    assert!(store.hold(&layers) && store.hold(&layers));
    // By force, with a container that does not run; its layers are not told of as removed.
    let removed = store.remove("two:1", true, true, &nobody).unwrap();
    assert_eq!(removed.len(), 2);
    // Nor does a load or a collection take them.
    put(&vec![base], "one:1");
    store.collect().unwrap();
    store.release(&layers).unwrap();
    assert!(layers.iter().all(|layer| store.has_layer(layer)));
    // The last one that holds them ends: what another image has stays.
    store.release(&layers).unwrap();
    assert!(store.has_layer(&layers[0]) && !store.has_layer(&layers[1]));
    // Found, and removed before it was held.
    assert!(!store.hold(&layers));
    store.release(&layers).unwrap();
    store.remove("one:1", false, true, &nobody).unwrap();
    assert_empty(&store);
}

/// An image was removed while a container had its layers, which a pull had brought one by one.
#[test]
fn layers_of_a_pull_go_with_their_last_user() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let layers = [layer("etc/a", b"1")];
    let mut pipeline = store.start_layer().unwrap();
    pipeline.write(&layers[0]);
    let finished = pipeline.finish().unwrap();
    store.commit_layer(&finished).unwrap();
    let diff_id = finished.diff_id;
    // As long as the image has not come somebody may try again.
    assert!(store.hold(&[diff_id]));
    store.release(&[diff_id]).unwrap();
    assert!(store.has_layer(&diff_id));
    let files = docker_archive(&layers, &config(&layers, "x"), &["pulled:1"]);
    load(&store, &archive(&files)).unwrap();
    assert!(store.hold(&[diff_id]));
    store.remove("pulled:1", true, true, &nobody).unwrap();
    assert!(store.has_layer(&diff_id));
    store.release(&[diff_id]).unwrap();
    assert_empty(&store);
}

#[test]
fn a_manifests_digest_means_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let layers = [layer("etc/a", b"1")];
    let put = |names: &[&str]| {
        let (files, manifest) = oci_layout(&layers, &config(&layers, "x"), names[0]);
        load(&store, &archive(&files)).unwrap();
        for name in &names[1..] {
            store.tag(names[0], &name.parse().unwrap()).unwrap();
        }
        manifest.to_string()
    };
    let manifest = put(&["one:1"]);
    let removed = store.remove(&manifest, false, true, &nobody).unwrap();
    assert_eq!(untagged(&removed), ["one:1"]);
    assert_empty(&store);
    let manifest = put(&["one:1", "two/x:1"]);
    let error = store.remove(&manifest, false, true, &nobody).unwrap_err();
    assert!(error.to_string().contains("referenced in multiple"));
    assert_eq!(store.get(&manifest).unwrap().repo_tags.len(), 2);
    let removed = store.remove(&manifest, true, true, &nobody).unwrap();
    assert_eq!(untagged(&removed), ["one:1", "two/x:1"]);
    assert_empty(&store);
}
