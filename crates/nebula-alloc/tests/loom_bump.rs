//! The shared bump allocator under the model checker:
//! `RUSTFLAGS="--cfg nebula_loom" cargo test --release -p nebula-alloc --test loom_bump`
#![cfg(nebula_loom)]

use std::{alloc::Layout, ptr::NonNull, sync::Arc};

use loom::{cell::UnsafeCell, model::Builder, thread};
use nebula_alloc::{BumpAllocator, Shared};
use nebula_memory_core::{
    Allocator, Global, MemoryUsage, Resettable, allocator_api2::alloc::Allocator as _,
};

const WORD: usize = 8;

fn layout(words: usize) -> Layout {
    Layout::from_size_align(words * WORD, WORD).unwrap()
}

/// A region, and a cell for each of its words: the model checker does not see the region's bytes,
/// but it sees two threads in one cell, or one after the other without synchronisation.
struct Region {
    bump: BumpAllocator<Global, Shared>,
    start: usize,
    words: Vec<UnsafeCell<usize>>,
}

// SAFETY: cells are used by whoever has the block around them; that this is one thread at a time
// is what is tested, and loom reports it if not.
unsafe impl Sync for Region {}
// SAFETY: as above.
unsafe impl Send for Region {}

impl Region {
    fn new(words: usize) -> Arc<Self> {
        let mut bump = BumpAllocator::try_shared(words * WORD).unwrap();
        let start = bump.allocate(layout(1)).unwrap().cast::<u8>().addr().get();
        bump.reset();
        let words = (0..words).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(Self { bump, start, words })
    }

    fn words(&self, block: NonNull<u8>, words: usize) -> &[UnsafeCell<usize>] {
        let first = (block.addr().get() - self.start) / WORD;
        &self.words[first..first + words]
    }

    /// Writes to every word of a block.
    fn write(&self, block: NonNull<u8>, words: usize, value: usize) {
        for word in self.words(block, words) {
            word.with_mut(|word| {
                // SAFETY: the block is this thread's; loom checks it.
                unsafe { word.write(value) }
            });
        }
    }

    fn check(&self, block: NonNull<u8>, words: usize, value: usize) {
        for word in self.words(block, words) {
            word.with(|word| {
                // SAFETY: as in `write`.
                assert_eq!(unsafe { word.read() }, value);
            });
        }
    }

    fn take(&self, words: usize, value: usize) -> Option<NonNull<u8>> {
        let block = self.bump.try_allocate(layout(words)).ok()?.cast();
        self.write(block, words, value);
        Some(block)
    }

    fn free(&self, block: NonNull<u8>, words: usize, value: usize) {
        self.check(block, words, value);
        // SAFETY: the block is live, of this layout, and not used again.
        unsafe { self.bump.deallocate(block, layout(words)) };
    }

    fn resize(&self, block: NonNull<u8>, old: usize, new: usize) -> Option<NonNull<u8>> {
        let block = if new >= old {
            // SAFETY: the block is live, of the old layout, and the new size is not smaller.
            unsafe { self.bump.grow(block, layout(old), layout(new)) }
        } else {
            // SAFETY: the block is live, of the old layout, and the new size is smaller.
            unsafe { self.bump.shrink(block, layout(old), layout(new)) }
        };
        block.ok().map(NonNull::cast)
    }

    fn used(&self) -> usize {
        self.bump.used() / WORD
    }
}

fn model(body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    if builder.preemption_bound.is_none() {
        builder.preemption_bound = Some(3);
    }
    builder.check(body);
}

/// Runs the bodies, each on a thread of its own.
fn together<const N: usize>(region: &Arc<Region>, bodies: [fn(&Region); N]) {
    let threads = bodies.map(|body| {
        let region = Arc::clone(region);
        thread::spawn(move || body(&region))
    });
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn blocks_that_are_taken_at_once_do_not_overlap() {
    model(|| {
        let region = Region::new(6);
        let body = |region: &Region| {
            let (first, second) = (region.take(1, 7).unwrap(), region.take(2, 8).unwrap());
            region.check(first, 1, 7);
            region.check(second, 2, 8);
        };
        together(&region, [body, body]);
        assert_eq!(region.used(), 6);
    });
}

#[test]
fn what_one_frees_another_may_take() {
    model(|| {
        let region = Region::new(2);
        let body = |region: &Region| {
            if let Some(block) = region.take(2, 1) {
                region.free(block, 2, 1);
            }
            if let Some(block) = region.take(1, 2) {
                region.check(block, 1, 2);
                region.free(block, 1, 2);
            }
        };
        together(&region, [body, body]);
    });
}

#[test]
fn a_request_that_does_not_fit_takes_nothing_from_one_that_does() {
    model(|| {
        let region = Region::new(2);
        together(
            &region,
            [
                |region| assert!(region.take(3, 1).is_none()),
                |region| {
                    region.take(1, 2).unwrap();
                    region.take(1, 3).unwrap();
                },
            ],
        );
        assert_eq!(region.used(), 2);
    });
}

#[test]
fn the_last_block_grows_while_others_take() {
    model(|| {
        let region = Region::new(4);
        together(
            &region,
            [
                |region| {
                    let block = region.take(1, 1).unwrap();
                    if let Some(grown) = region.resize(block, 1, 2) {
                        // Moved words are copied in the region, not in the cells.
                        region.write(grown, 2, 2);
                        region.check(grown, 2, 2);
                        region.free(grown, 2, 2);
                    } else {
                        region.check(block, 1, 1);
                    }
                },
                |region| {
                    if let Some(block) = region.take(2, 3) {
                        region.check(block, 2, 3);
                        region.free(block, 2, 3);
                    }
                },
            ],
        );
    });
}

#[test]
fn the_last_block_shrinks_while_others_take() {
    model(|| {
        let region = Region::new(3);
        together(
            &region,
            [
                |region| {
                    if let Some(block) = region.take(2, 1) {
                        let shrunk = region.resize(block, 2, 1).unwrap();
                        assert_eq!(shrunk, block);
                        region.free(shrunk, 1, 1);
                    }
                },
                |region| {
                    for value in [3, 4] {
                        if let Some(block) = region.take(1, value) {
                            region.check(block, 1, value);
                        }
                    }
                },
            ],
        );
    });
}

#[test]
fn a_scope_takes_the_rest_and_gives_it_back() {
    model(|| {
        let region = Region::new(3);
        together(
            &region,
            [
                |region| {
                    let scope = region.bump.scope();
                    if let Ok(block) = scope.try_allocate(layout(1)) {
                        region.write(block.cast(), 1, 1);
                        region.check(block.cast(), 1, 1);
                    }
                },
                |region| {
                    if let Some(block) = region.take(1, 2) {
                        region.check(block, 1, 2);
                    }
                },
            ],
        );
        assert!(region.used() <= 1);
        region.take(2, 5).unwrap();
    });
}
