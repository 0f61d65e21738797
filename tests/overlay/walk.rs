//! A random walk: the same operations on an overlay and on a plain directory, compared.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use moss::overlay::Driver;
use rustix::fs::{CWD, RenameFlags};

use crate::world::{World, read};

/// Pseudo-random numbers (xorshift64), the same every time.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.roll(3);
        let parts: Vec<String> = (0..depth).map(|_| format!("n{}", self.roll(4))).collect();
        parts.join("/")
    }
}

/// One random operation, done the same to an overlay and to a plain directory.
pub fn step(root: &Path, dice: &mut Dice) -> (String, Result<(), Option<i32>>) {
    let (one, two) = (dice.path(), dice.path());
    let (a, b) = (root.join(&one), root.join(&two));
    let number = dice.roll(1000);
    let kind = dice.roll(16);
    let io = |result: std::io::Result<()>| result.map_err(|error| error.raw_os_error());
    let sys = |result: rustix::io::Result<()>| result.map_err(|error| Some(error.raw_os_error()));
    let (what, result) = match kind {
        0..=2 => ("write", io(fs::write(&a, format!("{number}")))),
        3 => {
            let file = OpenOptions::new().append(true).open(&a);
            (
                "append",
                io(file.and_then(|mut file| write!(file, "+{number}"))),
            )
        }
        4 | 5 => ("mkdir", io(fs::create_dir(&a))),
        6 => ("rmdir", io(fs::remove_dir(&a))),
        7 => ("unlink", io(fs::remove_file(&a))),
        8 => ("rm -r", {
            // The order of a directory decides which error comes first: there is to be none.
            io(match fs::remove_dir_all(&a) {
                Err(error) if error.kind() == ErrorKind::NotADirectory => Err(error),
                other => other,
            })
        }),
        9 | 10 => ("rename", io(fs::rename(&a, &b))),
        11 => {
            let flags = RenameFlags::EXCHANGE;
            (
                "exchange",
                sys(rustix::fs::renameat_with(CWD, &a, CWD, &b, flags)),
            )
        }
        12 => ("link", io(fs::hard_link(&a, &b))),
        13 => ("symlink", io(symlink(&two, &a))),
        14 => {
            let mode =
                fs::Permissions::from_mode(0o700 | u32::try_from(number % 64).expect("small"));
            let is_link = a.symlink_metadata().is_ok_and(|stat| stat.is_symlink());
            (
                "chmod",
                if is_link {
                    Ok(())
                } else {
                    io(fs::set_permissions(&a, mode))
                },
            )
        }
        _ => {
            let file = OpenOptions::new().write(true).open(&a);
            (
                "truncate",
                io(file.and_then(|file| file.set_len(number % 5))),
            )
        }
    };
    (format!("{what} {one} {two} {number}"), result)
}

/// Everything below a directory, in words. (How many names a file has is not said, but which: of a
/// layer's file those that were removed count, too.)
pub fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("a directory") {
            let entry = entry.expect("an entry");
            let path = entry.path();
            let stat = path.symlink_metadata().expect("what was listed is there");
            assert_eq!(entry.file_type().expect("a type"), stat.file_type());
            if stat.is_dir() {
                waiting.push(path.clone());
            }
            let name = path.strip_prefix(root).expect("below").to_owned();
            found.insert(name, stat);
        }
    }
    let mut first: HashMap<(u64, u64), &Path> = HashMap::new();
    let in_words = found.iter().map(|(name, stat)| {
        let path = root.join(name);
        let what = if stat.is_dir() {
            "directory".to_owned()
        } else if stat.is_symlink() {
            format!("link to {:?}", fs::read_link(&path).expect("a link"))
        } else {
            read(&path)
        };
        let same = *first.entry((stat.dev(), stat.ino())).or_insert(name);
        let owner = (stat.uid(), stat.gid(), stat.mode());
        (
            name.clone(),
            format!("{owner:?} {what:?}, the file {same:?}"),
        )
    });
    in_words.collect()
}

pub fn random_walk(driver: Driver) {
    if driver == Driver::Overlay2 {
        // It answers EXDEV where a directory does not.
        return;
    }
    for seed in 1..=4 {
        let mut world = World::new(driver, 3);
        let model = world.dir.path().join("model");
        let mut dice = Dice(seed << 32 | 0x7f4a_7c15);
        // The layers are what the native driver leaves behind, walked at random, too.
        for layer in (0..3).rev() {
            for _ in 0..40 {
                // Most fail: nothing is there yet.
                let _ = step(&world.layer(layer, ""), &mut dice);
            }
        }
        world.mount();
        copy_tree(&world.at(""), &model);
        for round in 0..8 {
            assert_eq!(
                picture(&world.at("")),
                picture(&model),
                "seed {seed}, round {round}"
            );
            for n in 0..150 {
                let mut twin = Dice(dice.0);
                let (what, ours) = step(&world.at(""), &mut dice);
                let (_, theirs) = step(&model, &mut twin);
                assert_eq!(ours, theirs, "seed {seed}, round {round}, step {n}: {what}");
            }
            assert_eq!(
                picture(&world.at("")),
                picture(&model),
                "seed {seed}, round {round}"
            );
            world.remount();
        }
        assert_eq!(
            picture(&world.at("")),
            picture(&model),
            "seed {seed}, mounted again"
        );
        if driver == Driver::Fuse {
            // The kernel's overlayfs reads the same from the upper directory.
            world.unmount();
            world.mount_as(Driver::Overlay2);
            assert_eq!(
                picture(&world.at("")),
                picture(&model),
                "seed {seed}, mounted natively"
            );
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.expect("cp runs").success());
}
