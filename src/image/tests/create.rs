//! Images that are made here, and disks that are too small for them.

use super::super::{Import, Store};
use super::archives::{assert_empty, gzip, layer};
use super::small::on_small_disk;
use crate::types::platform::Platform;

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
fn a_full_disk_leaves_nothing() {
    let name = concat!(module_path!(), "::a_full_disk_leaves_nothing");
    for options in [c"size=4m", c"nr_inodes=60"] {
        on_small_disk(name, options, |dir| {
            let store = Store::open(dir).unwrap();
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
    }
}
