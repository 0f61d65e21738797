//! Archives that are broken, lie, or are too large: refused with a clear error, nothing left.

use super::super::Store;
use super::archives::{
    archive, assert_empty, config, docker_archive, gzip, layer, load, oci_layout, one,
};
use crate::tarball::build::Archive;
use crate::types::digest::Digest;

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
