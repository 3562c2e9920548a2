//! Where no pages can be mapped, the heap has to serve everything.

use std::ptr::NonNull;

/// `None`: there are no pages, and so no other function here is called for a block.
pub(super) fn page_size() -> Option<usize> {
    None
}

pub(super) fn map(_bytes: usize) -> Option<NonNull<u8>> {
    None
}

/// # Safety
/// There is nothing that could be unmapped.
pub(super) unsafe fn unmap(_start: NonNull<u8>, _bytes: usize) {}

/// # Safety
/// There is nothing that could be resized.
pub(super) unsafe fn resize(_start: NonNull<u8>, _old: usize, _new: usize) -> Option<NonNull<u8>> {
    None
}

pub(super) fn ask_for_huge_pages(_start: NonNull<u8>, _bytes: usize) {}

/// # Safety
/// Nothing is done.
pub(super) unsafe fn discard(_start: NonNull<u8>, _bytes: usize) -> bool {
    false
}
