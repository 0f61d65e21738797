//! PAX and GNU extensions: long names, attributes, sparse files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Layer, exists, xattr};
use crate::image::owner::OVERRIDE;
use crate::image::unpack::Limits;
use crate::tarball::build::{Archive, pax_record};

#[test]
fn pax_and_gnu_extensions() {
    let long = "l/".repeat(80) + "name";
    let mut tar = Archive::default();
    tar.pax(&[("path", long.as_bytes()), ("mtime", b"1.123456789")])
        .file("short", b"1");
    tar.block(b'L', b"././@LongLink", b"", 0, 201, |_| {})
        .data(&[b'n'; 200], 0);
    tar.file("cut", b"2");
    tar.pax(&[("path", b"loses")]);
    tar.block(b'L', b"././@LongLink", b"", 0, 5, |_| {})
        .data(b"wins\0", 0)
        .file("cut", b"3");
    tar.pax(&[("linkpath", b"elsewhere")]).symlink("s", "here");
    tar.block(b'K', b"././@LongLink", b"", 0, 10, |_| {})
        .data(b"gnu-target", 0)
        .symlink("k", "x");
    let global = pax_record(b"path", b"ignored-by-g");
    tar.block(b'g', b"g", b"", 0, global.len() as u64, |_| {})
        .data(&global, 0);
    tar.file("after-g", b"4");
    tar.pax(&[("comment", b"x\n22 path=/etc/evil1\n")])
        .file("honest", b"5");
    let layer = Layer::of(&tar.end());
    assert_eq!(layer.read(&long), "1");
    assert_eq!(
        fs::metadata(layer.path(&long)).unwrap().mtime_nsec(),
        123_456_789
    );
    assert_eq!(layer.read(&"n".repeat(200)), "2");
    assert_eq!(layer.read("wins"), "3");
    assert_eq!(
        fs::read_link(layer.path("s")).unwrap(),
        Path::new("elsewhere")
    );
    assert_eq!(
        fs::read_link(layer.path("k")).unwrap(),
        Path::new("gnu-target")
    );
    assert_eq!(layer.read("after-g"), "4");
    assert_eq!(layer.read("honest"), "5");
    assert!(!exists(&layer.path("etc")));
}

#[test]
fn attributes() {
    let mut tar = Archive::default();
    tar.pax(&[
        ("SCHILY.xattr.user.mine", b"\0binary\n"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.redirect", b"/secret"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.fuseoverlayfs.opaque", b"y"),
        ("SCHILY.xattr.user.containers.override_stat", b"0:0:4777"),
        ("uid", b"4000000000"),
        ("gid", b"-7"),
    ]);
    tar.dir("d");
    tar.pax(&[("SCHILY.xattr.user.mine", b"v"), ("uid", b"5000000000")]);
    tar.block(b'0', b"f", b"", 0o4000, 0, |_| {});
    let layer = Layer::of(&tar.end());
    layer.result.as_ref().unwrap();
    let dir = layer.path("d");
    assert_eq!(xattr(&dir, "user.mine").unwrap(), b"\0binary\n");
    for name in [
        "user.overlay.opaque",
        "user.overlay.redirect",
        "user.fuseoverlayfs.opaque",
    ] {
        assert_eq!(xattr(&dir, name), None, "{name}");
    }
    assert_eq!(xattr(&dir, OVERRIDE).unwrap(), b"4000000000:-7:755");
    let file = layer.path("f");
    assert_eq!(xattr(&file, OVERRIDE).unwrap(), b"5000000000:0:4000");
    assert_eq!(fs::symlink_metadata(file).unwrap().mode() & 0o4000, 0);
}

fn sparse_gnu(spans: &[(u64, u64)], size: u64, data: &[u8]) -> Vec<u8> {
    let mut tar = Archive::default();
    tar.block(b'S', b"sparse", b"", 0o644, data.len() as u64, |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        for (at, (offset, length)) in spans.iter().enumerate() {
            let pair = format!("{offset:011o}\0{length:011o}\0");
            block[386 + at * 24..][..24].copy_from_slice(pair.as_bytes());
        }
        block[483..495].copy_from_slice(format!("{size:011o}\0").as_bytes());
    });
    tar.data(data, 0).end()
}

#[test]
fn sparse_files() {
    let mut expected = vec![0; 1 << 20];
    expected[4096..4099].copy_from_slice(b"abc");
    expected[8192..8194].copy_from_slice(b"de");
    let mut archives = vec![sparse_gnu(&[(4096, 3), (8192, 2)], 1 << 20, b"abcde")];
    let size = (1 << 20).to_string();
    let mut tar = Archive::default();
    let zero: Vec<u8> = [
        ("offset", "4096"),
        ("numbytes", "3"),
        ("offset", "8192"),
        ("numbytes", "2"),
    ]
    .iter()
    .flat_map(|(key, v)| pax_record(format!("GNU.sparse.{key}").as_bytes(), v.as_bytes()))
    .chain(pax_record(b"GNU.sparse.size", size.as_bytes()))
    .collect();
    tar.block(b'x', b"x", b"", 0, zero.len() as u64, |_| {})
        .data(&zero, 0);
    archives.push(tar.file("sparse", b"abcde").end());
    let named: [(&str, &[u8]); 2] = [
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.size", size.as_bytes()),
    ];
    tar.pax(&[named[0], named[1], ("GNU.sparse.map", b"4096,3,8192,2")]);
    archives.push(tar.file("GNUSparseFile.0/sparse", b"abcde").end());
    let mut data = b"2\n4096\n3\n8192\n2\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"abcde");
    tar.pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", size.as_bytes()),
    ]);
    archives.push(tar.file("GNUSparseFile.0/sparse", &data).end());
    for archive in archives {
        let layer = Layer::of(&archive);
        assert!(layer.read("sparse").as_bytes() == expected);
        assert!(
            fs::metadata(layer.path("sparse")).unwrap().blocks() < 64,
            "holes stay holes"
        );
    }
    type Lie<'a> = (&'a [(u64, u64)], u64, &'a [u8]);
    let lies: &[Lie<'_>] = &[
        (&[(8192, 2), (4096, 3)], 1 << 20, b"abcde"),
        (&[(0, 3), (2, 2)], 1 << 20, b"abcde"),
        (&[(0, 5)], 4, b"abcde"),
        (&[(0, 4)], 100, b"abcde"),
        (&[(0, 6)], 100, b"abcde"),
        (&[(0o77_777_777_777, 5)], 1 << 20, b"abcde"),
    ];
    for (spans, size, data) in lies {
        let layer = Layer::of(&sparse_gnu(spans, *size, data));
        assert!(layer.error().contains("sparse map"), "{spans:?}");
    }
    // A hole of eight GiB takes no room; more than the limit is refused.
    let bomb = sparse_gnu(&[(0, 1)], 0o77_777_777_777, b"x");
    assert!(
        fs::metadata(Layer::of(&bomb).path("sparse"))
            .unwrap()
            .blocks()
            < 64
    );
    let limits = Limits {
        file: 1 << 30,
        ..Limits::default()
    };
    assert!(Layer::with(&bomb, &limits).error().contains("is refused"));
}
