//! The system's heap: what it holds.

use std::{alloc::Layout, hint::black_box, thread};

use nebula_alloc::SystemAllocator;
use nebula_memory_core::{
    Allocator, MemoryError, MemoryUsage, TypedAllocator,
    allocator_api2::{alloc::Allocator as _, vec::Vec},
};

#[test]
fn clones_share_what_they_hold() {
    let system = SystemAllocator::default();
    let clone = system.clone();
    let number = system.try_new(1_u64).unwrap();
    assert_eq!((clone.used(), clone.capacity(), clone.available()), (8, None, None));
    drop(number);
    assert_eq!(clone.used(), 0);
}

#[test]
fn handles_made_apart_hold_apart() {
    let (one, other) = (SystemAllocator::new(), SystemAllocator::new());
    let number = one.try_new(1_u64).unwrap();
    assert_eq!((one.used(), other.used()), (8, 0));
    drop(number);
}

#[test]
fn blocks_outlive_the_handle_they_came_from() {
    let system = SystemAllocator::new();
    let numbers = {
        let mut numbers = Vec::new_in(system.clone());
        drop(system);
        numbers.extend(0..10_u32);
        numbers
    };
    assert_eq!(numbers.allocator().used(), numbers.capacity() * 4);
}

#[test]
fn growing_and_shrinking_are_counted_to_the_byte() {
    let system = SystemAllocator::new();
    let layout = |size| Layout::from_size_align(size, 32).unwrap();
    let block = system.allocate_zeroed(layout(100)).unwrap();
    // SAFETY: the block is live, of this layout, and the new size is larger.
    let block = unsafe { system.grow(block.cast(), layout(100), layout(1000)) }.unwrap();
    assert_eq!(system.used(), 1000);
    // SAFETY: as above.
    let block = unsafe { system.grow_zeroed(block.cast(), layout(1000), layout(1001)) }.unwrap();
    assert_eq!(system.used(), 1001);
    // SAFETY: the block is live, of this layout, and the new size is smaller.
    let block = unsafe { system.shrink(block.cast(), layout(1001), layout(3)) }.unwrap();
    assert_eq!(system.used(), 3);
    // SAFETY: the block is live and of this layout.
    unsafe { system.deallocate(block.cast(), layout(3)) };
    assert_eq!(system.used(), 0);
}

#[test]
fn what_the_system_refuses_is_not_counted() {
    let system = SystemAllocator::new();
    let huge = Layout::from_size_align(isize::MAX as usize, 1).unwrap();
    match system.try_allocate(huge) {
        Err(MemoryError::OutOfMemory { requested, .. }) => assert_eq!(requested, huge.size()),
        other => panic!("{other:?}"),
    }
    let small = Layout::new::<u64>();
    let block = system.allocate(small).unwrap();
    let growth = Layout::from_size_align(huge.size() - 7, 8).unwrap();
    // SAFETY: the block is live, of this layout, and the new size is larger.
    let grown = unsafe { system.grow(block.cast(), small, growth) };
    // Looked at, or the optimiser drops the call and takes it to have succeeded.
    assert!(black_box(grown).is_err());
    assert_eq!(system.used(), 8);
    // SAFETY: a failed growth leaves the block as it was.
    unsafe { system.deallocate(block.cast(), small) };
    assert_eq!(system.used(), 0);
}

#[test]
fn threads_count_together() {
    let system = SystemAllocator::new();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for i in 0..500_usize {
                    let bytes = system.try_new_slice(i % 100, |_| 0_u8).unwrap();
                    assert!(system.used() >= bytes.len());
                }
            });
        }
    });
    assert_eq!(system.used(), 0);
}
