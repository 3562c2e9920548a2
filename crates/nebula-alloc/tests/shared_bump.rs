//! The bump allocator for many threads: under load, every byte is one thread's, and none is lost.

use std::{
    alloc::Layout,
    ptr::NonNull,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use nebula_alloc::{BumpAllocator, Shared};
use nebula_memory_core::{
    Allocator, Global, MemoryUsage, Resettable, allocator_api2::alloc::Allocator as _,
};
use nebula_testing::Rng;

const THREADS: usize = if cfg!(miri) { 2 } else { 4 };
const ROUNDS: usize = if cfg!(miri) { 2 } else { 20 };

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// Runs `body` on all threads at once.
fn together(body: impl Fn(usize) + Sync) {
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for id in 0..THREADS {
            let (body, barrier) = (&body, &barrier);
            scope.spawn(move || {
                barrier.wait();
                body(id);
            });
        }
    });
}

fn fill(block: NonNull<u8>, size: usize, value: u8) {
    // SAFETY: the block is the caller's, and this long.
    unsafe { block.write_bytes(value, size) };
}

fn holds(block: NonNull<u8>, size: usize, value: u8) -> bool {
    // SAFETY: the block is the caller's, this long, and was filled.
    let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), size) };
    bytes.iter().all(|byte| *byte == value)
}

#[test]
fn the_whole_region_is_handed_out_once() {
    const SIZE: usize = 24;
    let blocks = if cfg!(miri) { 40 } else { 4000 };
    let mut bump = BumpAllocator::try_shared(blocks * SIZE).unwrap();
    for _ in 0..ROUNDS {
        let served = AtomicUsize::new(0);
        together(|id| {
            let value = u8::try_from(id).unwrap();
            let mut mine = Vec::new();
            while let Ok(block) = bump.try_allocate(layout(SIZE, 8)) {
                fill(block.cast(), SIZE, value);
                mine.push(block.cast());
            }
            assert!(mine.iter().all(|block| holds(*block, SIZE, value)));
            served.fetch_add(mine.len(), SeqCst);
        });
        assert_eq!((served.into_inner(), bump.available()), (blocks, Some(0)));
        bump.reset();
    }
}

#[test]
fn refusals_take_nothing_from_what_fits() {
    let words = if cfg!(miri) { 50 } else { 2000 };
    let mut bump = BumpAllocator::try_shared(words * 8).unwrap();
    for _ in 0..ROUNDS {
        let served = AtomicUsize::new(0);
        together(|id| {
            for _ in 0..words {
                if id == 0 {
                    assert!(bump.try_allocate(layout(words * 8 + 1, 1)).is_err());
                } else if bump.try_allocate(layout(8, 8)).is_ok() {
                    served.fetch_add(1, SeqCst);
                }
            }
        });
        assert_eq!(served.into_inner(), words);
        bump.reset();
    }
}

/// A block and what it is filled with.
type Filled = (NonNull<u8>, Layout, u8);

fn step(bump: &BumpAllocator<Global, Shared>, blocks: &mut Vec<Filled>, rng: &mut Rng) {
    let value = u8::try_from(rng.below(256)).unwrap();
    match rng.below(4) {
        0 => {
            let layout = layout(1 + rng.below(60), 1 << rng.below(6));
            if let Ok(block) = bump.try_allocate(layout) {
                fill(block.cast(), layout.size(), value);
                blocks.push((block.cast(), layout, value));
            }
        }
        _ if blocks.is_empty() => {}
        // The latest one: the last block, unless another thread was faster.
        1 => {
            let (block, layout, value) = blocks.pop().unwrap();
            assert!(holds(block, layout.size(), value));
            // SAFETY: the block is live, of this layout, and forgotten.
            unsafe { bump.deallocate(block, layout) };
        }
        2 => {
            let (block, old, value) = blocks.pop().unwrap();
            let new = layout(old.size() + rng.below(40), 1 << rng.below(6));
            // SAFETY: the block is live, of this layout, and the new size is not smaller.
            let (block, size) = match unsafe { bump.grow(block, old, new) } {
                Ok(grown) => {
                    assert!(holds(grown.cast(), old.size(), value));
                    fill(grown.cast(), new.size(), value);
                    (grown.cast(), new)
                }
                Err(_) => (block, old),
            };
            blocks.push((block, size, value));
        }
        _ => {
            let (block, old, value) = blocks.pop().unwrap();
            let new = layout(1 + rng.below(old.size()), 1 << rng.below(6));
            // SAFETY: the block is live, of this layout, and the new size is not larger.
            let (block, size) = match unsafe { bump.shrink(block, old, new) } {
                Ok(shrunk) => (shrunk.cast(), new),
                Err(_) => (block, old),
            };
            assert!(holds(block, size.size(), value));
            blocks.push((block, size, value));
        }
    }
}

#[test]
fn random_operations_on_the_last_blocks_corrupt_nothing() {
    let mut bump = BumpAllocator::try_shared(if cfg!(miri) { 2 << 10 } else { 64 << 10 }).unwrap();
    for round in 0..ROUNDS {
        together(|id| {
            let mut rng = Rng::new((round * THREADS + id) as u64);
            let mut blocks = Vec::new();
            for _ in 0..if cfg!(miri) { 60 } else { 3000 } {
                step(&bump, &mut blocks, &mut rng);
            }
            for (block, layout, value) in blocks {
                assert!(holds(block, layout.size(), value));
            }
        });
        assert!(bump.used() <= bump.capacity().unwrap());
        bump.reset();
    }
}

#[test]
fn pairs_on_every_thread_leave_nothing_behind_when_alone() {
    let bump = BumpAllocator::try_shared(1 << 20).unwrap();
    for _ in 0..100 {
        let block = bump.allocate(layout(64, 8)).unwrap();
        // SAFETY: the block is live, of this layout, and not used again.
        unsafe { bump.deallocate(block.cast(), layout(64, 8)) };
    }
    assert_eq!(bump.used(), 0);
}

#[test]
fn scopes_and_blocks_share_the_region() {
    let bump = BumpAllocator::try_shared(1 << 12).unwrap();
    together(|id| {
        let value = u8::try_from(id).unwrap();
        for _ in 0..if cfg!(miri) { 10 } else { 2000 } {
            let scope = bump.scope();
            if let Ok(block) = scope.try_allocate(layout(40, 8)) {
                fill(block.cast(), 40, value);
                thread::yield_now();
                assert!(holds(block.cast(), 40, value));
            }
        }
    });
    assert_eq!(bump.used(), 0);
}
