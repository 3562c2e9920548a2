//! Mapped pages on Unix: `mmap`, and `mremap` where there is one.

use std::{ptr, ptr::NonNull};

/// The size of a page.
pub(super) fn page_size() -> Option<usize> {
    // SAFETY: the call takes a number and touches no memory of ours.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()
}

/// Fresh pages, all zero.
pub(super) fn map(bytes: usize) -> Option<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping, wherever the system likes, touches nothing that exists.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
}

/// Gives pages back.
///
/// # Safety
/// They come from [`map`] or [`resize`], all of these `bytes`, and nobody uses them.
pub(super) unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promises are the callee's.
    let failed = unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
    debug_assert_eq!(failed, 0, "munmap refused a mapping of ours");
}

/// Makes a mapping larger or smaller, perhaps elsewhere; new pages are zero. `None` if that cannot
/// be done, and then nothing has changed.
///
/// # Safety
/// As [`unmap`]; both sizes are whole pages, at least one, and differ.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) unsafe fn resize(start: NonNull<u8>, old: usize, new: usize) -> Option<NonNull<u8>> {
    // SAFETY: the mapping is the caller's, who gives up its old address.
    let start = unsafe { libc::mremap(start.as_ptr().cast(), old, new, libc::MREMAP_MAYMOVE) };
    if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
}

/// As above; growing is left to the caller, who can copy.
///
/// # Safety
/// As above.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) unsafe fn resize(start: NonNull<u8>, old: usize, new: usize) -> Option<NonNull<u8>> {
    if new > old {
        return None;
    }
    // SAFETY: the new size is at most the old one.
    let end = unsafe { start.add(new) };
    // SAFETY: these pages are the end of the mapping, and the caller gave them up.
    unsafe { unmap(end, old - new) };
    Some(start)
}

/// Asks for huge pages, where there is such a request.
pub(super) fn ask_for_huge_pages(start: NonNull<u8>, bytes: usize) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // SAFETY: the advice changes how pages are kept, not what is in them.
    let _ = unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (start, bytes);
}

/// Gives the memory behind whole pages back, whose contents are anything afterwards. Returns
/// whether the system did.
///
/// # Safety
/// The bytes are whole pages, and nobody relies on their contents.
pub(super) unsafe fn discard(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller's promise is what the advice asks for.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DONTNEED) == 0 }
}
