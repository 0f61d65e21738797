//! Archives loaded: every form and compression, names, and a store that was damaged since.

use std::fs;

use serde_json::{Value, json};

use super::super::commit::Naming;
use super::super::{Error, Progress, Store};
use super::archives::{
    Files, archive, config, count, docker_archive, gzip, layer, load, oci_layout, one,
};
use crate::types::digest::Digest;
use crate::types::reference::Reference;

fn compressed(mut encoder: impl std::io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    encoder.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn docker_archive_in_any_order_and_compression() {
    let (_, config, files) = one("test:1");
    let reversed: Files = files.iter().rev().cloned().collect();
    let plain = archive(&files);
    let archives = [
        plain.clone(),
        archive(&reversed),
        gzip(&plain),
        zstd::encode_all(&plain[..], 1).unwrap(),
        compressed(bzip2::read::BzEncoder::new(&plain[..], Default::default())),
        compressed(liblzma::read::XzEncoder::new(&plain[..], 9)),
        [gzip(&plain[..700]), gzip(&plain[700..])].concat(),
    ];
    for bytes in archives {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (loaded, text) = load(&store, &bytes).unwrap();
        assert_eq!(text, "Loaded image: test:1\n");
        assert_eq!(loaded[0].id, Digest::of(&config));
        let image = store.get("test:1").unwrap();
        assert_eq!(&*image.raw, config);
        assert_eq!(image.config.config.cmd, Some(vec!["sh".to_owned()]));
        assert_eq!(image.size, 2);
        let paths = store.layer_paths(&image);
        assert_eq!(fs::read(paths[0].join("etc/b")).unwrap(), b"2");
        assert_eq!(fs::read(paths[1].join("etc/a")).unwrap(), b"1");
        store.settle();
        assert_eq!(count(&store.root().join("tmp")), 0);
        // And the next process finds the same.
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.get("test:1").unwrap().id, image.id);
        assert_eq!(store.list().len(), 1);
    }
}

#[test]
fn oci_layouts_and_their_digests() {
    let (layers, config, _) = one("x");
    let (files, manifest) = oci_layout(&layers, &config, "docker.io/library/oci:2");
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (_, text) = load(&store, &archive(&files)).unwrap();
    assert_eq!(text, "Loaded image: oci:2\n");
    let id = Digest::of(&config);
    let names = [
        "oci:2".to_owned(),
        id.to_string(),
        id.hex(),
        id.hex()[..4].to_owned(),
        format!("sha256:{}", &id.hex()[..7]),
        manifest.to_string(),
        format!("oci@{manifest}"),
    ];
    for name in names {
        assert_eq!(store.get(&name).unwrap().id, id, "{name}");
    }
    let unknown = format!("sha256:{}", "0".repeat(64));
    for (name, text) in [
        ("nosuch", "No such image: nosuch:latest"),
        ("oci", "No such image: oci:latest"),
        (&unknown, &format!("No such image: {unknown}")),
    ] {
        assert_eq!(store.get(name).unwrap_err().to_string(), text);
    }
}

/// What an index has for this machine is found as a pull finds it, and what is of an unknown kind is
/// passed over.
#[test]
fn an_index_is_read_as_a_pull_reads_it() {
    let (layers, config, _) = one("x");
    let (mut files, manifest) = oci_layout(&layers, &config, "a:1");
    let mut put = |kind: &str, document: &Value| {
        let bytes = document.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        let size = bytes.len();
        files.push((format!("blobs/sha256/{}", digest.hex()), bytes));
        json!({"mediaType": kind, "digest": digest, "size": size})
    };
    let host = crate::types::platform::Platform::host();
    // The older kind of processor that every one of these can be.
    let (architecture, variant) = match host.architecture.as_str() {
        "amd64" => ("386", ""),
        "arm64" => ("arm", "v6"),
        other => (other, ""),
    };
    let entry = json!({"digest": manifest, "size": 1,
        "platform": {"os": "linux", "architecture": architecture, "variant": variant}});
    let other = json!({"digest": Digest::of(b"absent"), "size": 1,
        "platform": {"os": "linux", "architecture": "s390x"}});
    let inner = json!({"schemaVersion": 2, "manifests": [other, entry]});
    let inner = put("application/vnd.oci.image.index.v1+json", &inner);
    let unknown = json!({"mediaType": "application/x", "schemaVersion": 2});
    let unknown = put("application/x", &unknown);
    let index = json!({"schemaVersion": 2, "manifests": [unknown, inner]});
    files.retain(|(name, _)| name != "index.json");
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (loaded, _) = load(&store, &archive(&files)).unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].id, Digest::of(&config));
    // What the index says of it, its config does not.
    let image = store.get(&loaded[0].id.to_string()).unwrap();
    let listed = |platform: &str| store.is_listed_for(&image, &platform.parse().unwrap());
    assert!(listed(
        format!("linux/{architecture}/{variant}").trim_end_matches('/')
    ));
    assert!(!listed("linux/s390x") && !listed("linux/riscv64"));
}

