//! Images that are made here, and disks that are too small for them.

use std::fs;

use super::super::{BuiltinFile, Config, Import, Store};
use super::archives::{assert_empty, gzip, layer};
use crate::types::platform::Platform;
use crate::types::reference::Reference;

#[test]
fn import_makes_one_layer() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let tar = layer("etc/x", b"imported");
    let import = Import {
        message: "Imported from -".to_owned(),
        platform: Some(Platform::new("linux", "arm64", "v8")),
        name: Some("mine".parse().unwrap()),
        ..Import::default()
    };
    let id = store.import(&mut &gzip(&tar)[..], &import).unwrap();
    let image = store.get("mine:latest").unwrap();
    assert_eq!((image.id, image.size), (id, 8));
    assert_eq!(
        (image.architecture.as_str(), image.layers.len()),
        ("arm64", 1)
    );
    assert_eq!(
        store.history("mine").unwrap()[0].entry.comment,
        "Imported from -"
    );
    let error = store
        .import(&mut &b"no tar at all".repeat(99)[..], &import)
        .unwrap_err();
    assert!(error.chain().contains("checksum"));
    store.remove("mine", false, true, &|_| Vec::new()).unwrap();
    assert_empty(&store);
}

#[test]
fn the_builtin_image_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let name = Reference::parse("hello").unwrap();
    let file = |bytes| {
        [BuiltinFile {
            path: "hello",
            mode: 0o755,
            bytes,
        }]
    };
    let config = Config {
        cmd: Some(vec!["/hello".to_owned()]),
        ..Config::default()
    };
    let ensure = |bytes| store.ensure_builtin(&name, &file(bytes), &config).unwrap();
    let first = ensure(b"\x7fELF 1");
    assert_eq!(ensure(b"\x7fELF 1"), first);
    let image = store.get("hello").unwrap();
    let program = store.layer_paths(&image)[0].join("hello");
    assert_eq!(fs::read(program).unwrap(), b"\x7fELF 1");
    // A newer moss brings a newer one; the user's own is left alone.
    let second = ensure(b"\x7fELF 2");
    assert_ne!(second, first);
    let import = Import {
        name: Some(name.clone()),
        ..Import::default()
    };
    let own = store
        .import(&mut &layer("etc/x", b"own")[..], &import)
        .unwrap();
    assert_eq!(ensure(b"\x7fELF 3"), own);
}

/// Needs a filesystem of its own, so mount rights: elsewhere it says that it was skipped.
#[test]
fn a_full_disk_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let flags = rustix::mount::MountFlags::empty();
    for options in [c"size=4m", c"nr_inodes=60"] {
        if let Err(error) = rustix::mount::mount("none", dir.path(), "tmpfs", flags, options) {
            eprintln!("skipped: cannot mount a tmpfs ({error})");
            return;
        }
        let outcome = std::panic::catch_unwind(|| {
            let store = Store::open(dir.path()).unwrap();
            let mut tar = crate::tarball::build::Archive::default();
            for at in 0..100 {
                tar.file(&format!("f{at}"), &[7; 100_000]);
            }
            let error = store
                .import(&mut &tar.end()[..], &Import::default())
                .unwrap_err();
            assert!(error.chain().contains("No space left"), "{}", error.chain());
            assert_empty(&store);
        });
        rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        outcome.unwrap();
    }
}
