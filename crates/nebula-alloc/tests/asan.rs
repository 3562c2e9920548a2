//! What AddressSanitizer is told: bytes that nobody has are poisoned, blocks are not, and the
//! region goes back clean. Built with `--cfg nebula_asan` and the sanitizer.
#![cfg(nebula_asan)]

use std::{alloc::Layout, ffi::c_void, ptr::NonNull};

use nebula_alloc::BumpAllocator;
use nebula_memory_core::{Allocator, Resettable, allocator_api2::alloc::Allocator as _};
use nebula_testing::CountingAllocator;

unsafe extern "C" {
    fn __asan_address_is_poisoned(address: *const c_void) -> i32;
}

fn poisoned(start: NonNull<u8>, offset: usize) -> bool {
    let address = start.as_ptr().wrapping_add(offset).cast();
    // SAFETY: the function looks at shadow memory only.
    unsafe { __asan_address_is_poisoned(address) != 0 }
}

fn all(start: NonNull<u8>, offsets: std::ops::Range<usize>, expected: bool) -> bool {
    offsets.into_iter().all(|offset| poisoned(start, offset) == expected)
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

fn block<A: Allocator>(bump: &BumpAllocator<A>, size: usize) -> NonNull<u8> {
    bump.try_allocate(layout(size)).unwrap().cast()
}

#[test]
fn only_blocks_are_accessible() {
    let bump = BumpAllocator::try_new(1024).unwrap();
    let first = block(&bump, 61);
    assert!(all(first, 0..61, false));
    assert!(all(first, 61..1024, true));
    let second = block(&bump, 64);
    assert!(all(first, 61..64, true), "padding is nobody's");
    assert!(all(second, 0..64, false));
    assert!(all(second, 64..960, true));
}

#[test]
fn freed_blocks_are_poisoned_in_any_order() {
    let bump = BumpAllocator::try_new(1024).unwrap();
    let (first, second) = (block(&bump, 64), block(&bump, 64));
    // SAFETY: both blocks are live and of this layout; each is freed once.
    unsafe { bump.deallocate(first, layout(64)) };
    assert!(all(first, 0..64, true) && all(second, 0..64, false));
    // SAFETY: as above.
    unsafe { bump.deallocate(second, layout(64)) };
    assert!(all(first, 0..1024, true));
}

#[test]
fn shrinking_and_growing_move_the_border() {
    let bump = BumpAllocator::try_new(1024).unwrap();
    let middle = block(&bump, 64);
    let last = block(&bump, 64);
    // SAFETY: the blocks are live, of these layouts, and the new sizes are smaller.
    unsafe { bump.shrink(middle, layout(64), layout(8)) }.unwrap();
    assert!(all(middle, 0..8, false) && all(middle, 8..64, true));
    // SAFETY: as above.
    unsafe { bump.shrink(last, layout(64), layout(8)) }.unwrap();
    assert!(all(last, 0..8, false) && all(last, 8..960, true));
    // SAFETY: the block is live, of this layout, and the new size is larger.
    unsafe { bump.grow(last, layout(8), layout(100)) }.unwrap();
    assert!(all(last, 0..100, false) && all(last, 100..960, true));
    // SAFETY: as above.
    let moved = unsafe { bump.grow(middle, layout(8), layout(80)) }.unwrap();
    assert!(all(middle, 0..64, true) && all(moved.cast(), 0..80, false));
}

#[test]
fn a_reset_poisons_the_region() {
    let mut bump = BumpAllocator::try_new(1024).unwrap();
    let all_of_it = block(&bump, 1024);
    assert!(all(all_of_it, 0..1024, false));
    bump.reset();
    assert!(all(all_of_it, 0..1024, true));
    assert!(all(block(&bump, 16), 0..16, false));
}

#[test]
fn the_region_goes_back_clean() {
    // This base writes to what it gets back: to poisoned bytes, that would end the process.
    let base = CountingAllocator::new();
    for _ in 0..3 {
        let bump = BumpAllocator::try_new_in(1024, &base).unwrap();
        block(&bump, 10);
    }
    base.assert_clean();
    // And so does one that is itself a region.
    let outer = BumpAllocator::try_new(4096).unwrap();
    let start = {
        let inner = BumpAllocator::try_new_in(1024, &outer).unwrap();
        block(&inner, 10)
    };
    assert!(all(start, 0..1024, true), "freed to the outer region");
    assert!(all(block(&outer, 4096), 0..4096, false));
}
