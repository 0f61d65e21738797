//! Whether this process was confined by chroot(2): the kernel lets nobody make a user namespace then
//! (`EPERM`; user_namespaces(7)), and says no more than that.

/// Whether the process's root is not the root of its mount namespace, as far as that can be told: a
/// root that is itself a mount is known for one only where process 1 is in the same namespace.
pub fn is_chrooted() -> bool {
    let read = |process: &str| std::fs::read_to_string(format!("/proc/{process}/mountinfo"));
    read("self").is_ok_and(|own| differs(&own, &read("1").unwrap_or_default()))
}

/// The same by the mounts that this process and process 1 see (proc(5), mountinfo). Mounts above a
/// process's root are not shown to it, and the one that its root is in has no place then.
fn differs(own: &str, first: &str) -> bool {
    let mut own = own.lines().filter_map(place);
    match own.find(|(_, point)| *point == "/") {
        None => true,
        Some((root, _)) => first
            .lines()
            .filter_map(place)
            .any(|(id, point)| id == root && point != "/"),
    }
}

/// A mount's id and the place of it.
fn place(line: &str) -> Option<(&str, &str)> {
    let mut fields = line.split(' ');
    Some((fields.next()?, fields.nth(3)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "27 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                        30 27 0:25 / /srv/root rw - tmpfs tmpfs rw\n\
                        31 30 0:26 / /srv/root/proc rw - proc proc rw\n";

    #[test]
    fn a_root_that_is_not_the_namespaces_is_told() {
        assert!(!differs(HOST, HOST));
        // A directory: the mount that it is in is out of sight.
        assert!(differs("31 30 0:26 / /proc rw - proc proc rw\n", HOST));
        // A mount, which the first process sees elsewhere.
        let inside = "30 27 0:25 / / rw - tmpfs tmpfs rw\n31 30 0:26 / /proc rw - proc proc rw\n";
        assert!(differs(inside, HOST));
        // Another namespace, of which the first process knows nothing.
        assert!(!differs("90 80 0:25 / / rw - tmpfs tmpfs rw\n", HOST));
        assert!(!differs(inside, ""));
    }
}
