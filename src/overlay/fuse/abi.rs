//! Numbers of the FUSE protocol (`include/uapi/linux/fuse.h`), those that are used.

/// Operations.
pub(super) mod op {
    pub(in super::super) const LOOKUP: u32 = 1;
    pub(in super::super) const FORGET: u32 = 2;
    pub(in super::super) const GETATTR: u32 = 3;
    pub(in super::super) const SETATTR: u32 = 4;
    pub(in super::super) const READLINK: u32 = 5;
    pub(in super::super) const SYMLINK: u32 = 6;
    pub(in super::super) const MKNOD: u32 = 8;
    pub(in super::super) const MKDIR: u32 = 9;
    pub(in super::super) const UNLINK: u32 = 10;
    pub(in super::super) const RMDIR: u32 = 11;
    pub(in super::super) const RENAME: u32 = 12;
    pub(in super::super) const LINK: u32 = 13;
    pub(in super::super) const READ: u32 = 15;
    pub(in super::super) const WRITE: u32 = 16;
    pub(in super::super) const STATFS: u32 = 17;
    pub(in super::super) const RELEASE: u32 = 18;
    pub(in super::super) const FSYNC: u32 = 20;
    pub(in super::super) const SETXATTR: u32 = 21;
    pub(in super::super) const GETXATTR: u32 = 22;
    pub(in super::super) const LISTXATTR: u32 = 23;
    pub(in super::super) const REMOVEXATTR: u32 = 24;
    pub(in super::super) const INIT: u32 = 26;
    pub(in super::super) const READDIR: u32 = 28;
    pub(in super::super) const FSYNCDIR: u32 = 30;
    pub(in super::super) const DESTROY: u32 = 38;
    pub(in super::super) const BATCH_FORGET: u32 = 42;
    pub(in super::super) const FALLOCATE: u32 = 43;
    pub(in super::super) const READDIRPLUS: u32 = 44;
    pub(in super::super) const RENAME2: u32 = 45;
    pub(in super::super) const LSEEK: u32 = 46;
    pub(in super::super) const COPY_FILE_RANGE: u32 = 47;
    pub(in super::super) const TMPFILE: u32 = 51;
    pub(in super::super) const STATX: u32 = 52;
    pub(in super::super) const COPY_FILE_RANGE_64: u32 = 53;
}

/// What kernel and server can do; in INIT's two words, taken together.
pub(super) mod cap {
    pub(in super::super) const ASYNC_READ: u64 = 1;
    pub(in super::super) const BIG_WRITES: u64 = 1 << 5;
    pub(in super::super) const DONT_MASK: u64 = 1 << 6;
    pub(in super::super) const READDIRPLUS: u64 = 1 << 13;
    pub(in super::super) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(in super::super) const ASYNC_DIO: u64 = 1 << 15;
    pub(in super::super) const WRITEBACK_CACHE: u64 = 1 << 16;
    pub(in super::super) const NO_OPEN: u64 = 1 << 17;
    pub(in super::super) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(in super::super) const POSIX_ACL: u64 = 1 << 20;
    pub(in super::super) const MAX_PAGES: u64 = 1 << 22;
    pub(in super::super) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(in super::super) const NO_OPENDIR: u64 = 1 << 24;
    pub(in super::super) const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub(in super::super) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(in super::super) const SETXATTR_EXT: u64 = 1 << 29;
    pub(in super::super) const INIT_EXT: u64 = 1 << 30;
}

/// SETATTR: which attributes.
pub(super) mod set {
    pub(in super::super) const MODE: u32 = 1;
    pub(in super::super) const UID: u32 = 2;
    pub(in super::super) const GID: u32 = 4;
    pub(in super::super) const SIZE: u32 = 8;
    pub(in super::super) const ATIME: u32 = 16;
    pub(in super::super) const MTIME: u32 = 32;
    pub(in super::super) const ATIME_NOW: u32 = 128;
    pub(in super::super) const MTIME_NOW: u32 = 256;
    pub(in super::super) const KILL_SUIDGID: u32 = 2048;
}

/// WRITE: take the set-id bits away.
pub(super) const WRITE_KILL_SUIDGID: u32 = 4;
/// SETXATTR: an access ACL by who may not keep the set-group-id bit.
pub(super) const SETXATTR_ACL_KILL_SGID: u32 = 1;
/// FSYNC: data only.
pub(super) const FSYNC_DATA: u32 = 1;
/// A notification's code: a file's content is stale.
pub(super) const NOTIFY_INVAL_INODE: i32 = 2;
