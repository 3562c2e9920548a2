//! Telling AddressSanitizer which bytes of a region nobody may touch.
//!
//! Built with `--cfg nebula_asan` and `-Zsanitizer=address`, a use of freed or not yet allocated
//! memory inside a region is reported like one of the heap; otherwise these functions are nothing.

/// The sanitizer keeps one note for this many bytes.
pub(crate) const GRANULE: usize = 8;

#[cfg(nebula_asan)]
mod imp {
    use std::{ffi::c_void, ptr::NonNull};

    unsafe extern "C" {
        fn __asan_poison_memory_region(start: *const c_void, bytes: usize);
        fn __asan_unpoison_memory_region(start: *const c_void, bytes: usize);
    }

    pub(crate) fn poison(start: NonNull<u8>, bytes: usize) {
        // SAFETY: the range is one that the calling allocator owns; the function marks it in
        // shadow memory and does not touch it.
        unsafe { __asan_poison_memory_region(start.as_ptr().cast(), bytes) }
    }

    pub(crate) fn unpoison(start: NonNull<u8>, bytes: usize) {
        // SAFETY: as in `poison`.
        unsafe { __asan_unpoison_memory_region(start.as_ptr().cast(), bytes) }
    }
}

#[cfg(not(nebula_asan))]
mod imp {
    use std::ptr::NonNull;

    #[inline(always)]
    pub(crate) const fn poison(_start: NonNull<u8>, _bytes: usize) {}

    #[inline(always)]
    pub(crate) const fn unpoison(_start: NonNull<u8>, _bytes: usize) {}
}

pub(crate) use imp::{poison, unpoison};
