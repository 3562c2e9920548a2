//! What AddressSanitizer is told: bytes that nobody has are poisoned, blocks are not, and the
//! region goes back clean. Built with `--cfg nebula_asan` and the sanitizer.
#![cfg(nebula_asan)]

use std::{alloc::Layout, ffi::c_void, ptr::NonNull};

use nebula_alloc::{BumpAllocator, StackAllocator};
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

/// As [`block`], on a stack.
fn stacked(stack: &StackAllocator, size: usize) -> NonNull<u8> {
    stack.try_allocate(layout(size)).unwrap().cast()
}

#[test]
fn only_blocks_of_a_stack_are_accessible() {
    let stack = StackAllocator::try_new(1024).unwrap();
    let (first, second) = (stacked(&stack, 61), stacked(&stack, 64));
    assert!(all(first, 0..61, false) && all(first, 61..64, true));
    assert!(all(second, 0..64, false) && all(second, 64..960, true));
    // SAFETY: both blocks are live and of this layout; each is freed once.
    unsafe { stack.deallocate(first, layout(61)) };
    // All but the note about it.
    assert!(all(first, 0..48, true) && all(second, 0..64, false));
    // SAFETY: as above.
    unsafe { stack.deallocate(second, layout(64)) };
    assert!(all(first, 0..1024, true));
}

#[test]
fn blocks_of_a_stack_move_the_border_when_they_are_resized() {
    let stack = StackAllocator::try_new(4096).unwrap();
    let (middle, last) = (stacked(&stack, 64), stacked(&stack, 64));
    // SAFETY: the blocks are live, of these layouts, and the new sizes are smaller.
    unsafe { stack.shrink(middle, layout(64), layout(5)) }.unwrap();
    assert!(all(middle, 0..5, false) && all(middle, 5..48, true));
    // SAFETY: as above.
    unsafe { stack.shrink(last, layout(64), layout(8)) }.unwrap();
    assert!(all(last, 0..8, false) && all(last, 8..960, true));
    let aligned = Layout::from_size_align(100, 256).unwrap();
    // SAFETY: the block is live, of this layout, and the new size is larger.
    let moved = unsafe { stack.grow(last, layout(8), aligned) }.unwrap().cast::<u8>();
    assert!(all(moved, 0..100, false) && all(moved, 100..512, true));
    let between = moved.addr().get() - last.addr().get();
    // All but the header.
    assert!(all(last, 0..between - 16, true));
    // SAFETY: the block is live and of this layout.
    unsafe { stack.deallocate(moved, aligned) };
    assert!(all(last, 0..1024, true));
}

#[test]
fn frames_and_markers_poison_what_they_give_back() {
    let base = CountingAllocator::new();
    let mut stack = StackAllocator::try_new_in(1024, &base).unwrap();
    let below = stack.try_allocate(layout(16)).unwrap().cast::<u8>();
    let in_frame = {
        let frame = stack.frame();
        let block = frame.try_allocate(layout(64)).unwrap().cast();
        assert!(all(block, 0..64, false) && all(block, 64..1008, true));
        block
    };
    assert!(all(below, 0..16, false) && all(in_frame, 0..1008, true));
    let marker = stack.marker();
    let above = stack.try_allocate(layout(64)).unwrap().cast();
    stack.release_to(marker).unwrap();
    assert!(all(above, 0..1008, true));
    drop(stack);
    base.assert_clean();
}
