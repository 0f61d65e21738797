//! What is too large, broken or merely odd.

use proptest::prelude::*;

use super::Layer;
use crate::image::unpack::Limits;
use crate::tarball::build::Archive;

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
