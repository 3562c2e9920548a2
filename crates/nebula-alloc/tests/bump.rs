//! The bump allocator: what is used when, and who gets which address.

use std::{alloc::Layout, hint::black_box, ptr::NonNull};

use nebula_alloc::BumpAllocator;
use nebula_memory_core::{
    Align, Allocator, Global, MemoryError, MemoryUsage, Resettable, TypedAllocator,
    allocator_api2::{alloc::Allocator as _, vec::Vec},
};
use nebula_testing::CountingAllocator;

fn bump(capacity: usize) -> BumpAllocator {
    BumpAllocator::try_new(capacity).unwrap()
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn block<A: Allocator>(bump: &BumpAllocator<A>, size: usize, align: usize) -> NonNull<u8> {
    bump.try_allocate(layout(size, align)).unwrap().cast()
}

/// Frees a block made by [`block`].
fn free<A: Allocator>(bump: &BumpAllocator<A>, block: NonNull<u8>, size: usize, align: usize) {
    // SAFETY: every test frees a live block with the size and alignment it was made with.
    unsafe { bump.deallocate(block, layout(size, align)) }
}

#[test]
fn blocks_follow_each_other() {
    let bump = bump(1000);
    let first = block(&bump, 10, 1);
    let second = block(&bump, 10, 1);
    assert_eq!(second.addr().get(), first.addr().get() + 10);
    assert_eq!((bump.used(), bump.available()), (20, Some(980)));
}

#[test]
fn alignments_beyond_a_page_are_served() {
    let bump = bump(1 << 20);
    for shift in 0..=16 {
        block(&bump, 1, 1);
        let aligned = block(&bump, 3, 1 << shift);
        assert_eq!(aligned.addr().get() % (1 << shift), 0);
    }
}

#[test]
fn an_alignment_beyond_the_region_is_refused() {
    let bump = bump(4096);
    // An aligned address inside the region would be a coincidence at this alignment.
    let error = bump.try_allocate(layout(64, 1 << (usize::BITS - 2))).unwrap_err();
    assert_eq!(error.code(), "capacity_exceeded");
    assert_eq!(bump.used(), 0);
}

#[test]
fn freeing_the_last_block_undoes_it() {
    let bump = bump(1000);
    let first = block(&bump, 100, 4);
    let second = block(&bump, 100, 4);
    free(&bump, second, 100, 4);
    assert_eq!(bump.used(), 100);
    let again = block(&bump, 50, 4);
    assert_eq!(again, second);
    free(&bump, again, 50, 4);
    free(&bump, first, 100, 4);
    assert_eq!(bump.used(), 0);
}

#[test]
fn freeing_another_block_changes_nothing() {
    let bump = bump(1000);
    let first = block(&bump, 100, 4);
    let second = block(&bump, 100, 4);
    free(&bump, first, 100, 4);
    assert_eq!(bump.used(), 200);
    free(&bump, second, 100, 4);
    // The first is behind the cursor now and stays there: it has been freed already.
    assert_eq!(bump.used(), 100);
}

#[test]
fn padding_before_a_block_is_not_undone() {
    let bump = bump(1000);
    let first = block(&bump, 1, 1);
    let second = block(&bump, 64, 16);
    assert_eq!(bump.used(), 80);
    free(&bump, second, 64, 16);
    assert_eq!(bump.used(), 16);
    free(&bump, first, 1, 1);
    assert_eq!(bump.used(), 16);
}

#[test]
fn the_last_block_grows_and_shrinks_in_place() {
    let bump = bump(1000);
    let first = block(&bump, 100, 8);
    // SAFETY: the block is live, of this layout, and the new size is larger.
    let grown = unsafe { bump.grow(first, layout(100, 8), layout(1000, 8)) }.unwrap();
    assert_eq!((grown.cast(), grown.len(), bump.used()), (first, 1000, 1000));
    // SAFETY: the block is live, of this layout, and the new size is smaller.
    let shrunk = unsafe { bump.shrink(first, layout(1000, 8), layout(10, 8)) }.unwrap();
    assert_eq!((shrunk.cast(), shrunk.len(), bump.used()), (first, 10, 10));
    // SAFETY: as above.
    let nothing = unsafe { bump.shrink(first, layout(10, 8), layout(0, 8)) }.unwrap();
    assert_eq!((nothing.len(), bump.used()), (0, 0));
}

#[test]
fn the_last_block_moves_within_the_region_to_a_larger_alignment() {
    let bump = bump(8 << 10);
    // Misaligned by one.
    block(&bump, 1, 1);
    let odd = block(&bump, 100, 1);
    for i in 0..100_u8 {
        // SAFETY: the block is 100 bytes long.
        let byte = unsafe { odd.add(usize::from(i)) };
        // SAFETY: the byte is ours.
        unsafe { byte.write(i) };
    }
    // SAFETY: the block is live, of this layout, and the new size is not smaller.
    let moved = unsafe { bump.grow(odd, layout(100, 1), layout(100, 64)) }.unwrap();
    assert_eq!(moved.cast::<u8>().addr().get() % 64, 0);
    // Old and new place overlap, and no second copy was made.
    assert!(bump.used() <= 1 + 63 + 100);
    // SAFETY: 100 bytes were written before the block moved, and nobody writes to them now.
    let bytes = unsafe { std::slice::from_raw_parts(moved.cast::<u8>().as_ptr(), 100) };
    assert!(bytes.iter().copied().eq(0..100));

    // Shrinking may ask for a larger alignment, too.
    // SAFETY: the block is live, of this layout, and the new size is smaller.
    let moved = unsafe { bump.shrink(moved.cast(), layout(100, 64), layout(50, 1024)) }.unwrap();
    assert_eq!(moved.cast::<u8>().addr().get() % 1024, 0);
    // SAFETY: 50 of the bytes written above are kept.
    let bytes = unsafe { std::slice::from_raw_parts(moved.cast::<u8>().as_ptr(), 50) };
    assert!(bytes.iter().copied().eq(0..50));
}

#[test]
fn a_block_in_the_middle_shrinks_in_place_and_grows_elsewhere() {
    let bump = bump(1000);
    let first = block(&bump, 100, 4);
    let last = block(&bump, 8, 4);
    // SAFETY: the block is live, of this layout, and the new size is smaller.
    let shrunk = unsafe { bump.shrink(first, layout(100, 4), layout(10, 4)) }.unwrap();
    assert_eq!((shrunk.cast(), shrunk.len(), bump.used()), (first, 10, 108));
    // SAFETY: the block is live, of this layout, and the new size is larger.
    let grown = unsafe { bump.grow(first, layout(10, 4), layout(16, 4)) }.unwrap();
    assert_eq!(grown.cast::<u8>().addr().get(), last.addr().get() + 8);
    assert_eq!(bump.used(), 124);
}

#[test]
fn a_growth_that_does_not_fit_changes_nothing() {
    let bump = bump(100);
    let only = block(&bump, 60, 1);
    // SAFETY: the block is live, of this layout, and the new size is larger.
    assert!(unsafe { bump.grow(only, layout(60, 1), layout(101, 1)) }.is_err());
    assert_eq!(bump.used(), 60);
    // SAFETY: a failed growth leaves the block as it was.
    assert!(unsafe { bump.grow_zeroed(only, layout(60, 1), layout(100, 1)) }.is_ok());
    assert_eq!(bump.used(), 100);
}

#[test]
fn zero_size_blocks_cost_nothing() {
    let bump = bump(64);
    let full = block(&bump, 64, 1);
    for align in [1, 8, 4096, 1 << (usize::BITS - 2)] {
        let empty = block(&bump, 0, align);
        assert_eq!(empty.addr().get() % align, 0);
        free(&bump, empty, 0, align);
    }
    assert_eq!(bump.used(), 64);
    free(&bump, full, 64, 1);
    block(&bump, 0, 4096);
    assert_eq!(bump.used(), 0);
}

#[test]
fn a_refusal_says_what_was_left_at_that_alignment() {
    let bump = bump(100);
    block(&bump, 50, 1);
    match bump.try_allocate(layout(51, 1)) {
        Err(MemoryError::CapacityExceeded { requested: 51, available: 50, align: Align::ONE }) => {}
        other => panic!("{other:?}"),
    }
    // Fourteen bytes of padding leave thirty-six.
    match bump.try_allocate(layout(40, 16)) {
        Err(MemoryError::CapacityExceeded { requested: 40, available: 36, align }) => {
            assert_eq!(align.get(), 16);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(bump.used(), 50);
    block(&bump, 36, 16);
    assert_eq!(bump.available(), Some(0));
}

#[test]
fn the_largest_layouts_are_refused() {
    let bump = bump(100);
    for shift in 0..20 {
        let align = 1 << shift;
        let huge = layout(isize::MAX as usize - (align - 1), align);
        match bump.try_allocate(huge) {
            Err(MemoryError::CapacityExceeded { requested, .. }) => {
                assert_eq!(requested, huge.size());
            }
            other => panic!("{other:?}"),
        }
        assert!(bump.allocate(huge).is_err());
        assert!(bump.allocate_zeroed(huge).is_err());
    }
    assert_eq!(bump.used(), 0);
}

#[test]
fn reset_takes_everything_back_and_keeps_the_region() {
    let base = CountingAllocator::new();
    let mut bump = BumpAllocator::try_new_in(1 << 12, &base).unwrap();
    let first = block(&bump, 4096, 1);
    assert!(bump.try_allocate(layout(1, 1)).is_err());
    for _ in 0..10 {
        bump.reset();
        assert_eq!((bump.used(), bump.available()), (0, Some(4096)));
        assert_eq!(block(&bump, 4096, 1), first);
        assert_eq!(base.allocations(), 1);
    }
    drop(bump);
    base.assert_clean();
}

#[test]
fn a_region_needs_a_size() {
    match BumpAllocator::try_new(0) {
        Err(MemoryError::InvalidConfig(faults)) => {
            assert_eq!(faults.as_slice()[0].path, "capacity");
        }
        other => panic!("{other:?}"),
    }
    let huge = BumpAllocator::try_new(usize::MAX).unwrap_err();
    assert_eq!(huge.code(), "invalid_layout");
}

#[test]
fn a_region_beyond_all_memory_is_refused_by_the_system() {
    let large = BumpAllocator::try_new(isize::MAX as usize / 2);
    // Looked at, or the optimiser drops the call and takes it to have succeeded.
    assert_eq!(black_box(large).unwrap_err().code(), "out_of_memory");
}

#[test]
fn it_can_be_sent_with_what_lives_in_it() {
    let mut numbers = Vec::new_in(BumpAllocator::try_new(4096).unwrap());
    numbers.extend(0..100_u64);
    let numbers = std::thread::spawn(move || {
        numbers.extend(100..200);
        numbers
    });
    let numbers = numbers.join().unwrap();
    assert!(numbers.iter().copied().eq(0..200));
    assert_eq!(numbers.allocator().used(), numbers.capacity() * 8);
}

#[test]
fn the_base_can_be_seen() {
    let bump = BumpAllocator::try_new_in(64, CountingAllocator::new()).unwrap();
    assert_eq!(bump.base().live_bytes(), 64);
    let debug = format!("{bump:?}");
    assert!(debug.contains("used: 0") && debug.contains("capacity: 64"), "{debug}");
}

#[test]
fn values_are_dropped_by_their_boxes_and_not_by_the_region() {
    let counter = nebula_testing::DropCounter::new();
    let mut bump = BumpAllocator::try_new_in(4096, Global).unwrap();
    drop(bump.try_new(counter.probe(1)).unwrap());
    assert_eq!(counter.drops(), 1);
    std::mem::forget(bump.try_new(counter.probe(2)).unwrap());
    bump.reset();
    drop(bump);
    assert_eq!((counter.drops(), counter.live()), (1, 1));
}