/// A tar that was appended to: the last entry of a name counts, and no other is touched.
#[test]
fn entries_of_one_name_replace_each_other_alone() {
    let layers = vec![layer("etc/a", b"1")];
    let labels = ["a", "b", "c"];
    let configs = labels.map(|label| config(&layers, label));
    let mut files: Files = labels
        .iter()
        .zip(&configs)
        .map(|(label, config)| (format!("{label}.json"), config.clone()))
        .collect();
    let again = files.clone();
    let items: Vec<_> = labels
        .iter()
        .map(|label| {
            json!({"Config": format!("{label}.json"), "RepoTags": [format!("t:{label}")],
                "Layers": ["layer.tar"]})
        })
        .collect();
    files.push(("layer.tar".to_owned(), layers[0].clone()));
    files.push((
        "manifest.json".to_owned(),
        json!(items).to_string().into_bytes(),
    ));
    let appended = [&files[..], &again].concat();
    let reversed = [&files[..], &again.iter().rev().cloned().collect::<Vec<_>>()].concat();
    let mut between = files.clone();
    between.insert(2, files[0].clone());
    between.insert(4, files[1].clone());
    let mut replaced = files.clone();
    replaced.insert(0, ("a.json".to_owned(), b"{}".to_vec()));
    replaced.insert(0, ("manifest.json".to_owned(), b"{}".to_vec()));
    for files in [appended, reversed, between, replaced] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        load(&store, &archive(&files)).unwrap();
        for (label, config) in labels.iter().zip(&configs) {
            let image = store.get(&format!("t:{label}")).unwrap();
            assert_eq!(image.id, Digest::of(config), "{label}");
        }
    }
}

#[test]
fn two_loads_of_one_layer_at_once() {
    let (_, _, files) = one("twice:1");
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let bytes = archive(&files);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| load(&store, &bytes).unwrap());
        }
    });
    store.settle();
    assert_eq!(count(&store.root().join("layers")), 2);
    assert_eq!(count(&store.root().join("tmp")), 0);
}

#[test]
fn a_damaged_store_opens() {
    let (layers, _, files) = one("kept:1");
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    load(&store, &archive(&files)).unwrap();
    store.settle();
    let root = dir.path().to_owned();
    drop(store);
    // Half-made things of a daemon that was killed.
    fs::create_dir_all(root.join("tmp/layer-1-1/fs/deep")).unwrap();
    fs::create_dir_all(root.join("trash/removed-1/it")).unwrap();
    fs::write(root.join("images/x.json.tmp-1-1"), "{").unwrap();
    fs::write(root.join("refs.json"), "half").unwrap();
    let store = Store::open(&root).unwrap();
    store.settle();
    assert_eq!(
        (count(&root.join("tmp")), count(&root.join("trash"))),
        (0, 0)
    );
    assert_eq!(store.list().len(), 1);
    drop(store);
    // A power cut ate a file of a layer that was not synced.
    let hurt = root.join("layers").join(Digest::of(&layers[0]).hex());
    fs::write(hurt.join("unsynced"), "another boot").unwrap();
    fs::write(hurt.join("fs/etc/a"), "").unwrap();
    let store = Store::open(&root).unwrap();
    assert!(store.list().is_empty());
    load(&store, &archive(&files)).unwrap();
    assert!(store.get("kept:1").is_ok());
}

/// A prune that comes between an image and one of its names would take the image away.
#[test]
fn an_image_comes_with_all_its_names() {
    let (layers, _, _) = one("x");
    let config = config(&layers, "x");
    let files = docker_archive(&layers, &config, &["one:1", "two:1"]);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut archive = &archive(&files)[..];
    let loaded = store.load(&mut archive, None, &mut |progress| {
        if progress == Progress::Message("Loaded image: one:1\n".to_owned()) {
            store.remove("one:1", false, true, &|_| Vec::new()).unwrap();
        }
    });
    assert_eq!(loaded.unwrap()[0].names.len(), 2);
    assert!(store.get("one:1").is_err());
    assert_eq!(store.get("two:1").unwrap().id, Digest::of(&config));
}

/// Somebody finds an image and names it when it is gone.
#[test]
fn nothing_is_named_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let names = [Reference::parse("gone:1").unwrap()];
    for naming in [Naming::Tags(&names), Naming::Found(&names)] {
        let named = store.name(&mut store.lock(), naming, Digest::of(b"gone"));
        assert!(matches!(named, Err(Error::NoSuchImage(_))));
    }
    assert!(!dir.path().join("refs.json").exists());
}
