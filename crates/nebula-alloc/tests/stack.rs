//! The stack allocator: what comes back when, and who gets which address.

use std::{alloc::Layout, ptr::NonNull};

use nebula_alloc::{StackAllocator, StackFrame};
use nebula_memory_core::{
    Align, Allocator, Global, MemoryError, MemoryUsage, Resettable, TypedAllocator,
    allocator_api2::{alloc::Allocator as _, vec::Vec},
};
use nebula_testing::{CountingAllocator, DropCounter, FailingAllocator};

fn stack(capacity: usize) -> StackAllocator {
    StackAllocator::try_new(capacity).unwrap()
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn block(stack: &impl Allocator, size: usize, align: usize) -> NonNull<u8> {
    stack.try_allocate(layout(size, align)).unwrap().cast()
}

/// Frees a block made by [`block`].
fn free(stack: &impl Allocator, block: NonNull<u8>, size: usize, align: usize) {
    // SAFETY: every test frees a live block with the size and alignment it was made with, once.
    unsafe { stack.deallocate(block, layout(size, align)) }
}

/// Frees a block made by [`block`] if it is at the top.
fn try_free(stack: &StackAllocator, block: NonNull<u8>, size: usize) -> Result<(), MemoryError> {
    // SAFETY: as in `free`.
    unsafe { stack.try_free(block, layout(size, 8)) }
}

fn write(block: NonNull<u8>, bytes: &[u8]) {
    // SAFETY: the callers' blocks are live and at least this long.
    unsafe { block.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
}

fn read(block: NonNull<u8>, len: usize) -> std::vec::Vec<u8> {
    // SAFETY: the callers' blocks are live, at least this long, and written before.
    unsafe { std::slice::from_raw_parts(block.as_ptr(), len) }.to_vec()
}

#[test]
fn blocks_take_whole_grains() {
    let stack = stack(1000);
    assert_eq!(stack.capacity(), Some(1008));
    let first = block(&stack, 10, 1);
    let second = block(&stack, 17, 16);
    assert_eq!(second.addr().get(), first.addr().get() + 16);
    assert_eq!((stack.used(), stack.available()), (48, Some(960)));
}

#[test]
fn freeing_the_top_gives_back_its_padding() {
    let stack = stack(64 << 10);
    block(&stack, 1, 1);
    for shift in 0..=13 {
        let aligned = block(&stack, 3, 1 << shift);
        assert_eq!(aligned.addr().get() % (1 << shift), 0);
        assert!(stack.used() <= 16 + 16 + (1 << shift));
        free(&stack, aligned, 3, 1 << shift);
        assert_eq!(stack.used(), 16);
    }
    assert_eq!(stack.out_of_order(), 0);
}

#[test]
fn what_is_freed_out_of_order_comes_back_when_nothing_is_above() {
    let sizes = [32, 16, 48, 100, 1];
    // Every order of five.
    let mut order = [0, 1, 2, 3, 4];
    let mut orders = 0;
    permute(&mut order, 0, &mut |order| {
        orders += 1;
        let stack = stack(1024);
        block(&stack, 16, 8);
        let blocks = sizes.map(|size| block(&stack, size, 8));
        let mut live = [true; 5];
        for &which in order {
            free(&stack, blocks[which], sizes[which], 8);
            live[which] = false;
            let top = live.iter().rposition(|live| *live).map_or(0, |top| top + 1);
            let expected = sizes[..top].iter().map(|size| size.next_multiple_of(16)).sum::<usize>();
            assert_eq!(stack.used(), 16 + expected, "{order:?}, {which}");
        }
    });
    assert_eq!(orders, 120);
}

fn permute(items: &mut [usize; 5], from: usize, body: &mut impl FnMut(&[usize; 5])) {
    if from == items.len() {
        return body(items);
    }
    for i in from..items.len() {
        items.swap(from, i);
        permute(items, from + 1, body);
        items.swap(from, i);
    }
}

#[test]
fn frees_out_of_order_are_counted() {
    let stack = stack(1024);
    let blocks = [(); 4].map(|()| block(&stack, 32, 8));
    free(&stack, blocks[3], 32, 8);
    assert_eq!(stack.out_of_order(), 0);
    free(&stack, blocks[0], 32, 8);
    free(&stack, blocks[1], 32, 8);
    assert_eq!((stack.out_of_order(), stack.used()), (2, 96));
    free(&stack, blocks[2], 32, 8);
    assert_eq!((stack.out_of_order(), stack.used()), (2, 0));
}

#[test]
fn a_block_moved_from_below_the_top_is_counted_and_comes_back() {
    let stack = stack(1024);
    let first = block(&stack, 32, 8);
    let second = block(&stack, 32, 8);
    write(first, b"nebula");
    // SAFETY: the block is live, of this layout, and the new size is larger.
    let moved = unsafe { stack.grow(first, layout(32, 8), layout(64, 8)) }.unwrap();
    assert_eq!(moved.cast::<u8>().addr().get(), second.addr().get() + 32);
    assert_eq!(read(moved.cast(), 6), b"nebula");
    assert_eq!((stack.used(), stack.out_of_order()), (128, 1));
    free(&stack, moved.cast(), 64, 8);
    assert_eq!(stack.used(), 64);
    free(&stack, second, 32, 8);
    assert_eq!(stack.used(), 0);
}

#[test]
fn trying_to_free_below_the_top_tells_the_distance_and_frees_nothing() {
    let stack = stack(1024);
    let blocks = [(); 3].map(|()| block(&stack, 30, 8));
    for _ in 0..2 {
        match try_free(&stack, blocks[0], 30) {
            Err(MemoryError::NotTopOfStack { distance: 64 }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((stack.used(), stack.out_of_order()), (96, 0));
    for block in blocks.into_iter().rev() {
        try_free(&stack, block, 30).unwrap();
    }
    assert_eq!(stack.used(), 0);
    // Nothing to free, nothing to refuse.
    try_free(&stack, NonNull::dangling(), 0).unwrap();
}

#[test]
fn the_top_grows_and_shrinks_in_place() {
    let stack = stack(1008);
    let first = block(&stack, 100, 8);
    // SAFETY: the block is live, of this layout, and the new size is larger.
    let grown = unsafe { stack.grow(first, layout(100, 8), layout(1008, 8)) }.unwrap();
    assert_eq!((grown.cast(), grown.len(), stack.used()), (first, 1008, 1008));
    // SAFETY: the block is live, of this layout, and the new size is larger.
    assert!(unsafe { stack.grow(first, layout(1008, 8), layout(1009, 8)) }.is_err());
    // SAFETY: the block is live, of this layout, and the new size is smaller.
    let shrunk = unsafe { stack.shrink(first, layout(1008, 8), layout(10, 8)) }.unwrap();
    assert_eq!((shrunk.cast(), shrunk.len(), stack.used()), (first, 10, 16));
    // SAFETY: as above.
    let nothing = unsafe { stack.shrink(first, layout(10, 8), layout(0, 8)) }.unwrap();
    assert_eq!((nothing.len(), stack.used()), (0, 0));
    assert_eq!(stack.out_of_order(), 0);
}

#[test]
fn a_covered_block_grows_in_place_within_its_grains() {
    let stack = stack(256);
    let first = block(&stack, 17, 8);
    block(&stack, 1, 1);
    // SAFETY: the block is live, of this layout, and the new size is larger.
    let grown = unsafe { stack.grow(first, layout(17, 8), layout(32, 16)) }.unwrap();
    assert_eq!((grown.cast(), grown.len(), stack.used()), (first, 32, 48));
}

#[test]
fn a_covered_block_shrinks_in_place_and_its_end_comes_back() {
    let stack = stack(256);
    let first = block(&stack, 64, 8);
    let second = block(&stack, 16, 8);
    // SAFETY: the block is live, of this layout, and the new size is smaller.
    let shrunk = unsafe { stack.shrink(first, layout(64, 8), layout(20, 8)) }.unwrap();
    assert_eq!((shrunk.cast(), stack.used(), stack.out_of_order()), (first, 80, 0));
    free(&stack, second, 16, 8);
    assert_eq!(stack.used(), 32);
    free(&stack, first, 20, 8);
    assert_eq!(stack.used(), 0);
}

#[test]
fn the_top_moves_within_the_region_to_another_alignment_and_back() {
    let stack = stack(16 << 10);
    block(&stack, 16, 1);
    let bytes: std::vec::Vec<u8> = (0..100).collect();
    let odd = block(&stack, 100, 1);
    write(odd, &bytes);
    // SAFETY: the block is live, of this layout, and the new size is not smaller.
    let moved = unsafe { stack.grow(odd, layout(100, 1), layout(200, 1024)) }.unwrap();
    assert_eq!(moved.cast::<u8>().addr().get() % 1024, 0);
    assert_eq!(read(moved.cast(), 100), bytes);
    assert!(stack.used() <= 16 + 1024 + 208);
    // SAFETY: the block is live, of this layout, and the new size is smaller.
    let back = unsafe { stack.shrink(moved.cast(), layout(200, 1024), layout(50, 4)) }.unwrap();
    assert_eq!((back.cast(), stack.used()), (odd, 80));
    assert_eq!(read(odd, 50), bytes[..50]);
    free(&stack, odd, 50, 4);
    assert_eq!((stack.used(), stack.out_of_order()), (16, 0));
}

#[test]
fn zero_size_blocks_cost_nothing() {
    let stack = stack(64);
    let full = block(&stack, 64, 1);
    for align in [1, 8, 4096, 1 << (usize::BITS - 2)] {
        let empty = block(&stack, 0, align);
        assert_eq!(empty.addr().get() % align, 0);
        free(&stack, empty, 0, align);
    }
    assert_eq!((stack.used(), stack.out_of_order()), (64, 0));
    free(&stack, full, 64, 1);
    assert_eq!(stack.used(), 0);
}

#[test]
fn a_refusal_says_what_was_left_at_that_alignment() {
    let stack = stack(96);
    block(&stack, 40, 1);
    match stack.try_allocate(layout(49, 1)) {
        Err(MemoryError::CapacityExceeded { requested: 49, available: 48, align: Align::ONE }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(stack.used(), 48);
    block(&stack, 48, 1);
    assert_eq!(stack.available(), Some(0));
}

#[test]
fn the_largest_layouts_are_refused() {
    let stack = stack(128);
    for shift in 0..20 {
        let align = 1 << shift;
        let huge = layout(isize::MAX as usize - (align - 1), align);
        assert_eq!(stack.try_allocate(huge).unwrap_err().code(), "capacity_exceeded");
        assert!(stack.allocate_zeroed(huge).is_err());
    }
    assert_eq!(stack.used(), 0);
}

#[test]
fn frames_take_everything_back() {
    let stack = stack(4096);
    let kept = block(&stack, 64, 8);
    {
        let outer = stack.frame();
        assert_eq!((outer.used(), outer.capacity()), (0, Some(4096 - 64)));
        block(&outer, 100, 64);
        {
            let inner = outer.frame();
            assert_eq!(outer.available(), Some(0));
            block(&inner, 10, 8);
            assert_eq!(inner.used(), 16);
        }
        let used = outer.used();
        assert!((100..256).contains(&used));
        block(&outer, 16, 8);
        assert_eq!(outer.used(), used + 16);
    }
    assert_eq!((stack.used(), stack.out_of_order()), (64, 0));
    free(&stack, kept, 64, 8);
    assert_eq!(stack.used(), 0);
}

#[test]
fn below_an_open_frame_blocks_live_on_and_none_are_made() {
    let stack = stack(4096);
    let mut numbers = Vec::with_capacity_in(4, &stack);
    let gone = block(&stack, 64, 8);
    let frame = stack.frame();
    numbers.extend([1_u64, 2, 3, 4]);
    assert_eq!(stack.available(), Some(0));
    assert!(numbers.try_reserve(1).is_err());
    assert_eq!(stack.try_allocate(layout(1, 1)).unwrap_err().code(), "capacity_exceeded");
    // Freed under the frame, it comes back with the frame.
    free(&stack, gone, 64, 8);
    assert_eq!((stack.used(), stack.out_of_order()), (4096, 1));
    let scratch = frame.try_new([9_u8; 100]).unwrap();
    assert_eq!(*scratch, [9; 100]);
    drop(scratch);
    drop(frame);
    assert_eq!(stack.used(), 32);
    numbers.push(5);
    assert_eq!(&*numbers, [1, 2, 3, 4, 5]);
}

#[test]
fn frames_may_end_in_any_order() {
    let stack = stack(1024);
    let below = block(&stack, 32, 8);
    let first = stack.frame();
    let second = stack.frame();
    assert_eq!((second.capacity(), stack.used()), (Some(0), 1024));
    assert!(second.try_allocate(layout(1, 1)).is_err());
    block(&first, 100, 8);
    drop(first);
    assert_eq!(stack.used(), 32);
    // The second frame has nothing, and what the first one had is not its.
    block(&stack, 500, 8);
    drop(second);
    assert_eq!(stack.used(), 32 + 512);
    free(&stack, below, 32, 8);
}

#[test]
fn a_leaked_frame_keeps_its_bytes_until_the_stack_is_reset() {
    let mut stack = stack(1024);
    let frame = stack.frame();
    block(&frame, 10, 8);
    std::mem::forget(frame);
    assert_eq!(stack.available(), Some(0));
    stack.reset();
    assert_eq!(stack.available(), Some(1024));
}

#[test]
fn frees_out_of_order_in_a_frame_are_counted_below_when_it_ends() {
    let stack = stack(1024);
    let frame = stack.frame();
    let (first, _second) = (block(&frame, 10, 8), block(&frame, 10, 8));
    free(&frame, first, 10, 8);
    assert_eq!((frame.out_of_order(), stack.out_of_order()), (1, 0));
    drop(frame);
    assert_eq!((stack.out_of_order(), stack.used()), (1, 0));
}

#[test]
fn a_panic_in_a_frame_ends_it() {
    let stack = stack(1024);
    let counter = DropCounter::new();
    let panic = nebula_testing::catch(|| {
        let frame = stack.frame();
        let _probe = frame.try_new(counter.probe(1)).unwrap();
        nebula_testing::PanicOn::nth(0).tick();
    });
    assert_eq!(panic, Err("injected".to_owned()));
    assert_eq!((stack.used(), stack.out_of_order()), (0, 0));
    counter.assert_all_dropped();
}

#[test]
fn releasing_to_a_marker_takes_back_what_came_after() {
    let mut stack = stack(4096);
    block(&stack, 100, 8);
    let marker = stack.marker();
    for _ in 0..3 {
        block(&stack, 100, 256);
        let covered = block(&stack, 64, 8);
        block(&stack, 64, 8);
        free(&stack, covered, 64, 8);
        stack.release_to(marker).unwrap();
        assert_eq!((stack.used(), stack.marker()), (112, marker));
    }
}

#[test]
fn releasing_to_a_marker_gives_back_what_is_free_below_it() {
    let mut stack = stack(4096);
    let [_kept, below, touching] = [(); 3].map(|()| block(&stack, 32, 8));
    let marker = stack.marker();
    let above = block(&stack, 32, 8);
    block(&stack, 32, 8);
    // A run across the marker.
    free(&stack, touching, 32, 8);
    free(&stack, above, 32, 8);
    free(&stack, below, 32, 8);
    stack.release_to(marker).unwrap();
    assert_eq!(stack.used(), 32);
    match stack.release_to(marker) {
        Err(MemoryError::NotTopOfStack { distance: 64 }) => {}
        other => panic!("{other:?}"),
    }

    // A run that ends at the marker.
    let touching = block(&stack, 32, 8);
    let marker = stack.marker();
    block(&stack, 32, 8);
    free(&stack, touching, 32, 8);
    stack.release_to(marker).unwrap();
    assert_eq!(stack.used(), 32);
}

#[test]
fn a_marker_of_another_stack_is_refused() {
    let (mut one, other) = (stack(1024), stack(1024));
    block(&one, 10, 8);
    block(&other, 10, 8);
    let error = one.release_to(other.marker()).unwrap_err();
    assert_eq!(error.code(), "not_top_of_stack");
    assert_eq!(one.used(), 16);
}

#[test]
fn frames_have_markers_and_resets_of_their_own() {
    fn fill(frame: &mut StackFrame<'_>) {
        block(frame, 100, 8);
        let marker = frame.marker();
        block(frame, 100, 8);
        frame.release_to(marker).unwrap();
        assert_eq!(frame.used(), 112);
        frame.reset();
        assert_eq!(frame.used(), 0);
    }
    let stack = stack(1024);
    block(&stack, 10, 8);
    let mut frame = stack.frame();
    fill(&mut frame);
    drop(frame);
    assert_eq!(stack.used(), 16);
}

#[test]
fn reset_takes_everything_back_and_keeps_the_region() {
    let base = CountingAllocator::new();
    let mut stack = StackAllocator::try_new_in(1 << 12, &base).unwrap();
    for _ in 0..10 {
        let first = block(&stack, 2048, 1);
        block(&stack, 2048, 1);
        free(&stack, first, 2048, 1);
        assert!(stack.try_allocate(layout(1, 1)).is_err());
        stack.reset();
        assert_eq!((stack.used(), stack.available()), (0, Some(4096)));
        assert_eq!(base.allocations(), 1);
    }
    drop(stack);
    base.assert_clean();
}

#[test]
fn a_region_needs_a_size() {
    match StackAllocator::try_new(0) {
        Err(MemoryError::InvalidConfig(faults)) => {
            assert_eq!(faults.as_slice()[0].path, "capacity");
        }
        other => panic!("{other:?}"),
    }
    for huge in [usize::MAX, isize::MAX as usize, isize::MAX as usize - 14] {
        assert_eq!(StackAllocator::try_new(huge).unwrap_err().code(), "invalid_layout");
    }
}

#[test]
fn a_base_that_refuses_is_passed_on() {
    let base = FailingAllocator::new(CountingAllocator::new());
    base.fail_at(0);
    let error = StackAllocator::try_new_in(100, &base).unwrap_err();
    assert_eq!(error.code(), "out_of_memory");
    let stack = StackAllocator::try_new_in(100, &base).unwrap();
    assert_eq!(stack.base().get_ref().live_bytes(), 112);
    drop(stack);
    base.get_ref().assert_clean();
}

#[test]
fn it_can_be_sent_with_what_lives_in_it() {
    let mut numbers = Vec::new_in(StackAllocator::try_new(4096).unwrap());
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
fn it_says_what_it_is() {
    let stack = StackAllocator::try_new_in(64, Global).unwrap();
    let debug = format!("{stack:?} {:?}", stack.frame());
    // The open frame has all of it.
    assert!(debug.contains("StackAllocator { used: 64, capacity: 64"), "{debug}");
    assert!(debug.contains("StackFrame { used: 0, capacity: 64"), "{debug}");
}

#[test]
fn many_frees_in_random_order_leave_nothing_behind() {
    let mut rng = nebula_testing::Rng::new(7);
    let stack = stack(1 << 20);
    let rounds = if cfg!(miri) { 1 } else { 20 };
    for _ in 0..rounds {
        let mut blocks: std::vec::Vec<_> = (0..200)
            .map(|_| {
                let (size, align) = (1 + rng.below(200), 1 << rng.below(8));
                (block(&stack, size, align), size, align)
            })
            .collect();
        while !blocks.is_empty() {
            let (ptr, size, align) = blocks.swap_remove(rng.below(blocks.len()));
            free(&stack, ptr, size, align);
        }
        assert_eq!(stack.used(), 0);
    }
    assert!(stack.out_of_order() > rounds * 100);
}
