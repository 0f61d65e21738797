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
