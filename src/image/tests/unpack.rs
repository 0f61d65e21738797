//! Layers, ordinary, odd and hostile: what becomes of them on disk, and that every accepted one is
//! rebuilt byte for byte.

mod bounds;
mod extensions;

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::super::error::Error;
use super::super::owner::{OVERRIDE, Owners};
use super::super::split::LayerTar;
use super::super::unpack::{Limits, unpack};
use crate::sys::tree;
use crate::tarball::build::Archive;

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
