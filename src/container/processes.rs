//! Which processes a container has, by its pid namespace: works with no cgroup.
//!
//! A container's processes are those in the pid namespace of its first one, and all that descends
//! from them: a pid namespace made inside the container is the container's too. Where it shares its
//! engine's pid namespace (`--pid host`) only descent tells, and what lost its parent is the shim's
//! child.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// A process as /proc/PID/stat tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Pid on the host.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Field 22: clock ticks after boot.
    pub start_time: u64,
    /// `R`, `S`, `D`, `T`, `Z` …
    pub state: u8,
}

impl Process {
    /// Reads a process's line; `None` once it is gone.
    pub fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field, the name in parentheses, may hold anything, so fields count from its end.
    fn parse(stat: &str) -> Option<Self> {
        let pid = stat.split_ascii_whitespace().next()?.parse().ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        let start_time = fields.nth(17)?.parse().ok()?;
        Some(Self {
            pid,
            parent,
            start_time,
            state,
        })
    }
}

/// The processes of the container whose first process is `first`, and whose shim is `shim`.
///
/// # Errors
/// When `first` is gone or /proc cannot be read.
pub fn of(first: i32, shim: Option<i32>) -> io::Result<Vec<Process>> {
    let namespace = |pid: i32| fs::metadata(format!("/proc/{pid}/ns/pid")).map(|meta| meta.ino());
    let wanted = namespace(first)?;
    let own = fs::metadata("/proc/self/ns/pid")?.ino();
    let all: Vec<Process> = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(Process::read)
        .collect();
    let mut roots = BTreeSet::from([first]);
    if wanted == own {
        let orphan = |process: &&Process| Some(process.parent) == shim;
        roots.extend(all.iter().filter(orphan).map(|process| process.pid));
    } else {
        // A process that ends meanwhile, or belongs to somebody else, has no namespace to us.
        let inside = |pid: &i32| namespace(*pid).is_ok_and(|inode| inode == wanted);
        roots.extend(all.iter().map(|process| process.pid).filter(inside));
    }
    Ok(families(roots, all))
}

/// The processes `roots` and their descendants, in the order of their starts. The list was not made
/// in an instant, so nothing keeps a reused number from closing a circle in it: each counts once.
fn families(roots: BTreeSet<i32>, all: Vec<Process>) -> Vec<Process> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for process in &all {
        children
            .entry(process.parent)
            .or_default()
            .push(process.pid);
    }
    let mut found = roots.clone();
    let mut next: Vec<i32> = roots.into_iter().collect();
    while let Some(parent) = next.pop() {
        let born = children.remove(&parent).unwrap_or_default();
        next.extend(born.into_iter().filter(|pid| found.insert(*pid)));
    }
    let mut family: Vec<Process> = all
        .into_iter()
        .filter(|process| found.contains(&process.pid))
        .collect();
    family.sort_by_key(|process| (process.start_time, process.pid));
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process((pid, parent): (i32, i32)) -> Process {
        Process {
            pid,
            parent,
            start_time: pid.unsigned_abs().into(),
            state: b'S',
        }
    }

    #[test]
    fn descendants_are_found_once_also_in_a_circle() {
        let pids = |roots: &[i32], all: &[(i32, i32)]| -> Vec<i32> {
            let all = all.iter().copied().map(process).collect();
            let family = families(roots.iter().copied().collect(), all);
            family.iter().map(|process| process.pid).collect()
        };
        let all = [(2, 5), (3, 2), (4, 2), (5, 4), (6, 7)];
        assert_eq!(pids(&[2], &all), [2, 3, 4, 5]);
        assert_eq!(pids(&[3, 6], &all), [3, 6]);
        assert!(pids(&[9], &[(2, 1)]).is_empty());
    }

    #[test]
    fn names_do_not_confuse() {
        let rest = "1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        let line = format!("42 (a) R 7) S {rest}");
        let expected = Process {
            pid: 42,
            parent: 1,
            start_time: 4711,
            state: b'S',
        };
        assert_eq!(Process::parse(&line), Some(expected));
        assert_eq!(Process::parse("42 (a"), None);
        let me = Process::read(std::process::id().cast_signed()).unwrap();
        assert_eq!(
            me.start_time,
            crate::sys::pidfd::start_time(me.pid).unwrap()
        );
    }
}
