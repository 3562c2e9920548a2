//! Tells AddressSanitizer which part of a chunk is in use, so that it reports a use after reset or
//! free. Compiled to nothing without `--cfg nebula_asan`.

#[cfg(nebula_asan)]
unsafe extern "C" {
    fn __asan_poison_memory_region(start: *const u8, size: usize);
    fn __asan_unpoison_memory_region(start: *const u8, size: usize);
}

/// Forbids access to `size` bytes from `start` until they are allowed again.
#[inline(always)]
pub(crate) fn forbid(start: *const u8, size: usize) {
    #[cfg(nebula_asan)]
    // SAFETY: the sanitizer only marks its shadow of the range; it reads and writes nothing there.
    unsafe {
        __asan_poison_memory_region(start, size);
    }
    #[cfg(not(nebula_asan))]
    let _ = (start, size);
}

/// Allows access to `size` bytes from `start`.
#[inline(always)]
pub(crate) fn allow(start: *const u8, size: usize) {
    #[cfg(nebula_asan)]
    // SAFETY: as above.
    unsafe {
        __asan_unpoison_memory_region(start, size);
    }
    #[cfg(not(nebula_asan))]
    let _ = (start, size);
}
