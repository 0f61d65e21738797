//! Layers, ordinary, odd and hostile: what becomes of them on disk, and that every accepted one is
//! rebuilt byte for byte.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::super::error::Error;
use super::super::owner::{OVERRIDE, Owners};
use super::super::split::LayerTar;
use super::super::unpack::{Limits, unpack};
use crate::sys::tree;
use crate::tarball::build::{Archive, pax_record};

/// A layer that was unpacked in `base/victim/layer`; `base/secret` is what must not be touched.
struct Layer {
    base: tempfile::TempDir,
    result: Result<(), Error>,
}

impl Layer {
    fn of(tar: &[u8]) -> Self {
        Self::with(tar, &Limits::default())
    }

    fn with(tar: &[u8], limits: &Limits) -> Self {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("secret"), "untouched").unwrap();
        let layer = base.path().join("victim/layer");
        fs::create_dir_all(&layer).unwrap();
        let dir = tree::open_dir(&layer).unwrap();
        let result = unpack(tar, dir.as_fd(), &Owners::of_this_process(), limits).map(|_| ());
        let layer = Self { base, result };
        layer.assert_contained();
        if layer.result.is_ok() {
            assert!(layer.rebuilt() == tar, "the rebuilt archive differs");
        }
        layer
    }

    fn assert_contained(&self) {
        let secret = self.base.path().join("secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "untouched");
        assert_eq!(fs::metadata(secret).unwrap().nlink(), 1);
        assert_eq!(fs::read_dir(self.base.path()).unwrap().count(), 2);
        assert_eq!(
            fs::read_dir(self.base.path().join("victim"))
                .unwrap()
                .count(),
            1
        );
    }

    fn path(&self, path: &str) -> PathBuf {
        self.base.path().join("victim/layer/fs").join(path)
    }

    fn read(&self, path: &str) -> String {
        self.result.as_ref().unwrap();
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn rebuilt(&self) -> Vec<u8> {
        let layer = tree::open_dir(&self.base.path().join("victim/layer")).unwrap();
        let mut tar = Vec::new();
        LayerTar::open(&layer)
            .unwrap()
            .read_to_end(&mut tar)
            .unwrap();
        tar
    }

    fn error(&self) -> String {
        self.result.as_ref().unwrap_err().chain()
    }
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn is_whiteout(path: &Path) -> bool {
    let metadata = path.symlink_metadata().unwrap();
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

#[test]
fn ordinary_entries() {
    let mut tar = Archive::default();
    tar.dir("./")
        .dir("bin/")
        .file("bin/sh", b"#!")
        .symlink("sh", "bin/sh");
    tar.hardlink("bin/ash", "./bin/sh")
        .file("deep/er/file", b"x");
    tar.block(b'6', b"pipe", b"", 0o600, 0, |_| {});
    tar.block(b'0', b"su", b"", 0o4755, 0, |_| {});
    let layer = Layer::of(&tar.end());
    assert_eq!(layer.read("bin/ash"), "#!");
    let sh = fs::metadata(layer.path("bin/sh")).unwrap();
    assert_eq!((sh.nlink(), sh.mtime()), (2, 0o14_500_000_000));
    assert_eq!(
        fs::metadata(layer.path("bin")).unwrap().mtime(),
        0o14_500_000_000
    );
    assert_eq!(
        fs::read_link(layer.path("sh")).unwrap(),
        Path::new("bin/sh")
    );
    assert_eq!(layer.read("deep/er/file"), "x");
    assert!(
        fs::metadata(layer.path("pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    if xattr(&layer.path("su"), OVERRIDE).is_none() {
        let mode = fs::metadata(layer.path("su")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o4755);
    }
}

#[test]
fn names_stay_inside() {
    let mut tar = Archive::default();
    tar.file("../../../secret", b"1")
        .file("/abs", b"2")
        .file("a/../../b", b"3");
    tar.hardlink("c", "../../abs")
        .hardlink("d", "/abs")
        .symlink("up", "../../../secret");
    let layer = Layer::of(&tar.end());
    assert_eq!(layer.read("secret"), "1");
    assert_eq!(layer.read("abs"), "2");
    assert_eq!(layer.read("b"), "3");
    assert_eq!(layer.read("c"), "2");
    assert_eq!(layer.read("d"), "2");
}

#[test]
fn links_made_earlier_lead_nowhere_outside() {
    // As in Docker's chroot, a link leads within the layer.
    let mut tar = Archive::default();
    tar.dir("usr")
        .dir("usr/lib")
        .symlink("lib", "/usr/lib")
        .file("lib/x", b"1");
    tar.symlink("up", "../../../../usr").file("up/y", b"2");
    let layer = Layer::of(&tar.end());
    assert_eq!(layer.read("usr/lib/x"), "1");
    assert_eq!(layer.read("usr/y"), "2");

    let refused: &[(&str, &str)] = &[
        ("/tmp", "out/x"),
        ("../..", "out/secret/x"),
        ("out", "out/x"),
    ];
    for (target, name) in refused {
        let mut tar = Archive::default();
        tar.symlink("out", target).file(name, b"evil");
        if *target == "../.." {
            tar = Archive::default();
            tar.symlink("out", "../..").file("out/secret", b"mine");
            assert_eq!(Layer::of(&tar.end()).read("secret"), "mine");
        } else {
            assert!(Layer::of(&tar.end()).result.is_err(), "{target}");
        }
    }
    // An entry over a link replaces the link.
    let mut tar = Archive::default();
    tar.symlink("a", "../../../secret")
        .file("a", b"1")
        .symlink("b", "/")
        .dir("b")
        .file("b/f", b"2");
    let layer = Layer::of(&tar.end());
    assert_eq!(
        (layer.read("a"), layer.read("b/f")),
        ("1".into(), "2".into())
    );
    // A hard link to a link is the link, not what it points to.
    let mut tar = Archive::default();
    tar.symlink("a", "../../../secret")
        .hardlink("b", "a")
        .file("b", b"over");
    assert_eq!(Layer::of(&tar.end()).read("b"), "over");
    let mut tar = Archive::default();
    tar.symlink("a", "../..").hardlink("b", "a/secret");
    assert!(Layer::of(&tar.end()).error().contains("no such file"));
}

#[test]
fn replacement_keeps_what_the_tar_needs() {
    let mut tar = Archive::default();
    tar.file("a", b"one")
        .file("a", b"two")
        .dir("d")
        .file("d/x", b"three")
        .file("d", b"four");
    tar.file("e", b"five")
        .dir("e")
        .file("e/y", b"six")
        .hardlink("z", "e/y")
        .file("e/y", b"seven");
    tar.file("g", b"")
        .file("g", b"eight")
        .file("h", b"nine")
        .file(".wh.h", b"content!");
    let layer = Layer::of(&tar.end());
    assert_eq!(
        (layer.read("a"), layer.read("d")),
        ("two".into(), "four".into())
    );
    assert_eq!(
        (layer.read("e/y"), layer.read("z")),
        ("seven".into(), "six".into())
    );
    assert_eq!(
        (layer.read("g"), layer.read("h")),
        ("eight".into(), "nine".into())
    );
}

#[test]
fn whiteouts() {
    let mut tar = Archive::default();
    tar.file(".wh.gone", b"")
        .file("d/.wh.x", b"")
        .file("o/.wh..wh..opq", b"")
        .file("o/y", b"1");
    tar.file(".wh.back", b"")
        .dir("back")
        .file(".wh.in", b"")
        .file("in/side", b"2");
    tar.dir("late")
        .file(".wh.late", b"")
        .file(".wh.f", b"")
        .file("f", b"3");
    tar.dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/7", b"linked")
        .file(".wh..wh.aufs", b"");
    tar.hardlink("from-plnk", ".wh..wh.plnk/7");
    let layer = Layer::of(&tar.end());
    assert_eq!(layer.read("o/y"), "1");
    assert!(is_whiteout(&layer.path("gone")) && is_whiteout(&layer.path("d/x")));
    for opaque in ["o", "back", "in", "late"] {
        let value = xattr(&layer.path(opaque), "user.overlay.opaque");
        assert_eq!(value.as_deref(), Some(&b"y"[..]), "{opaque}");
    }
    assert_eq!(layer.read("in/side"), "2");
    assert_eq!(layer.read("f"), "3");
    assert_eq!(layer.read("from-plnk"), "linked");
    assert!(!exists(&layer.path(".wh..wh.plnk")) && !exists(&layer.path(".wh..wh.aufs")));
    for name in [".wh.", ".wh..", ".wh...", "a/.wh...", "a/.wh../"] {
        let mut tar = Archive::default();
        tar.file(name, b"");
        assert!(
            Layer::of(&tar.end()).error().contains("invalid whiteout"),
            "{name}"
        );
    }
}

#[test]
fn devices_are_left_out() {
    let mut tar = Archive::default();
    tar.block(b'3', b"dev/null", b"", 0o666, 0, |_| {});
    tar.block(b'4', b"dev/sda", b"", 0o666, 0, |_| {});
    tar.hardlink("dev/zero", "dev/null")
        .file("dev/f", b"x")
        .file(".wh.dev2", b"");
    tar.file("x", b"1").block(b'3', b"x", b"", 0o666, 0, |_| {});
    let layer = Layer::of(&tar.end());
    assert_eq!(
        fs::read_dir(layer.path("dev")).unwrap().count(),
        1,
        "{:?}",
        layer.result
    );
    assert!(!exists(&layer.path("x")));
}

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

#[test]
fn bounds() {
    let mut tar = Archive::default();
    for at in 0..50 {
        tar.file(&format!("f{at}"), b"");
    }
    let tar = tar.end();
    let limits = Limits {
        entries: 49,
        ..Limits::default()
    };
    assert!(Layer::with(&tar, &limits).error().contains("49 entries"));
    // Few entries whose names are many directories.
    let mut deep = Archive::default();
    let path = format!("{}f", "d/".repeat(60));
    deep.pax(&[("path", path.as_bytes())]).file("x", b"");
    deep.file("g", b"");
    let error = Layer::with(&deep.end(), &limits).error();
    assert!(error.contains("49 entries"));
    let limits = Limits {
        names: 100,
        ..Limits::default()
    };
    assert!(
        Layer::with(&tar, &limits)
            .error()
            .contains("bytes of names")
    );

    let huge = |kind: u8| {
        let mut tar = Archive::default();
        tar.block(kind, b"x", b"", 0, 0, |block| {
            block[124..136].copy_from_slice(b"\x80\0\0\0\0\0\0\x02\0\0\0\0");
        });
        tar.end()
    };
    for kind in *b"xgLK" {
        assert!(
            Layer::of(&huge(kind)).error().contains("too long"),
            "{kind}"
        );
    }
    assert!(Layer::of(&huge(b'0')).error().contains("unexpected EOF"));
    let names: [&[u8]; 3] = [&[b'n'; 256], &b"d/".repeat(2049), &b"nul\0".repeat(2)];
    for name in names {
        let mut tar = Archive::default();
        tar.pax(&[("path", name)]).file("x", b"");
        assert!(Layer::of(&tar.end()).result.is_err());
    }
    // A path that is short as written and long through a link.
    let mut tar = Archive::default();
    let deep = "d/".repeat(40);
    tar.dir(&deep).symlink("s", &deep);
    for _ in 0..60 {
        tar.pax(&[("path", format!("s/{deep}").as_bytes())])
            .dir("x");
    }
    Layer::of(&tar.end()).result.unwrap();
}

#[test]
fn broken_framing() {
    let mut tar = Archive::default();
    let whole = tar.file("a", b"content").end();
    for cut in [1, 511, 512, 515, 700] {
        let layer = Layer::of(&whole[..cut]);
        assert_eq!(layer.result.is_err(), cut < 519, "{cut}");
    }
    let mut bad = whole.clone();
    bad[0] ^= 1;
    assert!(Layer::of(&bad).error().contains("checksum"));
    // A zero block and then more is an error; after two anything goes, and is kept.
    let mut odd = vec![0; 512];
    odd.extend_from_slice(&whole);
    assert!(Layer::of(&odd).error().contains("zero block"));
    let mut trailing = whole.clone();
    trailing.extend_from_slice(b"what follows the end\x01\x02");
    Layer::of(&trailing).result.unwrap();
    // Padding that is not zero, and a missing end.
    let mut tar = Archive::default();
    tar.block(b'0', b"p", b"", 0o644, 3, |_| {})
        .data(b"abc", 0xee)
        .file("q", b"1");
    Layer::of(&tar.0).result.unwrap();
    Layer::of(&tar.0[..tar.0.len() - 511]).result.unwrap();
    Layer::of(&[]).result.unwrap();
    for (kind, name) in [(b'V', "volume"), (b'M', "multi")] {
        let mut tar = Archive::default();
        tar.block(kind, name.as_bytes(), b"", 0, 0, |_| {});
        assert!(
            Layer::of(&tar.end())
                .error()
                .contains("unhandled tar header type")
        );
    }
}

#[test]
fn odd_structures() {
    type Case<'a> = (&'a str, fn(&mut Archive));
    let cases: &[Case<'_>] = &[
        ("file as a parent", |tar| {
            tar.file("f", b"").file("f/x", b"");
        }),
        ("hard link to itself", |tar| {
            tar.file("f", b"x").hardlink("f", "f");
        }),
        ("hard link to a directory", |tar| {
            tar.dir("d").hardlink("l", "d");
        }),
        ("hard link to nothing", |tar| {
            tar.hardlink("l", "none");
        }),
        ("hard link to the root", |tar| {
            tar.hardlink("l", "/");
        }),
        ("the root as a file", |tar| {
            tar.file("/", b"x");
        }),
        ("a link without a target", |tar| {
            tar.symlink("l", "");
        }),
        ("a device as a parent", |tar| {
            tar.block(b'3', b"d", b"", 0, 0, |_| {}).file("d/x", b"");
        }),
    ];
    for (what, build) in cases {
        let mut tar = Archive::default();
        build(&mut tar);
        assert!(Layer::of(&tar.end()).result.is_err(), "{what}");
    }
}

/// One entry of a made-up archive, from few names so that they meet.
fn entry() -> impl Strategy<Value = (u8, String, String, Vec<u8>)> {
    let name = || {
        let part = prop_oneof![
            Just("a"),
            Just("b"),
            Just("c"),
            Just(".."),
            Just("."),
            Just(".wh.a"),
            Just(".wh.b"),
            Just(".wh..wh..opq"),
            Just(".wh..wh.plnk"),
            Just("secret"),
        ];
        prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
    };
    let link = (
        name(),
        prop::sample::select(vec!["", "/", "../", "../../../"]),
    );
    let link = link.prop_map(|(name, start)| format!("{start}{name}"));
    let kind = prop::sample::select(b"00012255536".to_vec());
    (
        kind,
        name(),
        link,
        prop::collection::vec(any::<u8>(), 0..600),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_archive_is_contained_and_rebuilt(entries in prop::collection::vec(entry(), 0..16)) {
        let mut tar = Archive::default();
        for (kind, name, link, data) in &entries {
            match kind {
                b'0' => tar.file(name, data),
                b'1' => tar.hardlink(name, link),
                b'2' => tar.symlink(name, link),
                kind => tar.block(*kind, name.as_bytes(), b"", 0o755, 0, |_| {}),
            };
            // An archive that fails half way still shows what its beginning did.
            Layer::of(&tar.clone().end());
        }
    }

    #[test]
    fn any_bytes_do_no_harm(
        mut tar in Just(()).prop_map(|()| {
            let mut tar = Archive::default();
            tar.pax(&[("path", b"p"), ("SCHILY.xattr.user.a", b"b"), ("mtime", b"1.5")]);
            tar.file("x", b"content").symlink("l", "x").hardlink("h", "p").dir("d/").end()
        }),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        fix in any::<bool>(),
    ) {
        for (at, byte) in changes {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        if fix {
            for block in tar.chunks_exact_mut(512) {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        Layer::of(&tar);
    }
}
