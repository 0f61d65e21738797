//! Random work on one file's content, as fsx does it, and by several threads on one tree, as fsstress does.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use moss::overlay::Driver;
use rustix::fs::{FallocateFlags, copy_file_range, fallocate};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::walk::{Dice, picture, step};
use crate::world::{World, names, write};

/// Longest that the file gets.
const MOST: u64 = 300_000;

/// A file, and what is to be in it.
struct Twin<'a> {
    path: &'a Path,
    file: File,
    model: Vec<u8>,
}

impl Twin<'_> {
    fn open(path: &Path) -> File {
        let mut options = OpenOptions::new();
        options.read(true).write(true).open(path).expect("opens")
    }

    /// Bytes from somewhere on: at most to the longest there may be.
    fn range(dice: &mut Dice) -> (u64, usize) {
        let from = dice.roll(MOST);
        let most = if dice.roll(2) == 0 { 100 } else { 70_000 };
        (from, dice.roll(most.min(MOST - from)) as usize + 1)
    }

    fn put(&mut self, from: u64, bytes: &[u8]) {
        let from = from as usize;
        let end = self.model.len().max(from + bytes.len());
        self.model.resize(end, 0);
        self.model[from..from + bytes.len()].copy_from_slice(bytes);
    }

    /// Through a shared mapping of all there is; `change` may write to it.
    fn mapped(&self, change: impl FnOnce(&mut [u8])) {
        let length = self.model.len();
        if length == 0 {
            return;
        }
        let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice, of a file that nobody else
        // has, and which is not shortened before it is unmapped below; the slice ends before that.
        unsafe {
            let at = mmap(std::ptr::null_mut(), length, access, kind, &self.file, 0);
            let at = at.expect("maps");
            change(std::slice::from_raw_parts_mut(at.cast(), length));
            munmap(at, length).expect("unmaps");
        }
    }

    fn step(&mut self, dice: &mut Dice) -> String {
        let (from, length) = Self::range(dice);
        let what = match dice.roll(12) {
            0..=2 => {
                let bytes = vec![dice.roll(256) as u8; length];
                self.file.write_all_at(&bytes, from).expect("written");
                self.put(from, &bytes);
                "write"
            }
            3 => {
                self.file.set_len(from).expect("truncated");
                self.model.resize(from as usize, 0);
                "truncate"
            }
            4 => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                match fallocate(&self.file, flags, from, length as u64) {
                    Err(Errno::NOTSUP) => {}
                    done => {
                        done.expect("a hole");
                        let end = self.model.len().min(from as usize + length);
                        if (from as usize) < end {
                            self.model[from as usize..end].fill(0);
                        }
                    }
                }
                "hole"
            }
            5 => {
                match fallocate(&self.file, FallocateFlags::empty(), from, length as u64) {
                    Err(Errno::NOTSUP) => {}
                    done => {
                        done.expect("allocated");
                        let end = self.model.len().max(from as usize + length);
                        self.model.resize(end, 0);
                    }
                }
                "allocate"
            }
            6 => {
                let to = (from + MOST) % (2 * MOST);
                let (mut source, mut target) = (from, to);
                let (file, source, target) = (&self.file, Some(&mut source), Some(&mut target));
                let copied = copy_file_range(file, source, file, target, length);
                let copied = copied.expect("copied");
                let end = self.model.len().min(from as usize + copied);
                let bytes = self.model[(from as usize).min(end)..end].to_vec();
                assert_eq!(bytes.len(), copied);
                if copied > 0 {
                    self.put(to, &bytes);
                }
                "copy"
            }
            7 | 8 => {
                let from = from as usize;
                let end = self.model.len().min(from + length);
                let value = dice.roll(256) as u8;
                if from < end {
                    self.mapped(|all| all[from..end].fill(value));
                    self.model[from..end].fill(value);
                }
                "mapped write"
            }
            9 => {
                self.mapped(|all| assert!(all == self.model));
                "mapped read"
            }
            10 => {
                self.file = Self::open(self.path);
                "open"
            }
            _ if dice.roll(8) == 0 => {
                self.file.sync_data().expect("synced");
                "sync"
            }
            _ => "nothing",
        };
        format!("{what} {from} {length}")
    }

    fn check(&self, after: &str) {
        let read = fs::read(self.path).expect("read");
        assert_eq!(read.len(), self.model.len(), "{after}");
        let differs = read.iter().zip(&self.model).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{after}");
    }
}

pub fn content_as_of_a_plain_file(driver: Driver) {
    let mut world = World::new(driver, 2);
    let model: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    write(&world.layer(1, "d/file"), "");
    fs::write(world.layer(1, "d/file"), &model).expect("written");
    world.mount();
    let path = world.at("d/file");
    let mut dice = Dice(0x2545_f491);
    let mut model = Some(model);
    for round in 0..4 {
        let file = Twin::open(&path);
        let mut twin = Twin {
            path: &path,
            file,
            model: model.take().expect("content"),
        };
        twin.check("mounted again");
        for n in 0..100 {
            let what = twin.step(&mut dice);
            twin.check(&format!("round {round}, step {n}: {what}"));
        }
        model = Some(twin.model);
        world.remount();
    }
}

pub fn several_at_once(driver: Driver) {
    let mut world = World::new(driver, 2);
    let mut dice = Dice(0x6c07_8965);
    for layer in (0..2).rev() {
        for _ in 0..60 {
            let _ = step(&world.layer(layer, ""), &mut dice);
        }
    }
    world.mount();
    let root = world.at("");
    std::thread::scope(|scope| {
        for thread in 1..=4 {
            let root = &root;
            scope.spawn(move || {
                let mut dice = Dice(thread << 32 | 0x9908_b0df);
                for _ in 0..400 {
                    let (what, result) = step(root, &mut dice);
                    // What others do may be in the way, but nothing is ever broken.
                    let broken = [libc::EIO, libc::ESTALE, libc::EINVAL, libc::ENOTCONN];
                    if let Err(error) = result
                        && !(what.starts_with("rename") || what.starts_with("exchange"))
                    {
                        assert!(!broken.map(Some).contains(&error), "{what}: {error:?}");
                    }
                }
            });
        }
    });
    let before = picture(&root);
    world.remount();
    assert_eq!(picture(&root), before);
    let left = names(&world.dir.path().join("work"));
    assert!(!left.iter().any(|name| name.starts_with('#')), "{left:?}");
}
