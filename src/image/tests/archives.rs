//! Archives that the tests load: made in memory, small, the same every time.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::super::{Error, Loaded, Progress, Store};
use crate::tarball::build::Archive;
use crate::types::digest::Digest;

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

pub(super) fn oci_layout(layers: &[Vec<u8>], config: &[u8], name: &str) -> (Files, Digest) {
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

pub(super) fn count(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}

/// Nothing half-made, nothing left.
pub(super) fn assert_empty(store: &Store) {
    store.settle();
    for dir in ["images", "blobs/sha256", "layers", "tmp", "trash"] {
        assert_eq!(count(&store.root().join(dir)), 0, "{dir}");
    }
}

pub(super) fn one(name: &str) -> (Vec<Vec<u8>>, Vec<u8>, Files) {
    let layers = vec![layer("etc/a", b"1"), layer("etc/b", b"2")];
    let config = config(&layers, name);
    let files = docker_archive(&layers, &config, &[name]);
    (layers, config, files)
}
