//! Archives of images: loaded, named, saved again.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::super::{Error, Loaded, Progress, Store};
use crate::tarball::build::Archive;
use crate::types::digest::Digest;
use crate::types::platform::Platform;

/// An image's files: path and content.
pub(super) type Files = Vec<(String, Vec<u8>)>;

pub(super) fn layer(name: &str, data: &[u8]) -> Vec<u8> {
    Archive::default().dir("etc/").file(name, data).end()
}

pub(super) fn config(layers: &[Vec<u8>], label: &str) -> Vec<u8> {
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|tar| Digest::of(tar).to_string())
        .collect();
    json!({
        "architecture": "amd64", "os": "linux", "created": "2024-01-02T03:04:05Z",
        "config": {"Cmd": ["sh"], "Labels": {"label": label}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "one"}, {"created_by": "none", "empty_layer": true}],
    })
    .to_string()
    .into_bytes()
}

/// A docker-archive as docker before 25 writes it.
pub(super) fn docker_archive(layers: &[Vec<u8>], config: &[u8], tags: &[&str]) -> Files {
    let name = format!("{}.json", Digest::of(config).hex());
    let paths: Vec<_> = (0..layers.len())
        .map(|at| format!("{at}/layer.tar"))
        .collect();
    let manifest = json!([{"Config": name, "RepoTags": tags, "Layers": paths}]);
    let mut files: Files = paths.into_iter().zip(layers.iter().cloned()).collect();
    files.push((name, config.to_vec()));
    files.push((
        "manifest.json".to_owned(),
        manifest.to_string().into_bytes(),
    ));
    files
}

fn oci_layout(layers: &[Vec<u8>], config: &[u8], name: &str) -> (Files, Digest) {
    let mut files = Files::new();
    let mut put = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        files.push((format!("blobs/sha256/{}", digest.hex()), bytes.to_vec()));
        json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
    };
    let config = put("application/vnd.oci.image.config.v1+json", config);
    let gzipped = layers.iter().map(|tar| gzip(tar));
    let layers: Vec<Value> = gzipped.map(|tar| put("layer", &tar)).collect();
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string();
    let mut here = put(
        "application/vnd.oci.image.manifest.v1+json",
        manifest.as_bytes(),
    );
    here["annotations"] = json!({"io.containerd.image.name": name});
    let attestation = json!({"mediaType": "x", "digest": Digest::of(b"none"), "size": 1,
        "platform": {"os": "unknown", "architecture": "unknown"}});
    let index = json!({"schemaVersion": 2, "manifests": [attestation, here]});
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    files.push(("oci-layout".to_owned(), b"{}".to_vec()));
    (files, Digest::of(manifest.as_bytes()))
}

