//! The C library's allocator, told to keep little.

/// Bounds the allocator's arenas: by default there are eight for each core, and each keeps what it has
/// been given. To be called before threads are started.
pub fn bound_arenas() {
    // SAFETY: mallopt only sets parameters of the allocator; there is one thread yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        // Large buffers (lists, image layers) go back to the system at once.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 * 1024);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 512 * 1024);
    }
}
