//! Which processes a container has, by its pid namespace: works with no cgroup.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// Pids on the host of the processes in the pid namespace of process `first`, or, where that is
/// the caller's own (`--pid host`), of `first` and its descendants.
///
/// # Errors
/// When `first` is gone or /proc cannot be read.
pub fn of(first: i32) -> io::Result<Vec<i32>> {
    let namespace = |pid: i32| fs::metadata(format!("/proc/{pid}/ns/pid")).map(|meta| meta.ino());
    let wanted = namespace(first)?;
    let own = fs::metadata("/proc/self/ns/pid")?.ino();
    let all = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    if wanted != own {
        // A process that ends meanwhile, or belongs to somebody else, has no namespace to us.
        return Ok(all
            .filter(|pid| namespace(*pid).is_ok_and(|inode| inode == wanted))
            .collect());
    }
    let mut all: Vec<i32> = all.collect();
    all.sort_unstable();
    Ok(family(
        first,
        all.iter()
            .filter_map(|&pid| Some((pid, parent_of(pid)?)))
            .collect(),
    ))
}

/// `first` and its descendants, of processes and their parents. The list was not made in an
/// instant, so nothing keeps a reused number from closing a circle in it: each parent counts once.
fn family(first: i32, processes: Vec<(i32, i32)>) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for (pid, parent) in processes {
        children.entry(parent).or_default().push(pid);
    }
    let mut family = vec![first];
    let mut next = 0;
    while let Some(parent) = family.get(next) {
        family.extend(children.remove(parent).unwrap_or_default());
        next += 1;
    }
    family
}

/// Field 4 of /proc/PID/stat; the name before it may hold anything, so fields count from its end.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::family;

    #[test]
    fn descendants_are_found_once_also_in_a_circle() {
        let processes = vec![(2, 1), (3, 2), (4, 2), (5, 4), (6, 7), (2, 5)];
        let mut found = family(2, processes);
        found.dedup();
        assert_eq!(found, [2, 3, 4, 5, 2]);
        assert_eq!(family(9, vec![(2, 1)]), [9]);
    }
}
