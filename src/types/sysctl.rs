//! Kernel settings (sysctl(8)) that a container may have of its own, as each is of a namespace.

/// The namespace that a setting is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// System V IPC and POSIX message queues.
    Ipc,
    /// The network.
    Network,
}

/// Whose a setting is, by its name with dots; `None` for one that the whole host shares, and for the
/// names of host and domain, which containers have other ways to set.
pub fn owner(name: &str) -> Option<Owner> {
    match name {
        "kernel.msgmax"
        | "kernel.msgmnb"
        | "kernel.msgmni"
        | "kernel.sem"
        | "kernel.shmall"
        | "kernel.shmmax"
        | "kernel.shmmni"
        | "kernel.shm_rmid_forced" => Some(Owner::Ipc),
        _ if name.starts_with("fs.mqueue.") => Some(Owner::Ipc),
        _ if name.starts_with("net.") => Some(Owner::Network),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_of_namespaces_or_of_the_host() {
        for (name, whose) in [
            ("kernel.shmmax", Some(Owner::Ipc)),
            ("fs.mqueue.msg_max", Some(Owner::Ipc)),
            ("net.ipv4.ip_forward", Some(Owner::Network)),
            ("kernel.pid_max", None),
            ("kernel.shmmaxx", None),
            ("kernel.hostname", None),
            ("net", None),
            ("", None),
        ] {
            assert_eq!(owner(name), whose, "{name}");
        }
    }
}
