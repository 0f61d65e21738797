//! The allocator's own memory.

/// Gives unused pages of the heap back to the kernel. glibc keeps freed memory for later; a shim
/// that has parsed its start request would hold on to it for as long as its container lives.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time; it releases only memory that is not
    // allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Keeps glibc to two arenas. By default every thread, up to eight a processor, gets one of its
/// own, and what a burst of requests leaves in each is not given back.
///
/// Takes effect for threads started after it.
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) sets a number in the allocator, under its lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
