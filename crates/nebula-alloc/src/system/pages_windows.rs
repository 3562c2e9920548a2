//! Mapped pages on Windows: `VirtualAlloc`.

use std::{mem::MaybeUninit, ptr, ptr::NonNull};

use windows_sys::Win32::System::{
    Memory::{
        MEM_COMMIT, MEM_DECOMMIT, MEM_RELEASE, MEM_RESERVE, MEM_RESET, PAGE_READWRITE,
        VirtualAlloc, VirtualFree,
    },
    SystemInformation::{GetSystemInfo, SYSTEM_INFO},
};

/// The size of a page.
pub(super) fn page_size() -> Option<usize> {
    let mut info = MaybeUninit::<SYSTEM_INFO>::uninit();
    // SAFETY: the call fills the structure that it is given.
    unsafe { GetSystemInfo(info.as_mut_ptr()) };
    // SAFETY: it has been filled.
    let info = unsafe { info.assume_init() };
    usize::try_from(info.dwPageSize).ok()
}

/// Fresh pages, all zero.
pub(super) fn map(bytes: usize) -> Option<NonNull<u8>> {
    // SAFETY: a new reservation, wherever the system likes, touches nothing that exists.
    let start =
        unsafe { VirtualAlloc(ptr::null(), bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE) };
    NonNull::new(start.cast())
}

/// Gives pages back, with what [`resize`] left of them.
///
/// # Safety
/// They come from [`map`], from their start, and nobody uses them.
pub(super) unsafe fn unmap(start: NonNull<u8>, _bytes: usize) {
    // SAFETY: the caller's promises are the callee's; the size has to be zero.
    let done = unsafe { VirtualFree(start.as_ptr().cast(), 0, MEM_RELEASE) };
    debug_assert_ne!(done, 0, "VirtualFree refused pages of ours");
}

/// Gives back the pages at the end of a mapping, whose addresses stay reserved; growing is left to
/// the caller, who can copy.
///
/// # Safety
/// As [`unmap`]; both sizes are whole pages, at least one, and differ.
pub(super) unsafe fn resize(start: NonNull<u8>, old: usize, new: usize) -> Option<NonNull<u8>> {
    if new > old {
        return None;
    }
    // SAFETY: the new size is at most the old one.
    let end = unsafe { start.add(new) };
    // SAFETY: these pages are the end of the mapping, and the caller gave them up.
    let done = unsafe { VirtualFree(end.as_ptr().cast(), old - new, MEM_DECOMMIT) };
    (done != 0).then_some(start)
}

/// Large pages are a privilege here, and not to be had afterwards.
pub(super) fn ask_for_huge_pages(_start: NonNull<u8>, _bytes: usize) {}

/// Gives the memory behind whole pages back, whose contents are anything afterwards. Returns
/// whether the system did.
///
/// # Safety
/// The bytes are whole pages, and nobody relies on their contents.
pub(super) unsafe fn discard(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller's promise is what this asks for.
    let same = unsafe { VirtualAlloc(start.as_ptr().cast(), bytes, MEM_RESET, PAGE_READWRITE) };
    !same.is_null()
}