pub(super) fn archive(files: &Files) -> Vec<u8> {
    let mut tar = Archive::default();
    for (name, content) in files {
        tar.file(name, content);
    }
    tar.end()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    // Two members: one stream all the same.
    for part in [&bytes[..bytes.len() / 2], &bytes[bytes.len() / 2..]] {
        let mut encoder = flate2::write::GzEncoder::new(&mut out, flate2::Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap();
    }
    out
}

pub(super) fn load(store: &Store, archive: &[u8]) -> Result<(Vec<Loaded>, String), Error> {
    let mut text = String::new();
    let loaded = store.load(&mut &archive[..], None, &mut |progress| {
        if let Progress::Message(message) = progress {
            text.push_str(&message);
        }
    })?;
    Ok((loaded, text))
}

fn count(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}

/// Nothing half-made, nothing left.
pub(super) fn assert_empty(store: &Store) {
    store.settle();
    for dir in ["images", "blobs/sha256", "layers", "tmp", "trash"] {
        assert_eq!(count(&store.root().join(dir)), 0, "{dir}");
    }
}

fn one(name: &str) -> (Vec<Vec<u8>>, Vec<u8>, Files) {
    let layers = vec![layer("etc/a", b"1"), layer("etc/b", b"2")];
    let config = config(&layers, name);
    let files = docker_archive(&layers, &config, &[name]);
    (layers, config, files)
}

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

#[test]
fn hostile_archives_leave_nothing() {
    let (layers, config, files) = one("bad:1");
    let replaced = |name: &str, content: Option<&[u8]>| {
        let mut files = files.clone();
        files.retain(|(path, _)| !path.contains(name));
        if let Some(content) = content {
            files.push((name.to_owned(), content.to_vec()));
        }
        archive(&files)
    };
    let whole = archive(&files);
    let packed = gzip(&whole);
    let other = layer("etc/other", b"3");
    let wrong_count = config_with(&layers[..1]);
    let windows = String::from_utf8(config.clone())
        .unwrap()
        .replace("linux", "windows");
    let windows = docker_archive(&layers, windows.as_bytes(), &[]);
    let (mut lying, _) = oci_layout(&layers, &config, "bad:2");
    lying[0].1.push(b' ');
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "holds no images"),
        ("no tar", vec![b'x'; 2000], "checksum"),
        (
            "truncated",
            whole[..whole.len() - 2500].to_vec(),
            "unexpected EOF",
        ),
        ("truncated gzip", packed[..packed.len() - 20].to_vec(), ""),
        ("broken xz", b"\xfd7zXZ\0\0\0".to_vec(), ""),
        ("broken bzip2", b"BZh91AY&SY\0\0".to_vec(), ""),
        (
            "no manifest",
            replaced("manifest.json", None),
            "holds no images",
        ),
        (
            "broken manifest",
            replaced("manifest.json", Some(b"[{")),
            "cannot be read",
        ),
        (
            "no config",
            replaced(&Digest::of(&config).hex(), None),
            "is missing in the archive",
        ),
        (
            "no layer",
            replaced("0/layer.tar", None),
            "is missing in the archive",
        ),
        (
            "other layer",
            replaced("0/layer.tar", Some(&other)),
            "invalid diffID for layer 0",
        ),
        (
            "no tar as layer",
            replaced("0/layer.tar", Some(&[b'{'; 700])),
            "checksum",
        ),
        (
            "broken xz layer",
            replaced("0/layer.tar", Some(b"\xfd7zXZ\0\0")),
            "cannot decompress the layer",
        ),
        (
            "count",
            archive(&docker_archive(&layers, &wrong_count, &[])),
            "length mismatch",
        ),
        (
            "windows",
            archive(&windows),
            "cannot load windows image on linux",
        ),
        (
            "no rootfs",
            archive(&docker_archive(&[], b"{}", &[])),
            "no RootFS key",
        ),
        (
            "bad tag",
            archive(&docker_archive(&layers, &config, &["A:1"])),
            "must be lowercase",
        ),
        ("lying blob", archive(&lying), "has digest"),
    ];
    for (what, bytes, text) in cases {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let error = load(&store, &bytes).unwrap_err().chain();
        assert!(error.contains(text), "{what}: {error}");
        assert_empty(&store);
    }
}

#[test]
fn what_an_archive_makes_the_daemon_remember_is_bounded() {
    let (layers, config, files) = one("big:1");
    let store_in = |dir: &tempfile::TempDir| Store::open(dir.path()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(&dir);
    let mut links = Archive::default();
    for at in 0..20 {
        let target = vec![b'x'; 1_000_000];
        links
            .pax(&[("linkpath", &target)])
            .symlink(&format!("l{at}"), "");
    }
    let error = load(&store, &links.end()).unwrap_err().chain();
    assert!(error.contains("bytes of names"), "{error}");
    assert_empty(&store);

    // One image many times, whose config is mostly blanks.
    let padded = [&config[..], &vec![b' '; 3 << 20]].concat();
    let mut many = docker_archive(&layers, &padded, &[]);
    for (path, content) in &mut many {
        if path == "manifest.json" {
            let item = String::from_utf8(content.clone()).unwrap();
            let item = item.trim().trim_start_matches('[').trim_end_matches(']');
            *content = format!("[{}]", vec![item; 100].join(",")).into_bytes();
        }
    }
    let error = load(&store, &archive(&many)).unwrap_err().chain();
    assert!(error.contains("bytes of configs"), "{error}");
    assert_empty(&store);
    load(&store, &archive(&files)).unwrap();
}

fn config_with(layers: &[Vec<u8>]) -> Vec<u8> {
    config(layers, "count")
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
            let removed = self.store.remove("saved:1", true, &|_| Vec::new());
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
