//! The heap of the process: what was freed and not given back to the system. Buffers are not in it: theirs goes back when
//! they are dropped.

/// Gives the freed pages of the heap back to the system, where the allocator (that of glibc) keeps them: for a stage whose
/// memory the next one must not add to.
pub fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
